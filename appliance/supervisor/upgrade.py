"""Handing over to a new generation, as the old one sees it: a pure state machine. The executor is supervisor/handing_over.py.

S1 is this process, S2 its successor. Everything S1 gives it keeps a duplicate of until the commit, which is S2's word that it has taken
all; until then S2 writes to nothing. So every failure before the commit is answered by taking back, and after it S1 touches nothing.

Failure table:

| phase      | event                            | follows                                                                          |
|------------|----------------------------------|----------------------------------------------------------------------------------|
| IDLE       | reload asked for                 | S2 is started: PREPARING                                                           |
| any other  | reload asked for                 | refused in plain words; the one under way goes on                                  |
| PREPARING  | S2 refuses (config, code, ports) | its reason is the answer: IDLE; nothing was given, nothing was stopped             |
| PREPARING  | S2 ends, or hangs over the limit | killed; IDLE, as above                                                             |
| PREPARING  | S2 is prepared                   | ingest stops reading, workers let go of their listeners: RELEASING                 |
| RELEASING  | S2 ends                          | taken back: new workers of this generation, sources read again: IDLE               |
| RELEASING  | a worker does not let go in time | it is killed: its listeners are known all the same                                 |
| RELEASING  | all workers are gone             | everything is given: GIVING                                                        |
| GIVING     | S2 ends or hangs over the limit  | killed, then taken back: IDLE                                                      |
| GIVING     | S2 has taken all                 | COMMITTED: S2 is told to go; this process ends at once                             |
| COMMITTED  | anything                         | nothing: what is alive is S2's                                                     |
| any        | S1 dies                          | S2 reads EOF: before the commit it ends too (systemd starts a third from the fd    |
|            |                                  | store), after it it goes on                                                        |
| any        | stop asked for                   | S2 is killed if it was not committed; then as without it                           |
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

PREPARE_LIMIT_S: Final = 60.0
"""Loading code and config and starting workers takes one or two seconds; a minute on a box that swaps."""
RELEASE_LIMIT_S: Final = 3.0
"""Workers let go within milliseconds; one that hangs is killed, which costs its listeners nothing."""
GIVE_LIMIT_S: Final = 20.0
"""A hundred messages of a hundred connections each; meanwhile listeners play from their own buffers."""


class Phase(enum.Enum):
    """Where the handing over is."""

    IDLE = "idle"
    PREPARING = "preparing"
    RELEASING = "releasing"
    GIVING = "giving"
    COMMITTED = "committed"


class Spawn(NamedTuple):
    """Start S2."""


class Release(NamedTuple):
    """Stop reading sources; have the workers let go of everything."""


class KillWorkers(NamedTuple):
    """End the workers that did not let go."""


class Give(NamedTuple):
    """Pass everything to S2."""


class Commit(NamedTuple):
    """Tell the service manager and S2; end."""


class KillSuccessor(NamedTuple):
    """End S2, and wait for its end: it must not be alive when things are taken back."""


class TakeBack(NamedTuple):
    """Serve on with what was to be given."""


class Answer(NamedTuple):
    """Say how it went to whoever asked; an empty reason is success."""

    reason: str


Action = Spawn | Release | KillWorkers | Give | Commit | KillSuccessor | TakeBack | Answer


class Upgrade:
    """Events in, actions out. `now_s` is monotonic."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self._since_s = 0.0
        self._killed = False

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self._since_s, self._killed = phase, now_s, False

    def asked(self, now_s: float) -> list[Action]:
        """Somebody wants a reload."""
        if self.phase is not Phase.IDLE:
            return [Answer("a reload is under way already")]
        self._enter(Phase.PREPARING, now_s)
        return [Spawn()]

    def prepared(self, now_s: float) -> list[Action]:
        """S2 has loaded, validated, and started its workers."""
        if self.phase is not Phase.PREPARING:
            return []
        self._enter(Phase.RELEASING, now_s)
        return [Release()]

    def released(self, now_s: float) -> list[Action]:
        """All workers of this generation are gone; their listeners are known."""
        if self.phase is not Phase.RELEASING:
            return []
        self._enter(Phase.GIVING, now_s)
        return [Give()]

    def taken(self, now_s: float) -> list[Action]:
        """S2 has all: the commit."""
        if self.phase is not Phase.GIVING:
            return []
        self._enter(Phase.COMMITTED, now_s)
        return [Commit()]

    def failed(self, reason: str, now_s: float) -> list[Action]:
        """S2 refused, ended, or could not be talked to."""
        before = self.phase
        if before in {Phase.IDLE, Phase.COMMITTED}:
            return []
        self._enter(Phase.IDLE, now_s)
        taking_back: list[Action] = [] if before is Phase.PREPARING else [TakeBack()]
        return [KillSuccessor(), *taking_back, Answer(reason)]

    def tick(self, now_s: float) -> list[Action]:
        """Time went by."""
        waited_s = now_s - self._since_s
        if self.phase is Phase.PREPARING and waited_s > PREPARE_LIMIT_S:
            return self.failed(f"the new process was not ready after {PREPARE_LIMIT_S:.0f} s", now_s)
        if self.phase is Phase.RELEASING and waited_s > RELEASE_LIMIT_S and not self._killed:
            self._killed = True
            return [KillWorkers()]
        if self.phase is Phase.GIVING and waited_s > GIVE_LIMIT_S:
            return self.failed(f"the new process did not take over within {GIVE_LIMIT_S:.0f} s", now_s)
        return []

    def stopping(self, now_s: float) -> list[Action]:
        """This process is told to stop: an uncommitted successor goes first, and what was let go is taken back to be ended properly."""
        return self.failed("the server stops", now_s)
