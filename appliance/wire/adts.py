"""AAC frames in ADTS (ISO/IEC 13818-7 6.2 and 14496-3 1.A.2): LC, and HE whose SBR is hidden inside; CRC; 1 to 4 raw blocks."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import ClassVar

from appliance.wire.audio_format import AudioFormat, Frame
from appliance.wire.frame_sync import LIE_FRAMES, FrameSync, Head, start_pattern

SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
CHANNELS = (0, 1, 2, 3, 4, 5, 6, 8)  # 0: told by a program config element inside the audio
SAMPLES_PER_BLOCK = 1024
MAX_FRAME_BYTES = 8191  # 13 bits

_FIELDS = struct.Struct(">IHB")
_unpack = _FIELDS.unpack_from
_SMALLEST_BYTES = _FIELDS.size + 1  # a frame holds its header and something
_SMALLEST_CRC_BYTES = _SMALLEST_BYTES + 2
# Sync, version, layer, profile, rate, channels. Left out: protection_absent, private, original and home bits, which no
# decoder minds; what follows them is the variable part.
_AGREEMENT = 0xFFFEFDC0
_UNPROTECTED = 0x00010000
# The rest of the agreement in a pattern: the rate index, bits 2 to 5 of the third byte, is below 13.
_PATTERN = rb"\xff[\xf0\xf1\xf8\xf9][%s]" % b"".join(re.escape(bytes((b,))) for b in range(256) if (b >> 2 & 15) < 13)


@lru_cache(maxsize=1024)  # 2 versions x 4 profiles x 13 rates x 8 channel configurations are 832
def _format(agreement: int) -> AudioFormat:
    rate, channels = SAMPLE_RATES[agreement >> 10 & 15], CHANNELS[agreement >> 6 & 7]
    return AudioFormat("aac", rate, channels, 0, 0, f"mp4a.40.{(agreement >> 14 & 3) + 1}")


class AdtsParser(FrameSync):
    """A FrameParser for AAC in ADTS. A frame of several raw blocks stays whole, with 1024 samples for each."""

    HEADER_BYTES: ClassVar[int] = _FIELDS.size
    MAX_HELD_BYTES: ClassVar[int] = (LIE_FRAMES + 1) * MAX_FRAME_BYTES  # what can be undecided: a run inside a tag
    _HEADER = re.compile(_PATTERN)
    _START = start_pattern(_PATTERN)

    def _look(self, buf: bytes, at: int) -> Head | None:
        word, half, last = _unpack(buf, at)
        if word & 0xFFF60000 != 0xFFF00000 or (word >> 10 & 15) >= len(SAMPLE_RATES):
            return None
        length = (word & 3) << 11 | half >> 5
        if length < (_SMALLEST_BYTES if word & _UNPROTECTED else _SMALLEST_CRC_BYTES):
            return None
        agreement = word & _AGREEMENT
        return Head(agreement, length, SAMPLES_PER_BLOCK * (1 + (last & 3)), _format(agreement))

    def _run(self, buf: bytes, at: int, frames: list[Frame]) -> int:
        last_header = len(buf) - self.HEADER_BYTES
        head = self._look(buf, at) if at <= last_header else None
        if head is None:
            return at
        agreement, length, samples, _ = head
        stream = self._settle(buf, at, 0, head)
        began, end, append = at, at + length, frames.append
        while end <= last_header:
            word, half, last = _unpack(buf, end)
            length = (word & 3) << 11 | half >> 5
            if word & _AGREEMENT != agreement or length < (_SMALLEST_BYTES if word & _UNPROTECTED else _SMALLEST_CRC_BYTES):
                break
            append(Frame(buf[at:end], samples, stream))
            samples = SAMPLES_PER_BLOCK * (1 + (last & 3))
            at = end
            end += length
        if at != began:
            self.format, self._follows = stream, True
        return at
