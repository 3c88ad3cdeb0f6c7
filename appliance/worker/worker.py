"""One worker: what it was given (streams, slots, pages), and the connections it serves with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, Final

import appliance
from appliance.channel.framing import BadMessage, Channel, ChannelClosed
from appliance.channel.messages import (
    AddStreams,
    Adopted,
    AdoptListeners,
    DropListeners,
    HalfRead,
    Hello,
    KeepListeners,
    Kept,
    LetGo,
    Message,
    Noted,
    PassRequest,
    Rejoin,
    RemoveStream,
    Setup,
    Slots,
    Stand,
    Stop,
    StreamInfo,
)
from appliance.ring.columns import RingRefused
from appliance.ring.counters import Count, CountersPage, StreamCount
from appliance.ring.listeners import ListenerTable
from appliance.system import doorbell, sockets
from appliance.system.clock import SystemClock
from appliance.wire.http_request import Request, RequestError
from appliance.worker import adoption
from appliance.worker.acceptor import Acceptor
from appliance.worker.answers import Answers
from appliance.worker.connection import Connection
from appliance.worker.deadlines import Deadlines
from appliance.worker.fanout import Fanout
from appliance.worker.keeping import Keeping
from appliance.worker.listener import Listener
from appliance.worker.playhead import Playhead
from appliance.worker.poller import Poller
from appliance.worker.routes import Pass, Play, Reply, Router
from appliance.worker.session_log import SessionLog
from appliance.worker.stream import Stream, StreamTable

AGENT_MAX_CHARS: Final = 200
"""Of a player's name kept for the log line: enough for browsers, a bound on memory per listener."""
PROBE_BYTES: Final = 8192
"""Audio a probe (`Range: bytes=0-1`) gets before its connection ends."""
FLUSHED_CHECK_S: Final = 0.05
"""How often a worker that drains looks whose connection has taken everything."""
KEEP_S: Final = 0.25
"""How often the supervisor is told of listeners that lasted and that ended."""
SAID_CHECK_S: Final = 0.002
"""How often a worker that lets go looks whether the supervisor has read all; the supervisor ends it after a limit of its own."""
ORPHAN_DRAIN_S: Final = 5.0
"""A worker whose supervisor is gone sends what is due and ends within this time."""


class Worker:
    """Serves until it is told to stop or its supervisor is gone. Implements the `Host` of connections."""

    def __init__(self, channel_socket: socket.socket, ended: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._clock = SystemClock()
        self._log = SessionLog(-1)
        self.poller = Poller(self._loop, self._fault)
        self._deadlines = Deadlines(self._loop.time)
        self._acceptor = Acceptor(self._accepted, self._out_of_fds)
        self._agents: dict[str, str] = {}
        self._stopping = self._keeps = False
        self._bell = doorbell.create()
        self._loop.add_reader(self._bell, self._rung)
        self._handlers = self._kinds()
        self._channel = Channel(channel_socket, self._told, self._orphaned, self._bad_message)
        self._channel.send(Hello(os.getpid(), release=appliance.__version__), [self._bell])

    # --- what the supervisor says ---

    def _kinds(self) -> dict[type, Callable[[Any, list[int]], bool | None]]:
        """What to do with each kind of message; True when that has taken the fds."""
        return {
            Setup: self._set_up,
            AddStreams: self._add_streams,
            StreamInfo: self._stream_info,
            RemoveStream: self._remove_stream,
            Slots: self._hold_slots,
            AdoptListeners: self._adopt,
            Noted: lambda message, fds: self._keeping.noted(message),
            HalfRead: self._go_on,
            LetGo: lambda message, fds: self._let_go(),
            Rejoin: self._rejoin,
            Stop: lambda message, fds: self.stop(message.drain_s),
        }

    def _told(self, message: Message, fds: list[int]) -> None:
        handle = self._handlers.get(type(message))
        if handle is None or not handle(message, fds):
            for fd in fds:
                os.close(fd)

    def _rejoin(self, message: Rejoin, fds: list[int]) -> None:
        """The supervisor died and its successor has our channel: it knows nothing of us."""
        if not hasattr(self, "_fanout"):  # killed before it could set us up: nobody listens here
            self._ended.set()
            return
        self._acceptor.hold([], {})
        streams = {stream.entry.key: stream.entry.index for stream in self._streams}
        hello = Hello(os.getpid(), release=appliance.__version__, place=self._place, streams=streams)
        self._channel.send(hello, [self._bell, *self._page_fds])
        self._keeping.retell(self._fanout.listeners)

    def _hold_slots(self, message: Slots, fds: list[int]) -> bool:
        self._acceptor.hold(message.slots, dict(zip(message.added, fds, strict=True)))
        return True

    def _stream_info(self, message: StreamInfo, fds: list[int]) -> None:
        self._answers.forget(message.stream.index)
        self._streams.update(message.stream)

    def _remove_stream(self, message: RemoveStream, fds: list[int]) -> None:
        stream = self._streams.remove(message.index)
        if stream is not None:
            self._fanout.end_stream(stream)

    def _go_on(self, message: HalfRead, fds: list[int]) -> bool:
        Connection(socket.socket(fileno=fds[0]), message.peer, self).go_on(message.received)
        return True

    def _set_up(self, message: Setup, fds: list[int]) -> None:
        """Fds: own counters page, own listener table, then the counters pages of the other slots (read-only use)."""
        settings = message.settings
        self._place, self._page_fds = message.slot, [os.dup(fd) for fd in fds[:2]]
        self._log = SessionLog(message.slot)
        self._pages = [CountersPage(fd, writable=False) for fd in fds[2:]]
        own = CountersPage(fds[0], writable=True)
        self._pages.append(own)
        self._counts = own.worker
        self._streams = StreamTable(own)
        self._answers = Answers(settings)
        self._settings = settings
        self._router = Router(settings, self._streams, self._answers, self._full)
        self._table = ListenerTable(fds[1], writable=True)
        self._keeping = Keeping(self._table, self._say, self._clock.monotonic_us, self._wake_keeping)
        self._fanout = Fanout(
            settings.send_interval, self._clock, self.poller, own, self._table, self._listener_ended, self._keeping.joined
        )
        self._loop.call_later(1.0, self._every_second)
        self._loop.call_later(settings.log_interval, self._every_log_interval)

    def _add_streams(self, message: AddStreams, fds: list[int]) -> None:
        for entry, fd in zip(message.streams, fds, strict=True):
            try:
                self._streams.add(entry, fd)
            except RingRefused as error:
                self._log.log.error("cannot serve a stream", stream=entry.key, reason=str(error))

    def _say(self, message: KeepListeners | DropListeners, fds: list[int]) -> bool:
        try:
            self._channel.send(message, fds)
        except ChannelClosed:
            return False
        return True

    def _wake_keeping(self) -> None:
        if not self._keeps:
            self._keeps = True
            self._loop.call_later(KEEP_S, self._keep)

    def _keep(self) -> None:
        self._keeps = False
        self._keeping.tick()
        if self._keeping.has_work:
            self._wake_keeping()

    def _adopt(self, message: AdoptListeners, fds: list[int]) -> bool:
        """Go on with the listeners of a worker that is gone. Heads are taken anew: that worker may have seen later ones than this."""
        for stream in self._streams:
            stream.learn()
        kept = [self._adopt_one(stand, fd) for stand, fd in zip(message.listeners, fds, strict=True)]
        with contextlib.suppress(ChannelClosed):
            self._channel.send(Adopted(message.batch, kept))
        return True

    def _adopt_one(self, stand: Stand, fd: int) -> Kept | None:
        try:
            listener = adoption.adopt(stand, fd, self._streams.at(stand.kept.stream), self._fanout, self._table)
        except adoption.CannotGoOn as error:
            self._log.trouble("a listener could not go on", str(error), peer=stand.kept.peer)
            return None
        self._fanout.adopt(listener, stand.kept.distance)
        return self._keeping.known(listener)

    def _bad_message(self, error: BadMessage) -> None:
        self._log.log.error("message dropped", reason=str(error))

    def _orphaned(self) -> None:
        if not self._stopping:
            self._log.log.warning("the supervisor is gone: ending", drain_s=ORPHAN_DRAIN_S)
            self.stop(ORPHAN_DRAIN_S)

    def stop(self, drain_s: float) -> None:
        """Accept no more, send what is due, end when all are gone or after `drain_s`."""
        if self._stopping:
            return
        self._stopping = True
        self._acceptor.close()
        if not hasattr(self, "_fanout"):
            self._ended.set()
            return
        for stream in self._streams:
            stream.learn()
        for watched in self.poller.all():
            if isinstance(watched, Connection):
                watched.close()
        self._fanout.drain()
        self._loop.call_later(drain_s, self._ended.set)
        self._end_flushed()

    def _let_go(self) -> None:
        """Another generation takes over: leave every connection as it is, say where each stands, end when that is said."""
        self._stopping = True
        self._acceptor.close()
        self._fanout.let_go()
        self._keeping.tell_all()
        for watched in self.poller.all():
            if isinstance(watched, Connection) and watched.can_move:
                with contextlib.suppress(ChannelClosed, ValueError):
                    self._channel.send(HalfRead(watched.received, watched.peer), [watched.fd])
        self.poller.close()
        self._end_when_said()

    def _end_when_said(self) -> None:
        if self._channel.is_flushed:
            self._ended.set()
        else:
            self._loop.call_later(SAID_CHECK_S, self._end_when_said)

    def _end_flushed(self) -> None:
        self._fanout.end_flushed()
        self._end_if_idle()
        self._loop.call_later(FLUSHED_CHECK_S, self._end_flushed)

    def _end_if_idle(self) -> None:
        if self._stopping and not len(self.poller):
            self._ended.set()

    # --- time ---

    def _rung(self) -> None:
        doorbell.silence(self._bell)
        if hasattr(self, "_streams"):
            for stream in self._streams:
                stream.learn()

    def _every_second(self) -> None:
        self._deadlines.sweep()
        self._counts[Count.CONNECTIONS] = len(self.poller)
        self._counts[Count.HEARTBEAT] += 1
        self._log.tick()
        self._end_if_idle()
        self._loop.call_later(1.0, self._every_second)

    def _every_log_interval(self) -> None:
        self._log.summary()
        self._agents.clear()
        self._loop.call_later(self._settings.log_interval, self._every_log_interval)

    # --- connections (Host) ---

    def _accepted(self, sock: socket.socket, address: object) -> None:
        self._counts[Count.ACCEPTED] += 1
        Connection(sock, sockets.peer_of(address), self)

    def _out_of_fds(self, error: OSError) -> None:
        self._counts[Count.REFUSED] += 1
        self._log.trouble("cannot accept", f"{error.strerror}: raise LimitNOFILE or lower max_listeners")

    def decide(self, connection: Connection, request: Request) -> Reply | Play | None:
        """Route a request; one for the supervisor leaves with its connection."""
        self._counts[Count.REQUESTS] += 1
        action = self._router.route(request)
        if isinstance(action, Pass):
            return self._pass_on(connection)
        return action

    def _pass_on(self, connection: Connection) -> Reply | None:
        try:
            self._channel.send(PassRequest(connection.received, connection.peer), [connection.fd])
        except (ChannelClosed, ValueError) as error:
            self._log.trouble("request not passed on", str(error), peer=connection.peer)
            return Reply(self._answers.error(503, "cannot take this request now", extra=[("Retry-After", "5")]), False)
        self._counts[Count.PASSED] += 1
        connection.close()
        return None

    def refuse(self, connection: Connection, error: RequestError) -> bytes:
        """The answer to what could not be read."""
        self._counts[Count.BAD_REQUESTS] += 1
        self._log.trouble("bad request", error.reason, status=error.status, peer=connection.peer)
        return self._answers.error(error.status, error.reason)

    def timed_out(self, connection: Connection) -> bytes:
        """The answer to half a request."""
        self._counts[Count.TIMEOUTS] += 1
        self._log.trouble("request timed out", "the head was not finished in time", peer=connection.peer)
        return self._answers.error(408, "the request was not finished in time")

    def deadline(self, connection: Connection, seconds: float) -> None:
        """Expire the connection then."""
        self._deadlines.set(connection, seconds)

    def gone(self, connection: Connection) -> None:
        """It is no connection of the request phase any more."""
        self._deadlines.clear(connection)
        if self._stopping:
            self._loop.call_soon(self._end_if_idle)

    def begin(self, connection: Connection, play: Play, request: Request) -> None:
        """Audio: the connection becomes a listener."""
        if play.probe:
            self._answer_probe(connection, play)
            return
        stream, sock = play.stream, connection.sock
        sockets.make_lasting(sock, stream.entry.max_buffer)
        pos = stream.reader.pos[play.start.seq & stream.reader.mask]
        playhead = Playhead(pos, stream.entry.meta_interval if play.icy else 0, play.head, connection.sent_bytes)
        listener = Listener(sock, self._fanout, stream, playhead, connection.peer, self._agent(request))
        self._fanout.join(listener, play.start.seq, play.start.behind)

    def _answer_probe(self, connection: Connection, play: Play) -> None:
        """A player that looks at the first bytes only: it gets some audio and is never counted (CLIENTS.md, iOS)."""
        reader = play.stream.reader
        pos = reader.pos[play.start.seq & reader.mask]
        end = min(pos + PROBE_BYTES, reader.pos[play.stream.head & reader.mask])
        playhead = Playhead(pos, play.stream.entry.meta_interval if play.icy else 0, play.head)
        connection.answer_and_close(b"".join(playhead.gather(play.stream, end)[0]))

    def _agent(self, request: Request) -> str:
        """The player's name, one string for all who send the same."""
        agent = request.headers.get("user-agent", "")[:AGENT_MAX_CHARS]
        return self._agents.setdefault(agent, agent)

    def _full(self, stream: Stream) -> str:
        """Why no listener more is taken, or "". Limits count the listeners of all workers."""
        most = self._settings.max_listeners
        if most and sum(page.worker[Count.LISTENERS] for page in self._pages) >= most:
            return "the server has as many listeners as it takes"
        most, index = stream.entry.max_listeners, stream.entry.index
        if most and sum(page.stream(index)[StreamCount.LISTENERS] for page in self._pages) >= most:
            return "this stream has as many listeners as it takes"
        return ""

    def _listener_ended(self, listener: Listener, reason: str) -> bool:
        self._log.ended(listener, reason, self._clock.monotonic_us())
        if self._stopping:
            self._loop.call_soon(self._end_if_idle)
        return self._keeping.left(listener)

    def _fault(self, error: BaseException) -> None:
        self._log.log.error("a connection failed inside", exc_info=error)
