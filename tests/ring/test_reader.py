"""The ring's reader: look-ups by media, time and byte; titles; what a late or lapped reader sees."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appliance.ring.layout import MEDIA_HZ, Flag, Geometry
from appliance.ring.reader import RingReader, Title
from appliance.ring.writer import RingWriter
from tests.ring.plain_ring import HALF_S, MP3, TINY, PlainRing, audio, feed, held, make_ring

SECOND = MEDIA_HZ
HOUR_US = 3_600_000_000


@pytest.fixture
def writer() -> Iterator[RingWriter]:
    """A ring of 20 s."""
    found = RingWriter.create("test", 20, 0.5, 0)
    yield found
    found.close()


@pytest.fixture
def reader(writer: RingWriter) -> RingReader:
    """Its reader."""
    return RingReader(writer.reader_fd)


def test_an_empty_ring_answers_its_head(reader: RingReader) -> None:
    """Nothing is held: every look-up gives the head; there is no title and no epoch."""
    assert reader.head_seq == reader.tail_seq == reader.oldest(1) == 1
    assert reader.seq_at_media(0, 1) == reader.seq_at_time(0, 1) == reader.seq_at_pos(0, 1) == 1
    assert reader.title(0) is None and reader.title(1) is None and reader.current_epoch() is None
    assert (reader.limit_pos, reader.pace(1, 10**9)) == (0, 0)


def test_look_ups_by_media_are_clamped_to_the_window(writer: RingWriter, reader: RingReader) -> None:
    """Inside: the chunk that holds the position, to the tick. Before: the oldest of the window, though more is held. After: the head."""
    feed(writer, PlainRing(), 300)
    head, half = reader.head_seq, SECOND // 2
    assert head == 301
    for seq in (262, 280, 300):
        assert reader.seq_at_media((seq - 1) * half, head) == seq
        assert reader.seq_at_media(seq * half - 1, head) == seq
    assert reader.oldest(head) == 261 and reader.tail_seq < 261
    for early in (-5, 0, 100 * SECOND, 260 * half):
        assert reader.seq_at_media(early, head) == 261
    assert reader.seq_at_media(300 * half, head) == reader.seq_at_media(10**15, head) == head


def test_look_ups_by_time_with_a_gap(writer: RingWriter, reader: RingReader) -> None:
    """Inside a gap: the next chunk. Before all: the oldest. After all: the head. Whatever number comes in."""
    plain = PlainRing()
    for seq in range(1, 21):
        gap = HOUR_US if seq > 10 else 0
        writer.append(plain.chunk(10, *HALF_S, ts_us=seq * 500_000 + gap, flags=Flag.DISCONTINUITY if seq == 11 else 0), seq)
    head = reader.head_seq
    assert reader.seq_at_time(5 * 500_000, head) == reader.seq_at_time(5 * 500_000 + 499_999, head) == 5
    assert reader.seq_at_time(11 * 500_000, head) == reader.seq_at_time(HOUR_US, head) == 11
    assert reader.seq_at_time(HOUR_US + 11 * 500_000, head) == 11
    assert reader.seq_at_time(-1, head) == reader.seq_at_time(0, head) == 1
    end = HOUR_US + 21 * 500_000
    assert [reader.seq_at_time(ts_us, head) for ts_us in (end - 1, end, 2**63, 2**64, 10**30)] == [20, head, head, head, head]


def test_look_ups_by_time_when_the_clock_is_slewed(writer: RingWriter, reader: RingReader) -> None:
    """Labels may overlap or leave 100 us between chunks: each moment still has one chunk, and they go up."""
    plain, ts_us = PlainRing(), 0
    for seq in range(1, 31):
        writer.append(plain.chunk(10, *HALF_S, ts_us=ts_us), seq)
        ts_us += 500_000 + (100 if seq % 2 else -100)
    found = [reader.seq_at_time(at, 31) for at in range(0, ts_us, 499)]
    assert found == sorted(found) and set(found) == set(range(1, 31))


def test_look_ups_by_byte_work_for_who_is_inside_the_guard() -> None:
    """A reader that checked the tail and was overtaken by it finds its chunk and title until the limit comes; below, the limit's chunk."""
    writer, plain = make_ring(TINY), PlainRing()
    reader = RingReader(writer.reader_fd)
    for number in range(1, 150):
        plain.titles[writer.set_title(b"%d" % number, b"", 0)] = Title(number, str(number), "", 0)
        feed(writer, plain, 1, size=100)
    head, tail = reader.head_seq, reader.tail_seq
    limit = reader.seq_at_pos(0, head)
    assert plain.pos_at(limit) == reader.limit_pos and limit < tail - 10
    for seq in range(limit, head):
        assert [reader.seq_at_pos(plain.pos_at(seq) + more, head) for more in (0, 99)] == [seq, seq]
    assert reader.seq_at_pos(plain.pos, head) == reader.seq_at_pos(plain.pos + 1, head) == head
    assert reader.seq_at_pos(-1, head) == limit
    writer.close()


def test_an_older_head_is_a_complete_view(writer: RingWriter, reader: RingReader) -> None:
    """A reader that has not heard its doorbell yet answers from what it knows, as if there were no more."""
    plain = PlainRing()
    feed(writer, plain, 100)
    for head in (2, 30, 99):
        live = plain.media_at(head)
        assert reader.seq_at_media(live - 1, head) == head - 1
        assert reader.seq_at_media(live, head) == head
        assert reader.seq_at_time(10**15, head) == head
        assert reader.seq_at_pos(plain.pos_at(head) - 1, head) == head - 1
        assert reader.oldest(head) == max(1, head - 40)


@pytest.mark.parametrize(("known", "more"), [(100, 200), (100, 257), (109, 65), (110, 65), (110, 66), (110, 67), (100, 1000), (1, 5000)])
def test_a_head_that_was_lapped_gives_no_nonsense(known: int, more: int) -> None:
    """A worker that was stopped while the ring lapped it, and looks up before it reads its doorbell: never a chunk below the tail."""
    writer, plain = make_ring(Geometry(64, 16, 8, 1 << 20), window_s=20), PlainRing()
    reader = RingReader(writer.reader_fd)
    feed(writer, plain, known, size=10)
    head = reader.head_seq
    feed(writer, plain, more, size=10)
    tail = reader.tail_seq
    assert tail > head and reader.oldest(head) == tail
    for media in (0, 50 * SECOND, plain.media, 10**12):
        assert reader.seq_at_media(media, head) in {head, tail}
    for ts_us in (0, 50_000_000, more * 500_000, 10**15):
        assert reader.seq_at_time(ts_us, head) in {head, tail}
    assert reader.seq_at_pos(0, head) == reader.seq_at_pos(plain.pos, head) == head
    writer.close()


def test_titles_come_back_with_any_text(writer: RingWriter, reader: RingReader) -> None:
    """UTF-8 title and URL, empty ones, a full page; bytes that are no UTF-8 do not raise."""
    rows = [("Ärzte - Junge", "http://x/?q=ü"), ("", ""), ("no url", ""), ("", "only url"), ("x" * 4000, "y" * 96), ("日本" * 600, "")]
    for meta_id, (title, url) in enumerate(rows, 1):
        assert writer.set_title(title.encode(), url.encode(), 1000 + meta_id) == meta_id
        assert reader.title(meta_id) == Title(meta_id, title, url, 1000 + meta_id)
    broken = reader.title(writer.set_title(b"caf\xe9", b"\xff", 1))
    assert broken is not None and broken.title == "caf\ufffd"
    assert reader.title(1) == Title(1, *rows[0], 1001)


def test_titles_belong_to_chunks(writer: RingWriter, reader: RingReader) -> None:
    """A chunk carries the title that was set before it; an overwritten row is None, not another title."""
    plain = PlainRing()
    feed(writer, plain, 2)
    writer.set_title(b"one", b"", 5)
    plain.titles[1] = Title(1, "one", "", 5)
    feed(writer, plain, 2)
    assert [reader.meta_id(seq) for seq in range(1, 5)] == [0, 0, 1, 1]
    slots = writer.columns.geometry.meta_slots
    for number in range(slots):
        writer.set_title(b"later %d" % number, b"", 6)
    assert reader.title(1) is None
    newest = reader.title(slots + 1)
    assert newest is not None and newest.title == f"later {slots - 1}"


def test_epochs(writer: RingWriter, reader: RingReader) -> None:
    """Each chunk's epoch tells what it is, long names cut to their field."""
    plain = PlainRing()
    writer.start_epoch(MP3)
    feed(writer, plain, 1)
    writer.start_epoch(MP3._replace(rate=48000, stream_key="k" * 60, profile="p" * 40))
    feed(writer, plain, 1)
    epochs = [reader.epoch(reader.columns.view["epoch"][seq]) for seq in (1, 2)]
    assert epochs[0] == (1, 44100, 2, 128_000, "mp3-44100-128-s", "mp4a.40.34")
    assert epochs[1] == reader.current_epoch() == (2, 48000, 2, 128_000, "k" * 56, "p" * 32)


def test_spans_around_the_wrap(writer: RingWriter) -> None:
    """One view, or two around the end of the data area; together the true bytes; no copy, read-only."""
    writer.close()
    writer, plain = make_ring(TINY), PlainRing()
    reader = RingReader(writer.reader_fd)
    split = 0
    for _ in range(200):
        feed(writer, plain, 1, size=1111)
        start = plain.pos - min(plain.pos, 2500)
        views = reader.columns.spans(start, plain.pos)
        split += len(views) == 2
        assert all(view.readonly for view in views)
        assert held(reader, start, plain.pos) == audio(start, plain.pos - start)
    assert split > 10


def test_a_reader_cannot_write(reader: RingReader, writer: RingWriter) -> None:
    """Not through its views, nor through its descriptor."""
    for view in (reader.words, reader.pos, reader.media, reader.columns.data, reader.columns.whole):
        with pytest.raises(TypeError):
            view[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        reader.columns.array["seq"][0] = 1
    with pytest.raises(OSError):
        os.pwrite(writer.reader_fd, b"x", 0)


def test_nobody_can_resize_the_ring(writer: RingWriter) -> None:
    """Sealed: a shrunk file would be SIGBUS for every reader."""
    size = os.fstat(writer.fd).st_size
    for fd in (writer.fd, writer.reader_fd):
        for other in (0, size - 4096, size + 4096):
            with pytest.raises(OSError):
                os.ftruncate(fd, other)


def test_closing(writer: RingWriter) -> None:
    """The descriptor may go before the mapping does; while a span is held the mapping stays; then it goes."""
    fd = os.dup(writer.reader_fd)
    reader = RingReader(fd)
    os.close(fd)
    feed(writer, PlainRing(), 1)
    span = reader.columns.spans(0, 10)[0]
    with pytest.raises(BufferError):
        reader.close()
    assert bytes(span) == audio(0, 10)
    span.release()
    other = RingReader(writer.reader_fd)
    other.close()
