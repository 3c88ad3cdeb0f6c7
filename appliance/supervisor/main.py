"""The supervisor process: start everything in order, wait for the end, end everything in order.

There are two beginnings, fresh and in place of a former generation (`Start.takeover_fd`), and two ends: `_stop`, and the commit of a
handing over, which ends the process on the spot.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import uvloop

import appliance
from appliance.channel.messages import HalfRead
from appliance.config.model import Config
from appliance.supervisor import heartbeat, listening
from appliance.supervisor.command_socket import CommandSocket
from appliance.supervisor.fd_store import FdStore, what_is_left
from appliance.supervisor.handing_over import Command, HandingOver
from appliance.supervisor.listening import Listening
from appliance.supervisor.station import Station, worker_settings
from appliance.supervisor.taking_over import Inheritance, PredecessorGone, TakingOver
from appliance.supervisor.workers import WorkerEntry, Workers
from appliance.system import activation, first_parent, processes, sockets
from appliance.system.activation import Inherited
from appliance.system.clock import SystemClock
from appliance.system.notify import Notifier

EXIT_OK: Final = 0
EXIT_CANNOT_START: Final = 1
"""The configuration, or a port in use: another try would end the same way (the unit's RestartPreventExitStatus=)."""
EXIT_CRASHED: Final = 70
"""EX_SOFTWARE of sysexits(3): a fault of ours."""
EXIT_TRY_AGAIN: Final = 75
"""EX_TEMPFAIL: processes could not be started now."""
STOP_TIMEOUT_S: Final = 8.0
"""Workers drain for 5 s; what is left after this is killed."""
REFRESH_S: Final = 1.0
PORTS_FILE: Final = "streammachine.json"
"""In runtime_dir: pid and ports of the running server, for the commands that look for it."""

Ending = Callable[[], Awaitable[None]]


class Ports(NamedTuple):
    """The ports as bound."""

    listener: int
    source: int
    api: int


class Roles(NamedTuple):
    """What the command line injects: the worker's code, and what is served on the admin port.

    `start_control(station, ports, socket, started_at)` gives what ends it; `on_ready(ports)`, if any, likewise.
    """

    worker: WorkerEntry
    worker_module: str
    start_control: Callable[[Station, Ports, socket.socket, float], Awaitable[Ending]]
    control_module: str
    on_ready: Callable[[Ports], Awaitable[Ending]] | None = None


class Start(NamedTuple):
    """How this process came to be. `takeover_fd`: the connection to the generation before, -1 for a fresh start; `tells`: to the first
    parent (system/first_parent.py), -1 under a service manager; `fd_store`: systemd keeps our fds, and our
    workers live on (KillMode=process)."""

    command: Command
    takeover_fd: int = -1
    tells: int = -1
    fd_store: bool = False


class CannotStart(Exception):
    """Why the server does not start, in words for the operator."""


def run(config: Config, roles: Roles, start: Start) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    inherited = activation.inherit()  # before any child could inherit LISTEN_* and the fds
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: the journal then says where the loop stood
    _leave_no_secrets()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the zygote must be single-threaded, and workers small
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Server(config, roles, start, inherited).serve())
    except (CannotStart, PredecessorGone, sockets.CannotListen, processes.CannotLaunch) as error:
        structlog.get_logger().error("cannot start", reason=str(error))
        return EXIT_CANNOT_START if isinstance(error, sockets.CannotListen) else EXIT_TRY_AGAIN
    except Exception:  # noqa: BLE001 - the last thing this process says
        structlog.get_logger().exception("the supervisor failed")
        return EXIT_CRASHED


def _leave_no_secrets() -> None:
    """Workers and other children inherit the environment; settings, perhaps passwords, were read from it already."""
    for name in [name for name in os.environ if name.upper().startswith("STREAMMACHINE_")]:
        del os.environ[name]


class Server:
    """One generation."""

    def __init__(self, config: Config, roles: Roles, start: Start, inherited: Inherited) -> None:
        self._config, self._roles, self._start, self._inherited = config, roles, start, inherited
        self._log = structlog.get_logger()
        self._notifier = Notifier()
        self._store = FdStore(self._notifier, is_on=start.fd_store)
        self._stopped = asyncio.Event()
        self._zygote = processes.Zygote([roles.worker_module])
        self._listening: Listening
        self._station: Station
        self._handing: HandingOver | None = None
        self._endings: list[Ending] = []

    async def serve(self) -> int:
        """From the first step to the last; the exit code."""
        loop = asyncio.get_running_loop()
        processes.raise_fd_limit()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        workers = await self._start_workers()
        taking = TakingOver(self._start.takeover_fd) if self._start.takeover_fd >= 0 else None
        if taking is None:
            await self._begin(workers)
        else:
            await self._go_on(workers, taking)
        await self._open(workers)
        if taking is not None:
            taking.serving()
        await self._stopped.wait()
        await self._stop()
        return EXIT_OK

    async def _start_workers(self) -> Workers:
        """The zygote with this release's code, and workers from it that wait to be armed."""
        await self._zygote.start()
        count = self._config.workers or os.cpu_count() or 1
        workers = Workers(count, worker_settings(self._config), self._roles.worker, self._zygote)
        workers.on_worker, workers.on_worker_gone = self._store.keep_worker, self._store.drop_worker
        return workers

    async def _begin(self, workers: Workers) -> None:
        """Every port first, since a port in use is the commonest mistake; then whatever a supervisor that died has left with systemd."""
        self._listening = listening.bind(self._config, self._inherited, len(workers.handles))
        left = what_is_left(self._inherited)
        listening.close_unknown(self._inherited)
        await workers.rejoin(left.channels)
        workers.start()
        self._station = Station(self._config, SystemClock(), workers, left.rings)
        self._keep()
        for name in left.rings.keys() - self._station.feeds.keys():
            self._store.drop_ring(name)
        if left.rings:
            self._log.info("going on with what was left", rings=len(left.rings), sources=len(left.sources), workers=len(left.channels))
            for name, (fd, journal_fd) in left.sources.items():
                if not self._station.source_server.take_over(fd, journal_fd):
                    self._store.drop(name)
            self._station.source_server.go_on()
        await self._station.dumps.start()

    def _keep(self) -> None:
        """Have systemd hold rings and sources over this process's death."""
        for key, feed in self._station.feeds.items():
            self._store.keep_ring(key, feed.writer.fd)
        self._station.source_server.keeper = self._store

    async def _go_on(self, workers: Workers, taking: TakingOver) -> None:
        """In place of another generation: be ready, take everything, go on with it."""
        workers.start()
        importlib.import_module(self._roles.control_module)  # now, not while listeners wait
        await _within(workers.prepared.wait(), "the workers of the new release do not start")
        given = await taking.receive()
        self._listening = Listening(
            [activation.as_listening(fd) for fd in given.sockets["listener"]],
            [activation.as_listening(fd) for fd in given.sockets["source"]],
            activation.as_listening(given.sockets["api"][0]),
        )
        self._station = Station(self._config, SystemClock(), workers, given.rings)
        for key, title in given.titles.items():
            if key in self._station.feeds:
                self._station.feeds[key].chunker.want_title(*title)
        self._keep()
        self._take_sources(given)
        self._take_listeners(workers, given)
        await self._station.dumps.start()

    def _take_sources(self, given: Inheritance) -> None:
        server = self._station.source_server
        for fd, journal_fd in given.sources:
            server.take_over(fd, journal_fd)
        server.go_on()
        for request, fd in given.requests:
            if request.source_port:
                server.adopt(socket.socket(fileno=fd), request.peer, received=request.received, lone=request.lone)
            else:
                self._station.workers.half_read(HalfRead(request.received, request.peer), fd)

    def _take_listeners(self, workers: Workers, given: Inheritance) -> None:
        """The old generation's stream numbers become this one's; a stream that is gone has none."""
        numbers = {feed.key: feed.index for feed in self._station.feeds.values()}
        for stand in given.stands:
            stand.kept.stream = numbers.get(given.keys.get(stand.kept.stream, ""), -1)
        workers.survivors.receive(given.stands, given.connections)

    async def _open(self, workers: Workers) -> None:
        """Serve: workers, sources, commands, and the word to whoever waits for it."""
        ports = Ports(*(sock.getsockname()[1] for sock in (self._listening.slots[0], self._listening.sources[0], self._listening.api)))
        workers.arm(self._listening.slots)
        self._endings.append(await self._roles.start_control(self._station, ports, self._listening.api, time.time()))
        await _within(workers.any_serving.wait(), "no worker serves: see the lines above", workers.kill_all)
        for sock in self._listening.sources:
            self._station.source_server.listen(sock)
        self._handing = HandingOver(self._station, self._listening, self._start.command, self._commit)
        await self._publish(ports)
        gc.freeze()
        where = {"port": ports.listener, "source_port": ports.source, "api_port": ports.api}
        self._log.info("serving", release=appliance.__version__, **where, workers=len(workers.handles))
        self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
        self._beat = heartbeat.Heartbeat(
            self._notifier, lambda: not self._refreshing.done(), lambda: heartbeat.summary(self._station)
        )
        self._beat.start()
        if self._roles.on_ready is not None:
            self._endings.append(await self._roles.on_ready(ports))

    async def _publish(self, ports: Ports) -> None:
        """Where the commands of this machine find the server."""
        folder = Path(self._config.runtime_dir)
        found = {"pid": os.getpid(), "port": ports.listener, "source_port": ports.source, "api_port": ports.api}
        self._commands = CommandSocket(folder, {"reload": self._reload})
        try:
            _write_ports(folder, found)
            await self._commands.start()
        except OSError as error:
            text = "cannot write into runtime_dir: `streammachine reload` will not work"
            self._log.warning(text, path=str(folder), reason=error.strerror)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self._station.refresh()

    async def _reload(self) -> str:
        """Hand over to the release and configuration on disk; "" once that serves, else why not."""
        if self._handing is None:
            self._log.warning("reload refused", reason="the server is still starting")
            return "the server is still starting"
        if self._handing.is_busy:
            return "a reload is under way already"
        if self._station.dumps.is_loading:
            return "the rewind buffer is still being loaded from disk: try again in a moment"
        self._notifier.reloading()
        reason = await self._handing.ask()
        if reason:
            self._notifier.ready(heartbeat.summary(self._station))
        return reason

    def _commit(self, successor: int) -> None:
        """The main process is another now: only this one may say so (testbed: NotifyAccess=main)."""
        if self._start.tells >= 0:
            first_parent.announce(self._start.tells, successor)
        self._notifier.main_pid(successor)
        self._notifier.barrier()
        self._zygote.kill()

    async def _leave(self) -> None:
        """systemd holds what the next process needs, and workers play on: after a restart they are adopted. After a stop systemd drops all,
        and the workers, who read EOF then, send what is due and end."""
        self._station.source_server.release()
        await self._station.dumps.finish(self._notifier.notify)
        self._log.info("stopped: workers and sources are left to the next process, or to end")
        os._exit(EXIT_OK)

    async def _stop(self) -> None:
        """Sources first, so that their last frames are in the ring, which is dumped; meanwhile the workers send what is due; the rest."""
        self._log.info("stopping")
        if self._handing is not None:
            await self._handing.stop()
        self._beat.stop()
        self._refreshing.cancel()
        self._commands.remove()
        station = self._station
        if self._store.is_on:
            await self._leave()
        station.stop_ingest()
        saving = asyncio.ensure_future(station.dumps.finish(self._notifier.notify))
        station.workers.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(station.workers.all_gone.wait(), STOP_TIMEOUT_S)
        station.workers.kill_all()
        for end in reversed(self._endings):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(end(), STOP_TIMEOUT_S)
        await saving
        station.close()
        for sock in self._listening.slots:
            sock.close()
        self._zygote.kill()
        with contextlib.suppress(OSError):
            (Path(self._config.runtime_dir) / PORTS_FILE).unlink()
        self._log.info("stopped")


def _write_ports(folder: Path, found: dict[str, int]) -> None:
    """Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = (folder / PORTS_FILE).with_suffix(".new")
    partial.write_text(json.dumps(found) + "\n")
    partial.replace(folder / PORTS_FILE)


async def _within(event: Awaitable[object], failure: str, clean_up: Callable[[], None] = lambda: None) -> None:
    """Wait as long as starting a process may take. Raises CannotStart."""
    try:
        await asyncio.wait_for(event, processes.LAUNCH_TIMEOUT_S)
    except TimeoutError:
        clean_up()
        raise CannotStart(failure) from None
