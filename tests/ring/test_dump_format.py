"""docs/rewind-dump.md and appliance/ring/dump_format.py are one map; headers, titles and trailers come back as they were packed."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from appliance.ring import dump_format as fmt
from appliance.ring.columns import Epoch
from appliance.ring.dump_format import DumpRefused, Header, Position, Title, Trailer
from appliance.ring.layout import CHUNK_U32, CHUNK_U64

MAP = (Path(__file__).parents[2] / "docs/rewind-dump.md").read_text()


def section(name: str) -> str:
    return MAP.split(f"## {name}\n")[1].split("\n## ")[0]


def fields(text: str) -> list[tuple[int, int]]:
    """(offset, bytes) of each table row that has both as plain numbers."""
    return [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", text, re.MULTILINE)]


def offsets(layout: struct.Struct, base: int = 0) -> list[tuple[int, int]]:
    """(offset, bytes) of each field of a packed struct."""
    sizes = [struct.calcsize("<" + code) for code in re.findall(r"\d*s|[QI]", _spelled(layout.format))]
    return [(base + sum(sizes[:index]), size) for index, size in enumerate(sizes)]


def _spelled(form: str) -> str:
    return re.sub(r"(\d+)([QI])", lambda found: found[2] * int(found[1]), form)


def test_constants() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section("Constants"), re.MULTILINE)
    assert len(rows) == 9
    assert {name: int(value, 0) for name, value in rows} == {name: getattr(fmt, name) for name, _ in rows}


def test_header_block_title_trailer_are_where_the_map_says() -> None:
    header = offsets(fmt.HEADER)
    tables = [(fmt.HEADER.size, fmt.ENTRY.size), (256, fmt.EPOCH.size), (368, fmt.TITLE.size)]
    assert fields(section("Header")) == header + tables
    block, _, title = section("Block").partition("offset in title row")
    assert fields(block) == offsets(fmt.BLOCK)
    assert fields(title) == offsets(fmt.TITLE)
    assert fields(section("Trailer")) == offsets(fmt.TRAILER)


def header(title: Title | None, epoch: Epoch | None) -> Header:
    entry = {name: number + 3 for number, name in enumerate(CHUNK_U64 + CHUNK_U32)}
    entry |= {"seq": 9, "meta_id": title.meta_id if title else 0, "epoch": epoch.epoch if epoch else 0}
    entry |= {"pos": (1 << 60) - 70_000, "length": 70_000, "media_pos": 1 << 61, "samples": 1152, "rate": 44_100}
    end = (1 << 61) + 1152 * 640
    return Header("key.with-64", "mp3", 11, 12, 13, 14, Position(10, 1 << 60, end, 15, 16, 17, 18, entry, epoch, title), 0, 0)


@pytest.mark.parametrize("title", [None, Title(7, 8, 9, "Größe".encode() * 500, b"u" * 500), Title(7, 8, 9, b"", b"")])
@pytest.mark.parametrize("epoch", [None, Epoch(5, 44100, 2, 128000, "mp3-44100-128-s", "mp4a.40.34")])
def test_a_header_comes_back(title: Title | None, epoch: Epoch | None) -> None:
    """With more bytes behind it, as they are in a file; titles over 255 bytes are nothing special."""
    packed = fmt.pack_header(header(title, epoch))
    found = fmt.unpack_header(packed + b"more")
    assert found._replace(size_bytes=0, crc=0) == header(title, epoch)
    assert found.size_bytes == len(packed) <= fmt.HEADER_MAX_BYTES


def test_every_flipped_bit_of_a_header_or_trailer_is_seen() -> None:
    packed = fmt.pack_header(header(Title(7, 8, 9, b"title", b""), None))
    trailer = fmt.pack_trailer(Trailer(1, 2, 3, 4, 5, 6))
    assert fmt.unpack_trailer(trailer) == Trailer(1, 2, 3, 4, 5, 6)
    for data, unpack in ((packed, fmt.unpack_header), (trailer, fmt.unpack_trailer)):
        for bit in range(8 * len(data)):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DumpRefused):
                unpack(bytes(bad))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head_seq": 1}, "contradicts"),
        ({"head_seq": 11}, "contradicts"),
        ({"head_pos": 0}, "contradicts"),
        ({"head_media": (1 << 61) + 1}, "contradicts"),
        ({"title": Title(6, 0, 0, b"", b"x")}, "contradicts"),
        ({"epoch": None}, "contradicts"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(change: dict[str, object], words: str) -> None:
    """Also with the right checksum."""
    good = header(Title(7, 8, 9, b"title", b""), Epoch(5, 44100, 2, 128000, "k", "p"))
    bad = good._replace(position=good.position._replace(**change))  # type: ignore[arg-type]
    with pytest.raises(DumpRefused, match=words):
        fmt.unpack_header(fmt.pack_header(bad))


def test_another_format_number_is_named() -> None:
    packed = bytearray(fmt.pack_header(header(None, None)))
    packed[8] = 2
    with pytest.raises(DumpRefused, match="dump format 2, this release reads 1"):
        fmt.unpack_header(bytes(packed))
