"""Listening slots and options of accepted sockets (MECHANICS 3, 8)."""

from __future__ import annotations

import socket

import pytest

from appliance.system import sockets
from appliance.system.sockets import CannotListen
from tests.fakes import loopback


def test_slots_share_one_free_port() -> None:
    """Port 0 chooses one for all; each is SO_REUSEPORT, non-blocking, with a backlog."""
    found = sockets.slots("127.0.0.1", 0, 3)
    assert len({sock.getsockname() for sock in found}) == 1
    for sock in found:
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()


def test_dual_stack() -> None:
    """ "::" takes IPv4 clients too where the machine has IPv6; else it is IPv4 alone."""
    with sockets.listening("::", 0) as sock:
        port = sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=3):
            sock.setblocking(True)
            accepted, address = sock.accept()
            accepted.close()
        assert sockets.peer_of(address) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "text"), [(("::ffff:10.0.0.1", 5, 0, 0), "10.0.0.1"), (("2001:db8::1", 5, 0, 0), "2001:db8::1"), (("", 1), ""), ("", "?")]
)
def test_peer_of(address: object, text: str) -> None:
    """IPv4-mapped addresses as IPv4."""
    assert sockets.peer_of(address) == text


def test_a_taken_port_says_which() -> None:
    """Also when the other one shares (SO_REUSEPORT of the same user would silently split the clients)."""
    with sockets.listening("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1 port {port}"):
            sockets.bound_alone("127.0.0.1", port)
        with pytest.raises(CannotListen, match=str(port)):
            sockets.listening("127.0.0.1", port, reuse_port=False)
        sockets.listening("127.0.0.1", port).close()
    sockets.bound_alone("127.0.0.1", port)
    sockets.bound_alone("127.0.0.1", 0)


def test_an_address_that_is_not_ours() -> None:
    """Refused with a reason."""
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        sockets.listening("192.0.2.1", 0)


def test_a_lasting_connection_is_bounded() -> None:
    """A small send buffer; the kernel's patience is longer than max_buffer takes at 32 kbit/s, plus 30 s."""
    server, client = loopback()
    sockets.make_lasting(server, 4 * 1024 * 1024)
    assert sockets.LISTENER_SNDBUF_BYTES <= server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 512 * 1024
    assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000 >= 4 * 1024 * 1024 / 4_000 + 29
    sockets.make_lasting(server, 1 << 30)  # the largest max_buffer still fits the option
    server.close()
    client.close()


def test_reset_at_close() -> None:
    """The peer sees a reset, not an end; a connection that is gone already is no error."""
    server, client = loopback()
    sockets.reset_at_close(server)
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()
    sockets.reset_at_close(server)
