"""Doorbells: one eventfd per reader, owned by the writer's side once given."""

from __future__ import annotations

import os
import select

import pytest

from appliance.system.doorbell import Doorbells, create, silence


def rung(fd: int) -> bool:
    """Whether it has been rung since it was silenced."""
    return bool(select.select([fd], [], [], 0)[0])


def test_everybody_hears_and_silence_is_per_reader() -> None:
    """Many rings are one; a removed reader hears nothing; its fd is closed."""
    bells, readers = Doorbells(), [create() for _ in range(3)]
    for number, fd in enumerate(readers):
        bells.add(number, os.dup(fd))
    bells.ring()
    bells.ring()
    assert all(map(rung, readers))
    silence(readers[0])
    assert [rung(fd) for fd in readers] == [False, True, True]
    silence(readers[0])  # nothing there: no wait, no error
    bells.remove(1)
    bells.remove(1)
    silence(readers[1])
    bells.ring()
    assert [rung(fd) for fd in readers] == [True, False, True]
    for number, fd in enumerate(readers):
        bells.remove(number)
        os.close(fd)


def test_a_new_bell_of_the_same_owner_replaces_the_old() -> None:
    """A worker that connects again sends a new one (MECHANICS 1)."""
    bells, old, new = Doorbells(), create(), create()
    kept = os.dup(old)
    bells.add("worker", old)
    bells.add("worker", new)
    bells.ring()
    assert not rung(kept)
    assert rung(new)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(old)
    bells.remove("worker")
    os.close(kept)


def test_a_full_or_broken_bell_disturbs_nobody() -> None:
    """A reader that never reads; one that is closed already."""
    bells, full, other = Doorbells(), create(), create()
    os.eventfd_write(full, (1 << 64) - 2)
    gone = create()
    bells.add("gone", gone)
    os.close(gone)
    bells.add("full", full)
    bells.add("other", os.dup(other))
    bells.ring()
    assert rung(other)
    bells.remove("full")
    bells.remove("other")
    os.close(other)
