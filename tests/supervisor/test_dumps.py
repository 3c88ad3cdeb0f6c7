"""When rings are dumped and loaded, and what the operator hears: real rings, real files, a real thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from structlog.testing import capture_logs

from appliance.ring.reader import RingReader
from appliance.ring.restore import DumpFile
from appliance.ring.writer import RingWriter
from appliance.supervisor import dumps as dumps_module
from appliance.supervisor.dumps import Dumps
from appliance.system.clock import SystemClock
from tests.ring.plain_ring import PlainRing, audio, feed, held

Lines = list[Any]


class House:
    """A supervisor's dumps, again and again on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rang = 0
        self.writers: list[RingWriter] = []
        self.plains: dict[str, PlainRing] = {}

    def open(self, *keys: str, frequency_s: float = 0, format_name: str = "mp3") -> tuple[Dumps, list[RingWriter]]:
        """A new start: new rings."""
        found = Dumps(self.folder, frequency_s, SystemClock(), self._ring)
        writers = [RingWriter.create(key, 600, 0.5, 65536) for key in keys]
        for key, writer in zip(keys, writers, strict=True):
            found.register(key, format_name, writer)
        self.writers += writers
        return found, writers

    def _ring(self) -> None:
        self.rang += 1

    def play(self, key: str, writer: RingWriter, count: int = 50) -> None:
        """Live audio."""
        feed(writer, self.plains.setdefault(key, PlainRing()), count, 9000)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.rewind"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "rewind")
    yield found
    for writer in found.writers:
        writer.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as found:
        yield found


def events(lines: Lines, name: str) -> Lines:
    return [line for line in lines if line["event"] == name]


async def end(dumps: Dumps) -> list[str]:
    """Finish and close; what the service manager was told."""
    told: list[str] = []
    await dumps.finish(told.append)
    dumps.close()
    return told


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_what_is_dumped_at_the_end_is_there_at_the_start(house: House, lines: Lines) -> None:
    """Two streams, three lives, each going on where the one before ended; workers are told to look."""
    for life in range(1, 4):
        dumps, writers = house.open("one", "two")
        await dumps.start()
        for key, writer in zip(("one", "two"), writers, strict=True):
            if life > 1:
                assert RingReader(writer.reader_fd).tail_seq == 1
            house.play(key, writer)
            plain = house.plains[key]
            assert (writer.head_seq, writer.head_pos) == (plain.head, plain.pos)
            assert held(RingReader(writer.reader_fd), 0, plain.pos) == audio(0, plain.pos)
        told = await end(dumps)
        assert told and set(told) == {f"EXTEND_TIMEOUT_USEC={dumps_module.EXTEND_US}"}
        assert house.rang == 2 * (life - 1)
    assert [line["audio_s"] for line in events(lines, "rewind dump loaded")] == [25.0, 25.0, 50.0, 50.0]
    assert len(events(lines, "rewind dump written")) == 6
    assert not [line for line in lines if line["log_level"] in ("warning", "error")]


async def test_intervals(house: House, lines: Lines) -> None:
    """Each has the newest audio; nothing new is not written again; the log is quiet."""
    dumps, (writer,) = house.open("one", frequency_s=0.01)
    await dumps.start()
    for number in (1, 2):
        house.play("one", writer)
        await until(lambda: len(events(lines, "rewind dump written")) == number)  # noqa: B023
        with DumpFile(house.path("one"), "one", "mp3") as dump:
            assert dump.position.head_seq == 50 * number + 1
    written, before = len(events(lines, "rewind dump written")), house.path("one").stat()
    await asyncio.sleep(0.05)
    assert (house.path("one").stat().st_ino, len(events(lines, "rewind dump written"))) == (before.st_ino, written)
    assert {line["log_level"] for line in lines} == {"debug"}
    await end(dumps)
    assert house.path("one").stat().st_ino == before.st_ino


async def test_a_stop_does_not_wait_for_an_interval_dump(house: House) -> None:
    """One that rests between blocks is given up, and the last one is made."""
    dumps, (writer,) = house.open("one", frequency_s=0.01)
    await dumps.start()
    house.play("one", writer, 200)
    with mock.patch.object(dumps_module, "REST", 1e9):
        await until(lambda: dumps._progress >= 2)
        async with asyncio.timeout(5):
            await end(dumps)
    with DumpFile(house.path("one"), "one", "mp3") as dump:
        assert dump.trailer.ends == 0 and dump.position.head_seq == 201
    assert [path.name for path in house.folder.iterdir()] == ["one.rewind"]


async def test_when_the_time_is_up_each_stream_has_its_newest_part(house: House, lines: Lines) -> None:
    dumps, writers = house.open("one", "two")
    for key, writer in zip(("one", "two"), writers, strict=True):
        house.play(key, writer, 200)
    await dumps.finish(lambda text: None, limit_s=0.0)
    dumps.close()
    assert [line["log_level"] for line in events(lines, "rewind dump written")] == ["warning", "warning"]
    for key in ("one", "two"):
        with DumpFile(house.path(key), key, "mp3") as dump:
            assert dump.trailer.blocks == 1 and dump.position.head_seq == 201
    again, writers = house.open("one", "two")
    await again.start()
    assert [writer.head_seq - writer.tail_seq for writer in writers] == [29, 29]
    again.close()


async def test_an_alert_for_each_cause_and_no_crash(house: House, lines: Lines) -> None:
    """Two streams, many intervals: one line; when it works again and fails again, another; what was dumped before stays."""
    house.folder.parent.joinpath("rewind").write_text("a file where the folder should be")
    dumps, writers = house.open("one", "two", frequency_s=0.01)
    await dumps.start()
    for key, writer in zip(("one", "two"), writers, strict=True):
        house.play(key, writer)
    await until(lambda: events(lines, "rewind dump failed"))
    await asyncio.sleep(0.1)
    (line,) = [one for one in lines if one["log_level"] != "warning"]
    assert line["log_level"] == "error" and line["alert"] is True and "rewind" in line["reason"]
    house.folder.unlink()
    await until(lambda: house.path("two").exists() and house.path("one").exists())
    for number in range(2):
        before = house.path("one").read_bytes()
        with mock.patch("os.write", side_effect=OSError(28, "No space left on device")):
            house.play("one", writers[0])
            await until(lambda: len(events(lines, "rewind dump failed")) == 2 + number)  # noqa: B023
            await asyncio.sleep(0.03)
        assert house.path("one").read_bytes() == before
        await until(lambda: house.path("one").read_bytes() != before)  # noqa: B023
    assert len(events(lines, "rewind dump failed")) == 3
    assert "No space left on device: " in events(lines, "rewind dump failed")[1]["reason"]
    await end(dumps)


async def test_a_dump_that_is_still_being_loaded_is_not_overwritten(house: House, lines: Lines) -> None:
    """A disk that takes its time: the start does not wait for it, live audio goes in, and a stop leaves the file."""
    dumps, (writer,) = house.open("one")
    house.play("one", writer, 200)
    await end(dumps)
    before, gate, real = house.path("one").read_bytes(), threading.Event(), DumpFile._block_bytes

    def slow(self: DumpFile, at: int, until_byte: int) -> bytes:
        assert gate.wait(10)
        return real(self, at, until_byte)

    with mock.patch.object(DumpFile, "_block_bytes", slow):
        again, (writer,) = house.open("one")
        await again.start(wait_s=0.01)
        assert again.is_loading and writer.head_seq == writer.tail_seq == 201
        house.play("one", writer, 3)
        await again.finish(lambda text: None)
        gate.set()
    assert house.path("one").read_bytes() == before
    assert events(lines, "rewind dump left as it is")
    again.close()
    third, (writer,) = house.open("one")
    with mock.patch.object(DumpFile, "_block_bytes", slow):
        await third.start()
    assert not third.is_loading and (writer.tail_seq, writer.head_seq) == (1, 201)
    third.close()


async def test_a_disk_that_hangs_does_not_hold_up_the_stop(house: House, lines: Lines) -> None:
    """Given up with an alert; the thread is left to itself."""
    gate = threading.Event()
    dumps, (writer,) = house.open("one")
    house.play("one", writer)
    with (
        mock.patch.object(dumps_module, "write_dump", lambda *rest: gate.wait(10) and None),
        mock.patch.multiple(dumps_module, STALLED_S=0.1, EXTEND_EVERY_S=0.01),
    ):
        async with asyncio.timeout(5):
            told = await end(dumps)
    assert len(told) > 5
    (line,) = events(lines, "rewind dump given up")
    assert line["alert"] is True
    gate.set()


@pytest.mark.parametrize("what", ["torn", "short", "format", "foreign", "old"])
async def test_a_refused_dump_is_named_and_left(house: House, lines: Lines, what: str) -> None:
    """One warning with the reason; nothing is half loaded; the stream lives; the file stays until there is something better."""
    dumps, (writer,) = house.open("one")
    house.play("one", writer, 200)
    await end(dumps)
    data = bytearray(house.path("one").read_bytes())
    if what == "torn":
        data[len(data) // 2] ^= 1
    elif what == "short":
        del data[-1:]
    elif what == "foreign":
        data = bytearray(b"#!/bin/sh\n" * 1000)
    elif what == "old":
        data[8] = 0
    house.path("one").write_bytes(data)
    lines.clear()
    again, (writer,) = house.open("one", format_name="aac" if what == "format" else "mp3")
    await again.start()
    (line,) = lines
    assert (line["event"], line["log_level"], line["stream"]) == ("rewind dump refused", "warning", "one")
    words = {"torn": "checksum", "short": "cut short", "format": "is aac now", "foreign": "magic", "old": "format 0, this release reads 1"}
    assert words[what] in line["reason"]
    assert writer.head_seq == writer.tail_seq == RingReader(writer.reader_fd).oldest(writer.head_seq)
    await again.finish(lambda text: None)
    assert house.path("one").read_bytes() == data
    feed(writer, PlainRing(), 5)
    await end(again)
    with DumpFile(house.path("one"), "one", "aac" if what == "format" else "mp3") as dump:
        assert dump.position.head_seq - dump.trailer.first_seq == 5


async def test_a_ring_that_was_taken_over_is_not_loaded_into(house: House) -> None:
    """It has more than any dump; from then on it is dumped."""
    dumps, (writer,) = house.open("one")
    house.play("one", writer, 5)
    await end(dumps)
    house.play("one", writer, 5)
    again = Dumps(house.folder, 0, SystemClock(), lambda: None)
    again.register("one", "mp3", writer)
    await again.start()
    assert (writer.tail_seq, writer.head_seq) == (1, 11)
    await end(again)
    with DumpFile(house.path("one"), "one", "mp3") as dump:
        assert dump.position.head_seq == 11


async def test_dumps_of_other_streams_are_left_alone(house: House) -> None:
    """A stream that is no longer configured may come back."""
    dumps, (writer,) = house.open("gone")
    house.play("gone", writer)
    await end(dumps)
    before = house.path("gone").read_bytes()
    again, (writer,) = house.open("one")
    await again.start()
    house.play("one", writer)
    await end(again)
    assert house.path("gone").read_bytes() == before
