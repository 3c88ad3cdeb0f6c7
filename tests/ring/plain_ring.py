"""What the ring is compared with: a plain list of chunks, and audio whose every byte is known from its position."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from unittest import mock

from appliance.ring.layout import MEDIA_HZ, Flag, Geometry, Word
from appliance.ring.reader import RingReader, Title
from appliance.ring.writer import AudioInfo, Chunk, RingWriter

_PERIOD = 1_000_003
"""A prime: no capacity is a multiple of it, so bytes of another lap never look right."""
_PATTERN = random.Random(7).randbytes(_PERIOD)

TINY = Geometry(chunk_slots=64, meta_slots=16, epoch_slots=8, capacity_bytes=5 * 4096)
"""Laps after 64 chunks, 16 titles, 8 epochs or 20 KiB."""
MP3 = AudioInfo("mp3-44100-128-s", "mp4a.40.34", 44100, 2, 128_000)
HALF_S = (22050, 44100)
"""Samples and rate of half a second."""


def audio(pos: int, size: int) -> bytes:
    """The bytes of logical positions [pos, pos + size)."""
    at = pos % _PERIOD
    found = _PATTERN[at : at + size]
    return found if len(found) == size else found + audio(pos + len(found), size - len(found))


def make_ring(layout: Geometry, window_s: int = 5, chunk_s: float = 0.5, slack_bytes: int = 0) -> RingWriter:
    """A ring with these very sizes."""
    with mock.patch("appliance.ring.writer.geometry", return_value=layout):
        return RingWriter.create("test", window_s, chunk_s, slack_bytes)


def used_bytes(fd: int) -> int:
    """Memory that a memfd uses."""
    return os.fstat(fd).st_blocks * 512


def held(reader: RingReader, start: int, end: int) -> bytes:
    """What the ring says lies at [start, end)."""
    return b"".join(bytes(view) for view in reader.columns.spans(start, end))


@dataclass
class Entry:
    """A chunk as it must be found again."""

    seq: int
    ts_us: int
    pos: int
    media: int
    size: int
    samples: int
    rate: int
    meta_id: int
    epoch: int
    discontinuity: int
    flags: int

    @property
    def ends_us(self) -> int:
        """Where its label ends."""
        return self.ts_us + self.samples * 1_000_000 // self.rate


@dataclass
class PlainRing:
    """Everything ever appended, in a list."""

    entries: list[Entry] = field(default_factory=list)
    titles: dict[int, Title] = field(default_factory=dict)
    epochs: int = 0
    breaks: int = 0
    pos: int = 0
    media: int = 0

    @property
    def head(self) -> int:
        """The next chunk's number."""
        return len(self.entries) + 1

    def chunk(self, size: int, samples: int, rate: int, ts_us: int, flags: int = 0) -> Chunk:
        """Note a chunk and give it for `append`."""
        self.breaks += flags & Flag.DISCONTINUITY
        ids = len(self.titles), self.epochs, self.breaks
        self.entries.append(Entry(self.head, ts_us, self.pos, self.media, size, samples, rate, *ids, flags))
        start, self.pos, self.media = self.pos, self.pos + size, self.media + samples * MEDIA_HZ // rate
        return Chunk(audio(start, size), samples, rate, ts_us, flags)

    def media_at(self, seq: int) -> int:
        """Media position of a chunk, or of the end."""
        return self.entries[seq - 1].media if seq < self.head else self.media

    def pos_at(self, seq: int) -> int:
        """Logical position of a chunk, or of the end."""
        return self.entries[seq - 1].pos if seq < self.head else self.pos

    def oldest(self, head: int, tail: int, window: int) -> int:
        """What look-ups clamp to."""
        edge = self.media_at(head) - window
        return next((seq for seq in range(tail, head) if self.media_at(seq) >= edge), head)

    def seq_at_media(self, media: int, head: int, oldest: int) -> int:
        """The chunk that holds `media`."""
        if oldest >= head or media >= self.media_at(head):
            return head
        return max([oldest, *(seq for seq in range(oldest, head) if self.media_at(seq) <= media)])

    def seq_at_time(self, ts_us: int, head: int, oldest: int) -> int:
        """The chunk that plays at `ts_us`; inside a gap the next."""
        begun = [entry for entry in self.entries[oldest - 1 : head - 1] if entry.ts_us <= ts_us]
        if oldest >= head or not begun:
            return min(oldest, head)
        return begun[-1].seq + (ts_us >= begun[-1].ends_us)

    def seq_at_pos(self, pos: int, head: int, limit: int) -> int:
        """The chunk that holds byte `pos`."""
        holds = [seq for seq in range(limit, head) if self.pos_at(seq) <= pos < self.pos_at(seq + 1)]
        return holds[0] if holds else head if pos >= self.pos_at(head) else limit


def check_chunks(plain: PlainRing, reader: RingReader) -> None:
    """Every chunk from the limit on is there as it was appended: columns and bytes."""
    words, view = reader.words, reader.columns.view
    tail, limit, head = words[Word.TAIL_SEQ], words[Word.LIMIT_SEQ], words[Word.HEAD_SEQ]
    assert 1 <= limit <= tail <= head == plain.head
    assert words[Word.LIMIT_POS] == plain.pos_at(limit)
    assert plain.pos - plain.pos_at(limit) <= reader.columns.capacity
    assert words[Word.DISCONTINUITIES] == plain.breaks
    for entry in plain.entries[limit - 1 :]:
        slot = entry.seq & reader.mask
        found = {name: column[slot] for name, column in view.items() if not name.startswith("meta_") or name == "meta_id"}
        assert found.pop("media_pos") == entry.media
        assert found.pop("length") == entry.size
        assert found.pop("segment") == 0
        assert found == {name: getattr(entry, name) for name in found}
    assert (reader.pos[head & reader.mask], reader.media[head & reader.mask]) == (plain.pos, plain.media)
    start = plain.pos_at(limit)
    assert held(reader, start, plain.pos) == audio(start, plain.pos - start)


def feed(writer: RingWriter, plain: PlainRing, count: int, size: int = 700, flags: int = 0) -> None:
    """Append `count` chunks of half a second."""
    for _ in range(count):
        writer.append(plain.chunk(size, *HALF_S, ts_us=plain.head * 500_000, flags=flags), plain.head)
