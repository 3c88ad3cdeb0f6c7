"""The ring's writer: what it publishes, what it keeps, what it gives back, what it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appliance.ring import writer as writer_module
from appliance.ring.columns import Columns, RingRefused
from appliance.ring.layout import GUARD_S, MEDIA_HZ, META_TEXT_BYTES, Flag, Geometry, Word
from appliance.ring.reader import RingReader
from appliance.ring.writer import Chunk, RingWriter
from tests.ring.plain_ring import HALF_S, MP3, TINY, PlainRing, check_chunks, feed, held, make_ring, used_bytes


@pytest.fixture
def tiny() -> Iterator[RingWriter]:
    """A tiny ring: 64 chunks, 16 titles, 8 epochs, 20 KiB."""
    found = make_ring(TINY)
    yield found
    found.close()


def test_a_new_ring_is_empty_and_costs_a_few_pages() -> None:
    """Hours of address space, no memory."""
    writer = RingWriter.create("new", 14400, 0.5, 4 << 20)
    assert (writer.head_seq, writer.head_pos, writer.head_media) == (1, 0, 0)
    assert used_bytes(writer.fd) <= 8 * 4096
    writer.close()


def test_chunks_are_found_as_appended(tiny: RingWriter) -> None:
    """Over many laps: numbers go up by one, columns and bytes are what was given."""
    plain, reader = PlainRing(), RingReader(tiny.reader_fd)
    for number in range(1, 300):
        if number % 7 == 0:
            plain.epochs = tiny.start_epoch(MP3)
        flags = Flag.DISCONTINUITY if number % 5 == 0 else Flag.SOURCE_START if number % 11 == 0 else 0
        chunk = plain.chunk(1 + number * 37 % 1500, *HALF_S, ts_us=number * 500_000, flags=flags)
        assert tiny.append(chunk, 10 * number) == number
        assert reader.words[Word.APPENDED_US] == 10 * number
        check_chunks(plain, reader)


@pytest.mark.parametrize(("size", "samples", "rate"), [(0, 1, 1), (TINY.capacity_bytes // 4 + 1, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_what_cannot_be_a_chunk_is_refused(tiny: RingWriter, size: int, samples: int, rate: int) -> None:
    """And nothing changes."""
    before = bytes(tiny.columns.whole[:4096])
    with pytest.raises(ValueError, match="not a chunk"):
        tiny.append(Chunk(b"x" * size, samples, rate, 0), 1)
    assert bytes(tiny.columns.whole[:4096]) == before


def test_time_never_goes_back(tiny: RingWriter) -> None:
    """A label below the one before is raised to it: look-ups by time stand on a sorted column."""
    for ts_us in (5_000_000, 4_000_000, 5_500_000):
        tiny.append(Chunk(b"x", *HALF_S, ts_us), 1)
    assert [tiny.columns.view["ts_us"][seq] for seq in (1, 2, 3)] == [5_000_000, 5_000_000, 5_500_000]


@pytest.mark.parametrize("layout", [TINY, Geometry(64, 16, 8, 1 << 20), Geometry(1024, 16, 8, 6 * 4096)])
def test_the_limit_is_published_before_anything_below_it_is_touched(layout: Geometry) -> None:
    """When data is stored, the limit of the append *before* is above all that is overwritten; the tail is a guard above the limit."""
    plain = PlainRing()
    seen: list[tuple[int, int]] = []

    class Watched(RingWriter):
        def _store_data(self, pos: int, data: bytes | memoryview) -> None:
            words = self.columns.words
            assert words[Word.HEAD_SEQ] < layout.chunk_slots + 2 or words[Word.LIMIT_SEQ] > self.head_seq + 1 - layout.chunk_slots
            assert words[Word.LIMIT_POS] >= pos + len(data) - layout.capacity_bytes + min(256 * 1024, layout.capacity_bytes // 8)
            if seen:
                assert seen[-1][0] >= pos + len(data) - layout.capacity_bytes
                assert seen[-1][1] > self.head_seq + 1 - layout.chunk_slots
            seen.append((words[Word.LIMIT_POS], words[Word.LIMIT_SEQ]))
            super()._store_data(pos, data)

    first = make_ring(layout)
    writer = Watched.attach(first.fd)
    reader = RingReader(writer.reader_fd)
    for _ in range(400):
        feed(writer, plain, 1, size=layout.capacity_bytes // 32)
        check_chunks(plain, reader)
    tail, limit = reader.tail_seq, reader.words[Word.LIMIT_SEQ]
    guard_bytes = plain.pos_at(tail) - plain.pos_at(limit)
    assert tail - limit >= min(GUARD_S * 2, layout.chunk_slots // 4) - 1 or guard_bytes >= layout.capacity_bytes // 5


def test_window_slack_and_guard_are_held() -> None:
    """`seconds`, then 60 s, then a guard of 10 s; to a chunk."""
    writer, plain = RingWriter.create("t", 30, 0.5, 0), PlainRing()
    reader = RingReader(writer.reader_fd)
    for count in range(1, 500):
        feed(writer, plain, 1)
        head, tail, limit = reader.head_seq, reader.tail_seq, reader.words[Word.LIMIT_SEQ]
        assert 0 <= min(count, 180) - (head - tail) <= 2
        assert 0 <= min(count, 200) - (head - limit) <= 3
        assert min(count, 60) - (head - reader.oldest(head)) in {0, 1}
    writer.close()


def test_max_buffer_is_held_beyond_the_window() -> None:
    """A slow stream's listeners may be `max_buffer` bytes late, however long that is."""
    writer, plain = RingWriter.create("t", 30, 0.5, 200_000), PlainRing()
    reader = RingReader(writer.reader_fd)
    feed(writer, plain, 600)
    edge = plain.pos_at(reader.oldest(reader.head_seq))
    beyond = edge - plain.pos_at(reader.tail_seq)
    assert 200_000 - 1400 <= beyond <= 200_000
    check_chunks(plain, reader)
    writer.close()


def test_audio_faster_than_the_layout_shortens_the_buffer_and_nothing_else() -> None:
    """A ring at its capacity keeps all it says it holds, and a guard; pages that were used again are not punched."""
    writer, plain = RingWriter.create("t", 60, 0.5, 65536, max_bytes_s=8000), PlainRing()
    reader = RingReader(writer.reader_fd)
    for _ in range(120):
        feed(writer, plain, 1, size=40_000)
        check_chunks(plain, reader)
    tail_pos, limit_pos = plain.pos_at(reader.tail_seq), reader.limit_pos
    assert plain.pos - tail_pos > writer.columns.capacity // 3
    assert tail_pos - limit_pos >= writer.columns.capacity // 5
    assert used_bytes(writer.fd) <= writer.columns.capacity + 64 * 4096
    writer.close()


def test_chunks_shorter_than_promised_shorten_the_buffer_to_what_the_table_holds() -> None:
    """With every slot used the tail keeps a guard of chunks, and no more is lost than the table forces."""
    writer, plain = make_ring(Geometry(64, 16, 8, 1 << 20), window_s=3600), PlainRing()
    reader = RingReader(writer.reader_fd)
    for number in range(1, 300):
        writer.append(plain.chunk(10, 5 * 44100, 44100, number * 5_000_000), number)
        assert min(number, 64 - 4 - 16) - 1 <= reader.head_seq - reader.tail_seq
        assert reader.head_seq - reader.words[Word.LIMIT_SEQ] <= 64 - 3
    check_chunks(plain, reader)
    writer.close()


def test_many_codec_changes_shorten_the_buffer() -> None:
    """Every chunk from the tail on has its epoch's row, at each moment."""
    writer, plain = make_ring(TINY), PlainRing()
    reader = RingReader(writer.reader_fd)
    for number in range(1, 60):
        if number % 3:
            plain.epochs = writer.start_epoch(MP3._replace(bitrate_bps=number))
        for _ in range(1 + number % 2):
            feed(writer, plain, 1, size=10)
            for seq in range(reader.tail_seq, reader.head_seq):
                assert reader.epoch(reader.columns.view["epoch"][seq & reader.mask]) is not None
    current = reader.current_epoch()
    assert current == (plain.epochs, 44100, 2, 59, "mp3-44100-128-s", "mp4a.40.34")
    assert reader.epoch(plain.epochs - 8) is None and reader.epoch(0) is None
    writer.close()


def test_memory_follows_what_is_held() -> None:
    """Audio: at most a stride more than from the limit on. Titles: the pages of those that are still carried."""
    writer, plain = RingWriter.create("t", 60, 0.5, 0), PlainRing()
    reader = RingReader(writer.reader_fd)
    assert writer.columns.geometry.meta_slots >= 128
    for number in range(120):
        plain.titles[writer.set_title(b"title %d" % number, b"", 0)] = None  # type: ignore[assignment]
        feed(writer, plain, 30, size=8000)
    kept = plain.pos - reader.limit_pos
    tables = 19 * 4096 + writer.columns.geometry.chunk_slots * 72
    carried = 120 - reader.meta_id(reader.words[Word.LIMIT_SEQ]) + 1
    assert carried < 12
    assert kept <= used_bytes(writer.fd) <= kept + writer_module.PUNCH_BYTES + tables + carried * 4096
    assert [reader.title(meta_id) is not None for meta_id in range(1, 121)] == [meta_id > 120 - carried for meta_id in range(1, 121)]
    writer.close()


def test_the_next_writer_gives_back_what_the_last_one_had_not() -> None:
    """However often the writer is replaced, memory stays as promised."""
    writer, plain = RingWriter.create("t", 10, 0.5, 0), PlainRing()
    for number in range(60):
        plain.titles[writer.set_title(b"title %d" % number, b"", 0)] = None  # type: ignore[assignment]
        feed(writer, plain, 9, size=20_011)
        fd = os.dup(writer.fd)
        writer.close()
        writer = RingWriter.attach(fd)
    words = writer.columns.words
    kept = plain.pos - words[Word.LIMIT_POS]
    tables = 40 * 4096 + 540 * 72
    assert kept <= used_bytes(writer.fd) <= kept + writer_module.PUNCH_BYTES + tables
    check_chunks(plain, RingReader(writer.reader_fd))
    writer.close()


def test_titles_have_bounds_and_a_spacing(tiny: RingWriter) -> None:
    """A row that does not fit its page is refused; the spacing is of media time."""
    with pytest.raises(ValueError, match="longer"):
        tiny.set_title(b"x" * META_TEXT_BYTES, b"y", 0)
    assert tiny.title_due(2 * MEDIA_HZ)
    assert tiny.set_title(b"x" * (META_TEXT_BYTES - 1), b"y", 7) == 1
    plain = PlainRing(titles={1: None})  # type: ignore[dict-item]
    for _ in range(4):
        assert not tiny.title_due(2 * MEDIA_HZ)
        feed(tiny, plain, 1)
    assert tiny.title_due(2 * MEDIA_HZ)
    check_chunks(plain, RingReader(tiny.reader_fd))


def test_away_time_becomes_credit(tiny: RingWriter) -> None:
    """The pace follows the clock while no source is there, and never jumps."""
    reader = RingReader(tiny.reader_fd)
    tiny.present(5)
    assert reader.pace(1, 10) == 0
    tiny.away(1_000_000)
    tiny.away(9_000_000)
    assert reader.pace(1, 900_000) == 0
    assert reader.pace(1, 3_000_000) == 2 * MEDIA_HZ
    tiny.present(3_000_000)
    assert reader.pace(1, 99_000_000) == 2 * MEDIA_HZ


@pytest.mark.parametrize(
    ("word", "value", "reason"),
    [
        (Word.MAGIC, 0, "magic"),
        (Word.VERSION, 2, "layout 2"),
        (Word.CHUNK_SLOTS, 63, "do not fit"),
        (Word.CHUNK_SLOTS, 0, "no sense"),
        (Word.META_SLOTS, 1 << 60, "no sense"),
        (Word.CAPACITY_BYTES, TINY.capacity_bytes + 4096, "do not fit"),
    ],
)
def test_what_is_no_ring_of_ours_is_refused(tiny: RingWriter, word: int, value: int, reason: str) -> None:
    """By writer and reader, with the reason, leaving no descriptor behind."""
    tiny.columns.words[word] = value
    fds = len(os.listdir("/proc/self/fd"))
    for attempt in (RingWriter.attach, RingReader):
        with pytest.raises(RingRefused, match=reason):
            attempt(tiny.fd)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_short_file_and_a_read_only_descriptor_are_refused(tiny: RingWriter) -> None:
    """Neither can be written."""
    fd = os.memfd_create("short")
    for size in (0, 100):
        os.ftruncate(fd, size)
        with pytest.raises(RingRefused):
            RingWriter.attach(fd)
    os.close(fd)
    with pytest.raises(RingRefused, match="cannot lock"):
        RingWriter.attach(tiny.reader_fd)
    with pytest.raises(RingRefused, match="cannot map"):
        Columns(tiny.reader_fd, writable=True)


def test_a_new_writer_goes_on(tiny: RingWriter) -> None:
    """Same numbers and positions, over many replacements."""
    plain, writer = PlainRing(), tiny
    for _ in range(30):
        feed(writer, plain, 7, flags=Flag.DISCONTINUITY)
        writer = RingWriter.attach(tiny.fd)
        assert (writer.head_seq, writer.head_pos, writer.head_media) == (plain.head, plain.pos, plain.media)
        reader = RingReader(writer.reader_fd)
        check_chunks(plain, reader)
        assert held(reader, plain.pos, plain.pos) == b""
