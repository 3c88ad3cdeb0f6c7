"""The byte map of the rewind ring: the only file with an offset. docs/ring-format.md shows the same map; a test compares.

A ring is one memfd: header page, chunk columns, metadata columns and texts, epoch rows, data area. One process writes, many map
it read-only; there is no lock between them. All words are little-endian and naturally aligned, so that an aligned 64-bit store or
load is one memory access on x86-64 and arm64.

Memory order, which everything rests on: the writer stores data, then the entry, then `head_seq`, then writes the reader's eventfd.
A reader uses only a head that it read after it has read its own eventfd. The two system calls are full barriers on both machines.
Old fields never move: a later layout adds words and columns behind these and raises `VERSION`.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

if sys.byteorder != "little":
    raise ImportError("the ring layout is defined for little-endian machines (x86-64, arm64) only")

MAGIC: Final = int.from_bytes(b"SMRING\x00\x01", "little")
VERSION: Final = 1
PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = PAGE_BYTES

MEDIA_HZ: Final = 28_224_000
"""Ticks per second of `media_pos`: the least common multiple of every MPEG audio sample rate, so that sums of samples are exact."""

FIRST_SEQ: Final = 1
"""Sequence numbers and metadata ids start at 1; 0 means none."""


class Word:
    """Indexes of the 64-bit words of the header page. Below 64: written once; from 64 on: the writer's, changing."""

    MAGIC: Final = 0
    VERSION: Final = 1
    CHUNK_SLOTS: Final = 2
    META_SLOTS: Final = 3
    EPOCH_SLOTS: Final = 4
    DATA_OFFSET: Final = 5
    CAPACITY_BYTES: Final = 6
    WINDOW_S: Final = 7
    SLACK_BYTES: Final = 8
    CHUNK_US: Final = 9
    IDENTITY: Final = 10
    CREATED_US: Final = 11

    HEAD_SEQ: Final = 64
    TAIL_SEQ: Final = 72
    LIMIT_SEQ: Final = 73
    LIMIT_POS: Final = 74
    META_HEAD: Final = 75
    EPOCH_HEAD: Final = 76
    DISCONTINUITIES: Final = 77
    MEDIA_SEQUENCE: Final = 78
    AWAY_SINCE_US: Final = 80
    AWAY_CREDIT: Final = 81
    APPENDED_US: Final = 82
    DISCONTINUITIES_REMOVED: Final = 83


class Flag:
    """Bits of a chunk's `flags`."""

    DISCONTINUITY: Final = 1
    """The time line or the codec breaks before this chunk."""
    SOURCE_START: Final = 2
    """The first chunk of a source connection."""


CHUNK_U64: Final = ("seq", "ts_us", "pos", "media_pos", "meta_id", "segment")
CHUNK_U32: Final = ("length", "samples", "rate", "epoch", "discontinuity", "flags")
META_U64: Final = ("meta_seq", "meta_ts_us", "meta_pos")
META_U32: Final = ("meta_title_bytes", "meta_url_bytes")

META_TEXT_BYTES: Final = 4096
"""One page per title: title and URL together fit an ICY block of 4,080 bytes; a page is only used once its row is."""
EPOCH_ROW_BYTES: Final = 128
EPOCH_ROW: Final = "<QIIII56s32s"
"""id, sample rate, channels, bitrate (bit/s), reserved, stream key, RFC 6381 profile."""

MAX_BITRATE_BYTES_S: Final = 72_000
"""The address space is laid out for 576 kbit/s; pages are only used for what is held, so a higher bound costs nothing."""
MIN_BITRATE_BYTES_S: Final = 1_000
"""8 kbit/s, the slowest MP3: how many chunks `max_buffer` bytes may be."""
SLACK_S: Final = 60
"""Audio held beyond the window, for listeners at its edge who are late (MECHANICS 1)."""
GUARD_S: Final = 10
"""Audio between the tail and what may be overwritten: a reader that checked the tail has this long to finish its send."""
TITLE_SPACING_S: Final = 2
"""Titles change at most this often (the latest wins), which bounds the metadata table and still loses no title that lasts."""
EPOCH_SLOTS: Final = 4096
"""Codec changes within one window; more shorten the buffer."""


class Geometry(NamedTuple):
    """Sizes of one ring: slots are powers of two, bytes are whole pages."""

    chunk_slots: int
    meta_slots: int
    epoch_slots: int
    capacity_bytes: int

    @property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each column and area, in file order, each on a page of its own."""
        found: dict[str, int] = {}
        at = HEADER_BYTES
        widths = [(name, 8 * self.chunk_slots) for name in CHUNK_U64]
        widths += [(name, 4 * self.chunk_slots) for name in CHUNK_U32]
        widths += [(name, 8 * self.meta_slots) for name in META_U64]
        widths += [(name, 4 * self.meta_slots) for name in META_U32]
        widths += [("meta_text", META_TEXT_BYTES * self.meta_slots), ("epochs", EPOCH_ROW_BYTES * self.epoch_slots)]
        for name, width in widths:
            found[name] = at
            at += _pages(width)
        found["data"] = at
        return found

    @property
    def file_bytes(self) -> int:
        """Size of the memfd."""
        return self.offsets["data"] + self.capacity_bytes


def geometry(window_s: int, chunk_s: float, slack_bytes: int, max_bytes_s: int = MAX_BITRATE_BYTES_S) -> Geometry:
    """Lay out a ring that holds `window_s` seconds, the slack and the guard at up to `max_bytes_s` bytes per second."""
    held_s = window_s + SLACK_S + GUARD_S
    slow_s = slack_bytes / MIN_BITRATE_BYTES_S
    chunks = (held_s + slow_s) / chunk_s * 1.25 + 1024
    titles = (held_s + slow_s) / TITLE_SPACING_S + 64
    data = held_s * max_bytes_s + slack_bytes
    return Geometry(_power_of_two(chunks), _power_of_two(titles), EPOCH_SLOTS, _pages(data + max_bytes_s * GUARD_S))


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _power_of_two(at_least: float) -> int:
    return 1 << max(0, int(at_least) - 1).bit_length()
