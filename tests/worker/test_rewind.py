"""`offset=`: INTERFACES, listener port."""

from __future__ import annotations

import pytest

from appliance.ring.layout import MEDIA_HZ
from appliance.worker.rewind import BadOffset, Start, find_start, parse_offset
from appliance.worker.stream import Stream
from tests.fakes import Air, counters, entry


def started(air: Air, offset_s: float, burst_s: float = 2.0) -> tuple[Stream, Start]:
    """Where an offset leads."""
    stream = Stream(entry(burst_s=burst_s), air.reader(), counters())
    return stream, find_start(stream, offset_s)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("", 0), ("10", 10), ("3600.5", 3600.5), (".5", 0.5), (" 7 ", 7), ("1e3", 1000)])
def test_offsets(text: str, seconds: float) -> None:
    """Seconds, whole or not; empty is live."""
    assert parse_offset({"offset": text, "other": "x"}) == seconds


def test_no_offset_is_live() -> None:
    """Other parameters mean nothing here."""
    assert parse_offset({"session_id": "5", "ua": "x"}) == 0


@pytest.mark.parametrize("text", ["-1", "-0.001", "nan", "inf", "-inf", "abc", "1_000", "0x1", "10s", "\u0661\u0660", "1e999", "1,5"])
def test_bad_offsets(text: str) -> None:
    """In the future or unparsable: refused with a reason of one line."""
    with pytest.raises(BadOffset) as refused:
        parse_offset({"offset": text})
    assert "offset" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["at", "from", "to", "pump", "program"])
def test_what_is_not_served_yet_is_refused(name: str) -> None:
    """Nobody hears live audio for a moment they asked for."""
    with pytest.raises(BadOffset):
        parse_offset({name: "1"})


def test_live_starts_a_burst_back(air: Air) -> None:
    """And follows the head."""
    stream, start = started(air, 0)
    assert start[:3] == (37, 0, 2.0)
    assert stream.reader.pos[start.seq & stream.reader.mask] == 36 * 8_000


def test_an_offset_within_the_burst_follows_live(air: Air) -> None:
    """`offset=N` starts N back and sends min(burst, N) at once."""
    assert started(air, 1)[1][:3] == (39, 0, 1.0)
    assert started(air, 0.7)[1][:3] == (39, 0, 1.0)  # the chunk that holds that moment


def test_a_longer_offset_keeps_its_distance(air: Air) -> None:
    """Its media ticks behind the head."""
    assert started(air, 10)[1][:3] == (21, 10 * MEDIA_HZ, 10.0)


@pytest.mark.parametrize("offset_s", [20, 20.1, 3_600, 1e6, 4e8, 1e15, 1e300])
def test_beyond_the_start_is_clamped_to_the_oldest_chunk(air: Air, offset_s: float) -> None:
    """However much is asked for."""
    assert started(air, offset_s)[1][:3] == (1, 20 * MEDIA_HZ, 20.0)


def test_a_buffer_shorter_than_the_burst(air: Air) -> None:
    """All there is, live."""
    assert started(air, 0, burst_s=30)[1][:3] == (1, 0, 20.0)
    assert started(air, 25, burst_s=30)[1][:3] == (1, 0, 20.0)


def test_the_window_is_the_limit_not_what_is_held_beyond_it() -> None:
    """Look-ups clamp to head - `seconds`, though the ring holds 60 s more (MECHANICS 1)."""
    air = Air(window_s=30)
    air.play(160)
    assert started(air, 1_000)[1].offset_s == 30
    air.close()


def test_rewind_time_is_that_of_the_first_byte(air: Air) -> None:
    """The wall clock of the chunk; without a burst, the end of the newest one."""
    stream, start = started(air, 10)
    assert start.ts_us == stream.reader.ts_us(start.seq)
    end = started(air, 0, burst_s=0)[1]
    assert end.offset_s == 0
    assert end.ts_us == stream.reader.ts_us(40) + 500_000
