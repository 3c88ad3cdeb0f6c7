"""The source journal: what was read and is not in the ring yet survives the process that read it."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from appliance.ring.journal import DESCRIPTION_BYTES, JOURNAL_BYTES, MARK_BYTES, JournalRefused, SourceJournal
from tests.ring.plain_ring import audio


@pytest.fixture
def journal() -> Iterator[SourceJournal]:
    """An empty journal."""
    found = SourceJournal.create("test")
    yield found
    found.close()


def test_an_empty_journal(journal: SourceJournal) -> None:
    """Nothing received, nothing unsettled, all room free."""
    assert (journal.received, journal.settled, journal.unsettled()) == (0, 0, b"")
    assert len(journal.room()) == JOURNAL_BYTES


def test_a_second_process_finds_what_was_not_settled(journal: SourceJournal) -> None:
    """Another mapping of the memfd (the next process) sees positions and bytes."""
    journal.put(audio(0, 5000))
    journal.settle(1200)
    other = SourceJournal(os.dup(journal.fd))
    assert (other.received, other.settled) == (5000, 1200)
    assert other.unsettled() == audio(1200, 3800)
    other.settle(5000)
    assert journal.unsettled() == b""
    other.close()


def test_many_laps(journal: SourceJournal) -> None:
    """recv-like writes of any size, settled at any pace: every committed view and every unsettled span is the true one."""
    rng = random.Random(3)
    for _ in range(300):
        room = journal.room()
        size = rng.randint(1, min(len(room), 64 * 1024)) if len(room) else 0
        room[:size] = audio(journal.received, size)
        before = journal.received
        assert bytes(journal.commit(size)) == audio(before, size)
        assert journal.received == before + size
        if rng.random() < 0.7 or not len(journal.room()):
            journal.settle(rng.randint(journal.settled, journal.received))
        if rng.random() < 0.1:
            assert journal.unsettled() == audio(journal.settled, journal.received - journal.settled)
    assert journal.received > 4 * JOURNAL_BYTES


def test_a_full_journal_has_no_room(journal: SourceJournal) -> None:
    """Unsettled bytes are never overwritten, also around the wrap; `put` says so."""
    journal.put(audio(0, 1000))
    journal.settle(1000)
    journal.put(audio(1000, JOURNAL_BYTES))
    assert len(journal.room()) == 0
    assert journal.unsettled() == audio(1000, JOURNAL_BYTES)
    with pytest.raises(JournalRefused):
        journal.put(b"x")
    assert journal.unsettled() == audio(1000, JOURNAL_BYTES)


def test_settled_moves_forward_only(journal: SourceJournal) -> None:
    """Neither back nor beyond what was received."""
    journal.put(b"x" * 100)
    for position, expected in ((50, 50), (20, 50), (1000, 100)):
        journal.settle(position)
        assert journal.settled == expected


def test_a_socket_is_read_straight_into_it(journal: SourceJournal) -> None:
    """recv_into the room."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(audio(0, 3000))
        taken = near.recv_into(journal.room())
        assert bytes(journal.commit(taken)) == audio(0, taken)


def test_records_are_whole_or_the_former_ones(journal: SourceJournal) -> None:
    """The mark is noted before `settled` moves; a slot that was written half, before its number, does not exist."""
    assert (journal.mark, journal.description) == (b"", b"")
    journal.put(bytes(100))
    for number in range(5):
        journal.describe(b"d%d" % number)
        journal.settle(number * 10, b"mark %d" % number)
    other = SourceJournal(os.dup(journal.fd))
    assert (other.mark, other.description, other.settled) == (b"mark 4", b"d4", 40)
    for at in (1024, 2048):  # what a kill amid the next write leaves in the slot that does not hold
        if os.pread(journal.fd, 6, at + 4) != b"mark 4":
            os.pwrite(journal.fd, b"\xff" * 1024, at)
    assert other.mark == b"mark 4"
    journal.describe(b"e" * (DESCRIPTION_BYTES - 4))
    assert other.description == b"e" * (DESCRIPTION_BYTES - 4)
    with pytest.raises(JournalRefused):
        journal.describe(bytes(DESCRIPTION_BYTES - 3))
    with pytest.raises(JournalRefused):
        journal.settle(90, bytes(MARK_BYTES - 3))
    assert (other.mark, other.settled) == (b"mark 4", 40)
    other.close()


def test_bytes_that_were_read_and_not_counted(journal: SourceJournal) -> None:
    """They are counted by who knows how many there are; never more than there was room for, never fewer than counted."""
    journal.put(audio(0, 100))
    journal.room()[:50] = audio(100, 50)
    journal.count_up_to(150)
    assert journal.unsettled() == audio(0, 150) and journal.since(120) == audio(120, 30)
    for wrong in (149, JOURNAL_BYTES + 1):
        with pytest.raises(JournalRefused):
            journal.count_up_to(wrong)
    assert journal.received == 150


@pytest.mark.parametrize("size", [0, 4096, 4096 + JOURNAL_BYTES, 4096 + JOURNAL_BYTES + 1])
def test_other_files_are_refused(size: int) -> None:
    """A memfd of another size is no journal."""
    fd = os.memfd_create("other")
    os.ftruncate(fd, size)
    with pytest.raises(JournalRefused):
        SourceJournal(fd)
    os.close(fd)


def test_a_wrong_magic_is_refused(journal: SourceJournal) -> None:
    """Some other page of the right size, too; and its first word is left alone."""
    os.pwrite(journal.fd, b"SMJRNL\0\2", 0)
    with pytest.raises(JournalRefused):
        SourceJournal(journal.fd)
    assert os.pread(journal.fd, 8, 0) == b"SMJRNL\0\2"


def test_sealed(journal: SourceJournal) -> None:
    """It cannot be shrunk under a process that maps it."""
    with pytest.raises(PermissionError):
        os.ftruncate(journal.fd, 4096)
