"""The old generation's side of a reload: performs what supervisor/upgrade.py decides.

Everything that is given stays open here until the commit: SCM_RIGHTS duplicates. Nothing is written to a ring, a source or a listener
between `Release` and the commit or the taking back. After the commit this process ends at once, with os._exit: it must not run any
clean-up on what is another's now.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from appliance.channel.framing import BadMessage, Channel, ChannelClosed
from appliance.channel.handoff import (
    GiveEnd,
    GiveListeners,
    GiveRequest,
    GiveRing,
    GiveSocket,
    GiveSource,
    Go,
    Got,
    HandoffMessage,
    Prepared,
    Refused,
    Serving,
    Taken,
)
from appliance.ingest.source_server import Released
from appliance.supervisor import upgrade
from appliance.supervisor.listening import Listening
from appliance.supervisor.station import Station

BATCH: Final = 100
"""Listeners a message: each is acknowledged, so that no more than these are in flight twice."""
TICK_S: Final = 0.1
LAST_WORD_S: Final = 0.05
"""Before this process's end: the answer to `streammachine reload` leaves in it."""
SERVING_LIMIT_S: Final = 5.0
"""From the commit to the successor's word that it serves, which takes a few tenths of a second; then this process ends anyway."""
DECODER: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(HandoffMessage)


class Command(NamedTuple):
    """How the installed release is started anew: arguments, environment and directory as this process had them."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    keep_fds: tuple[int, ...] = ()


class HandingOver:
    """`on_commit(pid)` tells the service manager who is the main process now."""

    def __init__(self, station: Station, listening: Listening, command: Command, on_commit: Callable[[int], None]) -> None:
        self._station, self._listening, self._command, self._on_commit = station, listening, command, on_commit
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger()
        self._upgrade = upgrade.Upgrade()
        self._actions: asyncio.Queue[upgrade.Action] = asyncio.Queue()
        self._asked: list[asyncio.Future[str]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._giving: asyncio.Task[None] | None = None
        self._got = asyncio.Event()
        self._released = Released([], [])
        self._watching: asyncio.TimerHandle | None = None
        self._worker = self._loop.create_task(self._work())

    def ask(self) -> asyncio.Future[str]:
        """Reload. The future gives "" once the successor serves, else why not: this generation goes on then."""
        answer: asyncio.Future[str] = self._loop.create_future()
        actions = self._upgrade.asked(self._loop.time())
        if isinstance(actions[0], upgrade.Answer):
            answer.set_result(actions[0].reason)
            return answer
        self._log.info("reload: starting the new release")
        self._asked.append(answer)
        self._do(actions)
        self._watch_time()
        return answer

    @property
    def is_busy(self) -> bool:
        """Whether a reload is under way."""
        return self._upgrade.phase is not upgrade.Phase.IDLE

    async def stop(self) -> None:
        """This process is told to stop: end an uncommitted successor first."""
        self._do(self._upgrade.stopping(self._loop.time()))
        await self._actions.join()
        self._worker.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _do(self, actions: list[upgrade.Action]) -> None:
        for action in actions:
            self._actions.put_nowait(action)

    async def _work(self) -> None:
        """One action after the other; whatever one raises is the failure of this reload, never of the server."""
        while True:
            action = await self._actions.get()
            try:
                await self._perform(action)
            except Exception as error:  # noqa: BLE001 - see above
                self._log.error("reload: an action failed", action=type(action).__name__, exc_info=error)
                self._do(self._upgrade.failed(f"{type(action).__name__} failed: {error}", self._loop.time()))
            finally:
                self._actions.task_done()

    def _watch_time(self) -> None:
        """While a reload is under way: its waits have limits."""
        self._do(self._upgrade.tick(self._loop.time()))
        self._watching = self._loop.call_later(TICK_S, self._watch_time) if self.is_busy else None

    async def _perform(self, action: upgrade.Action) -> None:
        if isinstance(action, upgrade.Spawn):
            await self._spawn()
        elif isinstance(action, upgrade.Release):
            self._release()
        elif isinstance(action, upgrade.KillWorkers):
            self._station.workers.kill_processes()
        elif isinstance(action, upgrade.Give):
            self._giving = self._loop.create_task(self._give())
        elif isinstance(action, upgrade.Commit):
            self._commit()
        elif isinstance(action, upgrade.KillSuccessor):
            await self._kill_successor()
        elif isinstance(action, upgrade.TakeBack):
            self._station.source_server.take_back()
            self._station.workers.take_back()
            self._log.warning("reload: taken back, this release serves on")
        elif isinstance(action, upgrade.Answer):
            self._log.error("reload failed", reason=action.reason)
            self._answer(action.reason)

    def _answer(self, reason: str) -> None:
        for answer in self._asked:
            if not answer.done():
                answer.set_result(reason)
        self._asked.clear()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command.arguments,
                "--takeover-fd",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(), *self._command.keep_fds),
                env=dict(self._command.environment),
                cwd=self._command.directory,
                stdin=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours, self._told, self._lost, self._bad, DECODER)

    def _told(self, message: Any, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        now = self._loop.time()
        if isinstance(message, Prepared):
            self._log.info("reload: the new release is ready", release=message.release)
            self._do(self._upgrade.prepared(now))
        elif isinstance(message, Refused):
            self._do(self._upgrade.failed(message.reason, now))
        elif isinstance(message, Got):
            self._got.set()
        elif isinstance(message, Taken):
            self._do(self._upgrade.taken(now))
        elif isinstance(message, Serving):
            self._leave("")

    def _bad(self, error: BadMessage) -> None:
        self._do(self._upgrade.failed(f"a message of the new process cannot be read: {error}", self._loop.time()))

    def _lost(self) -> None:
        self._loop.create_task(self._find_out()).add_done_callback(lambda task: None)

    async def _find_out(self) -> None:
        """The successor has hung up: its exit code belongs to the reason."""
        code = None
        with contextlib.suppress(TimeoutError):
            code = await asyncio.wait_for(self._process.wait(), 1.0) if self._process else None
        if self._upgrade.phase is upgrade.Phase.COMMITTED:
            self._leave("the new process ended after it had taken over")
            return
        how = f"ended with code {code}" if code is not None else "hung up"
        reason = f"the new process {how} before it took over; its own words are in the log"
        self._do(self._upgrade.failed(reason, self._loop.time()))

    def _release(self) -> None:
        self._released = self._station.release()
        self._loop.create_task(self._await_workers())

    async def _await_workers(self) -> None:
        await self._station.workers.all_gone.wait()
        self._do(self._upgrade.released(self._loop.time()))

    async def _give(self) -> None:
        """Pass everything, in the order in which the successor needs it."""
        try:
            await self._give_all()
        except (ChannelClosed, TimeoutError, OSError) as error:
            self._do(self._upgrade.failed(f"the new process could not be given everything: {error}", self._loop.time()))

    async def _give_all(self) -> None:
        assert self._channel is not None  # noqa: S101 - made by _spawn
        channel, station = self._channel, self._station
        sockets = [("listener", sock) for sock in self._listening.slots]
        sockets += [("source", sock) for sock in self._listening.sources] + [("api", self._listening.api)]
        for name, sock in sockets:
            channel.send(GiveSocket(name), [sock.fileno()])
        for feed in station.feeds.values():
            channel.send(GiveRing(feed.key, feed.index, *(feed.chunker.wanted_title or ())), [feed.writer.fd])
        for fd, journal_fd in self._released.sources:
            channel.send(GiveSource(), [fd, journal_fd])
        for half in self._released.half_read:
            channel.send(GiveRequest(half.received, half.peer, source_port=True, lone=half.lone), [half.fd])
        for message, fd in station.workers.half_read_requests:
            channel.send(GiveRequest(message.received, message.peer), [fd])
        orphans = station.workers.survivors.orphans
        for start in range(0, len(orphans), BATCH):
            some = orphans[start : start + BATCH]
            self._got.clear()
            channel.send(GiveListeners([one.stand for one in some]), [one.fd for one in some])
            await asyncio.wait_for(self._got.wait(), upgrade.GIVE_LIMIT_S)
        channel.send(GiveEnd(len(sockets), len(station.feeds), len(self._released.sources), len(orphans)))

    def _commit(self) -> None:
        """The successor has everything. From here on nothing of it is touched."""
        pid = self._process.pid if self._process else 0
        self._on_commit(pid)
        with contextlib.suppress(ChannelClosed):
            if self._channel is not None:
                self._channel.send(Go())
        self._log.info("reload: handed over", successor=pid)
        self._loop.call_later(SERVING_LIMIT_S, self._leave, f"the new process has taken over, but did not serve for {SERVING_LIMIT_S:g} s")

    def _leave(self, reason: str) -> None:
        """After the commit: say how it went, and end without any clean-up."""
        self._answer(reason)
        self._loop.call_later(LAST_WORD_S, os._exit, 0)

    async def _kill_successor(self) -> None:
        """It must be gone before anything is taken back."""
        if self._giving is not None:
            self._giving.cancel()
            self._giving = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None
