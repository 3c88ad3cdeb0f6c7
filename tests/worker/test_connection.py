"""A connection in its request phase, over real sockets: deadlines, keep-alive, pipelining, answers that do not fit, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from appliance.channel.messages import WorkerSettings
from appliance.worker.connection import HEAD_TIMEOUT_S, IDLE_TIMEOUT_S, LINGER_S, REQUESTS_A_ROUND, Connection
from appliance.worker.poller import Poller
from tests.fakes import Air, FakeHost, entry, loopback

GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"
LONG_NAME = "Radio " * 300  # makes index.html an answer of 3 KB: a small send buffer takes a few


class Line:
    """A connection under test and its client."""

    def __init__(self, host: FakeHost, *, tcp: bool = False, sndbuf: int = 0) -> None:
        if tcp:
            server, self.client = loopback()
        else:
            server, self.client = socket.socketpair()
            server.setblocking(False)
        if sndbuf:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        self.client.setblocking(False)
        self.host, self.faults = host, host
        self.connection = Connection(server, "127.0.0.1", host)
        self.got = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        self.client.sendall(data)
        self.turn()

    def turn(self, times: int = 6) -> None:
        for _ in range(times):
            self.host.poller._poll()

    def read(self, most_bytes: int = 1 << 20) -> bytes:
        """Everything answered so far; `ended` after a FIN or a reset."""
        while True:
            self.turn()
            try:
                data = self.client.recv(min(most_bytes, 65_536))
            except BlockingIOError:
                return self.got
            except ConnectionResetError:
                self.ended = True
                return self.got
            if not data:
                self.ended = True
                return self.got
            self.got += data
            most_bytes -= len(data)
            if most_bytes <= 0:
                return self.got

    def pass_time(self, seconds: float) -> None:
        self.host.clock.advance(seconds)
        self.host.deadlines.sweep()
        self.turn()

    @property
    def closed(self) -> bool:
        return self.connection.sock.fileno() < 0

    @property
    def statuses(self) -> list[int]:
        """Status codes of the answers so far, in order; only for answers whose bodies hold none."""
        return [int(line[9:12]) for line in self.read().split(b"\n") if line.startswith(b"HTTP/1.1 ")]


Call = Callable[..., Line]


@pytest.fixture
async def call(air: Air) -> AsyncIterator[Call]:
    """call(tcp=False, sndbuf=0, settings=None): a connection to a host with the stream `test`."""
    faults: list[BaseException] = []
    poller = Poller(asyncio.get_running_loop(), faults.append)
    lines: list[Line] = []

    def make(*, tcp: bool = False, sndbuf: int = 0, settings: WorkerSettings | None = None) -> Line:
        lines.append(Line(FakeHost(poller, air, settings, entry(root=True, name=LONG_NAME)), tcp=tcp, sndbuf=sndbuf))
        return lines[-1]

    yield make
    for line in lines:
        line.client.close()
        line.connection.close()
        assert not line.host.deadlines._length  # nothing is kept of a closed connection
        assert not any(line.host.deadlines._queues.values())
    assert len(poller) == 0
    poller.close()
    assert not faults


async def test_a_request_in_one_piece_and_byte_by_byte(call: Call) -> None:
    """The same answer; the connection goes on."""
    whole, slow = call(), call()
    whole.send(GET % b"/nope")
    for byte in GET % b"/nope":
        slow.send(bytes([byte]))
    assert whole.read().split(b"\r\n")[0] == b"HTTP/1.1 404 Not Found"
    assert slow.read() == whole.read()
    assert not whole.ended


async def test_keep_alive_and_close(call: Call) -> None:
    """HTTP/1.1 goes on until told otherwise; HTTP/1.0 does not."""
    line = call()
    for _ in range(3):
        line.send(GET % b"/test.pls")
    line.send(b"GET /nope HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert line.statuses == [200, 200, 200, 404]
    assert line.ended
    old = call()
    old.send(b"GET /nope HTTP/1.0\r\n\r\n")
    assert old.statuses == [404]
    assert old.ended


@pytest.mark.parametrize("number", [2, REQUESTS_A_ROUND, REQUESTS_A_ROUND + 1, 150])
async def test_pipelined_requests_are_answered_in_order(call: Call, number: int) -> None:
    """Those of one packet too, a few a turn; the last may be cut in the middle."""
    line = call()
    requests = b"".join(GET % (b"/nope" if index % 2 else b"/test.m3u") for index in range(number))
    line.send(requests + b"GET /te")
    assert line.statuses == [404 if index % 2 else 200 for index in range(number)]
    line.send(b"st.pls HTTP/1.1\r\nHost: h\r\n\r\n")
    assert line.statuses[number:] == [200]
    assert line.got.count(b"[playlist]") == 1


async def test_one_connection_cannot_hold_up_the_others(call: Call) -> None:
    """A turn answers a few pipelined requests, no more."""
    line = call()
    line.client.sendall((GET % b"/nope") * 100)
    line.turn(1)
    assert line.client.recv(1 << 20).count(b"HTTP/1.1 404") == REQUESTS_A_ROUND


async def test_answers_that_do_not_fit_wait_for_the_reader(call: Call) -> None:
    """Pipelining without reading: nothing is lost, reordered or read ahead without bound."""
    line = call(sndbuf=4_608)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 3_000:
            line.client.sendall(GET % b"/index.html")
            sent += 1
            line.turn(2)
    assert len(line.connection._unsent) < 6_000  # one answer
    assert len(line.connection._waiting) <= 16_384
    for _ in range(3_000):
        before = len(line.got)
        line.read(900)
        if len(line.got) == before:
            break
    assert line.got.count(b"HTTP/1.1 200 OK") >= sent - 1
    assert line.got.count(b"</html>") == line.got.count(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("number", [6, 7, 20])
async def test_audio_behind_unsent_answers_starts_after_them(call: Call, number: int) -> None:
    """A pipelined GET of audio is only served once the earlier answers are out, and the bytes before it are known."""
    line = call(sndbuf=4_608)
    line.send((GET % b"/index.html") * number + GET % b"/test")
    assert not line.host.players
    got = line.read()
    assert len(line.host.players) == 1
    play, sent_bytes = line.host.players[0]
    assert got[sent_bytes:] == play.head
    assert got[:sent_bytes].count(b"</html>") == number


@pytest.mark.parametrize("number", [6, 7, 20])
async def test_a_request_for_the_supervisor_behind_unsent_answers(call: Call, number: int) -> None:
    """It leaves with exactly its own bytes, once the others are answered."""
    line = call(sndbuf=4_608)
    put = b"PUT /test HTTP/1.1\r\nHost: h\r\n\r\n\xff\xfbaudio"
    line.send((GET % b"/index.html") * number + put)
    assert not line.host.passed
    line.read()
    assert line.host.passed == [put]
    assert line.got.count(b"</html>") == number
    assert line.closed


async def test_half_a_request_is_408_after_ten_seconds(call: Call) -> None:
    """However its bytes dribble in."""
    line = call()
    line.send(b"GET /te")
    for _ in range(9):
        line.pass_time(HEAD_TIMEOUT_S / 10)
        line.send(b"s")
        assert not line.read()
    line.pass_time(HEAD_TIMEOUT_S / 10 + 0.01)
    assert line.statuses == [408]
    assert line.ended
    assert line.host.timeouts == 1


async def test_silence_is_closed_without_a_word(call: Call) -> None:
    """Nothing was asked: before the first byte, and between requests."""
    fresh, kept = call(), call()
    kept.send(GET % b"/nope")
    fresh.pass_time(HEAD_TIMEOUT_S + 0.01)
    assert fresh.read() == b""
    assert fresh.closed
    kept.pass_time(IDLE_TIMEOUT_S + 0.01)
    assert kept.statuses == [404]
    assert kept.closed
    assert fresh.host.timeouts == kept.host.timeouts == 0


async def test_a_second_request_has_its_own_ten_seconds(call: Call) -> None:
    """Counted from its first byte, not from the answer before it."""
    line = call()
    line.send(GET % b"/nope")
    line.pass_time(IDLE_TIMEOUT_S - 1)
    line.send(b"GET /x HT")
    line.pass_time(HEAD_TIMEOUT_S - 1)
    assert not line.closed
    line.pass_time(1.01)
    assert line.statuses == [404, 408]


async def test_a_peer_that_reads_no_answer_is_let_go(call: Call) -> None:
    """After the idle time, with nothing more said."""
    line = call(sndbuf=4_608)
    line.send((GET % b"/index.html") * 100)
    line.pass_time(IDLE_TIMEOUT_S + 0.01)
    assert line.closed
    assert line.host.timeouts == 0


async def test_a_refused_request_gets_its_answer_although_its_sender_goes_on(call: Call) -> None:
    """10,000 headers over TCP: closing on unread bytes would be a RST that eats the 431."""
    line = call(tcp=True)
    data = b"GET /test HTTP/1.1\r\n" + b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(10_000)) + b"\r\n"
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[line.client.send(data[:30_000]) :]
        line.turn()
    assert line.statuses == [431]
    assert line.host.refused == [431]
    assert line.ended
    line.client.close()
    line.turn()
    assert line.closed


async def test_lingering_ends(call: Call) -> None:
    """A peer that neither closes nor stops sending after its last answer is let go; nothing of it is read as a request."""
    line = call()
    line.send(b"nonsense\r\n")
    line.send(GET % b"/test")
    assert line.statuses == [400]
    before = line.closed
    line.pass_time(LINGER_S + 0.01)
    assert [line.ended, before, line.closed] == [True, False, True]
    assert line.host.timeouts == 0
    assert not line.host.players
    assert line.statuses == [400]


async def test_a_peer_that_half_closes_gets_its_answers(call: Call) -> None:
    """As `printf ... | nc -N` does, pipelined and slow to read."""
    line = call(sndbuf=4_608)
    line.client.sendall((GET % b"/index.html") * 30)
    line.client.shutdown(socket.SHUT_WR)
    line.read()
    assert line.got.count(b"</html>") == 30
    assert line.closed


async def test_a_peer_that_is_gone_is_forgotten(call: Call) -> None:
    """At any stage: silent, half a request, unsent answers."""
    for sent in (b"", b"GET /", (GET % b"/index.html") * 50):
        for tcp in (False, True):
            line = call(tcp=tcp, sndbuf=4_608)
            if sent:
                line.send(sent)
            line.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            line.client.close()
            line.turn(20)
            assert line.closed


async def test_abort(call: Call) -> None:
    """Closed at once, once."""
    line = call()
    line.connection.abort("test")
    line.connection.close()
    assert line.closed
