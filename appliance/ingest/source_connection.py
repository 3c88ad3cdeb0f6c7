"""One connection of an encoder: request by request until one begins a source, then its body.

Everything has a limit: the head (10 s, 16 KiB), a form (16 KiB), the first frame (10 s, 64 KiB), silence (`source_timeout`).

From its begin on, a source can go on in another process, with its socket and its journal alone (`adopt`): the journal is told what the
connection is before anything follows from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from appliance.ingest import source_answers, source_request
from appliance.ingest.chunker import HOLD_US
from appliance.ingest.mount import Mount, Source
from appliance.ingest.source_body import SourceBody
from appliance.ingest.source_record import SourceRecord, encoded, record_of, source_of
from appliance.ingest.source_request import Accept, Challenge, Decision, NewTitle, Options, Refuse
from appliance.ingest.trouble import TroubleLog
from appliance.ring.journal import JournalRefused, SourceJournal
from appliance.system import tcp_info
from appliance.wire import http_response
from appliance.wire.frames import Frame
from appliance.wire.http_request import BareLine, Request, RequestError, RequestParser

HEAD_TIMEOUT_S: Final = 10.0
"""For a request head or a form; also between the requests of a kept connection."""
FIRST_FRAME_S: Final = 10.0
FIRST_FRAME_BYTES: Final = 64 * 1024
"""INTERFACES: a body that has no frame within 10 s or 64 KiB (not counting a tag that opens it) is not audio of this mount's format."""
READ_BYTES: Final = 16 * 1024
READS_A_ROUND: Final = 16
"""Reads of a busy source before others get their turn: 1 MiB of a burst at most."""
LAST_READS: Final = 8
"""Reads before a close: 128 KiB, more than a request with its surplus; who sends more gets the RST."""
WAKE_S: Final = 0.125
"""Audio that may wait in the socket before this process is woken (SO_RCVLOWAT, socket(7)); an end of the stream wakes at once, and
`check` reads a rest that stays below."""
POKE: Final = b"!POKE"
"""libshout's look whether an ICY server is here: no password, nothing to tell the operator."""


class Server(Protocol):
    """What a connection needs of the source server."""

    mounts: Mapping[str, Mount]
    source_timeout_s: float
    trouble: TroubleLog

    def now_s(self) -> float:
        """Monotonic seconds."""

    def begun(self, connection: SourceConnection) -> None:
        """It has become a source: from now on `source_fds` are enough to go on with it."""

    def gone(self, connection: SourceConnection) -> None:
        """It is closed."""


class HalfRead(NamedTuple):
    """A connection that is no source yet, for `SourceServer.adopt` in another process; `fd` stays its owner's."""

    fd: int
    peer: str
    received: bytes
    lone: bool


class SourceConnection:
    """`received`: bytes another process has read already; `lone`: one request only, then Connection: close (listener port)."""

    def __init__(
        self, sock: socket.socket, peer: str, server: Server, *, received: bytes = b"", lone: bool = False, reads: bool = True
    ) -> None:
        self.sock, self.peer = sock, peer
        self._server, self._lone = server, lone
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(allow_bare_line=True)
        self._request: Request | None = None
        self._form = b""
        self._mount: Mount | None = None
        self._source: Source | None = None
        self._deadline_s = server.now_s() + HEAD_TIMEOUT_S
        self._consume: Callable[[], bool] = self._read_request
        self._unfed = received
        self._paused, self._begun = True, False
        if reads:
            self.read_on()

    @classmethod
    def adopt(cls, sock: socket.socket, server: Server, journal: SourceJournal, record: SourceRecord, mount: Mount) -> SourceConnection:
        """Another process's source, as its journal tells. Nothing is read before `go_on`; its mount must have it back by then
        (`Mount.rejoin`). Raises JournalRefused."""
        made = cls(sock, record.address, server, reads=False)
        made._body = SourceBody.resume(journal, record.format, chunked=record.chunked)
        made._mount, made._final_due, made._tcp_base = mount, record.final_due, record.tcp_base
        source = source_of(record, made.close, made._note)
        source.audio_bytes, source.bytes_received, source.format = made._body.audio_bytes, made._body.received_bytes, made._body.format
        made._source, made._consume, made._begun = source, made._read_body, True
        return made

    def go_on(self) -> None:
        """Parse what the other process had read and what may not be in the rings, then read on."""
        assert self._source is not None and self._mount is not None  # noqa: S101 - adopt has set both
        body, server = self._body, self._server
        try:
            body.journal.count_up_to(max(body.received_bytes, self._consumed_bytes() - self._tcp_base))
        except JournalRefused as error:
            self.close(str(error), faulty=True)
            return
        self._deadline_s = server.now_s() + (server.source_timeout_s if body.frame_count else FIRST_FRAME_S)
        self._take(self._mount, self._source, body.replay())
        if self.sock.fileno() >= 0:
            self._loop.call_later(HOLD_US / 1e6, self._mount.poll)
            self.read_on()

    def _consumed_bytes(self) -> int:
        """Bytes that were read from the socket in all; so many as the journal counts when the kernel does not tell."""
        with contextlib.suppress(OSError):
            consumed = tcp_info.consumed_bytes(self.sock) if self._tcp_base >= 0 else None
            if consumed is not None:
                return consumed
        return self._body.received_bytes + self._tcp_base

    @property
    def source(self) -> Source | None:
        """The source that this connection has become; None in the request phase."""
        return self._source

    @property
    def mount(self) -> Mount | None:
        """The mount of its source."""
        return self._mount

    @property
    def source_fds(self) -> tuple[int, int]:
        """Of a source: its socket and its journal."""
        return self.sock.fileno(), self._body.journal.fd

    def half_read(self) -> HalfRead:
        """Of a connection that is no source yet: what was read of the request that it is in."""
        head = self._parser.received
        if self._request is not None:
            head = head[: self._request.head_bytes] + self._form
        return HalfRead(self.sock.fileno(), self.peer, head + self._unfed, self._lone)

    def pause(self) -> None:
        """Leave the socket alone: another process may go on with it."""
        self._paused = True
        self._loop.remove_reader(self.sock)

    def read_on(self) -> None:
        """Read when there is something (of an adopted socket what is less than its low-water mark, too: in `check`)."""
        self._paused = False
        self._loop.add_reader(self.sock, self._readable)
        if self._unfed:
            self._loop.call_soon(self._feed_first)

    def _feed_first(self) -> None:
        if not self._paused:
            received, self._unfed = self._unfed, b""
            self._feed(received)

    def _readable(self) -> None:
        for _ in range(READS_A_ROUND):
            try:
                if not self._consume():
                    return
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error.strerror or str(error))
                return

    # --- requests ---

    def _read_request(self) -> bool:
        data = self.sock.recv(READ_BYTES)
        if not data:
            self._lost("closed by the encoder")
            return False
        self._feed(data)
        return self.sock.fileno() >= 0

    def _lost(self, reason: str) -> None:
        """The peer is gone; in the middle of a request that is worth a word."""
        if self._source is None and (self._parser.started or self._request is not None):
            self._trouble("bad source request", f"{reason} before the request was complete")
        self.close(reason)

    def _feed(self, data: bytes) -> None:
        """Requests until the data is used up, one begins a source, or the connection is done."""
        while data and self.sock.fileno() >= 0:
            if self._request is None:
                self._request = self._parse(data)
                if self._request is None:
                    return
                data = self._parser.rest
                if self._request.expects_continue and self._form_missing() > 0:
                    self._say(http_response.CONTINUE)
            data = self._take_form(data)
            if self._form_missing() > 0 or self.sock.fileno() < 0:
                return
            request, form = self._request, self._form
            self._request, self._form, self._parser = None, b"", RequestParser(allow_bare_line=True)
            self._deadline_s = self._server.now_s() + HEAD_TIMEOUT_S
            if not self._act(request, source_request.decide(request, form, self._server.mounts), data):
                return

    def _parse(self, data: bytes) -> Request | None:
        try:
            found = self._parser.feed(data)
        except RequestError as error:
            self._trouble("bad source request", f"{error.reason} ({error.status})")
            self._answer_last(http_response.text(error.status, error.reason))
            return None
        if isinstance(found, BareLine):
            if found.text != POKE:
                self._trouble("source refused", "a bare password line; this server takes SOURCE and PUT")
            self._answer_last(b"invalid password\r\n")
            return None
        return found

    def _form_missing(self) -> int:
        """Bytes of a form that are still to come. The body of SOURCE and PUT is audio, no form."""
        request = self._request
        if request is None or request.method in {"SOURCE", "PUT"}:
            return 0
        return (request.content_length or 0) - len(self._form)

    def _take_form(self, data: bytes) -> bytes:
        """The part of `data` that is the request's body, if it has one that is not audio. Returns what follows."""
        missing = max(0, self._form_missing())
        if len(self._form) + missing > source_request.FORM_MAX_BYTES:
            self._trouble("bad source request", "a form over the limit (413)")
            self._answer_last(http_response.text(413, "the form is too large"))
            return b""
        self._form += data[:missing]
        return data[missing:]

    def _act(self, request: Request, decision: Decision, rest: bytes) -> bool:
        """Carry a decision out; True when the connection reads a further request."""
        if isinstance(decision, Accept):
            self._begin(request, decision, rest)
            return False
        keep = request.keep_alive and self._may_keep(request, decision)
        if isinstance(decision, Challenge):
            if decision.wrong:
                self._trouble("source refused", decision.log)
        elif isinstance(decision, NewTitle):
            decision.mount.title(decision.title, decision.url)
        elif isinstance(decision, Refuse):
            self._trouble("source refused", f"{decision.log} ({decision.status})")
        answer = source_answers.answer(decision, keep, head_only=request.method == "HEAD")
        if keep:
            self._say(answer)
        else:
            self._answer_last(answer)
        return keep

    def _may_keep(self, request: Request, decision: Decision) -> bool:
        """Whether a next request may follow this answer. Behind a refused SOURCE or PUT comes its audio, unless it is known to wait."""
        if isinstance(decision, Challenge):
            return not decision.wrong and (request.method not in {"SOURCE", "PUT"} or source_request.leaves_body_out(request))
        return isinstance(decision, Options) or (isinstance(decision, NewTitle) and not self._lone)

    def _say(self, data: bytes) -> None:
        """Answers are shorter than any send buffer; a peer that lets it fill up is closed by its deadline."""
        with contextlib.suppress(OSError):
            self.sock.send(data)

    def _answer_last(self, data: bytes) -> None:
        """Answer and close. What the peer has sent meanwhile is read first: unread bytes would make it a RST that eats the answer."""
        self._say(data)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            for _ in range(LAST_READS):
                if not self.sock.recv(READ_BYTES):
                    break
        self.close("answered")

    def _trouble(self, event: str, reason: str) -> None:
        self._server.trouble.warn(event, self.peer, reason)

    # --- the body ---

    def _begin(self, request: Request, accept: Accept, rest: bytes) -> None:
        settings, length = accept.mount.settings, request.content_length
        try:
            self._body = SourceBody.create(settings.name, settings.format, chunked=request.chunked, length=length, rest=rest)
        except (OSError, JournalRefused) as error:
            self._trouble("source refused", f"no memory for its journal: {error}")
            self._answer_last(http_response.text(503, "no room for another source"))
            return
        self._tcp_base = self._bytes_before_body()
        protocol = f"{request.method} {request.protocol}/{request.version[0]}.{request.version[1]}"
        self._mount = accept.mount
        self._source = Source(accept.user, accept.agent, self.peer, protocol, accept.info, self.close, self._note)
        self._deadline_s = self._server.now_s() + FIRST_FRAME_S
        self._final_due = request.expects_continue
        self._say(http_response.CONTINUE if request.expects_continue else b"HTTP/1.0 200 OK\r\n\r\n")
        self._consume = self._read_body
        self._mount.join(self._source)
        if rest:
            self._take(self._mount, self._source, self._body.replay())

    def _bytes_before_body(self) -> int:
        """TCP bytes read before the journal's first; -1 where nobody counts them."""
        with contextlib.suppress(OSError):
            consumed = tcp_info.consumed_bytes(self.sock)
            if consumed is not None:
                return consumed - self._body.received_bytes
        return -1

    def _note(self) -> None:
        """Keep in the journal whose connection this is."""
        source, mount, body = self._source, self._mount, self._body
        assert source is not None and mount is not None  # noqa: S101 - both are set before the mount has the source
        try:
            body.journal.describe(encoded(record_of(source, mount.settings, body.chunked, self._final_due, self._tcp_base)))
        except JournalRefused as error:
            self._trouble("a source will not survive this process", str(error))
            return
        if not self._begun:
            self._begun = True
            self._server.begun(self)

    def _read_body(self) -> bool:
        assert self._source is not None and self._mount is not None  # noqa: S101 - _begin has set both
        try:
            frames = self._body.receive(self.sock)
        except JournalRefused as error:
            self.close(str(error), faulty=True)
            return False
        if frames is None:
            self.close("closed by the encoder")
            return False
        self._take(self._mount, self._source, frames)
        return not self._body.drained and self.sock.fileno() >= 0

    def _take(self, mount: Mount, source: Source, frames: list[Frame]) -> None:
        body = self._body
        source.bytes_received = body.received_bytes
        if frames:
            self._deadline_s = self._server.now_s() + self._server.source_timeout_s
            mount.frames(source, frames)
            if body.frame_count == len(frames):
                self._first_frames(mount, frames[0])
        on_air = mount.active is source
        body.settle(max((feed.chunker.frames_held for feed in mount.feeds), default=0) if on_air else 0)
        if body.fault:
            self.close(body.fault, faulty=True)
        elif body.complete:
            if self._final_due:
                self._say(http_response.text(200, "the source has ended"))
            self.close("the encoder ended its body")
        elif not body.frame_count and body.payload_bytes > FIRST_FRAME_BYTES and not body.in_tag:
            self._no_frame(mount)

    def _first_frames(self, mount: Mount, frame: Frame) -> None:
        """Let the connect burst go in time, and from here on be woken for several frames at once: a wake-up costs more than they do."""
        self._loop.call_later(HOLD_US / 1e6, mount.poll)
        low_water_bytes = int(len(frame.data) / frame.duration_s * WAKE_S)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, max(1, low_water_bytes))

    def _no_frame(self, mount: Mount) -> None:
        wanted, sent = mount.settings.format, self._body.payload_bytes
        self.close(f"no {wanted} frame in its first {sent} bytes: is the encoder set to {wanted}?", faulty=True)

    # --- time and the end ---

    def check(self, now_s: float) -> None:
        """Several times a second: read what is less than the low-water mark, end what takes too long."""
        if self._source is not None and self.sock.fileno() >= 0:
            self._readable()
        if self.sock.fileno() < 0 or now_s < self._deadline_s:
            return
        if self._source is None or self._mount is None:
            if self._parser.started or self._request is not None:
                self._trouble("bad source request", f"not finished in {HEAD_TIMEOUT_S:.0f} s (408)")
                self._answer_last(http_response.text(408, "the request was not finished in time"))
            self.close("no request in time")
        elif not self._body.frame_count:
            self._no_frame(self._mount)
        else:
            self.close(f"no audio for {self._server.source_timeout_s:g} s", faulty=True)

    def close(self, reason: str, *, faulty: bool = False) -> None:
        """End the connection; its mount goes on without it. `faulty`: as in Mount.leave."""
        if self.sock.fileno() < 0:
            return
        self._loop.remove_reader(self.sock)
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self._source is not None and self._mount is not None:
            last = self._body.flush()
            if last:
                self._mount.frames(self._source, last)
            self._mount.leave(self._source, reason, faulty=faulty)
            self._body.close()
        self._server.gone(self)
