"""Writing a rewind dump: what one ring holds, to one file, while it is written on.

Newest audio first. A dump that must end early - the time to stop is over, or the ring gave its oldest audio up meanwhile - is then ended
properly at any block, with a trailer that says so: it is a whole dump of the newest part, and that is the part listeners ask for. What
has no trailer (a crash, a full disk) is no dump, and never takes the place of an older good one: the file is written beside it, fsynced,
and renamed.

Cost: one pass of copy and CRC in blocks of 256 KiB; memory is one block. Pages written are sent to the disk and dropped from the page
cache as it goes, so that hours of audio do not push everything else out of memory. Runs in any thread: the ring is only read, with the
limit checked after each copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from appliance.ring.columns import Columns, Epoch
from appliance.ring.dump_format import (
    BLOCK,
    BLOCK_AUDIO_BYTES,
    BLOCK_CHUNKS,
    BLOCK_TAG,
    TRAILER,
    Ends,
    Header,
    Position,
    Title,
    Trailer,
    pack_epoch,
    pack_header,
    pack_title,
    pack_trailer,
)
from appliance.ring.layout import CHUNK_U32, CHUNK_U64, Word
from appliance.ring.reader import RingReader

SYNC_BYTES: Final = 8 * 1024 * 1024
"""Written pages are flushed and dropped in steps of this size: what of a dump is in the page cache, and waits for the disk, at a time."""
PARTIAL_SUFFIX: Final = ".partial"


class DumpFailed(Exception):
    """A dump that could not be written; an older one is still in place. `cause`: the system's words, the same for every stream."""

    def __init__(self, cause: str, path: str) -> None:
        super().__init__(f"{cause}: {path}")
        self.cause = cause


class Written(NamedTuple):
    """A dump that was written: chunks [first_seq, head_seq), length of the file, why it ends where it does (`Ends`)."""

    first_seq: int
    head_seq: int
    file_bytes: int
    ends: int

    @property
    def chunks(self) -> int:
        """How many it holds."""
        return self.head_seq - self.first_seq


def write_dump(
    reader: RingReader, path: Path, key: str, format_name: str, wall_us: int, go_on: Callable[[], bool] = lambda: True
) -> Written | None:
    """Dump what look-ups in this ring can answer; None when it holds nothing.

    `go_on` is called after each block; when it says False, what was written is ended properly and kept. Raises DumpFailed: a full disk, no
    rights, another process that writes the same dump.
    """
    head = reader.head_seq
    if reader.oldest(head) >= head:
        return None
    header = _header(reader, head, key, format_name, wall_us)
    try:
        with _replacing(path) as fd:
            return _write(_Output(fd), reader, header, go_on)
    except OSError as error:
        raise DumpFailed(error.strerror or str(error), str(error.filename or path)) from error


def _header(reader: RingReader, head: int, key: str, format_name: str, wall_us: int) -> Header:
    columns, words, slot = reader.columns, reader.words, (head - 1) & reader.mask
    entry = {name: columns.view[name][slot] for name in CHUNK_U64 + CHUNK_U32}
    position = Position(
        head,
        reader.pos[head & reader.mask],
        reader.media[head & reader.mask],
        entry["discontinuity"],
        words[Word.DISCONTINUITIES_REMOVED],
        words[Word.MEDIA_SEQUENCE],
        words[Word.AWAY_CREDIT],
        entry,
        columns.epoch(entry["epoch"]),
        _title(columns, entry["meta_id"]),
    )
    return Header(key, format_name, wall_us, words[Word.IDENTITY], words[Word.WINDOW_S], words[Word.CHUNK_US], position, 0, 0)


def _title(columns: Columns, meta_id: int) -> Title | None:
    """A metadata row, byte for byte; None for none and for one that is no longer held."""
    view, slot, at = columns.view, meta_id & columns.meta_mask, columns.text_at(meta_id)
    if meta_id == 0 or view["meta_seq"][slot] != meta_id:
        return None
    middle = at + view["meta_title_bytes"][slot]
    end = middle + view["meta_url_bytes"][slot]
    found = Title(
        meta_id, view["meta_ts_us"][slot], view["meta_pos"][slot], bytes(columns.whole[at:middle]), bytes(columns.whole[middle:end])
    )
    return found if view["meta_seq"][slot] == meta_id else None


def _write(out: _Output, reader: RingReader, header: Header, go_on: Callable[[], bool]) -> Written:
    packed = pack_header(header)
    out.write(packed)
    head, blocks, ends = header.position.head_seq, 0, Ends.COMPLETE
    oldest = reader.oldest(head)
    block = _Blocks(reader, header.position)
    first = head
    while first > oldest and ends == Ends.COMPLETE:
        tail = reader.tail_seq
        data = block.older(max(oldest, tail)) if tail < first else []
        if not data or reader.words[Word.LIMIT_SEQ] > block.end:
            ends = Ends.OVERTAKEN
            break
        out.write(*data)
        first, blocks = block.end, blocks + 1
        if not go_on() and first > oldest:
            ends = Ends.TIME
    trailer = Trailer(first, head, blocks, out.size + TRAILER.size, ends, int.from_bytes(packed[-4:], "little"))
    out.write(pack_trailer(trailer))
    return Written(first, head, out.size, ends)


class _Blocks:
    """Cuts blocks from a ring, going back from the head. `end`: all chunks from there on are cut."""

    def __init__(self, reader: RingReader, position: Position) -> None:
        self._reader = reader
        self.end = position.head_seq
        self._title_end = position.title.meta_id if position.title else position.entry["meta_id"] + 1
        self._epoch_end = position.entry["epoch"]

    def older(self, oldest: int) -> list[bytes | memoryview]:
        """The next block, in pieces to be written one after the other."""
        reader = self._reader
        first = self._first(oldest)
        start, end = reader.pos[first & reader.mask], reader.pos[self.end & reader.mask]
        columns = b"".join(_column(reader.columns, name, first, self.end) for name in CHUNK_U64 + CHUNK_U32)
        titles, epochs = self._titles(first), self._epochs(first)
        texts = b"".join(title.title + title.url for title in titles)
        tables = columns + b"".join(map(pack_title, titles)) + b"".join(map(pack_epoch, epochs)) + texts
        audio = b"".join(reader.columns.spans(start, end))
        head = BLOCK.pack(BLOCK_TAG, 0, first, self.end - first, len(titles), len(epochs), len(texts), start, len(audio))
        crc = zlib.crc32(audio, zlib.crc32(tables, zlib.crc32(head[8:])))
        self.end = first
        return [head[:4], crc.to_bytes(4, "little"), head[8:], tables, audio]

    def _first(self, oldest: int) -> int:
        """How far back a block reaches: BLOCK_AUDIO_BYTES, and at least one chunk."""
        pos, mask = self._reader.pos, self._reader.mask
        first, end_pos = self.end - 1, pos[self.end & mask]
        least = max(oldest, self.end - BLOCK_CHUNKS)
        while first > least and end_pos - pos[(first - 1) & mask] <= BLOCK_AUDIO_BYTES:
            first -= 1
        return first

    def _titles(self, first: int) -> list[Title]:
        """The titles these chunks carry that no newer block has; ids rise with the chunks."""
        begin, end = self._reader.meta_id(first), self._title_end
        self._title_end = min(begin, end)
        rows = (_title(self._reader.columns, meta_id) for meta_id in range(max(1, begin), end))
        return [row for row in rows if row is not None]

    def _epochs(self, first: int) -> list[Epoch]:
        begin, end = self._reader.columns.view["epoch"][first & self._reader.mask], self._epoch_end
        self._epoch_end = min(begin, end)
        rows = (self._reader.columns.epoch(epoch) for epoch in range(max(1, begin), end))
        return [row for row in rows if row is not None]


def _column(columns: Columns, name: str, first: int, end: int) -> bytes:
    """Rows [first, end) of a circular column."""
    array, low = columns.array[name], first & columns.chunk_mask
    high = low + end - first
    return bytes(array[low:high].tobytes() + array[: max(0, high - len(array))].tobytes())


class _Output:
    """A file that is written in order, and leaves the page cache as it goes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = self._flushed = 0

    def write(self, *parts: bytes | memoryview) -> None:
        """All of these bytes. Raises OSError."""
        data = memoryview(b"".join(parts))
        while data:
            done = os.write(self._fd, data)
            self.size += done
            data = data[done:]
        if self.size - self._flushed >= SYNC_BYTES:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, self.size, os.POSIX_FADV_DONTNEED)
            self._flushed = self.size


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """An fd to write to; when the block ends well the file is on the disk and takes the place of `path`, else it is removed."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _alone(partial)
    try:
        try:
            yield fd
            os.fsync(fd)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    _sync_folder(path.parent)


def _alone(partial: Path) -> int:
    """Create the partial file, or empty one that a killed process left; never one that another process is writing."""
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino != partial.stat().st_ino:  # the other process was done and renamed it in between
            raise BlockingIOError(0, "another process writes this dump", str(partial))
        os.ftruncate(fd, 0)
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(fd)
        raise OSError(error.errno, "another process writes this dump", str(partial)) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
