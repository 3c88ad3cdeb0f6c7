"""Going on at the exact byte: the walk from a checkpoint to what TCP says was written, against the playhead that really wrote it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from appliance.channel.messages import Kept, Stand
from appliance.ring.listeners import ListenerTable
from appliance.worker import adoption
from appliance.worker.adoption import CannotGoOn, playhead_at
from appliance.worker.playhead import Playhead
from tests import fakes
from tests.worker.studio import HEAD, Player, Studio, played

MakeStudio = Callable[..., Studio]


def stand_of(studio: Studio, player: Player) -> Stand:
    """What the supervisor would know of a listener whose worker dies now."""
    row = studio.row(player)
    kept = Kept(1, player.listener.row, 0, player.listener.playhead.interval, player.listener.cohort.distance)
    return Stand(kept, row.start_pos, row.total, row.pos, row.until_meta, row.title)


def state(head: Playhead) -> tuple[object, ...]:
    """All that decides which byte comes next."""
    return head.pos, head.meta_at, head.title, bytes(head.pending), head.total


async def test_the_walk_ends_where_the_playhead_stands(make_studio: MakeStudio) -> None:
    """Raw and metered, level and late, under titles that change: from the row, at many moments of a life."""
    chance = random.Random(5)
    studio = make_studio(played(), fakes.entry(meta_interval=1_024))
    players = [studio.tune_in(icy=icy, sndbuf=sndbuf) for icy in (False, True) for sndbuf in (0, 4_608) for _ in range(3)]
    compared = 0
    for number in range(40):
        studio.air.title(f"a title of some length, number {number}")
        studio.air.play(chance.randint(1, 3), chance.randint(100, 9_000))
        studio.round()
        for player in players:
            player.read(chance.choice((0, 100, 5_000, 1 << 20)))
        studio.turn()
        for player in players:
            written, head = player.listener.total, player.listener.playhead
            if written < len(HEAD) or player.listener not in studio.fanout.listeners:
                continue  # not begun, or dropped as too slow
            found = playhead_at(stand_of(studio, player), studio.stream, written)
            assert state(found) == state(head)
            compared += 1
    assert compared >= 200


async def test_from_any_byte_on_the_rest_is_what_would_have_come(make_studio: MakeStudio) -> None:
    """Whatever the kernel took before the worker died, also half a block: the old bytes and the new ones are one stream."""
    chance = random.Random(7)
    studio = make_studio(played(), fakes.entry(meta_interval=1_024))
    players = [studio.tune_in(icy=icy) for icy in (False, True)]
    stands = [stand_of(studio, player) for player in players]
    for number in range(30):
        studio.air.title(f"number {number}, " + "a long title, " * 40)
        studio.air.play(1, chance.randint(100, 5_000))
        studio.round()
        studio.read_all()
    in_block = 0
    for player, stand in zip(players, stands, strict=True):
        end = player.listener.cohort.pos
        for written in [stand.total, len(player.got), *(chance.randint(stand.total, len(player.got)) for _ in range(300))]:
            head = playhead_at(stand, studio.stream, written)
            assert b"".join(head.gather(studio.stream, end)[0]) == player.got[written:]
            in_block += bool(head.pending)
    assert in_block > 20


async def test_a_head_that_was_not_sent_cannot_be_gone_on_with(make_studio: MakeStudio) -> None:
    """Nobody but the dead worker knew its bytes."""
    studio = make_studio(played())
    player = studio.tune_in()
    with pytest.raises(CannotGoOn, match="head"):
        playhead_at(stand_of(studio, player), studio.stream, len(HEAD) - 1)


async def test_more_bytes_than_the_ring_has_are_not_believed(make_studio: MakeStudio) -> None:
    """A count that does not fit ends the listener rather than the truth of its bytes."""
    studio = make_studio(played())
    player = studio.tune_in()
    with pytest.raises(CannotGoOn, match="more bytes"):
        playhead_at(stand_of(studio, player), studio.stream, 1 << 30)


async def test_adopting_claims_a_row_that_leads_to_the_same_byte(make_studio: MakeStudio) -> None:
    """Over real TCP: the count is the kernel's; the new row's checkpoint is as good as the old one's."""
    studio = make_studio(played(), fakes.entry(meta_interval=2_000))
    player = studio.tune_in(icy=True, tcp=True)
    studio.air.play(4)
    studio.round()
    studio.read_all()
    stand = stand_of(studio, player)
    table_fd = ListenerTable.create("next")
    table = ListenerTable(table_fd, writable=True)
    duplicate = os.dup(player.listener.fd)
    adopted = adoption.adopt(stand, duplicate, studio.stream, studio.fanout, table)
    assert adopted.playhead.total == player.listener.total == len(player.got)
    assert state(adopted.playhead) == state(player.listener.playhead)
    row = table.read(adopted.row)
    assert row is not None
    again = Stand(stand.kept, row.start_pos, row.total, row.pos, row.until_meta, row.title)
    assert state(playhead_at(again, studio.stream, len(player.got))) == state(player.listener.playhead)
    adopted.sock.close()
    os.close(table_fd)


async def test_what_is_no_connection_or_no_stream_is_closed(make_studio: MakeStudio) -> None:
    """With a reason; the fd is not leaked."""
    studio = make_studio(played())
    player = studio.tune_in(tcp=True)
    stand = stand_of(studio, player)
    bad = os.memfd_create("x"), studio.stream, "not a connection"
    for fd, stream, words in (bad, (os.dup(player.listener.fd), None, "no longer served")):
        with pytest.raises(CannotGoOn, match=words):
            adoption.adopt(stand, fd, stream, studio.fanout, studio.table)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
