"""Eventfd doorbells: one per reader, never shared. Ringing is a system call on both sides, which is the ring's memory barrier."""

from __future__ import annotations

import contextlib
import os


class Doorbells:
    """The writer's side: the eventfds of all who must hear of a new head."""

    def __init__(self) -> None:
        self._fds: dict[object, int] = {}

    def add(self, owner: object, fd: int) -> None:
        """Ring `fd` (owned from now on) for `owner`; an older one of the same owner is closed."""
        self.remove(owner)
        os.set_blocking(fd, False)
        self._fds[owner] = fd

    def remove(self, owner: object) -> None:
        """Forget and close an owner's eventfd."""
        fd = self._fds.pop(owner, None)
        if fd is not None:
            os.close(fd)

    def ring(self) -> None:
        """Tell everybody. A reader that never reads fills its counter after 2^64 rings; EAGAIN costs nothing."""
        for fd in self._fds.values():
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)


def create() -> int:
    """A doorbell for this process to hear: a non-blocking eventfd."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def silence(fd: int) -> None:
    """Read the doorbell: after this call, heads that were published before its ring are visible."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)
