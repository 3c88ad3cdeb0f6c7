"""What a stream of audio frames is made of: its format, one frame, and what every frame parser offers."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

MIME_TYPES = {"mp3": "audio/mpeg", "aac": "audio/aac"}  # RFC 3003; IANA media type audio/aac


class AudioFormat(msgspec.Struct, frozen=True):
    """The format of a run of frames.

    `codec` is "mp3" (all three MPEG audio layers) or "aac". `sample_rate` is in Hz, as the header says it: for HE-AAC with
    implicit SBR that is the core's rate, half of what is heard. `channels` is 0 where ADTS leaves it to a program
    config element inside the audio. `bitrate_bps` is nominal: for MPEG audio that of the run's first header (measured
    for free format), for AAC 0. `layer` is 1 to 3, for AAC 0. `profile` is an RFC 6381 codec string.
    `dual` marks MPEG's two independent channels.
    """

    codec: str
    sample_rate: int
    channels: int
    bitrate_bps: int
    layer: int
    profile: str
    dual: bool = False

    @property
    def stream_key(self) -> str:
        """The name StreamMachine 0.7 gives the format: `mp3-44100-128-s` (kbit/s; s is stereo and joint stereo, m is
        mono and also dual channel), `aac-44100-2-2` (MPEG-4 audio object type, channels)."""
        if self.codec == "aac":
            return f"aac-{self.sample_rate}-{self.profile.rpartition('.')[2]}-{self.channels}"
        mode = "s" if self.channels == 2 and not self.dual else "m"
        return f"mp3-{self.sample_rate}-{round(self.bitrate_bps / 1000)}-{mode}"

    @property
    def mime(self) -> str:
        """The Content-Type of such audio."""
        return MIME_TYPES[self.codec]

    def same_codec(self, other: AudioFormat) -> bool:
        """True when a decoder goes from one to the other without a new start; the bitrate may differ (VBR)."""
        return (
            self.sample_rate == other.sample_rate
            and self.channels == other.channels
            and self.profile == other.profile
            and self.codec == other.codec
        )


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame: its bytes exactly as the source sent them (header included) and the samples per channel it decodes to.

    A msgspec Struct, because making one costs a tenth of a microsecond; it is made for every frame of every source.
    """

    data: bytes
    samples: int
    format: AudioFormat

    @property
    def duration_s(self) -> float:
        """Seconds of audio in this frame."""
        return self.samples / self.format.sample_rate


class Resume(NamedTuple):
    """All that a parser knows besides the bytes from `position` on: a parser made from it goes on exactly.

    `position`: input bytes before it are done with. `format`: of the last emitted frame. `follows`: the byte at
    `position` directly follows a frame or the tags behind one. `tag_left_bytes`: it lies in a tag with so much left.
    A parser that is given nothing of this still finds every frame that its successor confirms. It may lose the one at
    `position` when that is the last of the input or before a change of format (the last two in free format).
    """

    position: int = 0
    format: AudioFormat | None = None
    follows: bool = False
    tag_left_bytes: int = 0


FRESH = Resume()


class FrameParser(Protocol):
    """Bytes in, frames out. Any split of the input gives the same frames. No input raises an error."""

    @property
    def position(self) -> int:
        """Input bytes consumed: all before it was emitted or skipped. A new parser fed from here on goes on."""

    @property
    def skipped_bytes(self) -> int:
        """Garbage and tags dropped so far; `position` less this is what was emitted."""

    @property
    def format(self) -> AudioFormat | None:
        """The format of the last emitted frame."""

    @property
    def held_bytes(self) -> int:
        """Bytes fed but not decided on yet; the parser's class has the bound as `MAX_HELD_BYTES`."""

    @property
    def resume(self) -> Resume:
        """The state to make an equal parser from, together with the input from `position` on."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take more input; return the frames that it confirms."""

    def flush(self) -> list[Frame]:
        """End of input: return what is left, the last whole frame too when it follows a confirmed one.
        Other bytes are skipped; the parser is then as new, but for `position`, `skipped_bytes` and `format`."""
