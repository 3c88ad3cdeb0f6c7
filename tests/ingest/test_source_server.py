"""The source server on a loopback port: accepting, adopting, its timer, its end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from appliance.ingest import source_server
from appliance.ingest.source_server import SourceServer
from appliance.system import sockets
from tests.ingest.source_makers import Encoder, Scene, put, scene, source, turn, until
from tests.ingest.test_source_connection import AUDIO, BEGUN, CONTINUE, SAMPLE


class Port:
    """A scene behind a real port. The server's own clock is the loop's; the audio's is the scene's."""

    def __init__(self, here: Scene, server: SourceServer, address: tuple[str, int]) -> None:
        self.here, self.server, self.address = here, server, address
        self.encoders: list[Encoder] = []

    async def connect(self) -> Encoder:
        sock = socket.socket()
        sock.setblocking(False)
        self.encoders.append(Encoder(sock))
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        return self.encoders[-1]


@asynccontextmanager
async def port() -> AsyncIterator[Port]:
    async with scene() as here:
        server = SourceServer(here.desk.mounts, 10)
        listening = sockets.listening("127.0.0.1", 0)
        server.listen(listening)
        made = Port(here, server, listening.getsockname())
        try:
            yield made
        finally:
            server.close("the test is over")
            for encoder in made.encoders:
                encoder.close()


async def test_an_encoder_on_the_port() -> None:
    """From connect to the last frame."""
    async with port() as here:
        encoder = await here.connect()
        await encoder.send(put("Expect: 100-continue"))
        assert await encoder.head() == CONTINUE
        await encoder.send(SAMPLE)
        encoder.close()
        await until(lambda: here.here.desk.audio == AUDIO)
        await until(lambda: here.here.desk.mount.active is None)
        assert here.here.logs[0]["peer"] == "127.0.0.1"


async def test_a_reset_is_an_end_like_any_other() -> None:
    """RST: the source is gone, its audio is kept, one line."""
    async with port() as here:
        encoder = await here.connect()
        await encoder.send(put() + SAMPLE)
        await until(lambda: here.here.desk.mount.active is not None)
        assert await encoder.head() == BEGUN
        await turn(20)
        encoder.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        encoder.close()
        await until(lambda: here.here.desk.mount.active is None)
        assert here.here.desk.audio == AUDIO
        assert here.here.logs[-1]["reason"] == "Connection reset by peer"


async def test_the_whole_answer_reaches_an_encoder_that_talks_on() -> None:
    """200 KB sent without waiting, a wrong password: the 401 is read in full before the end."""
    async with port() as here:
        encoder = await here.connect()
        sending = asyncio.ensure_future(encoder.send(source(password="nope") + SAMPLE))
        answer = await encoder.rest()
        await asyncio.gather(sending, return_exceptions=True)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert answer.endswith(b"\r\n\r\nthe source password is needed\n")


async def test_takeover_over_tcp() -> None:
    async with port() as here:
        old, new = await here.connect(), await here.connect()
        await old.send(put() + SAMPLE[:20000])
        await until(lambda: len(here.here.desk.mount.sources) == 1)
        assert await old.head() == BEGUN
        await new.send(put())
        assert await new.head() == BEGUN
        assert await old.rest() == b""
        assert len(here.here.desk.mount.sources) == 1


async def test_the_timer_keeps_deadlines_and_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held bursts go out and deadlines are looked at with no further byte from anybody."""
    monkeypatch.setattr(source_server, "CHECK_S", 0.001)
    async with port() as here:
        await (await here.connect()).send(put() + SAMPLE)
        await until(lambda: here.here.desk.feeds[0].chunker.frames_held > 100)
        here.here.desk.clock.pass_us(300_000)
        await asyncio.wait_for(_until_heard(here), 5)
        assert here.here.desk.mount.active is not None


async def _until_heard(here: Port) -> None:
    while not here.here.desk.audio:
        await asyncio.sleep(0.001)


async def test_one_connection_too_many_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_server, "MAX_CONNECTIONS", 2)
    async with port() as here:
        for _ in range(2):
            await (await here.connect()).send(b"PUT")
        answer = await (await here.connect()).rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert len(here.here.warnings()) == 1
        assert "too many" in here.here.warnings()[0]
        here.encoders[0].close()
        await turn(20)
        again = await here.connect()
        await again.send(source())
        assert await again.head() == BEGUN


async def test_a_passed_connection_is_adopted() -> None:
    """Blocking or not, with what was read of it."""
    async with port() as here:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        encoder = Encoder(ours)
        here.encoders.append(encoder)
        received = b"GET /admin.cgi?pass=hack:me&song=A HTTP/1.1\r\n\r\n"
        here.server.adopt(theirs, "198.51.100.1", received=received, lone=True)
        answer = await encoder.rest()
        assert answer.endswith(b"OK\n")
        assert b"Connection: close" in answer


async def test_close_publishes_and_ends_everything() -> None:
    """Sources first: their last frames are in the ring; nobody is accepted or adopted any more."""
    async with port() as here:
        encoder, idle = await here.connect(), await here.connect()
        await encoder.send(put() + SAMPLE)
        await until(lambda: here.here.desk.feeds[0].chunker.frames_held > 100)
        await turn(20)
        here.server.close("the server stops")
        assert here.here.desk.audio == AUDIO
        assert (await encoder.rest()).endswith(BEGUN)
        assert await idle.rest() == b""
        with pytest.raises(OSError):
            await here.connect()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        here.encoders.append(Encoder(ours))
        here.server.adopt(theirs, "198.51.100.1", received=b"", lone=True)
        assert (await here.encoders[-1].rest()).startswith(b"HTTP/1.1 503 ")


async def test_running_out_of_fds_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    """accept fails: told once, and tried again after a pause."""
    monkeypatch.setattr(source_server, "PAUSE_S", 0.01)

    class Exhausted:
        """A listening socket in a process without a free fd."""

        def __init__(self, true: socket.socket) -> None:
            self.true, self.tries = true, 0

        def fileno(self) -> int:
            return self.true.fileno()

        def accept(self) -> tuple[socket.socket, object]:
            self.tries += 1
            if self.tries < 3:
                raise OSError(24, "Too many open files")
            return self.true.accept()

        def close(self) -> None:
            self.true.close()

    async with port() as here:
        listening = sockets.listening("127.0.0.1", 0)
        poor = Exhausted(listening)
        here.server.listen(poor)  # type: ignore[arg-type]
        here.address = listening.getsockname()
        encoder = await here.connect()
        await turn(50)
        assert poor.tries == 1
        await encoder.send(source())
        assert await encoder.head() == BEGUN
        assert poor.tries == 3
        assert here.here.warnings() == ["cannot accept a source: Too many open files"]
