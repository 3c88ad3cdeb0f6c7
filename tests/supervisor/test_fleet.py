"""The fleet's failure table, row by row, and what holds for any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.supervisor.fleet import (
    BACKOFF_S,
    READY_TIMEOUT_S,
    SILENCE_S,
    STABLE_S,
    Action,
    AllGone,
    Assign,
    Fleet,
    Kill,
    Launch,
    Phase,
    StopWorker,
)


def serving(count: int, now_s: float = 100.0) -> Fleet:
    """A fleet whose workers all serve."""
    fleet = Fleet(count)
    fleet.start(now_s)
    for place in range(count):
        fleet.ready(place, now_s)
    return fleet


def assigned(actions: list[Action]) -> dict[int, list[int]]:
    """The one assignment among the actions."""
    (found,) = [action.slots for action in actions if isinstance(action, Assign)]
    return found


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


# --- the table ---


def test_start_launches_everybody() -> None:
    assert Fleet(3).start(0) == [Launch(0), Launch(1), Launch(2)]


def test_the_first_that_serves_gets_every_slot_until_the_others_do() -> None:
    """No slot waits for a slow starter."""
    fleet = Fleet(3)
    fleet.start(0)
    assert assigned(fleet.ready(1, 0.1)) == {1: [1, 0, 2]}
    assert assigned(fleet.ready(0, 0.2)) == {0: [0, 2], 1: [1]}
    assert assigned(fleet.ready(2, 0.3)) == {0: [0], 1: [1], 2: [2]}


def test_any_worker_died_its_slots_go_to_the_live_and_it_is_launched() -> None:
    fleet = serving(2)
    actions = fleet.died(0, 200)
    assert actions == [Assign({1: [1, 0]}), Launch(0)]
    assert assigned(fleet.ready(0, 200.1)) == {0: [0], 1: [1]}


def test_orphaned_slots_are_shared_out_evenly() -> None:
    """Four places, two dead: each live worker gets one slot more."""
    fleet = serving(4)
    fleet.died(1, 200)
    assert assigned(fleet.died(3, 200)) == {0: [0, 1], 2: [2, 3]}


def test_any_worker_died_soon_again_is_launched_ever_later() -> None:
    """The first time at once, then after growing waits, never longer than the last."""
    fleet = serving(1)
    now, waited = 100.0, []
    for _ in range(8):
        now += 0.2
        actions = fleet.died(0, now)
        died_at = now
        while Launch(0) not in actions:
            now += 0.1
            actions = fleet.tick(now)
        waited.append(now - died_at)
        now += 0.1
        fleet.ready(0, now)
    assert waited == pytest.approx([*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]], abs=0.11)


def test_a_worker_that_served_long_is_replaced_at_once() -> None:
    """Whatever was before."""
    fleet = serving(1)
    for second in range(6):
        fleet.died(0, 101 + second * 10)
        fleet.tick(109 + second * 10)
        fleet.ready(0, 109 + second * 10)
    assert Launch(0) in fleet.died(0, 200 + STABLE_S)
    assert fleet.places[0].restarts == 7


def test_starting_launch_failed_is_a_death() -> None:
    """At once a second time, then with a wait; slots stay where they are."""
    fleet = Fleet(2)
    fleet.start(0)
    fleet.ready(1, 0.1)
    assert fleet.died(0, 0.2) == [Launch(0)]
    assert fleet.died(0, 0.3) == []
    assert fleet.tick(0.35) == []
    assert fleet.tick(0.41) == [Launch(0)]


def test_starting_not_ready_in_time_is_killed_and_its_death_follows() -> None:
    fleet = Fleet(1)
    fleet.start(0)
    assert fleet.tick(READY_TIMEOUT_S) == []
    (kill,) = fleet.tick(READY_TIMEOUT_S + 0.1)
    assert isinstance(kill, Kill)
    assert fleet.died(0, READY_TIMEOUT_S + 0.2) == [Launch(0)]


def test_serving_heartbeat_stopped_is_killed_and_its_death_follows() -> None:
    fleet = serving(2)
    fleet.beat(1, 100 + SILENCE_S)
    (kill,) = fleet.tick(100.1 + SILENCE_S)
    assert isinstance(kill, Kill)
    assert kill.place == 0
    assert kinds(fleet.died(0, 100.2 + SILENCE_S)) == [Assign, Launch]


def test_a_kill_is_told_once_and_again_only_after_another_time_out() -> None:
    """A process in uninterruptible sleep dies late: no line in the log at every tick."""
    fleet = serving(1)
    kills = [kill for tick in range(1, 1000) for kill in fleet.tick(100 + tick / 10)]
    assert len(kills) == int(99.9 / SILENCE_S)
    fleet = Fleet(1)
    fleet.start(0)
    kills = [kill for tick in range(1, 1000) for kill in fleet.tick(tick / 10)]
    assert 1 < len(kills) <= int(99.9 / READY_TIMEOUT_S)


def test_a_beating_worker_is_never_killed() -> None:
    fleet = serving(1)
    for second in range(1, 500):
        fleet.beat(0, 100 + second)
        assert fleet.tick(100 + second) == []


def test_all_dead_slots_wait_for_the_first_that_serves() -> None:
    """Nobody is assigned anything; then one has all."""
    fleet = serving(2)
    fleet.died(0, 200)
    assert assigned(fleet.died(1, 200)) == {}
    assert assigned(fleet.ready(1, 201)) == {1: [1, 0]}


def test_stopping_worker_died_no_launch_and_all_gone_with_the_last() -> None:
    fleet = serving(3)
    assert fleet.stop(200) == [StopWorker(0), StopWorker(1), StopWorker(2)]
    assert fleet.died(1, 201) == []
    assert fleet.died(0, 201) == []
    assert fleet.died(2, 202) == [AllGone()]
    assert fleet.tick(300) == []


def test_stopping_a_worker_that_starts() -> None:
    """It is told to stop too; if it gets ready all the same it is given nothing."""
    fleet = Fleet(2)
    fleet.start(0)
    fleet.ready(0, 0.1)
    assert fleet.stop(0.2) == [StopWorker(0), StopWorker(1)]
    assert fleet.ready(1, 0.3) == []
    fleet.died(0, 0.4)
    assert fleet.died(1, 0.5) == [AllGone()]


def test_stopping_with_nobody_alive_is_all_gone_at_once() -> None:
    fleet = serving(1)
    fleet.died(0, 101)
    fleet.died(0, 102)
    assert fleet.places[0].phase is Phase.WAITING
    assert fleet.stop(102) == [AllGone()]
    assert fleet.tick(1000) == []


def test_stop_asked_twice_goes_on_stopping() -> None:
    """SIGTERM and SIGINT: the second must not say that all are gone while they drain."""
    fleet = serving(2)
    fleet.stop(200)
    assert fleet.stop(201) == []
    assert fleet.died(0, 202) == []
    assert fleet.died(1, 202) == [AllGone()]


def test_late_news_of_the_dead_change_nothing() -> None:
    """A death told twice, readiness of one that waits, a beat of one that is dead."""
    fleet = serving(1)
    fleet.died(0, 101)
    fleet.died(0, 101.1)
    assert fleet.died(0, 101.15) == []
    assert fleet.ready(0, 101.15) == []
    fleet.beat(0, 101.15)
    assert fleet.places[0].restarts == 2


# --- any order of events ---

events = st.lists(
    st.tuples(st.sampled_from(["ready", "died", "beat", "tick", "tick", "beat all"]), st.integers(0, 4), st.floats(0, 25)),
    max_size=80,
)


class World:
    """Carries the fleet's actions out, as the executor does, and checks them."""

    def __init__(self, count: int) -> None:
        self.fleet = Fleet(count)
        self.running: set[int] = set()
        self.ready: set[int] = set()
        self.accepting: dict[int, list[int]] = {}
        self.launches: list[list[float]] = [[] for _ in range(count)]
        self.gone = 0

    def perform(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            if isinstance(action, Launch):
                assert action.place not in self.running, "two processes for one place"
                self.running.add(action.place)
                self.launches[action.place].append(now_s)
            elif isinstance(action, Assign):
                self.accepting = action.slots
            elif isinstance(action, AllGone):
                self.gone += 1
            elif isinstance(action, Kill | StopWorker):
                assert action.place in self.running
        self.check()

    def event(self, name: str, place: int, now_s: float) -> None:
        place %= len(self.launches)
        if name == "ready" and place in self.running - self.ready:
            self.ready.add(place)
            self.perform(self.fleet.ready(place, now_s), now_s)
        elif name == "died" and place in self.running:
            self.running.discard(place)
            self.ready.discard(place)
            self.accepting.pop(place, None)  # its process is gone: it accepts nothing
            self.perform(self.fleet.died(place, now_s), now_s)
        elif name == "beat" and place in self.running:
            self.fleet.beat(place, now_s)
        elif name == "beat all":
            for one in self.running:
                self.fleet.beat(one, now_s)
        elif name == "tick":
            self.perform(self.fleet.tick(now_s), now_s)

    def check(self) -> None:
        """Every slot is accepted by exactly one live worker when there is one, and evenly."""
        held = sorted(slot for slots in self.accepting.values() for slot in slots)
        assert set(self.accepting) == self.ready
        assert held == (list(range(len(self.launches))) if self.ready else [])
        sizes = [len(slots) for slots in self.accepting.values()]
        assert not sizes or max(sizes) - min(sizes) <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), events)
def test_any_order_of_events(count: int, story: list[tuple[str, int, float]]) -> None:
    """Slots are always held as they must be; no place ever has two processes; and all come back in the end."""
    world, now = World(count), 10.0
    world.perform(world.fleet.start(now), now)
    for name, place, after_s in story:
        now += after_s
        world.event(name, place, now)
    for _ in range(3):
        now += BACKOFF_S[-1]
        world.event("beat all", 0, now)
        world.event("tick", 0, now)
        for place in range(count):
            world.event("ready", place, now)
    assert world.ready == set(range(count))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.lists(st.floats(0.001, 2), min_size=20, max_size=120), st.booleans())
def test_no_launch_storm(count: int, lives: list[float], gets_ready: bool) -> None:
    """Workers that die within two seconds, ready or not: never more than four launches of a place in any second, and in the long run
    one in five seconds."""
    world, now = World(count), 10.0
    world.perform(world.fleet.start(now), now)
    for life in lives:
        now += life
        world.event("tick", 0, now)
        for place in range(count):
            if gets_ready:
                world.event("ready", place, now)
            world.event("died", place, now)
    for launches in world.launches:
        assert all(later - earlier > 1 for earlier, later in zip(launches, launches[4:], strict=False))
        assert len(launches) <= len(BACKOFF_S) + 1 + (now - 10) / BACKOFF_S[-1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), events, events)
def test_any_order_of_events_while_stopping(count: int, before: list[tuple[str, int, float]], after: list[tuple[str, int, float]]) -> None:
    """Nothing is launched any more, and AllGone comes exactly once: when the last is gone."""
    world, now = World(count), 10.0
    world.perform(world.fleet.start(now), now)
    for name, place, after_s in before:
        now += after_s
        world.event(name, place, now)
    launched = sum(len(one) for one in world.launches)
    actions = world.fleet.stop(now)
    world.gone += AllGone() in actions
    assert {action.place for action in actions if isinstance(action, StopWorker)} == world.running
    for name, place, after_s in [*after, *(("died", place, 0.0) for place in range(count))]:
        now += after_s
        if name == "died" and place % count in world.running:
            assert world.gone == 0
            world.running.discard(place % count)
            world.gone += AllGone() in world.fleet.died(place % count, now)
        elif name == "ready":
            assert world.fleet.ready(place % count, now) == []
        elif name == "tick":
            assert world.fleet.tick(now) == []
    assert world.gone == 1
    assert sum(len(one) for one in world.launches) == launched
