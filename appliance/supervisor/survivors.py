"""Duplicates of listeners' connections, so that a worker's death costs no listener its own (MECHANICS 4, 7).

By place: the listeners its worker told of, and those it was given and has not confirmed. When the worker is gone (reaped: only then do
the byte counts stand still) each of them becomes an orphan, with the last checkpoint of its row; orphans go to the next worker that
serves, in batches. A second death on the way changes nothing: the old checkpoint still leads to the right byte.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from appliance.channel.messages import Adopted, AdoptListeners, DropListeners, KeepListeners, Kept, Stand
from appliance.ring.listeners import ListenerTable

BATCH: Final = 100
"""Listeners a message; see worker/keeping.py."""
SPARE_FDS: Final = 1_000
"""Of the process's limit, kept free for everything else. Listeners beyond end with their worker."""


class Orphan(NamedTuple):
    """A connection whose worker is gone, and where its listener stood."""

    fd: int
    stand: Stand


class Survivors:
    """`limit`: how many duplicates are held at most; `on_full` is told once when it is reached."""

    def __init__(self, limit: int, on_full: Callable[[int], None]) -> None:
        self._limit, self._on_full = limit, on_full
        self._kept: dict[int, dict[int, tuple[int, Kept]]] = {}
        self._given: dict[int, dict[int, list[Orphan]]] = {}
        self._agents: dict[str, str] = {}
        self._batches = 0
        self._held = 0
        self._was_full = False
        self.orphans: list[Orphan] = []

    def __len__(self) -> int:
        return self._held

    def keep(self, place: int, message: KeepListeners, fds: list[int]) -> None:
        """Listeners of this place's worker; fds are owned from now on."""
        mine = self._kept.setdefault(place, {})
        for kept, fd in zip(message.listeners, fds, strict=True):
            if self._held >= self._limit:
                self._say_full()
                os.close(fd)
                continue
            kept.agent = self._agents.setdefault(kept.agent, kept.agent)
            mine[kept.id] = (fd, kept)
            self._held += 1

    def _say_full(self) -> None:
        if not self._was_full:
            self._was_full = True
            self._on_full(self._limit)

    def drop(self, place: int, message: DropListeners) -> None:
        """Listeners that have ended."""
        mine = self._kept.get(place, {})
        for id_ in message.ids:
            found = mine.pop(id_, None)
            if found is not None:
                self._close(found[0])

    def worker_gone(self, place: int, table_fd: int) -> int:
        """Make orphans of what a reaped worker leaves; returns how many."""
        table = ListenerTable(table_fd, writable=False)
        found: list[Orphan] = []
        for fd, kept in self._kept.pop(place, {}).values():
            row = table.read(kept.row)
            if row is None:
                self._close(fd)
            else:
                found.append(Orphan(fd, Stand(kept, row.start_pos, row.total, row.pos, row.until_meta, row.title)))
        for given in self._given.pop(place, {}).values():
            found += given
        self.orphans += found
        self._agents.clear()
        return len(found)

    def hand_over(self, homes: Sequence[tuple[int, Callable[[AdoptListeners, list[int]], None]]]) -> None:
        """Give all orphans away, in batches that go round the homes: (place, how to send to its worker)."""
        while self.orphans:
            some, self.orphans = self.orphans[:BATCH], self.orphans[BATCH:]
            self._batches += 1
            place, send = homes[self._batches % len(homes)]
            self._given.setdefault(place, {})[self._batches] = some
            send(AdoptListeners(self._batches, [one.stand for one in some]), [one.fd for one in some])

    def receive(self, stands: Sequence[Stand], fds: Sequence[int]) -> None:
        """Orphans of another generation; fds are owned from now on."""
        self.orphans += [Orphan(fd, stand) for fd, stand in zip(fds, stands, strict=True)]
        self._held += len(fds)

    def adopted(self, place: int, message: Adopted) -> None:
        """The worker goes on with a batch; where it cannot, the connection ends."""
        given = self._given.get(place, {}).pop(message.batch, [])
        mine = self._kept.setdefault(place, {})
        for orphan, kept in zip(given, message.listeners, strict=False):
            if kept is None:
                self._close(orphan.fd)
            else:
                kept.agent = self._agents.setdefault(kept.agent, kept.agent)
                mine[kept.id] = (orphan.fd, kept)

    def _close(self, fd: int) -> None:
        self._held -= 1
        os.close(fd)

    def discard(self, place: int) -> None:
        """Let everything of a place go: its worker ended as it was told to."""
        for fd, _ in self._kept.pop(place, {}).values():
            self._close(fd)
        for given in self._given.pop(place, {}).values():
            for orphan in given:
                self._close(orphan.fd)
