"""Dump and restore of one ring: everything comes back; what must end early is a whole dump of the newest part; nothing is half loaded."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from appliance.ring import dump as dump_module
from appliance.ring import dump_format as fmt
from appliance.ring.dump import DumpFailed, write_dump
from appliance.ring.dump_format import DumpRefused, Ends
from appliance.ring.layout import MEDIA_HZ, Flag, Geometry, Word
from appliance.ring.reader import RingReader
from appliance.ring.restore import DumpFile, Restoration, load_dump
from appliance.ring.writer import Chunk, RingWriter
from tests.ring.plain_ring import HALF_S, MP3, PlainRing, audio, feed, held, make_ring, used_bytes

ROOMY = Geometry(chunk_slots=4096, meta_slots=64, epoch_slots=16, capacity_bytes=16 << 20)
WINDOW_S = 600


class Studio:
    """Rings that are made, fed, dumped and loaded, and closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "dumps" / "a.rewind"
        self.writers: list[RingWriter] = []

    def ring(self, layout: Geometry = ROOMY, window_s: int = WINDOW_S) -> RingWriter:
        self.writers.append(make_ring(layout, window_s=window_s))
        return self.writers[-1]

    def fed(self, count: int = 60, size: int = 9000) -> tuple[RingWriter, PlainRing]:
        """A ring with chunks, titles, epochs and breaks."""
        writer, plain = self.ring(), PlainRing()
        for number in range(count):
            if number % 50 == 0:
                plain.epochs = writer.start_epoch(MP3._replace(bitrate_bps=128_000 + number))
            if number % 15 == 3:
                text = f"Title {number} ".encode() * 60
                plain.titles[writer.set_title(text, b"http://u/" + b"x" * 300, number)] = mock.sentinel.title
            feed(writer, plain, 1, size, Flag.DISCONTINUITY if number % 25 == 24 else 0)
        return writer, plain

    def dump(self, writer: RingWriter, **how: object) -> dump_module.Written | None:
        reader = RingReader(writer.reader_fd)
        return write_dump(reader, self.path, "a", "mp3", 5, **how)  # type: ignore[arg-type]

    def load(self, writer: RingWriter) -> RingReader:
        load_dump(writer, self.path, "a", "mp3", 77)
        return RingReader(writer.reader_fd)


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    found = Studio(tmp_path)
    yield found
    for writer in found.writers:
        writer.close()


def same(old: RingReader, new: RingReader, first: int) -> None:
    """Chunks from `first` on, their bytes, titles and epochs, and the head's numbers."""
    head = old.head_seq
    assert (new.tail_seq, new.words[Word.LIMIT_SEQ], new.head_seq) == (first, first, head)
    assert new.limit_pos == old.pos[first & old.mask]
    for name, column in old.columns.view.items():
        if not name.startswith("meta_") or name == "meta_id":
            after = head + (name in ("pos", "media_pos"))
            assert [new.columns.view[name][seq & new.mask] for seq in range(first, after)] == [
                column[seq & old.mask] for seq in range(first, after)
            ], name
    assert held(new, new.limit_pos, new.pos[head & new.mask]) == held(old, new.limit_pos, new.pos[head & new.mask])
    for seq in range(first, head):
        meta_id, epoch = old.meta_id(seq), old.columns.view["epoch"][seq & old.mask]
        assert new.title(meta_id) == old.title(meta_id)
        assert new.epoch(epoch) == old.epoch(epoch)
    counters = (Word.DISCONTINUITIES, Word.DISCONTINUITIES_REMOVED, Word.MEDIA_SEQUENCE, Word.AWAY_CREDIT)
    for word in (Word.META_HEAD, Word.EPOCH_HEAD, *counters):
        assert new.words[word] == old.words[word]


def test_everything_comes_back_and_the_ring_goes_on(studio: Studio) -> None:
    """Chunks, bytes, long titles, epochs, breaks, counters; then live audio has the numbers that follow."""
    writer, plain = studio.fed()
    writer.columns.words[Word.MEDIA_SEQUENCE] = 1234
    writer.columns.words[Word.DISCONTINUITIES_REMOVED] = 5
    writer.columns.words[Word.AWAY_CREDIT] = 99
    written = studio.dump(writer)
    assert written is not None and (written.first_seq, written.head_seq, written.ends) == (1, 61, Ends.COMPLETE)
    assert written.file_bytes == studio.path.stat().st_size
    assert sorted(os.listdir(studio.path.parent)) == ["a.rewind"]
    other = studio.ring()
    new = studio.load(other)
    same(RingReader(writer.reader_fd), new, 1)
    assert new.words[Word.AWAY_SINCE_US] == 77
    feed(other, plain, 30, 9000)
    assert (other.head_seq, other.head_pos, other.head_media) == (plain.head, plain.pos, plain.media)
    assert held(new, 0, plain.pos) == audio(0, plain.pos)
    assert new.meta_id(75) == new.meta_id(60) == 4
    assert other.set_title(b"next", b"", 1) == 5
    assert other.start_epoch(MP3) == 3


def test_a_chunk_may_be_longer_than_a_block_or_64_kib(studio: Studio) -> None:
    writer, plain = studio.ring(), PlainRing()
    for size in (70_000, 1, 300_000, 600_000, 5):
        feed(writer, plain, 1, size)
    studio.dump(writer)
    same(RingReader(writer.reader_fd), studio.load(studio.ring()), 1)


def test_the_window_is_dumped_not_what_lies_behind(studio: Studio) -> None:
    """What no look-up answers (slack for late listeners) is of no use after a restart."""
    writer, plain = studio.ring(window_s=10), PlainRing()
    feed(writer, plain, 100)
    written = studio.dump(writer)
    assert written is not None and written.first_seq == 81
    new = studio.load(studio.ring(window_s=10))
    same(RingReader(writer.reader_fd), new, 81)


def test_a_smaller_ring_takes_the_newest_part(studio: Studio) -> None:
    """By its window (to a block's start), by its bytes, by its slots; and then goes on over many laps."""
    writer, _ = studio.fed(200)
    studio.dump(writer)
    old = RingReader(writer.reader_fd)
    for layout, window_s in ((ROOMY, 10), (ROOMY._replace(capacity_bytes=1 << 20), WINDOW_S), (ROOMY._replace(chunk_slots=128), WINDOW_S)):
        ring = studio.ring(layout, window_s)
        new = studio.load(ring)
        assert 100 < new.tail_seq <= 181
        same(old, new, new.tail_seq)
        assert new.oldest(201) == max(new.tail_seq, 201 - 2 * window_s)
        for _ in range(300):
            ring.append(Chunk(b"x" * 9000, *HALF_S, 1 << 50), 1)
        assert held(new, ring.head_pos - 90_000, ring.head_pos) == b"x" * 90_000
    assert DumpFile(studio.path, "a", "mp3").trailer.first_seq == 1


def test_live_audio_is_not_held_up_and_not_touched_by_the_loading(studio: Studio) -> None:
    """The ring begins at the dump's end at once; audio is appended between blocks; the past shows only when all of it is right."""
    writer, plain = studio.fed(200)
    studio.dump(writer)
    ring = studio.ring()
    with DumpFile(studio.path, "a", "mp3") as dump:
        restoration = Restoration(ring, dump.position, 1)
        reader = RingReader(ring.reader_fd)
        assert (ring.head_seq, reader.tail_seq, reader.oldest(201)) == (201, 201, 201)
        for block in dump.blocks():
            feed(ring, plain, 1)
            restoration.store(block)
            assert reader.tail_seq == 201
    found = restoration.publish()
    assert (found.first_seq, found.end_seq, found.seconds) == (1, 201, 100.0)
    assert reader.tail_seq == 1 and plain.head > 205
    assert held(reader, 0, plain.pos) == audio(0, plain.pos)
    assert [reader.columns.view["seq"][seq & reader.mask] for seq in range(1, plain.head)] == list(range(1, plain.head))


def test_what_live_audio_has_overtaken_is_not_shown(studio: Studio) -> None:
    """A disk so slow that the ring went on by much more than it has room for: the oldest goes, or all; live audio stays exact."""
    writer, plain = studio.fed(100, 2000)
    studio.dump(writer)
    for more in (80, 300):
        ring, copy = studio.ring(ROOMY._replace(chunk_slots=256)), PlainRing()
        copy.__dict__.update({name: list(value) if isinstance(value, list) else value for name, value in vars(plain).items()})
        with DumpFile(studio.path, "a", "mp3") as dump:
            restoration = Restoration(ring, dump.position, 1)
            blocks = list(dump.blocks())
            for block in blocks:
                restoration.store(block)
            feed(ring, copy, more)
            found = restoration.publish()
        reader = RingReader(ring.reader_fd)
        assert found.first_seq == reader.tail_seq if more == 80 else found.first_seq == found.end_seq
        start = reader.pos[reader.tail_seq & reader.mask]
        assert held(reader, start, copy.pos) == audio(start, copy.pos - start)


def test_memory_of_what_is_dropped_is_given_back(studio: Studio) -> None:
    writer, _ = studio.fed(600)
    studio.dump(writer)
    data = bytearray(studio.path.read_bytes())
    data[-200] ^= 1
    studio.path.write_bytes(data)
    ring = studio.ring()
    with pytest.raises(DumpRefused, match="checksum"):
        studio.load(ring)
    assert used_bytes(ring.fd) < 1 << 20
    reader = RingReader(ring.reader_fd)
    assert reader.tail_seq == reader.head_seq == 601 == reader.oldest(601)
    for _ in range(10):
        ring.append(Chunk(b"x" * 9000, *HALF_S, 1 << 50), 1)
    assert used_bytes(ring.fd) < 1 << 20
    assert held(reader, ring.head_pos - 90_000, ring.head_pos) == b"x" * 90_000


def test_memory_follows_the_limit_after_a_load(studio: Studio) -> None:
    """The restored past is given back as it leaves the window."""
    writer, _ = studio.fed(600)
    studio.dump(writer)
    ring = studio.ring(window_s=300)
    studio.load(ring)
    most = used_bytes(ring.fd)
    assert most > 5 << 20
    for _ in range(800):
        ring.append(Chunk(b"x" * 100, *HALF_S, 1 << 50), 1)
    assert used_bytes(ring.fd) < most - (4 << 20)
    reader = RingReader(ring.reader_fd)
    assert reader.title(1) is None


def test_when_the_time_is_up_the_newest_part_is_a_whole_dump(studio: Studio) -> None:
    """It is loaded as any other; its end says why."""
    writer, _ = studio.fed(200)
    answers = iter([True, True, False])
    written = studio.dump(writer, go_on=lambda: next(answers))
    assert written is not None and written.ends == Ends.TIME and 100 < written.first_seq < 120
    same(RingReader(writer.reader_fd), studio.load(studio.ring()), written.first_seq)


def test_a_ring_that_laps_the_dump_ends_it_at_what_is_true(studio: Studio) -> None:
    """Appended to so fast, while it is dumped, that the tail overtakes: no wrong byte is written, and what is there is loaded."""
    layout = ROOMY._replace(capacity_bytes=3 << 20)
    writer, plain = studio.ring(layout), PlainRing()
    feed(writer, plain, 250, 9000)

    def lap() -> bool:
        feed(writer, plain, 60, 9000)
        return True

    written = studio.dump(writer, go_on=lap)
    assert written is not None and written.ends == Ends.OVERTAKEN and 120 < written.first_seq < 251 == written.head_seq
    new = studio.load(studio.ring(layout))
    start = new.limit_pos
    assert held(new, start, new.pos[251 & new.mask]) == audio(start, new.pos[251 & new.mask] - start)


def test_an_empty_ring_is_not_dumped(studio: Studio) -> None:
    """And what is there stays."""
    writer, _ = studio.fed(3)
    studio.dump(writer)
    before = studio.path.read_bytes()
    assert studio.dump(studio.ring()) is None
    assert studio.path.read_bytes() == before


def test_a_full_disk_leaves_the_old_dump(studio: Studio) -> None:
    """By the kernel's own refusal (a file size limit), and by ENOSPC at each write and sync in turn."""
    writer, _ = studio.fed(60)
    studio.dump(writer)
    before = studio.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(DumpFailed, match="File too large") as error:
            studio.dump(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.cause == "File too large"
    for call in ("write", "fsync"):
        for number in range(1, 5 if call == "write" else 2):
            real, left = getattr(os, call), [number]

            def full(fd: int, *rest: bytes, real=real, left=left) -> object:  # type: ignore[no-untyped-def]
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(fd, *rest)

            with mock.patch.object(os, call, full), pytest.raises(DumpFailed, match=r"No space left on device: .*a\.rewind"):
                studio.dump(writer)
    assert studio.path.read_bytes() == before
    assert os.listdir(studio.path.parent) == ["a.rewind"]


def test_the_folder_that_cannot_be(studio: Studio) -> None:
    writer, _ = studio.fed(3)
    studio.path.parent.write_text("a file")
    with pytest.raises(DumpFailed, match=r"File exists|Not a directory"):
        studio.dump(writer)


def test_only_one_process_writes_a_dump_and_leftovers_are_written_over(studio: Studio) -> None:
    writer, _ = studio.fed(3)
    studio.path.parent.mkdir()
    partial = studio.path.with_name("a.rewind.partial")
    partial.write_bytes(b"left by a killed process" * 10_000)
    with partial.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DumpFailed, match="another process writes this dump"):
            studio.dump(writer)
        assert partial.stat().st_size == 240_000
    assert studio.dump(writer) is not None
    same(RingReader(writer.reader_fd), studio.load(studio.ring()), 1)


def test_what_is_no_dump_of_this_stream_is_refused(studio: Studio) -> None:
    """Foreign, of another stream, of another format, not a file; the ring is untouched, bit for bit."""
    writer, _ = studio.fed(3)
    studio.dump(writer)
    ring = studio.ring()
    before = bytes(ring.columns.whole[:4096])
    for key, kind, words in (("b", "mp3", "of stream a"), ("a", "aac", "it is mp3, and the stream is aac now")):
        with pytest.raises(DumpRefused, match=words):
            load_dump(ring, studio.path, key, kind, 1)
    link = studio.path.with_name("link")
    link.symlink_to(studio.path)
    fifo = studio.path.with_name("fifo")
    os.mkfifo(fifo)
    text = studio.path.with_name("text")
    text.write_text("no dump " * 1000)
    for path, words in ((link, "cannot open"), (fifo, "no file"), (text, "wrong magic"), (studio.path.parent, "no file")):
        with pytest.raises(DumpRefused, match=words):
            load_dump(ring, path, "a", "mp3", 1)
    with pytest.raises(FileNotFoundError):
        load_dump(ring, studio.path.with_name("none"), "a", "mp3", 1)
    assert bytes(ring.columns.whole[:4096]) == before and ring.columns.whole[4096 : 4096 * 20].tobytes() == bytes(4096 * 19)


def test_parts_of_two_dumps_are_no_dump(studio: Studio) -> None:
    """Each part has a right checksum; together they are refused: blocks lost, doubled, or behind another header."""
    writer, plain = studio.fed(200)
    studio.dump(writer)
    one = studio.path.read_bytes()
    feed(writer, plain, 1)
    studio.dump(writer)
    two = studio.path.read_bytes()
    begins = [at for at in range(len(one)) if one.startswith(b"BLCK", at)][:3]
    trailer = fmt.unpack_trailer(one[-fmt.TRAILER.size :])
    for bad in (
        one[: begins[1]] + one[begins[2] :],
        one[: begins[1]] + one[begins[0] :],
        one[: begins[0]] + two[two.index(b"BLCK") :],
    ):
        studio.path.write_bytes(bad)
        with pytest.raises(DumpRefused):
            studio.load(studio.ring())
        again = trailer._replace(file_bytes=len(bad), header_crc=fmt.unpack_header(bad).crc)
        studio.path.write_bytes(bad[: -fmt.TRAILER.size] + fmt.pack_trailer(again))
        with pytest.raises(DumpRefused, match=r"do not follow|missing"):
            studio.load(studio.ring())


def test_only_a_new_ring_is_restored(studio: Studio) -> None:
    """One that was taken over, or has audio, is never touched."""
    writer, _ = studio.fed(3)
    studio.dump(writer)
    with pytest.raises(ValueError, match="empty ring"):
        load_dump(writer, studio.path, "a", "mp3", 1)
    assert writer.head_seq == 4


def test_a_successor_attaches_to_a_restored_ring(studio: Studio) -> None:
    """The next writer of a loaded ring (a handoff) finds limit, breaks and positions right, with and without live audio between."""
    writer, plain = studio.fed(60)
    studio.dump(writer)
    ring = studio.ring()
    new = studio.load(ring)
    second = RingWriter.attach(os.dup(ring.fd))
    studio.writers.append(second)
    feed(second, plain, 5)
    assert new.words[Word.DISCONTINUITIES] == plain.breaks
    assert held(new, 0, plain.pos) == audio(0, plain.pos)
    assert new.seq_at_media(MEDIA_HZ * 3, second.head_seq) == 7
