"""Telling the supervisor of listeners that lasted and that ended; rows are used again only when it has noted the end."""

from __future__ import annotations

from collections.abc import Callable

from appliance.channel.messages import DropListeners, KeepListeners, Noted
from appliance.worker.keeping import BATCH, LASTING_US, Keeping
from tests.worker.studio import Player, Studio, played

MakeStudio = Callable[..., Studio]


class Told:
    """A channel that notes, or refuses."""

    def __init__(self) -> None:
        self.messages: list[KeepListeners | DropListeners] = []
        self.open = True

    def __call__(self, message: KeepListeners | DropListeners, fds: list[int]) -> bool:
        if self.open:
            self.messages.append(message)
            assert not isinstance(message, KeepListeners) or len(fds) == len(message.listeners) <= BATCH
        return self.open


def kept_studio(make_studio: MakeStudio, players: int) -> tuple[Studio, Keeping, Told, list[Player]]:
    """A studio whose listeners are told of."""
    studio, told = make_studio(played()), Told()
    keeping = Keeping(studio.table, told, studio.clock.monotonic_us)
    tuned = [studio.tune_in(icy=number % 2 == 1) for number in range(players)]
    for player in tuned:
        keeping.joined(player.listener)
    return studio, keeping, told, tuned


async def test_only_those_that_lasted_are_told_of_in_batches(make_studio: MakeStudio) -> None:
    """Nothing in the first second; then everybody once, whoever left before not at all."""
    studio, keeping, told, players = kept_studio(make_studio, BATCH + 5)
    keeping.tick()
    assert told.messages == []
    studio.fanout.leave(players[0].listener, "left")
    studio.clock.advance(LASTING_US / 1e6)
    keeping.tick()
    keeping.tick()
    assert [len(message.listeners) for message in told.messages if isinstance(message, KeepListeners)] == [BATCH, 4]
    told_of = [kept for message in told.messages if isinstance(message, KeepListeners) for kept in message.listeners]
    assert {kept.row for kept in told_of} == {player.listener.row for player in players[1:]}
    assert {kept.interval for kept in told_of} == {0, players[1].listener.playhead.interval}


async def test_rows_of_the_ended_wait_for_the_supervisor(make_studio: MakeStudio) -> None:
    """Row of a told-of listener: not claimed by anybody before the end was noted."""
    studio, keeping, told, players = kept_studio(make_studio, 2)
    studio.clock.advance(LASTING_US / 1e6)
    keeping.tick()
    row = players[0].listener.row
    assert keeping.left(players[0].listener)
    keeping.tick()
    drop = told.messages[-1]
    assert isinstance(drop, DropListeners) and drop.ids == [players[0].listener.kept_id]
    assert studio.table.claim(0, 1, 0) != row
    keeping.noted(Noted(drop.batch))
    assert studio.table.claim(0, 1, 0) == row


async def test_a_closed_channel_loses_nothing_of_the_ended(make_studio: MakeStudio) -> None:
    """What could not be said is said at the next tick; who was not told of has no id."""
    studio, keeping, told, players = kept_studio(make_studio, 1)
    studio.clock.advance(LASTING_US / 1e6)
    told.open = False
    keeping.tick()
    assert players[0].listener.kept_id == 0
    assert not keeping.left(players[0].listener)
