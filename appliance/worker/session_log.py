"""The worker's log: one line per listener that lasted, counts of everything brief, repeated trouble once a second."""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from appliance.worker.listener import Listener

LASTING_US: Final = 1_000_000
"""A connection shorter than a second is churn (probes, scanners, reconnects): counted, not told one by one."""


class SessionLog:
    """`tick` once a second writes what was held back."""

    def __init__(self, slot: int) -> None:
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger().bind(worker=slot)
        self._held: dict[tuple[str, str], int] = {}
        self._brief: Counter[str] = Counter()

    def ended(self, listener: Listener, reason: str, now_us: int) -> None:
        """A listener ended."""
        lasted_us = now_us - listener.joined_us
        if lasted_us < LASTING_US:
            self._brief[listener.stream.entry.key] += 1
            return
        self.log.info(
            "listener ended",
            stream=listener.stream.entry.key,
            peer=listener.peer,
            agent=listener.agent,
            seconds=round(lasted_us / 1e6, 1),
            sent_bytes=listener.total,
            icy=bool(listener.playhead.interval),
            rewound=bool(listener.cohort.distance),
            skips=listener.skips,
            reason=reason,
        )

    def trouble(self, event: str, reason: str, **context: object) -> None:
        """Something went wrong with a client: the first time said at once, what repeats once a second per kind, with a count."""
        if (event, reason) in self._held:
            self._held[event, reason] += 1
        else:
            self._held[event, reason] = 0
            self.log.warning(event, reason=reason, **context)

    def tick(self) -> None:
        """Once a second. A kind that was quiet for a whole second is new when it comes again."""
        told = {kind: count for kind, count in self._held.items() if count}
        for (event, reason), count in told.items():
            self.log.warning(event, reason=reason, more=count)
        self._held = dict.fromkeys(told, 0)

    def summary(self) -> None:
        """Once per log interval."""
        for stream, count in self._brief.items():
            self.log.info("brief listeners", stream=stream, count=count)
        self._brief.clear()
