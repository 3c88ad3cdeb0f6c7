"""Processes that tests/process/test_ring_processes.py starts: `python -m tests.process.ring_roles ROLE FD...`.

Each says a line on stdout when it is ready, and waits for a line on stdin where the test sets the pace.
"""

from __future__ import annotations

import ctypes
import os
import sys

from appliance.ring.columns import RingRefused
from appliance.ring.layout import Flag, Word
from appliance.ring.reader import RingReader
from appliance.ring.writer import RingWriter
from appliance.system.doorbell import silence
from tests.ring.plain_ring import HALF_S, PlainRing, audio, held


def size_of(seq: int) -> int:
    """Bytes of chunk `seq`, for whoever asks."""
    return 1 + seq * 7919 % 4000


def say(text: str) -> None:
    """Tell the test."""
    print(text, flush=True)


def writer(ring_fd: int, count: int, *bells: int) -> None:
    """Take the ring over and append for ever (or `count` chunks, then wait), ringing every bell after each."""
    try:
        ring = RingWriter.attach(ring_fd)
    except RingRefused as error:
        say(f"refused: {error}")
        return
    say(f"writing {ring.head_seq}")
    sys.stdin.readline()
    last = ring.head_seq + count if count else None
    while ring.head_seq != last:
        seq, pos = ring.head_seq, ring.head_pos
        if seq % 50 == 0:
            ring.set_title(b"title of %d" % seq, b"", seq)
        ring.append(PlainRing(pos=pos).chunk(size_of(seq), *HALF_S, ts_us=seq * 500_000, flags=Flag.DISCONTINUITY), seq)
        for bell in bells:
            os.eventfd_write(bell, 1)
    say("done")
    sys.stdin.readline()


def follower(ring_fd: int, bell: int, last: int) -> None:
    """Follow the head by this bell alone and compare every byte until chunk `last` was seen."""
    reader = RingReader(ring_fd)
    os.close(ring_fd)
    os.set_blocking(bell, True)
    head, wakes = 1, 0
    say("following")
    while head <= last:
        silence(bell)
        wakes += 1
        before, head = head, reader.head_seq
        start, end = reader.pos[before & reader.mask], reader.pos[head & reader.mask]
        same = held(reader, start, end) == audio(start, end - start)
        sizes = [reader.columns.view["length"][seq & reader.mask] for seq in range(before, head)]
        if not same or sizes != [size_of(seq) for seq in range(before, head)] or reader.limit_pos > start:
            say(f"wrong between {before} and {head}")
            return
    say(f"right {reader.pos[head & reader.mask]}")


def racer(ring_fd: int, rounds: int) -> None:
    """Read at the lapping tail of a ring that is written flat out: count spans that passed the checks, that did not, and torn ones."""
    reader = RingReader(ring_fd)
    passed = lapped = torn = 0
    say("racing")
    while passed + lapped < rounds:
        first = reader.tail_seq
        start, end = reader.pos[first & reader.mask], reader.pos[(first + 1) & reader.mask]
        if first < reader.tail_seq - 8 or not 0 < end - start <= 4000:
            continue
        right = held(reader, start, end) == audio(start, end - start)
        if reader.limit_pos > start:
            lapped += 1
        else:
            passed += 1
            torn += not right
    say(f"{passed} {lapped} {torn}")


def sleeper(ring_fd: int, socket_fd: int) -> None:
    """Check a span, be stopped for a long time, send it as a worker would, check again; tell what the after-check said."""
    reader = RingReader(ring_fd)
    head, first = reader.head_seq, reader.tail_seq + 1
    start, end = reader.pos[first & reader.mask], reader.pos[head & reader.mask]
    views = reader.columns.spans(start, end)
    assert first >= reader.tail_seq
    say(f"checked {start} {end}")
    sys.stdin.readline()
    for view in views:
        os.write(socket_fd, view)
    say("lapped" if reader.limit_pos > start else "intact")


def vandal(ring_fd: int) -> None:
    """Write through a reader's mapping, past Python: the kernel's answer is SIGSEGV."""
    reader = RingReader(ring_fd)
    address = reader.columns.array["seq"].ctypes.data
    say(f"mapped {ctypes.string_at(address, 1)!r} {reader.words[Word.HEAD_SEQ]}")
    ctypes.memset(address, 1, 1)
    say("written")


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(int, sys.argv[2:]))
