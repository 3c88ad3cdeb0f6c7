"""Playheads: any pattern of short sends yields exactly the model's bytes, and so does the walk from any state on the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.worker.playhead import NEVER, Playhead
from appliance.worker.stream import Stream
from tests.fakes import Air, counters, entry

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=150)
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
TURNS_MAX = 60  # after so many short sends the kernel takes all: the patterns matter, not their number
Scene = tuple[Air, Stream]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A small ring that has lapped twice, the wrap inside what is held; titles on some chunks."""
    air = Air(window_s=20, max_bytes_s=1_000, max_buffer=65_536)
    number = 0
    while len(air.audio) < 2.5 * air.writer.columns.capacity:
        number += 1
        if number % 5 in {0, 3}:
            air.title(f"Title {number} " + "x" * (number % 90), "http://example.org/" if number % 2 else "")
        air.play(1, 300 + number * 37 % 900)
    stream = Stream(entry(), air.reader(), counters())
    yield air, stream
    air.close()


def chunk_start(scene: Scene, share: float) -> int:
    """A chunk boundary above the tail; 0 is the oldest, 1 the head."""
    reader = scene[1].reader
    first, head = reader.tail_seq, scene[1].head
    return reader.pos[(first + int(share * (head - first))) & reader.mask]


def run(scene: Scene, head: Playhead, ends: list[int], takes: list[int]) -> Iterator[bytes]:
    """Send up to each of `ends` in turn, the kernel taking `takes` bytes at a time."""
    turn = 0
    for end in ends:
        while head.pos < end or head.pending:
            buffers, marks = head.gather(scene[1], end)
            whole = b"".join(buffers)
            taken = min(len(whole), takes[turn % len(takes)]) if turn < TURNS_MAX else len(whole)
            turn += 1
            head.advance(taken, marks)
            yield whole[:taken]


shares = st.floats(0, 1)
takes_lists = st.lists(st.one_of(st.integers(0, 30), st.integers(0, 5_000)), min_size=1, max_size=20).filter(any)
intervals = st.one_of(st.just(0), st.integers(1_024, 1_200), st.integers(1_024, 40_000), st.just(417 * 3))


@FIXED
@given(start=shares, ends=st.lists(shares, min_size=1, max_size=5), interval=intervals, takes=takes_lists)
def test_any_short_sends_give_exactly_the_stream(
    scene: Scene, start: float, ends: list[float], interval: int, takes: list[int]
) -> None:
    """The response head, then audio with a block before each interval-th byte; `total` counts all of it at each step."""
    pos = chunk_start(scene, start)
    stops = sorted(max(pos, chunk_start(scene, share)) for share in ends)
    head, got = Playhead(pos, interval, HEAD), b""
    for piece in run(scene, head, stops, takes):
        got += piece
        assert head.total == len(got)
    assert got == HEAD + scene[0].sent(pos, stops[-1], interval)
    assert head.pos == stops[-1]
    assert (head.meta_at == NEVER) is (interval == 0)


@FIXED
@given(start=shares, interval=intervals.filter(bool), takes=takes_lists, stop=st.integers(0, 60))
def test_the_walk_from_any_checkpoint(scene: Scene, start: float, interval: int, takes: list[int], stop: int) -> None:
    """MECHANICS 4: position, bytes to the next block and last title are enough to know all further bytes (when no block is half sent)."""
    pos, end = chunk_start(scene, start), chunk_start(scene, 1)
    head, got, known = Playhead(pos, interval, HEAD), b"", None
    for step, piece in enumerate(run(scene, head, [end], takes)):
        got += piece
        if step >= stop and not head.pending:
            known = (head.total, head.pos, head.meta_at - head.pos, head.title)
            break
    if known is None:
        return
    total, at, until_meta, title = known
    rest = scene[0].sent(at, end, interval, until_meta=until_meta, title=title)
    assert got[:total] + rest == HEAD + scene[0].sent(pos, end, interval)


@FIXED
@given(start=st.floats(0, 0.5), skip=st.floats(0.5, 1), middle=shares, interval=intervals, takes=takes_lists)
def test_a_skip_keeps_the_distance_to_the_next_block(
    scene: Scene, start: float, skip: float, middle: float, interval: int, takes: list[int]
) -> None:
    """Audio before and after the skip, as if the skipped bytes had never been; total goes on."""
    air, stream = scene
    pos, to, end = chunk_start(scene, start), chunk_start(scene, skip), chunk_start(scene, 1)
    stop = min(to, max(pos, chunk_start(scene, middle)))
    head = Playhead(pos, interval, b"")
    before = b"".join(run(scene, head, [stop], takes))
    until, title = (head.meta_at - head.pos if interval else None), head.title
    head.skip(to)
    assert head.total == len(before)
    after = b"".join(run(scene, head, [end], takes))
    assert before == air.sent(pos, stop, interval)
    assert after == air.sent(to, end, interval, until_meta=until, title=title)
    assert head.total == len(before) + len(after)
    assert stream.head
