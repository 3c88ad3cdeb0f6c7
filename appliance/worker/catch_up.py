"""Late listeners: those in their first burst, and those whose connection took less than what was due.

Each has a playhead of its own and is watched for writability; a step sends it one piece of the ring. It is level again when it stands
where its cohort does. Lag (the cohort's position less its own) is bounded by `max_buffer`: beyond it the listener is dropped or, with
`slow_listener = "skip"`, finishes its chunk and goes on nearer to the present. Nobody else waits for it, nothing is copied for it.
"""

from __future__ import annotations

import enum
import os
from typing import Final

from appliance.ring.listeners import ListenerTable
from appliance.worker.listener import Listener

CATCH_UP_BYTES: Final = 128 * 1024
"""Most bytes of one step: about what the send buffer takes, so that one listener's catching up delays nobody."""
FIRST_SEND_BYTES: Final = 64 * 1024
"""Most audio of the first send after a request; the rest of the burst follows in the next rounds of the loop."""


class Step(enum.Enum):
    """How a step ended."""

    WAIT = enum.auto()
    AHEAD = enum.auto()
    LEVEL = enum.auto()
    LOST = enum.auto()
    LAPPED = enum.auto()


def step(listener: Listener, table: ListenerTable, most_bytes: int = CATCH_UP_BYTES) -> tuple[Step, int]:
    """Send a late listener its next piece; returns how that ended and the bytes sent."""
    head, reader = listener.playhead, listener.stream.reader
    start = head.pos
    if start < reader.pos[reader.tail_seq & reader.mask]:
        return Step.LAPPED, 0
    end = min(listener.cohort.pos, start + most_bytes)
    if listener.skipping:
        end = min(end, _next_boundary(listener))
    buffers, marks = head.gather(listener.stream, end)
    try:
        taken = os.writev(listener.fd, buffers) if buffers else 0
    except BlockingIOError:
        taken = 0
    except OSError:
        return Step.LOST, 0
    head.advance(taken, marks)
    if reader.limit_pos > start:
        return Step.LAPPED, taken
    return _settle(listener, table, bool(marks)), taken


def _settle(listener: Listener, table: ListenerTable, had_block: bool) -> Step:
    head = listener.playhead
    if head.pending:
        return Step.WAIT
    if listener.skipping and head.pos == _next_boundary(listener):
        _skip(listener, table)
    ahead_bytes = head.pos - listener.cohort.pos
    if had_block or ahead_bytes >= 0:
        checkpoint(listener, table)
    listener.ahead = ahead_bytes > 0  # only an adopted one, until its new cohort has caught up
    return Step.LEVEL if ahead_bytes == 0 else Step.AHEAD if ahead_bytes > 0 else Step.WAIT


def checkpoint(listener: Listener, table: ListenerTable) -> None:
    """Note in the shared table where the listener stands (`playhead.pos` must be true and no block half sent; a head is
    taken as sent)."""
    head = listener.playhead
    if listener.row >= 0:
        until_meta = head.meta_at - head.pos if head.interval else 0
        table.checkpoint(listener.row, head.total + len(head.pending), head.pos, until_meta, head.title)


def is_too_late(listener: Listener) -> bool:
    """Whether its lag is over its limit."""
    return listener.cohort.pos - listener.playhead.pos > listener.lag_limit


def _next_boundary(listener: Listener) -> int:
    """The first chunk boundary at or after its playhead."""
    reader, pos = listener.stream.reader, listener.playhead.pos
    seq = reader.seq_at_pos(pos, listener.stream.head)
    at = reader.pos[seq & reader.mask]
    return at if at == pos else reader.pos[(seq + 1) & reader.mask]


def _skip(listener: Listener, table: ListenerTable) -> None:
    """On a chunk boundary: go on a burst behind the cohort, at most half of max_buffer."""
    reader, cohort, head = listener.stream.reader, listener.cohort, listener.playhead
    media = reader.media[cohort.seq & reader.mask] - listener.stream.burst_ticks
    seq = min(cohort.seq, reader.seq_at_media(max(0, media), listener.stream.head))
    while seq < cohort.seq and cohort.pos - reader.pos[seq & reader.mask] > listener.stream.entry.max_buffer // 2:
        seq += 1
    listener.skipping = False
    to = reader.pos[seq & reader.mask]
    if to > head.pos:
        listener.skips += 1
        checkpoint(listener, table)
        head.skip(to)
        checkpoint(listener, table)
