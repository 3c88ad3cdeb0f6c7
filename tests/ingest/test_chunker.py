"""Frames into chunks: their size, their labels, epochs, titles, the connect burst, coming and going of sources."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from appliance.ingest.chunker import HOLD_BYTES, HOLD_US, Chunker
from appliance.ring.layout import MEDIA_HZ, Flag, Word
from appliance.ring.reader import RingReader
from appliance.wire.frames import Frame
from tests.ingest.source_makers import HandClock, StreamAtHand, audio_of, frames_of, stored
from tests.wire.frame_makers import MONO, adts_run, mpeg_run

A_CHUNK = 19  # frames of 1152 samples at 44.1 kHz in half a second


class Live(StreamAtHand):
    """A stream fed in real time, a frame at a time."""

    def __init__(self, chunk_s: float) -> None:
        self.clock = HandClock()
        super().__init__(self.clock, chunk_s=chunk_s)
        self.reader = RingReader(self.writer.reader_fd)

    def play(self, frames: list[Frame]) -> None:
        """Each frame comes when it has been heard."""
        for frame in frames:
            self.clock.pass_us(frame.samples * 1_000_000 // frame.format.sample_rate)
            self.chunker.feed([frame])

    def close(self) -> None:
        self.reader.close()
        self.writer.close()

    def pass_s(self, seconds: float) -> None:
        self.clock.pass_us(int(seconds * 1e6))
        self.chunker.poll()


@pytest.fixture
def make_live() -> Iterator[Callable[[float], Live]]:
    """Streams with this chunk duration, at whose source's first moment we are."""
    made: list[Live] = []

    def make(chunk_s: float) -> Live:
        made.append(Live(chunk_s))
        made[-1].chunker.begin()
        return made[-1]

    yield make
    for stream in made:
        stream.close()


@pytest.fixture
def live(make_live: Callable[[float], Live]) -> Live:
    return make_live(0.5)


def mp3(count: int, **settings: int) -> list[Frame]:
    return frames_of(b"".join(mpeg_run(count, **settings)))


def aac(count: int, **settings: int) -> list[Frame]:
    return frames_of(b"".join(adts_run(count, **settings)), "aac")


def test_chunks_hold_a_constant_number_of_frames(live: Live) -> None:
    """About chunk_duration, whole frames, the same number always, however the frames came."""
    frames = mp3(200)
    live.play(frames[:50])
    live.chunker.feed(frames[50:])
    chunks = stored(live.writer)
    assert {chunk.samples for chunk in chunks} == {A_CHUNK * 1152}
    assert b"".join(chunk.data for chunk in chunks) == b"".join(frame.data for frame in frames)[: sum(len(c.data) for c in chunks)]
    assert live.chunker.frames_held == 200 - len(chunks) * A_CHUNK < A_CHUNK


@pytest.mark.parametrize(("chunk_s", "frames"), [(0.1, 4), (0.5, 19), (1.0, 38), (5.0, 191)])
def test_chunk_duration_is_respected(make_live: Callable[[float], Live], chunk_s: float, frames: int) -> None:
    live = make_live(chunk_s)
    live.play(mp3(400))
    assert {chunk.samples for chunk in stored(live.writer)} == {frames * 1152}


def test_a_frame_longer_than_a_chunk_is_one(make_live: Callable[[float], Live]) -> None:
    """8 kHz: 72 ms a frame; the shortest chunk has at least one."""
    live = make_live(0.1)
    live.play(mp3(40, rate=8000, kbps=16))
    assert {chunk.samples for chunk in stored(live.writer)} == {576}


def test_media_position_is_the_exact_sum_of_samples(live: Live) -> None:
    live.play(mp3(400))
    chunks = stored(live.writer)
    assert [chunk.media_pos for chunk in chunks] == [n * A_CHUNK * 1152 * MEDIA_HZ // 44100 for n in range(len(chunks))]


def test_nothing_is_told_before_the_burst_is_over(live: Live) -> None:
    """What comes in the first quarter of a second is held, then goes out in whole chunks."""
    live.chunker.feed(mp3(200))
    live.pass_s(HOLD_US / 1e6 - 0.01)
    assert live.writer.head_seq == 1
    assert live.chunker.frames_held == 200
    live.pass_s(0.01)
    assert len(stored(live.writer)) == 200 // A_CHUNK


def test_a_large_burst_is_let_go_at_once(live: Live) -> None:
    """It must fit the source's journal, so its size ends the hold too."""
    frames = mp3(HOLD_BYTES // 417 + 2)
    live.chunker.feed(frames[:-3])
    assert live.writer.head_seq == 1
    live.chunker.feed(frames[-3:])
    assert live.chunker.frames_held < A_CHUNK
    assert audio_of(live.writer) == b"".join(frame.data for frame in frames)[: len(audio_of(live.writer))]


def test_no_frame_of_a_burst_ends_later_than_it_arrived(live: Live) -> None:
    """10 s of audio in the first packet: its first frame is labelled 10 s back, and all later audio follows in time."""
    frames = mp3(1200)
    arrived = live.clock.wall
    live.chunker.feed(frames[:383])
    live.pass_s(0.7)
    burst = stored(live.writer)
    assert arrived - 600_000 < max(chunk.end_us for chunk in burst) <= arrived
    live.play(frames[383:])
    assert stored(live.writer)[-1].end_us <= live.clock.wall
    assert stored(live.writer)[-1].ts_us >= live.clock.wall - 2_000_000
    assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in stored(live.writer))


def test_each_packet_of_a_burst_keeps_the_law(live: Live) -> None:
    """5 s at once, then live audio while the burst is still held: the first part is not labelled later for it."""
    live.chunker.feed(mp3(190))
    arrived = live.clock.wall
    live.clock.pass_us(200_000)
    live.chunker.feed(mp3(2))
    live.pass_s(0.5)
    assert stored(live.writer)[9].end_us <= arrived


def test_a_burst_that_comes_late_is_a_burst_all_the_same(live: Live) -> None:
    """The encoder connects, waits two seconds (Expect, its own start), then sends 10 s at once: the same law."""
    live.pass_s(1)
    live.pass_s(1)
    live.chunker.feed(mp3(383))
    live.pass_s(0.25)
    assert stored(live.writer)
    assert max(chunk.end_us for chunk in stored(live.writer)) <= live.clock.wall


def test_a_burst_over_a_codec_change_keeps_the_law(live: Live) -> None:
    """A burst of 5 s at 44.1 and 5 s at 48 kHz: both parts are labelled by when they were heard."""
    live.chunker.feed(mp3(191) + mp3(208, rate=48000))
    live.pass_s(0.25)
    chunks = stored(live.writer)
    assert {chunk.rate for chunk in chunks} == {44100, 48000}
    assert max(chunk.end_us for chunk in chunks) <= live.clock.wall


def test_a_codec_change_is_a_new_epoch_and_a_break(live: Live) -> None:
    """Frames before it go out as a short chunk under the old epoch; none is lost, none moved."""
    first, second = mp3(100), mp3(100, rate=48000)
    live.play(first + second)
    live.chunker.finish()
    chunks = stored(live.writer)
    assert b"".join(chunk.data for chunk in chunks) == b"".join(frame.data for frame in first + second)
    assert [chunk.epoch for chunk in chunks] == [1 if chunk.rate == 44100 else 2 for chunk in chunks]
    broken = [at for at, chunk in enumerate(chunks) if chunk.flags & Flag.DISCONTINUITY]
    assert broken == [next(at for at, chunk in enumerate(chunks) if chunk.rate == 48000)]
    assert chunks[-1].discontinuity == 1
    assert all(chunk.samples % 1152 == 0 for chunk in chunks)
    epoch = live.writer.epoch()
    assert epoch is not None
    assert (epoch.stream_key, epoch.rate, epoch.channels) == ("mp3-48000-128-s", 48000, 2)


@pytest.mark.parametrize("other", [{"mode": MONO}, {"rate": 32000}, {"rate": 22050, "kbps": 64}, {"layer": 2}])
def test_what_makes_a_new_epoch(live: Live, other: dict[str, int]) -> None:
    """Channels, rate and layer do."""
    live.play(mp3(100) + mp3(100, **other))
    assert stored(live.writer)[-1].epoch == 2


def test_a_bitrate_change_is_no_new_epoch(live: Live) -> None:
    """VBR: the codec is the same, a decoder goes on."""
    live.play(frames_of(b"".join(mpeg_run(50) + mpeg_run(50, kbps=64))))
    assert {chunk.epoch for chunk in stored(live.writer)} == {1}


def test_the_same_codec_back_is_the_same_epoch(live: Live) -> None:
    """A source that reconnects goes on in the old epoch, without a break when it was away for less than 2 s."""
    live.play(mp3(100))
    live.chunker.finish()
    live.pass_s(1)
    live.chunker.begin()
    live.play(mp3(100))
    chunks = stored(live.writer)
    assert {chunk.epoch for chunk in chunks} == {1}
    assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in chunks)
    assert sum(chunk.flags & Flag.SOURCE_START != 0 for chunk in chunks) == 2
    assert chunks[0].flags & Flag.SOURCE_START


def test_a_ring_with_a_past_keeps_its_epoch(live: Live) -> None:
    """Another chunker on the same ring (the process before was replaced) goes on: same epoch for the same codec, labels that grow."""
    live.play(mp3(100))
    live.chunker.finish()
    live.chunker = Chunker(live.writer, live.clock, 0.5)
    live.chunker.begin()
    live.play(mp3(100))
    chunks = stored(live.writer)
    assert {chunk.epoch for chunk in chunks} == {1}
    assert all(later.ts_us >= earlier.end_us - 100 for earlier, later in itertools.pairwise(chunks))


def test_a_source_that_was_away_is_a_break_at_its_first_chunk(live: Live) -> None:
    """An hour's silence: labels follow the wall clock, the buffer stays, media time has no hole."""
    live.play(mp3(100))
    live.chunker.finish()
    live.chunker.away()
    live.pass_s(3600)
    live.chunker.begin()
    live.play(mp3(100))
    chunks = stored(live.writer)
    back = next(at for at, chunk in enumerate(chunks[1:], 1) if chunk.flags & Flag.SOURCE_START)
    assert [at for at, chunk in enumerate(chunks) if chunk.flags & Flag.DISCONTINUITY] == [back]
    assert chunks[back].ts_us - chunks[back - 1].end_us == pytest.approx(3600e6, abs=1e6)
    assert chunks[back].media_pos == chunks[back - 1].media_pos + chunks[back - 1].samples * 640


def test_finish_publishes_the_short_rest(live: Live) -> None:
    frames = mp3(50)
    live.play(frames)
    assert live.chunker.finish() == 1
    assert audio_of(live.writer) == b"".join(frame.data for frame in frames)
    assert [chunk.samples // 1152 for chunk in stored(live.writer)] == [19, 19, 12]
    assert live.chunker.frames_held == 0
    assert live.chunker.finish() == 0


def test_a_source_gone_within_its_burst_loses_nothing(live: Live) -> None:
    frames = mp3(30)
    live.chunker.feed(frames)
    live.chunker.finish()
    assert audio_of(live.writer) == b"".join(frame.data for frame in frames)
    assert stored(live.writer)[-1].end_us <= live.clock.wall


def test_titles_are_at_least_2_s_of_media_apart_and_the_latest_wins(live: Live) -> None:
    """Ten titles in two seconds: the first, then the tenth as soon as it may; none of those between."""
    live.chunker.want_title(b"one", b"")
    frames = mp3(400)
    live.play(frames[:40])
    for number in range(2, 11):
        live.chunker.want_title(f"{number}".encode(), b"")
        live.play(frames[30 + number * 5 : 35 + number * 5])
    live.play(frames[100:300])
    chunks = stored(live.writer)
    assert chunks[0].title == "one"
    assert {chunk.title for chunk in chunks} == {"one", "10"}
    changed = next(chunk for chunk in chunks if chunk.title == "10")
    assert 2 * MEDIA_HZ <= changed.media_pos < 3 * MEDIA_HZ


def test_the_same_title_again_is_none(live: Live) -> None:
    live.chunker.want_title(b"one", b"http://one.example")
    live.play(mp3(200))
    before = live.writer.columns.words[Word.META_HEAD]
    live.chunker.want_title(b"one", b"http://one.example")
    live.play(mp3(200))
    assert live.writer.columns.words[Word.META_HEAD] == before == 1


def test_a_title_waits_for_the_audio(live: Live) -> None:
    """A title that comes while no source is there is heard with the next one's first chunk."""
    live.play(mp3(100))
    live.chunker.finish()
    live.chunker.away()
    live.chunker.want_title("Björk".encode(), b"")
    live.pass_s(100)
    assert stored(live.writer)[-1].title == ""
    live.chunker.begin()
    live.play(mp3(100))
    assert stored(live.writer)[-1].title == "Björk"


def pace_s(live: Live) -> float:
    """The clock that rewound listeners follow, seconds."""
    return live.reader.pace(live.reader.head_seq, live.clock.monotonic_us()) / MEDIA_HZ


def test_rewound_listeners_go_on_while_the_source_is_away(live: Live) -> None:
    """Their clock runs with the wall clock from the last audio on, through a reconnect, neither stopping nor jumping by more than a
    chunk and what the hold took."""
    live.play(mp3(19 * 20))
    begun = pace_s(live) - live.clock.monotonic / 1e6
    live.chunker.finish()
    live.chunker.away()
    for seconds in (1, 10, 100):
        live.pass_s(seconds)
        assert pace_s(live) - live.clock.monotonic / 1e6 == pytest.approx(begun, abs=0.01)
    live.chunker.begin()
    live.play(mp3(19 * 20 + 5))
    assert pace_s(live) - live.clock.monotonic / 1e6 == pytest.approx(begun, abs=0.51)


def test_a_source_without_audio_does_not_stop_rewound_listeners(live: Live) -> None:
    """Encoders that connect with the right password and send no frame, again and again, while the true one is away: the clock runs on
    as if they were not there."""
    live.play(mp3(19 * 20))
    begun = pace_s(live) - live.clock.monotonic / 1e6
    live.chunker.finish()
    live.chunker.away()
    for _ in range(5):
        live.pass_s(30)
        live.chunker.begin()
        live.pass_s(10)
        assert pace_s(live) - live.clock.monotonic / 1e6 == pytest.approx(begun, abs=0.01)
        live.chunker.finish()
        live.chunker.away()
        assert pace_s(live) - live.clock.monotonic / 1e6 == pytest.approx(begun, abs=0.01)


def test_a_returning_burst_does_not_throw_rewound_listeners_forward(live: Live) -> None:
    """Away for 100 s, back with 5 s of burst: those 5 s were heard while it was away, so they count once."""
    live.play(mp3(19 * 20))
    begun = pace_s(live) - live.clock.monotonic / 1e6
    live.chunker.finish()
    live.chunker.away()
    live.pass_s(100)
    live.chunker.begin()
    live.chunker.feed(mp3(191))
    live.pass_s(0.25)
    assert pace_s(live) - live.clock.monotonic / 1e6 == pytest.approx(begun, abs=0.51)


def test_aac_with_several_blocks_a_frame(live: Live) -> None:
    """Samples differ from frame to frame: still whole frames, and exact positions."""
    frames = aac(60, blocks=2)
    live.play(frames)
    live.chunker.finish()
    chunks = stored(live.writer)
    assert b"".join(chunk.data for chunk in chunks) == b"".join(frame.data for frame in frames)
    assert sum(chunk.samples for chunk in chunks) == 60 * 2048
    assert {chunk.samples for chunk in chunks[:-1]} == {11 * 2048}
