"""The source server: accepts encoders on its port, adopts those that came to the listener port, keeps time for all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from typing import Final

from appliance.ingest.mount import Mount
from appliance.ingest.source_connection import SourceConnection
from appliance.ingest.trouble import TroubleLog
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


class SourceServer:
    """Owns the connections of encoders. `mounts` may change while it runs."""

    def __init__(self, mounts: Mapping[str, Mount], source_timeout_s: float) -> None:
        self.mounts = mounts
        self.source_timeout_s = source_timeout_s
        self._loop = asyncio.get_running_loop()
        self.trouble = TroubleLog()
        self._closed = False
        self._tell_at_s = self._loop.time() + TELL_S
        self._connections: set[SourceConnection] = set()
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
        if not self._closed:
            self._loop.add_reader(sock, self._accept, sock)

    def adopt(self, sock: socket.socket, peer: str, *, received: bytes = b"", lone: bool = False) -> None:
        """Serve a connection, of which `received` was read already."""
        sock.setblocking(False)
        if self._closed or len(self._connections) >= MAX_CONNECTIONS:
            self.trouble.warn("source refused", peer, "the server stops" if self._closed else "too many source connections (503)")
            with contextlib.suppress(OSError):
                sock.send(http_response.text(503, "too many connections"))
            sock.close()
            return
        self._connections.add(SourceConnection(sock, peer, self, received=received, lone=lone))

    def gone(self, connection: SourceConnection) -> None:
        """A connection is closed."""
        self._connections.discard(connection)

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
