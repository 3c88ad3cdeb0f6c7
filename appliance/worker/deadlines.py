"""Coarse deadlines for many connections: a sorted insert is not needed, since each kind of wait has one fixed length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Expiring(Protocol):
    """Something that is told when its time is up."""

    expires_s: float

    def expire(self) -> None:
        """The deadline has come."""


class Deadlines:
    """One ordered queue per length of wait; `sweep`, once a second, looks at the oldest only. Setting anew moves to the end."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._queues: dict[float, dict[Expiring, None]] = {}
        self._length: dict[Expiring, float] = {}

    def set(self, one: Expiring, seconds: float) -> None:
        """Expire `one` after `seconds`, instead of what was set before."""
        self.clear(one)
        one.expires_s = self._now_s() + seconds
        self._queues.setdefault(seconds, {})[one] = None
        self._length[one] = seconds

    def clear(self, one: Expiring) -> None:
        """It has no deadline any more."""
        length = self._length.pop(one, None)
        if length is not None:
            del self._queues[length][one]

    def sweep(self) -> int:
        """Expire what is due; returns how many there were."""
        now, found = self._now_s(), 0
        for queue in list(self._queues.values()):  # who expires may set a deadline of a new length
            for one in list(_due(queue, now)):
                self.clear(one)
                one.expire()
                found += 1
        return found


def _due(queue: dict[Expiring, None], now_s: float) -> list[Expiring]:
    due: list[Expiring] = []
    for one in queue:
        if one.expires_s > now_s:
            break
        due.append(one)
    return due
