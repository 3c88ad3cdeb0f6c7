"""The kernel's byte counts against what was really sent and read, over the whole life of a connection."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from appliance.system import tcp_info
from appliance.system.sockets import unacknowledged_bytes


@pytest.fixture(params=["127.0.0.1", "::1"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The accepted end, and the peer's."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        listening = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening, socket.create_connection(listening.getsockname()[:2]) as far:
        near, _ = listening.accept()
        with near:
            yield near, far


def readable(sock: socket.socket) -> None:
    assert select.select([sock], [], [], 10)[0]


def test_counts_of_both_directions(ends: tuple[socket.socket, socket.socket]) -> None:
    """Read or not, written and acknowledged or not: exact after every step."""
    near, far = ends
    rng, sent, read, written = random.Random(1), 0, 0, 0
    for _ in range(200):
        size = rng.randint(1, 3000)
        far.sendall(bytes(size))
        sent += size
        readable(near)
        read += len(near.recv(rng.randint(1, 4000)))
        assert tcp_info.bytes_received(near) == sent
        assert tcp_info.unread_bytes(near) == sent - read
        assert tcp_info.consumed_bytes(near) == read
        written += near.send(bytes(rng.randint(1, 3000)))
        if rng.random() < 0.3:
            far.recv(1 << 20)
        acked = tcp_info.bytes_acked(near)
        assert acked + unacknowledged_bytes(near) >= written >= acked


@pytest.mark.parametrize("read_first", [0, 10, 100])
@pytest.mark.parametrize("ending", ["fin", "reset", "fin then reset", "ours", "ours then theirs"])
def test_consumed_when_the_connection_ends(ends: tuple[socket.socket, socket.socket], ending: str, read_first: int) -> None:
    """Neither a FIN nor a RST counts as a byte that was read; a connection that is over says None at worst, never a wrong number."""
    near, far = ends
    far.sendall(bytes(100))
    readable(near)
    read = len(near.recv(read_first)) if read_first else 0
    watch = select.poll()
    watch.register(near, select.POLLRDHUP | select.POLLHUP)
    if ending.startswith("ours"):
        near.shutdown(socket.SHUT_RDWR)
    if ending.startswith("fin") or ending.endswith("theirs"):
        far.shutdown(socket.SHUT_WR)
    if ending.startswith("fin"):
        assert watch.poll(10_000)
    if ending.endswith("reset"):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        watch.modify(near, select.POLLHUP)
        assert watch.poll(10_000)
    found = tcp_info.consumed_bytes(near)
    assert found == read or (found is None and ending == "ours then theirs")
    if ending == "fin":
        assert near.recv(1000) + near.recv(1000) == bytes(100 - read)
        assert tcp_info.consumed_bytes(near) == 100


def test_a_closed_connection_whose_error_was_read(ends: tuple[socket.socket, socket.socket]) -> None:
    """The kernel cannot tell any more."""
    near, far = ends
    far.sendall(b"x")
    far.shutdown(socket.SHUT_WR)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    readable(near)
    for _ in range(3):
        with contextlib.suppress(OSError):
            near.recv(10)
    near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert tcp_info.consumed_bytes(near) is None


def test_no_tcp_socket() -> None:
    """OSError, not a number."""
    near, far = socket.socketpair()
    with near, far:
        for ask in (tcp_info.bytes_acked, tcp_info.bytes_received, tcp_info.consumed_bytes):
            with pytest.raises(OSError):
                ask(near)
