"""The chunked transfer coding (RFC 9112 7.1), decoded as it comes: any split gives the same bytes."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

SIZE_LINE_MAX_BYTES: Final = 1_024  # a size has up to 16 digits; extensions are not used by encoders and are ignored
TRAILERS_MAX_BYTES: Final = 8_192  # trailer lines are ignored, so they may not go on for ever

_size_line = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n\0]*)?").fullmatch


class BadChunk(Exception):
    """The body is not chunked as it should be; nothing behind this point means anything.

    `payload` holds what the same feed() had decoded before the fault, so that no split loses more than another.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.payload = b""


class ChunkState(NamedTuple):
    """Where a decoder stands, but for the line it is in: a decoder made from it goes on, fed from that line's first byte.

    `phase`: "size" (a size line comes next), "chunk" (`left_bytes` of a chunk, then its line end), "trailer" (of which
    `trailer_bytes` came), or "finished".
    """

    phase: str = "size"
    left_bytes: int = 0
    trailer_bytes: int = 0


class ChunkedDecoder:
    """Feed it the body; it gives the payload. Lines may end with CRLF or a bare LF (RFC 9112 2.2)."""

    def __init__(self, state: ChunkState = ChunkState()) -> None:  # noqa: B008 - immutable
        """`state`: a former decoder's. ValueError for one that no decoder gives."""
        self._line = bytearray()  # of the size, chunk end or trailer line now coming
        self._left_bytes = state.left_bytes  # of the chunk now coming
        self._trailer_bytes = state.trailer_bytes
        self._rest = bytearray()
        self._failure: str | None = None
        self.finished = state.phase == "finished"
        self._read_line: Callable[[bytes], None] = self._size_came
        self._line_max_bytes = SIZE_LINE_MAX_BYTES
        self._enter(state)

    def _enter(self, state: ChunkState) -> None:
        if state.phase not in {"size", "chunk", "trailer", "finished"} or min(state[1:]) < 0:
            raise ValueError(f"no state of a chunked body: {state}")
        if state.phase == "chunk":
            self._expect(self._chunk_end_came, len(b"\r\n"))
        elif state.phase == "trailer":
            self._expect(self._trailer_came, TRAILERS_MAX_BYTES - state.trailer_bytes)

    @property
    def state(self) -> ChunkState:
        """Where it stands, without the line it is in."""
        if self.finished:
            return ChunkState("finished")
        if self._read_line == self._trailer_came:
            return ChunkState("trailer", 0, self._trailer_bytes)
        return ChunkState("chunk" if self._read_line == self._chunk_end_came else "size", self._left_bytes)

    @property
    def line_bytes(self) -> int:
        """Bytes of the line it is in that were fed already."""
        return len(self._line)

    @property
    def rest(self) -> bytes:
        """What was fed beyond the end of the body: the next request on the connection."""
        return bytes(self._rest)

    def feed(self, data: bytes | bytearray | memoryview) -> bytes:
        """The payload in `data`; b"" when there is none. Raises BadChunk, again at every later call."""
        if self._failure is not None:
            raise BadChunk(self._failure)
        pieces: list[bytes] = []
        try:
            self._decode(bytes(data), pieces)
        except BadChunk as fault:
            self._failure = fault.reason
            fault.payload = b"".join(pieces)
            raise
        return b"".join(pieces)

    def _decode(self, data: bytes, pieces: list[bytes]) -> None:
        at = 0
        while at < len(data) and not self.finished:
            if self._left_bytes:
                piece = data[at : at + self._left_bytes]
                pieces.append(piece)
                self._left_bytes -= len(piece)
                at += len(piece)
            else:
                at = self._gather_line(data, at)
        self._rest += data[at:]

    def _gather_line(self, data: bytes, at: int) -> int:
        """Takes bytes up to and with the next LF; hands a complete line on. Returns where to go on."""
        room = self._line_max_bytes - len(self._line)
        newline = data.find(b"\n", at, at + room)
        if newline < 0:
            self._line += data[at : at + room]
            if len(self._line) == self._line_max_bytes:
                raise BadChunk("no line end where one must be")
            return len(data)
        line = bytes(self._line) + data[at:newline]
        self._line.clear()
        self._read_line(line.removesuffix(b"\r"))
        return newline + 1

    def _size_came(self, line: bytes) -> None:
        size = _size_line(line)
        if size is None:
            raise BadChunk("a chunk without a size")
        self._left_bytes = int(size[1], 16)
        if self._left_bytes:
            self._expect(self._chunk_end_came, len(b"\r\n"))
        else:
            self._expect(self._trailer_came, TRAILERS_MAX_BYTES)

    def _chunk_end_came(self, line: bytes) -> None:
        if line:
            raise BadChunk("a chunk is longer than its size")
        self._expect(self._size_came, SIZE_LINE_MAX_BYTES)

    def _trailer_came(self, line: bytes) -> None:
        if not line:
            self.finished = True
            return
        self._trailer_bytes += len(line) + 1
        self._expect(self._trailer_came, TRAILERS_MAX_BYTES - self._trailer_bytes)
        if self._line_max_bytes <= 0:
            raise BadChunk("the trailer is too long")

    def _expect(self, read_line: Callable[[bytes], None], line_max_bytes: int) -> None:
        self._read_line = read_line
        self._line_max_bytes = line_max_bytes
