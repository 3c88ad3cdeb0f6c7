"""Reading a rewind ring: look-ups by media position, wall clock and byte position, titles and epochs.

The mapping is read-only. Nothing here caches a head: callers pass the head they learned after their doorbell (layout.py says why).
A look-up is a search in at most two runs of a sorted column [1.8 us each].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from appliance.ring.columns import Columns, Epoch
from appliance.ring.layout import MEDIA_HZ, Word

_LATEST = (1 << 64) - 1


class Title(NamedTuple):
    """A metadata row: id, UTF-8 title and URL, wall clock (us) at which it was set."""

    meta_id: int
    title: str
    url: str
    ts_us: int


class RingReader:
    """A read-only view of one ring. `pos` and `media` are the hot columns; index them with `seq & mask`, up to and with the head."""

    def __init__(self, fd: int) -> None:
        """Map the ring behind `fd` (which may be closed afterwards). Raises RingRefused."""
        self.columns = Columns(fd, writable=False)
        self.words = self.columns.words
        self.mask = self.columns.chunk_mask
        self.pos = self.columns.view["pos"]
        self.media = self.columns.view["media_pos"]
        self.window = self.words[Word.WINDOW_S] * MEDIA_HZ

    @property
    def head_seq(self) -> int:
        """The next chunk's number. Use it only when read after this process's doorbell."""
        return self.words[Word.HEAD_SEQ]

    @property
    def tail_seq(self) -> int:
        """The oldest chunk that may be started or sent."""
        return self.words[Word.TAIL_SEQ]

    @property
    def limit_pos(self) -> int:
        """Bytes below this logical position may be overwritten already."""
        return self.words[Word.LIMIT_POS]

    def pace(self, head: int, now_us: int) -> int:
        """The media clock of the stream at monotonic `now_us`: the head's media position, plus the time sources were away."""
        credit = self.words[Word.AWAY_CREDIT]
        since = self.words[Word.AWAY_SINCE_US]
        if since and now_us > since:
            credit += (now_us - since) * MEDIA_HZ // 1_000_000
        return self.media[head & self.mask] + credit

    def oldest(self, head: int) -> int:
        """The oldest chunk a look-up may answer: not before the window, not before the tail (above `head` if that is lapped)."""
        edge = self.media[head & self.mask] - self.window
        tail = self.tail_seq
        return tail if tail >= head or edge <= self.media[tail & self.mask] else self._search("media_pos", edge, tail, head, "left")

    def seq_at_media(self, media: int, head: int) -> int:
        """The chunk that holds media position `media`, clamped to what is held; `head` when nothing is."""
        first = self.oldest(head)
        if first >= head or media >= self.media[head & self.mask]:
            return head
        return max(first, self._search("media_pos", max(0, media), first, head, "right") - 1)

    def seq_at_time(self, ts_us: int, head: int) -> int:
        """The chunk playing at wall clock `ts_us`; inside a gap the next one; clamped; `head` when it is later than all audio."""
        first = self.oldest(head)
        if first >= head:
            return head
        found = self._search("ts_us", min(max(0, ts_us), _LATEST), first, head, "right") - 1
        if found < first:
            return first
        slot = found & self.mask
        rate = max(1, self.columns.view["rate"][slot])
        ends = self.columns.view["ts_us"][slot] + self.columns.view["samples"][slot] * 1_000_000 // rate
        return found if ts_us < ends else found + 1

    def seq_at_pos(self, pos: int, head: int) -> int:
        """The chunk that holds the byte at logical `pos`, clamped to the limit, not the tail: who checked the tail has the guard to
        finish. `head` for the head itself."""
        first = self.words[Word.LIMIT_SEQ]
        if first >= head or pos >= self.pos[head & self.mask]:
            return head
        return max(first, self._search("pos", max(0, pos), first, head, "right") - 1)

    def _search(self, column: str, needle: int, first: int, head: int, side: str) -> int:
        """Search sorted chunks [first, head) of a circular column: the insertion point as a sequence number."""
        array, mask = self.columns.array[column], self.mask
        slots = mask + 1
        low, high = first & mask, first & mask
        high = low + (head - first)
        key = np.uint64(needle)
        run = array[low : min(high, slots)]
        found = int(run.searchsorted(key, side=side))  # type: ignore[call-overload]
        if found == len(run) and high > slots:
            found += int(array[: high - slots].searchsorted(key, side=side))  # type: ignore[call-overload]
        return first + found

    def ts_us(self, seq: int) -> int:
        """Wall clock of the first sample of chunk `seq`."""
        return self.columns.view["ts_us"][seq & self.mask]

    def meta_id(self, seq: int) -> int:
        """The id of the title that chunk `seq` carries; 0 for none."""
        return self.columns.view["meta_id"][seq & self.mask]

    def title(self, meta_id: int) -> Title | None:
        """The row of a metadata id; None for 0 and for one that is no longer held."""
        slot, view = meta_id & self.columns.meta_mask, self.columns.view
        if meta_id == 0 or view["meta_seq"][slot] != meta_id:
            return None
        at, size = self.columns.text_at(meta_id), view["meta_title_bytes"][slot]
        text = bytes(self.columns.whole[at : at + size + view["meta_url_bytes"][slot]])
        ts_us = view["meta_ts_us"][slot]
        if view["meta_seq"][slot] != meta_id:
            return None
        return Title(meta_id, text[:size].decode("utf-8", "replace"), text[size:].decode("utf-8", "replace"), ts_us)

    def epoch(self, epoch: int) -> Epoch | None:
        """The row of an epoch; None when it was never written or is no longer held."""
        return self.columns.epoch(epoch)

    def current_epoch(self) -> Epoch | None:
        """The newest epoch; None before any audio."""
        return self.epoch(self.words[Word.EPOCH_HEAD])

    def close(self) -> None:
        """Let the mapping go."""
        self.pos = self.media = memoryview(b"")
        self.columns.close()
