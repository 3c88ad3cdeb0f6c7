"""A source connection's journal: the last MiB of what the encoder sent, in shared memory (MECHANICS 4).

The socket is read straight into it, so what was read but not yet in the rewind ring survives the process that read it. Two records stand
beside the bytes, each in two slots of which the one that does not hold is written, then its sequence number: a process may be killed
between any two stores. The *mark* says how to go on from the settled position, the *description* whose connection it is. What is in them
is the business of who reads the source (ingest/source_record.py).
"""

from __future__ import annotations

import os
from typing import Final

from appliance.ring import shared_page

JOURNAL_BYTES: Final = 1 << 20
"""A minute of 128 kbit/s; far more than one chunk of any codec, so a reader that keeps up never finds it full."""
DESCRIPTION_BYTES: Final = 128 * 1024
"""One slot of the description: it names every stream of a mount (100 bytes each), and what the source says of itself. Sparse memory."""
MARK_BYTES: Final = 1024
"""One slot of the mark: some 300 bytes are used."""
_HEADER_BYTES: Final = 4096
_FILE_BYTES: Final = _HEADER_BYTES + JOURNAL_BYTES + 2 * DESCRIPTION_BYTES
_MAGIC: Final = int.from_bytes(b"SMJRNL\x00\x01", "little")
_MAGIC_WORD, _RECEIVED, _SETTLED, _MARKS, _DESCRIPTIONS = 0, 8, 9, 10, 11
_MARK_AT: Final = 1024
_LENGTH_BYTES: Final = 4


class JournalRefused(Exception):
    """A memfd that is no journal of ours, or more than a journal holds."""


class SourceJournal:
    """Received and settled positions count bytes of the connection's body; physical = position mod JOURNAL_BYTES."""

    def __init__(self, fd: int) -> None:
        """Map the journal behind `fd`, owned from now on. Raises JournalRefused, and then the fd is the caller's."""
        try:
            whole = shared_page.map_whole(fd, writable=True)
        except (OSError, ValueError) as error:
            raise JournalRefused(f"cannot map the journal: {error}") from error
        if len(whole) != _FILE_BYTES:
            raise JournalRefused(f"{len(whole)} bytes are not a journal")
        self.fd = fd
        self._words = whole[:_HEADER_BYTES].cast("Q")
        self._data = whole[_HEADER_BYTES : _HEADER_BYTES + JOURNAL_BYTES]
        if self._words[_MAGIC_WORD] not in {0, _MAGIC}:
            raise JournalRefused("wrong magic")
        self._words[_MAGIC_WORD] = _MAGIC
        self._mark = _Record(self._words, _MARKS, whole[_MARK_AT : _MARK_AT + 2 * MARK_BYTES])
        self._description = _Record(self._words, _DESCRIPTIONS, whole[_HEADER_BYTES + JOURNAL_BYTES :])

    @classmethod
    def create(cls, name: str) -> SourceJournal:
        """An empty journal."""
        return cls(shared_page.create(f"journal.{name}", _FILE_BYTES))

    @property
    def received(self) -> int:
        """Bytes written into the journal since the body's begin."""
        return self._words[_RECEIVED]

    @property
    def settled(self) -> int:
        """Everything before this position is in the ring, or was dropped for good: it may be overwritten."""
        return self._words[_SETTLED]

    def settle(self, position: int, mark: bytes | None = None) -> None:
        """Raise the settled position, after noting how to go on from there. Raises JournalRefused for a mark over MARK_BYTES."""
        if mark is not None:
            self._mark.write(mark)
        self._words[_SETTLED] = max(self.settled, min(position, self.received))

    @property
    def mark(self) -> bytes:
        """How to go on: what the last `settle` with a mark noted; empty before any. It may be ahead of `settled`, never behind."""
        return self._mark.read()

    @property
    def description(self) -> bytes:
        """Whose connection this is; empty before `describe`."""
        return self._description.read()

    def describe(self, text: bytes) -> None:
        """Say it anew. Raises JournalRefused for more than DESCRIPTION_BYTES."""
        self._description.write(text)

    def room(self) -> memoryview:
        """Where to recv_into: the free bytes up to the wrap. Empty when unsettled bytes fill the journal."""
        at = self.received % JOURNAL_BYTES
        free = JOURNAL_BYTES - (self.received - self.settled)
        return self._data[at : at + min(free, JOURNAL_BYTES - at)]

    def commit(self, size: int) -> memoryview:
        """`size` bytes were written at `room()`: count them, and give the view of them for the parser."""
        at = self.received % JOURNAL_BYTES
        self._words[_RECEIVED] += size
        return self._data[at : at + size]

    def count_up_to(self, received: int) -> None:
        """A process was killed after a read and before its `commit`: so many bytes are here. Raises JournalRefused when they cannot be."""
        if not self.received <= received <= self.received + len(self.room()):
            raise JournalRefused(f"{received} bytes were read from the connection, {self.received} are in its journal")
        self._words[_RECEIVED] = received

    def put(self, data: bytes) -> None:
        """Store bytes that were read elsewhere (audio in the same packet as the request). At most a journal's size."""
        while data:
            room = self.room()
            if not len(room):
                raise JournalRefused("more bytes than a journal holds")
            part = data[: len(room)]
            room[: len(part)] = part
            self.commit(len(part))
            data = data[len(part) :]

    def unsettled(self) -> bytes:
        """What was received and is not in the ring yet, oldest first."""
        return self.since(self.settled)

    def since(self, position: int) -> bytes:
        """What was received from `position` on, which is not before `settled`."""
        start, size = position % JOURNAL_BYTES, self.received - position
        first = bytes(self._data[start : start + min(size, JOURNAL_BYTES - start)])
        return first + bytes(self._data[: size - len(first)])

    def close(self) -> None:
        """Let it go; the memory is freed with the last fd and mapping."""
        for record in (self._mark, self._description):
            record.close()
        self._words.release()
        self._data.release()
        os.close(self.fd)


class _Record:
    """Two slots of equal size, and the word with the sequence number: slot `sequence & 1` holds. 0: none yet."""

    def __init__(self, words: memoryview, word: int, slots: memoryview) -> None:
        self._words, self._word = words, word
        half = len(slots) // 2
        self._slots = (slots[:half], slots[half:])

    def write(self, text: bytes) -> None:
        sequence = self._words[self._word] + 1
        slot, size = self._slots[sequence & 1], len(text)
        if size + _LENGTH_BYTES > len(slot):
            raise JournalRefused(f"a record of {size} bytes is longer than its slot")
        slot[_LENGTH_BYTES : _LENGTH_BYTES + size] = text
        slot[:_LENGTH_BYTES] = size.to_bytes(_LENGTH_BYTES, "little")
        self._words[self._word] = sequence

    def read(self) -> bytes:
        sequence = self._words[self._word]
        if sequence == 0:
            return b""
        slot = self._slots[sequence & 1]
        size = int.from_bytes(slot[:_LENGTH_BYTES], "little")
        return bytes(slot[_LENGTH_BYTES : _LENGTH_BYTES + size])

    def close(self) -> None:
        for slot in self._slots:
            slot.release()
