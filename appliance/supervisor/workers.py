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
    HalfRead,
    Hello,
    KeepListeners,
    LetGo,
    Message,
    Noted,
    PassRequest,
    Rejoin,
    RemoveStream,
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

TICK_S: Final = 0.5
REJOIN_S: Final = 2.0
"""A worker that serves answers in a tenth of that; one that hangs is let go: its channel is closed, and it ends when it hangs no more."""
HOMELESS_S: Final = 1.0
"""Orphans wait so long for the worker that takes the dead one's place (30 ms, as a rule) before any other gets them."""
DRAIN_S: Final = 5.0
"""MECHANICS 7: a worker that is told to stop has this long to send what is due."""

WorkerEntry = Callable[[FdArgument, str, bool], None]


class Handle:
    """One place: its pages, and the process in it if there is one."""

    counters_fd: int
    shown_fd: int
    counters: CountersPage

    def __init__(self, place: int) -> None:
        self.place = place
        self.use_counters(CountersPage.create(str(place)))
        self.streams: dict[str, int] = {}
        """Key -> index of what its worker serves."""
        self.channel: Channel | None = None
        self.process: Launched | None = None
        self.table_fd = -1
        self.held: set[int] = set()
        self.beat = 0
        self.is_waiting = False
        """Set up, and not armed yet."""

    def tell(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send, unless the worker is gone: then its death is noticed elsewhere."""
        if self.channel is not None:
            with contextlib.suppress(ChannelClosed):
                self.channel.send(message, fds)

    def use_counters(self, fd: int) -> None:
        """This is the place's counters page from now on."""
        self.counters_fd = fd
        self.shown_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.counters = CountersPage(fd, writable=True)

    def kill(self) -> None:
        """SIGKILL, by pidfd: never somebody else's process."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.process.pidfd, signal.SIGKILL)


class Workers:
    """The executor. The workers it starts wait until it is armed."""

    def __init__(
        self,
        count: int,
        settings: WorkerSettings,
        entry: WorkerEntry,
        zygote: Zygote,
    ) -> None:
        self.fleet = Fleet(count)
        self.handles = [Handle(place) for place in range(count)]
        self.doorbells = Doorbells()
        self.survivors = Survivors(max(0, fd_limit() - SPARE_FDS), self._too_many)
        self.all_gone = asyncio.Event()
        self._settings, self._entry, self._zygote = settings, entry, zygote
        self._slots: list[socket.socket] = []
        self.streams: Callable[[], list[tuple[StreamEntry, int]]] = list
        """The stream entries and ring fds for a worker that begins."""
        self.on_request: Callable[[PassRequest, int], None] = lambda message, fd: os.close(fd)
        """Who takes requests that are not for workers, with their fd."""
        self.on_worker: Callable[[int, int], None] = lambda pid, channel_fd: None
        self.on_worker_gone: Callable[[int], None] = lambda pid: None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger()
        self._timer: asyncio.TimerHandle | None = None
        self.any_serving = asyncio.Event()
        self.prepared = asyncio.Event()
        self._orphaned_s = 0.0
        self._is_armed = False
        self._is_letting_go = False
        self._is_gathering = False
        """All places are new: orphans wait for all of them, so that they are spread."""
        self._half_read: list[tuple[HalfRead, int]] = []

    async def rejoin(self, channels: list[int]) -> None:
        """Take up the workers that a former supervisor left, by their channels; those that do not answer in time are let go (they end)."""
        answered = [self._loop.create_future() for _ in channels]
        for fd, answer in zip(channels, answered, strict=True):
            self._ask(fd, answer)
        if answered:
            await asyncio.wait(answered, timeout=REJOIN_S)

    def _ask(self, fd: int, answer: asyncio.Future[None]) -> None:
        """Until a worker has said who it is, its channel belongs to no place."""
        handle: Handle | None = None

        def told(message: Message, fds: list[int]) -> None:
            if handle is not None:
                self._told(handle, message, fds)
            elif isinstance(message, Hello) and len(fds) == 3:
                settle(self._seat(message, fds, channel))
            else:
                for one in fds:
                    os.close(one)

        def settle(found: Handle | None) -> None:
            nonlocal handle
            handle = found
            if not answer.done():
                answer.set_result(None)

        def lost() -> None:
            if handle is None:
                settle(None)

        channel = Channel(socket.socket(fileno=fd), told, lost, lambda error: self._log.error("message dropped", reason=str(error)))
        with contextlib.suppress(ChannelClosed):
            channel.send(Rejoin())

    def _seat(self, hello: Hello, fds: list[int], channel: Channel) -> Handle | None:
        """Give a worker that has rejoined its place back, or a free one."""
        free = [one for one in self.handles if one.process is None]
        handle = next((one for one in free if one.place == hello.place), free[0] if free else None)
        try:
            if handle is None:
                raise CannotLaunch("there are more workers than places")
            process = Launched(hello.pid, os.pidfd_open(hello.pid))
        except (CannotLaunch, OSError) as error:
            self._log.error("a worker cannot rejoin", pid=hello.pid, reason=str(error))
            channel.close()
            for fd in fds:
                os.close(fd)
            return None
        bell, counters_fd, handle.table_fd = fds
        handle.use_counters(counters_fd)
        handle.process, handle.channel, handle.streams = process, channel, dict(hello.streams)
        handle.is_waiting = True
        self.doorbells.add(handle.place, bell)
        self._loop.add_reader(process.pidfd, self._ended, handle)
        self.fleet.rejoined(handle.place, self._loop.time())
        return handle

    @property
    def known_streams(self) -> dict[str, int]:
        """Key -> index of the streams that workers serve already: they keep these."""
        return {key: index for handle in self.handles for key, index in handle.streams.items()}

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
        self.kill_processes()

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
            self.on_request(message, fds[0])
        elif isinstance(message, KeepListeners) and len(fds) == len(message.listeners):
            self.survivors.keep(handle.place, message, fds)
            handle.tell(Noted(message.batch))
        elif isinstance(message, DropListeners):
            self.survivors.drop(handle.place, message)
            handle.tell(Noted(message.batch))
        elif isinstance(message, HalfRead) and len(fds) == 1:
            self.half_read(message, fds[0])
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
        handle.is_waiting = True
        if self._is_armed:
            self._equip(handle)
        elif all(one.is_waiting for one in self.handles):
            self.prepared.set()

    def _equip(self, handle: Handle) -> None:
        """Tell a worker of the streams: those it does not serve yet, what is new of those it does, and which are gone."""
        handle.is_waiting = False
        streams = self.streams()
        keys = {entry.key for entry, _ in streams}
        for key in handle.streams.keys() - keys:
            handle.tell(RemoveStream(handle.streams[key]))
        fresh = [(entry, fd) for entry, fd in streams if entry.key not in handle.streams]
        for entry, _ in streams:
            if entry.key in handle.streams:
                handle.tell(StreamInfo(entry))
        for start in range(0, len(fresh), MAX_FDS // 2):
            batch = fresh[start : start + MAX_FDS // 2]
            handle.tell(AddStreams([entry for entry, _ in batch]), [fd for _, fd in batch])
        handle.streams = {entry.key: entry.index for entry, _ in streams}
        if handle.process is not None and handle.channel is not None:
            self.on_worker(handle.process.pid, handle.channel.fd)
        self._perform(self.fleet.ready(handle.place, self._loop.time()))
        self._find_homes(any_place=False, fresh=handle)

    def _find_homes(self, *, any_place: bool, fresh: Handle | None = None) -> None:
        """Give orphans to the worker that was started for them or, when none comes or all are new, to all that serve."""
        if not (self.survivors.orphans or self._half_read):
            return
        serving = [one for one in self.handles if self.fleet.places[one.place].phase is Phase.SERVING]
        all_serve = len(serving) == len(self.handles)
        homes = serving if any_place or all_serve else [one for one in serving if one is fresh and not self._is_gathering]
        if not homes:
            return
        self._is_gathering = False
        count = len(self.survivors.orphans)
        self.survivors.hand_over([(home.place, home.tell) for home in homes])
        for turn, (message, fd) in enumerate(self._half_read):
            homes[turn % len(homes)].tell(message, [fd])
            os.close(fd)
        self._half_read.clear()
        self._log.info("listeners go on", workers=[home.place for home in homes], count=count)

    # --- another generation ---

    def arm(self, slots: list[socket.socket]) -> None:
        """The workers that were started in advance may serve now: on these slots, with the streams that there are."""
        self._slots = slots
        self.fleet.slots = len(slots)
        self._is_armed = self._is_gathering = True
        self._orphaned_s = self._loop.time()
        for handle in self.handles:
            if handle.is_waiting:
                self._equip(handle)

    def let_go(self) -> None:
        """Have all workers give up their listeners; `all_gone` is set when they have ended, `survivors.orphans` holds them then."""
        self._is_letting_go = True
        self.all_gone.clear()
        self.fleet.stop(self._loop.time())
        for handle in self.handles:
            handle.tell(LetGo())
        if not any(handle.process for handle in self.handles):
            self.all_gone.set()

    def take_back(self) -> None:
        """Serve on after `let_go`: new workers of this release, from the zygote, take up what the old ones let go."""
        self._is_letting_go = False
        self._is_gathering = True
        self._orphaned_s = self._loop.time()
        self.fleet = Fleet(len(self.handles), len(self._slots))
        self._perform(self.fleet.start(self._loop.time()))

    def half_read(self, message: HalfRead, fd: int) -> None:
        """A request to be gone on with by one of the workers; the fd is owned from now on."""
        self._half_read.append((message, fd))

    @property
    def half_read_requests(self) -> list[tuple[HalfRead, int]]:
        """The requests that workers let go; their fds stay this process's."""
        return self._half_read

    def kill_processes(self) -> None:
        """End the processes that are left, and no more than that: what follows is the fleet's."""
        for handle in self.handles:
            handle.kill()

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
        handle.is_waiting = False
        handle.streams = {}
        self.on_worker_gone(pid)
        if self._is_letting_go:
            self.survivors.worker_gone(handle.place, handle.table_fd)
        elif self.fleet.places[handle.place].phase is Phase.DRAINING:
            self.survivors.discard(handle.place)
        else:
            self._orphaned_s = self._loop.time()
            self._log.error("worker died", worker=handle.place, pid=pid, orphans=self.survivors.worker_gone(handle.place, handle.table_fd))
        os.close(handle.table_fd)
        self.doorbells.remove(handle.place)
        handle.held = set()
        handle.counters.clear_present(len(self.streams()))
        self._perform(self.fleet.died(handle.place, self._loop.time()))
