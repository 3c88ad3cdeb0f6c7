"""A source connection's journal: the last MiB of what the encoder sent, in shared memory (MECHANICS 4).

The socket is read straight into it, so what was read but not yet in the rewind ring survives the process that read it. Words of the
header page: bytes received so far, and the position from which a new parser goes on: everything before it is in the ring.
"""

from __future__ import annotations

import os
from typing import Final

from appliance.ring import shared_page

JOURNAL_BYTES: Final = 1 << 20
"""A minute of 128 kbit/s; far more than one chunk of any codec, so a reader that keeps up never finds it full."""
_HEADER_BYTES: Final = 4096
_MAGIC: Final = int.from_bytes(b"SMJRNL\x00\x01", "little")
_MAGIC_WORD, _RECEIVED, _SETTLED = 0, 8, 9


class JournalRefused(Exception):
    """A memfd that is no journal of ours."""


class SourceJournal:
    """Received and settled positions count bytes of the connection; physical = position mod JOURNAL_BYTES."""

    def __init__(self, fd: int) -> None:
        """Map the journal behind `fd`. Raises JournalRefused."""
        try:
            whole = shared_page.map_whole(fd, writable=True)
        except (OSError, ValueError) as error:
            raise JournalRefused(f"cannot map the journal: {error}") from error
        if len(whole) != _HEADER_BYTES + JOURNAL_BYTES:
            raise JournalRefused(f"{len(whole)} bytes are not a journal")
        self.fd = fd
        self._words = whole[:_HEADER_BYTES].cast("Q")
        self._data = whole[_HEADER_BYTES:]
        if self._words[_MAGIC_WORD] not in {0, _MAGIC}:
            raise JournalRefused("wrong magic")
        self._words[_MAGIC_WORD] = _MAGIC

    @classmethod
    def create(cls, name: str) -> SourceJournal:
        """An empty journal."""
        return cls(shared_page.create(f"journal.{name}", _HEADER_BYTES + JOURNAL_BYTES))

    @property
    def received(self) -> int:
        """Bytes written into the journal since the connection's birth."""
        return self._words[_RECEIVED]

    @property
    def settled(self) -> int:
        """Everything before this position is in the ring, or was dropped for good."""
        return self._words[_SETTLED]

    def settle(self, position: int) -> None:
        """Raise the settled position."""
        self._words[_SETTLED] = max(self.settled, min(position, self.received))

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
        start, size = self.settled % JOURNAL_BYTES, self.received - self.settled
        first = bytes(self._data[start : start + min(size, JOURNAL_BYTES - start)])
        return first + bytes(self._data[: size - len(first)])

    def close(self) -> None:
        """Let it go; the memory is freed with the last fd and mapping."""
        self._words.release()
        self._data.release()
        os.close(self.fd)
