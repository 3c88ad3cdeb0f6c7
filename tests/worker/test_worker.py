"""A whole worker in this process, told what to do over its channel: what needs all of its parts together."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from appliance.channel.framing import BadMessage, Channel
from appliance.channel.messages import AddStreams, Hello, Message, PassRequest, RemoveStream, Setup, Slots, Stop, StreamInfo, WorkerSettings
from appliance.ring.counters import Count, CountersPage, StreamCount
from appliance.ring.listeners import ListenerTable
from appliance.system import sockets
from appliance.worker import connection
from appliance.worker.worker import Worker
from tests.fakes import Air, entry

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Supervisor:
    """The other end of the channel."""

    def __init__(self, air: Air, settings: WorkerSettings) -> None:
        self.air, self.settings = air, settings
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.got: list[tuple[Message, list[int]]] = []
        self.news, self.ended = asyncio.Event(), asyncio.Event()
        self.channel = Channel(ours, self._message, lambda: None, self._bad)
        self.worker = Worker(theirs, self.ended)
        self.theirs = theirs
        page, other, table = CountersPage.create("0"), CountersPage.create("1"), ListenerTable.create("0")
        self.page, self.other = CountersPage(page, writable=False), CountersPage(other, writable=True)
        self.channel.send(Setup(0, settings), [page, table, other])
        for fd in (page, other, table):
            os.close(fd)
        self.slot = sockets.listening("127.0.0.1", 0)
        self.port = self.slot.getsockname()[1]
        self.channel.send(Slots([0], [0]), [self.slot.fileno()])
        self.open: list[asyncio.StreamWriter] = []

    def _message(self, message: Message, fds: list[int]) -> None:
        self.got.append((message, fds))
        self.news.set()

    def _bad(self, error: BadMessage) -> None:
        raise error

    async def next(self) -> tuple[Message, list[int]]:
        while not self.got:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 3)
        return self.got.pop(0)

    async def start(self) -> None:
        hello, fds = await self.next()
        assert isinstance(hello, Hello)
        self.bell = fds[0]
        self.channel.send(AddStreams([entry(root=True)]), [self.air.writer.reader_fd])

    async def ask(self, target: str, *fields: str, method: str = "GET") -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open.append(writer)
        writer.write(("\r\n".join((f"{method} {target} HTTP/1.1", "Host: h", *fields)) + "\r\n\r\n").encode())
        return reader, writer

    async def head(self, target: str, *fields: str) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.ask(target, *fields)
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3), reader, writer

    def play(self, chunks: int = 2) -> None:
        self.air.play(chunks)
        os.eventfd_write(self.bell, 1)

    async def until(self, word: int, value: int) -> None:
        async with asyncio.timeout(5):
            while self.page.worker[word] != value:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        self.channel.send(Stop(0.0))
        await asyncio.wait_for(self.ended.wait(), 3)
        for writer in self.open:
            writer.close()
        self.channel.close()
        self.slot.close()
        os.close(self.bell)
        for fd in (fd for _, fds in self.got for fd in fds):
            os.close(fd)
        for watched in self.worker.poller.all():
            watched.abort("test over")
        self.worker.poller.close()
        self.worker._channel.close()
        self.worker._loop.remove_reader(self.worker._bell)
        os.close(self.worker._bell)


@pytest.fixture
async def station(air: Air, request: pytest.FixtureRequest) -> AsyncIterator[Supervisor]:
    """A worker with the stream `test`, 20 s of it; settings by indirect parameter."""
    supervisor = Supervisor(air, getattr(request, "param", WorkerSettings(send_interval=0.25)))
    await supervisor.start()
    yield supervisor
    await supervisor.close()


async def test_a_player_plays(station: Supervisor) -> None:
    """Burst, then what the doorbell announced; counted while it is there."""
    head, reader, writer = await station.head("/test")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert await asyncio.wait_for(reader.readexactly(4 * 8_000), 3) == bytes(station.air.audio[-4 * 8_000 :])
    station.play()
    assert await asyncio.wait_for(reader.readexactly(2 * 8_000), 3) == bytes(station.air.audio[-2 * 8_000 :])
    assert station.page.worker[Count.LISTENERS] == station.page.stream(0)[StreamCount.LISTENERS] == 1
    writer.close()
    await station.until(Count.LISTENERS, 0)
    assert station.page.worker[Count.ACCEPTED] == station.page.worker[Count.REQUESTS] == 1


async def test_checkpoints_count_earlier_answers_of_the_connection(station: Supervisor) -> None:
    """MECHANICS 4: total bytes ever; here a playlist was fetched on the same connection."""
    _, reader, writer = await station.head("/test.pls")
    body = await reader.readuntil(b"Version=2\n")
    writer.write(b"GET /test HTTP/1.1\r\nHost: h\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 3)
    audio = await asyncio.wait_for(reader.readexactly(4 * 8_000), 3)
    await station.until(Count.LISTENERS, 1)
    listener = next(iter(station.worker._fanout.listeners))
    row = station.worker._fanout._table.read(listener.row)
    assert row is not None
    before = row.total - len(head) - len(audio)
    assert before > len(body)
    assert row.total == listener.total
    assert row.pos == len(station.air.audio)


@pytest.mark.parametrize("icy", [False, True])
async def test_a_probe_is_no_listener(station: Supervisor, icy: bool) -> None:
    """`Range: bytes=0-1`: 200, some audio (with blocks where they are awaited), the end; nobody was counted."""
    changed = entry(root=True, meta_interval=1_024, name="New")
    station.channel.send(StreamInfo(changed))
    fields = ["Range: bytes=0-1", *(["Icy-MetaData: 1"] if icy else [])]
    head, reader, _ = await station.head("/test", *fields)
    body = await asyncio.wait_for(reader.read(), 3)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    start = len(station.air.audio) - 4 * 8_000
    assert body == station.air.sent(start, start + 8_192, 1_024 if icy else 0)
    assert station.page.stream(0)[StreamCount.STARTED] == station.page.worker[Count.LISTENERS] == 0


@pytest.mark.parametrize("station", [WorkerSettings(send_interval=0.25, max_listeners=4)], indirect=True)
async def test_max_listeners_counts_all_workers(station: Supervisor) -> None:
    """Two here, two on the other worker: the fifth gets 503; when one leaves there is room."""
    station.other.worker[Count.LISTENERS] = 2
    first = await station.head("/test")
    assert (await station.head("/test"))[0].startswith(b"HTTP/1.1 200")
    refused = (await station.head("/test"))[0]
    assert refused.startswith(b"HTTP/1.1 503")
    assert b"Retry-After" in refused
    first[2].close()
    await station.until(Count.LISTENERS, 1)
    assert (await station.head("/test"))[0].startswith(b"HTTP/1.1 200")


async def test_max_listeners_of_a_stream(station: Supervisor) -> None:
    """Its own limit, over all workers."""
    station.channel.send(StreamInfo(entry(root=True, max_listeners=3)))
    station.other.stream(0)[StreamCount.LISTENERS] = 2
    assert (await station.head("/test"))[0].startswith(b"HTTP/1.1 200")
    assert (await station.head("/test"))[0].startswith(b"HTTP/1.1 503")


async def test_a_source_goes_to_the_supervisor_whole(station: Supervisor) -> None:
    """The connection, and every byte read from it so far, audio too; the worker lets go of it."""
    _, writer = await station.ask("/test", "Authorization: Basic eDp5", method="PUT")
    message, fds = await station.next()
    assert isinstance(message, PassRequest)
    assert message.received == b"PUT /test HTTP/1.1\r\nHost: h\r\nAuthorization: Basic eDp5\r\n\r\n"
    assert message.peer == "127.0.0.1"
    assert station.page.worker[Count.PASSED] == 1
    with socket.socket(fileno=fds[0]) as sock:
        writer.write(b"audio")
        await writer.drain()
        assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"audio"
    assert len(station.worker.poller) == 0


async def test_a_bad_request_is_answered_and_counted(station: Supervisor) -> None:
    """One of each kind."""
    reader, writer = await asyncio.open_connection("127.0.0.1", station.port)
    station.open.append(writer)
    writer.write(b"GET /test HTTP/1.1\r\nno colon\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 400 ")
    assert station.page.worker[Count.BAD_REQUESTS] == 1


async def test_half_a_request_is_counted_as_a_timeout(station: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 after its time; a kept connection that says nothing more is closed and is no timeout."""
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT_S", 0.2)
    idle, writer = await station.ask("/nope")
    reader, half = await asyncio.open_connection("127.0.0.1", station.port)
    half.write(b"GET /te")
    station.open.append(half)
    assert (await asyncio.wait_for(reader.read(), 3)).startswith(b"HTTP/1.1 408 ")
    assert (await asyncio.wait_for(idle.read(), 3)).startswith(b"HTTP/1.1 404 ")
    assert station.page.worker[Count.TIMEOUTS] == 1
    assert writer is not half


async def test_a_removed_stream_ends_its_listeners(station: Supervisor) -> None:
    """And is 404 afterwards."""
    _, reader, _ = await station.head("/test")
    station.channel.send(RemoveStream(0))
    await asyncio.wait_for(reader.read(), 3)
    assert (await station.head("/test"))[0].startswith(b"HTTP/1.1 404")


async def test_stop_sends_what_is_due_then_fin(station: Supervisor) -> None:
    """Nothing accepted any more; each listener gets all audio there is and an end; when all are gone the worker is done."""
    players = [await station.head("/test") for _ in range(20)]
    for _, reader, _ in players:
        await asyncio.wait_for(reader.readexactly(4 * 8_000), 3)
    station.air.play(2)  # not even announced
    station.channel.send(Stop(30.0))
    rest = [await asyncio.wait_for(reader.read(), 3) for _, reader, _ in players]
    assert set(rest) == {bytes(station.air.audio[-2 * 8_000 :])}
    for _, _, writer in players:
        writer.close()
    await asyncio.wait_for(station.ended.wait(), 3)


async def test_a_lost_supervisor_ends_the_worker(air: Air) -> None:
    """Its channel says EOF: it drains as if told to stop."""
    supervisor = Supervisor(air, WorkerSettings(send_interval=0.25))
    await supervisor.start()
    _, reader, writer = await supervisor.head("/test")
    supervisor.channel.close()
    assert await asyncio.wait_for(reader.read(), 3) == bytes(air.audio[-4 * 8_000 :])
    writer.close()
    await asyncio.wait_for(supervisor.ended.wait(), 3)
    supervisor.worker.poller.close()
    supervisor.slot.close()
    os.close(supervisor.bell)
    supervisor.worker._loop.remove_reader(supervisor.worker._bell)
    os.close(supervisor.worker._bell)
