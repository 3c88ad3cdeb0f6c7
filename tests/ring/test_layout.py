"""docs/ring-format.md and the code tell the same map."""

from __future__ import annotations

import itertools
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from appliance.ring import journal, layout, listeners
from appliance.ring.counters import MAX_STREAMS, STREAM_WORDS, WORKER_WORDS, Count, CountersPage, StreamCount
from appliance.ring.journal import JOURNAL_BYTES, SourceJournal
from appliance.ring.layout import CHUNK_U32, CHUNK_U64, META_U32, META_U64, Flag, Geometry, Word, geometry
from appliance.ring.listeners import ListenerTable
from appliance.ring.writer import AudioInfo, RingWriter

DOC = (Path(__file__).parents[2] / "docs" / "ring-format.md").read_text()
EXAMPLE = geometry(3600, 0.5, 4 << 20)


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first cells of the heading are these."""
    lines = DOC.split(f"\n| {heading} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    assert rows
    return rows


def constants(owner: Any) -> dict[str, int]:
    """The named numbers of a class or module."""
    return {name: value for name, value in vars(owner).items() if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and isinstance(value, int)}


def test_constants() -> None:
    """Every number of the layout stands in the doc, and no other does."""
    assert {row[0]: int(row[1], 0) for row in table("name | value")} == constants(layout)
    assert layout.MAGIC.to_bytes(8, "little") == b"SMRING\0\1"


def test_header_words() -> None:
    """Index, byte and name of each header word."""
    rows = table("word | byte")
    assert {row[2]: int(row[0]) for row in rows} == constants(Word)
    assert all(int(row[1]) == 8 * int(row[0]) < layout.HEADER_BYTES for row in rows)
    assert [int(row[0]) for row in rows] == sorted({int(row[0]) for row in rows})


def test_head_has_a_cache_line_of_its_own() -> None:
    """Readers that poll the head are not disturbed by the other words."""
    others = {index // 8 for name, index in constants(Word).items() if name != "HEAD_SEQ"}
    assert Word.HEAD_SEQ // 8 not in others


def test_columns() -> None:
    """Order, width and table of each column."""
    rows = [(row[0], int(row[1]), row[2]) for row in table("column | bytes")]
    expected = [(name, 8, "chunk") for name in CHUNK_U64] + [(name, 4, "chunk") for name in CHUNK_U32]
    expected += [(name, 8, "metadata") for name in META_U64] + [(name, 4, "metadata") for name in META_U32]
    expected += [("meta_text", layout.META_TEXT_BYTES, "metadata"), ("epochs", layout.EPOCH_ROW_BYTES, "epoch"), ("data", 1, "data")]
    assert rows == expected


def test_offsets_of_the_example() -> None:
    """The example's offsets, and the formula that gives them."""
    rows = [(row[0], int(row[1])) for row in table("area | offset")]
    assert rows == [*EXAMPLE.offsets.items(), ("end of file", EXAMPLE.file_bytes)]
    slots = {"chunk": EXAMPLE.chunk_slots, "metadata": EXAMPLE.meta_slots, "epoch": EXAMPLE.epoch_slots, "data": EXAMPLE.capacity_bytes}
    at = 4096
    for (name, width, kind, *_), (same, offset) in zip(table("column | bytes"), rows, strict=False):
        assert (name, at) == (same, offset)
        at += -(-int(width) * slots[kind] // 4096) * 4096
    assert at == EXAMPLE.file_bytes
    assert f"chunk_slots {EXAMPLE.chunk_slots}, meta_slots {EXAMPLE.meta_slots}, capacity {EXAMPLE.capacity_bytes}" in DOC


def test_flags() -> None:
    """Bits of `flags`."""
    assert {row[0]: int(row[1]) for row in table("flag | bit")} == constants(Flag)


def test_epoch_row() -> None:
    """A written row has each field where the doc says."""
    rows = [(int(row[0]), int(row[1])) for row in table("offset | bytes | field")]
    assert all(first + size == after for (first, size), (after, _) in itertools.pairwise(rows))
    assert sum(rows[-1]) == layout.EPOCH_ROW_BYTES
    writer = RingWriter.create("t", 1, 0.5, 0)
    writer.start_epoch(AudioInfo("mp3-44100-128-s", "mp4a.40.34", 44100, 2, 128_000))
    at = writer.columns.geometry.offsets["epochs"] + layout.EPOCH_ROW_BYTES
    cells = [bytes(writer.columns.whole[at + first : at + first + size]) for first, size in rows]
    assert [int.from_bytes(cell, "little") for cell in cells[:5]] == [1, 44100, 2, 128_000, 0]
    assert [cell.rstrip(b"\0") for cell in cells[5:]] == [b"mp3-44100-128-s", b"mp4a.40.34", b""]
    writer.close()


def test_header_of_a_new_ring() -> None:
    """A new ring's first page, read as bytes, is what the doc says."""
    writer = RingWriter.create("t", 3600, 0.5, 4 << 20)
    words = struct.unpack("<512Q", os.pread(writer.reader_fd, 4096, 0))
    named = constants(Word)
    assert words[:10] == (layout.MAGIC, 1, *EXAMPLE[:3], EXAMPLE.offsets["data"], EXAMPLE.capacity_bytes, 3600, 4 << 20, 500_000)
    assert words[Word.IDENTITY] and words[Word.CREATED_US]
    ones = {"HEAD_SEQ", "TAIL_SEQ", "LIMIT_SEQ"}
    assert {name for name, index in named.items() if index >= 64 and words[index]} == ones
    assert not any(word for index, word in enumerate(words) if index not in named.values())
    assert os.fstat(writer.fd).st_size == EXAMPLE.file_bytes
    writer.close()


SHAPES = [(1, 0.1, 0), (60, 2.0, 1 << 20), (14400, 0.5, 4 << 20), (604_800, 0.5, 4 << 20)]


@pytest.mark.parametrize(("window_s", "chunk_s", "slack"), SHAPES)
def test_geometry_holds_what_is_promised(window_s: int, chunk_s: float, slack: int) -> None:
    """Slots are powers of two, bytes whole pages, and there is room for window, slack and guard at the highest rate."""
    found = geometry(window_s, chunk_s, slack)
    assert isinstance(found, Geometry)
    assert all(slots & (slots - 1) == 0 for slots in found[:3])
    assert all(offset % 4096 == 0 for offset in found.offsets.values()) and found.file_bytes % 4096 == 0
    beyond = max(layout.SLACK_S * layout.MAX_BITRATE_BYTES_S, slack)
    assert found.capacity_bytes >= (window_s + layout.GUARD_S) * layout.MAX_BITRATE_BYTES_S + beyond
    held_s = window_s + layout.GUARD_S + max(layout.SLACK_S, slack / layout.MIN_BITRATE_BYTES_S)
    assert found.chunk_slots >= held_s / chunk_s and found.meta_slots >= held_s / layout.TITLE_SPACING_S


def test_every_audio_rate_divides_media_hz() -> None:
    """Sums of samples are exact."""
    rates = [7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000]
    assert all(layout.MEDIA_HZ % rate == 0 for rate in rates)


def test_journal_map() -> None:
    """The journal's words and data lie where the doc says."""
    section = DOC.split("## Source journal", 1)[1].split("## Listener table", 1)[0]
    rows = [(int(a), int(b), c) for a, b, c in re.findall(r"^\| (\d+) \| (\d+) \| (.*?) \|$", section, re.M)]
    assert all(first + size == after for (first, size, _), (after, _, _) in itertools.pairwise(rows))
    found = SourceJournal.create("t")
    found.put(b"abcdef")
    found.settle(2, b"mark 1")
    found.settle(3, b"mark 2")
    found.describe(b"whose")
    raw = os.pread(found.fd, 1 << 22, 0)
    assert len(raw) == sum(rows[-1][:2]) == os.fstat(found.fd).st_size and f"{len(raw)} bytes" in section
    cells = {text.split(":")[0]: raw[first : first + size] for first, size, text in rows}
    assert cells["magic"] == b"SMJRNL\0\1"
    assert [int.from_bytes(cells[name], "little") for name in ("received", "settled", "marks", "descriptions")] == [6, 3, 2, 1]
    assert cells["mark, slot 0"].rstrip(b"\0") == b"\6\0\0\0mark 2" and cells["mark, slot 1"].rstrip(b"\0") == b"\6\0\0\0mark 1"
    assert cells["description, slot 1"].rstrip(b"\0") == b"\5\0\0\0whose" and not any(cells["description, slot 0"])
    assert cells["data"][:7] == b"abcdef\0" and len(cells["data"]) == JOURNAL_BYTES
    assert len(cells["mark, slot 1"]) == journal.MARK_BYTES and len(cells["description, slot 1"]) == journal.DESCRIPTION_BYTES
    assert not any(any(raw[first : first + size]) for first, size, text in rows if text.startswith("reserved"))
    found.close()


def test_listener_row() -> None:
    """A row's fields and slots lie where the doc says."""
    section = DOC.split("## Listener table", 1)[1].split("## Counters page", 1)[0]
    halves = section.split("| offset in slot")
    fixed, slot = ([tuple(map(int, row)) for row in re.findall(r"^\| (\d+) \| (\d+) \|", half, re.M)] for half in halves)
    assert fixed == [(0, 2), (2, 1), (3, 1), (4, 4), (8, 8), (16, 24), (40, 24)]
    assert slot == [(0, 8), (8, 8), (16, 4), (20, 4)]
    assert f"{listeners.ROWS} rows of {listeners.ROW_BYTES} bytes" in section
    fd = ListenerTable.create("t")
    rows = ListenerTable(fd, writable=True)
    rows.claim(1, listeners.KIND_RAW, 0)
    row = rows.claim(0x0203, listeners.KIND_ICY, 0x1122334455)
    rows.checkpoint(row, 0xA1A2A3A4A5, 0xB1B2B3B4B5, 0xC1C2, 0xD1D2)
    raw = os.pread(fd, 64, 64 * row)
    assert [int.from_bytes(raw[first : first + size], "little") for first, size in fixed[:5]] == [0x0203, 2, 0, 1, 0x1122334455]
    cells = [int.from_bytes(raw[40 + first : 40 + first + size], "little") for first, size in slot]
    assert cells == [0xA1A2A3A4A5, 0xB1B2B3B4B5, 0xC1C2, 0xD1D2]
    os.close(fd)


def test_counters_page() -> None:
    """Names and indexes of the words; where a stream's words begin; the size."""
    assert {row[1]: int(row[0]) for row in table("worker word | name")} == constants(Count)
    assert {row[1]: int(row[0]) for row in table("stream word | name")} == constants(StreamCount)
    assert max(constants(Count).values()) < WORKER_WORDS and max(constants(StreamCount).values()) < STREAM_WORDS
    fd = CountersPage.create("t")
    page = CountersPage(fd, writable=True)
    page.stream(3)[StreamCount.BYTES_SENT] = 77
    raw = os.pread(fd, 1 << 20, 0)
    assert int.from_bytes(raw[8 * (64 + 16 * 3 + 3) :][:8], "little") == 77
    assert f"{WORKER_WORDS} of the worker, then {STREAM_WORDS} for each of {MAX_STREAMS} streams" in DOC
    assert f"{len(raw)} bytes" in DOC
    os.close(fd)
