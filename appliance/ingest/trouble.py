"""Trouble with clients, told to the operator: the first of a kind from a peer at once, the rest once a second with a count."""

from __future__ import annotations

from collections import Counter

import structlog


class TroubleLog:
    """A scanner or an encoder in a loop must not fill the disk; `tick` once a second writes what was held back."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        self._held: Counter[tuple[str, str]] = Counter()

    def warn(self, event: str, peer: str, reason: str) -> None:
        """Something was wrong with what `peer` sent."""
        self._held[event, peer] += 1
        if self._held[event, peer] == 1:
            self._log.warning(event, peer=peer, reason=reason)

    def tick(self) -> None:
        """Once a second."""
        for (event, peer), count in self._held.items():
            if count > 1:
                self._log.warning(event, peer=peer, more=count - 1)
        self._held.clear()
