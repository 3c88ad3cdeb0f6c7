"""The messages between supervisor and worker: msgspec structs, msgpack maps, tagged by kind.

Versioning: a reader ignores fields it does not know and defaults those that are missing, so fields may be added at the end with a
default, never renamed, moved or given another meaning. A kind that a reader does not know is reported and skipped (framing.py).
Every struct says how many fds travel with it.
"""

from __future__ import annotations

import msgspec

PROTOCOL_VERSION = 1


class Hello(msgspec.Struct, tag="hello"):
    """Worker to supervisor, its first message, and its answer to Rejoin. Fds: the worker's doorbell (eventfd); after Rejoin also its
    counters page and its listener table. `streams`: key -> index of those it serves, `place`: the one it was set up for."""

    pid: int
    version: int = PROTOCOL_VERSION
    release: str = ""
    place: int = -1
    streams: dict[str, int] = {}


class Rejoin(msgspec.Struct, tag="rejoin"):
    """A new supervisor to a worker of the one before: say who you are, and tell of all your listeners anew. Slots are given anew too."""


class WorkerSettings(msgspec.Struct):
    """What a worker needs of the configuration; no secrets."""

    send_interval: float = 1.0
    source_timeout: float = 10.0
    ua_skip: list[str] = []
    cors_origin: str = "*"
    cors_enabled: bool = True
    max_listeners: int = 0
    log_interval: float = 30.0
    log_level: str = "info"
    log_json: bool = False
    server_name: str = "StreamMachine"


class Setup(msgspec.Struct, tag="setup"):
    """Supervisor to worker, its first message. Fds: own counters page, own listener table, then the other slots' counters pages."""

    slot: int
    settings: WorkerSettings


class StreamEntry(msgspec.Struct):
    """One stream as a worker knows it."""

    index: int
    key: str
    mime: str = "audio/mpeg"
    burst_s: float = 30.0
    meta_interval: int = 32768
    max_buffer: int = 4 * 1024 * 1024
    skip_slow: bool = False
    root: bool = False
    aliases: list[str] = []
    host: str = ""
    max_listeners: int = 0
    name: str = ""
    genre: str = ""
    url: str = ""
    description: str = ""
    public: bool = False
    bitrate_kbps: int = 0


class AddStreams(msgspec.Struct, tag="add_streams"):
    """Supervisor to worker: serve these. Fds: one ring (read-only) per entry, in order. At most MAX_FDS entries a message."""

    streams: list[StreamEntry]


class StreamInfo(msgspec.Struct, tag="stream_info"):
    """Supervisor to worker: what a stream's source says of itself has changed. No fds; same index, same ring."""

    stream: StreamEntry


class RemoveStream(msgspec.Struct, tag="remove_stream"):
    """Supervisor to worker: this stream is gone; its listeners end."""

    index: int


class Slots(msgspec.Struct, tag="slots"):
    """Supervisor to worker: accept on these slots from now on, and on no others. Fds: a listening socket for each of `added`."""

    slots: list[int]
    added: list[int]


class Stop(msgspec.Struct, tag="stop"):
    """Supervisor to worker: accept no more, send what is due, end within `drain_s` seconds."""

    drain_s: float = 5.0


class LetGo(msgspec.Struct, tag="let_go"):
    """Supervisor to worker: another generation takes over. Accept and send no more, checkpoint every listener, tell of those that are
    not known yet, give back the requests that are half read, and end."""


class HalfRead(msgspec.Struct, tag="half_read"):
    """A connection whose request is not complete: worker to supervisor when it lets go, supervisor to worker to go on with it. Fds: it."""

    received: bytes
    peer: str


class PassRequest(msgspec.Struct, tag="pass_request"):
    """Worker to supervisor: a request that is not for a worker. Fds: the connection. `received`: every byte read from it so far."""

    received: bytes
    peer: str


class Kept(msgspec.Struct):
    """A lasting listener as the supervisor remembers it: which row of the worker's table is its, and what the row does not say.

    `interval`: bytes between ICY blocks, 0 for raw; `distance`: media ticks behind the stream's pace, 0 for live; `joined_us`:
    monotonic time.
    """

    id: int
    row: int
    stream: int
    interval: int = 0
    distance: int = 0
    joined_us: int = 0
    peer: str = ""
    agent: str = ""


class KeepListeners(msgspec.Struct, tag="keep_listeners"):
    """Worker to supervisor: these have lasted; hold a duplicate of their connections. Fds: one per listener. Answered by Noted."""

    batch: int
    listeners: list[Kept]


class DropListeners(msgspec.Struct, tag="drop_listeners"):
    """Worker to supervisor: these have ended; let their connections go. No fds. Answered by Noted: only then are their rows used again."""

    batch: int
    ids: list[int]


class Noted(msgspec.Struct, tag="noted"):
    """Supervisor to worker: this batch was done."""

    batch: int


class Stand(msgspec.Struct):
    """Where a listener stood at its last checkpoint (ring/listeners.py), for whoever goes on with it."""

    kept: Kept
    start_pos: int
    total: int
    pos: int
    until_meta: int = 0
    title: int = 0


class AdoptListeners(msgspec.Struct, tag="adopt_listeners"):
    """Supervisor to worker: go on with these, whose worker is gone. Fds: one per listener. Answered by Adopted."""

    batch: int
    listeners: list[Stand]


class Adopted(msgspec.Struct, tag="adopted"):
    """Worker to supervisor: what became of an AdoptListeners, in its order; None for those that could not go on."""

    batch: int
    listeners: list[Kept | None]


Message = (
    Hello
    | Rejoin
    | Setup
    | AddStreams
    | StreamInfo
    | RemoveStream
    | Slots
    | Stop
    | LetGo
    | HalfRead
    | PassRequest
    | KeepListeners
    | DropListeners
    | Noted
    | AdoptListeners
    | Adopted
)
