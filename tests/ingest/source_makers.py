"""A source server's surroundings for tests: clocks set by hand, a real ring behind a mount, an encoder's end of a connection."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, cast

from structlog.testing import capture_logs
from structlog.typing import EventDict

from appliance.ingest.chunker import Chunker
from appliance.ingest.mount import Mount, MountSettings, Source
from appliance.ingest.source_connection import SourceConnection
from appliance.ingest.trouble import TroubleLog
from appliance.ring.layout import META_TEXT_BYTES
from appliance.ring.writer import RingWriter
from appliance.wire.frames import Frame, parser_for

PASSWORD = "hack:me"
NOON_US = 1_700_000_000_000_000
TURNS = 20_000  # of the loop: more than any test needs, and no time


class HandClock:
    """Both clocks, moved by hand."""

    def __init__(self, wall_us: int = NOON_US, monotonic_us: int = 5_000_000_000) -> None:
        self.wall, self.monotonic = wall_us, monotonic_us

    def wall_us(self) -> int:
        return self.wall

    def monotonic_us(self) -> int:
        return self.monotonic

    def pass_us(self, us: int) -> None:
        self.wall += us
        self.monotonic += us


class Stored(NamedTuple):
    """A chunk as it lies in the ring."""

    data: bytes
    ts_us: int
    samples: int
    rate: int
    media_pos: int
    epoch: int
    flags: int
    discontinuity: int
    title: str

    @property
    def end_us(self) -> int:
        return self.ts_us + self.samples * 1_000_000 // self.rate


def stored(writer: RingWriter) -> list[Stored]:
    """Every chunk of a ring, oldest first."""
    found = []
    columns = writer.columns
    for seq in range(1, writer.head_seq):
        slot = seq & columns.chunk_mask
        row = {name: columns.view[name][slot] for name in columns.view if not name.startswith("meta_") or name == "meta_id"}
        data = b"".join(bytes(span) for span in columns.spans(row["pos"], row["pos"] + row["length"]))
        meta, text = row["meta_id"] & columns.meta_mask, columns.text_at(row["meta_id"])
        raw = bytes(columns.map[text : text + META_TEXT_BYTES]) if row["meta_id"] else b""
        title = raw[: columns.view["meta_title_bytes"][meta]].decode() if raw else ""
        found.append(
            Stored(
                data, row["ts_us"], row["samples"], row["rate"], row["media_pos"], row["epoch"], row["flags"], row["discontinuity"], title
            )
        )
    return found


def audio_of(writer: RingWriter) -> bytes:
    return b"".join(chunk.data for chunk in stored(writer))


def frames_of(data: bytes, format_name: str = "mp3") -> list[Frame]:
    """What a parser finds in the whole input."""
    parser = parser_for(format_name)
    return parser.feed(data) + parser.flush()


class StreamAtHand:
    """A feed: one ring and its chunker."""

    def __init__(self, clock: HandClock, key: str = "test", chunk_s: float = 0.5, titles: bool = True) -> None:
        self.key, self.accepts_titles = key, titles
        self.writer = RingWriter.create(key, 60, chunk_s, 65536)
        self.chunker = Chunker(self.writer, clock, chunk_s)


class Desk:
    """A mount with one stream (or more), and what a connection needs of the server; its time stands still until moved."""

    def __init__(self, *, format_name: str = "mp3", charset: str = "", streams: int = 1, source_timeout_s: float = 10.0) -> None:
        self.clock = HandClock()
        self.feeds = [StreamAtHand(self.clock, f"test{number or ''}") for number in range(streams)]
        self.rung = 0
        self.told: list[Source | None] = []
        settings = MountSettings("test", PASSWORD, format_name, charset)
        self.mount = Mount(settings, self.feeds, self.clock, self._ring, lambda mount: self.told.append(mount.active))
        self.mounts: Mapping[str, Mount] = {"test": self.mount}
        self.source_timeout_s = source_timeout_s
        self.trouble = TroubleLog()
        self.open: set[SourceConnection] = set()
        self.begun_once: list[SourceConnection] = []
        self._encoders: list[Encoder] = []

    def _ring(self) -> None:
        self.rung += 1

    @property
    def writer(self) -> RingWriter:
        return self.feeds[0].writer

    @property
    def chunks(self) -> list[Stored]:
        return stored(self.writer)

    @property
    def audio(self) -> bytes:
        return audio_of(self.writer)

    def now_s(self) -> float:
        return self.clock.monotonic / 1e6

    def begun(self, connection: SourceConnection) -> None:
        self.begun_once.append(connection)

    def gone(self, connection: SourceConnection) -> None:
        self.open.discard(connection)

    def pass_s(self, seconds: float) -> None:
        """Time goes by, and the server's timer has its turn."""
        self.clock.pass_us(int(seconds * 1e6))
        for connection in list(self.open):
            connection.check(self.now_s())
        self.mount.poll()

    def connect(self, *, received: bytes = b"", lone: bool = False) -> Encoder:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        connection = SourceConnection(theirs, "192.0.2.7", self, received=received, lone=lone)
        self.open.add(connection)
        self._encoders.append(Encoder(ours, connection))
        return self._encoders[-1]

    def close(self) -> None:
        for connection in list(self.open):
            connection.close("the test is over")
        for encoder in self._encoders:
            encoder.close()
        for feed in self.feeds:
            feed.writer.close()


class Encoder:
    """The encoder's end."""

    def __init__(self, sock: socket.socket, connection: SourceConnection | None = None) -> None:
        self.sock = sock
        self.connection = cast(SourceConnection, connection)  # None over TCP, where no test asks for it
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    async def send(self, data: bytes) -> None:
        """Send, and let the server take it."""
        await self._loop.sock_sendall(self.sock, data)
        await turn()

    async def send_split(self, data: bytes, sizes: Iterator[int]) -> None:
        """Send piece by piece, each taken before the next is sent."""
        at = 0
        while at < len(data):
            size = next(sizes)
            await self.send(data[at : at + size])
            at += size

    async def head(self) -> bytes:
        """The next answer's head, with its blank line; what was read so far when the connection ends."""
        while b"\r\n\r\n" not in self._unread:
            if not await self._read():
                break
        head, blank, self._unread = self._unread.partition(b"\r\n\r\n")
        return head + blank

    async def body(self, size: int) -> bytes:
        while len(self._unread) < size and await self._read():
            pass
        body, self._unread = self._unread[:size], self._unread[size:]
        return body

    async def rest(self) -> bytes:
        """All up to the end of the connection."""
        while await self._read():
            pass
        rest, self._unread = self._unread, b""
        return rest

    async def _read(self) -> bool:
        try:
            data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 65536), 5)
        except ConnectionError:
            return False
        self._unread += data
        return bool(data)

    def silent(self) -> bool:
        """Nothing to read, and the connection is open."""
        if self._unread:
            return False
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


async def turn(turns: int = 6) -> None:
    """Let the loop go round: everything that is readable is read."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Go round until it holds."""
    for _ in range(TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


@contextmanager
def no_stray_errors() -> Iterator[None]:
    """No exception may come out of a callback."""
    strays: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(context))
    yield
    assert strays == []


class Scene(NamedTuple):
    """A desk and what it logs."""

    desk: Desk
    logs: list[EventDict]

    def warnings(self) -> list[str]:
        """What an operator is warned of: event and reason."""
        return [f"{line['event']}: {line.get('reason', '')}" for line in self.logs if line["log_level"] in {"warning", "error"}]


@asynccontextmanager
async def scene(
    *, format_name: str = "mp3", charset: str = "", streams: int = 1, source_timeout_s: float = 10.0
) -> AsyncIterator[Scene]:
    """A desk in a loop that must stay free of stray exceptions."""
    with capture_logs() as logs, no_stray_errors():
        desk = Desk(format_name=format_name, charset=charset, streams=streams, source_timeout_s=source_timeout_s)
        try:
            yield Scene(desk, logs)
            await turn()
        finally:
            desk.close()
            await turn()


def basic(password: str = PASSWORD, user: str = "source") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def put(
    *extra: str,
    mount: str = "/test",
    password: str | None = PASSWORD,
    kind: str | None = "audio/mpeg",
    agent: str = "Lavf/59",
    end: str = "\r\n",
) -> bytes:
    """A PUT head with these header lines besides."""
    return _head(f"PUT {mount} HTTP/1.1", extra, password, kind, agent, end)


def source(
    *extra: str,
    mount: str = "/test",
    password: str | None = PASSWORD,
    kind: str | None = "audio/mpeg",
    agent: str = "libshout/2.4.6",
    protocol: str = "HTTP/1.0",
    end: str = "\r\n",
) -> bytes:
    """A SOURCE head."""
    return _head(f"SOURCE {mount} {protocol}", extra, password, kind, agent, end)


def _head(first: str, extra: tuple[str, ...], password: str | None, kind: str | None, agent: str, end: str) -> bytes:
    lines = [first, f"User-Agent: {agent}"]
    lines += [] if password is None else [f"Authorization: {basic(password)}"]
    lines += [] if kind is None else [f"Content-Type: {kind}"]
    return end.join([*lines, *extra, "", ""]).encode("latin-1")


def chunked(payload: bytes, sizes: Iterator[int], *, finished: bool = True) -> bytes:
    """The payload in chunks of these sizes (RFC 9112 7.1)."""
    found, at = [], 0
    while at < len(payload):
        piece = payload[at : at + next(sizes)]
        found.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += len(piece)
    return b"".join(found) + (b"0\r\n\r\n" if finished else b"")
