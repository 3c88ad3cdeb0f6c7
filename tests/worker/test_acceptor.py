"""Listening slots: every one held is accepted on, none other; running out of fds is a pause, not a spin (MECHANICS 8)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from appliance.system import sockets
from appliance.worker import acceptor as module
from appliance.worker.acceptor import Acceptor


class Door:
    """An acceptor and what it took."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self.full: list[OSError] = []
        self.came = asyncio.Event()
        self.acceptor = Acceptor(self._took, self.full.append)

    def _took(self, sock: socket.socket, address: object) -> None:
        assert isinstance(address, tuple)
        assert sock.gettimeout() == 0
        self.taken.append(sock)
        self.came.set()

    async def wait(self, number: int) -> None:
        while len(self.taken) < number:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 3)

    def close(self) -> None:
        self.acceptor.close()
        for sock in self.taken:
            sock.close()


def client(port: int) -> socket.socket:
    """A connected client."""
    return socket.create_connection(("127.0.0.1", port), timeout=3)


async def test_holds_exactly_the_slots_it_is_told() -> None:
    """Two slots of one port; one is taken away: its waiting clients stay with whoever else holds it."""
    first, second = sockets.slots("127.0.0.1", 0, 2)
    port, door = first.getsockname()[1], Door()
    door.acceptor.hold([0, 1], {0: os.dup(first.fileno()), 1: os.dup(second.fileno())})
    clients = [client(port) for _ in range(20)]
    await door.wait(20)
    door.acceptor.hold([1], {})
    clients += [client(port) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    left = 40 - len(door.taken)
    door.acceptor.hold([0, 1], {0: os.dup(first.fileno()), 1: os.dup(second.fileno())})  # 1 is held already: its fd is closed
    await door.wait(40)
    assert left >= 0
    door.close()
    for sock in (*clients, first, second):
        sock.close()


async def test_out_of_fds_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told once per pause; the client waits in the backlog and is served afterwards."""
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    listening = sockets.listening("127.0.0.1", 0)
    door, refusals = Door(), 2

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    with monkeypatch.context() as patch:
        patch.setattr("appliance.worker.acceptor.socket.socket", Full)
        door.acceptor.hold([0], {0: os.dup(listening.fileno())})
    sock = client(listening.getsockname()[1])
    await door.wait(1)
    assert [error.errno for error in door.full] == [errno.EMFILE] * 2
    door.close()
    sock.close()
    listening.close()


async def test_a_slot_given_up_during_a_pause_stays_given_up() -> None:
    """The pause's end does not take it back."""
    listening, door = sockets.listening("127.0.0.1", 0), Door()
    door.acceptor.hold([0], {0: os.dup(listening.fileno())})
    held = door.acceptor._slots[0]
    door.acceptor._pause(held, OSError(errno.EMFILE, "x"))
    door.acceptor.close()
    door.acceptor._resume(held)
    assert held.fileno() == -1
    assert not door.acceptor._slots
    listening.close()


async def test_one_failed_accept_is_skipped() -> None:
    """A client that was gone before it was taken: the next one is served."""
    listening, door = sockets.listening("127.0.0.1", 0), Door()
    door.acceptor.hold([0], {0: os.dup(listening.fileno())})
    gone = client(listening.getsockname()[1])
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    sock = client(listening.getsockname()[1])
    name = sock.getsockname()
    while not any(peer == name for peer in map(peer_name, door.taken)):
        door.came.clear()
        await asyncio.wait_for(door.came.wait(), 3)
    door.close()
    sock.close()
    listening.close()


def peer_name(sock: socket.socket) -> object:
    """The peer's address; None when it is gone."""
    try:
        return sock.getpeername()
    except OSError:
        return None
