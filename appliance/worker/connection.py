"""A connection that is not a listener yet: reads a request within its deadline, gets it routed, answers, and perhaps goes on."""

from __future__ import annotations

import select
import socket
from typing import Final, Protocol

from appliance.wire.http_request import BareLine, Request, RequestError, RequestParser
from appliance.worker.poller import READ, Poller
from appliance.worker.routes import Play, Reply

READ_BYTES: Final = 16 * 1024
"""One read: a whole head fits; audio behind a SOURCE head is passed on with it."""
HEAD_TIMEOUT_S: Final = 10.0
"""INTERFACES: a head not finished in 10 s is answered 408."""
IDLE_TIMEOUT_S: Final = 15.0
"""Between requests of a kept connection, and for a short answer that the peer does not read."""
REQUESTS_A_ROUND: Final = 8
"""Pipelined requests answered before other connections and the pacing timer get their turn (about 0.1 ms each)."""
LINGER_S: Final = 2.0
"""After the last answer its peer may go on sending for so long (10,000 headers on a slow line); what comes is dropped."""
LAST_READS: Final = 8
"""Reads of a turn while lingering: 128 KiB."""
_FLUSH: Final = select.EPOLLOUT
"""While an answer waits. Without EPOLLRDHUP: a peer that has finished sending may still read its answer."""
_DEAD: Final = select.EPOLLHUP | select.EPOLLERR


class Host(Protocol):
    """What a connection needs of the worker around it."""

    poller: Poller

    def decide(self, connection: Connection, request: Request) -> Reply | Play | None:
        """Route; None when the connection was taken over (passed on)."""

    def refuse(self, connection: Connection, error: RequestError) -> bytes:
        """The answer to a request that could not be read; counted and logged."""

    def begin(self, connection: Connection, play: Play, request: Request) -> None:
        """Make it a listener. The connection object is done."""

    def timed_out(self, connection: Connection) -> bytes:
        """The answer to a head that was not finished in time."""

    def deadline(self, connection: Connection, seconds: float) -> None:
        """Call `expire` after that time unless set anew."""

    def gone(self, connection: Connection) -> None:
        """Forget it: it is closed, or something else now."""


class Connection:
    """One accepted connection."""

    __slots__ = ("_closing", "_host", "_lingering", "_parser", "_unsent", "_waiting", "expires_s", "fd", "peer", "sent_bytes", "sock")

    def __init__(self, sock: socket.socket, peer: str, host: Host) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.expires_s = 0.0
        self.sent_bytes = 0
        self._host = host
        self._parser = RequestParser()
        self._unsent = self._waiting = b""
        self._closing = self._lingering = False
        host.poller.watch(self.fd, READ, self)
        host.deadline(self, HEAD_TIMEOUT_S)

    @property
    def received(self) -> bytes:
        """Every byte of the present request read so far."""
        return self._parser.received

    @property
    def can_move(self) -> bool:
        """Whether another process could go on with it: nothing unsent, not closing."""
        return not (self._unsent or self._waiting or self._closing or self._lingering)

    def go_on(self, received: bytes) -> None:
        """Another process has read this much of a request."""
        if received:
            self._feed(received)

    def event(self, mask: int) -> None:
        """Readable, writable or gone."""
        if self._lingering:
            self._drop_input()
        elif self._unsent or self._waiting:
            self._flush(mask)
        else:
            self._read()

    def _read(self) -> None:
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if not self._parser.started:
            self._host.deadline(self, HEAD_TIMEOUT_S)
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Serve the complete requests in `data`: players may pipeline on a kept connection. The next waits until an answer is sent."""
        for _ in range(REQUESTS_A_ROUND):
            if not data:
                return
            try:
                request = self._parser.feed(data)
            except RequestError as error:
                self._answer(self._host.refuse(self, error), keep=False)
                return
            if request is None or isinstance(request, BareLine):
                return
            goes_on = self._serve(request)
            data, self._parser = self._parser.rest, RequestParser()
            if not goes_on:
                self._waiting = data
                return
            self._host.deadline(self, HEAD_TIMEOUT_S if data else IDLE_TIMEOUT_S)
        if data:
            self._waiting = data
            self._host.poller.change(self.fd, _FLUSH, self)

    def _serve(self, request: Request) -> bool:
        """Whether the next request may be read at once."""
        action = self._host.decide(self, request)
        if action is None:
            return False
        if isinstance(action, Play):
            self._host.gone(self)
            self._host.begin(self, action, request)
            return False
        self._answer(action.data, keep=action.keep_alive)
        return not self._closing and not self._unsent

    def _answer(self, data: bytes, *, keep: bool) -> None:
        self._closing = not keep
        self._unsent += data
        self._flush(0)

    def answer_and_close(self, data: bytes) -> None:
        """Send this as the last answer."""
        self._host.deadline(self, IDLE_TIMEOUT_S)
        self._answer(data, keep=False)

    def _flush(self, mask: int) -> None:
        if mask & _DEAD:
            self.close()
            return
        try:
            taken = self.sock.send(self._unsent)
            self.sent_bytes += taken
            self._unsent = self._unsent[taken:]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._host.poller.change(self.fd, _FLUSH, self)
            self._host.deadline(self, IDLE_TIMEOUT_S)
        elif self._closing:
            self._finish()
        else:
            self._host.poller.change(self.fd, READ, self)
            data, self._waiting = self._waiting, b""
            self._feed(data)

    def _finish(self) -> None:
        """FIN behind the last answer. What the peer still sends is read away: closing on unread bytes is a RST that eats the answer."""
        self._lingering = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._host.poller.change(self.fd, READ, self)
        self._host.deadline(self, LINGER_S)
        self._drop_input()

    def _drop_input(self) -> None:
        """Read and forget, until the peer closes or LINGER_S are over."""
        try:
            for _ in range(LAST_READS):
                if not self.sock.recv(READ_BYTES):
                    self.close()
                    return
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def expire(self) -> None:
        """The deadline has come."""
        if self._parser.started and not self._unsent and not self._closing:
            self._answer(self._host.timed_out(self), keep=False)
            return
        self.close()

    def abort(self, reason: str) -> None:
        """Close at once."""
        del reason
        self.close()

    def close(self) -> None:
        """Close and be forgotten."""
        if self.sock.fileno() >= 0:
            self._host.gone(self)
            self._host.poller.forget(self.fd)
            self.sock.close()
