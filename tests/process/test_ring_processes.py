"""The ring between real processes: one writer, killed at will, and readers that only map."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.ring.columns import RingRefused
from appliance.ring.layout import Flag, Geometry, Word
from appliance.ring.reader import RingReader
from appliance.ring.writer import Chunk, RingWriter
from appliance.system import doorbell
from tests.process.ring_roles import size_of
from tests.ring.plain_ring import HALF_S, MP3, TINY, audio, held, make_ring

ROOT = Path(__file__).parents[2]
SMALL = Geometry(chunk_slots=256, meta_slots=16, epoch_slots=8, capacity_bytes=64 * 4096)
WAIT_S = 30


class Role:
    """A child process that plays a part of ring_roles."""

    def __init__(self, name: str, *numbers: int, fds: tuple[int, ...]) -> None:
        command = [sys.executable, "-m", "tests.process.ring_roles", name, *map(str, numbers)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        """What it says next; empty when it ended."""
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], WAIT_S)[0], "the child says nothing"
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """kill -9, reaped."""
        self.process.kill()
        self.process.wait(WAIT_S)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def start() -> Iterator[type[Role]]:
    """Starts roles; all are gone at the end."""
    roles: list[Role] = []

    class Started(Role):
        def __init__(self, name: str, *numbers: int, fds: tuple[int, ...]) -> None:
            super().__init__(name, *numbers, fds=fds)
            roles.append(self)

    yield Started
    for role in roles:
        role.kill()


def birth(layout: Geometry | None = None) -> int:
    """The memfd of a new ring that nobody writes."""
    writer = make_ring(layout) if layout else RingWriter.create("test", 3600, 0.5, 1 << 20)
    fd = os.dup(writer.fd)
    writer.close()
    return fd


def read_only(fd: int) -> int:
    """What a worker gets."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)


def wait_for(bell: int, rings: int) -> None:
    """Until the writer rang so often."""
    seen = 0
    while seen < rings:
        assert select.select([bell], [], [], WAIT_S)[0], "nobody rings"
        seen += os.eventfd_read(bell)


def check_whole(reader: RingReader) -> int:
    """Every chunk below the head, down to the limit, is whole and follows the one before. Returns the head."""
    limit, tail, head = (reader.words[word] for word in (Word.LIMIT_SEQ, Word.TAIL_SEQ, Word.HEAD_SEQ))
    assert limit <= tail <= head
    view = reader.columns.view
    for seq in range(limit, head):
        slot, after = seq & reader.mask, (seq + 1) & reader.mask
        assert (view["seq"][slot], view["length"][slot], view["ts_us"][slot]) == (seq, size_of(seq), seq * 500_000)
        assert view["pos"][after] - view["pos"][slot] == size_of(seq)
        assert view["media_pos"][slot] == (seq - 1) * 14_112_000
        assert view["discontinuity"][slot] == seq and view["meta_id"][slot] in {seq // 50, seq // 50 + 1}
    begin, end = reader.pos[limit & reader.mask], reader.pos[head & reader.mask]
    assert end == sum(map(size_of, range(1, head)))
    assert held(reader, begin, end) == audio(begin, end - begin)
    return int(head)


def test_readers_follow_the_head_by_their_doorbells(start: type[Role]) -> None:
    """A writer process and two reader processes, each with a bell of its own: every byte is right as soon as its bell rang."""
    ring, view = birth(), 0
    bells = [os.eventfd(0), os.eventfd(0)]
    view = read_only(ring)
    readers = [start("follower", view, bell, 3000, fds=(view, bell)) for bell in bells]
    writer = start("writer", ring, 3000, *bells, fds=(ring, *bells))
    assert [reader.line() for reader in readers] == ["following"] * 2
    assert writer.line() == "writing 1"
    writer.go()
    total = sum(map(size_of, range(1, 3001)))
    assert [reader.line() for reader in readers] == [f"right {total}"] * 2
    assert writer.line() == "done"
    for fd in (ring, view, *bells):
        os.close(fd)


def test_kill_9_of_the_writer_at_random_moments(start: type[Role]) -> None:
    """Twelve writers in a row die amid flat-out appends on a lapping ring: numbers and positions go on, nothing torn is visible."""
    ring, bell, rng = birth(SMALL), doorbell.create(), random.Random(5)
    view = read_only(ring)
    reader = RingReader(view)
    heads = [1]
    following = start("writer", ring, 0, bell, fds=(ring, bell))
    for _ in range(12):
        writer = following
        assert writer.line() == f"writing {heads[-1]}"
        writer.go()
        wait_for(bell, rng.randint(1, 700))
        writer.kill()
        following = start("writer", ring, 0, bell, fds=(ring, bell))
        heads.append(check_whole(reader))
        doorbell.silence(bell)
    assert heads == sorted(set(heads)) and heads[-1] > 3 * SMALL.chunk_slots
    for fd in (ring, bell, view):
        os.close(fd)


def test_a_second_writer_is_refused_while_the_first_lives(start: type[Role]) -> None:
    """By another process, whichever descriptor it came by; when the first is killed the next may."""
    ring, bell = birth(SMALL), doorbell.create()
    first = start("writer", ring, 0, bell, fds=(ring, bell))
    assert first.line() == "writing 1"
    second = start("writer", ring, 0, fds=(ring,))
    for _ in range(2):
        with pytest.raises(RingRefused, match="another process"):
            RingWriter.attach(ring)
    assert second.line() == "refused: another process writes this ring"
    first.go()
    wait_for(bell, 5)
    first.kill()
    mine = RingWriter.attach(ring)
    third = start("writer", ring, 0, fds=(ring,))
    assert third.line() == "refused: another process writes this ring"
    assert mine.head_seq > 5
    mine.close()
    os.close(bell)


def test_a_lost_lock_is_taken_back_or_the_append_refused(start: type[Role]) -> None:
    """A reader let go in the writer's process drops the lock. The next append takes it again, unless another writer came first."""
    mine = make_ring(SMALL)
    RingReader(mine.reader_fd).close()
    mine.append(Chunk(audio(0, size_of(1)), *HALF_S, 500_000, Flag.DISCONTINUITY), 1)
    refused = start("writer", mine.fd, 0, fds=(mine.fd,))
    assert refused.line() == "refused: another process writes this ring"
    RingReader(mine.reader_fd).close()
    other = start("writer", mine.fd, 0, fds=(mine.fd,))
    assert other.line() == "writing 2"
    before = bytes(mine.columns.whole[:4096])
    with pytest.raises(RingRefused, match="another process"):
        mine.append(Chunk(b"x", *HALF_S, 0), 1)
    with pytest.raises(RingRefused, match="another process"):
        mine.set_title(b"x", b"", 0)
    with pytest.raises(RingRefused, match="another process"):
        mine.start_epoch(MP3)
    assert bytes(mine.columns.whole[:4096]) == before
    mine.close()


def test_a_reader_process_cannot_write(start: type[Role]) -> None:
    """Not even with a pointer: the mapping is read-only, and the descriptor it got is too."""
    ring = birth(SMALL)
    view = read_only(ring)
    vandal = start("vandal", view, fds=(view,))
    assert vandal.line() == "mapped b'\\x00' 1"
    assert vandal.line() == ""
    assert vandal.process.wait(WAIT_S) == -signal.SIGSEGV
    with pytest.raises(RingRefused):
        RingWriter.attach(view)
    for size in (0, 4096):
        with pytest.raises(OSError):
            os.truncate(f"/proc/self/fd/{ring}", size)
    assert os.pread(view, 6, 0) == b"SMRING"
    os.close(ring)
    os.close(view)


def test_spans_that_pass_both_checks_are_never_torn(start: type[Role]) -> None:
    """A reader at the very tail of a tiny ring that another process writes flat out, thousands of laps: right, or told to be lapped."""
    ring = birth(TINY)
    view = read_only(ring)
    writer = start("writer", ring, 0, fds=(ring,))
    assert writer.line() == "writing 1"
    writer.go()
    racer = start("racer", view, 15_000, fds=(view,))
    assert racer.line() == "racing"
    passed, _, torn = map(int, racer.line().split())
    assert passed > 1000 and torn == 0
    os.close(ring)
    os.close(view)


def test_a_stopped_reader_is_told_that_it_was_lapped(start: type[Role]) -> None:
    """It checked, slept while the ring lapped it, and sent: the bytes are wrong indeed, and the check after the send says so."""
    ring, bell = birth(TINY), doorbell.create()
    view, (near, far) = read_only(ring), socket.socketpair()
    writer = start("writer", ring, 0, bell, fds=(ring, bell))
    assert writer.line() == "writing 1"
    writer.go()
    wait_for(bell, 100)
    os.kill(writer.process.pid, signal.SIGSTOP)
    sleeper = start("sleeper", view, far.fileno(), fds=(view, far.fileno()))
    _, begin, end = sleeper.line().split()
    os.kill(writer.process.pid, signal.SIGCONT)
    doorbell.silence(bell)
    wait_for(bell, 300)
    os.kill(writer.process.pid, signal.SIGSTOP)
    sleeper.go()
    assert sleeper.line() == "lapped"
    size = int(end) - int(begin)
    assert near.recv(size, socket.MSG_WAITALL) != audio(int(begin), size)
    near.close()
    far.close()
    for fd in (ring, bell, view):
        os.close(fd)
