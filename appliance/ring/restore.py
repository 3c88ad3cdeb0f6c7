"""Loading a rewind dump into a ring that is live already, or about to be.

A dump's header says where the ring stood. A new ring begins there at once, empty, and live audio may be appended from then on with the
numbers that follow. The audio of the past goes in below the tail, where no reader looks, block by block and newest first; when the last
byte of the file has proved right, and not before, the tail moves back over all of it (`publish`). If anything is wrong it is given back
(`drop`): nothing of it was ever seen, and the ring goes on as it is. So a dump is loaded whole or not at all, and it holds up nobody.

`DumpFile` reads and checks in any thread; `Restoration` changes the ring, and is used in the thread that writes it.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.ring.columns import Epoch
from appliance.ring.dump_format import (
    BLOCK,
    BLOCK_TAG,
    EPOCH,
    HEADER_MAX_BYTES,
    RECORD_MAX_BYTES,
    TITLE,
    TRAILER,
    DumpRefused,
    Header,
    Position,
    Title,
    Trailer,
    unpack_epoch,
    unpack_header,
    unpack_titles,
    unpack_trailer,
)
from appliance.ring.layout import CHUNK_U32, CHUNK_U64, MEDIA_HZ
from appliance.ring.writer import RingWriter

_ROW_BYTES = 8 * len(CHUNK_U64) + 4 * len(CHUNK_U32)


class Block(NamedTuple):
    """A run of chunks from a dump, checked: columns by name, rows of titles and epochs, the audio of all."""

    first_seq: int
    chunks: int
    first_pos: int
    columns: dict[str, npt.NDArray[Any]]
    titles: list[Title]
    epochs: list[Epoch]
    audio: memoryview


class DumpFile:
    """A dump on disk. Made when header and trailer are right; the blocks are checked as they are read."""

    def __init__(self, path: Path, key: str, format_name: str) -> None:
        """Open the dump of stream `key`, whose audio must be `format_name`. Raises FileNotFoundError when there is none, DumpRefused."""
        self._fd = _open(path)
        try:
            self.header, self.trailer = self._read_ends()
            if self.header.key != key:
                raise DumpRefused(f"it is of stream {self.header.key}")
            if self.header.format != format_name:
                raise DumpRefused(f"it is {self.header.format}, and the stream is {format_name} now")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DumpFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go; twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def position(self) -> Position:
        """Where the ring stood."""
        return self.header.position

    def _read_ends(self) -> tuple[Header, Trailer]:
        try:
            size = os.fstat(self._fd).st_size
            header = unpack_header(os.pread(self._fd, HEADER_MAX_BYTES, 0))
        except OSError as error:
            raise DumpRefused(f"cannot read it: {error.strerror}") from error
        if size < header.size_bytes + BLOCK.size + TRAILER.size:
            raise DumpRefused("the end is missing: the file is torn or cut short")
        trailer = unpack_trailer(self._read(size - TRAILER.size, TRAILER.size))
        head = header.position.head_seq
        if (trailer.header_crc, trailer.file_bytes, trailer.head_seq) != (header.crc, size, head) or not 0 < trailer.first_seq < head:
            raise DumpRefused("the end belongs to another file")
        return header, trailer

    def _read(self, at: int, size: int) -> bytes:
        """Exactly these bytes. Raises DumpRefused."""
        try:
            found = os.pread(self._fd, size, at)
        except OSError as error:
            raise DumpRefused(f"cannot read it: {error.strerror}") from error
        if len(found) != size:
            raise DumpRefused("it became shorter while it was read")
        return found

    def blocks(self) -> Iterator[Block]:
        """Every block, newest first, each checked in itself and against the one before. Raises DumpRefused: then none of them counts."""
        newer: Block | None = None
        at, end, count = self.header.size_bytes, self.trailer.file_bytes - TRAILER.size, 0
        while at < end:
            data = self._block_bytes(at, end)
            block = _unpack_block(data)
            _check(block, newer, self.position)
            yield block
            newer, at, count = block, at + len(data), count + 1
        if newer is None or newer.first_seq != self.trailer.first_seq or count != self.trailer.blocks:
            raise DumpRefused("blocks are missing")

    def _block_bytes(self, at: int, end: int) -> bytes:
        if end - at < BLOCK.size:
            raise DumpRefused(f"the checksum of the block at byte {at} is wrong")
        tag, crc, _, count, titles, epochs, text_bytes, _, audio_bytes = BLOCK.unpack(self._read(at, BLOCK.size))
        size = BLOCK.size + count * _ROW_BYTES + titles * TITLE.size + epochs * EPOCH.size + text_bytes + audio_bytes
        if tag != BLOCK_TAG or not count or size > min(end - at, RECORD_MAX_BYTES):
            raise DumpRefused(f"no block at byte {at}, or a damaged one")
        data = self._read(at, size)
        if zlib.crc32(memoryview(data)[8:]) != crc:
            raise DumpRefused(f"the checksum of the block at byte {at} is wrong")
        return data


def _open(path: Path) -> int:
    """A regular file, and no link: whoever can write there must not make us read, or wait for, something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DumpRefused(f"cannot open it: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DumpRefused("it is no file")
    return fd


def _unpack_block(data: bytes) -> Block:
    _, _, first, count, titles, epochs, text_bytes, first_pos, _ = BLOCK.unpack_from(data)
    at, columns = BLOCK.size, {}
    for name in CHUNK_U64 + CHUNK_U32:
        kind: Any = np.uint64 if name in CHUNK_U64 else np.uint32
        columns[name] = np.frombuffer(data, kind, count, at)
        at += columns[name].nbytes
    rows = at + titles * TITLE.size
    texts = rows + epochs * EPOCH.size
    audio = texts + text_bytes
    found = [unpack_epoch(data, rows + number * EPOCH.size) for number in range(epochs)]
    return Block(first, count, first_pos, columns, unpack_titles(data[at:rows], data[texts:audio]), found, memoryview(data)[audio:])


def _check(block: Block, newer: Block | None, position: Position) -> None:
    """The checksum is right; still, chunks must follow each other without a hole, and end where the newer block begins."""
    columns = block.columns
    if newer is None:
        after = position.entry | {"seq": position.head_seq, "pos": position.head_pos, "media_pos": position.head_media}
        good = all(int(columns[name][-1]) == value for name, value in position.entry.items())
    else:
        after = {name: int(column[0]) for name, column in newer.columns.items()}
        good = True
    for name, step in (("seq", 1), ("pos", columns["length"].astype(np.uint64)), ("media_pos", _ticks(columns))):
        ends = np.append(columns[name][1:], np.uint64(after[name]))
        good = good and bool(np.array_equal(columns[name] + np.uint64(1) * step, ends))
    for name in ("ts_us", "meta_id", "epoch", "discontinuity"):
        good = good and bool(np.all(columns[name][:-1] <= columns[name][1:])) and int(columns[name][-1]) <= after[name]
    good = good and (int(columns["seq"][0]), int(columns["pos"][0])) == (block.first_seq, block.first_pos)
    if not good or block.first_seq < 1 or any(int(columns[name].min()) < 1 for name in ("length", "samples", "rate")):
        raise DumpRefused(f"chunks {block.first_seq} to {block.first_seq + block.chunks - 1} do not follow each other")
    if int(columns["length"].sum(dtype=np.uint64)) != len(block.audio):
        raise DumpRefused(f"chunks {block.first_seq} to {block.first_seq + block.chunks - 1} are longer or shorter than their audio")


def _ticks(columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Media ticks of each chunk, as `append` counts them."""
    rate = np.maximum(columns["rate"], np.uint32(1)).astype(np.uint64)
    found: npt.NDArray[Any] = columns["samples"].astype(np.uint64) * np.uint64(MEDIA_HZ) // rate
    return found


class Restored(NamedTuple):
    """What a ring got back: chunks [first_seq, end_seq), seconds of audio; none when the ring could hold none of it."""

    first_seq: int
    end_seq: int
    seconds: float


class Restoration:
    """Puts the past below a ring's tail. Every method in the thread that writes the ring."""

    def __init__(self, writer: RingWriter, position: Position, monotonic_us: int) -> None:
        """The ring, which must be new, begins at `position`. Raises ValueError, RingRefused."""
        writer.begin_at(position, monotonic_us)
        self._writer = writer
        self._end = self._first = position.head_seq
        self._low_pos, self._low_meta = position.head_pos, position.entry["meta_id"]
        self._full = False

    def store(self, block: Block) -> None:
        """Put a block where it was, unless it is older than what this ring holds (`seconds` is less now, or live audio has come far)."""
        writer, columns = self._writer, self._writer.columns
        window = writer.head_media - writer.window_ticks
        outside = columns.view["media_pos"][self._first & columns.chunk_mask] <= window
        epoch = int(block.columns["epoch"][0])
        self._full = self._full or outside or not writer.could_hold(block.first_seq, block.first_pos, epoch)
        if self._full:
            return
        slots, low = columns.geometry.chunk_slots, block.first_seq & columns.chunk_mask
        whole = min(block.chunks, slots - low)
        for name, column in block.columns.items():
            columns.array[name][low : low + whole] = column[:whole]
            columns.array[name][: block.chunks - whole] = column[whole:]
        writer.put_data(block.first_pos, block.audio)
        writer.put_rows(block.titles, block.epochs)
        self._first, self._low_pos = block.first_seq, block.first_pos
        self._low_meta = min([self._low_meta, *(title.meta_id for title in block.titles)])

    def publish(self) -> Restored:
        """The file was right to its end: show what was stored and is still within the ring's bounds."""
        writer, view, mask = self._writer, self._writer.columns.view, self._writer.columns.chunk_mask
        first, start = self._first, view["media_pos"][self._end & mask]
        while first < self._end and not writer.could_hold(first, view["pos"][first & mask], view["epoch"][first & mask]):
            first += 1
        if first == self._end or writer.tail_seq != self._end:
            self.drop()
            return Restored(self._end, self._end, 0.0)
        seconds = (start - view["media_pos"][first & mask]) / MEDIA_HZ
        writer.reach_back(first)
        self.drop()
        return Restored(first, self._end, seconds)

    def drop(self) -> None:
        """Give the memory back of what is stored and not shown."""
        self._writer.give_back(self._low_pos, self._low_meta)


def load_dump(writer: RingWriter, path: Path, key: str, format_name: str, monotonic_us: int) -> Restored:
    """Load a whole dump into a new ring, at once. Raises FileNotFoundError and DumpRefused; the ring then holds nothing."""
    with DumpFile(path, key, format_name) as dump:
        restoration = Restoration(writer, dump.position, monotonic_us)
        try:
            for block in dump.blocks():
                restoration.store(block)
        except BaseException:
            restoration.drop()
            raise
        return restoration.publish()
