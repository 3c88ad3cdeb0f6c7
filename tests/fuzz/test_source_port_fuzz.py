"""Bad input on the source port, while a good source is on air: each gets its answer and its one line in the log; nothing else changes.

Seeds and counts are fixed, so a failure is the same for everybody.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.wire.frames import parser_for
from tests.ingest.source_makers import Encoder, Scene, basic, chunked, frames_of, put, scene, source, turn, until
from tests.wire.frame_makers import adts_run, id3v2, mpeg_run

CAPTURED = Path(__file__).parent.parent / "data" / "requests"
GOOD = b"".join(mpeg_run(40))
RUN = b"".join(mpeg_run(120, kbps=64))
TITLE = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: 33\r\n\r\nmode=updinfo&mount=/test&song=A+B"
WELL_FORMED = [put(), put("Expect: 100-continue"), put("Transfer-Encoding: chunked"), put(password=None)]
WELL_FORMED += [source(), source(end="\n"), TITLE.encode()]
FAULTS = [b"\r\n", b"zz\r\n", b"-5\r\n", b"5\r\nabcdefgh", b"1" * 17 + b"\r\n", b";" * 2000, b"\0\r\n", b" 5\r\nabcde\r\n"]
FORMS = [b"a=b&" * 4096, b"%" * 16384, b"&" * 16384, b"=" * 16384, b"song=" + b"%41" * 5459, b"mode=updinfo&song=" + b"%ff" * 5000]
HOUR_S = 3600.0

is_answer = re.compile(rb"(?:HTTP/1\.[01] \d{3} [A-Za-z ]+\r\n(?:[A-Za-z-]+: [^\r\n]*\r\n)*\r\n[^\x00]*)+|invalid password\r\n").fullmatch


class Outcome(NamedTuple):
    """What became of a connection: all that was answered, and what the operator was warned of."""

    answer: bytes
    warnings: list[str]

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ")[1]) if self.answer.startswith(b"HTTP/") else 0


class OnAir:
    """A scene with a good source; after each attack it goes on, and in the end its every frame has been heard."""

    def __init__(self, here: Scene, encoder: Encoder) -> None:
        self.here, self._encoder = here, encoder
        self.rounds = 0

    async def attack(self, data: bytes, sizes: Iterator[int] | None = None, *, wait_s: float = 10.1, half: bool = False) -> Outcome:
        """Send it in pieces, wait until the server's patience ends (`half`: close before), and look what has changed."""
        desk, logs = self.here.desk, self.here.logs
        desk.trouble.tick()
        logs.clear()
        encoder = desk.connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be closed before it has said all
            await encoder.send_split(data, sizes or itertools.repeat(len(data) or 1))
        if half:
            encoder.close()
            await until(lambda: encoder.connection not in desk.open)
            answer = b""
        else:
            desk.pass_s(wait_s)
            with contextlib.suppress(OSError):
                encoder.sock.shutdown(socket.SHUT_WR)  # one that was taken for a source ends now
            answer = await encoder.rest()
        assert encoder.connection not in desk.open
        outcome = Outcome(answer, self.here.warnings())
        await self._go_on()
        return outcome

    async def _go_on(self) -> None:
        desk = self.here.desk
        assert [one.agent for one in desk.mount.sources] == ["good"]
        await self._encoder.send(GOOD)
        self.rounds += 1

    async def finish(self) -> None:
        """The good source ends: exactly its frames are in the ring."""
        desk = self.here.desk
        self._encoder.close()
        await until(lambda: desk.mount.active is None)
        assert desk.writer.head_pos == self.rounds * len(GOOD)
        heard = desk.audio
        assert heard == GOOD * (len(heard) // len(GOOD))


async def on_air(here: Scene) -> OnAir:
    encoder = here.desk.connect()
    await encoder.send(put(f"Authorization: {basic(user='good')}", password=None, agent="good"))
    await encoder.head()
    made = OnAir(here, encoder)
    await made._go_on()
    return made


def any_sizes(random_: random.Random, most: int) -> Iterator[int]:
    return iter(lambda: random_.randint(1, most), 0)


@pytest.mark.parametrize("seed", range(3))
async def test_garbage(seed: int) -> None:
    """60 connections of noise a seed: an answer that says no (or, with no line in it, 408), one line in the log."""
    random_ = random.Random(seed)
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for _ in range(60):
            kind = random_.choice(["any", "text", "lines", "tls"])
            size = random_.choice([1, 20, 1000, 30_000])
            data = random_.randbytes(size)
            if kind == "text":
                data = bytes(random_.choices(b"abc XYZ/:.%1", k=size))
            elif kind == "lines":
                data = bytes(random_.choices(b"ab:/ \r\n\r\n", k=size))
            elif kind == "tls":
                data = b"\x16\x03\x01" + data
            outcome = await air.attack(data, any_sizes(random_, size))
            if not data.strip(b"\r\n"):
                continue
            assert is_answer(outcome.answer), (data[:50], outcome)
            assert outcome.status in {0, 400, 404, 408, 414, 431, 505}
            assert len(outcome.warnings) == 1, (data[:50], outcome)
        await air.finish()


@pytest.mark.parametrize("name", sorted(path.stem for path in CAPTURED.glob("bad-*.txt")))
async def test_captured_bad_requests(name: str) -> None:
    """Refused with the status of what is wrong, told in one line, whatever the packets; half of it and gone: told too."""
    data = (CAPTURED / f"{name}.txt").read_bytes()
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for sizes in (None, itertools.repeat(997), itertools.repeat(1) if len(data) < 3000 else itertools.repeat(50)):
            outcome = await air.attack(data, sizes)
            assert is_answer(outcome.answer)
            assert outcome.status in {0, 400, 408, 414, 431, 501, 505}
            assert len(outcome.warnings) == 1
        await air.attack(data[:7], half=True)
        await air.finish()


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (put(*(f"X-{n}: y" for n in range(10_000))), 431, "431"),
        (put("X-Long: " + "y" * 200_000), 431, "431"),
        (b"PUT /" + b"y" * 200_000 + b" HTTP/1.1\r\n\r\n", 414, "414"),
        (b"y" * 200_000, 400, "400"),
        (b"PUT " * 50_000, 414, "414"),
        (put(password="nope") + RUN, 401, "wrong password"),
        (put(password="x" * 10_000) + RUN, 401, "wrong password"),
        (put(mount="/none") + RUN, 404, "no mount"),
        (put(mount="/" + "y" * 5000) + RUN, 404, "no mount"),
        (put(kind="text/html") + RUN, 415, "text/html"),
        (put(kind="audio/" + "y" * 5000), 415, "audio/yyy"),
        (put("Content-Length: -5"), 400, "400"),
        (put("Content-Length: 5", "Transfer-Encoding: chunked"), 400, "400"),
        (put("Transfer-Encoding: gzip"), 501, "501"),
        (put("Host: a", "Host: b"), 400, "400"),
        (b"PUT /test HTTP/2.0\r\n\r\n", 505, "505"),
        (TITLE.replace("33", "99999999").encode() + b"y" * 100_000, 413, "a form over the limit"),
        (TITLE.replace("33", "16000").encode(), 408, "408"),
        (b"PUT /test HTTP/1.1\r\nAuth", 408, "408"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404, "passwd"),
        (b"GET /%00%ff%0a HTTP/1.1\r\n\r\n", 404, "is no source request"),
        (b"CONNECT example.org:443 HTTP/1.1\r\n\r\n", 404, "is no source request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "400"),
    ],
)
async def test_each_mistake_has_its_answer(data: bytes, status: int, said: str) -> None:
    """Whole and cut in pieces: the same status, the same single line, which says what was wrong."""
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for sizes in (None, itertools.repeat(1400)):
            outcome = await air.attack(data, sizes)
            assert outcome.status == status, outcome
            assert is_answer(outcome.answer)
            assert len(outcome.warnings) == 1
            assert said in outcome.warnings[0]
            assert len(outcome.warnings[0]) < 400
            assert outcome.warnings[0].isprintable()
        await air.finish()


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_requests(seed: int) -> None:
    """80 a seed: bytes flipped, cut out, doubled, put in. An answer that is one, at most one warning, the good source plays on."""
    random_ = random.Random(1000 + seed)
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for _ in range(80):
            data = bytearray(random_.choice(WELL_FORMED) + random_.choice([b"", RUN[:2000], b"text " * 50]))
            for _ in range(random_.randint(1, 4)):
                mutate(data, random_)
            outcome = await air.attack(bytes(data), any_sizes(random_, random_.choice([40, 4000])), wait_s=11, half=random_.random() < 0.2)
            assert not outcome.answer or is_answer(outcome.answer), (bytes(data), outcome)
            assert len(outcome.warnings) <= 1, (bytes(data), outcome)
        await air.finish()


def mutate(data: bytearray, random_: random.Random) -> None:
    at = random_.randrange(len(data) or 1)
    kind = random_.choice(["flip", "cut", "double", "insert", "end"])
    if kind == "flip" and data:
        data[at] = random_.randrange(256)
    elif kind == "cut":
        del data[at : at + random_.randint(1, 20)]
    elif kind == "double":
        data[at:at] = data[at : at + random_.randint(1, 60)]
    elif kind == "insert":
        data[at:at] = random_.choice([b"\r\n", b"\n", b"\0", b": ", b" ", b"%", b"\xff", b"\r\n\r\n", b"HTTP/1.1"])
    else:
        del data[at + 1 :]


@pytest.mark.parametrize("seed", range(4))
async def test_bodies_of_anything(seed: int) -> None:
    """A standby that sends text, noise, look-alikes, tags that lie, other codecs: closed with the reason, or harmless; never heard."""
    random_ = random.Random(2000 + seed)
    async with scene(source_timeout_s=5) as here:
        here.desk.source_timeout_s = HOUR_S
        air = await on_air(here)
        for _ in range(12):
            body = b"".join(body_part(random_) for _ in range(6))
            outcome = await air.attack(put(agent="bad") + body, any_sizes(random_, 9000), half=True)
            assert outcome.warnings == [] or "no mp3 frame" in outcome.warnings[0]
            assert len(outcome.warnings) <= 1
        await air.finish()


def body_part(random_: random.Random) -> bytes:
    return random_.choice(
        [
            random_.randbytes(20_000),
            b"lorem ipsum " * 2000,
            b"\xff\xfb\x90\x64" * 4000,
            b"\xff" * 20_000,
            RUN[random_.randrange(400) : random_.randrange(3000, 9000)],
            id3v2(b"x" * 300, claims_bytes=200_000_000),
            b"".join(adts_run(60)),
            b"".join(mpeg_run(20, rate=random_.choice([8000, 22050, 48000]), kbps=64)),
        ]
    )


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_heard_of_a_wild_body(seed: int) -> None:
    """On air alone, with garbage, tags and other rates between its frames, in any packets: the ring has the frames that a parser finds in
    the whole, in order."""
    random_ = random.Random(3000 + seed)
    body = RUN + b"".join(body_part(random_) for _ in range(8)) + RUN
    async with scene(source_timeout_s=HOUR_S) as here:
        desk = here.desk
        encoder = desk.connect()
        await encoder.send_split(put() + body, any_sizes(random_, 5000))
        encoder.close()
        await until(lambda: not desk.open)
        assert desk.audio == b"".join(frame.data for frame in frames_of(body))
        assert here.warnings() == []


@pytest.mark.parametrize("seed", range(4))
async def test_bad_chunked_bodies(seed: int) -> None:
    """20 a seed, on air: ended at the first fault, with one warning; what was good until there is heard, nothing behind it."""
    random_ = random.Random(4000 + seed)
    for _ in range(20):
        good = chunked(RUN, any_sizes(random_, 900), finished=False)
        fault = random_.choice(FAULTS)
        async with scene() as here:
            encoder = here.desk.connect()
            body = good + fault + chunked(GOOD, itertools.repeat(500))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await encoder.send_split(put("Transfer-Encoding: chunked") + body, any_sizes(random_, 3000))
            await until(lambda: not here.desk.open)
            assert len(here.warnings()) == 1
            assert here.warnings()[0].startswith("source ended: bad chunked coding")
            payload = RUN + (b"abcde" if fault.startswith(b"5") else b"")
            assert here.desk.audio == b"".join(frame.data for frame in frames_of(payload))


async def test_huge_forms() -> None:
    """The largest form allowed, full of fields, of percents, of nothing: answered in one turn."""
    auth = f"Authorization: {basic()}"
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for form in FORMS:
            head = f"POST /admin/metadata?mount=/test HTTP/1.1\r\n{auth}\r\nConnection: close\r\nContent-Length: {len(form)}\r\n\r\n"
            outcome = await air.attack(head.encode() + form, itertools.repeat(4000))
            assert outcome.status in {200, 400}
            assert len(outcome.warnings) == (outcome.status == 400)
        await air.finish()


async def test_slow_requests() -> None:
    """A byte a second: 408 after ten, whatever it says."""
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for data in (put(), source(password="nope"), TITLE.encode(), b"hackme-without-an-end", b"\r\n\r\nPUT /test HTTP/1.1\r\n"):
            here.logs.clear()
            here.desk.trouble.tick()
            encoder = here.desk.connect()
            for byte in data[:10]:
                await encoder.send(bytes((byte,)))
                here.desk.pass_s(1.01)
            assert (await encoder.rest()).startswith(b"HTTP/1.1 408 ")
            assert here.warnings() == ["bad source request: not finished in 10 s (408)"]
        await air.finish()


async def test_dead_peers() -> None:
    """Half of everything, then gone: each point of a conversation; one line where a request was begun."""
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        for data in (put(), source(), TITLE.encode()):
            for at in range(1, len(data) - 1, 7):
                outcome = await air.attack(data[:at], half=True)
                assert outcome.warnings == ["bad source request: closed by the encoder before the request was complete"]
        for at in range(0, 3000, 100):
            outcome = await air.attack(put(agent="bad") + RUN[:at], half=True)
            assert outcome.warnings == []
        await air.finish()


async def test_a_peer_that_reads_nothing() -> None:
    """Thousands of pipelined questions, no answer taken: the server neither waits nor keeps anything, and ends it in time."""
    async with scene(source_timeout_s=HOUR_S) as here:
        air = await on_air(here)
        encoder = here.desk.connect()
        for _ in range(40):
            await encoder.send(b"OPTIONS * HTTP/1.1\r\n\r\n" * 500)
        here.desk.pass_s(10.1)
        await turn()
        assert encoder.connection not in here.desk.open
        await air._go_on()
        await air.finish()


def test_the_good_run_is_good() -> None:
    """What the other tests compare with: every frame of it counts, at any repetition."""
    parser = parser_for("mp3")
    assert len(parser.feed(GOOD * 3) + parser.flush()) == 120
