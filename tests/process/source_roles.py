"""A process that reads sources into rings, killed and followed by the next: `python -m tests.process.source_roles RING_FD SOCKET_FD`.

The process started is only the keeper, as systemd's fd store is: it holds the ring, the encoder's connection and, once it has come, the
journal. It forks the servers, so that each has its modules in memory. Told "start", it says the server's pid; told "kill", it kills and
reaps it, and says how far the ring had come; told "heard", it waits for audio in the ring; told "end", until the server has ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import uvloop

from appliance.ingest.chunker import Chunker
from appliance.ingest.mount import Mount, MountSettings
from appliance.ingest.source_server import SourceServer
from appliance.ring.columns import Columns
from appliance.ring.layout import Word
from appliance.ring.writer import RingWriter
from appliance.system import logs
from appliance.system.clock import SystemClock

PASSWORD = "hack:me"


class Feed:
    """One stream on the ring that the processes before have left."""

    def __init__(self, ring_fd: int, chunk_s: float) -> None:
        self.key, self.accepts_titles = "test", True
        self.chunker = Chunker(RingWriter.attach(ring_fd), SystemClock(), chunk_s)


class ToKeeper:
    """Sends the journal to the process that outlives this one."""

    def __init__(self, wire: socket.socket, done: asyncio.Event) -> None:
        self._wire, self._done = wire, done

    def keep(self, name: str, fd: int, journal_fd: int) -> None:
        socket.send_fds(self._wire, [name.encode()], [journal_fd])

    def drop(self, name: str) -> None:
        self._done.set()


async def serve(ring_fd: int, connection_fd: int, journal_fd: int, wire: socket.socket, bell: int) -> None:
    """Go on with the source, or wait for its request; until it ends."""
    done = asyncio.Event()
    mount = Mount(MountSettings("test", PASSWORD), [Feed(ring_fd, 0.05)], SystemClock(), lambda: os.eventfd_write(bell, 1), lambda _: None)
    server = SourceServer({"test": mount}, 10.0)
    server.keeper = ToKeeper(wire, done)
    if journal_fd >= 0:
        server.take_over(os.dup(connection_fd), os.dup(journal_fd))
    else:
        server.adopt(socket.socket(fileno=os.dup(connection_fd)), "127.0.0.1")
    server.go_on()
    await done.wait()
    server.close("the end")


class Keeper:
    """Holds the fds and starts the servers."""

    def __init__(self, ring_fd: int, connection_fd: int) -> None:
        self._ring_fd, self._connection_fd, self._journal_fd = ring_fd, connection_fd, -1
        self._columns = Columns(ring_fd, writable=False)
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near.setblocking(False)
        self._pid, self._bell = 0, os.eventfd(0)

    def start(self) -> str:
        """Fork a server."""
        self._take_journal()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                uvloop.run(serve(self._ring_fd, self._connection_fd, self._journal_fd, self._far, self._bell))
                status = 0
            finally:
                os._exit(status)
        return str(self._pid)

    def heard(self) -> str:
        """Wait until the ring has audio."""
        while self._columns.words[Word.HEAD_SEQ] == 1:
            os.eventfd_read(self._bell)
        return "yes"

    def kill(self) -> str:
        """SIGKILL, reaped."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        return f"{os.waitstatus_to_exitcode(status)} {self._columns.words[Word.HEAD_SEQ]}"

    def end(self) -> str:
        """The server ends by itself."""
        _, status = os.waitpid(self._pid, 0)
        return f"{os.waitstatus_to_exitcode(status)} {self._columns.words[Word.HEAD_SEQ]}"

    def _take_journal(self) -> None:
        try:
            _, fds, _, _ = socket.recv_fds(self._near, 100, 1)
        except BlockingIOError:
            return
        self._journal_fd = fds[0]


def main(ring_fd: int, connection_fd: int) -> None:
    """Obey lines on stdin."""
    logs.configure("error", as_json=False)
    keeper: Any = Keeper(ring_fd, connection_fd)
    print("ready", flush=True)
    for line in sys.stdin:
        print(getattr(keeper, line.strip())(), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
