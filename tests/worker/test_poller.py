"""One epoll for all connections: events reach who watches now, a fault ends one connection alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from appliance.worker.poller import GONE, HANG_UP, READ, WRITE, Poller

Desk = tuple[Poller, list[BaseException]]


class Seen:
    """Notes its events; may fail."""

    def __init__(self, fails: bool = False) -> None:
        self.masks: list[int] = []
        self.aborted: list[str] = []
        self.called = asyncio.Event()
        self._fails = fails

    def event(self, mask: int) -> None:
        self.masks.append(mask)
        self.called.set()
        if self._fails:
            raise ValueError("test")

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A poller on the running loop, and the faults it reported."""
    faults: list[BaseException] = []
    poller = Poller(asyncio.get_running_loop(), faults.append)
    yield poller, faults
    poller.close()


async def test_events_come_through_the_loop(desk: Desk) -> None:
    """The loop watches the epoll: readable, then writable when asked for, then gone."""
    poller, _ = desk
    ours, theirs = socket.socketpair()
    seen = Seen()
    with ours, theirs:
        poller.watch(ours.fileno(), READ, seen)
        theirs.send(b"x")
        await asyncio.wait_for(seen.called.wait(), 3)
        assert not seen.masks[0] & GONE
        ours.recv(1)
        later = Seen()
        poller.change(ours.fileno(), WRITE, later)
        await asyncio.wait_for(later.called.wait(), 3)
        last = Seen()
        poller.change(ours.fileno(), HANG_UP, last)
        theirs.close()
        await asyncio.wait_for(last.called.wait(), 3)
        assert last.masks[0] & GONE
        poller.forget(ours.fileno())
        poller.forget(ours.fileno())
    assert len(poller) == 0


async def test_hang_up_alone_says_nothing_of_data(desk: Desk) -> None:
    """A listener that talks is not listened to."""
    poller, _ = desk
    ours, theirs = socket.socketpair()
    seen = Seen()
    with ours, theirs:
        poller.watch(ours.fileno(), HANG_UP, seen)
        theirs.send(b"x" * 1_000)
        poller._poll()
        assert not seen.masks
        poller.forget(ours.fileno())


async def test_a_fault_ends_that_connection_alone(desk: Desk) -> None:
    """It is reported and aborted; the others of the same turn get their events."""
    poller, faults = desk
    pairs = [socket.socketpair() for _ in range(3)]
    watchers = [Seen(fails=number == 1) for number in range(3)]
    for (ours, theirs), watcher in zip(pairs, watchers, strict=True):
        poller.watch(ours.fileno(), READ, watcher)
        theirs.send(b"x")
    poller._poll()
    assert [len(watcher.masks) for watcher in watchers] == [1, 1, 1]
    assert [watcher.aborted for watcher in watchers] == [[], ["internal error"], []]
    assert [type(fault) for fault in faults] == [ValueError]
    for ours, theirs in pairs:
        poller.forget(ours.fileno())
        ours.close()
        theirs.close()


async def test_one_forgotten_in_the_same_turn_gets_no_event(desk: Desk) -> None:
    """Its fd may be somebody else's by then."""
    poller, faults = desk
    pairs = [socket.socketpair() for _ in range(2)]

    class Killer(Seen):
        def event(self, mask: int) -> None:
            super().event(mask)
            for ours, _ in pairs:
                poller.forget(ours.fileno())

    killers = [Killer(), Killer()]
    for (ours, theirs), killer in zip(pairs, killers, strict=True):
        poller.watch(ours.fileno(), READ, killer)
        theirs.send(b"x")
    poller._poll()
    assert sum(len(killer.masks) for killer in killers) == 1
    assert not faults
    for pair in pairs:
        for sock in pair:
            sock.close()
