"""The byte map of a rewind dump: the only file with an offset of it. docs/rewind-dump.md shows the same map; a test compares.

    header | block | block | ... | trailer          the newest block first

Every part ends or begins with a CRC32 over all its other bytes, and the trailer names the header's CRC, the count of the blocks and the
length of the file. So a file that is torn, short, patched together, or of another stream or release is known as such; all little-endian.
The columns are those of the ring (layout.py). A later format raises `VERSION`, and is readable for one release before any writes it.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from appliance.ring.columns import Epoch
from appliance.ring.layout import CHUNK_U32, CHUNK_U64, EPOCH_ROW, MEDIA_HZ, META_TEXT_BYTES

MAGIC: Final = int.from_bytes(b"SMDUMP\x00\x01", "little")
VERSION: Final = 1
BLOCK_TAG: Final = int.from_bytes(b"BLCK", "little")
TRAILER_TAG: Final = int.from_bytes(b"TAIL", "little")

HEADER: Final = struct.Struct("<QII64s16s11Q")
"""magic, version, header bytes (texts and CRC with it), stream key, format; written_us, identity, window_s, chunk_us, head_seq, head_pos,
head_media, discontinuities, discontinuities_removed, media_sequence, away_credit."""
ENTRY: Final = struct.Struct(f"<{len(CHUNK_U64)}Q{len(CHUNK_U32)}I")
"""The newest chunk's row: the columns in their order in the ring."""
EPOCH: Final = struct.Struct(EPOCH_ROW)
TITLE: Final = struct.Struct("<QQQII")
"""meta_id, ts_us, pos, title bytes, URL bytes; the texts follow elsewhere."""
CRC: Final = struct.Struct("<I")
BLOCK: Final = struct.Struct("<IIQIIIIQQ")
"""tag, crc, first_seq, chunks, titles, epochs, text bytes, first_pos, audio bytes."""
TRAILER: Final = struct.Struct("<IIQQQQII")
"""tag, crc, first_seq, head_seq, blocks, file bytes, why it ends there (see `Ends`), the header's CRC."""

HEADER_FIXED_BYTES: Final = HEADER.size + ENTRY.size + EPOCH.size + TITLE.size
HEADER_MAX_BYTES: Final = HEADER_FIXED_BYTES + META_TEXT_BYTES + CRC.size

BLOCK_AUDIO_BYTES: Final = 256 * 1024
"""A block's audio (one chunk, if that is longer): 16 s at 128 kbit/s. What is copied at a time, so what it holds up anything, is 0.1 ms."""
BLOCK_CHUNKS: Final = 1024
"""Chunks of a block at most, where they are tiny; also bounds its titles."""
RECORD_MAX_BYTES: Final = 512 * 1024 * 1024
"""No block is longer (a chunk is at most a quarter of a ring): what is read into memory at once."""
COUNT_MAX: Final = 1 << 63
"""Positions and numbers of a ring stay below it for 10,000 years; above it a u64 would soon wrap."""


class Ends:
    """Why the oldest audio of a dump is what it is."""

    COMPLETE: Final = 0
    """The whole window was written."""
    TIME: Final = 1
    """The time to write it was over: the newest part is here."""
    OVERTAKEN: Final = 2
    """The ring gave the older audio up while the newer was written."""


class DumpRefused(Exception):
    """A file that is not loaded; says why."""


class Title(NamedTuple):
    """A metadata row with its texts (UTF-8)."""

    meta_id: int
    ts_us: int
    pos: int
    title: bytes
    url: bytes


class Position(NamedTuple):
    """Where a ring stood: all that a new ring needs to go on from there. `entry`: the newest chunk's row, by column."""

    head_seq: int
    head_pos: int
    head_media: int
    discontinuities: int
    discontinuities_removed: int
    media_sequence: int
    away_credit: int
    entry: dict[str, int]
    epoch: Epoch | None
    title: Title | None


class Header(NamedTuple):
    """What a dump says of itself. `written_us`: wall clock (UTC); `crc` binds the trailer to it."""

    key: str
    format: str
    written_us: int
    identity: int
    window_s: int
    chunk_us: int
    position: Position
    size_bytes: int
    crc: int


class Trailer(NamedTuple):
    """The end of a dump: without it, it is none."""

    first_seq: int
    head_seq: int
    blocks: int
    file_bytes: int
    ends: int
    header_crc: int


def pack_header(found: Header) -> bytes:
    """The header's bytes (`size_bytes` and `crc` of `found` are not used)."""
    at, title = found.position, found.position.title
    texts = title.title + title.url if title else b""
    size = HEADER_FIXED_BYTES + len(texts) + CRC.size
    own = (found.written_us, found.identity, found.window_s, found.chunk_us)
    data = HEADER.pack(MAGIC, VERSION, size, found.key.encode(), found.format.encode(), *own, *at[:7])
    data += ENTRY.pack(*(at.entry[name] for name in CHUNK_U64 + CHUNK_U32))
    data += pack_epoch(at.epoch) if at.epoch else bytes(EPOCH.size)
    data += (pack_title(title) if title else bytes(TITLE.size)) + texts
    return data + CRC.pack(zlib.crc32(data))


def unpack_header(data: bytes) -> Header:
    """The header at the start of `data` (HEADER_MAX_BYTES of the file, or all). Raises DumpRefused."""
    if len(data) < HEADER_FIXED_BYTES + CRC.size:
        raise DumpRefused(f"{len(data)} bytes are too short for a dump")
    magic, version, size, key, kind, *words = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise DumpRefused("not a rewind dump: wrong magic")
    if version != VERSION:
        raise DumpRefused(f"dump format {version}, this release reads {VERSION}")
    if not HEADER_FIXED_BYTES + CRC.size <= size <= min(HEADER_MAX_BYTES, len(data)):
        raise DumpRefused("the header's size makes no sense")
    crc = zlib.crc32(data[: size - CRC.size])
    if CRC.unpack_from(data, size - CRC.size)[0] != crc:
        raise DumpRefused("the header's checksum is wrong")
    written_us, identity, window_s, chunk_us, *numbers = words
    position = _position(data, numbers, size)
    return Header(_text(key), _text(kind), written_us, identity, window_s, chunk_us, position, size, crc)


def _position(data: bytes, numbers: list[int], size: int) -> Position:
    head_seq, head_pos, head_media, breaks, removed, media_sequence, credit = numbers
    at = HEADER.size
    entry = dict(zip(CHUNK_U64 + CHUNK_U32, ENTRY.unpack_from(data, at), strict=True))
    at += ENTRY.size
    epoch = unpack_epoch(data, at)
    at += EPOCH.size
    texts = memoryview(data)[at + TITLE.size : size - CRC.size]
    titles = unpack_titles(data[at : at + TITLE.size], bytes(texts)) if texts or any(data[at : at + TITLE.size]) else []
    title = titles[0] if titles else None
    title_id = title.meta_id if title else 0
    named = title_id in (0, entry["meta_id"]) and epoch.epoch == entry["epoch"]
    ends = (entry["pos"] + entry["length"], entry["media_pos"] + entry["samples"] * MEDIA_HZ // max(1, entry["rate"]))
    chunk = entry["length"] and entry["samples"] and entry["rate"] and ends == (head_pos, head_media) and max(ends) < COUNT_MAX
    if not named or not chunk or head_seq < 2 or head_seq > COUNT_MAX or entry["seq"] != head_seq - 1:
        raise DumpRefused("the header contradicts itself")
    kind = epoch if epoch.epoch else None
    return Position(head_seq, head_pos, head_media, breaks, removed, media_sequence, credit, entry, kind, title)


def pack_epoch(epoch: Epoch) -> bytes:
    """An epoch row, as in the ring."""
    return EPOCH.pack(*epoch[:4], 0, epoch.stream_key.encode()[:56], epoch.profile.encode()[:32])


def unpack_epoch(data: bytes, at: int) -> Epoch:
    """The epoch row at an offset."""
    number, rate, channels, bitrate_bps, _, key, profile = EPOCH.unpack_from(data, at)
    return Epoch(number, rate, channels, bitrate_bps, _text(key), _text(profile))


def pack_title(title: Title) -> bytes:
    """A title's row without its texts."""
    return TITLE.pack(title.meta_id, title.ts_us, title.pos, len(title.title), len(title.url))


def unpack_titles(rows: bytes, texts: bytes) -> list[Title]:
    """Title rows and their texts, which must fit each other. Raises DumpRefused."""
    found, at = [], 0
    for meta_id, ts_us, pos, title_bytes, url_bytes in TITLE.iter_unpack(rows):
        middle, end = at + title_bytes, at + title_bytes + url_bytes
        if end - at > META_TEXT_BYTES:
            raise DumpRefused("a title is longer than a metadata row")
        found.append(Title(meta_id, ts_us, pos, texts[at:middle], texts[middle:end]))
        at = end
    if at != len(texts):
        raise DumpRefused("titles and their texts do not fit each other")
    return found


def pack_trailer(found: Trailer) -> bytes:
    """The trailer's bytes."""
    data = TRAILER.pack(TRAILER_TAG, 0, *found)
    return CRC.pack(TRAILER_TAG) + CRC.pack(zlib.crc32(data[8:])) + data[8:]


def unpack_trailer(data: bytes) -> Trailer:
    """The trailer from the last bytes of a file. Raises DumpRefused."""
    tag, crc, *words = TRAILER.unpack(data)
    if tag != TRAILER_TAG or crc != zlib.crc32(data[8:]):
        raise DumpRefused("the end is missing: the file is torn or cut short")
    return Trailer(*words)


def _text(padded: bytes) -> str:
    try:
        return padded.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise DumpRefused("a name in it is no text") from error
