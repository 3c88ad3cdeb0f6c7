"""Stand-ins shared by tests: a clock that is set by hand, a real ring fed by hand, a host for connections."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable

from appliance.channel.messages import StreamEntry, WorkerSettings
from appliance.ring.counters import CountersPage
from appliance.ring.layout import MEDIA_HZ
from appliance.ring.reader import RingReader
from appliance.ring.writer import AudioInfo, Chunk, RingWriter
from appliance.wire import icy
from appliance.wire.http_request import Request, RequestError, RequestParser
from appliance.worker.answers import Answers
from appliance.worker.connection import Connection
from appliance.worker.deadlines import Deadlines
from appliance.worker.poller import Poller
from appliance.worker.routes import Pass, Play, Reply, Router
from appliance.worker.stream import Stream, StreamTable

RATE = 44_100


class FakeClock:
    """Both clocks, moved by `advance` only."""

    def __init__(self) -> None:
        self.now_us = 50_000_000
        self.offset_us = 1_790_000_000_000_000

    def monotonic_us(self) -> int:
        return self.now_us

    def wall_us(self) -> int:
        return self.now_us + self.offset_us

    def now_s(self) -> float:
        return self.now_us / 1e6

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1e6)


class Air:
    """A real ring, fed by hand with chunks of `chunk_s`, and a plain copy of all bytes and titles that ever went in."""

    def __init__(
        self, *, window_s: int = 3600, chunk_s: float = 0.5, max_buffer: int = 65_536, max_bytes_s: int = 72_000, seed: int = 1
    ) -> None:
        self.clock = FakeClock()
        self.writer = RingWriter.create("test", window_s, chunk_s, max_buffer, max_bytes_s)
        self.writer.start_epoch(AudioInfo("mp3-44100-128-s", "mp4a.40.34", RATE, 2, 128_000))
        self.chunk_s, self.max_buffer = chunk_s, max_buffer
        self.audio = bytearray()
        self.starts: list[int] = []
        self.titles: list[tuple[int, int, str, str]] = []
        self._random = random.Random(seed)

    def play(self, chunks: int = 1, chunk_bytes: int = 8_000) -> None:
        """Chunks of random bytes, the clock moving on with them."""
        for _ in range(chunks):
            self.clock.advance(self.chunk_s)
            data = self._random.randbytes(chunk_bytes)
            self.starts.append(len(self.audio))
            self.audio += data
            self.writer.append(Chunk(data, round(RATE * self.chunk_s), RATE, self.clock.wall_us()), self.clock.monotonic_us())

    def title(self, title: str, url: str = "") -> int:
        """The chunks from here on carry this title."""
        meta_id = self.writer.set_title(title.encode(), url.encode(), self.clock.wall_us())
        self.titles.append((len(self.audio), meta_id, title, url))
        return meta_id

    def title_at(self, pos: int) -> tuple[int, bytes]:
        """Id and ICY block of the title that holds at byte `pos`."""
        for start, meta_id, title, url in reversed(self.titles):
            if start <= pos:
                return meta_id, icy.block(title, url)
        return 0, icy.EMPTY_BLOCK

    def sent(self, start: int, end: int, interval: int = 0, *, until_meta: int | None = None, title: int = 0) -> bytes:
        """What a listener gets of logical bytes [start, end): with `interval`, a block before each interval-th byte (MECHANICS 4)."""
        if not interval:
            return bytes(self.audio[start:end])
        found, pos = bytearray(), start
        at = start + (interval if until_meta is None else until_meta)
        while at < end:
            found += self.audio[pos:at]
            meta_id, block = self.title_at(at)
            found += icy.EMPTY_BLOCK if meta_id == title else block
            pos, title, at = at, meta_id, at + interval
        return bytes(found + self.audio[pos:end])

    def reader(self) -> RingReader:
        return RingReader(self.writer.reader_fd)

    def close(self) -> None:
        self.writer.close()


def counters() -> CountersPage:
    """A page of counters, at zero."""
    fd = CountersPage.create("test")
    page = CountersPage(fd, writable=True)
    os.close(fd)
    return page


def parsed(raw: bytes) -> Request:
    """The request of a complete head."""
    request = RequestParser().feed(raw)
    assert isinstance(request, Request)
    return request


def entry(index: int = 0, key: str = "test", **fields: object) -> StreamEntry:
    """A stream's entry with small limits."""
    known: dict[str, object] = {"meta_interval": 8_192, "max_buffer": 65_536, "burst_s": 2.0}
    return StreamEntry(index=index, key=key, **(known | fields))  # type: ignore[arg-type]


class FakeHost:
    """What a worker is to its connections, with a clock set by hand: `players` are those that would have become listeners."""

    def __init__(self, poller: Poller, air: Air, settings: WorkerSettings | None = None, *entries: StreamEntry) -> None:
        self.poller, self.clock = poller, FakeClock()
        self.deadlines = Deadlines(self.clock.now_s)
        self.page = counters()
        self.streams = StreamTable(self.page)
        for one in entries or (entry(root=True),):
            self.streams.add(one, air.writer.reader_fd)
        self.answers = Answers(settings or WorkerSettings())
        self.router = Router(settings or WorkerSettings(), self.streams, self.answers, self.full)
        self.reason_full = ""
        self.players: list[tuple[Play, int]] = []
        self.passed: list[bytes] = []
        self.refused: list[int] = []
        self.timeouts = 0
        self.on_begin: Callable[[Connection, Play], None] = self._note_player

    def full(self, stream: Stream) -> str:
        del stream
        return self.reason_full

    def decide(self, connection: Connection, request: Request) -> Reply | Play | None:
        action = self.router.route(request)
        if isinstance(action, Pass):
            self.passed.append(connection.received)
            connection.close()
            return None
        return action

    def refuse(self, connection: Connection, error: RequestError) -> bytes:
        del connection
        self.refused.append(error.status)
        return self.answers.error(error.status, error.reason)

    def timed_out(self, connection: Connection) -> bytes:
        del connection
        self.timeouts += 1
        return self.answers.error(408, "the request was not finished in time")

    def begin(self, connection: Connection, play: Play, request: Request) -> None:
        del request
        self.on_begin(connection, play)

    def _note_player(self, connection: Connection, play: Play) -> None:
        self.players.append((play, connection.sent_bytes))
        connection.answer_and_close(play.head)

    def deadline(self, connection: Connection, seconds: float) -> None:
        self.deadlines.set(connection, seconds)

    def gone(self, connection: Connection) -> None:
        self.deadlines.clear(connection)


def seconds_of(ticks: int) -> float:
    """Media ticks as seconds."""
    return ticks / MEDIA_HZ


def loopback() -> tuple[socket.socket, socket.socket]:
    """A TCP connection over 127.0.0.1: the server's end (non-blocking) and the client's (3 s timeout)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=3)
        server, _ = listening.accept()
    server.setblocking(False)
    return server, client
