"""An hour and more of audio pushed faster than real time, the clock passed in: bounds, look-ups by time, memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.ring.layout import GUARD_S, MAX_BITRATE_BYTES_S, MEDIA_HZ, SLACK_S, Flag, Word
from appliance.ring.reader import RingReader
from appliance.ring.writer import PUNCH_BYTES, Chunk, RingWriter
from tests.ring.plain_ring import audio, held, used_bytes

FRAMES_A_CHUNK = 19
SAMPLES = FRAMES_A_CHUNK * 1152
CHUNK_S = SAMPLES / 44100
BORN_US = 1_760_000_000_000_000
GAP_AT = 5000
GAP_US = 90 * 1_000_000
TITLE_EVERY = 400
WINDOW_S = 3600
CHUNKS = round(1.5 * 3600 / CHUNK_S)
"""An hour and a half, so that an hour's ring forgets half an hour."""


def size_of(seq: int) -> int:
    """128 kbit/s at 44.1 kHz: frames of 417 bytes, 418 with padding."""
    return FRAMES_A_CHUNK * 417 + (18 if seq % 23 else 19)


def ts_of(seq: int) -> int:
    """Wall clock of a chunk: by its samples, and a source that was away for 90 s."""
    return BORN_US + (seq - 1) * SAMPLES * 1_000_000 // 44100 + (GAP_US if seq >= GAP_AT else 0)


@pytest.fixture(scope="module", params=[MAX_BITRATE_BYTES_S, 18_000], ids=["as-served", "wrapping"])
def hour(request: pytest.FixtureRequest) -> Iterator[RingWriter]:
    """A ring of an hour after an hour and a half; laid out for any rate, or so narrowly that its data area wraps."""
    writer = RingWriter.create("hour", WINDOW_S, 0.5, 4 << 20, request.param)
    for seq in range(1, CHUNKS + 1):
        if seq % TITLE_EVERY == 1:
            writer.set_title(b"title %d" % (seq // TITLE_EVERY), b"http://station/%d" % seq, ts_of(seq))
        data = audio(writer.head_pos, size_of(seq))
        writer.append(Chunk(data, SAMPLES, 44100, ts_of(seq), Flag.DISCONTINUITY if seq == GAP_AT else 0), seq)
    yield writer
    writer.close()


@pytest.fixture
def reader(hour: RingWriter) -> RingReader:
    """A worker's view of it."""
    return RingReader(hour.reader_fd)


def held_s(reader: RingReader, first: int) -> float:
    """Seconds of audio from a chunk to the head."""
    media: int = reader.media[reader.head_seq & reader.mask] - reader.media[first & reader.mask]
    return media / MEDIA_HZ


def test_bounds(reader: RingReader) -> None:
    """Look-ups reach back an hour; `max_buffer` (262 s at this rate, more than the 60 s) is kept beyond, then a guard of 10 s."""
    head, limit = reader.head_seq, reader.words[Word.LIMIT_SEQ]
    assert head == CHUNKS + 1
    assert WINDOW_S - CHUNK_S <= held_s(reader, reader.oldest(head)) <= WINDOW_S
    beyond = reader.pos[reader.oldest(head) & reader.mask] - reader.pos[reader.tail_seq & reader.mask]
    assert (4 << 20) - 8000 <= beyond <= 4 << 20
    assert held_s(reader, reader.tail_seq) >= WINDOW_S + SLACK_S
    assert GUARD_S - CHUNK_S <= held_s(reader, limit) - held_s(reader, reader.tail_seq) <= GUARD_S
    assert reader.words[Word.DISCONTINUITIES] == 1


def test_every_byte_from_the_limit_on_is_true(reader: RingReader) -> None:
    """71 MB of it."""
    start, end = reader.limit_pos, reader.pos[reader.head_seq & reader.mask]
    assert end == sum(map(size_of, range(1, CHUNKS + 1)))
    for at in range(start, end, 1 << 20):
        upto = min(end, at + (1 << 20))
        assert held(reader, at, upto) == audio(at, upto - at)


def test_look_ups_by_time(reader: RingReader) -> None:
    """Each moment of the hour finds its chunk; inside the gap, the chunk after it; before, the oldest; in the future, the head."""
    head = reader.head_seq
    oldest = reader.oldest(head)
    for seq in [oldest, *range(oldest, head, 97), GAP_AT - 1, GAP_AT, head - 1]:
        assert reader.ts_us(seq) == ts_of(seq)
        for within in (0, 250_000, SAMPLES * 1_000_000 // 44100 - 1):
            assert reader.seq_at_time(ts_of(seq) + within, head) == seq
    end_of_first = ts_of(GAP_AT) - GAP_US
    for into_the_gap_us in (1, 45_000_000, GAP_US - 1):
        assert reader.seq_at_time(end_of_first + into_the_gap_us, head) == GAP_AT
    assert reader.seq_at_time(BORN_US, head) == reader.seq_at_time(ts_of(oldest) - 1, head) == oldest
    assert reader.seq_at_time(ts_of(head) + 1, head) == head


def test_look_ups_by_offset(reader: RingReader) -> None:
    """Seconds of audio behind the head: to the chunk, not stretched by the gap."""
    head = reader.head_seq
    live = reader.media[head & reader.mask]
    for offset_s in (1, 30, 600, 1800, 3599):
        found = reader.seq_at_media(live - offset_s * MEDIA_HZ, head)
        assert offset_s <= held_s(reader, found) < offset_s + CHUNK_S
    assert reader.seq_at_media(live - 3700 * MEDIA_HZ, head) == reader.seq_at_media(0, head) == reader.oldest(head)


def test_titles(reader: RingReader) -> None:
    """Each chunk that is held carries its title; those of forgotten audio are gone."""
    for seq in range(reader.words[Word.LIMIT_SEQ], reader.head_seq, 50):
        title = reader.title(reader.meta_id(seq))
        assert title is not None and title.title == f"title {(seq - 1) // TITLE_EVERY}"
        assert reader.meta_id(reader.seq_at_pos(reader.pos[seq & reader.mask] + 1, reader.head_seq)) == title.meta_id
    assert reader.title(1) is None


def test_memory_follows_what_is_held(hour: RingWriter, reader: RingReader) -> None:
    """st_blocks: the audio from the limit on, at most a stride more, and 1 % for tables and titles; not the 289 MB of address space."""
    kept = reader.pos[reader.head_seq & reader.mask] - reader.limit_pos
    columns = CHUNKS * 72 + 12 * 4096
    titles = (CHUNKS // TITLE_EVERY + 6) * 4096
    assert kept <= used_bytes(hour.fd) <= kept + PUNCH_BYTES + columns + titles
    assert columns + titles < kept * 0.02
    assert kept < (WINDOW_S + GUARD_S + 1) * 16_000 + (4 << 20)
