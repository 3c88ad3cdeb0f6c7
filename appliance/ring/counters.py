"""The counters page of one worker: written by it alone, read by the supervisor at any time with no message.

64-bit words. The first 64 are the worker's own; then 16 words per stream, by the stream's index in the stream table.
"""

from __future__ import annotations

from typing import Final

from appliance.ring import shared_page

WORKER_WORDS: Final = 64
STREAM_WORDS: Final = 16
MAX_STREAMS: Final = 1024
"""Streams a box serves at most; 100 is what is measured. 132 KB of address space."""


class Count:
    """Words of a worker. All are totals since its start, except LISTENERS and CONNECTIONS (now)."""

    LISTENERS: Final = 0
    CONNECTIONS: Final = 1
    ACCEPTED: Final = 2
    REQUESTS: Final = 3
    BYTES_SENT: Final = 4
    DROPPED_SLOW: Final = 5
    SKIPPED: Final = 6
    LAPPED: Final = 7
    BAD_REQUESTS: Final = 8
    TIMEOUTS: Final = 9
    REFUSED: Final = 10
    PASSED: Final = 11
    TICK_LATE_US: Final = 12
    """Worst lateness of a pacing tick since start."""
    HEARTBEAT: Final = 13
    """Counts the turns of the worker's loop, one a second: a page that stands still belongs to a worker that hangs."""


class StreamCount:
    """Words of a stream on this worker. LISTENERS and REWOUND are now, the others totals."""

    LISTENERS: Final = 0
    REWOUND: Final = 1
    STARTED: Final = 2
    BYTES_SENT: Final = 3
    DROPPED_SLOW: Final = 4


class CountersPage:
    """`worker[Count.X]` and `stream(i)[StreamCount.Y]` are plain 64-bit words."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        whole = shared_page.map_whole(fd, writable=writable).cast("Q")
        self.worker = whole[:WORKER_WORDS]
        self._streams = whole[WORKER_WORDS:]

    @staticmethod
    def create(name: str) -> int:
        """A memfd for a page; returns its fd."""
        return shared_page.create(f"counters.{name}", 8 * (WORKER_WORDS + STREAM_WORDS * MAX_STREAMS))

    def stream(self, index: int) -> memoryview:
        """The 16 words of one stream."""
        return self._streams[index * STREAM_WORDS : (index + 1) * STREAM_WORDS]

    def clear_present(self, streams: int) -> None:
        """The worker is gone: nobody listens through it now; totals stay. `streams`: how many stream indexes are in use."""
        self.worker[Count.LISTENERS] = self.worker[Count.CONNECTIONS] = 0
        for index in range(streams):
            words = self.stream(index)
            words[StreamCount.LISTENERS] = words[StreamCount.REWOUND] = 0
