"""All client connections of a worker behind one epoll: the loop watches that epoll's fd only.

A watcher on the event loop costs about a kilobyte per fd and three microseconds per change; a registration here costs a dict entry
and half a microsecond. The loop keeps timers, doorbell, channel and listening slots.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final, Protocol

READ: Final = select.EPOLLIN | select.EPOLLRDHUP
HANG_UP: Final = select.EPOLLRDHUP
WRITE: Final = select.EPOLLOUT | select.EPOLLRDHUP
GONE: Final = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
BATCH: Final = 256
"""Events handled before the loop's timers get their turn: at 50 us each this bounds a tick's delay to about 13 ms."""


class Watched(Protocol):
    """Something with a connection."""

    def event(self, mask: int) -> None:
        """The connection is readable, writable or gone."""

    def abort(self, reason: str) -> None:
        """End it at once."""


class Poller:
    """Registrations by fd. An exception of one connection ends that connection alone and is reported."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[BaseException], None]) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        self._on_error = on_error
        loop.add_reader(self._epoll.fileno(), self._poll)

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, fd: int, mask: int, watched: Watched) -> None:
        """Start watching."""
        self._watched[fd] = watched
        self._epoll.register(fd, mask)

    def change(self, fd: int, mask: int, watched: Watched) -> None:
        """Watch for something else, or on behalf of something else."""
        self._watched[fd] = watched
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching (before the fd is closed)."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def all(self) -> list[Watched]:
        """Everything watched now."""
        return list(self._watched.values())

    def _poll(self) -> None:
        get = self._watched.get
        for fd, mask in self._epoll.poll(0, BATCH):
            watched = get(fd)
            if watched is None:
                continue
            try:
                watched.event(mask)
            except Exception as error:  # noqa: BLE001 - one connection's fault must not end a process that serves thousands
                self._on_error(error)
                watched.abort("internal error")

    def close(self) -> None:
        """Stop polling."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
