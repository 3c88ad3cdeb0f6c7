"""Real time for the clients, as something that tests can replace."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Pace(Protocol):
    """A clock and the waiting that goes with it, in seconds."""

    def now_s(self) -> float:
        """Monotonic time."""

    async def sleep(self, seconds: float) -> None:
        """Returns that much later; always lets other tasks run."""


class RealTime:
    """The monotonic clock."""

    def now_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """asyncio's."""
        await asyncio.sleep(seconds)
