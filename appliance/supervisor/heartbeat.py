"""What systemd hears of a serving supervisor: WATCHDOG=1 while its loop turns and audio can come in, and a STATUS line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from appliance.ring.counters import Count
from appliance.supervisor.fleet import Phase
from appliance.supervisor.station import Station
from appliance.system.notify import Notifier

STATUS_S: Final = 10.0
"""`systemctl status` is read by people."""


class Heartbeat:
    """Runs on the supervisor's loop: a loop that hangs sends nothing, and systemd replaces the process (WatchdogSec=)."""

    def __init__(self, notifier: Notifier, is_alive: Callable[[], bool], status: Callable[[], str]) -> None:
        self._notifier, self._is_alive, self._status = notifier, is_alive, status
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Callable[[], object], asyncio.TimerHandle] = {}

    def start(self) -> None:
        """Say READY=1, then go on saying what is due; nothing where no service manager listens."""
        if not self._notifier.is_heard:
            return
        self._notifier.ready(self._status())
        self._later(STATUS_S, self._tell)
        if self._notifier.watchdog_s:
            self._beat()

    def stop(self) -> None:
        """STOPPING=1, and nothing more: from here on TimeoutStopSec= holds, not the watchdog."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._notifier.stopping()

    def _later(self, delay_s: float, call: Callable[[], object]) -> None:
        self._timers[call] = self._loop.call_later(delay_s, call)

    def _beat(self) -> None:
        if self._is_alive():
            self._notifier.watchdog()
        self._later(self._notifier.watchdog_s or STATUS_S, self._beat)

    def _tell(self) -> None:
        self._notifier.status(self._status())
        self._later(STATUS_S, self._tell)


def summary(station: Station) -> str:
    """One line about a station, from shared memory: "12 listeners; 1 of 2 streams on air; 2 of 2 workers serve"."""
    workers = station.workers
    listeners = sum(handle.counters.worker[Count.LISTENERS] for handle in workers.handles)
    on_air = sum(station.mount_of(feed).active is not None for feed in station.feeds.values())
    serving = sum(place.phase is Phase.SERVING for place in workers.fleet.places)
    of_streams = f"{on_air} of {len(station.feeds)} streams on air"
    return f"{listeners} listeners; {of_streams}; {serving} of {len(workers.fleet.places)} workers serve"
