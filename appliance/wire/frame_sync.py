"""Finding frames in a stream of bytes: what the MPEG audio and the ADTS parser share.

**When a frame counts.** A header is only a few bits, and audio data or a cover picture holds look-alikes. So a frame
counts when the header of the next one stands exactly at its end and agrees (same version, layer, rate, channels), or
when a tag begins there. If it follows a frame that counts, these do as well: a frame of another format that is itself
confirmed by its successor (the encoder changed its settings), and the end of the input. A frame before garbage does
not count: it may have been cut short, and then its last bytes are someone else's.

**Tags that lie about their size.** An ID3v2 tag may claim 256 MB: hours of silence if believed, a gap full of picture
data if not. So a tag is passed as it streams, nothing of it is kept, and inside it frames are still looked for, with
more proof: LIE_FRAMES successive agreeing headers end the tag where they begin, and no frame is lost. A true
tag holds no such run: pictures and text have none (JPEG never has 0xFF before a byte of 0xE0 or more inside its data).
A run that goes exactly through the tag's claimed end proves the claim, so what is before it is no audio. The price: an
MP3 file attached whole inside a tag would be played.

**Costs.** Each byte is searched once by a compiled pattern, and each candidate costs a bounded number of look-ups, so
time is linear for any input. Only what cannot be decided yet is held, at most MAX_HELD_BYTES of each parser.
Frames in a run are taken by the parser's `_run`, a tight loop; all that is rare goes through `_frame_end`.

**Never**: emit a byte twice or out of order, hold a tag, raise for any input, decide by how the input was split.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from appliance.wire.audio_format import FRESH, AudioFormat, Frame, Resume
from appliance.wire.audio_tags import START_PATTERN, TAG_HEAD_BYTES, tag_size

LIE_FRAMES = 4  # agreeing headers in a row that prove a tag wrong: 70 bits of evidence, and 0.1 s of audio to wait for

NO, WAIT = 0, -1  # verdicts beside a frame's end, which is positive

_HEADER_PATTERN_BYTES = 3  # what the header patterns match
_START_PATTERN_BYTES = 10  # the longest match of START_PATTERN


class Head(NamedTuple):
    """A frame header as understood: `agreement` is equal for headers that agree, `length` the frame's bytes (0: free
    format, not told), `samples` per channel."""

    agreement: int
    length: int
    samples: int
    format: AudioFormat


def start_pattern(header: bytes) -> re.Pattern[bytes]:
    """What a search through garbage stops at: a frame header (the given pattern) or a tag."""
    return re.compile(header + b"|" + START_PATTERN)


class FrameSync(ABC):
    """The part of a FrameParser that does not depend on the format; positions `at` and `end` are indices of `buf`."""

    HEADER_BYTES: ClassVar[int]
    MAX_HELD_BYTES: ClassVar[int]
    _HEADER: ClassVar[re.Pattern[bytes]]
    _START: ClassVar[re.Pattern[bytes]]

    def __init__(self, resume: Resume = FRESH) -> None:
        self.position = resume.position
        self.skipped_bytes = 0
        self.format = resume.format
        self._follows = resume.follows  # the byte at `position` follows a frame (or the tags behind one) directly
        self._tag_left_bytes = resume.tag_left_bytes
        self._held = bytearray()  # from `position` on
        self._need_bytes = 0  # nothing more can be decided before so much is held
        self._ending = False

    @property
    def held_bytes(self) -> int:
        """Bytes fed but not decided on yet, at most MAX_HELD_BYTES."""
        return len(self._held)

    @property
    def resume(self) -> Resume:
        """The state to make an equal parser from, together with the input from `position` on."""
        return Resume(self.position, self.format, self._follows, self._tag_left_bytes)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take more input; return the frames that it confirms."""
        self._held += data
        if len(self._held) < self._need_bytes:
            return []
        return self._parse()

    def flush(self) -> list[Frame]:
        """End of input: return what is left; the parser is then as new, but for its counts and format."""
        self._ending = True
        frames = self._parse()
        self.position += len(self._held)
        self.skipped_bytes += len(self._held)
        self._held.clear()
        self._follows = self._ending = False
        self._tag_left_bytes = self._need_bytes = 0
        return frames

    def _parse(self) -> list[Frame]:
        buf, frames, at = bytes(self._held), list[Frame](), 0
        self._need_bytes = 0
        while not self._need_bytes:
            at = self._step(buf, at, frames)
        self._need_bytes -= at
        del self._held[:at]
        self.position += at
        self.skipped_bytes += at - sum([len(frame.data) for frame in frames])
        return frames

    def _step(self, buf: bytes, at: int, frames: list[Frame]) -> int:
        """Go on from `at` to where it returns; sets _need_bytes when more input is needed there."""
        if self._tag_left_bytes:
            return self._cross_tag(buf, at)
        if not self._follows:
            at = self._hunt(buf, at)
            if self._need_bytes or self._tag_left_bytes:
                return at
        at = self._run(buf, at, frames)
        end = self._frame_end(buf, at, self._follows)
        if end == WAIT:
            if not self._ending:
                return at
            self._need_bytes = 0
            end = self._last_frame_end(buf, at)
        return self._take(buf, at, end, frames) if end else self._lose(buf, at)

    def _wait(self, need_bytes: int) -> int:
        self._need_bytes = need_bytes
        return WAIT

    def _hunt(self, buf: bytes, at: int) -> int:
        """The next place where a frame or a tag may begin."""
        found = self._START.search(buf, at)
        if not found:
            self._wait(len(buf) + 1)
            return max(at, len(buf) - _START_PATTERN_BYTES + 1)
        at = found.start()
        if buf[at] != 0xFF:
            self._enter_tag(buf, at)
        return at

    def _enter_tag(self, buf: bytes, at: int) -> bool:
        """True when a tag begins at `at`, or may (then more input is waited for)."""
        size_bytes = tag_size(buf, at)
        if size_bytes is None:
            if not self._ending:
                self._wait(at + TAG_HEAD_BYTES if buf[at] == ord("A") else len(buf) + 1)
            return not self._ending
        self._tag_left_bytes = size_bytes
        return size_bytes > 0

    def _cross_tag(self, buf: bytes, at: int) -> int:
        """Pass what is here of the tag, up to the first place where frames may prove that it lies."""
        stop = at + self._tag_left_bytes
        found = self._HEADER.search(buf, at, stop + _HEADER_PATTERN_BYTES - 1)
        if not found:
            to = max(at, min(stop, len(buf) - _HEADER_PATTERN_BYTES + 1))
            self._tag_left_bytes = stop - to
            if self._tag_left_bytes:
                self._wait(len(buf) + 1)
            return to
        at = found.start()
        return self._try_in_tag(buf, at, stop)

    def _try_in_tag(self, buf: bytes, at: int, stop: int) -> int:
        self._tag_left_bytes = stop - at
        verdict = self._lie_begins(buf, at, stop)
        if verdict == WAIT and not self._ending:
            return at
        if verdict > 0:
            self._tag_left_bytes = 0
            return at
        self._need_bytes = 0
        self._tag_left_bytes -= 1
        return at + 1

    def _lie_begins(self, buf: bytes, at: int, stop: int) -> int:
        """Positive when a run of frames begins at `at`, inside a tag said to end at `stop`. Free format is not tried."""
        if len(buf) < at + self.HEADER_BYTES:
            return self._wait(at + self.HEADER_BYTES)
        first = head = self._look(buf, at)
        for _ in range(LIE_FRAMES):
            if first is None or head is None or not head.length:
                return NO
            at += head.length
            if at == stop:
                return NO
            if len(buf) < at + self.HEADER_BYTES:
                return self._wait(at + self.HEADER_BYTES)
            head = self._look(buf, at)
            if head is None or head.agreement != first.agreement:
                return NO
        return at

    def _frame_end(self, buf: bytes, at: int, follows: bool) -> int:
        """Where the frame that begins at `at` ends if it counts, else NO or WAIT."""
        if len(buf) < at + self.HEADER_BYTES:
            return self._wait(at + self.HEADER_BYTES)
        head = self._look(buf, at)
        if head is None:
            return NO
        end = self._span(buf, at, head, follows)
        if end <= 0:
            return end
        verdict = self._confirmed(buf, end, head, follows)
        return end if verdict > 0 else verdict

    def _confirmed(self, buf: bytes, end: int, head: Head, follows: bool) -> int:
        """Positive when what begins at `end` confirms the frame `head` that ends there."""
        if len(buf) < end + self.HEADER_BYTES:
            return self._wait(end + self.HEADER_BYTES)
        successor = self._look(buf, end)
        if successor and successor.agreement == head.agreement:
            return end
        size_bytes = tag_size(buf, end)
        if size_bytes is None:
            return self._wait(len(buf) + 1)
        if size_bytes:
            return end
        if successor and follows and self.format and self.format.same_codec(head.format):
            return self._frame_end(buf, end, False)
        return NO

    def _last_frame_end(self, buf: bytes, at: int) -> int:
        """The end of input's frame: whole, of the format before, nothing behind it but the beginning of a next one."""
        head = self._look(buf, at) if len(buf) >= at + self.HEADER_BYTES else None
        if not head or not self._follows or not self.format or not self.format.same_codec(head.format):
            return NO
        end = self._span(buf, at, head, True)
        self._need_bytes = 0
        if not 0 < end <= len(buf):
            return NO
        rest = buf[end : end + TAG_HEAD_BYTES]
        cut_header = len(rest) < self.HEADER_BYTES and rest.startswith(b"\xff")
        return end if not rest or cut_header or tag_size(buf, end) is None else NO

    def _take(self, buf: bytes, at: int, end: int, frames: list[Frame]) -> int:
        head = self._look(buf, at)
        if head is not None and not self._is_tag_frame(buf, at, end, head):
            self.format = self._settle(buf, at, end, head)
            frames.append(Frame(buf[at:end], head.samples, self.format))
        self._follows = True
        return end

    def _lose(self, buf: bytes, at: int) -> int:
        """No frame at `at`: a tag perhaps, else the sync is lost and the hunt begins, at `at` or one byte on."""
        if not self._follows:
            return at + 1
        if at == len(buf) or not self._enter_tag(buf, at):
            self._follows = False
        return at

    def _span(self, buf: bytes, at: int, head: Head, follows: bool) -> int:
        """Where the frame at `at` ends by its header, NO or WAIT; `follows`: it continues the run in self.format."""
        del buf, follows
        return at + head.length

    def _settle(self, buf: bytes, at: int, end: int, head: Head) -> AudioFormat:
        """The format of a frame that counts: the run's own while the codec is the same."""
        del buf, at, end
        return self.format if self.format and self.format.same_codec(head.format) else head.format

    def _is_tag_frame(self, buf: bytes, at: int, end: int, head: Head) -> bool:
        """True for a frame which is no audio but a description of the file."""
        del buf, at, end, head
        return False

    @abstractmethod
    def _look(self, buf: bytes, at: int) -> Head | None:
        """The header at `at`, where HEADER_BYTES are, or None."""

    @abstractmethod
    def _run(self, buf: bytes, at: int, frames: list[Frame]) -> int:
        """Take frames from `at` on while the next header agrees; return where that ends (`at` itself if at once)."""
