"""What a writer that is killed at any line leaves, and how the next one goes on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest

from appliance.ring import writer as writer_module
from appliance.ring.layout import MEDIA_HZ, Flag, Geometry, Word
from appliance.ring.reader import RingReader
from appliance.ring.writer import RingWriter
from tests.ring.plain_ring import HALF_S, MP3, TINY, PlainRing, check_chunks, feed, make_ring


@pytest.fixture
def tiny() -> RingWriter:
    """A tiny ring; it is killed, so nobody closes it."""
    return make_ring(TINY)


class Killed(BaseException):
    """Stands for kill -9 at a line of the writer."""


@contextlib.contextmanager
def killed_at(line: int) -> Iterator[None]:
    """Stop at the writer module's `line`-th executed line."""
    left = line

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != writer_module.__file__:
            return None
        left -= event == "line"
        if left == 0:
            raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def kill_everywhere(writer: RingWriter, act: Callable[[RingWriter], None], settle: Callable[[RingWriter], None]) -> int:
    """Kill `act` at its first line, its second, and so on; after each, the next writer takes over and `settle` checks. Counts the kills."""
    fd = writer.fd
    for line in range(1, 2000):
        try:
            with killed_at(line):
                act(writer)
        except Killed:
            os.close(writer.reader_fd)
            writer = RingWriter.attach(fd)
            settle(writer)
        else:
            return line - 1
    raise AssertionError("never ended")


@pytest.mark.parametrize("layout", [TINY, Geometry(32, 4, 8, 1 << 20)])
def test_killed_at_any_line_of_append(layout: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk is wholly there or not at all; all held audio is intact; numbers, positions and breaks go on without a gap."""
    monkeypatch.setattr(writer_module, "PUNCH_BYTES", 4096)
    plain, writer = PlainRing(), make_ring(layout)
    feed(writer, plain, 200)

    def act(now: RingWriter) -> None:
        now.append(plain.chunk(1500, *HALF_S, ts_us=plain.head * 500_000, flags=Flag.DISCONTINUITY), plain.head)

    def settle(now: RingWriter) -> None:
        nonlocal plain
        if now.head_seq < plain.head:
            last = plain.entries.pop()
            plain = replace(plain, pos=last.pos, media=last.media, breaks=plain.breaks - 1)
        check_chunks(plain, RingReader(now.reader_fd))
        feed(now, plain, 3, flags=Flag.DISCONTINUITY)
        check_chunks(plain, RingReader(now.reader_fd))

    assert kill_everywhere(writer, act, settle) > 60


def test_killed_at_any_line_of_a_title_or_an_epoch(tiny: RingWriter) -> None:
    """A title or epoch that was not published does not exist; the newest published one is whole."""
    for number in range(1, 40):
        tiny.set_title(b"old %d" % number, b"url", 5)
    tiny.start_epoch(MP3)

    def act(now: RingWriter) -> None:
        now.set_title(b"new title", b"new url", 6)
        now.start_epoch(MP3._replace(rate=48000))

    def settle(now: RingWriter) -> None:
        reader = RingReader(now.reader_fd)
        newest, epoch = reader.title(now.columns.words[Word.META_HEAD]), reader.current_epoch()
        assert newest is not None and newest[1:] in {("old 39", "url", 5), ("new title", "new url", 6)}
        assert epoch is not None and epoch.rate in {44100, 48000}

    assert kill_everywhere(tiny, act, settle) > 12


def test_killed_at_any_line_of_present(tiny: RingWriter) -> None:
    """The pace is never ahead of the true one."""
    tiny.away(1_000_000)

    def settle(now: RingWriter) -> None:
        assert RingReader(now.reader_fd).pace(1, 3_000_000) in {0, 2 * MEDIA_HZ}
        now.columns.words[Word.AWAY_CREDIT] = now.columns.words[Word.AWAY_SINCE_US] = 0
        now.away(1_000_000)

    assert kill_everywhere(tiny, lambda now: now.present(3_000_000), settle) >= 4
