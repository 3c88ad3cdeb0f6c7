"""Laws of the media clock that hold for any arrivals."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ingest.media_clock import SLEW_PPM, STEP_FROM_US, MediaClock
from appliance.ring.layout import MEDIA_HZ

S = 1_000_000
NOON = 1_700_000_000 * S

arrivals = st.lists(  # a chunk's samples at 44.1 kHz, time since the one before
    st.tuples(st.sampled_from([1152, 1152 * 19, 1024 * 43, 44100 * 5]), st.integers(0, 8 * S)), min_size=1, max_size=60
)
real_time = st.lists(  # how late each half-second chunk is: a network's whims
    st.one_of(st.integers(0, 40_000), st.integers(0, 1_500_000), st.integers(0, 30 * S)), min_size=1, max_size=120
)
wall_jumps = st.lists(st.one_of(st.just(0), st.just(0), st.integers(-7200 * S, 7200 * S)), min_size=60, max_size=60)


def slewed_us(chunks: int) -> int:
    """What half-second chunks can have been slewed in all."""
    return chunks * (S // 2) * SLEW_PPM // S


@settings(max_examples=150, deadline=None)
@given(arrivals, wall_jumps)
def test_labels_grow_and_only_breaks_leave_the_samples(chunks: list[tuple[int, int]], jumps: list[int]) -> None:
    """Whatever arrivals and the wall clock do: a label is the end of the one before it, give or take 200 ppm; only a break jumps, forward,
    by more than 2 s."""
    clock = MediaClock()
    clock.begin(NOON)
    wall, monotonic, end = NOON, 9 * S, NOON
    for (samples, after_us), jump in zip(chunks, jumps, strict=False):
        wall, monotonic = wall + after_us + jump, monotonic + after_us
        span_us = samples * S // 44100
        stamp = clock.stamp(samples * MEDIA_HZ // 44100, wall, monotonic)
        if stamp.discontinuity:
            assert stamp.ts_us - end > STEP_FROM_US - 2
        else:
            assert abs(stamp.ts_us - end) <= span_us * SLEW_PPM // S + 2
        end = stamp.ts_us + span_us


@settings(max_examples=150, deadline=None)
@given(real_time)
def test_no_end_is_later_than_its_arrival(lateness: list[int]) -> None:
    """A true clock, a network that delays as it likes but keeps the order: no chunk's end is labelled later than it arrived, but for what
    was slewed while all of it was late."""
    clock = MediaClock()
    clock.begin(NOON)
    arrival, stepped = NOON, False
    for number, late in enumerate(lateness, 1):
        arrival = max(arrival, NOON + number * S // 2 + late)
        stamp = clock.stamp(MEDIA_HZ // 2, arrival, arrival - NOON + S)
        assert stamp.ts_us + S // 2 <= arrival + slewed_us(number) or (stepped and not stamp.discontinuity)
        stepped = stepped or stamp.discontinuity  # what was taken for a gap may yet be caught up


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, STEP_FROM_US), min_size=1, max_size=200))
def test_a_network_that_is_never_2_s_late_makes_no_break(lateness: list[int]) -> None:
    """Jitter below the step: no break, and the label's end is at or before the arrival, but for what was slewed."""
    clock = MediaClock()
    clock.begin(NOON)
    arrival = NOON
    for number, late in enumerate(lateness, 1):
        arrival = max(arrival, NOON + number * S // 2 + late)
        stamp = clock.stamp(MEDIA_HZ // 2, arrival, arrival - NOON + S)
        assert not stamp.discontinuity
        assert stamp.ts_us + S // 2 <= arrival + slewed_us(number)


@settings(max_examples=100, deadline=None)
@given(st.integers(-150, 150), st.integers(3, 5000))
def test_an_encoder_within_150_ppm_is_followed_for_ever(ppm: int, chunks: int) -> None:
    """Its crystal drifts, the labels follow: never more than 50 ms and a chunk's jitter off, and no break."""
    clock = MediaClock()
    clock.begin(NOON)
    for number in range(1, chunks):
        arrival = NOON + number * (S // 2) * (S + ppm) // S
        stamp = clock.stamp(MEDIA_HZ // 2, arrival, arrival - NOON + S)
        assert not stamp.discontinuity
        assert abs(stamp.ts_us + S // 2 - arrival) <= 51_000
