"""MPEG audio frames: MPEG 1 (ISO/IEC 11172-3), MPEG 2 (13818-3) and the unofficial 2.5; layers I to III; CBR, VBR, free format.

A free-format header does not tell the frame's length: it is the distance to the next matching header, confirmed by
a third one at the same distance (padding considered). A format's bitrate gives that length back exactly, see _slots().

Xing, Info and VBRI frames describe a file (ISO has none of them; LAME's and FhG's own layout). They are whole frames of
layer III that decode to silence. An encoder that loops files sends them in mid-stream, so they are dropped anywhere,
but only recognised at their exact place, behind a side info of this header's size, with the fields that follow
the name in range: 60 bits, so never by accident in an audio frame.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import ClassVar

from appliance.wire.audio_format import AudioFormat, Frame
from appliance.wire.audio_tags import TAG_HEAD_BYTES
from appliance.wire.frame_sync import NO, FrameSync, Head, start_pattern

# Most bytes of a free-format frame: 640 kbit/s, the most that an encoder writes (LAME), at 8 kHz with 1152 samples.
MAX_FREE_FRAME_BYTES = 144 * 640_000 // 8_000 + 1
MIN_FREE_FRAME_BYTES = 24  # the smallest frame of any bitrate in the tables
MAX_FREE_TRIES = 8  # look-alikes of a header tried in one free-format frame; real ones have 0.2 on average
MAX_FRAME_BYTES = 144 * 160_000 // 8_000 + 1  # layer II, MPEG 2.5, 160 kbit/s at 8 kHz

_LSF_KBPS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {  # by MPEG 1 or not, and layer
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LSF_KBPS,
    (False, 3): _LSF_KBPS,
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
_PROFILES = {1: "mp4a.40.32", 2: "mp4a.40.33", 3: "mp4a.40.34"}
_MONO, _DUAL = 3, 2

_unpack = struct.Struct(">I").unpack_from
_RELEVANT = 0xFFFEFEC0  # all but: CRC, private, mode extension, copyright, original, emphasis
_PATTERN = rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][%s]" % b"".join(
    re.escape(bytes((b,))) for b in range(256) if b >> 4 != 15 and (b >> 2 & 3) != 3
)
# Behind header and side info, whose bytes are the key. LAME counts as if there was no CRC, others do not.
_TAG_FRAMES = {
    side: re.compile(rb"[\s\S]{%d}(?:[\s\S]{2})?(?:Xing|Info)\x00{3}[\x00-\x0f]|[\s\S]{36}(?:[\s\S]{2})?VBRI\x00\x01" % (4 + side))
    for side in (9, 17, 32)
}


def _slots(layer: int, samples: int, rate: int, bitrate_bps: int) -> int:
    """A frame's unpadded bytes: 11172-3 2.4.3.1."""
    slot_bytes = 4 if layer == 1 else 1
    return samples * bitrate_bps // (8 * slot_bytes * rate) * slot_bytes


@lru_cache(maxsize=4096)  # 3,240 different headers exist; others make no entry that lasts
def _head(word: int) -> Head | None:
    """A header from its relevant bits."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    index, rate_index, mode = word >> 12 & 15, word >> 10 & 3, word >> 6 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or index == 15 or rate_index == 3:
        return None
    rate, samples = _RATES[version][rate_index], _samples(version, layer)
    bitrate_bps = _KBPS[version == 3, layer][index - 1] * 1000 if index else 0
    length = _slots(layer, samples, rate, bitrate_bps) + _padding(word, layer) if index else 0
    channels = 1 if mode == _MONO else 2
    agreement = word >> 17 << 4 | rate_index << 2 | (mode == _MONO) << 1 | (index == 0)
    stream = AudioFormat("mp3", rate, channels, bitrate_bps, layer, _PROFILES[layer], mode == _DUAL)
    return Head(agreement, length, samples, stream)


def _samples(version: int, layer: int) -> int:
    if layer == 1:
        return 384
    return 576 if layer == 3 and version != 3 else 1152


def _padding(word: int, layer: int) -> int:
    return (word >> 9 & 1) * (4 if layer == 1 else 1)


@lru_cache(maxsize=256)  # 108 agreements of told length; the rest for free formats
def _lengths(agreement: int, free_bytes: int) -> tuple[int, ...]:
    """Frame length by a header's bits 6 to 15; 0 where the header does not agree."""
    top, layer = agreement >> 4 << 17, 4 - (agreement >> 4 & 3)
    lengths = []
    for bits in range(1024):
        word = top | bits << 6
        head = _head(word)
        if head is None or head.agreement != agreement:
            lengths.append(0)
        else:
            lengths.append(head.length or free_bytes + _padding(word, layer))
    return tuple(lengths)


class MpegAudioParser(FrameSync):
    """A FrameParser for MPEG audio. The format keeps the bitrate of the run's first header."""

    HEADER_BYTES: ClassVar[int] = 4
    # A change from one free format to another: a frame of the old one, two of the new one to measure, one header or tag.
    MAX_HELD_BYTES: ClassVar[int] = 3 * MAX_FREE_FRAME_BYTES + 2 * 4 + TAG_HEAD_BYTES
    _HEADER = re.compile(_PATTERN)
    _START = start_pattern(_PATTERN)

    def _look(self, buf: bytes, at: int) -> Head | None:
        return _head(_unpack(buf, at)[0] & _RELEVANT)

    def _run(self, buf: bytes, at: int, frames: list[Frame]) -> int:
        last_header = len(buf) - self.HEADER_BYTES
        head = self._look(buf, at) if at <= last_header else None
        end = self._span(buf, at, head, self._follows) if head else NO
        if head is None or end <= 0:
            return at
        word = _unpack(buf, at)[0]
        top, stream = word >> 17, self._settle(buf, at, end, head)
        lengths = _lengths(head.agreement, 0 if head.length else end - at - _padding(word, head.format.layer))
        tag_frame = _tag_frame(head).match if head.format.layer == 3 else None
        began, samples, append = at, head.samples, frames.append
        while end <= last_header:
            word = _unpack(buf, end)[0]
            length = lengths[word >> 6 & 1023]
            if not length or word >> 17 != top:
                break
            if tag_frame is None or not tag_frame(buf, at, end):
                append(Frame(buf[at:end], samples, stream))
            at = end
            end += length
        if at != began:
            self.format, self._follows = stream, True
        return at

    def _span(self, buf: bytes, at: int, head: Head, follows: bool) -> int:
        if head.length:
            return at + head.length
        known = self.format
        if follows and known and known.same_codec(head.format):
            layer, word = known.layer, _unpack(buf, at)[0]
            length = _slots(layer, head.samples, known.sample_rate, known.bitrate_bps)
            end = at + length + _padding(word, layer)
            verdict = self._confirmed(buf, end, head, follows) if length else NO
            self._need_bytes = 0
            if verdict != NO:
                return end
        return self._measure(buf, at, head)

    def _measure(self, buf: bytes, at: int, head: Head) -> int:
        """The end of a free-format frame at `at`: the first of a few matching headers that a third one confirms."""
        layer, pad = head.format.layer, _padding(_unpack(buf, at)[0], head.format.layer)
        reach = at + MAX_FREE_FRAME_BYTES
        end = at + MIN_FREE_FRAME_BYTES - 1
        for _ in range(MAX_FREE_TRIES):
            end = buf.find(buf[at : at + 2], end + 1, reach + 2)
            if end < 0:
                return NO if len(buf) >= reach + 2 else self._wait(len(buf) + 1)
            if len(buf) < end + self.HEADER_BYTES:
                return self._wait(end + self.HEADER_BYTES)
            if not self._agrees(buf, end, head):
                continue
            third = 2 * end - at - pad + _padding(_unpack(buf, end)[0], layer)
            if len(buf) < third + self.HEADER_BYTES:
                return end if self._ending and len(buf) == third else self._wait(third + self.HEADER_BYTES)
            if self._agrees(buf, third, head):
                return end
        return NO

    def _agrees(self, buf: bytes, at: int, head: Head) -> bool:
        other = self._look(buf, at)
        return other is not None and other.agreement == head.agreement

    def _settle(self, buf: bytes, at: int, end: int, head: Head) -> AudioFormat:
        if head.length:
            return super()._settle(buf, at, end, head)
        stream, slot_bytes = head.format, 4 if head.format.layer == 1 else 1
        slots = (end - at - _padding(_unpack(buf, at)[0], stream.layer)) // slot_bytes
        # Rounded up, so that _slots() gives the length back: a slot more takes at least 55 bit/s, so rounding adds none.
        bitrate_bps = -(-slots * slot_bytes * 8 * stream.sample_rate // head.samples)
        if self.format and self.format.same_codec(stream) and self.format.bitrate_bps == bitrate_bps:
            return self.format
        return AudioFormat("mp3", stream.sample_rate, stream.channels, bitrate_bps, stream.layer, stream.profile, stream.dual)

    def _is_tag_frame(self, buf: bytes, at: int, end: int, head: Head) -> bool:
        return head.format.layer == 3 and _tag_frame(head).match(buf, at, end) is not None


def _tag_frame(head: Head) -> re.Pattern[bytes]:
    """The pattern of a tag frame under such a header: 11172-3 2.4.1.7, 13818-3 2.4.1.7 for the side info's size."""
    wide, mono = head.samples == 1152, head.format.channels == 1
    return _TAG_FRAMES[(17 if mono else 32) if wide else (9 if mono else 17)]
