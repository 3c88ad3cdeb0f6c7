"""What systemd keeps for us over this process's death (sd_notify FDSTORE): rings, sources with their journals, worker channels.

Names: `ring.KEY`, `source.UUID` (connection and journal), `worker.PID` (our end of the channel). A name holds what it says for as long as
the thing lives; unknown names are closed at the start. systemd drops everything at `stop`, so workers then read EOF and end.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from appliance.system.activation import Inherited
from appliance.system.notify import Notifier

RING: Final = "ring"
SOURCE: Final = "source"
WORKER: Final = "worker"


class Left(NamedTuple):
    """What a former process left: rings by key, sources by uuid as (connection, journal), worker channels. All fds are
    owned."""

    rings: dict[str, int]
    sources: dict[str, tuple[int, int]]
    channels: list[int]


class FdStore:
    """Stores and removes; does nothing unless `is_on`. Implements ingest's SourceKeeper."""

    def __init__(self, notifier: Notifier, *, is_on: bool) -> None:
        self._notifier = notifier
        self.is_on = is_on and notifier.is_heard

    def keep_ring(self, key: str, fd: int) -> None:
        """A stream's ring; storing the same one again adds nothing."""
        if self.is_on:
            self._notifier.store(f"{RING}.{key}", [fd])

    def drop_ring(self, key: str) -> None:
        """A stream that is no longer configured."""
        if self.is_on:
            self._notifier.remove(f"{RING}.{key}")

    def keep(self, name: str, fd: int, journal_fd: int) -> None:
        """A source begins."""
        if self.is_on:
            self._notifier.store(f"{SOURCE}.{name}", [fd, journal_fd])

    def drop(self, name: str) -> None:
        """A source has ended."""
        if self.is_on:
            self._notifier.remove(f"{SOURCE}.{name}")

    def keep_worker(self, pid: int, channel_fd: int) -> None:
        """A worker serves."""
        if self.is_on:
            self._notifier.store(f"{WORKER}.{pid}", [channel_fd])

    def drop_worker(self, pid: int) -> None:
        """A worker has ended."""
        if self.is_on:
            self._notifier.remove(f"{WORKER}.{pid}")


def what_is_left(inherited: Inherited) -> Left:
    """Sort what systemd gave back; what makes no sense is closed."""
    rings = {key: _only(fds) for key, fds in inherited.take_keys(RING).items()}
    sources: dict[str, tuple[int, int]] = {}
    for name, fds in inherited.take_keys(SOURCE).items():
        connections = [fd for fd in fds if stat.S_ISSOCK(os.fstat(fd).st_mode)]
        journals = [fd for fd in fds if fd not in connections]
        if len(connections) == 1 and len(journals) == 1:
            sources[name] = (connections[0], journals[0])
        else:
            for fd in fds:
                os.close(fd)
    channels = [_only(fds) for fds in inherited.take_keys(WORKER).values()]
    return Left(rings, sources, channels)


def _only(fds: list[int]) -> int:
    for fd in fds[1:]:
        os.close(fd)
    return fds[0]
