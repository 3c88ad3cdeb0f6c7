"""The source server: accepts encoders on its port, adopts those that came to the listener port, keeps time for all.

Sources outlive this process. Unplanned: a `keeper` holds what each needs, its socket and its journal (the fd store does); the next
process gives both to `take_over`, for every source, then calls `go_on`. Planned: `release` stops all reading and says what there is; if the
successor fails, `take_back` reads on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from appliance.ingest.mount import Mount
from appliance.ingest.source_connection import HalfRead, SourceConnection
from appliance.ingest.source_record import SourceRecord, decoded
from appliance.ingest.trouble import TroubleLog
from appliance.ring.journal import JournalRefused, SourceJournal
from appliance.system import sockets
from appliance.wire import http_response

CHECK_S: Final = 0.5
"""How often deadlines and held bursts are looked at."""
TELL_S: Final = 1.0
"""Repeated trouble is one line a second."""
PAUSE_S: Final = 0.2
"""After an accept that failed (no fd left): accepting again at once would spin; encoders wait in the backlog meanwhile."""
MAX_CONNECTIONS: Final = 1024
"""Connections of encoders and title updates at one time; a box has a hundred encoders at most, the rest is somebody's mistake."""


class SourceKeeper(Protocol):
    """Holds what a source needs to outlive this process. Both fds stay their owner's: to be duplicated."""

    def keep(self, name: str, fd: int, journal_fd: int) -> None:
        """A source begins; `name` is its own for ever (its uuid)."""

    def drop(self, name: str) -> None:
        """It has ended."""


class Released(NamedTuple):
    """What another process may go on with: (socket, journal) of every source, for `take_over`; connections in the request phase, for
    `adopt`. All fds stay this process's own: to be duplicated."""

    sources: list[tuple[int, int]]
    half_read: list[HalfRead]


class SourceServer:
    """Owns the connections of encoders. `mounts` may change while it runs."""

    def __init__(self, mounts: Mapping[str, Mount], source_timeout_s: float) -> None:
        self.mounts = mounts
        self.source_timeout_s = source_timeout_s
        self._loop = asyncio.get_running_loop()
        self.trouble = TroubleLog()
        self._closed = self._released = False
        self._tell_at_s = self._loop.time() + TELL_S
        self.keeper: SourceKeeper | None = None
        self._connections: set[SourceConnection] = set()
        self._returning: list[SourceConnection] = []
        self._listening: list[socket.socket] = []
        self._timer = self._loop.call_later(CHECK_S, self._check)

    def now_s(self) -> float:
        """The loop's time."""
        return self._loop.time()

    def listen(self, sock: socket.socket) -> None:
        """Accept encoders on this non-blocking socket, owned from now on."""
        self._listening.append(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, address = sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self.trouble.warn("cannot accept a source", "", error.strerror or str(error))
            self._loop.remove_reader(sock)
            self._loop.call_later(PAUSE_S, self._resume, sock)
            return
        self.adopt(connection, sockets.peer_of(address))

    def _resume(self, sock: socket.socket) -> None:
        if not self._closed and not self._released:
            self._loop.add_reader(sock, self._accept, sock)

    def adopt(self, sock: socket.socket, peer: str, *, received: bytes = b"", lone: bool = False) -> None:
        """Serve a connection, of which `received` was read already. After `release` it waits: for `take_back`, or a second `release`."""
        sock.setblocking(False)
        if self._closed or len(self._connections) >= MAX_CONNECTIONS:
            self.trouble.warn("source refused", peer, "the server stops" if self._closed else "too many source connections (503)")
            with contextlib.suppress(OSError):
                sock.send(http_response.text(503, "too many connections"))
            sock.close()
            return
        self._connections.add(SourceConnection(sock, peer, self, received=received, lone=lone, reads=not self._released))

    def begun(self, connection: SourceConnection) -> None:
        """A connection has become a source."""
        if self.keeper is not None and connection.source is not None:
            self.keeper.keep(connection.source.uuid, *connection.source_fds)

    def gone(self, connection: SourceConnection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)
        if self.keeper is not None and connection.source is not None:
            self.keeper.drop(connection.source.uuid)

    def take_over(self, fd: int, journal_fd: int) -> bool:
        """Another process's source: its socket and its journal, owned from now on. Nothing is read or written before `go_on`. False, with
        both closed and the reason told, when it cannot go on (one that has ended: without a word): a keeper may drop it then."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            self.trouble.warn("a source is lost", "", f"fd {fd} is no socket: {error.strerror}")
            _close_all(fd, journal_fd)
            return False
        try:
            connection = self._returned(sock, journal_fd)
        except JournalRefused as error:
            self.trouble.warn("a source is lost", _peer(sock), str(error))
            connection = None
        if connection is None:
            sock.close()
            _close_all(journal_fd)
            return False
        self._connections.add(connection)
        self._returning.append(connection)
        return True

    def _returned(self, sock: socket.socket, journal_fd: int) -> SourceConnection | None:
        """None for a source that has ended. Raises JournalRefused."""
        sock.setblocking(False)
        journal = SourceJournal(journal_fd)
        record = decoded(journal.description, SourceRecord)
        if record.ended:
            return None
        mount = self.mounts.get(record.mount)
        if mount is None or mount.settings.format != record.format:
            raise JournalRefused(f"mount {record.mount!r} takes no {record.format or 'source'} any more")
        return SourceConnection.adopt(sock, self, journal, record, mount)

    def go_on(self) -> None:
        """All sources were taken over: every mount has them back in their order, what was read and is in no ring is parsed, and reading
        begins. To be called once by a process that goes on with rings, when their writers are attached, also when no source came."""
        returning = {one.source: one for one in self._returning if one.source is not None}
        self._returning.clear()
        for mount in self.mounts.values():
            mount.rejoin([source for source, one in returning.items() if one.mount is mount])
            for source in list(mount.sources):
                returning[source].go_on()
                mount.end_if_replaced(source)

    def release(self) -> Released:
        """Stop touching sockets, journals and rings, and say what there is. Nothing is closed: `take_back`, or the process ends."""
        self._released = True
        self._timer.cancel()
        for sock in self._listening:
            self._loop.remove_reader(sock)
        for mount in self.mounts.values():
            mount.paused = True
        for connection in self._connections:
            connection.pause()
        sources = [one.source_fds for one in self._connections if one.source is not None]
        return Released(sources, [one.half_read() for one in self._connections if one.source is None])

    def take_back(self) -> None:
        """The successor failed, and has touched nothing: go on as before `release`."""
        self._released = False
        self._timer = self._loop.call_later(0, self._check)
        for sock in self._listening:
            self._loop.add_reader(sock, self._accept, sock)
        for mount in self.mounts.values():
            mount.paused = False
        for connection in self._connections:
            connection.read_on()

    def _check(self) -> None:
        self._timer = self._loop.call_later(CHECK_S, self._check)
        now = self._loop.time()
        for connection in list(self._connections):
            connection.check(now)
        for mount in self.mounts.values():
            mount.poll()
        if now >= self._tell_at_s:
            self._tell_at_s = now + TELL_S
            self.trouble.tick()

    def close(self, reason: str) -> None:
        """End every connection and stop listening."""
        self._closed = True
        self._timer.cancel()
        self.trouble.tick()
        while self._listening:
            sock = self._listening.pop()
            self._loop.remove_reader(sock)
            sock.close()
        for connection in list(self._connections):
            connection.close(reason)


def _close_all(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _peer(sock: socket.socket) -> str:
    try:
        return sockets.peer_of(sock.getpeername())
    except OSError:
        return ""
