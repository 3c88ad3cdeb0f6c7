"""What the control side sees of a station: plain facts, and the one question it may ask.

The supervisor implements `Station` and hands itself in; nothing here knows how a fact is found.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SourceStatus(msgspec.Struct):
    """One connected encoder. `protocol` is "PUT" or "SOURCE"; `active` says that its audio is the one on air."""

    mount: str
    uuid: str
    address: str
    agent: str
    protocol: str
    stream_key: str
    active: bool
    connected_at: float  # epoch seconds
    bytes_received: int


class StreamStatus(msgspec.Struct):
    """One stream: what it plays and how much of it is held.

    `stream_key` is "" until audio came. `rewound` counts those of `listeners` who are behind live by choice. `buffer_s`
    is the audio held and reachable, `window_s` what is configured. `head_at` is the time of the newest audio in epoch
    seconds, 0 without any. `burst_s` is how far behind the head a live listener starts.
    """

    key: str
    format: str  # "mp3" | "aac"
    title: str
    url: str
    stream_key: str
    bitrate_bps: int
    on_air: bool
    source: SourceStatus | None
    listeners: int
    rewound: int
    buffer_s: float
    window_s: int
    head_at: float
    bytes_held: int
    burst_s: float = 0.0


class WorkerStatus(msgspec.Struct):
    """One worker process. `state` is "starting", "serving", "draining" or "dead"; counts are of this slot's process."""

    slot: int
    pid: int
    state: str
    listeners: int
    connections_total: int
    bytes_sent: int
    rss_bytes: int
    restarts: int


class StationStatus(msgspec.Struct):
    """The whole appliance at one moment. The ports are those really bound; `started_at` is in epoch seconds."""

    version: str
    started_at: float
    listener_port: int
    source_port: int
    api_port: int
    streams: list[StreamStatus]
    workers: list[WorkerStatus]


class Station(Protocol):
    """A running station. `status` is called at most once a second, on the event loop: it must not block."""

    def status(self) -> StationStatus: ...
