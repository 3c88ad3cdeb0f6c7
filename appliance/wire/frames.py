"""Audio frames, the way in: what a frame is, and the parser for a stream's format.

The parsers are in mpeg_audio.py and adts.py, what they share in frame_sync.py.
"""

from __future__ import annotations

from appliance.wire.adts import AdtsParser
from appliance.wire.audio_format import FRESH, AudioFormat, Frame, FrameParser, Resume
from appliance.wire.mpeg_audio import MpegAudioParser

__all__ = ["AudioFormat", "Frame", "FrameParser", "Resume", "parser_for"]

PARSERS = {"mp3": MpegAudioParser, "aac": AdtsParser}


def parser_for(format_name: str, resume: Resume = FRESH) -> FrameParser:
    """A parser for `format_name`, "mp3" (MPEG audio layers I to III) or "aac" (ADTS); ValueError for any other name.

    With `resume`, a former parser's state, it goes on where that one was, fed from `resume.position`.
    """
    if format_name not in PARSERS:
        raise ValueError(f"no frame parser for {format_name!r}: known are {', '.join(PARSERS)}")
    return PARSERS[format_name](resume)
