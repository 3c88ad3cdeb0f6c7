"""The fan-out against ARCHITECTURE 1 and MECHANICS 1, 3, 4: every byte, in order, to everybody, at the right pace."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop

from appliance.ring.counters import Count, StreamCount
from appliance.ring.listeners import KIND_ICY, KIND_RAW
from appliance.worker.fanout import PHASES
from tests.fakes import entry
from tests.worker.conftest import MakeStudio
from tests.worker.studio import HEAD, Studio, played


async def test_a_live_listener_gets_its_burst_at_once_and_then_every_byte(make_studio: MakeStudio) -> None:
    """The head and `burst` seconds with the answer; then what is appended, no sooner than it is there, none missing."""
    studio = make_studio(played())
    player = studio.tune_in()
    assert player.read() == HEAD + bytes(studio.air.audio[-4 * 8_000 :])
    for _ in range(10):
        studio.air.play(2)
        studio.round()
        player.read()
        assert player.body == bytes(studio.air.audio[-len(player.body) :])
    assert len(player.body) == 24 * 8_000


@pytest.mark.parametrize("interval", [8_192, 15_999, 16_000, 20_000, 32_768])
async def test_a_cohort_gets_identical_bytes_raw_and_icy(make_studio: MakeStudio, interval: int) -> None:
    """120 listeners over all buckets, half of them ICY, titles changing: the model's bytes for each, with 0, 1 or 2 blocks a send."""
    studio = make_studio(played(), entry(meta_interval=interval))
    for number in range(120):
        studio.tune_in(icy=number % 2 == 1)
    for second in range(12):
        studio.air.play(1 if second == 6 else 0)
        if second % 3 == 0:
            studio.air.title(f"Title {second}", "http://x/" if second else "")
        studio.air.play(1 if second == 6 else 2)
        studio.round()
        studio.read_all()
    end = len(studio.air.audio)
    for player in studio.players:
        assert player.body == studio.expected(player, end)
    titles = [piece for piece in (b"Title 0", b"Title 3", b"Title 6", b"Title 9") if piece in studio.players[1].got]
    assert len(titles) == 4
    assert not any(player.listener.late for player in studio.players)
    assert studio.players[1].got.count(b"StreamTitle") == 4  # said once each


async def test_a_title_that_changes_within_a_span_and_several_blocks_in_it(make_studio: MakeStudio) -> None:
    """Short intervals and titles on every chunk: more than one block, and more than one title, in one send."""
    studio = make_studio(played(), entry(meta_interval=1_024))
    players = [studio.tune_in(icy=True) for _ in range(3)]
    for second in range(6):
        for half in range(2):
            studio.air.title(f"{second}.{half}")
            studio.air.play(1, 5_003)
        studio.round()
        studio.read_all()
    for player in players:
        assert player.body == studio.expected(player, len(studio.air.audio))


async def test_the_wrap_of_the_ring_is_no_event(make_studio: MakeStudio) -> None:
    """A ring that laps four times: spans in two pieces reach raw and ICY listeners alike, to the byte."""
    air = played(60, window_s=5, max_bytes_s=1_000, max_buffer=65_536)
    capacity = air.writer.columns.capacity
    studio = make_studio(air, entry(meta_interval=1_500))
    players = [studio.tune_in(icy=icy) for icy in (False, True, False, True)]
    while len(air.audio) < 4 * capacity:
        air.play(3, 2_777)
        studio.round()
        studio.read_all()
    for player in players:
        assert player.body == studio.expected(player, len(air.audio))
        assert not player.listener.late


async def test_listeners_are_spread_evenly_over_the_interval(make_studio: MakeStudio) -> None:
    """No tick is a burst: three rounds of joins put three listeners into each bucket, whatever leaves in between."""
    studio = make_studio(played())
    for _ in range(3 * PHASES):
        studio.tune_in()
    sizes = [sum(len(cohort.level) + len(cohort.late) for cohorts in bucket.values() for cohort in cohorts.values())
             for bucket in studio.fanout._buckets]  # fmt: skip
    assert sizes == [3] * PHASES


async def test_one_send_per_listener_and_interval(make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """ARCHITECTURE 1.3: 20 level listeners, 5 rounds: 100 system calls."""
    studio = make_studio(played())
    for _ in range(20):
        studio.tune_in()
    studio.air.play(2)
    studio.round()
    studio.read_all()
    calls = 0
    real_write = os.write

    def write(fd: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        return int(real_write(fd, data))

    monkeypatch.setattr("os.write", write)
    for _ in range(5):
        studio.air.play(2)
        studio.round()
        studio.read_all()
    assert calls == 100


async def test_a_rewound_listener_keeps_its_distance(make_studio: MakeStudio) -> None:
    """`offset=10`: starts 10 s back, a burst of 2 s at once, then goes on as fast as the head does."""
    studio = make_studio(played())
    player = studio.tune_in(offset_s=10)
    start = len(studio.air.audio) - 20 * 8_000
    assert player.start.offset_s == 10
    assert player.read() == HEAD + bytes(studio.air.audio[start : start + 4 * 8_000])
    for second in range(1, 8):
        studio.air.play(2)
        studio.round()
        assert player.read() == HEAD + bytes(studio.air.audio[start : start + (4 + 2 * second) * 8_000])
    assert studio.present() == (1, 1, 1)


async def test_rewound_listeners_play_on_while_the_source_is_away_up_to_the_edge(make_studio: MakeStudio) -> None:
    """By the clock, not the head; at the edge they wait, and go on live when a source is back. The live one just waits."""
    studio = make_studio(played())
    air = studio.air
    rewound, live = studio.tune_in(offset_s=10), studio.tune_in()
    air.writer.away(air.clock.monotonic_us())
    start = len(air.audio) - 20 * 8_000
    for second in range(1, 15):
        air.clock.advance(1)
        studio.round()
        assert len(rewound.read()) - len(HEAD) == min(20, 4 + 2 * second) * 8_000
        assert len(live.read()) - len(HEAD) == 4 * 8_000
    assert studio.present() == (2, 2, 1)
    air.writer.present(air.clock.monotonic_us())
    for _ in range(3):
        air.play(2)
        studio.round()
        assert rewound.read()[len(HEAD) :] == bytes(air.audio[start:])
        assert live.read()[len(HEAD) :] == bytes(air.audio[start + 16 * 8_000 :])


async def test_a_listener_who_comes_while_the_source_is_away(make_studio: MakeStudio) -> None:
    """It gets its burst, keeps its distance by the clock, and none of it twice when the source is back."""
    studio = make_studio(played())
    air = studio.air
    air.writer.away(air.clock.monotonic_us())
    air.clock.advance(100)
    rewound, live = studio.tune_in(offset_s=10), studio.tune_in()
    assert len(rewound.read()) == len(live.read()) == len(HEAD) + 4 * 8_000
    air.clock.advance(3)
    studio.round()
    assert len(rewound.read()) == len(HEAD) + 10 * 8_000
    air.writer.present(air.clock.monotonic_us())
    air.play(4)
    studio.round()
    assert len(rewound.read()) == len(HEAD) + 14 * 8_000  # 5 s behind live from here on
    assert rewound.body == studio.air.sent(20 * 8_000, 34 * 8_000)
    assert live.read()[len(HEAD) :] == bytes(air.audio[36 * 8_000 :])


async def test_whole_chunks_only(make_studio: MakeStudio) -> None:
    """Between rounds a rewound listener stands on a chunk boundary, also when the clock stands in the middle of one."""
    studio = make_studio(played())
    player = studio.tune_in(offset_s=10)
    studio.air.writer.away(studio.air.clock.monotonic_us())
    for _ in range(7):
        studio.air.clock.advance(0.35)
        studio.round()
        player.read()
        assert len(player.body) % 8_000 == 0
    assert len(player.body) == (4 + 4) * 8_000  # 2.45 s of clock are four whole chunks


async def test_checkpoints_say_what_was_really_written(make_studio: MakeStudio) -> None:
    """MECHANICS 4: a row with a block in the last send tells total, position, distance to the next block and last title exactly."""
    studio = make_studio(played(), entry(meta_interval=8_192))
    icy, raw = studio.tune_in(icy=True, sent_bytes=77), studio.tune_in()
    for second in range(20):
        if second % 4 == 0:
            studio.air.title(f"T{second}")
        studio.air.play(2)
        studio.round()
        studio.read_all()
        row = studio.row(icy)
        assert row.kind == KIND_ICY
        written = icy.body[: row.total - 77 - len(HEAD)]
        assert written == studio.air.sent(row.start_pos, row.pos, icy.interval)
        rest = studio.air.sent(row.pos, len(studio.air.audio), icy.interval, until_meta=row.until_meta, title=row.title)
        assert written + rest == icy.body
        assert row.pos == len(studio.air.audio)  # 16,000 bytes a second: each send has a block
    row = studio.row(raw)
    assert row.kind == KIND_RAW
    assert raw.body[: row.total - len(HEAD)] == studio.air.sent(row.start_pos, row.pos)


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_checkpoint_at_least_every_minute(make_studio: MakeStudio, blocked: bool) -> None:
    """Raw listeners have no blocks: noted by the clock, level or late; the answer's head may still be on its way."""
    studio = make_studio(played(), entry(max_buffer=4_194_304))
    player = studio.tune_in(sndbuf=4_608 if blocked else 0)
    positions = set()
    for _ in range(180):
        studio.air.play(2, 4_000)
        studio.round()
        player.read(2_000 if blocked else 1 << 20)
        studio.turn()
        positions.add(studio.row(player).pos)
    assert player.listener.late is blocked
    assert len(positions) >= 4  # at the start, and three times in three minutes
    row = studio.row(player)
    assert row.pos - row.start_pos == row.total - len(HEAD)


async def test_bytes_are_counted(make_studio: MakeStudio) -> None:
    """BYTES_SENT of worker and stream: heads, audio, metadata."""
    studio = make_studio(played())
    for number in range(4):
        studio.tune_in(icy=number % 2 == 0, offset_s=10 * (number // 2))
    for _ in range(5):
        studio.air.play(2)
        studio.round()
        studio.read_all()
    sent = sum(len(player.got) for player in studio.players)
    assert studio.count(Count.BYTES_SENT) == studio.stream_count(StreamCount.BYTES_SENT) == sent


async def test_join_starts_where_a_waiting_cohort_stands(make_studio: MakeStudio) -> None:
    """With no burst the head may be ahead of the cohort: the newcomer starts where the cohort does, and its row says so."""
    studio = make_studio(played(), entry(burst_s=0.0))
    for _ in range(PHASES):
        studio.tune_in()
    studio.air.play(2)
    studio.stream.learn()
    player = studio.tune_in(icy=True, sent_bytes=50)
    assert player.read() == HEAD
    studio.round()
    studio.read_all()
    row = studio.row(player)
    assert row.start_pos == 40 * 8_000
    assert row.total == 50 + len(player.got)
    assert player.body == studio.air.sent(row.start_pos, len(studio.air.audio), player.interval)


async def served(seconds: float) -> tuple[int, int]:
    """Buckets served on the real loop in that time, and what a live listener got meanwhile."""
    studio = Studio(played(), send_interval_s=0.33, ticking=True)
    player, buckets, serve_next = studio.tune_in(), 0, studio.fanout._serve_next

    def count() -> None:
        nonlocal buckets
        buckets += 1
        serve_next()

    studio.fanout._serve_next = count  # type: ignore[method-assign]
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.05)
        studio.air.play(1)
        studio.stream.learn()
        player.read()
    studio.close()
    return buckets, len(player.body)


def test_the_timer_keeps_the_interval() -> None:
    """On the real loop: one bucket is served per tick, none is left out, and sends come."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        buckets, got = runner.run(served(0.5))
    assert 0.9 * 0.5 / 0.33 * PHASES < buckets < 3 * 0.5 / 0.33 * PHASES  # the upper bound leaves room for a machine that is busy
    assert got > 5 * 8_000


async def test_a_fault_in_one_tick_does_not_stop_the_next(make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audio never stops for our reasons: whatever a bucket raises, the next tick serves the next."""
    studio = make_studio(played())
    served_after: list[int] = []

    def fails() -> None:
        raise RuntimeError("test")

    monkeypatch.setattr(studio.fanout, "_serve_next", fails)
    studio.fanout._owed = 2
    with pytest.raises(RuntimeError):
        studio.fanout._serve_owed()
    monkeypatch.setattr(studio.fanout, "_serve_next", lambda: served_after.append(1))
    studio.fanout._serve_owed()
    assert served_after == [1]
