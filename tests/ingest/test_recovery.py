"""Sources survive the process that reads them: every ring gets every frame, once, in order, whatever line it was killed at."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from appliance.ingest.mount import OnAir
from appliance.ingest.source_record import Mark, SourceRecord, decoded, encoded
from appliance.ring.journal import JournalRefused, SourceJournal
from appliance.ring.layout import Flag, Word
from appliance.wire.chunked import ChunkedDecoder
from tests.ingest.generations import House
from tests.ingest.source_makers import basic, chunked, frames_of, put, source, turn, until

DATA = Path(__file__).parent.parent / "data"
SAMPLE = (DATA / "mp3-44100-128-s.mp3").read_bytes()
# What a killed generation had opened and not yet noted anywhere is let go by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
FRAMES = [frame.data for frame in frames_of(SAMPLE)]
AUDIO = b"".join(FRAMES)


@pytest.fixture(autouse=True)
def rubbish() -> Iterator[None]:
    """Let go of it here, where the warnings are expected."""
    yield
    gc.collect()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Two rings of different chunks, and a first generation."""
    found = House()
    yield found
    found.end()


def check_one_piece(house: House, audio: bytes, starts: int = 1) -> None:
    """Each ring holds just this; it is one run: no break, no second epoch, labels that follow each other."""
    assert [len(found) for found in house.audio()] == [len(audio)] * len(house.rings)
    assert house.audio() == [audio] * len(house.rings)
    for key in house.rings:
        chunks = house.chunks(key)
        assert [chunk.flags & Flag.SOURCE_START for chunk in chunks[:1]] == [Flag.SOURCE_START] * min(starts, 1)
        assert sum(chunk.flags & Flag.SOURCE_START != 0 for chunk in chunks) == starts
        assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in chunks)
        assert {chunk.epoch for chunk in chunks} <= {1}
        gaps = [after.ts_us - chunk.end_us for chunk, after in itertools.pairwise(chunks)]
        assert all(-1 <= gap <= 200 for gap in gaps), gaps


def end(house: House, far: socket.socket) -> None:
    """The encoder ends its stream; the server has taken it all, and the store holds nothing more."""
    far.shutdown(socket.SHUT_WR)
    house.read()
    house.read()
    assert not house.store.held


def heard_of(body: bytes, coding: str) -> int:
    """Payload bytes in what was sent."""
    return len(ChunkedDecoder().feed(body)) if coding == "chunked" else len(body)


@pytest.mark.parametrize("coding", ["plain", "chunked", "length"])
async def test_killed_at_every_line_of_a_read(house: House, coding: str) -> None:
    """Reads that publish chunks and settle, killed at their first line, their second, and so on; every fourth successor is killed, too."""
    rng = random.Random(coding)
    repeats = 60
    audio = AUDIO * repeats
    body = audio if coding != "chunked" else chunked(audio, iter(lambda: rng.randint(1, 3000), 0), finished=False)
    extra = {"plain": (), "chunked": ("Transfer-Encoding: chunked",), "length": (f"Content-Length: {len(audio)}",)}[coding]
    far = house.connect()
    far.sendall(put(*extra) + body[:3000])
    house.read()
    at, line, misses = 3000, 1, 0
    while misses < 20 and at < len(body):
        size = rng.choice([1, 100, 900, 5000, 5000])
        far.sendall(body[at : at + size])
        at += size
        house.clock.pass_us(size * 1_000_000 // 16000)
        killed = house.read(line, line if line % 4 == 0 else 0)
        misses = 0 if killed else misses + 1
        line += 1
    assert house.kills > 250 and misses == 20
    house.next()
    end(house, far)
    check_one_piece(house, b"".join(frame.data for frame in frames_of(audio[: heard_of(body[:at], coding)])))


async def test_killed_at_every_line_of_the_taking_over(house: House) -> None:
    """Each successor is killed at a later line than the one before, with unsettled bytes in the journal and unread ones in the socket."""
    audio = AUDIO * 60
    far = house.connect()
    far.sendall(put() + audio[:40_000])
    house.read()
    at, line = 40_000, 1
    with capture_logs() as logs:
        while True:
            house.clock.pass_us(70_000)
            far.sendall(audio[at : at + 1100])
            at += 1100
            house.now.read()
            far.sendall(audio[at : at + 500])
            at += 500
            before = house.kills
            house.next(line)
            if house.kills == before + 1:
                break
            line += 1
        assert line > 250
        end(house, far)
    check_one_piece(house, b"".join(frame.data for frame in frames_of(audio[:at])))
    assert [line["event"] for line in logs] == ["source ended"]


async def test_killed_at_every_line_of_a_sources_end() -> None:
    """The active source ends, its standby takes over: wherever that is cut, the rings have all of the first, then the second."""
    rng, kills = random.Random(9), 0
    for line in range(1, 5000, 3):
        house = House()
        main, backup = house.connect(), house.connect()
        main.sendall(put() + AUDIO)
        house.read()
        known = rng.randint(3000, 9000)
        backup.sendall(put(agent="backup") + AUDIO[:known])
        house.clock.pass_us(int(len(AUDIO) / 16000 * 1e6))
        house.read()
        main.shutdown(socket.SHUT_WR)
        killed = house.read(line, line % 50)
        house.read()
        backup.sendall((AUDIO * 3)[known:])
        house.clock.pass_us(int(len(AUDIO) / 16000 * 1e6))
        house.read()
        end(house, backup)
        for found in house.audio():
            assert found.startswith(AUDIO) and (AUDIO * 3).endswith(found[len(AUDIO) :]) and len(found) > 2.9 * len(AUDIO)
        chunks = house.chunks("test0")
        assert sum(chunk.flags & Flag.SOURCE_START != 0 for chunk in chunks) == 2
        assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in chunks) and {chunk.epoch for chunk in chunks} == {1}
        house.end()
        kills += killed
        if not killed:
            break
    assert kills > 80


async def test_killed_at_every_line_of_an_encoders_coming_back() -> None:
    """The same encoder connects anew while its old socket looks alive: the old is ended, whenever that is cut; if the new one was not known
    yet, its connection is lost, and the old one goes on."""
    outcomes = set()
    for line in range(1, 5000, 5):
        house = House()
        old, new = house.connect(), house.connect()
        old.sendall(put() + AUDIO)
        house.read()
        house.clock.pass_us(int(len(AUDIO) / 16000 * 1e6))
        house.read()
        new.sendall(put() + AUDIO[:4000])
        killed = house.read(line)
        house.read()
        sources = house.now.mount.sources
        assert len(sources) == len(house.store.held) == 1
        came = sources[0].connected_at > house.clock.wall / 1e6 - 1
        outcomes.add((killed, came))
        for far in (old, new):
            with contextlib.suppress(OSError):
                far.sendall(AUDIO[4000:] if far is new else AUDIO)
        house.clock.pass_us(int(len(AUDIO) / 16000 * 1e6))
        house.read()
        end(house, new if came else old)
        assert house.audio() == [AUDIO * 2] * 2, (line, killed, came, [len(one) / len(AUDIO) for one in house.audio()])
        house.end()
        if not killed:
            break
    assert outcomes == {(True, True), (True, False), (False, True)}


async def test_a_successor_knows_all_of_its_source(house: House) -> None:
    """Names, times and rank, the standby's too; nothing is logged as new; the final answer is still given."""
    clock = house.clock
    far, backup = house.connect(), house.connect()
    far.sendall(put("Expect: 100-continue", "Content-Length: 20000", "ice-name: Radio Nord", "ice-genre: \u00e4") + AUDIO[:9000])
    house.read()
    clock.pass_us(900_000)
    backup.sendall(source(agent="b\u00fcckup"))
    house.read()
    before = [(vars(one) | {"end": 0, "note": 0}) for one in house.now.mount.sources]
    low_water = [one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) for one in house.now.connections]
    with capture_logs() as logs:
        house.next()
    assert logs == []
    assert [(vars(one) | {"end": 0, "note": 0}) for one in house.now.mount.sources] == before
    assert low_water[0] > 1000
    assert [one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) for one in house.now.connections] == low_water
    assert before[0]["info"].name == "Radio Nord" and before[0]["on_air"] and not before[1]["on_air"]
    far.sendall(AUDIO[9000:20000])
    house.read()
    answers = far.recv(1000)
    assert answers.startswith(b"HTTP/1.1 100 Continue") and b"HTTP/1.1 200 OK" in answers
    assert [one.agent for one in house.now.mount.sources] == ["b\u00fcckup"]


async def test_a_title_is_not_set_again(house: House) -> None:
    """The ring's title is the one that the successor's chunker has; another one that was waiting can be carried over."""
    far = house.connect()
    far.sendall(put() + AUDIO[:9000])
    house.read()
    house.now.mount.title("A song", "http://x.invalid")
    house.clock.pass_us(300_000)
    far.sendall(AUDIO[9000:30000])
    house.read()
    house.now.mount.title("Another", "")
    waiting = house.now.feeds[0].chunker.wanted_title
    assert waiting == (b"Another", b"")
    house.next()
    house.now.mount.title("A song", "http://x.invalid")
    house.clock.pass_us(3_000_000)
    far.sendall(AUDIO[30000:40000])
    house.read()
    assert house.now.feeds[0].writer.columns.words[Word.META_HEAD] == 1
    house.now.feeds[0].chunker.want_title(*waiting)
    house.clock.pass_us(3_000_000)
    far.sendall(AUDIO[40000:50000])
    house.read()
    assert [chunk.title for chunk in house.chunks("test0")][-1] == "Another"


async def test_an_epoch_whose_first_chunk_never_came() -> None:
    """Killed between an epoch's row and its first chunk: the break is still told, once."""
    low = (DATA / "mp3-22050-64-s.mp3").read_bytes()
    low_audio = b"".join(frame.data for frame in frames_of(low))
    for line in range(1, 5000):
        house = House(chunk_s=(0.2,))
        far = house.connect()
        far.sendall(put() + AUDIO[:20000])
        house.read()
        house.clock.pass_us(1_000_000)
        house.read()
        far.sendall(AUDIO[20000:] + low_audio)
        house.clock.pass_us(12_000_000)
        killed = house.read(line * 97)
        end(house, far)
        chunks = house.chunks("test0")
        assert b"".join(chunk.data for chunk in chunks) == AUDIO + low_audio
        first = next(chunk for chunk in chunks if chunk.rate == 22050)
        assert [chunk for chunk in chunks if chunk.flags & Flag.DISCONTINUITY] == [first]
        house.end()
        if not killed:
            break


# --- orderly ---


async def test_release_and_take_back(house: House) -> None:
    """After `release` nothing is read or answered, no held burst is published; taken back, all goes on."""
    far, asking = house.connect(), house.connect()
    far.sendall(put() + AUDIO[:9000])
    await turn()
    asking.sendall(b"OPTIONS * HTTP/1.0\r\n")
    await turn()
    released = house.now.server.release()
    assert len(released.sources) == 1
    assert [(one.received, one.peer, one.lone) for one in released.half_read] == [(b"OPTIONS * HTTP/1.0\r\n", "192.0.2.7", False)]
    house.clock.pass_us(2_000_000)
    far.sendall(AUDIO[9000:30000])
    asking.sendall(b"\r\n")
    house.now.mount.poll()
    await turn()
    assert house.audio() == [b"", b""]
    house.now.server.take_back()
    await until(lambda: house.audio()[1] != b"")
    assert asking.recv(100).startswith(b"HTTP/1.1 204")
    house.read()
    end(house, far)
    assert house.audio() == [b"".join(frame.data for frame in frames_of(AUDIO[:30000]))] * 2


async def test_a_handoff_of_everything(house: House) -> None:
    """A source, a half-read head, a half-read form, and a connection that was passed on and not looked at yet: a successor has them all."""
    far, head, form = house.connect(), house.connect(), house.connect()
    far.sendall(put() + AUDIO[:9000])
    head.sendall(put(agent="second")[:40])
    fields = b"mode=updinfo&mount=/test&song=Half"
    ask = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: {len(fields)}\r\n\r\n".encode()
    form.sendall(ask + fields[:9])
    await turn()
    form.sendall(fields[9:20])
    await turn()
    passed = house.connect(received=b"OPTIONS * HTTP/1.0\r\n\r\n", lone=True)
    old = house.now
    released = old.server.release()
    late = house.connect(received=b"OPTIONS ")
    await turn()
    released = old.server.release()
    assert sorted(one.received[:9] for one in released.half_read) == [b"OPTIONS ", b"OPTIONS *", b"POST /adm", b"PUT /test"]
    half = [(one, os.dup(one.fd)) for one in released.half_read]
    house.next()
    for one, fd in half:
        house.now.server.adopt(socket.socket(fileno=fd), one.peer, received=one.received, lone=one.lone)
    form.sendall(fields[20:])
    head.sendall(put(agent="second")[40:])
    late.sendall(b"* HTTP/1.0\r\n\r\n")
    await until(lambda: len(house.now.mount.sources) == 2)
    await turn()
    for sock, answer in ((passed, b"HTTP/1.1 204"), (late, b"HTTP/1.1 204"), (form, b"HTTP/1.1 200 OK"), (head, b"HTTP/1.0 200 OK")):
        assert sock.recv(100).startswith(answer)
    assert house.now.feeds[0].chunker.wanted_title == (b"Half", b"")
    end_of = house.now.mount.sources[1].end
    end_of("not wanted")
    far.sendall(AUDIO[9000:])
    house.read()
    end(house, far)
    assert house.audio() == [AUDIO] * 2


# --- what cannot go on ---


async def test_what_is_no_source_is_refused_and_closed(house: House) -> None:
    """No socket, no journal, a torn one, one of a mount that is gone: told once, both fds closed, nothing raised; the others go on."""
    server, near = house.now.server, socket.socketpair()
    journal = SourceJournal.create("x")
    no_mount = SourceJournal.create("y")
    no_mount.describe(encoded(SourceRecord(mount="gone", format="mp3")))
    newer = SourceJournal.create("z")
    newer.describe(encoded(SourceRecord(mount="test", format="mp3", version=99)))
    beyond = SourceJournal.create("b")
    beyond.describe(encoded(SourceRecord(mount="test", format="mp3")))
    beyond.settle(0, encoded(Mark(at=7)))
    ended = SourceJournal.create("e")
    ended.describe(encoded(SourceRecord(mount="test", format="mp3", ended=True)))
    wrong = SourceJournal.create("w")
    wrong.describe(b"\xc1 no msgpack")
    with capture_logs() as logs:
        for fd in (one.fd for one in (journal, no_mount, newer, beyond, wrong, ended)):
            pair = os.dup(near[0].fileno()), os.dup(fd)
            assert not server.take_over(*pair)
            for each in pair:
                with pytest.raises(OSError):
                    os.fstat(each)
        assert not server.take_over(os.dup(journal.fd), os.dup(near[0].fileno()))
        server.trouble.tick()
    assert {line["event"] for line in logs} == {"a source is lost"}
    assert sum(line.get("more", 0) or 1 for line in logs) == 6
    assert server._connections == set()
    for one in (journal, no_mount, newer, beyond, wrong, ended):
        one.close()
    for sock in near:
        sock.close()


async def test_bytes_that_are_not_in_the_journal_end_the_source(house: House) -> None:
    """Somebody else read from the socket: going on would tear a frame, so the encoder has to connect again."""
    far = house.connect()
    far.sendall(put() + AUDIO[:9000])
    house.read()
    far.sendall(AUDIO)
    thief = socket.socket(fileno=os.dup(house.now.connections[0].sock.fileno()))
    for _ in range(100):
        far.sendall(AUDIO[:16000])
        thief.recv(1 << 20)
    thief.close()
    with capture_logs() as logs:
        house.next()
    assert [line["log_level"] for line in logs] == ["warning"] and "were read from the connection" in logs[0]["reason"]
    assert house.now.mount.sources == [] and not house.store.held


async def test_a_ring_that_is_not_the_one(house: House) -> None:
    """A ring was lost and begins anew: it gets what the journal holds; the other goes on exactly."""
    far = house.connect()
    far.sendall(put() + AUDIO[:30000])
    house.read()
    house.clock.pass_us(2_000_000)
    house.read()
    house.lose("test1")
    house.next()
    far.sendall(AUDIO[30000:])
    house.clock.pass_us(3_000_000)
    house.read()
    end(house, far)
    whole, late = house.audio()
    assert whole == AUDIO and AUDIO.endswith(late) and len(late) >= len(AUDIO) - 30000


async def test_a_mount_without_its_sources_is_away(house: House) -> None:
    """The store lost the source: rewound listeners go on by the clock."""
    far = house.connect()
    far.sendall(put() + AUDIO[:30000])
    house.read()
    house.clock.pass_us(2_000_000)
    house.read()
    house.store.close()
    house.next()
    assert house.now.feeds[0].writer.columns.words[Word.AWAY_SINCE_US] > 0


def test_records_of_other_releases() -> None:
    """Unknown fields are ignored, missing ones have their defaults."""
    later = msgspec.msgpack.encode({"mount": "test", "rings": {"a": {"head_pos": 5, "new": 1}}, "colour": [1, 2]})
    assert decoded(later, SourceRecord) == SourceRecord(mount="test", rings={"a": OnAir(5, 0)})
    assert decoded(msgspec.msgpack.encode({"at": 9, "phase": "chunk", "new": None}), Mark) == Mark(at=9, phase="chunk")
    assert decoded(b"", Mark) == Mark()
    for wrong in ({"at": "nine"}, {"format": {"codec": 1}}):
        with pytest.raises(JournalRefused):
            decoded(msgspec.msgpack.encode(wrong), Mark)
