"""The shared listener table of one worker: what must be known of each lasting listener when its worker is killed (MECHANICS 4).

One 64-byte row per listener. Fixed part: stream, kind, sequence, start position. Then two checkpoint slots of 24 bytes; the low bit
of the sequence number says which one holds. A checkpoint writes the other slot, then the sequence number, so a worker that dies in
the middle leaves the older checkpoint standing. Cost of a checkpoint: one pack_into and one store (0.6 us).

Why `total` is there: walking from the checkpoint to what TCP says was written gives the playhead to the byte, because the content
of ICY blocks is a function of the ring.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from appliance.ring import shared_page

ROW_BYTES: Final = 64
ROWS: Final = 20_480
"""More rows than a worker may have fds on the machines we know (20,000); 1.3 MB of address space, used as listeners come."""

KIND_FREE: Final = 0
KIND_RAW: Final = 1
KIND_ICY: Final = 2

_FIXED = struct.Struct("<HBBIQ")
_SLOT = struct.Struct("<QQII")
_SLOTS_AT: Final = 16


class Checkpoint(NamedTuple):
    """A row as read: `total` bytes ever written on the socket when the playhead was at `pos`, `until_meta` audio bytes before the
    next ICY block, id of the last title sent."""

    stream: int
    kind: int
    start_pos: int
    total: int
    pos: int
    until_meta: int
    title: int


class ListenerTable:
    """Rows of one worker. The worker claims, checkpoints and releases; the supervisor reads."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        self._whole = shared_page.map_whole(fd, writable=writable)
        self._rows = len(self._whole) // ROW_BYTES
        self._seqs = self._whole.cast("I")
        self._free: list[int] = []
        self._fresh = 0

    @staticmethod
    def create(name: str) -> int:
        """A memfd for a table with ROWS rows; returns its fd."""
        return shared_page.create(f"listeners.{name}", ROWS * ROW_BYTES)

    def claim(self, stream: int, kind: int, start_pos: int) -> int:
        """Take a row; -1 when all are taken (such a listener is served, and ends with its worker)."""
        if self._free:
            row = self._free.pop()
        elif self._fresh < self._rows:
            row, self._fresh = self._fresh, self._fresh + 1
        else:
            return -1
        _FIXED.pack_into(self._whole, row * ROW_BYTES, stream, kind, 0, 0, start_pos)
        return row

    def checkpoint(self, row: int, total: int, pos: int, until_meta: int, title: int) -> None:
        """Note that `total` bytes were written in all and the next audio byte is the one at logical `pos`."""
        word = row * 16 + 1
        seq = (self._seqs[word] + 1) & 0xFFFFFFFF
        _SLOT.pack_into(self._whole, row * ROW_BYTES + _SLOTS_AT + (seq & 1) * 24, total, pos, until_meta, title & 0xFFFFFFFF)
        self._seqs[word] = seq

    def release(self, row: int) -> None:
        """Give the row back."""
        if row >= 0:
            _FIXED.pack_into(self._whole, row * ROW_BYTES, 0, KIND_FREE, 0, 0, 0)
            self._free.append(row)

    def read(self, row: int) -> Checkpoint | None:
        """The newest checkpoint of a row; None for a free row, or one that has no checkpoint yet."""
        stream, kind, _, seq, start = _FIXED.unpack_from(self._whole, row * ROW_BYTES)
        if kind == KIND_FREE or seq == 0:
            return None
        total, pos, until, title = _SLOT.unpack_from(self._whole, row * ROW_BYTES + _SLOTS_AT + (seq & 1) * 24)
        return Checkpoint(stream, kind, start, total, pos, until, title)
