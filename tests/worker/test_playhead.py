"""A playhead by hand: where blocks stand, what a send that ends inside a block leaves (MECHANICS 4). Patterns: tests/properties."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.wire import icy
from appliance.worker.playhead import NEVER, Playhead
from appliance.worker.stream import Stream
from tests.fakes import Air, counters, entry


@pytest.fixture
def air() -> Iterator[Air]:
    """10 chunks of 1,000 bytes: none titled, then A from the fifth and B from the eighth."""
    air = Air()
    air.play(4, 1_000)
    air.title("A", "http://a/")
    air.play(3, 1_000)
    air.title("B")
    air.play(3, 1_000)
    yield air
    air.close()


@pytest.fixture
def stream(air: Air) -> Stream:
    """The ring as a worker sees it."""
    return Stream(entry(), air.reader(), counters())


def test_blocks_come_before_each_interval_th_byte(air: Air, stream: Stream) -> None:
    """A zero byte while nothing changed, the title once when it did."""
    buffers, marks = Playhead(0, 2_000, b"").gather(stream, 10_000)
    assert [mark.at for mark in marks] == [2_000, 4_000, 6_000, 8_000]  # the one at 10,000 belongs to what follows
    assert [mark.block for mark in marks] == [b"\0", icy.block("A", "http://a/"), b"\0", icy.block("B")]
    assert b"".join(buffers) == air.sent(0, 10_000, 2_000)


def test_a_raw_playhead_has_no_blocks(air: Air, stream: Stream) -> None:
    """One view of the ring, no copy; nothing at the head."""
    head = Playhead(3_000, 0, b"")
    buffers, marks = head.gather(stream, 10_000)
    assert head.meta_at == NEVER
    assert not marks
    assert [bytes(buffer) for buffer in buffers] == [bytes(air.audio[3_000:])]
    assert isinstance(buffers[0], memoryview)
    assert Playhead(10_000, 0, b"").gather(stream, 10_000) == ([], [])


def test_a_send_that_ends_inside_the_response_head(stream: Stream) -> None:
    """The rest of it comes first; no audio was taken."""
    head = Playhead(0, 0, b"HEAD")
    head.advance(3, head.gather(stream, 1_000)[1])
    assert (head.pending, head.pos, head.total) == (b"D", 0, 3)
    assert bytes(head.gather(stream, 1_000)[0][0]) == b"D"


def test_a_send_that_ends_inside_a_block(air: Air, stream: Stream) -> None:
    """The rest of the same block comes first, whatever the title is by then, and the title counts as sent."""
    head = Playhead(4_000, 1_000, b"")
    block = icy.block("A", "http://a/")
    head.advance(1_000 + 5, head.gather(stream, 7_000)[1])
    assert (head.pos, head.pending, head.title) == (5_000, block[5:], 1)
    assert b"".join(head.gather(stream, 7_000)[0]) == block[5:] + air.sent(5_000, 7_000, 1_000, title=1)


@pytest.mark.parametrize(("taken", "pos", "meta_at"), [(999, 999, 1_000), (1_000, 1_000, 1_000), (1_001, 1_000, 2_000)])
def test_around_a_block(stream: Stream, taken: int, pos: int, meta_at: int) -> None:
    """Just before it, at it, behind it."""
    head = Playhead(0, 1_000, b"")
    head.advance(taken, head.gather(stream, 3_000)[1])
    assert (head.pos, head.meta_at, head.total) == (pos, meta_at, taken)


def test_earlier_answers_on_the_connection_count(stream: Stream) -> None:
    """MECHANICS 4: total is all bytes ever, earlier keep-alive responses too."""
    head = Playhead(0, 0, b"HEAD", 100)
    assert head.total == 100
    head.advance(14, head.gather(stream, 1_000)[1])
    assert head.total == 114


def test_skip(stream: Stream) -> None:
    """The bytes to the next block stay as many; nothing was sent."""
    head = Playhead(0, 1_500, b"")
    head.advance(1_000, head.gather(stream, 1_000)[1])
    head.skip(7_000)
    assert (head.pos, head.meta_at, head.total) == (7_000, 7_500, 1_000)
    raw = Playhead(0, 0, b"")
    raw.skip(7_000)
    assert (raw.pos, raw.meta_at, raw.total) == (7_000, NEVER, 0)
