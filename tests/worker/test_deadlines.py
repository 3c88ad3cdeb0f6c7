"""Deadlines of many connections, with the clock passed in."""

from __future__ import annotations

from collections.abc import Callable

from appliance.worker.deadlines import Deadlines
from tests.fakes import FakeClock


class One:
    """Something with a deadline."""

    def __init__(self, name: str, expired: list[str], then: Callable[[], None] = lambda: None) -> None:
        self.name, self.expires_s, self._expired, self._then = name, 0.0, expired, then

    def expire(self) -> None:
        self._expired.append(self.name)
        self._then()


def test_each_expires_once_when_due() -> None:
    """Not before, whatever order and length; setting anew starts again; cleared ones never."""
    clock, expired = FakeClock(), list[str]()
    deadlines = Deadlines(clock.now_s)
    a, b, c, d = (One(name, expired) for name in "abcd")
    deadlines.set(a, 10)
    deadlines.set(b, 3)
    clock.advance(1)
    deadlines.set(c, 10)
    deadlines.set(d, 10)
    deadlines.clear(d)
    deadlines.clear(d)
    clock.advance(1.9)
    assert deadlines.sweep() == 0
    clock.advance(0.2)
    assert deadlines.sweep() == 1
    deadlines.set(a, 10)  # again, at 3.1 s
    clock.advance(9.0)
    assert deadlines.sweep() == 1
    assert expired == ["b", "c"]
    clock.advance(1.1)
    assert deadlines.sweep() == 1
    assert deadlines.sweep() == 0
    assert expired == ["b", "c", "a"]


def test_who_expires_may_set_and_clear() -> None:
    """A 408 waits for its reader: a new deadline of another length, set within the sweep."""
    clock, expired = FakeClock(), list[str]()
    deadlines = Deadlines(clock.now_s)
    other = One("other", expired)
    first = One("first", expired, lambda: deadlines.set(other, 99))
    deadlines.set(first, 1)
    deadlines.set(One("second", expired), 1)
    clock.advance(2)
    assert deadlines.sweep() == 2
    clock.advance(99)
    assert deadlines.sweep() == 1
    assert expired == ["first", "second", "other"]


def test_nothing_is_kept_of_what_is_over() -> None:
    """A thousand connections came and went."""
    clock, expired = FakeClock(), list[str]()
    deadlines = Deadlines(clock.now_s)
    for number in range(1_000):
        one = One(str(number), expired)
        deadlines.set(one, 10)
        deadlines.set(one, 15)
        deadlines.clear(one)
    assert not deadlines._length
    assert not any(deadlines._queues.values())
