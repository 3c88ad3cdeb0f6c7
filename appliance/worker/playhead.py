"""One listener's place in a stream, to the byte: which bytes come next, and where it stands after the kernel took some of them.

State: `pos`, the logical position of the next audio byte; `meta_at`, the position before which the next ICY block goes (NEVER for raw
listeners); `title`, the id of the last title sent; `pending`, bytes of a head or block that the kernel has begun to take.
`gather` reads the state and `advance` moves it, so a short send at any byte leaves a state from which `gather` goes on exactly.
The content of a block depends on the ring and this state alone (MECHANICS 4), so another process can redo the walk.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.wire.icy import EMPTY_BLOCK
from appliance.worker.stream import Stream

NEVER: Final = 1 << 62


class Mark(NamedTuple):
    """A block among the gathered buffers: before the audio byte `at`, with this content, after which the last title is `title`."""

    at: int
    block: bytes
    title: int


class Playhead:
    """See above. `overhead` counts the bytes sent that are not audio (`sent_bytes`: those of earlier answers on this connection),
    `start_pos` is where the audio began (moved by skips)."""

    __slots__ = ("interval", "meta_at", "overhead", "pending", "pos", "start_pos", "title")

    def __init__(self, pos: int, interval: int, head: bytes, sent_bytes: int = 0) -> None:
        self.pos = self.start_pos = pos
        self.interval = interval
        self.meta_at = pos + interval if interval else NEVER
        self.title = 0
        self.pending = head
        self.overhead = sent_bytes

    @property
    def total(self) -> int:
        """All bytes ever written on the socket, earlier answers too. Only true while `pos` is (see Listener)."""
        return self.overhead + self.pos - self.start_pos

    def gather(self, stream: Stream, end: int) -> tuple[list[bytes | memoryview], list[Mark]]:
        """The buffers from here up to logical position `end`, in order, and the blocks among them."""
        spans, pos, at, title = stream.reader.columns.spans, self.pos, self.meta_at, self.title
        buffers: list[bytes | memoryview] = [self.pending] if self.pending else []
        marks: list[Mark] = []
        while at < end:
            if at > pos:
                buffers += spans(pos, at)
                pos = at
            now = stream.meta_at(at)
            block = EMPTY_BLOCK if now == title else stream.block(now)
            title = now
            buffers.append(block)
            marks.append(Mark(at, block, now))
            at += self.interval
        if end > pos:
            buffers += spans(pos, end)
        return buffers, marks

    def advance(self, taken: int, marks: list[Mark]) -> None:
        """The kernel took `taken` bytes of what `gather` gave with these marks."""
        if self.pending:
            part = min(taken, len(self.pending))
            self.pending = self.pending[part:]
            self.overhead += part
            taken -= part
        for mark in marks:
            audio = min(taken, mark.at - self.pos)
            self.pos += audio
            taken -= audio
            if not taken:
                return
            part = min(taken, len(mark.block))
            self.meta_at, self.title = mark.at + self.interval, mark.title
            self.pending = mark.block[part:]
            self.overhead += part
            taken -= part
            if self.pending:
                return
        self.pos += taken

    def skip(self, to: int) -> None:
        """Go on at `to` (a chunk boundary, as the present position must be): the distance to the next block stays."""
        gap = to - self.pos
        self.start_pos += gap
        self.meta_at += gap if self.meta_at != NEVER else 0
        self.pos = to
