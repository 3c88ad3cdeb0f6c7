"""The clock of MECHANICS 2, example by example. The general laws are in tests/properties/test_media_clock.py."""

from __future__ import annotations

import itertools

from appliance.ingest.media_clock import MediaClock, Stamp
from appliance.ring.layout import MEDIA_HZ

S = 1_000_000
NOON = 1_700_000_000 * S
HALF = MEDIA_HZ // 2


class Run:
    """Half-second chunks through a clock; `lateness` is how long after its audio's end a chunk comes."""

    def __init__(self) -> None:
        self.clock = MediaClock()
        self.clock.begin(NOON)
        self.wall = NOON
        self.monotonic = 77 * S

    def pass_us(self, us: int) -> None:
        self.wall += us
        self.monotonic += us

    def chunk(self) -> Stamp:
        return self.clock.stamp(HALF, self.wall, self.monotonic)

    def on_time(self, count: int, each_us: int = S // 2) -> list[Stamp]:
        found = []
        for _ in range(count):
            self.pass_us(each_us)
            found.append(self.chunk())
        return found


def test_labels_advance_by_samples() -> None:
    """Chunks on time are labelled exactly by their samples, without drift and without a break."""
    stamps = Run().on_time(2000)
    assert [stamp.ts_us for stamp in stamps] == [NOON + number * S // 2 for number in range(2000)]
    assert not any(stamp.discontinuity for stamp in stamps)


def test_odd_lengths_never_add_up_an_error() -> None:
    """26.122... ms a frame: ten minutes of single frames end where their samples end, to the microsecond."""
    clock = MediaClock()
    clock.begin(NOON)
    ticks = 1152 * MEDIA_HZ // 44100
    last = [clock.stamp(ticks, NOON + (n + 1) * 1152 * S // 44100, (n + 1) * 1152 * S // 44100) for n in range(22_968)][-1]
    assert last.ts_us == NOON + 22_967 * 1152 * S // 44100


def test_off_by_up_to_50_ms_is_left_alone() -> None:
    """A chunk that is always 50 ms late is a network, not a clock."""
    run = Run()
    run.pass_us(50_000)
    assert [stamp.ts_us for stamp in run.on_time(100)] == [NOON + number * S // 2 for number in range(100)]


def test_off_by_more_is_slewed_by_at_most_200_ppm() -> None:
    """An encoder's clock that runs 100 ms behind: 100 us a half-second chunk, no more, until it is within 50 ms."""
    run = Run()
    run.pass_us(100_000)
    stamps = run.on_time(2000)
    steps = [after.ts_us - before.ts_us - S // 2 for before, after in itertools.pairwise(stamps)]
    assert set(steps) == {0, 100}
    assert stamps[-1].ts_us == NOON + 1999 * S // 2 + 50_000
    assert not any(stamp.discontinuity for stamp in stamps)


def test_a_fast_encoder_is_slewed_back_but_never_stepped() -> None:
    """Audio sent at 2 % more than real time, for an hour: labels grow on, by 200 ppm less, without a break."""
    run = Run()
    stamps = run.on_time(7200, each_us=490_000)
    steps = {after.ts_us - before.ts_us for before, after in itertools.pairwise(stamps)}
    assert steps == {500_000, 499_900}
    assert not any(stamp.discontinuity for stamp in stamps)
    assert run.clock.offset_us < -70 * S


def test_a_gap_that_lasts_is_stepped_over_once() -> None:
    """The encoder stopped for 5 s and goes on live: one break, soon, and the labels are true from there on."""
    run = Run()
    run.on_time(20)
    run.pass_us(5 * S)
    stamps = run.on_time(20)
    breaks = [at for at, stamp in enumerate(stamps) if stamp.discontinuity]
    assert len(breaks) == 1
    assert breaks[0] <= 8
    assert all(stamp.ts_us == NOON + 15 * S + at * S // 2 for at, stamp in enumerate(stamps) if at >= breaks[0])


def test_a_stall_that_is_caught_up_is_no_gap() -> None:
    """9 s of silence, then all of it at once: the audio has no gap, and neither have the labels."""
    run = Run()
    run.on_time(20)
    run.pass_us(9 * S)
    stamps = [run.chunk() for _ in range(18)]
    stamps += run.on_time(40)
    assert [stamp.ts_us for stamp in stamps] == [NOON + 10 * S + at * S // 2 for at in range(58)]
    assert not any(stamp.discontinuity for stamp in stamps)


def test_a_stall_that_is_caught_up_slowly_is_no_gap() -> None:
    """3 s of silence, then at double speed until level again."""
    run = Run()
    run.on_time(20)
    run.pass_us(3 * S)
    stamps = run.on_time(12, each_us=S // 4) + run.on_time(20)
    assert not any(stamp.discontinuity for stamp in stamps)


def test_one_late_chunk_moves_nothing() -> None:
    """A single chunk that is 4 s late among punctual ones."""
    run = Run()
    run.on_time(20)
    late = run.clock.stamp(HALF, run.wall + 4 * S, run.monotonic + S // 2)
    run.pass_us(S // 2)
    assert late == Stamp(NOON + 10 * S, False)
    assert run.on_time(10)[-1] == Stamp(NOON + 15 * S, False)


def test_wall_clock_set_forward_is_a_step() -> None:
    """NTP corrects a box that booted an hour slow: one discontinuity, no slewing for months."""
    run = Run()
    run.on_time(20)
    run.wall += 3600 * S
    stamps = run.on_time(20)
    assert sum(stamp.discontinuity for stamp in stamps) == 1
    assert stamps[-1].ts_us == run.wall - S // 2


def test_wall_clock_set_back_never_takes_labels_back() -> None:
    """An hour back: no step, labels go on growing, a little slower."""
    run = Run()
    before = run.on_time(20)[-1]
    run.wall -= 3600 * S
    stamps = [before, *run.on_time(200)]
    steps = {after.ts_us - earlier.ts_us for earlier, after in itertools.pairwise(stamps)}
    assert steps <= {500_000, 499_900}
    assert 499_900 in steps
    assert not any(stamp.discontinuity for stamp in stamps)


def test_a_burst_is_labelled_by_its_beginning() -> None:
    """A connect burst of 10 s: its first sample was heard 10 s ago, so no chunk's end is later than its arrival."""
    clock = MediaClock()
    clock.begin(NOON - 10 * S)
    ends = [clock.stamp(HALF, NOON, S).ts_us + S // 2 for _ in range(20)]
    assert max(ends) == NOON


def test_a_source_that_comes_back_within_2_s_goes_on_without_a_break() -> None:
    run = Run()
    run.on_time(20)
    run.clock.begin(NOON + 10 * S + 1_900_000)
    assert run.clock.stamp(HALF, NOON + 12 * S + 400_000, run.monotonic + 2 * S) == Stamp(NOON + 10 * S, False)


def test_a_source_that_comes_back_later_is_a_break() -> None:
    run = Run()
    run.on_time(20)
    run.clock.begin(NOON + 60 * S)
    assert run.clock.stamp(HALF, NOON + 60 * S + S // 2, run.monotonic + 50 * S) == Stamp(NOON + 60 * S, True)


def test_a_new_source_with_older_audio_never_takes_labels_back() -> None:
    """It sends 30 s of audio in a burst a moment after the old one: labels go on from where they were."""
    run = Run()
    run.on_time(20)
    run.clock.begin(NOON - 20 * S)
    assert run.clock.stamp(HALF, NOON + 10 * S, run.monotonic) == Stamp(NOON + 10 * S, False)


def test_a_stream_with_a_past_goes_on_from_it() -> None:
    """A ring that another process left: the labels go on at its end, or break when that was long ago."""
    clock = MediaClock(NOON)
    clock.begin(NOON + S)
    assert clock.stamp(HALF, NOON + S, S) == Stamp(NOON, False)
    clock = MediaClock(NOON)
    clock.begin(NOON + 3600 * S)
    assert clock.stamp(HALF, NOON + 3601 * S, S) == Stamp(NOON + 3600 * S, True)


def test_the_longest_chunks_are_judged_too() -> None:
    """With chunks of 5 s (the longest allowed) a gap of a minute is still found, and a slow clock slewed."""
    clock = MediaClock()
    clock.begin(NOON)
    found = []
    for number in range(20):
        late = 60 * S if number >= 5 else 0
        found.append(clock.stamp(5 * MEDIA_HZ, NOON + (number + 1) * 5 * S + late, (number + 1) * 5 * S + late))
    assert sum(stamp.discontinuity for stamp in found) == 1
    assert found[-1].ts_us == NOON + 19 * 5 * S + 60 * S
