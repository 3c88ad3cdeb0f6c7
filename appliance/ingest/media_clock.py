"""The clock of a stream's audio (MECHANICS 2): wall-clock labels that advance by samples. Pure; the clocks are passed in.

- A label advances by samples. Off the wall clock by more than SLEW_FROM_US it is slewed, by at most 200 ppm.
- The wall clock ahead by more than STEP_FROM_US: a discontinuity and a step. Behind: never a step, labels never go back.
- How far it is off is the *least* lateness of the last seconds: a chunk can arrive late, never early, so a stalled network that delivers
  everything afterwards is not taken for a gap, and a single late chunk moves nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from appliance.ring.layout import MEDIA_HZ

SLEW_FROM_US: Final = 50_000
SLEW_PPM: Final = 200
STEP_FROM_US: Final = 2_000_000
WATCHED_US: Final = 3_000_000
"""Lateness is judged over this long: longer than a usual network stall's catch-up, short enough to label a true gap soon."""
WATCHED_CHUNKS: Final = 3
"""Or over this many chunks, where that is longer: with chunks of 5 s three seconds hold only the newest."""
SEEN_US: Final = 2_000_000
"""Nothing is judged before this much of it was watched."""


class Stamp(NamedTuple):
    """Wall clock (us, UTC) of a chunk's first sample, and whether the time line breaks before it."""

    ts_us: int
    discontinuity: bool


class MediaClock:
    """Labels the chunks of one stream, in order."""

    def __init__(self, last_end_us: int = 0) -> None:
        """`last_end_us`: where the labels of an earlier run ended; 0 for a stream that never had audio."""
        self._base_us = last_end_us
        self._ticks = 0
        self._break = False
        self._lateness: deque[tuple[int, int]] = deque()
        self.offset_us = 0
        """How far the wall clock is ahead of the labels, as last judged."""

    @property
    def next_us(self) -> int:
        """The label of the next sample, before any correction."""
        return self._base_us + self._ticks * 1_000_000 // MEDIA_HZ

    def begin(self, first_us: int) -> None:
        """A source begins; its first sample was heard at wall clock `first_us` at the latest."""
        self._lateness.clear()
        gap = first_us - self.next_us
        if self._base_us == 0 or gap > STEP_FROM_US:
            self._break = self._base_us != 0
            self._base_us, self._ticks = first_us, 0

    def stamp(self, ticks: int, arrival_us: int, monotonic_us: int) -> Stamp:
        """Label a chunk of `ticks` that was complete at these times."""
        span_us = ticks * 1_000_000 // MEDIA_HZ
        watched_us = max(WATCHED_US, WATCHED_CHUNKS * span_us)
        late = self._judge(arrival_us - self.next_us - span_us, monotonic_us, watched_us)
        if late is not None:
            self.offset_us = late
            self._correct(late, span_us)
        stamp = Stamp(self.next_us, self._break)
        self._break = False
        self._ticks += ticks
        return stamp

    def _judge(self, lateness_us: int, monotonic_us: int, watched_us: int) -> int | None:
        """The least lateness of the last seconds; None while too little was seen."""
        seen = self._lateness
        seen.append((monotonic_us, lateness_us))
        while seen[0][0] < monotonic_us - watched_us:
            seen.popleft()
        return min(late for _, late in seen) if monotonic_us - seen[0][0] >= SEEN_US else None

    def _correct(self, late_us: int, span_us: int) -> None:
        if late_us > STEP_FROM_US:
            self._base_us, self._ticks, self._break = self.next_us + late_us, 0, True
            self._lateness.clear()
        elif abs(late_us) > SLEW_FROM_US:
            most = max(1, span_us * SLEW_PPM // 1_000_000)
            self._base_us += max(-most, min(most, late_us))
