"""A ring that laps many times agrees with a plain list of chunks: every chunk, byte, title, span and look-up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.ring import writer as writer_module
from appliance.ring.layout import GUARD_S, MEDIA_HZ, SLACK_S, Flag, Geometry, Word
from appliance.ring.reader import RingReader, Title
from appliance.ring.writer import RingWriter
from tests.ring.plain_ring import MP3, PlainRing, audio, check_chunks, held, make_ring, used_bytes

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]
STRICT = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

layouts = st.builds(
    Geometry,
    chunk_slots=st.sampled_from([32, 64, 256]),
    meta_slots=st.sampled_from([4, 16]),
    epoch_slots=st.sampled_from([4, 16]),
    capacity_bytes=st.sampled_from([3 * 4096, 8 * 4096, 64 * 4096]),
)


@dataclass(frozen=True)
class Step:
    """One thing that happens to a ring."""

    size: int
    samples: int
    rate: int
    gap_us: int
    flags: int
    title: str | None
    epoch: bool
    new_writer: bool


steps = st.builds(
    Step,
    size=st.integers(1, 3072),
    samples=st.sampled_from([384, 1152 * 19, 44100, 44100 * 5, 44100 * 20]),
    rate=st.sampled_from(RATES),
    gap_us=st.sampled_from([0, 0, 0, -100, 100, 7_000_000]),
    flags=st.sampled_from([0, 0, 0, Flag.DISCONTINUITY, Flag.SOURCE_START, Flag.DISCONTINUITY | Flag.SOURCE_START]),
    title=st.one_of(st.none(), st.none(), st.text(max_size=20)),
    epoch=st.sampled_from([False, False, False, False, True]),
    new_writer=st.sampled_from([False] * 9 + [True]),
)


class Pair:
    """A ring and its plain model, fed alike."""

    def __init__(self, layout: Geometry, window_s: int, slack_bytes: int) -> None:
        self.layout, self.window_s, self.slack_bytes = layout, window_s, slack_bytes
        self.writer = make_ring(layout, window_s=window_s, slack_bytes=slack_bytes)
        self.reader = RingReader(self.writer.reader_fd)
        self.plain = PlainRing()
        self.next_us = 1_000_000

    @staticmethod
    def _let_go(writer: RingWriter) -> None:
        """All of a former writer but the ring's fd, which its successor has."""
        writer.columns.close()
        os.close(writer.reader_fd)

    def close(self) -> None:
        """Let everything go."""
        self.reader.close()
        self.writer.close()

    def do(self, step: Step) -> None:
        """Perform a step on both."""
        plain = self.plain
        if step.new_writer:
            self._let_go(self.writer)
            self.writer = RingWriter.attach(self.writer.fd)
        if step.epoch:
            plain.epochs = self.writer.start_epoch(MP3._replace(bitrate_bps=plain.epochs + 1))
        if step.title is not None:
            meta_id = self.writer.set_title(step.title.encode(), b"u" * len(step.title), self.next_us)
            plain.titles[meta_id] = Title(meta_id, step.title, "u" * len(step.title), self.next_us)
        last_us = plain.entries[-1].ts_us if plain.entries else 0
        ts_us = max(last_us, self.next_us + step.gap_us)
        self.writer.append(plain.chunk(step.size, step.samples, step.rate, ts_us, step.flags), plain.head)
        self.next_us = plain.entries[-1].ends_us

    def check_bounds(self) -> None:
        """Window, slack and guard are held unless slots or bytes force less; then the guard is a part of them."""
        plain, words = self.plain, self.reader.words
        tail, limit = words[Word.TAIL_SEQ], words[Word.LIMIT_SEQ]
        if limit > 1:
            guard_media = plain.media_at(tail) - plain.media_at(limit - 1)
            guard_bytes = plain.pos_at(tail) - plain.pos_at(limit - 1)
            guard_seqs = tail - limit + 1
            slots, capacity = self.layout.chunk_slots, self.layout.capacity_bytes
            assert (
                guard_media >= GUARD_S * MEDIA_HZ
                or guard_bytes >= capacity // 4
                or guard_seqs >= min(20, slots // 4)
                or tail == plain.head - 1
            )
        if tail > 1:
            edge = plain.oldest(plain.head, limit, self.window_s * MEDIA_HZ)
            longest = max(entry.samples * MEDIA_HZ // entry.rate for entry in plain.entries)
            enough = plain.media_at(tail) <= plain.media_at(edge) - SLACK_S * MEDIA_HZ + 2 * longest
            assert enough or self.forced(tail)

    def forced(self, tail: int) -> bool:
        """Whether holding one chunk more would break a bound of bytes, slots or epochs."""
        plain, layout = self.plain, self.layout
        more = plain.pos - plain.pos_at(tail - 1)
        reserve = layout.capacity_bytes // 8 + layout.capacity_bytes // 4
        return (
            more > layout.capacity_bytes - reserve
            or plain.head - tail + 1 > layout.chunk_slots - 4 - layout.chunk_slots // 4
            or plain.epochs - plain.entries[tail - 2].epoch > layout.epoch_slots - 3
        )

    def check_titles(self) -> None:
        """Every held chunk's title is its own, unless newer titles took its row; forgotten ones are None."""
        newest, slots = len(self.plain.titles), self.layout.meta_slots
        limit = self.reader.words[Word.LIMIT_SEQ]
        oldest = self.plain.entries[limit - 1].meta_id
        for meta_id, title in self.plain.titles.items():
            expected = title if meta_id > newest - slots and meta_id >= oldest else None
            assert self.reader.title(meta_id) == expected

    def check_epochs(self) -> None:
        """From the tail on, each chunk's epoch is known."""
        for entry in self.plain.entries[self.reader.tail_seq - 1 :]:
            row = self.reader.epoch(entry.epoch)
            assert (row is None) == (entry.epoch == 0)
            assert row is None or row.bitrate_bps == entry.epoch

    def check_look_ups(self, head: int, part: float) -> None:
        """Look-ups with a head that the reader learned some time ago, `part` of the way through what is held and at its edges."""
        plain, reader = self.plain, self.reader
        oldest = plain.oldest(head, reader.tail_seq, reader.window) if head > reader.tail_seq else reader.tail_seq
        assert reader.oldest(head) == oldest
        limit = reader.words[Word.LIMIT_SEQ]
        first, last = plain.media_at(limit), plain.media
        for media in {0, first, last, last - 1, first + int(part * (last - first)), plain.media_at((head + limit) // 2)}:
            assert reader.seq_at_media(media, head) == plain.seq_at_media(media, head, oldest)
        begin, end = plain.entries[limit - 1].ts_us, plain.entries[-1].ends_us
        middle = plain.entries[(head + limit) // 2 - 1] if (head + limit) // 2 < plain.head else plain.entries[-1]
        for ts_us in {0, begin, end, end - 1, begin + int(part * (end - begin)), middle.ts_us, middle.ends_us, middle.ends_us - 1}:
            assert reader.seq_at_time(ts_us, head) == plain.seq_at_time(ts_us, head, oldest)
        low = plain.pos_at(limit)
        for pos in {0, low, plain.pos, plain.pos - 1, low + int(part * (plain.pos - low))}:
            assert reader.seq_at_pos(pos, head) == (plain.seq_at_pos(pos, head, limit) if limit < head else head)

    def check_span(self, part: float) -> None:
        """Any span from the tail on is the source's bytes."""
        low = self.plain.pos_at(self.reader.tail_seq)
        start = low + int(part * (self.plain.pos - low))
        assert held(self.reader, start, self.plain.pos) == audio(start, self.plain.pos - start)


@settings(STRICT, max_examples=60)
@given(
    layouts,
    st.sampled_from([1, 5, 60, 3600]),
    st.sampled_from([0, 5000]),
    st.lists(steps, min_size=5, max_size=25),
    st.floats(0, 1),
    st.integers(0, 30),
)
def test_the_ring_agrees_with_a_list(
    layout: Geometry, window_s: int, slack_bytes: int, some: list[Step], part: float, behind: int
) -> None:
    """After each append of a long life: bounds, chunks, bytes, titles, epochs, look-ups, memory."""
    with mock.patch.object(writer_module, "PUNCH_BYTES", 4096):
        pair = Pair(layout, window_s, slack_bytes)
        for number in range(max(len(some), min(300, 3 * layout.chunk_slots))):
            pair.do(some[number % len(some)])
            check_chunks(pair.plain, pair.reader)
            pair.check_bounds()
            if number % 5 == 0:
                pair.check_titles()
                pair.check_epochs()
                pair.check_look_ups(pair.plain.head, part)
                pair.check_look_ups(max(1, pair.plain.head - behind), part)
                pair.check_span(part)
        kept = pair.plain.pos - pair.reader.limit_pos
        tables = layout.file_bytes - layout.capacity_bytes
        assert used_bytes(pair.writer.fd) <= kept + 4 * 4096 + tables
        pair.close()


@settings(STRICT, max_examples=25)
@given(st.integers(1, 300), st.lists(st.sampled_from(RATES), min_size=1, max_size=4), st.integers(1, 40))
def test_media_positions_are_exact_sums(chunks: int, rates: list[int], frames: int) -> None:
    """However many chunks at whatever rates: the media position is the rational sum of samples over rates, no tick lost."""
    writer = make_ring(Geometry(64, 4, 4, 8 * 4096))
    expected = 0
    for number in range(chunks):
        rate = rates[number % len(rates)]
        writer.append(PlainRing().chunk(1, 576 * frames, rate, 0), 1)
        expected += 576 * frames * (MEDIA_HZ // rate)
    assert writer.head_media == expected
    writer.close()
