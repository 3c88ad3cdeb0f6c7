"""The kernel's clocks, in whole microseconds."""

from __future__ import annotations

import time

from appliance.system.clock import SystemClock


def test_both_clocks() -> None:
    """Monotonic is CLOCK_MONOTONIC (one for all processes), wall is 1970."""
    clock = SystemClock()
    before, now, after = time.monotonic_ns() // 1000, clock.monotonic_us(), time.monotonic_ns() // 1000
    assert before <= now <= after
    before, now, after = time.time_ns() // 1000, clock.wall_us(), time.time_ns() // 1000
    assert before <= now <= after
    assert isinstance(now, int)
