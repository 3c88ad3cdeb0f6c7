"""Where in the buffer a request starts: `offset=` in, a chunk out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

from appliance.ring.layout import MEDIA_HZ
from appliance.worker.stream import Stream

UNSUPPORTED: Final = ("at", "from", "to", "pump", "program")
"""Parts of the rewind surface this release does not serve; refused, so that nobody hears live audio for a moment they asked for."""


class BadOffset(Exception):
    """A rewind parameter that means nothing; the reason is for the client."""


class Start(NamedTuple):
    """Chunk to start at; media ticks behind the head if the listener keeps that distance (0: live); what the answer's head says."""

    seq: int
    behind: int
    offset_s: float
    ts_us: int


def parse_offset(query: Mapping[str, str]) -> float:
    """Seconds of audio behind live; 0 without `offset`. Raises BadOffset."""
    for name in UNSUPPORTED:
        if name in query:
            raise BadOffset(f"{name}= is not available in this release; offset=SECONDS is")
    text = query.get("offset", "")
    if not text:
        return 0.0
    try:
        offset = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        offset = math.nan
    if not 0 <= offset < math.inf:
        raise BadOffset("offset is a number of seconds behind live, 0 or more")
    return offset


def find_start(stream: Stream, offset_s: float) -> Start:
    """The chunk for this offset, clamped to what is held. The stream must not be empty."""
    reader, head = stream.reader, stream.head
    live = reader.media[head & reader.mask]
    asked = int(offset_s * MEDIA_HZ)
    keeps = asked > stream.burst_ticks
    seq = reader.seq_at_media(max(0, live - (asked if asked else stream.burst_ticks)), head)
    ticks = live - reader.media[seq & reader.mask]
    behind = ticks if keeps and ticks > stream.burst_ticks else 0
    return Start(seq, behind, ticks / MEDIA_HZ, reader.ts_us(seq) if seq < head else _end_us(stream))


def _end_us(stream: Stream) -> int:
    """Wall clock of the end of the newest chunk: where a listener without a burst starts."""
    reader, last = stream.reader, stream.head - 1
    ticks = reader.media[stream.head & reader.mask] - reader.media[last & reader.mask]
    return reader.ts_us(last) + ticks * 1_000_000 // MEDIA_HZ
