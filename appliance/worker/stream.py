"""A stream as a worker sees it: its ring, the head it learned, and what is rendered once for all its listeners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from appliance.channel.messages import StreamEntry
from appliance.ring.counters import CountersPage, StreamCount
from appliance.ring.layout import MEDIA_HZ
from appliance.ring.reader import RingReader
from appliance.wire import icy

BLOCKS_KEPT: Final = 256
"""Rendered ICY blocks kept per stream: titles that listeners at different offsets hear at the same time."""


class Stream:
    """One stream. `head` is only ever set after the doorbell was read (ring/layout.py, memory order)."""

    def __init__(self, entry: StreamEntry, reader: RingReader, counters: CountersPage) -> None:
        self.entry = entry
        self.reader = reader
        self.head = reader.head_seq
        self.counts = counters.stream(entry.index)
        self.counts[StreamCount.LISTENERS] = self.counts[StreamCount.REWOUND] = 0
        self.burst_ticks = int(entry.burst_s * MEDIA_HZ)
        self._blocks: dict[int, bytes] = {}

    def learn(self) -> None:
        """Take the newest head. Call only after the doorbell was read."""
        self.head = self.reader.head_seq

    @property
    def empty(self) -> bool:
        """Whether there is nothing to play yet."""
        return self.head <= self.reader.tail_seq

    def block(self, meta_id: int) -> bytes:
        """The ICY block of a title id: a pure function of the ring, rendered once."""
        found = self._blocks.get(meta_id)
        if found is None:
            title = self.reader.title(meta_id)
            found = icy.block(title.title, title.url) if title else icy.EMPTY_BLOCK
            if len(self._blocks) >= BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[meta_id] = found
        return found

    def meta_between(self, first: int, end: int) -> int | None:
        """The title id that all chunks [first, end) carry; None when it changes among them."""
        ids, mask = self.reader.columns.view["meta_id"], self.reader.mask
        found = ids[first & mask]
        return found if all(ids[seq & mask] == found for seq in range(first + 1, end)) else None

    def meta_at(self, pos: int) -> int:
        """The title id at logical byte position `pos`; at the head, that of the newest chunk."""
        seq = self.reader.seq_at_pos(pos, self.head)
        return self.reader.meta_id(min(seq, self.head - 1))


class StreamTable:
    """Streams by index, key, alias; and the root stream."""

    def __init__(self, counters: CountersPage) -> None:
        self._counters = counters
        self._by_index: dict[int, Stream] = {}
        self._by_path: dict[str, Stream] = {}
        self.root: Stream | None = None

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._by_index.values())

    def add(self, entry: StreamEntry, ring_fd: int) -> None:
        """Serve a stream from the ring behind `ring_fd` (the caller closes it). Raises RingRefused."""
        self._by_index[entry.index] = Stream(entry, RingReader(ring_fd), self._counters)
        self._rebuild()

    def update(self, entry: StreamEntry) -> None:
        """New words about a stream that is already served."""
        if entry.index in self._by_index:
            self._by_index[entry.index].entry = entry
            self._rebuild()

    def remove(self, index: int) -> Stream | None:
        """Serve a stream no more; returns it, so that its listeners can be ended."""
        found = self._by_index.pop(index, None)
        self._rebuild()
        return found

    def _rebuild(self) -> None:
        self._by_path = {stream.entry.key: stream for stream in self._by_index.values()}
        for stream in self._by_index.values():
            for alias in stream.entry.aliases:
                self._by_path.setdefault(alias.strip("/"), stream)
        self.root = next((stream for stream in self._by_index.values() if stream.entry.root), None)

    def at(self, index: int) -> Stream | None:
        """The stream of an index."""
        return self._by_index.get(index)

    def get(self, name: str) -> Stream | None:
        """The stream of a key or an alias."""
        return self._by_path.get(name)
