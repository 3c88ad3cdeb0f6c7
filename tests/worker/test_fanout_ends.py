"""How listeners end: by themselves, overtaken by the ring, with their stream, with the worker. The others never notice."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from appliance.ring.counters import Count, StreamCount
from appliance.worker.fanout import PHASES
from tests.fakes import entry
from tests.worker.conftest import MakeStudio
from tests.worker.studio import HEAD, played


async def test_whoever_leaves_is_forgotten_and_the_others_go_on(make_studio: MakeStudio) -> None:
    """EOF from a listener ends it at once: its row is free, the counters fall, nobody else notices."""
    studio = make_studio(played())
    players = [studio.tune_in() for _ in range(4)]
    studio.tune_in(offset_s=10)
    assert studio.present() == (5, 5, 1)
    players[1].sock.close()
    studio.turn()
    assert [why for _, why in studio.ends] == ["left"]
    assert studio.present() == (4, 4, 1)
    assert studio.table.read(players[1].listener.row) is None
    players[2].sock.close()  # a reset found by the send itself
    studio.stream.learn()
    studio.air.play(2)
    studio.round()
    studio.read_all()
    assert studio.present() == (3, 3, 1)
    assert players[0].body == studio.expected(players[0], len(studio.air.audio))
    assert studio.stream_count(StreamCount.STARTED) == 5


async def test_a_lapped_cohort_ends_before_a_wrong_byte(make_studio: MakeStudio) -> None:
    """This worker was stopped while the ring went round: the check before the send ends the level listeners, with a RST."""
    air = played(60, window_s=5, max_bytes_s=1_000, max_buffer=65_536)
    studio = make_studio(air, entry())
    players = [studio.tune_in(tcp=True), studio.tune_in(icy=True)]
    studio.round()
    end = len(air.audio)
    studio.read_all()
    air.play(400, 2_000)
    studio.round()
    studio.read_all()
    assert [why for _, why in studio.ends] == ["overtaken by the buffer"] * 2
    assert studio.count(Count.LAPPED) == 2
    assert all(player.ended and player.body == studio.expected(player, end) for player in players)
    assert players[0].reset


async def test_a_listener_lapped_during_the_send_never_goes_on(make_studio: MakeStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check after the send: the limit went past the span's start while it was sent. All of the cohort end; TCP says RST."""
    air = played(60, window_s=5, max_bytes_s=1_000, max_buffer=65_536)
    studio = make_studio(air, entry())
    player = studio.tune_in(tcp=True)
    real_write = os.write
    air.play(2)
    studio.stream.learn()
    lapped = False

    def stopped_for_long(fd: int, data: memoryview) -> int:
        nonlocal lapped
        lapped = True
        air.play(400, 2_000)
        return int(real_write(fd, data))

    studio.read_all()
    good = player.body
    monkeypatch.setattr("os.write", stopped_for_long)
    for _ in range(PHASES):
        studio.fanout._serve_next()
    assert lapped
    assert studio.ends[0][1] == "overtaken by the buffer while stopped"
    studio.read_all()
    assert player.ended
    assert player.body.startswith(good)
    assert len(player.body) <= len(good) + 2 * 8_000  # that span at most
    assert studio.count(Count.LAPPED) == 1
    assert studio.present() == (0, 0, 0)


async def test_end_of_a_stream(make_studio: MakeStudio) -> None:
    """RemoveStream: its listeners end, with the reason."""
    studio = make_studio(played())
    studio.tune_in()
    studio.tune_in(offset_s=5)
    studio.fanout.end_stream(studio.stream)
    assert [why for _, why in studio.ends] == ["stream removed"] * 2
    studio.read_all()
    assert all(player.ended for player in studio.players)


async def test_drain_sends_what_is_due_then_fin(make_studio: MakeStudio) -> None:
    """Stop: the level at once, the late when they are level; then FIN, and the connection goes when its peer closes."""
    studio = make_studio(played())
    level, late, rewound = studio.tune_in(), studio.tune_in(sndbuf=4_608), studio.tune_in(offset_s=10)
    studio.read_all()
    for _ in range(3):
        studio.air.play(2)
        studio.round()
    assert late.listener.late
    studio.air.play(2)
    studio.stream.learn()
    studio.fanout.drain()
    level.read()
    assert level.ended
    assert not late.ended
    studio.read_all()
    for player in (level, late):
        assert player.ended
        assert not player.reset
        assert player.body == studio.expected(player, len(studio.air.audio))
    assert rewound.ended
    assert rewound.body == studio.air.sent(20 * 8_000, (20 + 4 + 8) * 8_000)
    assert studio.present()[0] == 3
    for player in studio.players:
        player.sock.close()
    studio.turn()
    assert studio.present() == (0, 0, 0)


async def test_a_drained_listener_is_let_go_once_its_peer_has_everything(make_studio: MakeStudio) -> None:
    """The FIN is acknowledged: there is nothing to wait for, although the peer keeps its end open. Who has not read yet is waited for."""
    studio = make_studio(played(80), entry(burst_s=20.0))
    player, slow = studio.tune_in(tcp=True), studio.tune_in(tcp=True)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    studio.read_all()
    studio.fanout.drain()
    async with asyncio.timeout(3):
        while player.listener in studio.fanout.listeners:
            player.read()
            studio.turn()
            studio.fanout.end_flushed()
            await asyncio.sleep(0)
    assert player.read()[len(HEAD) :] == studio.expected(player, len(studio.air.audio))
    assert (player.ended, player.reset) == (True, False)
