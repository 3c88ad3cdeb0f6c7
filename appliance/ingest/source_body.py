"""The body of a source: raw bytes through the shared journal, the transfer coding taken off, audio frames out.

What must hold for a successor after a crash: every frame of which any byte lies before the journal's settled position is in the rewind ring
(or was dropped for good). Input is settled piece by piece (a piece: one read), and a piece only when no frame that begins in it is
still waiting: a frame that spans two reads keeps both.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, NamedTuple

from appliance.ring.journal import JournalRefused, SourceJournal
from appliance.wire.chunked import BadChunk, ChunkedDecoder
from appliance.wire.frames import Frame, parser_for

READ_BYTES: Final = 64 * 1024
"""One read: a sixteenth of the journal, 4 s of 128 kbit/s; parsed in a millisecond or so."""


class _Piece(NamedTuple):
    """One read: where it starts in the journal, where its payload ends for the parser."""

    start: int
    payload_end: int


class _Mark(NamedTuple):
    """How many frames had come by then, and the parser's position: no later frame begins before it."""

    frames: int
    position: int


class SourceBody:
    """`length`: bytes of payload to come; None or 0 (libshout's look-ahead): until the encoder ends it."""

    def __init__(self, name: str, format_name: str, *, chunked: bool = False, length: int | None = None) -> None:
        """Raises OSError or JournalRefused when there is no memory for a journal."""
        self._journal = SourceJournal.create(name)
        self._parser = parser_for(format_name)
        self._decoder = ChunkedDecoder() if chunked else None
        self._left_bytes = length or None
        self._pieces: deque[_Piece] = deque()
        self._marks: deque[_Mark] = deque()
        self._safe = 0  # payload position before which no frame is waiting
        self._fault = ""
        self.payload_bytes = self.frame_count = 0
        self.drained = False
        """Whether the last read emptied the socket."""

    @property
    def journal(self) -> SourceJournal:
        """The journal, for who passes it on."""
        return self._journal

    @property
    def received_bytes(self) -> int:
        """Bytes of the body, as sent."""
        return self._journal.received

    @property
    def in_tag(self) -> bool:
        """Whether a tag (a cover picture, most likely) is passing by before the first frame."""
        return self._parser.resume.tag_left_bytes > 0

    @property
    def fault(self) -> str:
        """What is wrong with the transfer coding; "" while it is right."""
        return self._fault

    @property
    def complete(self) -> bool:
        """Whether the body has come to the end that its length or its coding told."""
        return self._left_bytes == 0 or (self._decoder is not None and self._decoder.finished)

    def put(self, data: bytes) -> list[Frame]:
        """Take bytes that were read elsewhere (audio in the same packet as the request); at most a journal's size."""
        start = self._journal.received
        self._journal.put(data)
        return self._take(memoryview(data), start)

    def receive(self, sock: socket.socket) -> list[Frame] | None:
        """Read once; None at the peer's end. Raises OSError (BlockingIOError when there is nothing), JournalRefused when it is full."""
        room = self._journal.room()
        if not len(room):
            raise JournalRefused(f"a chunk does not fit into {self._journal.received - self._journal.settled} bytes")
        start = self._journal.received
        most = min(len(room), READ_BYTES)
        size = sock.recv_into(room, most)
        self.drained = size < most
        return self._take(self._journal.commit(size), start) if size else None

    def _take(self, raw: memoryview, start: int) -> list[Frame]:
        payload: memoryview | bytes = raw
        try:
            payload = raw if self._decoder is None else self._decoder.feed(raw)
        except BadChunk as error:
            payload, self._fault = error.payload, f"bad chunked coding: {error.reason}"
        if self._left_bytes is not None:
            payload = payload[: self._left_bytes]
            self._left_bytes -= len(payload)
        frames = self._parser.feed(payload)
        self.payload_bytes += len(payload)
        self.frame_count += len(frames)
        self._pieces.append(_Piece(start, self.payload_bytes))
        self._mark()
        return frames

    def _mark(self) -> None:
        if self._marks and self._marks[-1].frames == self.frame_count:
            self._marks.pop()
        self._marks.append(_Mark(self.frame_count, self._parser.position))

    def settle(self, waiting_frames: int) -> None:
        """Tell the journal what is safe: all but the last `waiting_frames` frames are in the ring, or dropped for good."""
        out = self.frame_count - waiting_frames
        while self._marks and self._marks[0].frames <= out:
            self._safe = self._marks.popleft().position
        while self._pieces and self._pieces[0].payload_end <= self._safe:
            self._pieces.popleft()
        self._journal.settle(self._pieces[0].start if self._pieces else self._journal.received)

    def flush(self) -> list[Frame]:
        """End of the body: the last whole frame has no successor and counts all the same."""
        return self._parser.flush()

    def close(self) -> None:
        """Let the journal go."""
        self._journal.close()
