"""One mapping of a ring: its words and its columns as views. Writer and reader both stand on it."""

from __future__ import annotations

import mmap
import struct
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.ring.layout import (
    CHUNK_U32,
    CHUNK_U64,
    EPOCH_ROW,
    EPOCH_ROW_BYTES,
    HEADER_BYTES,
    MAGIC,
    META_TEXT_BYTES,
    META_U32,
    META_U64,
    VERSION,
    Geometry,
    Word,
)


class RingRefused(Exception):
    """A memfd that is no ring, or one of a layout this release cannot read; says why."""


class Epoch(NamedTuple):
    """An epoch row: what the audio of its chunks is."""

    epoch: int
    rate: int
    channels: int
    bitrate_bps: int
    stream_key: str
    profile: str


class Columns:
    """The header words (memoryview 'Q': 0.08 us an access) and each column twice: numpy for searches, memoryview for the hot loop."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self.map = mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=prot)
        except (OSError, ValueError) as error:
            raise RingRefused(f"cannot map the ring: {error}") from error
        self.whole = memoryview(self.map)
        if len(self.whole) < HEADER_BYTES:
            raise RingRefused(f"{len(self.whole)} bytes are too short for a ring")
        self.words = self.whole[:HEADER_BYTES].cast("Q")
        self.geometry = self._read_geometry()
        self.offsets = self.geometry.offsets
        self.array: dict[str, npt.NDArray[Any]] = {}
        self.view: dict[str, memoryview] = {}
        self._cut_columns()
        self.chunk_mask = self.geometry.chunk_slots - 1
        self.meta_mask = self.geometry.meta_slots - 1
        self.epoch_mask = self.geometry.epoch_slots - 1
        self.data = self.whole[self.offsets["data"] :]
        self.capacity = self.geometry.capacity_bytes

    def _read_geometry(self) -> Geometry:
        words = self.words
        if words[Word.MAGIC] != MAGIC:
            raise RingRefused("not a rewind ring: wrong magic")
        if words[Word.VERSION] != VERSION:
            raise RingRefused(f"ring layout {words[Word.VERSION]}, this release reads {VERSION}")
        found = Geometry(
            words[Word.CHUNK_SLOTS], words[Word.META_SLOTS], words[Word.EPOCH_SLOTS], words[Word.CAPACITY_BYTES]
        )
        if min(found) < 1 or max(found[:3]) > 1 << 26:
            raise RingRefused("the header's sizes make no sense")
        if any(slots & (slots - 1) for slots in found[:3]) or found.file_bytes != len(self.whole):
            raise RingRefused("the header's sizes do not fit the file")
        return found

    def _cut_columns(self) -> None:
        offsets, geometry = self.offsets, self.geometry
        shapes: list[tuple[str, Literal["Q", "I"], int, int]] = [(n, "Q", 8, geometry.chunk_slots) for n in CHUNK_U64]
        shapes += [(n, "I", 4, geometry.chunk_slots) for n in CHUNK_U32]
        shapes += [(n, "Q", 8, geometry.meta_slots) for n in META_U64]
        shapes += [(n, "I", 4, geometry.meta_slots) for n in META_U32]
        for name, code, width, slots in shapes:
            part = self.whole[offsets[name] : offsets[name] + width * slots]
            self.view[name] = part.cast(code)
            self.array[name] = np.frombuffer(part, dtype=np.uint64 if code == "Q" else np.uint32)

    def text_at(self, meta_id: int) -> int:
        """Byte offset of a metadata row's text page."""
        return self.offsets["meta_text"] + (meta_id & self.meta_mask) * META_TEXT_BYTES

    def epoch_at(self, epoch: int) -> int:
        """Byte offset of an epoch's row."""
        return self.offsets["epochs"] + (epoch & self.epoch_mask) * EPOCH_ROW_BYTES

    def epoch(self, epoch: int) -> Epoch | None:
        """The row of an epoch; None when it was never written or is no longer held."""
        row = struct.unpack_from(EPOCH_ROW, self.whole, self.epoch_at(epoch))
        if epoch == 0 or row[0] != epoch:
            return None
        return Epoch(epoch, row[1], row[2], row[3], row[5].rstrip(b"\0").decode(), row[6].rstrip(b"\0").decode())

    def spans(self, start: int, end: int) -> list[memoryview]:
        """The bytes of logical positions [start, end) as one view, or two around the wrap. No copy."""
        at, size = start % self.capacity, end - start
        if at + size <= self.capacity:
            return [self.data[at : at + size]]
        return [self.data[at:], self.data[: at + size - self.capacity]]

    def close(self) -> None:
        """Let the mapping go. Fails with BufferError while somebody still holds a view: then the map lives until that view dies."""
        self.array.clear()
        for view in self.view.values():
            view.release()
        self.view.clear()
        for view in (self.words, self.data, self.whole):
            view.release()
        self.map.close()
