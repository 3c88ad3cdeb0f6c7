"""The body of a source: raw bytes through the shared journal, the transfer coding taken off, audio frames out.

What must hold for a successor after a crash: every frame of which any byte lies before the journal's settled position is in the rewind ring
(or was dropped for good). Input is settled piece by piece (a piece: one read), and a piece only when no frame that begins in it is
still waiting: a frame that spans two reads keeps both. With each settle the journal's mark says how to go on from there (`resume`): the
coding's state at the settled position, and the frame parser's, which stands at the same payload byte or behind it. So a killed process
costs nothing but parsing the unsettled bytes again.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final, NamedTuple

from appliance.ingest.source_record import Mark, decoded, encoded
from appliance.ring.journal import JournalRefused, SourceJournal
from appliance.wire.chunked import BadChunk, ChunkedDecoder, ChunkState
from appliance.wire.frames import AudioFormat, Frame, Resume, parser_for

READ_BYTES: Final = 64 * 1024
"""One read: a sixteenth of the journal, 4 s of 128 kbit/s; parsed in a millisecond or so."""
_IDENTITY: Final = ChunkState()


class _Piece(NamedTuple):
    """One read: its place in the journal (or that of the coding's line in which it begins), the payload before it, the coding's state
    and what is left of Content-Length there; and where its payload ends."""

    at: int
    payload: int
    coding: ChunkState
    left_bytes: int | None
    payload_end: int = 0


class _Mark(NamedTuple):
    """How many frames had come by then and their bytes, and the parser's state: no later frame begins before its position."""

    frames: int
    audio_bytes: int
    resume: Resume


class SourceBody:
    """`length`: bytes of payload to come; None or 0 (libshout's look-ahead): until the encoder ends it."""

    def __init__(
        self, journal: SourceJournal, format_name: str, *, chunked: bool = False, length: int | None = None, mark: Mark | None = None
    ) -> None:
        """Begin, or with `mark` go on. Raises ValueError for a mark that no body wrote."""
        begin = mark or Mark(left_bytes=length or -1)
        self._journal = journal
        self._parser = parser_for(format_name, begin.resume)
        self._decoder = ChunkedDecoder(begin.coding) if chunked else None
        self._left_bytes = None if begin.left_bytes < 0 else begin.left_bytes
        self._pieces: deque[_Piece] = deque()
        self._marks: deque[_Mark] = deque()
        self._safe = _Mark(begin.frames, begin.audio_bytes, begin.resume)  # no frame before it is waiting
        self._known_bytes = begin.position - begin.payload  # of the payload that comes: the parser had them
        self._parsed_bytes = begin.audio_bytes - begin.position  # audio less skipped, before this parser
        self._fault = ""
        self._at = begin.at  # of what is parsed next
        self.payload_bytes, self.frame_count = begin.payload, begin.frames
        self.drained = False
        """Whether the last read emptied the socket."""
        if self._known_bytes < 0:
            raise ValueError("the parser stands before the payload")

    @classmethod
    def create(cls, name: str, format_name: str, *, chunked: bool = False, length: int | None = None, rest: bytes = b"") -> SourceBody:
        """A body in a new journal; `rest`: its first bytes, which came with the request: stored, for `replay` to parse. Raises OSError or
        JournalRefused when there is no memory for a journal."""
        journal = SourceJournal.create(name)
        journal.put(rest)
        body = cls(journal, format_name, chunked=chunked, length=length)
        journal.settle(0, encoded(body._where()))
        return body

    @classmethod
    def resume(cls, journal: SourceJournal, format_name: str, *, chunked: bool) -> SourceBody:
        """Go on with a body that another process read; `replay` gives the frames that may not be in the rings. Raises JournalRefused."""
        mark = decoded(journal.mark, Mark)
        if not journal.settled <= mark.at <= journal.received:
            raise JournalRefused(f"the mark at {mark.at} does not lie between {journal.settled} and {journal.received}")
        try:
            return cls(journal, format_name, chunked=chunked, mark=mark)
        except ValueError as error:
            raise JournalRefused(str(error)) from error

    @property
    def journal(self) -> SourceJournal:
        """The journal, for who passes it on."""
        return self._journal

    @property
    def received_bytes(self) -> int:
        """Bytes of the body, as sent."""
        return self._journal.received

    @property
    def chunked(self) -> bool:
        """Whether the body has the chunked coding."""
        return self._decoder is not None

    @property
    def format(self) -> AudioFormat | None:
        """The format of the last frame."""
        return self._parser.format

    @property
    def audio_bytes(self) -> int:
        """Bytes of all frames so far, those that another process had given included."""
        return self._parsed_bytes + self._parser.position - self._parser.skipped_bytes

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

    def replay(self) -> list[Frame]:
        """Parse what is in the journal and was not parsed by this process."""
        raw, frames = memoryview(self._journal.since(self._at)), list[Frame]()
        for start in range(0, len(raw), READ_BYTES):
            frames += self._take(raw[start : start + READ_BYTES])
            if self._fault:
                break
        return frames

    def receive(self, sock: socket.socket) -> list[Frame] | None:
        """Read once; None at the peer's end. Raises OSError (BlockingIOError when there is nothing), JournalRefused when it is full."""
        room = self._journal.room()
        if not len(room):
            raise JournalRefused(f"a chunk does not fit into {self._journal.received - self._journal.settled} bytes")
        most = min(len(room), READ_BYTES)
        size = sock.recv_into(room, most)
        self.drained = size < most
        return self._take(self._journal.commit(size)) if size else None

    def _take(self, raw: memoryview) -> list[Frame]:
        here = self._here()
        self._at += len(raw)
        payload: memoryview | bytes = raw
        try:
            payload = raw if self._decoder is None else self._decoder.feed(raw)
        except BadChunk as error:
            payload, self._fault = error.payload, f"bad chunked coding: {error.reason}"
        if self._left_bytes is not None:
            payload = payload[: self._left_bytes]
            self._left_bytes -= len(payload)
        self.payload_bytes += len(payload)
        known = min(self._known_bytes, len(payload))
        self._known_bytes -= known
        frames = self._parser.feed(payload[known:])
        self.frame_count += len(frames)
        self._pieces.append(here._replace(payload_end=self.payload_bytes))
        self._note()
        return frames

    def _here(self) -> _Piece:
        """Where the next piece begins."""
        if self._decoder is None:
            return _Piece(self._at, self.payload_bytes, _IDENTITY, self._left_bytes)
        return _Piece(self._at - self._decoder.line_bytes, self.payload_bytes, self._decoder.state, self._left_bytes)

    def _note(self) -> None:
        if self._marks and self._marks[-1].frames == self.frame_count:
            self._marks.pop()
        self._marks.append(_Mark(self.frame_count, self.audio_bytes, self._parser.resume))

    def settle(self, waiting_frames: int) -> None:
        """Tell the journal what is safe: all but the last `waiting_frames` frames are in the ring, or dropped for good."""
        out, before = self.frame_count - waiting_frames, self._safe
        while self._marks and self._marks[0].frames <= out:
            self._safe = self._marks.popleft()
        if self._safe is before:
            return
        while self._pieces and self._pieces[0].payload_end <= self._safe.resume.position:
            self._pieces.popleft()
        mark = self._where()
        self._journal.settle(mark.at, encoded(mark))

    def _where(self) -> Mark:
        """How a successor goes on."""
        at, payload, coding, left_bytes, _ = self._pieces[0] if self._pieces else self._here()
        frames, audio_bytes, parser = self._safe
        return Mark(
            at=at,
            payload=payload,
            left_bytes=-1 if left_bytes is None else left_bytes,
            phase=coding.phase,
            chunk_left_bytes=coding.left_bytes,
            trailer_bytes=coding.trailer_bytes,
            position=parser.position,
            format=parser.format,
            follows=parser.follows,
            tag_left_bytes=parser.tag_left_bytes,
            frames=frames,
            audio_bytes=audio_bytes,
        )

    def flush(self) -> list[Frame]:
        """End of the body: the last whole frame has no successor and counts all the same."""
        return self._parser.flush()

    def close(self) -> None:
        """Let the journal go."""
        self._journal.close()
