"""The one writer of a rewind ring.

Operations and their cost: `append` stores one chunk (one copy of its bytes, a dozen words) and moves tail and limit by about one
chunk; `set_title` stores one row; `away`/`present` store two words. Nothing here waits or reads the network.

What must never happen: bytes at or above `LIMIT_POS` are overwritten or punched. So the limit is published before the data is
touched, and the tail a guard before that: a reader that was above the tail before its send and above the limit after it has sent
only true bytes (MECHANICS 1). And two writers never append: `lockf` on the memfd is taken at birth and again before each store (1 us).
POSIX locks die with the first close of *any* descriptor of the file in this process, a reader's mapping that is let go included: every
descriptor opened here is kept until `close`, and a lock lost all the same is taken back, or the store refused if another process has it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from appliance.ring.columns import Columns, Epoch, RingRefused
from appliance.ring.dump_format import EPOCH, Position, Title, pack_epoch
from appliance.ring.layout import (
    EPOCH_ROW,
    FIRST_SEQ,
    GUARD_S,
    MAGIC,
    MAX_BITRATE_BYTES_S,
    MEDIA_HZ,
    META_TEXT_BYTES,
    PAGE_BYTES,
    SLACK_S,
    VERSION,
    Flag,
    Word,
    geometry,
)

PUNCH_BYTES = 256 * 1024
"""Pages are given back in strides of this size: one madvise per 16 s of 128 kbit/s audio."""
RESERVE_BYTES = 256 * 1024
RESERVE_SEQS = 2
"""A full ring's limit is kept this far above what the next append overwrites (bytes; table slots), so that a limit is always published one
append, and its doorbell's system calls, before anything below it is touched."""


class Chunk(NamedTuple):
    """A whole number of audio frames. `ts_us`: wall clock (UTC) of its first sample."""

    data: bytes
    samples: int
    rate: int
    ts_us: int
    flags: int = 0


class AudioInfo(NamedTuple):
    """What an epoch's audio is: as `AudioFormat` of the wire, in plain values."""

    stream_key: str
    profile: str
    rate: int
    channels: int
    bitrate_bps: int


class RingWriter:
    """Writes one ring. Create with `RingWriter.create`, or `RingWriter.attach` on a memfd that another process left."""

    def __init__(self, fd: int, reader_fd: int) -> None:
        """Take the lock and map. Raises RingRefused when another process writes this ring or it is no ring of ours."""
        _lock(fd)
        self.fd = fd
        self.reader_fd = reader_fd
        self.columns = Columns(fd, writable=True)
        self._words = self.columns.words
        self._settle_predecessor()
        self._window = self._words[Word.WINDOW_S] * MEDIA_HZ
        self._slack_bytes = self._words[Word.SLACK_BYTES]
        self._edge_seq = self._words[Word.TAIL_SEQ]
        self._titled_media: int | None = None
        capacity, slots = self.columns.capacity, self.columns.geometry.chunk_slots
        self._reserve_bytes = min(RESERVE_BYTES, capacity // 8)
        self._guard_bytes = min(GUARD_S * MAX_BITRATE_BYTES_S, capacity // 4)
        self._guard_seqs = min(GUARD_S * 1_000_000 // max(1, self._words[Word.CHUNK_US]), slots // 4)
        self._punched = max(0, self._words[Word.LIMIT_POS] // PAGE_BYTES * PAGE_BYTES - PUNCH_BYTES)
        self._oldest_title = FIRST_SEQ

    @classmethod
    def create(
        cls, name: str, window_s: int, chunk_s: float, slack_bytes: int, max_bytes_s: int = MAX_BITRATE_BYTES_S
    ) -> RingWriter:
        """Make an empty ring that holds `window_s` seconds. Uses no memory beyond a few pages until audio comes."""
        layout = geometry(window_s, chunk_s, slack_bytes, max_bytes_s)
        fd = os.memfd_create(f"ring.{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, layout.file_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        with mmap.mmap(fd, PAGE_BYTES) as page:
            words = memoryview(page).cast("Q")
            _write_birth(words, layout.offsets["data"], window_s, chunk_s, slack_bytes, layout)
            words.release()
        return cls.attach(fd)

    @classmethod
    def attach(cls, fd: int) -> RingWriter:
        """Go on with a ring: same positions, same sequence numbers. Raises RingRefused."""
        reader_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls(fd, reader_fd)
        except BaseException:
            os.close(reader_fd)
            raise

    def _settle_predecessor(self) -> None:
        """A writer killed inside `append` may have moved half of the limit, or counted a discontinuity whose chunk never came."""
        words, view, mask = self._words, self.columns.view, self.columns.chunk_mask
        words[Word.LIMIT_POS] = view["pos"][words[Word.LIMIT_SEQ] & mask]
        if self.head_seq > words[Word.TAIL_SEQ]:
            words[Word.DISCONTINUITIES] = view["discontinuity"][(self.head_seq - 1) & mask]

    @property
    def head_seq(self) -> int:
        """The sequence number the next chunk gets."""
        return self._words[Word.HEAD_SEQ]

    @property
    def head_pos(self) -> int:
        """The logical byte position the next chunk gets."""
        return self.columns.view["pos"][self.head_seq & self.columns.chunk_mask]

    @property
    def head_media(self) -> int:
        """Media position (ticks of MEDIA_HZ) of the next chunk."""
        return self.columns.view["media_pos"][self.head_seq & self.columns.chunk_mask]

    @property
    def tail_seq(self) -> int:
        """The oldest chunk held."""
        return self._words[Word.TAIL_SEQ]

    @property
    def window_ticks(self) -> int:
        """The length of the window, in media ticks."""
        return self._window

    @property
    def appended_us(self) -> int:
        """Monotonic time of the last append; 0 before any."""
        return self._words[Word.APPENDED_US]

    def epoch(self) -> Epoch | None:
        """What the audio was last; None before any."""
        return self.columns.epoch(self._words[Word.EPOCH_HEAD])

    def append(self, chunk: Chunk, monotonic_us: int) -> int:
        """Store one chunk, publish it, return its sequence number. Raises ValueError for what cannot be a chunk, RingRefused when another
        process has become the ring's writer."""
        size = len(chunk.data)
        if not 0 < size <= self.columns.capacity // 4 or chunk.samples < 1 or chunk.rate < 1:
            raise ValueError(f"not a chunk: {size} bytes, {chunk.samples} samples at {chunk.rate} Hz")
        _lock(self.fd)
        head, pos, media = self.head_seq, self.head_pos, self.head_media
        end_media = media + chunk.samples * MEDIA_HZ // chunk.rate
        self._make_room(head, pos + size, end_media)
        self._store_data(pos, chunk.data)
        self._store_entry(head, pos, media, chunk)
        view, after = self.columns.view, (head + 1) & self.columns.chunk_mask
        view["pos"][after] = pos + size
        view["media_pos"][after] = end_media
        self._words[Word.APPENDED_US] = monotonic_us
        self._words[Word.HEAD_SEQ] = head + 1
        self._punch()
        return head

    def _make_room(self, head: int, end_pos: int, end_media: int) -> None:
        """Move tail, then limit, so that the new chunk overwrites only what lies below the limit."""
        words, mask = self._words, self.columns.chunk_mask
        media, pos, epoch = (self.columns.view[name] for name in ("media_pos", "pos", "epoch"))
        tail = words[Word.TAIL_SEQ]
        edge = max(self._edge_seq, tail)
        while edge < head and media[edge & mask] + self._window < end_media:
            edge += 1
        self._edge_seq = edge
        slack_media, slack_pos = media[edge & mask] - SLACK_S * MEDIA_HZ, pos[edge & mask] - self._slack_bytes
        must_pos = end_pos - self.columns.capacity + self._reserve_bytes
        must_seq = head + 2 + RESERVE_SEQS - self.columns.geometry.chunk_slots
        oldest_pos, oldest_seq = must_pos + self._guard_bytes, must_seq + self._guard_seqs
        oldest_epoch = words[Word.EPOCH_HEAD] - self.columns.geometry.epoch_slots + 2
        while tail < head and (
            (media[tail & mask] < slack_media and pos[tail & mask] < slack_pos)
            or pos[tail & mask] < oldest_pos
            or tail < oldest_seq
            or epoch[tail & mask] < oldest_epoch
        ):
            tail += 1
        words[Word.TAIL_SEQ] = tail
        self._move_limit(tail, must_pos, must_seq)

    def _move_limit(self, tail: int, must_pos: int, must_seq: int) -> None:
        words, mask = self._words, self.columns.chunk_mask
        media, pos = self.columns.view["media_pos"], self.columns.view["pos"]
        limit, guard = words[Word.LIMIT_SEQ], media[tail & mask] - GUARD_S * MEDIA_HZ
        while limit < tail and (media[limit & mask] < guard or pos[limit & mask] < must_pos or limit < must_seq):
            limit += 1
        words[Word.LIMIT_SEQ] = limit
        words[Word.LIMIT_POS] = pos[limit & mask]

    def _store_data(self, pos: int, data: bytes | memoryview) -> None:
        at, capacity = pos % self.columns.capacity, self.columns.capacity
        first = min(len(data), capacity - at)
        self.columns.data[at : at + first] = data[:first]
        if first < len(data):
            self.columns.data[: len(data) - first] = data[first:]

    def _store_entry(self, seq: int, pos: int, media: int, chunk: Chunk) -> None:
        words, slot, view = self._words, seq & self.columns.chunk_mask, self.columns.view
        breaks = words[Word.DISCONTINUITIES] + (chunk.flags & Flag.DISCONTINUITY != 0)
        entry = {
            "seq": seq,
            "ts_us": max(chunk.ts_us, view["ts_us"][(seq - 1) & self.columns.chunk_mask]),
            "pos": pos,
            "media_pos": media,
            "meta_id": words[Word.META_HEAD],
            "segment": 0,
            "length": len(chunk.data),
            "samples": chunk.samples,
            "rate": chunk.rate,
            "epoch": words[Word.EPOCH_HEAD],
            "discontinuity": breaks,
            "flags": chunk.flags,
        }
        for name, value in entry.items():
            view[name][slot] = value
        words[Word.DISCONTINUITIES] = breaks

    def _punch(self) -> None:
        """Give the pages behind the limit back to the kernel, in strides; never a page that newer audio uses again."""
        limit, reused = self._words[Word.LIMIT_POS], self.head_pos - self.columns.capacity
        self._punched = max(self._punched, -(-reused // PAGE_BYTES) * PAGE_BYTES)
        while limit - self._punched >= PUNCH_BYTES:
            start = self._punched % self.columns.capacity
            size = min(PUNCH_BYTES, self.columns.capacity - start)
            self.columns.map.madvise(mmap.MADV_REMOVE, self.columns.offsets["data"] + start, size)
            self._punched += size
        self._forget_titles()

    def _forget_titles(self) -> None:
        """Give back the text pages of titles that no chunk from the limit on carries; their ids name nothing from then on."""
        slots, limit = self.columns.geometry.meta_slots, self._words[Word.LIMIT_SEQ] & self.columns.chunk_mask
        first = max(self._oldest_title, self._words[Word.META_HEAD] + 1 - slots)
        last = self.columns.view["meta_id"][limit]
        while first < last:
            slot = first & self.columns.meta_mask
            size = min(last - first, slots - slot)
            self.columns.array["meta_seq"][slot : slot + size] = 0
            self.columns.map.madvise(mmap.MADV_REMOVE, self.columns.text_at(first), size * META_TEXT_BYTES)
            first += size
        self._oldest_title = first

    def start_epoch(self, audio: AudioInfo) -> int:
        """The chunks from here on are of this kind. Returns the epoch's number. Raises RingRefused, as `append`."""
        _lock(self.fd)
        epoch = self._words[Word.EPOCH_HEAD] + 1
        row = self.columns.epoch_at(epoch)
        key, profile = audio.stream_key.encode()[:56], audio.profile.encode()[:32]
        struct.pack_into(
            EPOCH_ROW, self.columns.map, row, epoch, audio.rate, audio.channels, audio.bitrate_bps, 0, key, profile
        )
        self._words[Word.EPOCH_HEAD] = epoch
        return epoch

    def title_due(self, spacing: int) -> bool:
        """Whether `spacing` media ticks went by since the last title row."""
        return self._titled_media is None or self.head_media - self._titled_media >= spacing

    def set_title(self, title: bytes, url: bytes, ts_us: int) -> int:
        """The chunks from here on carry this title (UTF-8, together at most META_TEXT_BYTES). Returns its metadata id."""
        if len(title) + len(url) > META_TEXT_BYTES:
            raise ValueError("title and URL are longer than a metadata row")
        _lock(self.fd)
        meta_id = self._words[Word.META_HEAD] + 1
        view, slot, at = self.columns.view, meta_id & self.columns.meta_mask, self.columns.text_at(meta_id)
        view["meta_seq"][slot] = 0
        self.columns.map[at : at + len(title) + len(url)] = title + url
        view["meta_title_bytes"][slot], view["meta_url_bytes"][slot] = len(title), len(url)
        view["meta_ts_us"][slot], view["meta_pos"][slot] = ts_us, self.head_pos
        view["meta_seq"][slot] = meta_id
        self._words[Word.META_HEAD] = meta_id
        self._titled_media = self.head_media
        return meta_id

    def away(self, since_us: int) -> None:
        """No source feeds the ring since this monotonic time: rewound listeners follow the clock from there."""
        if self._words[Word.AWAY_SINCE_US] == 0:
            self._words[Word.AWAY_SINCE_US] = max(1, since_us)

    def present(self, now_us: int) -> None:
        """A source is back: the time away becomes credit. The order matters: readers read credit, then since."""
        since = self._words[Word.AWAY_SINCE_US]
        if since:
            self._words[Word.AWAY_SINCE_US] = 0
            self._words[Word.AWAY_CREDIT] += max(0, now_us - since) * MEDIA_HZ // 1_000_000

    def begin_at(self, at: Position, now_us: int) -> None:
        """A new ring, not shown to any reader yet, goes on from where another stood: same numbers, and nothing held. No source feeds it
        since `now_us` (monotonic). Raises ValueError when it had audio, RingRefused as `append`."""
        if self.head_seq != FIRST_SEQ:
            raise ValueError("only an empty ring begins somewhere else")
        _lock(self.fd)
        words, view, mask = self._words, self.columns.view, self.columns.chunk_mask
        for name, value in at.entry.items():
            view[name][(at.head_seq - 1) & mask] = value
        view["pos"][at.head_seq & mask], view["media_pos"][at.head_seq & mask] = at.head_pos, at.head_media
        words[Word.META_HEAD], words[Word.EPOCH_HEAD] = at.entry["meta_id"], at.entry["epoch"]
        self.put_rows([at.title] if at.title else [], [at.epoch] if at.epoch else [])
        words[Word.DISCONTINUITIES], words[Word.DISCONTINUITIES_REMOVED] = at.discontinuities, at.discontinuities_removed
        words[Word.MEDIA_SEQUENCE], words[Word.AWAY_CREDIT] = at.media_sequence, at.away_credit
        words[Word.AWAY_SINCE_US] = max(1, now_us)
        self._begin_from(at.head_seq, at.head_pos, at.entry["meta_id"] + 1)  # that title is the past's, too: not to be forgotten yet
        words[Word.HEAD_SEQ] = at.head_seq

    def _begin_from(self, seq: int, pos: int, meta_id: int) -> None:
        """The oldest chunk held is `seq`, and nothing below it needs to be given back."""
        words = self._words
        words[Word.LIMIT_POS], words[Word.LIMIT_SEQ] = pos, seq
        words[Word.TAIL_SEQ] = self._edge_seq = seq
        self._punched, self._oldest_title = pos // PAGE_BYTES * PAGE_BYTES, max(FIRST_SEQ, meta_id)

    def could_hold(self, seq: int, pos: int, epoch: int) -> bool:
        """Whether an older chunk with these would not have to go with the next append, nor share its place with newer audio."""
        must_pos = self.head_pos - self.columns.capacity + self._reserve_bytes + self._guard_bytes
        must_seq = self.head_seq + 2 + RESERVE_SEQS - self.columns.geometry.chunk_slots + self._guard_seqs
        oldest_epoch = self._words[Word.EPOCH_HEAD] - self.columns.geometry.epoch_slots + 2
        return pos >= must_pos and seq >= must_seq and epoch >= oldest_epoch

    def put_rows(self, titles: Sequence[Title], epochs: Sequence[Epoch]) -> None:
        """Store rows of titles and epochs of the past, unless newer ones have taken their places."""
        columns, words = self.columns, self._words
        for title in titles:
            slot, at = title.meta_id & columns.meta_mask, columns.text_at(title.meta_id)
            if words[Word.META_HEAD] - columns.geometry.meta_slots < title.meta_id <= words[Word.META_HEAD]:
                columns.map[at : at + len(title.title) + len(title.url)] = title.title + title.url
                columns.view["meta_title_bytes"][slot], columns.view["meta_url_bytes"][slot] = len(title.title), len(title.url)
                columns.view["meta_ts_us"][slot], columns.view["meta_pos"][slot] = title.ts_us, title.pos
                columns.view["meta_seq"][slot] = title.meta_id
        for epoch in epochs:
            if words[Word.EPOCH_HEAD] - columns.geometry.epoch_slots < epoch.epoch <= words[Word.EPOCH_HEAD]:
                columns.map[columns.epoch_at(epoch.epoch) : columns.epoch_at(epoch.epoch) + EPOCH.size] = pack_epoch(epoch)

    def put_data(self, pos: int, data: bytes | memoryview) -> None:
        """Store bytes of the past at their logical position; nobody sees them before `reach_back`."""
        self._store_data(pos, data)

    def reach_back(self, seq: int) -> None:
        """Everything from the older chunk `seq` on, stored meanwhile below the tail, is held from now on."""
        _lock(self.fd)
        slot = seq & self.columns.chunk_mask
        self._begin_from(seq, self.columns.view["pos"][slot], self.columns.view["meta_id"][slot])

    def give_back(self, pos: int, meta_id: int) -> None:
        """What was stored of the past from `pos` and title `meta_id` on, and is not held, costs memory no more."""
        self._punched = min(self._punched, pos // PAGE_BYTES * PAGE_BYTES)
        self._oldest_title = min(self._oldest_title, max(FIRST_SEQ, meta_id))
        self._punch()

    @property
    def window_s(self) -> int:
        """The window this ring was laid out for."""
        return self._words[Word.WINDOW_S]

    def unlock(self) -> None:
        """Let another process write. The next append here takes the lock again, or raises RingRefused."""
        fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the lock and the memory."""
        self.columns.close()
        os.close(self.reader_fd)
        os.close(self.fd)


def _lock(fd: int) -> None:
    """Become, or stay, the one process that writes this ring."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise RingRefused("another process writes this ring") from error
    except OSError as error:
        raise RingRefused(f"cannot lock the ring: {error}") from error


def _write_birth(
    words: memoryview, data_offset: int, window_s: int, chunk_s: float, slack_bytes: int, layout: tuple[int, ...]
) -> None:
    """The header of an empty ring; the magic last, so that a half-made one is refused."""
    words[Word.VERSION] = VERSION
    words[Word.CHUNK_SLOTS], words[Word.META_SLOTS], words[Word.EPOCH_SLOTS], words[Word.CAPACITY_BYTES] = layout
    words[Word.DATA_OFFSET] = data_offset
    words[Word.WINDOW_S], words[Word.SLACK_BYTES] = window_s, slack_bytes
    words[Word.CHUNK_US] = int(chunk_s * 1_000_000)
    words[Word.IDENTITY], words[Word.CREATED_US] = secrets.randbits(63), time.time_ns() // 1000
    words[Word.HEAD_SEQ] = words[Word.TAIL_SEQ] = words[Word.LIMIT_SEQ] = FIRST_SEQ
    words[Word.MAGIC] = MAGIC
