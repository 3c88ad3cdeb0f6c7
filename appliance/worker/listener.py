"""A lasting listener: its connection, its playhead, its cohort, and what is said of it when it ends."""

from __future__ import annotations

import socket
from typing import Protocol

from appliance.worker.playhead import Playhead
from appliance.worker.poller import GONE
from appliance.worker.stream import Stream


class Cohort:
    """Listeners of one stream that share a phase bucket and a distance to live, so that the level ones all stand at the same byte.

    `distance`: media ticks behind the stream's pace, 0 for live. `seq`, `pos`: the chunk boundary where the level listeners stand.
    """

    __slots__ = ("bucket", "distance", "late", "metered", "pos", "raw", "raw_fds", "seq", "stream")

    def __init__(self, stream: Stream, bucket: int, distance: int, seq: int) -> None:
        self.stream = stream
        self.bucket = bucket
        self.distance = distance
        self.seq = seq
        self.pos = stream.reader.pos[seq & stream.reader.mask]
        self.raw: list[Listener] = []
        self.raw_fds: list[int] = []
        self.metered: list[Listener] = []
        self.late: set[Listener] = set()

    @property
    def level(self) -> list[Listener]:
        """All level listeners: raw ones, and those with metadata."""
        return self.raw + self.metered

    @property
    def is_empty(self) -> bool:
        """Whether nobody is here."""
        return not (self.raw or self.metered or self.late)

    def add_level(self, listener: Listener) -> None:
        """A listener stands where the cohort does. `raw_fds` runs parallel to `raw`: the hot loop needs nothing else of them."""
        if listener.playhead.interval:
            self.metered.append(listener)
        else:
            self.raw.append(listener)
            self.raw_fds.append(listener.fd)

    def remove_level(self, listener: Listener) -> None:
        """A level listener falls behind or ends."""
        if listener.playhead.interval:
            self.metered.remove(listener)
        else:
            index = self.raw.index(listener)
            del self.raw[index], self.raw_fds[index]


class Crowd(Protocol):
    """Who serves a listener: the fan-out."""

    def push(self, listener: Listener) -> None:
        """Its connection takes bytes again."""

    def leave(self, listener: Listener, reason: str) -> None:
        """End it."""


class Listener:
    """A connection that gets audio. While `late`, `playhead.pos` is its own; while level, its cohort's `pos` is."""

    __slots__ = (
        "agent",
        "ahead",
        "cohort",
        "crowd",
        "fd",
        "joined_us",
        "kept_id",
        "lag_limit",
        "lapped",
        "late",
        "leaving",
        "peer",
        "playhead",
        "row",
        "skipping",
        "skips",
        "sock",
        "stream",
    )

    def __init__(self, sock: socket.socket, crowd: Crowd, stream: Stream, playhead: Playhead, peer: str, agent: str) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.crowd = crowd
        self.stream = stream
        self.playhead = playhead
        self.peer = peer
        self.agent = agent
        self.cohort: Cohort
        self.late = True
        self.leaving = self.skipping = self.ahead = self.lapped = False
        self.row = -1
        self.kept_id = 0
        self.lag_limit = stream.entry.max_buffer
        self.skips = self.joined_us = 0

    @property
    def total(self) -> int:
        """All bytes written to it: head, audio, metadata."""
        if not self.late:
            self.playhead.pos = self.cohort.pos
        return self.playhead.total

    def event(self, mask: int) -> None:
        """Writable while late; gone at any time. A FIN ends a listener at once."""
        if mask & GONE:
            self.crowd.leave(self, "left")
        else:
            self.crowd.push(self)

    def abort(self, reason: str) -> None:
        """End it at once."""
        self.crowd.leave(self, reason)
