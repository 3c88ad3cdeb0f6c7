"""Slow readers against MECHANICS 3 and ARCHITECTURE 1: they suffer alone, within `max_buffer`, and never get a wrong byte."""

from __future__ import annotations

import os
import random
from itertools import pairwise

import pytest

from appliance.ring.counters import Count, StreamCount
from tests.fakes import Air, entry
from tests.worker.conftest import MakeStudio
from tests.worker.studio import HEAD, Player, Studio, played

CHUNK = 8_000
MAX_BUFFER = 65_536
SMALL = 4_608  # the least send buffer of a Unix socket


def rounds(studio: Studio, number: int, *reading: Player) -> None:
    """So many seconds of audio, these players reading all."""
    for _ in range(number):
        studio.air.play(2)
        studio.round()
        for _ in range(40):
            before = [len(player.got) for player in reading]
            for player in reading:
                player.read()
            studio.turn()
            if before == [len(player.got) for player in reading]:
                break


async def test_a_slow_reader_is_dropped_at_max_buffer_and_the_others_are_untouched(make_studio: MakeStudio) -> None:
    """It ends in the round in which its lag passes max_buffer, is counted, and its neighbours of the same bucket get every byte."""
    studio = make_studio(played(), entry(max_buffer=MAX_BUFFER))
    players = [studio.tune_in(icy=number % 2 == 0, sndbuf=SMALL) for number in range(100)]
    rounds(studio, 2, *players)
    stuck = players[7]
    others = [player for player in players if player is not stuck]
    for _ in range(30):
        taken = stuck.listener.playhead.pos if stuck.listener.late else len(studio.air.audio)
        lag = len(studio.air.audio) + 2 * CHUNK - taken
        rounds(studio, 1, *others)
        assert bool(studio.ends) is (lag > MAX_BUFFER)
        if studio.ends:
            break
    assert [(listener is stuck.listener, why) for listener, why in studio.ends] == [
        (True, "too slow: more than max_buffer behind")
    ]
    assert studio.count(Count.DROPPED_SLOW) == studio.stream_count(StreamCount.DROPPED_SLOW) == 1
    for player in others:
        assert player.body == studio.expected(player, len(studio.air.audio))
    stuck.read()
    whole = studio.expected(stuck, len(studio.air.audio))
    assert stuck.ended
    assert whole.startswith(stuck.body)


async def test_lag_is_measured_from_where_the_listener_should_be(make_studio: MakeStudio) -> None:
    """A listener 15 s back by choice has no lag; the burst it is still getting is none either."""
    studio = make_studio(played(80), entry(max_buffer=MAX_BUFFER, burst_s=15.0))
    back, bursting = studio.tune_in(offset_s=35), studio.tune_in(sndbuf=SMALL)
    assert bursting.listener.playhead.pos + MAX_BUFFER < len(studio.air.audio)
    for _ in range(5):
        studio.air.play(2)
        studio.round()
        back.read()
        while len(bursting.got) < len(HEAD) + 1 or len(bursting.got) % 16_000:
            before = len(bursting.got)
            bursting.read(16_000 - before % 16_000)
            studio.turn()
            if len(bursting.got) == before:
                break
    assert not studio.ends
    assert bursting.listener.late


async def test_once_level_the_burst_is_no_excuse(make_studio: MakeStudio) -> None:
    """After it was level its lag is bounded by max_buffer alone."""
    studio = make_studio(played(80), entry(max_buffer=MAX_BUFFER, burst_s=20.0))
    player = studio.tune_in(sndbuf=SMALL)
    rounds(studio, 1, player)
    assert not player.listener.late
    rounds(studio, 6)
    assert len(studio.ends) == 1


async def test_a_slow_reader_catches_up_exactly(make_studio: MakeStudio) -> None:
    """It reads odd amounts for a while, then all: not a byte lost, twice or moved, raw and ICY with titles changing."""
    studio = make_studio(played(), entry(meta_interval=3_000, max_buffer=1 << 20))
    players = [studio.tune_in(icy=icy, sndbuf=SMALL) for icy in (True, False)]
    odd = random.Random(5)
    for second in range(25):
        studio.air.title(f"Song {second}")
        studio.air.play(2)
        studio.round()
        for player in players:
            player.read(odd.randrange(20_000))
        studio.turn()
    assert all(player.listener.late for player in players)
    studio.read_all()
    for player in players:
        assert not player.listener.late
        assert player.body == studio.expected(player, len(studio.air.audio))
        row = studio.row(player)
        assert (row.total, row.pos) == (len(player.got), len(studio.air.audio))


async def test_rows_of_late_listeners_agree_with_what_the_kernel_took(
    make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any checkpoint the walk gives the stream that was really written, wherever the kernel cut the sends: in heads and blocks too."""
    odd, full, cuts = random.Random(9), False, 0

    def writev(fd: int, buffers: list[bytes | memoryview]) -> int:
        nonlocal full, cuts
        full = not full and odd.random() < 0.2
        if full:
            raise BlockingIOError
        whole, before = b"".join(buffers), 0
        for buffer in buffers:
            if isinstance(buffer, bytes) and len(buffer) > 1 and odd.random() < 0.7:
                full, cuts = True, cuts + 1  # and nothing more this turn
                return os.write(fd, whole[: before + odd.randrange(1, len(buffer))])
            before += len(buffer)
        return os.write(fd, whole[: odd.randrange(1, 9_000)])

    monkeypatch.setattr("os.writev", writev)
    studio = make_studio(played(), entry(meta_interval=3_000, max_buffer=1 << 20))
    player = studio.tune_in(icy=True, sndbuf=SMALL)
    rows = []
    for second in range(20):
        studio.air.title(f"Song {second}")
        studio.air.play(2)
        studio.round()
        player.read(9_000)
        studio.turn()
        rows.append(studio.row(player))
    for _ in range(200):
        studio.read_all()
        full = False
    assert cuts > 10
    assert not player.listener.late
    end = len(studio.air.audio)
    for row in rows:
        walked = studio.air.sent(row.pos, end, 3_000, until_meta=row.until_meta, title=row.title)
        assert player.got[row.total :] == walked


@pytest.mark.parametrize("icy", [False, True])
async def test_skip_keeps_whole_chunks_and_the_metadata_alignment(make_studio: MakeStudio, icy: bool) -> None:
    """`slow_listener = "skip"`: it stays, gets whole chunks and then whole newer ones; blocks come where the player awaits them."""
    studio = make_studio(played(), entry(meta_interval=3_000, max_buffer=MAX_BUFFER, skip_slow=True, burst_s=1.0))
    slow, other = studio.tune_in(icy=icy, sndbuf=SMALL), studio.tune_in()
    for second in range(40):
        studio.air.title(f"Song {second}")
        rounds(studio, 1, other)
        slow.read(6_000)
        studio.turn()
    rounds(studio, 2, other, slow)
    assert not studio.ends
    assert slow.listener.skips >= 2
    assert studio.count(Count.SKIPPED) == slow.listener.skips
    assert other.body == studio.expected(other, len(studio.air.audio))
    audio = slow.body if not icy else without_blocks(slow.body, 3_000)
    pieces = chunks_of(studio.air, audio)
    assert pieces == sorted(set(pieces))
    assert sum(after != before + 1 for before, after in pairwise(pieces)) == slow.listener.skips
    row = studio.row(slow)
    assert (row.total, row.pos) == (len(slow.got), len(studio.air.audio))
    assert studio.count(Count.DROPPED_SLOW) == 0


async def test_after_a_skip_there_is_room(make_studio: MakeStudio) -> None:
    """It goes on a burst behind, at most half of max_buffer, so that it does not skip again at once."""
    studio = make_studio(played(), entry(max_buffer=MAX_BUFFER, skip_slow=True, burst_s=10.0))
    slow = studio.tune_in(sndbuf=SMALL)
    rounds(studio, 1, slow)
    rounds(studio, 6)
    assert studio.count(Count.SKIPPED) == 1
    while not slow.listener.skips:
        slow.read(1_000)
        studio.turn()
    assert len(studio.air.audio) - slow.listener.playhead.pos <= MAX_BUFFER // 2


async def test_a_late_listener_lapped_by_the_ring_ends_with_true_bytes_only(make_studio: MakeStudio) -> None:
    """It read nothing while the ring went round; when its socket takes bytes again it is too late."""
    air = Air(window_s=5, max_bytes_s=1_000, max_buffer=65_536)
    air.play(60)
    studio = make_studio(air, entry(max_buffer=1 << 30, skip_slow=True))
    slow, icy = studio.tune_in(sndbuf=SMALL, tcp=False), studio.tune_in(icy=True, sndbuf=SMALL)
    for _ in range(120):
        air.play(4, 2_000)
        studio.round()
    studio.read_all()
    assert {why for _, why in studio.ends} == {"overtaken by the buffer"}
    assert studio.count(Count.LAPPED) == 2
    for player in (slow, icy):
        assert player.ended
        assert studio.expected(player, len(air.audio)).startswith(player.body)


async def test_a_late_listener_lapped_during_its_send_ends(make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after the send: what it got may be wrong, so it gets nothing more."""
    air = Air(window_s=5, max_bytes_s=1_000, max_buffer=65_536)
    air.play(60)
    studio = make_studio(air, entry())
    player = studio.tune_in(sndbuf=SMALL)
    assert player.listener.late
    real_writev = os.writev

    def stopped_for_long(fd: int, buffers: list[bytes]) -> int:
        air.play(400, 2_000)
        return real_writev(fd, buffers)

    player.read()
    monkeypatch.setattr("os.writev", stopped_for_long)
    studio.fanout.push(player.listener)
    assert [why for _, why in studio.ends] == ["overtaken by the buffer"]


async def test_a_peer_that_is_gone_in_the_middle_of_its_burst(make_studio: MakeStudio) -> None:
    """A reset connection ends that listener, once, and leaves the fan-out as it was."""
    studio = make_studio(played(80), entry(burst_s=20.0))
    player = studio.tune_in(sndbuf=SMALL)
    assert player.listener.late
    player.sock.close()
    studio.fanout.push(player.listener)
    studio.fanout.leave(player.listener, "again")
    assert [why for _, why in studio.ends] == ["connection lost"]
    assert studio.present() == (0, 0, 0)


def without_blocks(body: bytes, interval: int) -> bytes:
    """The audio of an ICY answer; each block must start where its length byte is awaited and hold a title or nothing."""
    audio, at = bytearray(), 0
    while at < len(body):
        audio += body[at : at + interval]
        at += interval
        if at < len(body):
            size = body[at] * 16
            block = body[at + 1 : at + 1 + size]
            assert not size or block.startswith(b"StreamTitle='Song ")
            at += 1 + size
    return bytes(audio)


def chunks_of(air: Air, audio: bytes) -> list[int]:
    """Which chunks this audio is made of; it must be made of whole ones."""
    known = {bytes(air.audio[start : start + CHUNK]): number for number, start in enumerate(air.starts)}
    assert len(audio) % CHUNK == 0
    return [known[audio[at : at + CHUNK]] for at in range(0, len(audio), CHUNK)]
