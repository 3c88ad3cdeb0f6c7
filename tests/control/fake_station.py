"""A Station whose facts a test sets, and that counts how often it was asked."""

from __future__ import annotations

from appliance.control.station import SourceStatus, StationStatus, StreamStatus, WorkerStatus


def source_status() -> SourceStatus:
    """An encoder on air."""
    return SourceStatus("demo", "3f0c", "127.0.0.1:40000", "libshout/2.4.6", "PUT", "mp3-44100-128-s", True, 1e9, 16_000)


def stream_status() -> StreamStatus:
    """A stream that has held an hour, twelve minutes and five seconds of four hours."""
    return StreamStatus(
        key="demo",
        format="mp3",
        title="Harbour, Early",
        url="",
        stream_key="mp3-44100-128-s",
        bitrate_bps=128_000,
        on_air=True,
        source=source_status(),
        listeners=1234,
        rewound=56,
        buffer_s=4325.0,
        window_s=14_400,
        head_at=1_700_000_000.0,
        bytes_held=69_200_000,
        burst_s=30.0,
    )


def worker_status(slot: int, state: str = "serving") -> WorkerStatus:
    """One worker of the station."""
    return WorkerStatus(slot, 4000 + slot, state, 617, 3000, 10**9, 44 * 2**20, 0)


class FakeStation:
    """Answers what `facts` says at the time of asking."""

    def __init__(self) -> None:
        self.asked = 0
        self.facts = StationStatus(
            version="0.1.0",
            started_at=1_699_990_000.0,
            listener_port=8001,
            source_port=8002,
            api_port=8003,
            streams=[stream_status()],
            workers=[worker_status(0), worker_status(1, "starting")],
        )

    def status(self) -> StationStatus:
        """The facts, counted."""
        self.asked += 1
        return self.facts
