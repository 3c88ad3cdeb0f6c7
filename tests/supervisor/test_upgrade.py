"""The failure table of a reload, row by row; and that no order of events loses the station."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from appliance.supervisor.upgrade import (
    GIVE_LIMIT_S,
    PREPARE_LIMIT_S,
    RELEASE_LIMIT_S,
    Action,
    Answer,
    Commit,
    Give,
    KillSuccessor,
    KillWorkers,
    Phase,
    Release,
    Spawn,
    TakeBack,
    Upgrade,
)


def at(phase: Phase) -> Upgrade:
    """A state machine that has come to a phase at time 0."""
    upgrade = Upgrade()
    steps = [upgrade.asked, upgrade.prepared, upgrade.released, upgrade.taken]
    for step in steps[: list(Phase).index(phase)]:
        step(0.0)
    assert upgrade.phase is phase
    return upgrade


def kinds(actions: list[Action]) -> list[type]:
    """The actions' kinds."""
    return [type(action) for action in actions]


def test_the_whole_way() -> None:
    """Each step follows from the one before; the commit is the last action."""
    upgrade = Upgrade()
    assert upgrade.asked(0.0) == [Spawn()]
    assert upgrade.prepared(1.0) == [Release()]
    assert upgrade.released(1.1) == [Give()]
    assert upgrade.taken(1.5) == [Commit()]
    assert upgrade.phase is Phase.COMMITTED


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.RELEASING, Phase.GIVING, Phase.COMMITTED])
def test_one_reload_at_a_time(phase: Phase) -> None:
    """A second request gets a plain answer and disturbs nothing."""
    upgrade = at(phase)
    actions = upgrade.asked(0.0)
    assert kinds(actions) == [Answer] and "under way" in str(actions[0])
    assert upgrade.phase is phase


def test_a_refusal_while_preparing_stops_nothing() -> None:
    """Bad config, code that does not import, a process that ends: nothing was given, nothing is taken back."""
    upgrade = at(Phase.PREPARING)
    assert upgrade.failed("streams.a.burst: wrong", 1.0) == [KillSuccessor(), Answer("streams.a.burst: wrong")]
    assert upgrade.phase is Phase.IDLE
    assert upgrade.asked(2.0) == [Spawn()]


@pytest.mark.parametrize("phase", [Phase.RELEASING, Phase.GIVING])
def test_a_failure_after_the_release_takes_back(phase: Phase) -> None:
    """The successor is ended before anything is taken back."""
    upgrade = at(phase)
    assert upgrade.failed("gone", 1.0) == [KillSuccessor(), TakeBack(), Answer("gone")]
    assert upgrade.phase is Phase.IDLE


@pytest.mark.parametrize(("phase", "limit_s"), [(Phase.PREPARING, PREPARE_LIMIT_S), (Phase.GIVING, GIVE_LIMIT_S)])
def test_every_wait_has_a_limit(phase: Phase, limit_s: float) -> None:
    """Not before it, and at once after it."""
    upgrade = at(phase)
    assert upgrade.tick(limit_s - 0.1) == []
    assert KillSuccessor in kinds(upgrade.tick(limit_s + 0.1))
    assert upgrade.phase is Phase.IDLE


def test_workers_that_do_not_let_go_are_killed_once() -> None:
    """Their listeners are known all the same; the reload goes on."""
    upgrade = at(Phase.RELEASING)
    assert upgrade.tick(RELEASE_LIMIT_S - 0.1) == []
    assert upgrade.tick(RELEASE_LIMIT_S + 0.1) == [KillWorkers()]
    assert upgrade.tick(RELEASE_LIMIT_S + 0.2) == []
    assert upgrade.released(RELEASE_LIMIT_S + 0.3) == [Give()]


def test_nothing_is_done_after_the_commit() -> None:
    """What is alive is the successor's."""
    upgrade = at(Phase.COMMITTED)
    assert upgrade.failed("late", 1.0) == []
    assert upgrade.tick(1000.0) == []
    assert upgrade.stopping(1000.0) == []


EVENTS = ["asked", "prepared", "released", "taken", "failed", "tick", "stopping"]


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0.0, 90.0)), max_size=30))
def test_any_order_of_events_keeps_the_station_whole(events: list[tuple[str, float]]) -> None:
    """What was released is given or taken back before anything else is started; a commit ends it; every reload is answered once."""
    upgrade, now, released, spawned, answered, committed = Upgrade(), 0.0, False, 0, 0, False
    for name, wait_s in events:
        now += wait_s
        call = getattr(upgrade, name)
        actions: list[Action] = call("why", now) if name == "failed" else call(now)
        assert not (committed and any(not isinstance(action, Answer) for action in actions))
        for action in actions:
            if isinstance(action, Spawn):
                assert not released
                spawned += 1
            elif isinstance(action, Release):
                released = True
            elif isinstance(action, TakeBack):
                assert released
                released = False
            elif isinstance(action, Give):
                assert released
            elif isinstance(action, Commit):
                assert released
                committed = True
            elif isinstance(action, Answer) and "under way" not in action.reason:
                answered += 1
    assert upgrade.phase is not Phase.IDLE or (answered == spawned and not released)
