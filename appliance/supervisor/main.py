"""The supervisor process: start everything in order, wait for the end, end everything in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import sdnotify
import structlog
import uvloop

import appliance
from appliance.config.model import Config
from appliance.supervisor.station import Station
from appliance.supervisor.workers import WorkerEntry
from appliance.system import processes, sockets
from appliance.system.clock import SystemClock

EXIT_OK: Final = 0
EXIT_CANNOT_START: Final = 1
STOP_TIMEOUT_S: Final = 8.0
"""Workers drain for 5 s; what is left after this is killed."""
REFRESH_S: Final = 1.0
PORTS_FILE: Final = "streammachine.json"
"""In runtime_dir: pid and ports of the running server, for the commands that look for it."""


class Ports(NamedTuple):
    """The ports as bound."""

    listener: int
    source: int
    api: int


class Roles(NamedTuple):
    """What the command line injects: the worker's code, and what is served on the admin port (`start(station, ports, socket, time)` -> `stop()`)."""

    worker: WorkerEntry
    worker_module: str
    start_control: Callable[[Station, Ports, socket.socket, float], Awaitable[Callable[[], Awaitable[None]]]]


class CannotStart(Exception):
    """Why the server does not start, in words for the operator."""


def run(config: Config, roles: Roles, on_ready: Callable[[Ports], Awaitable[Callable[[], Awaitable[None]]]] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    _leave_no_secrets()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the zygote must be single-threaded, and workers small
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, roles, on_ready))
    except (CannotStart, sockets.CannotListen, processes.CannotLaunch) as error:
        structlog.get_logger().error("cannot start", reason=str(error))
        return EXIT_CANNOT_START


def _leave_no_secrets() -> None:
    """Workers and other children inherit the environment; settings, perhaps passwords, were read from it already."""
    for name in [name for name in os.environ if name.upper().startswith("STREAMMACHINE_")]:
        del os.environ[name]


async def _serve(config: Config, roles: Roles, on_ready: Callable[[Ports], Awaitable[Callable[[], Awaitable[None]]]] | None) -> int:
    loop = asyncio.get_running_loop()
    log = structlog.get_logger()
    processes.raise_fd_limit()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, log.warning, "reload is not available in this release: restart instead")
    count = config.workers or os.cpu_count() or 1
    slots, source_socket, api_socket = _bind(config, count)
    ports = Ports(*(sock.getsockname()[1] for sock in (slots[0], source_socket, api_socket)))
    zygote = processes.Zygote([roles.worker_module])
    await zygote.start()
    station = Station(config, SystemClock(), slots, zygote, roles.worker)
    stop_control = await roles.start_control(station, ports, api_socket, time.time())
    station.workers.start()
    try:
        await asyncio.wait_for(station.workers.any_serving.wait(), processes.LAUNCH_TIMEOUT_S)
    except TimeoutError:
        station.workers.kill_all()
        raise CannotStart("no worker serves: see the lines above") from None
    station.source_server.listen(source_socket)
    _write_ports(config, ports, log)
    gc.freeze()
    log.info("serving", release=appliance.__version__, port=ports.listener, source_port=ports.source, api_port=ports.api, workers=count)
    sdnotify.SystemdNotifier().notify("READY=1")
    refreshing = loop.create_task(_refresh(station))
    end_ready = await on_ready(ports) if on_ready is not None else None
    await stopped.wait()
    log.info("stopping")
    refreshing.cancel()
    if end_ready is not None:
        await end_ready()
    await _stop(station, stop_control)
    for sock in slots:
        sock.close()
    zygote.kill()
    _remove_ports(config)
    log.info("stopped")
    return EXIT_OK


def _bind(config: Config, count: int) -> tuple[list[socket.socket], socket.socket, socket.socket]:
    """Every port, before anything else is started: a port in use is the commonest mistake."""
    sockets.bound_alone(config.bind, config.port)
    slots = sockets.slots(config.bind, config.port, count)
    source = sockets.listening(config.bind, config.source_port, reuse_port=False)
    api = sockets.listening(config.api_bind, config.api_port, reuse_port=False)
    return slots, source, api


async def _refresh(station: Station) -> None:
    while True:
        await asyncio.sleep(REFRESH_S)
        station.refresh()


async def _stop(station: Station, stop_control: Callable[[], Awaitable[None]]) -> None:
    """Sources first, so that their last frames are in the ring; then the workers, who send what is due; then the rest."""
    station.stop_ingest()
    station.workers.stop()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(station.workers.all_gone.wait(), STOP_TIMEOUT_S)
    station.workers.kill_all()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop_control(), STOP_TIMEOUT_S)
    station.close()


def _ports_path(config: Config) -> Path:
    return Path(config.runtime_dir) / PORTS_FILE


def _write_ports(config: Config, ports: Ports, log: structlog.stdlib.BoundLogger) -> None:
    path = _ports_path(config)
    found = {"pid": os.getpid(), "port": ports.listener, "source_port": ports.source, "api_port": ports.api}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".new")
        partial.write_text(json.dumps(found) + "\n")
        partial.replace(path)
    except OSError as error:
        log.warning("cannot write into runtime_dir", path=str(path), reason=error.strerror)


def _remove_ports(config: Config) -> None:
    with contextlib.suppress(OSError):
        _ports_path(config).unlink()
