"""Performs what the fleet decides: launches workers from the zygote, talks to them, watches them end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from appliance.channel.framing import MAX_FDS, BadMessage, Channel, ChannelClosed
from appliance.channel.messages import (
    AddStreams,
    Adopted,
    DropListeners,
    Hello,
    KeepListeners,
    Message,
    Noted,
    PassRequest,
    Setup,
    Slots,
    Stop,
    StreamEntry,
    StreamInfo,
    WorkerSettings,
)
from appliance.ring.counters import Count, CountersPage
from appliance.ring.listeners import ListenerTable
from appliance.supervisor.fleet import Action, AllGone, Assign, Fleet, Kill, Launch, Phase, StopWorker
from appliance.supervisor.survivors import SPARE_FDS, Survivors
from appliance.system.doorbell import Doorbells
from appliance.system.processes import CannotLaunch, FdArgument, Launched, Zygote, fd_limit

TICK_S: Final = 0.25
HOMELESS_S: Final = 1.0
"""Orphans wait so long for the worker that takes the dead one's place (30 ms, as a rule) before any other gets them."""
DRAIN_S: Final = 5.0
"""MECHANICS 7: a worker that is told to stop has this long to send what is due."""

WorkerEntry = Callable[[FdArgument, str, bool], None]


class Handle:
    """One place: its pages, and the process in it if there is one."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.counters_fd = CountersPage.create(str(place))
        self.shown_fd = os.open(f"/proc/self/fd/{self.counters_fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.counters = CountersPage(self.counters_fd, writable=True)
        self.channel: Channel | None = None
        self.process: Launched | None = None
        self.table_fd = -1
        self.held: set[int] = set()
        self.beat = 0

    def tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, unless the worker is gone: then its death is noticed elsewhere."""
        if self.channel is not None:
            with contextlib.suppress(ChannelClosed):
                self.channel.send(message, fds)

    def kill(self) -> None:
        """SIGKILL, by pidfd: never somebody else's process."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process.pidfd, signal.SIGKILL)


class Workers:
    """The executor. `streams` gives the stream entries and ring fds for a worker that begins."""

    def __init__(
        self,
        count: int,
        settings: WorkerSettings,
        entry: WorkerEntry,
        zygote: Zygote,
        slots: list[socket.socket],
        streams: Callable[[], list[tuple[StreamEntry, int]]],
        on_request: Callable[[PassRequest, int], None],
    ) -> None:
        self.fleet = Fleet(count)
        self.handles = [Handle(place) for place in range(count)]
        self.doorbells = Doorbells()
        self.survivors = Survivors(max(0, fd_limit() - SPARE_FDS), self._too_many)
        self.all_gone = asyncio.Event()
        self._settings, self._entry, self._zygote, self._slots = settings, entry, zygote, slots
        self._streams, self._on_request = streams, on_request
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()
        self._timer: asyncio.TimerHandle | None = None
        self.any_serving = asyncio.Event()
        self._orphaned_s = 0.0

    def start(self) -> None:
        """Launch all."""
        self._perform(self.fleet.start(self._loop.time()))
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def stop(self) -> None:
        """Drain and end all; `all_gone` is set when they are."""
        self._perform(self.fleet.stop(self._loop.time()))

    def kill_all(self) -> None:
        """End what is left."""
        if self._timer is not None:
            self._timer.cancel()
        for handle in self.handles:
            handle.kill()

    def tell_all(self, message: StreamInfo) -> None:
        """Send to every worker that serves."""
        for handle in self.handles:
            handle.tell(message)

    def _tick(self) -> None:
        now = self._loop.time()
        for handle in self.handles:
            beat = handle.counters.worker[Count.HEARTBEAT]
            if beat != handle.beat:
                handle.beat = beat
                self.fleet.beat(handle.place, now)
        self._perform(self.fleet.tick(now))
        self._find_homes(any_place=now - self._orphaned_s > HOMELESS_S)
        self._timer = self._loop.call_later(TICK_S, self._tick)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Launch):
                self._in_background(self._launch(self.handles[action.place]))
            elif isinstance(action, Assign):
                self._assign(action.slots)
            elif isinstance(action, Kill):
                self._log.error("worker killed", worker=action.place, reason=action.reason)
                self.handles[action.place].kill()
            elif isinstance(action, StopWorker):
                self.handles[action.place].tell(Stop(DRAIN_S))
            elif isinstance(action, AllGone):
                self.all_gone.set()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch(self, handle: Handle) -> None:
        """Start a process for a place; whatever goes wrong counts as its death, so that the fleet tries again."""
        try:
            await self._start_process(handle)
        except (CannotLaunch, OSError) as error:
            self._log.error("cannot start a worker", worker=handle.place, reason=str(error))
            self._perform(self.fleet.died(handle.place, self._loop.time()))
            return
        if self.fleet.places[handle.place].phase is Phase.DRAINING:
            handle.tell(Stop(DRAIN_S))

    async def _start_process(self, handle: Handle) -> None:
        handle.table_fd = ListenerTable.create(str(handle.place))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            argument = FdArgument(theirs.fileno())
            process = await self._zygote.launch(self._entry, argument, self._settings.log_level, self._settings.log_json)
        except BaseException:
            ours.close()
            os.close(handle.table_fd)
            raise
        finally:
            theirs.close()
        handle.process = process
        handle.channel = Channel(
            ours,
            lambda message, fds: self._told(handle, message, fds),
            lambda: None,  # the pidfd says when it is gone
            lambda error: self._bad_message(handle, error),
        )
        self._loop.add_reader(process.pidfd, self._ended, handle)

    def _told(self, handle: Handle, message: Message, fds: list[int]) -> None:
        if isinstance(message, Hello) and len(fds) == 1:
            self._welcome(handle, fds[0])
        elif isinstance(message, PassRequest) and len(fds) == 1:
            self._on_request(message, fds[0])
        elif isinstance(message, KeepListeners) and len(fds) == len(message.listeners):
            self.survivors.keep(handle.place, message, fds)
            handle.tell(Noted(message.batch))
        elif isinstance(message, DropListeners):
            self.survivors.drop(handle.place, message)
            handle.tell(Noted(message.batch))
        elif isinstance(message, Adopted):
            self.survivors.adopted(handle.place, message)
        else:
            for fd in fds:
                os.close(fd)

    def _welcome(self, handle: Handle, bell: int) -> None:
        """Everything a new worker needs, in one go."""
        self.doorbells.add(handle.place, bell)
        others = [other.shown_fd for other in self.handles if other is not handle]
        handle.tell(Setup(handle.place, self._settings), [handle.counters_fd, handle.table_fd, *others])
        streams = self._streams()
        for start in range(0, len(streams), MAX_FDS // 2):
            batch = streams[start : start + MAX_FDS // 2]
            handle.tell(AddStreams([entry for entry, _ in batch]), [fd for _, fd in batch])
        self._perform(self.fleet.ready(handle.place, self._loop.time()))
        self._find_homes(any_place=False, fresh=handle)

    def _find_homes(self, *, any_place: bool, fresh: Handle | None = None) -> None:
        """Give orphans to the worker that was started for them or, when none comes, to any that serves."""
        if not self.survivors.orphans:
            return
        serving = [one for one in self.handles if self.fleet.places[one.place].phase is Phase.SERVING]
        if fresh in serving or (any_place and serving):
            home = fresh if fresh in serving else min(serving, key=lambda one: one.counters.worker[Count.LISTENERS])
            assert home is not None  # noqa: S101 - both branches name one
            count = len(self.survivors.orphans)
            self.survivors.hand_over(home.place, home.tell)
            self._log.info("listeners go on", worker=home.place, count=count)

    def _too_many(self, limit: int) -> None:
        self._log.warning("more listeners than connections that can be held twice: the rest ends with its worker", limit=limit)

    def _assign(self, slots: dict[int, list[int]]) -> None:
        for place, held in slots.items():
            handle = self.handles[place]
            added = [slot for slot in held if slot not in handle.held]
            if added or handle.held != set(held):
                handle.tell(Slots(held, added), [self._slots[slot].fileno() for slot in added])
            handle.held = set(held)
        if slots:
            self.any_serving.set()

    def _bad_message(self, handle: Handle, error: BadMessage) -> None:
        self._log.error("message dropped", worker=handle.place, reason=str(error))

    def _ended(self, handle: Handle) -> None:
        """The process is gone: let go of what was its, and tell the fleet."""
        if handle.process is None:
            return
        self._loop.remove_reader(handle.process.pidfd)
        os.close(handle.process.pidfd)
        pid, handle.process = handle.process.pid, None
        if handle.channel is not None:
            handle.channel.drain()
            handle.channel.close()
        handle.channel = None
        if self.fleet.places[handle.place].phase is Phase.DRAINING:
            self.survivors.discard(handle.place)
        else:
            self._orphaned_s = self._loop.time()
            self._log.error("worker died", worker=handle.place, pid=pid, orphans=self.survivors.worker_gone(handle.place, handle.table_fd))
        os.close(handle.table_fd)
        self.doorbells.remove(handle.place)
        handle.held = set()
        handle.counters.clear_present(len(self._streams()))
        self._perform(self.fleet.died(handle.place, self._loop.time()))
