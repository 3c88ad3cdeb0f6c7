"""The shared listener table: what is known of each listener when its worker is killed."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from appliance.ring.listeners import KIND_ICY, KIND_RAW, ROW_BYTES, ROWS, Checkpoint, ListenerTable


@pytest.fixture
def fd() -> Iterator[int]:
    """A table's memfd."""
    found = ListenerTable.create("test")
    yield found
    os.close(found)


def test_checkpoints_are_read_by_another_mapping(fd: int) -> None:
    """The supervisor's read-only view shows the newest checkpoint, each time."""
    table, seen = ListenerTable(fd, writable=True), ListenerTable(fd, writable=False)
    row = table.claim(9, KIND_ICY, 1000)
    for number in range(1, 6):
        table.checkpoint(row, 10 * number, 1 << (40 + number), 7 * number, number)
        assert seen.read(row) == Checkpoint(9, KIND_ICY, 1000, 10 * number, 1 << (40 + number), 7 * number, number)


def test_no_checkpoint_yet_is_nothing(fd: int) -> None:
    """A free row and one that was only claimed tell nothing; nor does a row used again tell of its last owner."""
    table = ListenerTable(fd, writable=True)
    assert table.read(0) is None
    row = table.claim(1, KIND_RAW, 5)
    assert table.read(row) is None
    table.checkpoint(row, 1, 2, 3, 4)
    table.release(row)
    assert table.read(row) is None
    assert table.claim(2, KIND_RAW, 6) == row
    assert table.read(row) is None


def test_a_worker_that_dies_inside_a_checkpoint_leaves_the_older_one(fd: int) -> None:
    """The slot that holds is never touched: garbage in the other one, with the sequence number not yet raised, changes nothing."""
    table = ListenerTable(fd, writable=True)
    row = table.claim(1, KIND_ICY, 5)
    for number in range(1, 4):
        table.checkpoint(row, number, number, number, number)
        with mmap.mmap(fd, 0) as raw:
            seq = struct.unpack_from("<I", raw, row * ROW_BYTES + 4)[0]
            assert seq == number
            at = row * ROW_BYTES + 16 + ((seq + 1) & 1) * 24
            raw[at : at + 24] = b"\xff" * 24
        found = table.read(row)
        assert found is not None and found[3:] == (number, number, number, number)


def test_rows_are_given_back_and_run_out(fd: int) -> None:
    """Every row can be claimed once; then -1, which may be released without harm; a released one comes again."""
    table = ListenerTable(fd, writable=True)
    rows = [table.claim(0, KIND_RAW, 0) for _ in range(ROWS)]
    assert sorted(rows) == list(range(ROWS))
    assert table.claim(0, KIND_RAW, 0) == -1
    table.release(-1)
    assert table.claim(0, KIND_RAW, 0) == -1
    table.release(17)
    assert table.claim(0, KIND_RAW, 0) == 17


def test_rows_do_not_touch_each_other(fd: int) -> None:
    """Neighbours keep their checkpoints whatever a row does."""
    table = ListenerTable(fd, writable=True)
    rows = [table.claim(number, KIND_RAW, number) for number in range(3)]
    for row in rows:
        table.checkpoint(row, row, row, row, row)
    for number in range(10):
        table.checkpoint(rows[1], 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1 - number)
    table.release(rows[1])
    assert [table.read(row) and table.read(row).total for row in (rows[0], rows[2])] == [0, 2]  # type: ignore[union-attr]


def test_memory_comes_with_listeners(fd: int) -> None:
    """A new table uses no memory; it is sealed at 64 bytes a row."""
    assert os.fstat(fd).st_size == ROWS * ROW_BYTES
    table = ListenerTable(fd, writable=True)
    assert os.fstat(fd).st_blocks == 0
    for _ in range(64):
        table.claim(0, KIND_RAW, 0)
    assert os.fstat(fd).st_blocks * 512 == 4096
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 64)
