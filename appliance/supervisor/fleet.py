"""Which workers run and who accepts on which listening slot: a pure state machine. The executor is supervisor/workers.py.

Failure table (state, event -> what follows):

| state    | event             | follows                                                                                         |
|----------|-------------------|-------------------------------------------------------------------------------------------------|
| any      | worker died       | its slots go to the live workers at once, a launch follows: now, or after a back-off if it keeps dying |
| starting | launch failed     | the same, and the reason is told                                                                |
| starting | not ready in time | killed; its death follows                                                                       |
| serving  | heartbeat stopped | killed; its death follows                                                                       |
| all dead | -                 | slots keep their connections in the kernel's backlog until the first worker serves               |
| stopping | worker died       | no launch; when the last is gone: AllGone                                                        |
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

READY_TIMEOUT_S: Final = 20.0
"""From launch to serving: 0.1 s warm, a second cold; twenty on a box that swaps."""
SILENCE_S: Final = 20.0
"""A worker whose loop has not turned for this long serves nobody: it is replaced. Beats come every second."""
STABLE_S: Final = 30.0
"""A worker that served this long and dies is replaced at once; one that dies sooner is retried ever more slowly."""
BACKOFF_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


class Phase(enum.Enum):
    """Where a worker is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    DEAD = "dead"


class Launch(NamedTuple):
    """Start a worker for this place."""

    place: int


class Kill(NamedTuple):
    """End a worker that does not answer."""

    place: int
    reason: str


class Assign(NamedTuple):
    """Who accepts on what, for every serving worker: place -> listening slots."""

    slots: dict[int, list[int]]


class StopWorker(NamedTuple):
    """Tell a worker to drain and end."""

    place: int


class AllGone(NamedTuple):
    """The fleet has stopped."""


Action = Launch | Kill | Assign | StopWorker | AllGone


class Place:
    """One worker's place in the fleet: it outlives the processes that fill it."""

    def __init__(self) -> None:
        self.phase = Phase.DEAD
        self.since_s = 0.0
        self.beat_s = 0.0
        self.failures = 0
        self.restarts = 0


class Fleet:
    """`count` places and `slots` listening slots (as many, if not said). Each event returns the actions to perform, in order."""

    def __init__(self, count: int, slots: int | None = None) -> None:
        self.places = [Place() for _ in range(count)]
        self.slots = count if slots is None else slots
        self._stopping = False

    def start(self, now_s: float) -> list[Action]:
        """Launch everybody who does not run already."""
        return [self._launch(place, now_s) for place, one in enumerate(self.places) if one.phase is Phase.DEAD]

    def rejoined(self, place: int, now_s: float) -> None:
        """A worker of a former supervisor fills this place; `ready` follows when it has been told what is new."""
        self._enter(place, Phase.STARTING, now_s)

    def _launch(self, place: int, now_s: float) -> Launch:
        self._enter(place, Phase.STARTING, now_s)
        return Launch(place)

    def _enter(self, place: int, phase: Phase, now_s: float) -> None:
        self.places[place].phase = phase
        self.places[place].since_s = self.places[place].beat_s = now_s

    def ready(self, place: int, now_s: float) -> list[Action]:
        """A worker has all it needs to serve."""
        if self._stopping or self.places[place].phase is not Phase.STARTING:
            return []
        self._enter(place, Phase.SERVING, now_s)
        return [self._assign()]

    def died(self, place: int, now_s: float) -> list[Action]:
        """A worker's process is gone, or its launch failed."""
        one = self.places[place]
        served = one.phase is Phase.SERVING
        if one.phase in {Phase.DEAD, Phase.WAITING}:
            return []
        lasted_s = now_s - one.since_s
        self._enter(place, Phase.DEAD, now_s)
        if self._stopping:
            return [AllGone()] if all(other.phase in {Phase.DEAD, Phase.WAITING} for other in self.places) else []
        one.failures = 0 if served and lasted_s >= STABLE_S else one.failures + 1
        one.restarts += 1
        actions: list[Action] = [self._assign()] if served else []
        if self._backoff_s(one) == 0:
            return [*actions, self._launch(place, now_s)]
        self._enter(place, Phase.WAITING, now_s)
        return actions

    @staticmethod
    def _backoff_s(place: Place) -> float:
        return BACKOFF_S[min(max(0, place.failures - 1), len(BACKOFF_S) - 1)]

    def beat(self, place: int, now_s: float) -> None:
        """A worker's loop has turned."""
        self.places[place].beat_s = now_s

    def tick(self, now_s: float) -> list[Action]:
        """Time went by: retries that are due, workers that do not answer (killed once per time-out, not at every tick)."""
        actions: list[Action] = []
        for place, one in enumerate(self.places):
            if one.phase is Phase.WAITING and not self._stopping and now_s - one.since_s >= self._backoff_s(one):
                actions.append(self._launch(place, now_s))
            elif one.phase is Phase.STARTING and now_s - one.since_s > READY_TIMEOUT_S:
                one.since_s = now_s
                actions.append(Kill(place, f"not ready after {READY_TIMEOUT_S:.0f} s"))
            elif one.phase is Phase.SERVING and now_s - one.beat_s > SILENCE_S:
                one.beat_s = now_s
                actions.append(Kill(place, f"no sign of life for {SILENCE_S:.0f} s"))
        return actions

    def stop(self, now_s: float) -> list[Action]:
        """Stop everybody; asked again, go on stopping."""
        if self._stopping:
            return []
        self._stopping = True
        actions: list[Action] = []
        for place, one in enumerate(self.places):
            if one.phase in {Phase.SERVING, Phase.STARTING}:
                self._enter(place, Phase.DRAINING, now_s)
                actions.append(StopWorker(place))
            else:
                one.phase = Phase.DEAD
        return actions or [AllGone()]

    def _assign(self) -> Assign:
        """Every slot to exactly one live worker, its own if that serves, else shared out; with fewer slots than workers, some share one
        (MECHANICS 8)."""
        live = [place for place, one in enumerate(self.places) if one.phase is Phase.SERVING]
        slots: dict[int, list[int]] = {place: [] for place in live}
        orphans = [slot for slot in range(self.slots) if slot not in slots]
        for place in live:
            if place < self.slots:
                slots[place].append(place)
        takers = sorted(live, key=lambda place: len(slots[place]))
        for turn, slot in enumerate(orphans if live else []):
            slots[takers[turn % len(takers)]].append(slot)
        for place in live:
            if not slots[place] and self.slots:
                slots[place].append(place % self.slots)
        return Assign(slots)
