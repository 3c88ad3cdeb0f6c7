"""What a worker does so that its listeners outlive it: tells the supervisor of those that lasted, and takes over those of others.

The supervisor gets a duplicate of a listener's connection once it has lasted a second, so churn costs nothing. The row of a listener that
ended is used again only when the supervisor has noted the end: else a crash could pair the old connection with the new listener's row.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from appliance.channel.messages import DropListeners, KeepListeners, Kept, Noted
from appliance.ring.listeners import ListenerTable
from appliance.worker.listener import Listener

LASTING_US: Final = 1_000_000
"""MECHANICS 4: a connection in its first second may end with its worker."""
BATCH: Final = 100
"""Listeners a message: 40 KiB with the longest agents, half of the fds a message may carry."""


class Sender(Protocol):
    """The channel to the supervisor."""

    def __call__(self, message: KeepListeners | DropListeners, fds: list[int]) -> bool:
        """Send; False when that is not possible now."""


class Keeping:
    """`tick` several times a second. Ids are the worker's own; 0 means that the supervisor was not told."""

    def __init__(self, table: ListenerTable, send: Sender, now_us: Callable[[], int], wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called when there is something to tell: `tick` should come soon, and again while `has_work`."""
        self._table, self._send, self._now_us, self._wake = table, send, now_us, wake
        self._ids = itertools.count(1)
        self._batches = itertools.count(1)
        self._young: deque[Listener] = deque()
        self._ended: list[tuple[int, int]] = []
        self._unnoted: dict[int, list[int]] = {}

    def joined(self, listener: Listener) -> None:
        """A new listener: tell of it when it has lasted."""
        self._young.append(listener)
        self._wake()

    def known(self, listener: Listener) -> Kept:
        """Give a listener its id, as the supervisor is about to know it."""
        listener.kept_id = next(self._ids)
        return Kept(
            listener.kept_id,
            listener.row,
            listener.stream.entry.index,
            listener.playhead.interval,
            listener.cohort.distance,
            listener.joined_us,
            listener.peer,
            listener.agent,
        )

    def left(self, listener: Listener) -> bool:
        """A listener ended; whether its row must stay until the supervisor has noted that."""
        if not listener.kept_id:
            return False
        self._ended.append((listener.kept_id, listener.row))
        self._wake()
        return True

    @property
    def has_work(self) -> bool:
        """Whether somebody is not told of yet."""
        return bool(self._young or self._ended)

    def noted(self, message: Noted) -> None:
        """The supervisor has done a batch: rows of ended listeners are free."""
        for row in self._unnoted.pop(message.batch, []):
            self._table.release(row)

    def tick(self, *, young_too: bool = False) -> None:
        """Tell of those that lasted, and of those that ended."""
        lasting = self._lasting(young_too)
        for start in range(0, len(lasting), BATCH):
            some = lasting[start : start + BATCH]
            if not self._send(KeepListeners(next(self._batches), [self.known(one) for one in some]), [one.fd for one in some]):
                for one in some:
                    one.kept_id = 0
        if self._ended:
            batch, ended = next(self._batches), self._ended[: BATCH * 10]
            if self._send(DropListeners(batch, [id_ for id_, _ in ended]), []):
                self._unnoted[batch] = [row for _, row in ended]
                del self._ended[: len(ended)]

    def tell_all(self) -> None:
        """Tell of everybody at once, also of the youngest: this worker is about to let go."""
        self.tick(young_too=True)

    def retell(self, listeners: Iterable[Listener]) -> None:
        """A new supervisor knows nobody: tell of all again; of those that ended nobody needs to hear."""
        for row in [row for _, row in self._ended] + [row for rows in self._unnoted.values() for row in rows]:
            self._table.release(row)
        self._ended.clear()
        self._unnoted.clear()
        self._young.clear()
        for listener in sorted(listeners, key=lambda one: one.joined_us):
            listener.kept_id = 0
            self._young.append(listener)
        self._wake()

    def _lasting(self, young_too: bool) -> list[Listener]:
        oldest = self._now_us() - (0 if young_too else LASTING_US)
        found: list[Listener] = []
        while self._young and self._young[0].joined_us <= oldest:
            listener = self._young.popleft()
            if listener.sock.fileno() >= 0 and listener.row >= 0:
                found.append(listener)
        return found
