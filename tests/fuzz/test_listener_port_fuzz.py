"""Hostile bytes on the listener port: an answer of INTERFACES or a close, nothing else; the next client is served as before."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.channel.messages import WorkerSettings
from appliance.worker.connection import HEAD_TIMEOUT_S, IDLE_TIMEOUT_S, LINGER_S, Connection
from appliance.worker.poller import Poller
from tests.fakes import Air, FakeHost, entry

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=300)
SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parent.parent / "data" / "requests").glob("*.txt"))]
PLAYER_SEEDS = [
    b"GET /test HTTP/1.1\r\nHost: h\r\nIcy-MetaData: 1\r\nRange: bytes=0-\r\n\r\n",
    b"GET /test.pls?offset=5 HTTP/1.1\r\nHost: h\r\n\r\nGET /nope HTTP/1.1\r\n\r\nHEAD /test HTTP/1.0\r\n\r\n",
    b"OPTIONS /test HTTP/1.1\r\nOrigin: http://x\r\n\r\nPOST /test HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
]
SPLICES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b":", b"%", b"%00", b"%0d%0a", b"?", b"\xff", b"/", b"test", b"?offset=", b"1e999"),
    *(b"HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Connection: keep-alive\r\n", b" folded\r\n"),
    *(b"a" * 9_000, b"b: c\r\n" * 101, b"GET /nope HTTP/1.1\r\n\r\n" * 30, b"Range: bytes=0-1\r\n", b"User-Agent: Winamp\r\n"),
]
STATUSES = {200, 204, 400, 403, 404, 405, 408, 414, 431, 501, 503, 505}
ALL_SEEDS = [*SEEDS, *PLAYER_SEEDS * 5]
Edit = tuple[int, int, int | bytes]
splices = st.one_of(st.integers(0, len(SPLICES) - 1), st.binary(max_size=4))  # by index: some are too long to be shown
edits = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 6), splices), max_size=6)
heads = st.tuples(st.integers(0, len(ALL_SEEDS) - 1), edits)
garbage = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))


class Door:
    """A host with its loop; `knock` is one client from its first byte to its last."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.air = Air()
        self.air.play(40)
        self.faults: list[BaseException] = []
        self.poller = Poller(loop, self.faults.append)
        self.host = FakeHost(self.poller, self.air, WorkerSettings(ua_skip=["BadBot"]), entry(root=True))

    def knock(self, pieces: list[bytes], *, pause_s: float = 0.0, hang_up: bool = False) -> bytes:
        """Send these pieces, then wait (the clock is set by hand) until the server has closed; returns all it said."""
        server, client = socket.socketpair()
        server.setblocking(False)
        client.setblocking(False)
        connection = Connection(server, "fuzz", self.host)
        try:
            said = self._talk(connection, client, pieces, pause_s, hang_up)
            assert connection.sock.fileno() < 0, "still open"
        finally:
            connection.close()
            client.close()
        self._check()
        return said

    def _talk(self, connection: Connection, client: socket.socket, pieces: list[bytes], pause_s: float, hang_up: bool) -> bytes:
        said = b""
        for piece in pieces:
            while piece and connection.sock.fileno() >= 0:
                with contextlib.suppress(BlockingIOError):
                    piece = piece[client.send(piece[:40_000]) :]
                said += self._hear(client)
            self._wait(pause_s)
            said += self._hear(client)
        if hang_up:
            client.shutdown(socket.SHUT_WR)
        for _ in range(4):
            said += self._hear(client)
            self._wait(max(HEAD_TIMEOUT_S, IDLE_TIMEOUT_S, LINGER_S) + 0.1)
        return said + self._hear(client)

    def _wait(self, seconds: float) -> None:
        self.host.clock.advance(seconds)
        self.host.deadlines.sweep()

    def _hear(self, client: socket.socket) -> bytes:
        said = b""
        for _ in range(40):
            self.poller._poll()
            try:
                data = client.recv(1 << 20)
            except (BlockingIOError, ConnectionError):
                if not said:
                    break
                data = b""
            said += data
            if not data:
                break
        return said

    def _check(self) -> None:
        """Nothing is left of the client."""
        assert not self.faults
        assert len(self.poller) == 0
        assert not self.host.deadlines._length

    def still_serves(self) -> None:
        """The next client gets its audio."""
        before = len(self.host.players)
        assert answers(self.knock([PLAYER_SEEDS[0]], hang_up=True)) == [200]
        assert len(self.host.players) == before + 1

    def close(self) -> None:
        self.poller.close()
        self.air.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """One for all examples: what one client did must not matter to the next."""
    loop = asyncio.new_event_loop()
    door = Door(loop)
    yield door
    door.still_serves()
    door.close()
    loop.close()


def answers(said: bytes) -> list[int]:
    """The statuses of whole, well-formed answers; audio heads (which end it) have no length."""
    found: list[int] = []
    while said:
        head, end, said = said.partition(b"\r\n\r\n")
        assert end, head
        lines = head.decode().split("\r\n")
        assert lines[0].startswith(("HTTP/1.1 ", "ICY 200 OK")), lines[0]
        found.append(int(lines[0].split(" ")[1]))
        assert found[-1] in STATUSES
        headers = {name: value for name, _, value in (line.lower().partition(": ") for line in lines[1:])}
        if "icy-name" in headers:
            assert not said
            break
        length = int(headers.get("content-length", "0"))
        body, said = said[:length], said[length:]
        if found[-1] >= 400:
            assert body == b"" or (body.count(b"\n") == 1 and body.endswith(b"\n"))
            if not body:  # the answer to a HEAD: what follows is the next answer
                assert length == 0 or not said or said.startswith(b"HTTP/1.1")
    return found


def whole_answers(said: bytes) -> None:
    """As `answers`, but for clients that may have asked with HEAD: every answer begins where a head may."""
    assert said == b"" or said.startswith((b"HTTP/1.1 ", b"ICY 200 OK\r\n"))
    for part in re.split(rb"^HTTP/1\.1 ", said, flags=re.MULTILINE)[1:]:
        assert int(part[:3]) in STATUSES
        assert b"\r\n\r\n" in part


def mutated(number: int, changes: list[Edit]) -> bytes:
    """A seed with bytes cut out and others put in."""
    seed = ALL_SEEDS[number]
    for at, cut_bytes, what in changes:
        splice = SPLICES[what] if isinstance(what, int) else what
        at %= len(seed) + 1
        seed = seed[:at] + splice + seed[at + cut_bytes :]
    return seed


def split(data: bytes, cuts: list[float]) -> list[bytes]:
    """In pieces, cut at these shares of its length."""
    places = sorted({int(cut * len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


@FIXED
@given(data=garbage, cuts=st.lists(st.floats(0, 1), max_size=3), hang_up=st.booleans())
@example(data=b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", cuts=[], hang_up=False)
@example(data=b"hackme\r\n", cuts=[], hang_up=False)
def test_garbage(door: Door, data: bytes, cuts: list[float], hang_up: bool) -> None:
    """Refused, or waited for and closed."""
    said = door.knock(split(data, cuts), hang_up=hang_up)
    whole_answers(said)
    assert not door.host.passed or door.host.passed[-1]


@FIXED
@given(head=heads, cuts=st.lists(st.floats(0, 1), max_size=4), hang_up=st.booleans(), pause_s=st.sampled_from([0.0, 0.0, 4.0, 11.0]))
def test_damaged_requests(
    door: Door, head: tuple[int, list[Edit]], cuts: list[float], hang_up: bool, pause_s: float
) -> None:
    """Requests as encoders and players send them, damaged, cut anywhere, with pauses."""
    whole_answers(door.knock(split(mutated(*head), cuts), pause_s=pause_s, hang_up=hang_up))


@pytest.mark.parametrize("seed", range(6))
def test_random_floods(door: Door, seed: int) -> None:
    """200 KB of noise, of line ends, of colons, of requests without an end."""
    noise = random.Random(seed)
    floods = [
        noise.randbytes(200_000), b"\n" * 200_000, b":" * 200_000, b"GET /nope HTTP/1.1\r\n\r\n" * 8_000,
        b"GET " + b"/" * 200_000, b"GET /test HTTP/1.1\r\n" + b"x:" * 100_000,
    ]  # fmt: skip
    whole_answers(door.knock([floods[seed]]))
    door.still_serves()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /test HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(10_000)) + b"\r\n", 431),
        (b"GET /test HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /test HTTP/1.1\r\nX: " + b"y" * 500_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"A" * 500_000, 400),
        (b"GET /test HTTP/2.0\r\n\r\n", 505),
        (b"GET /test\r\n\r\n", 400),
        (b"GET /test HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /nope HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /nope HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /nope HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"BREW /test HTTP/1.1\r\n\r\n", 405),
        (b"GET /test?offset=yesterday HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /test HTTP/1.1\r\nUser-Agent: BadBot\r\nConnection: close\r\n\r\n", 403),
    ],
)
def test_each_has_its_answer(door: Door, data: bytes, status: int) -> None:
    """INTERFACES, whole and in small packets."""
    assert answers(door.knock([data])) == [status]
    assert answers(door.knock([data[:900], *split(data[900:], [0.3, 0.7])])) == [status]
    door.still_serves()


@pytest.mark.parametrize("data", [b"G", b"GET /test HTTP/1.1", b"GET /test HTTP/1.1\r\nHost: h\r\n"])
@pytest.mark.parametrize("pause_s", [0.5, 3.0, 11.0])
def test_slow_requests(door: Door, data: bytes, pause_s: float) -> None:
    """Half a request, whole or a byte at a time: 408 ten seconds after its first byte."""
    assert answers(door.knock([data], pause_s=pause_s)) == [408]
    dribbled = answers(door.knock([bytes([byte]) for byte in data], pause_s=pause_s))
    assert dribbled == [408]


def test_bodies_are_never_requests(door: Door) -> None:
    """Smuggling: what a body holds is not routed."""
    inner = b"PUT /test HTTP/1.1\r\n\r\n"
    passed = len(door.host.passed)
    for framing in (b"Content-Length: %d\r\n\r\n" % len(inner), b"Transfer-Encoding: chunked\r\n\r\n16\r\n"):
        for start in (b"GET /nope", b"OPTIONS /test", b"GET /test.pls", b"POST /test"):
            assert len(answers(door.knock([start + b" HTTP/1.1\r\n" + framing + inner + b"\r\n0\r\n\r\n"]))) == 1
    assert len(door.host.passed) == passed
