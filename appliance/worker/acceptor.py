"""The listening slots a worker holds, and accepting on them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

BATCH: Final = 64
"""Connections taken in one go, so that a storm of them cannot hold up the pacing timer."""
PAUSE_S: Final = 0.2
"""After running out of fds: accepting again at once would spin; clients wait in the backlog meanwhile."""
OUT_OF_FDS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts on every slot it holds. `on_full` is told when the process has no fd left."""

    def __init__(self, on_accept: Callable[[socket.socket, object], None], on_full: Callable[[OSError], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_accept, self._on_full = on_accept, on_full
        self._slots: dict[int, socket.socket] = {}

    def hold(self, slots: list[int], added: dict[int, int]) -> None:
        """Accept on exactly `slots`; `added` gives the fds of new ones (owned from now on)."""
        for slot in set(self._slots) - set(slots):
            sock = self._slots.pop(slot)
            self._loop.remove_reader(sock)
            sock.close()
        for slot, fd in added.items():
            if slot in self._slots:
                os.close(fd)
                continue
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._slots[slot] = sock
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                connection, address = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_FDS:
                    self._pause(sock, error)
                    return
                continue  # this one client was gone before it was taken
            connection.setblocking(False)
            self._on_accept(connection, address)

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        self._loop.remove_reader(sock)
        self._loop.call_later(PAUSE_S, self._resume, sock)
        self._on_full(error)

    def _resume(self, sock: socket.socket) -> None:
        if sock in self._slots.values():
            self._loop.add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Hold no slot."""
        self.hold([], {})
