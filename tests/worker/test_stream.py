"""Streams as a worker knows them: head by doorbell only, titles by position, the table of paths."""

from __future__ import annotations

from appliance.ring.counters import StreamCount
from appliance.wire import icy
from appliance.worker.stream import BLOCKS_KEPT, Stream, StreamTable
from tests.fakes import Air, counters, entry


def test_the_head_moves_only_when_learned(air: Air) -> None:
    """Memory order: after the doorbell was read, not before."""
    stream = Stream(entry(), air.reader(), counters())
    air.play(3)
    assert stream.head == 41
    stream.learn()
    assert stream.head == 44


def test_empty_until_audio_came() -> None:
    """A stream nobody feeds yet."""
    air = Air()
    stream = Stream(entry(), air.reader(), counters())
    seen = [stream.empty]
    air.play(1)
    stream.learn()
    assert [*seen, stream.empty] == [True, False]
    air.close()


def test_titles_by_position(air: Air) -> None:
    """The id of the chunk that holds the byte; at the head that of the newest; between chunks: the common one or none."""
    first = air.title("A")
    air.play(2)
    second = air.title("B", "http://b/")
    air.play(2)
    stream = Stream(entry(), air.reader(), counters())
    at = 40 * 8_000
    assert [stream.meta_at(pos) for pos in (at - 1, at, at + 15_999, at + 16_000, at + 32_000)] == [0, first, first, second, second]
    assert (stream.meta_between(1, 41), stream.meta_between(41, 43), stream.meta_between(42, 44)) == (0, first, None)
    assert stream.block(second) == icy.block("B", "http://b/")
    assert stream.block(0) == stream.block(99) == icy.EMPTY_BLOCK


def test_blocks_are_rendered_once_and_bounded(air: Air) -> None:
    """As many as are heard at a time."""
    for number in range(BLOCKS_KEPT + 10):
        air.title(f"T{number}")
        air.play(1, 10)
    stream = Stream(entry(), air.reader(), counters())
    blocks = [stream.block(meta_id) for meta_id in range(1, BLOCKS_KEPT + 11)]
    assert blocks == [icy.block(f"T{number}") for number in range(BLOCKS_KEPT + 10)]
    assert stream.block(BLOCKS_KEPT + 10) is blocks[-1]
    assert len(stream._blocks) == BLOCKS_KEPT


def test_the_table(air: Air) -> None:
    """Key before alias, root, new words, removal."""
    table, fd = StreamTable(counters()), air.writer.reader_fd
    table.add(entry(0, "a", aliases=["/b", "x/y/"]), fd)
    table.add(entry(1, "b", root=True), fd)
    assert [stream.entry.key for stream in table] == ["a", "b"]
    found = {name: stream.entry.key if (stream := table.get(name)) else None for name in ("a", "b", "x/y", "c", "")}
    assert found == {"a": "a", "b": "b", "x/y": "a", "c": None, "": None}
    assert table.root is table.get("b")
    table.update(entry(0, "a", name="New", aliases=["z"]))
    table.update(entry(7, "nobody"))
    changed = table.get("z")
    assert changed is not None
    assert changed.entry.name == "New"
    assert table.get("x/y") is None
    removed = table.remove(1)
    assert removed is not None
    assert removed.entry.key == "b"
    assert table.root is table.get("b") is table.remove(1) is None


def test_what_a_dead_worker_left_in_the_page_is_cleared(air: Air) -> None:
    """Present counts begin at zero, totals go on."""
    page = counters()
    words = page.stream(0)
    words[StreamCount.LISTENERS] = words[StreamCount.REWOUND] = words[StreamCount.STARTED] = 5
    Stream(entry(), air.reader(), page)
    assert list(words[:3]) == [0, 0, 5]
