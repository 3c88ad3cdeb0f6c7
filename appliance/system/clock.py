"""The two clocks, as something that can be passed in."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time paces, wall time labels. Both in whole microseconds; CLOCK_MONOTONIC is the same for all processes of a box."""

    def monotonic_us(self) -> int:
        """Microseconds since boot."""

    def wall_us(self) -> int:
        """Microseconds since 1970 (UTC)."""


class SystemClock:
    """The kernel's clocks."""

    def monotonic_us(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns() // 1000

    def wall_us(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns() // 1000
