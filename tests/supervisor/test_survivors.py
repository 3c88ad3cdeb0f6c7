"""Who holds which connection when workers come and go; with real fds, no processes."""

from __future__ import annotations

import os
import socket

import pytest

from appliance.channel.messages import Adopted, AdoptListeners, DropListeners, KeepListeners, Kept, Stand
from appliance.ring.listeners import KIND_ICY, ListenerTable
from appliance.supervisor.survivors import Survivors

FULL: list[int] = []


@pytest.fixture
def survivors() -> Survivors:
    """Room for eight."""
    FULL.clear()
    return Survivors(8, FULL.append)


def connection() -> tuple[int, socket.socket]:
    """A duplicate as the supervisor gets it, and the peer, who sees when the last one is closed."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    return ours.detach(), peer


def is_open(peer: socket.socket) -> bool:
    """Whether somebody still holds the other end."""
    try:
        return peer.recv(1) != b""
    except BlockingIOError:
        return True


def table_with(*rows: tuple[int, int]) -> tuple[int, list[int]]:
    """A worker's table with a checkpoint (total, pos) for each listener; its fd and the rows."""
    fd = ListenerTable.create("test")
    table, claimed = ListenerTable(fd, writable=True), []
    for total, pos in rows:
        row = table.claim(0, KIND_ICY, 100)
        table.checkpoint(row, total, pos, 17, 3)
        claimed.append(row)
    return fd, claimed


def test_kept_and_dropped(survivors: Survivors) -> None:
    """A listener that ended is let go; one that is not known is no error."""
    fd, peer = connection()
    survivors.keep(0, KeepListeners(1, [Kept(5, 0, 0)]), [fd])
    assert len(survivors) == 1 and is_open(peer)
    survivors.drop(0, DropListeners(2, [5, 6]))
    assert len(survivors) == 0 and not is_open(peer)
    peer.close()


def test_orphans_carry_their_checkpoint_to_the_next_worker(survivors: Survivors) -> None:
    """Worker 0 dies with two listeners; worker 1 gets both, confirms one, cannot go on with the other."""
    table_fd, rows = table_with((1000, 500), (2000, 900))
    pairs = [connection(), connection()]
    kept = [Kept(7 + number, row, 0, interval=4096, distance=11, peer="p", agent="a") for number, row in enumerate(rows)]
    survivors.keep(0, KeepListeners(1, kept), [fd for fd, _ in pairs])
    assert survivors.worker_gone(0, table_fd) == 2
    os.close(table_fd)
    sent: list[AdoptListeners] = []
    survivors.hand_over([(1, lambda message, fds: sent.append(message))])
    assert sent[0].listeners == [Stand(kept[0], 100, 1000, 500, 17, 3), Stand(kept[1], 100, 2000, 900, 17, 3)]
    assert not survivors.orphans and len(survivors) == 2
    survivors.adopted(1, Adopted(sent[0].batch, [Kept(1, 0, 0), None]))
    assert len(survivors) == 1
    assert is_open(pairs[0][1]) and not is_open(pairs[1][1])
    survivors.discard(1)
    assert len(survivors) == 0
    for _, peer in pairs:
        peer.close()


def test_a_worker_that_dies_before_it_confirms_leaves_the_same_orphans(survivors: Survivors) -> None:
    """The checkpoint of the first worker still leads to the right byte."""
    table_fd, rows = table_with((1000, 500))
    fd, peer = connection()
    survivors.keep(0, KeepListeners(1, [Kept(7, rows[0], 0)]), [fd])
    survivors.worker_gone(0, table_fd)
    os.close(table_fd)
    sent: list[AdoptListeners] = []
    survivors.hand_over([(1, lambda message, fds: sent.append(message))])
    fresh, _ = table_with()
    assert survivors.worker_gone(1, fresh) == 1
    survivors.hand_over([(2, lambda message, fds: sent.append(message))])
    assert sent[0].listeners == sent[1].listeners
    assert is_open(peer)
    survivors.discard(2)
    os.close(fresh)
    peer.close()


def test_the_limit_is_kept_and_said_once(survivors: Survivors) -> None:
    """Beyond it listeners end with their worker: their duplicates are closed at once."""
    pairs = [connection() for _ in range(10)]
    survivors.keep(0, KeepListeners(1, [Kept(number, number, 0) for number in range(10)]), [fd for fd, _ in pairs])
    assert len(survivors) == 8 and FULL == [8]
    assert [is_open(peer) for _, peer in pairs] == [True] * 8 + [False] * 2
    survivors.discard(0)
    for _, peer in pairs:
        peer.close()


def test_a_row_without_checkpoint_is_no_orphan(survivors: Survivors) -> None:
    """Nothing is known of where it stood: its connection is closed rather than guessed at."""
    table_fd, _ = table_with()
    fd, peer = connection()
    survivors.keep(0, KeepListeners(1, [Kept(7, 3, 0)]), [fd])
    assert survivors.worker_gone(0, table_fd) == 0
    assert not is_open(peer)
    os.close(table_fd)
    peer.close()
