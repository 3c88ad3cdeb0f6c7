"""Processes that follow each other on the same rings and sources, in one: kill -9 leaves only what the kernel and shared memory hold.

A generation is killed by an exception at a line of it; what it had is then let go without a word to anybody, and the next one starts from
the rings' fds and what the keeper (the fd store) holds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from appliance.ingest.chunker import Chunker
from appliance.ingest.mount import Mount, MountSettings
from appliance.ingest.source_connection import SourceConnection
from appliance.ingest.source_server import SourceServer
from appliance.ring.writer import RingWriter
from tests.ingest.source_makers import PASSWORD, HandClock, Stored, stored

TRACED = (
    "/appliance/ingest/",
    "/appliance/ring/",
    "/appliance/wire/chunked.py",
    "/appliance/wire/frame_sync.py",
    "/appliance/system/tcp_info.py",
)


class Killed(BaseException):
    """Stands for kill -9."""


@contextlib.contextmanager
def killed_at(line: int) -> Iterator[None]:
    """Kill at the `line`-th executed line of what handles sources; 0: never."""
    left = line

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal left
        if not any(part in frame.f_code.co_filename for part in TRACED):
            return None
        left -= event == "line"
        if left == 0:
            raise Killed
        return trace

    before = sys.gettrace()
    if line:
        sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Store:
    """The fd store: duplicates of sockets and journals."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, int]] = {}

    def keep(self, name: str, fd: int, journal_fd: int) -> None:
        self.held[name] = os.dup(fd), os.dup(journal_fd)

    def drop(self, name: str) -> None:
        for fd in self.held.pop(name):
            os.close(fd)

    def close(self) -> None:
        for name in list(self.held):
            self.drop(name)


class Stream:
    """A feed on a ring that another generation may have left."""

    def __init__(self, key: str, ring_fd: int, clock: HandClock, chunk_s: float) -> None:
        self.key, self.accepts_titles = key, True
        self.writer = RingWriter.attach(ring_fd)
        self.chunker = Chunker(self.writer, clock, chunk_s)


class Generation:
    """One process's part: rings attached, mount, server; sources taken over."""

    def __init__(self, house: House) -> None:
        self.feeds = [Stream(key, fd, house.clock, chunk_s) for key, (fd, chunk_s) in house.rings.items()]
        settings = MountSettings("test", PASSWORD, house.format_name)
        self.mount = Mount(settings, self.feeds, house.clock, lambda: None, lambda mount: None)
        self.server = SourceServer({"test": self.mount}, 10.0)
        self.server.keeper = house.store

    def take_over(self, house: House) -> None:
        """As a restarted supervisor."""
        for name, (fd, journal_fd) in list(house.store.held.items()):
            if not self.server.take_over(os.dup(fd), os.dup(journal_fd)):
                house.store.drop(name)
        self.server.go_on()

    @property
    def connections(self) -> list[SourceConnection]:
        return sorted(self.server._connections, key=lambda one: one.source.rank if one.source else 0)

    def read(self) -> None:
        """Take what the sockets hold, all of it, and let bursts go."""
        for connection in self.connections:
            if connection.sock.fileno() >= 0:
                connection._readable()
        self.mount.poll()

    def die(self) -> None:
        """Nothing is said to anybody; fds of this process are gone."""
        self.server._timer.cancel()
        self.mount.paused = True  # timers of the loop would poll it
        for connection in {*self.server._connections, *self.server._returning}:
            with contextlib.suppress(ValueError):
                connection.pause()
            fd = connection.sock.detach()
            if fd >= 0:
                os.close(fd)
                if connection.source is not None:
                    os.close(connection._body.journal.fd)
        for feed in self.feeds:
            os.close(feed.writer.reader_fd)


class House:
    """Rings, the store, and the generation that runs."""

    def __init__(self, format_name: str = "mp3", chunk_s: tuple[float, ...] = (0.5, 0.2)) -> None:
        self.clock, self.store, self.format_name = HandClock(), Store(), format_name
        self.rings = {f"test{number}": (_ring(f"test{number}", each), each) for number, each in enumerate(chunk_s)}
        self.now = Generation(self)
        self.now.server.go_on()
        self.kills = 0
        self._far: list[socket.socket] = []

    def connect(self, *, received: bytes = b"", lone: bool = False) -> socket.socket:
        """An encoder's end of a TCP connection; its other end is the server's. `received`: read by another process."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = socket.create_connection(listening.getsockname())
            near, _ = listening.accept()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._far.append(far)
        self.now.server.adopt(near, "192.0.2.7", received=received, lone=lone)
        return far

    def lose(self, key: str) -> None:
        """The next generation finds an empty ring instead of this one."""
        self.rings[key] = (_ring(key, self.rings[key][1]), self.rings[key][1])

    def next(self, line: int = 0) -> None:
        """The generation is dead; the next takes over, and may be killed at a line of it, which a third one makes good."""
        self.now.die()
        self.kills += 1
        self.now = Generation(self)
        try:
            with killed_at(line):
                self.now.take_over(self)
        except Killed:
            self.next()

    def read(self, line: int = 0, line_after: int = 0) -> bool:
        """Read; killed at this line, the next generation takes over (killed at `line_after`) and reads the rest. True if it was killed."""
        try:
            with killed_at(line):
                self.now.read()
        except Killed:
            self.next(line_after)
            self.now.read()
            return True
        return False

    def chunks(self, key: str) -> list[Stored]:
        return stored(next(feed for feed in self.now.feeds if feed.key == key).writer)

    def audio(self) -> list[bytes]:
        """What each ring holds."""
        return [b"".join(chunk.data for chunk in self.chunks(key)) for key in self.rings]

    def end(self) -> None:
        """An orderly end of the last generation."""
        self.now.server.close("the test is over")
        for feed in self.now.feeds:
            feed.writer.close()
        self.store.close()
        for far in self._far:
            far.close()


def _ring(key: str, chunk_s: float) -> int:
    writer = RingWriter.create(key, 600, chunk_s, 65536)
    fd = os.dup(writer.fd)
    writer.close()
    return fd
