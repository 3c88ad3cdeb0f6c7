"""Listeners of a server under test, and what they and the server did during a window."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.bench.encoder import BYTES_PER_S
from tests.bench.processes import CpuMeter, CpuUse
from tests.bench.programs import Answer, Child, compiled
from tests.bench.servers import MOUNT, Floor, Icecast, Server, StreamMachine, audio_file

RAMP_TIMEOUT_S: Final = 180.0
"""Enough for 15,000 at the rate of icecast2."""
ANSWER_TIMEOUT_S: Final = 20.0
CHUNK_S: Final = 0.55
"""The default chunk_duration, rounded up to whole frames: the step in which audio becomes due."""
ALIVE_CHECK_S: Final = 1.0
ICECAST_RAMP_PER_S: Final = 150
"""Its backlog is 5: in a rush most SYNs are dropped and come again a second later."""
RAMP_PER_S: Final = 1_000_000
"""Others are filled as fast as they accept."""
CONCURRENCY: Final = 64


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of a run."""

    quick: bool = False
    server: str = StreamMachine.name
    listeners: int = 5000
    many: int = 15000
    window_s: float = 20.0
    settle_s: float = 5.0
    rewind_s: float = 3600.0
    connect_s: float = 10.0
    concurrency: int = 64
    close: str = "plain"
    workers: int = 2
    verify: int = 50

    def quickly(self) -> Options:
        """The same kinds of run, a minute in all."""
        return replace(self, quick=True, listeners=300, many=1000, window_s=4.0, settle_s=2.0, rewind_s=120.0, connect_s=2.0, verify=20)

    def under_test(self, *, send_interval_s: float = 1.0, prefill_s: float = 0.0) -> Server:
        """StreamMachine, or the peer that stands in for it with --server."""
        if self.server == Icecast.name:
            return Icecast()
        return StreamMachine(send_interval_s=send_interval_s, prefill_s=prefill_s, workers=self.workers)


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen between begin and end."""

    cpu: CpuUse
    heard: Answer

    @property
    def playing(self) -> int:
        return int(self.heard["playing"])

    @property
    def ms_per_s_per_1000(self) -> float:
        return self.cpu.ms_per_s_per_1000(max(1, self.playing))

    @property
    def shortfall_s(self) -> float:
        """Audio that the worst listener got less than the window is long."""
        return float(self.heard["window_s"]) * (1 - float(self.heard["rate_min"]) / BYTES_PER_S)

    def faults(self, listeners: int, send_interval_s: float) -> tuple[str, ...]:
        """Why the figure does not count: somebody was not served as promised."""
        heard, found = self.heard, []
        if self.playing != listeners:
            found.append(f"{self.playing} of {listeners} play: {heard['failed']} refused, {heard['dropped']} dropped")
        allowed_s = send_interval_s + CHUNK_S
        if self.shortfall_s > allowed_s:
            short = f"a listener got {self.shortfall_s:.1f} s of audio too little in {heard['window_s']} s"
            found.append(f"{short}; one send and chunk are {allowed_s:.2f}")
        if heard["mismatches"]:
            found.append(f"{heard['mismatches']} times a listener's bytes were not the encoder's")
        if self.cpu.died:
            found.append(f"{self.cpu.died} processes of the server died, their CPU is not counted")
        return tuple(found)

    def details(self) -> dict[str, Any]:
        """For the JSON: all that was seen, and the part of the machine that neither server nor listeners used."""
        return {
            "server_cpu_s": self.cpu.cpu_s,
            "server_cpu_s_by_pid": self.cpu.by_pid,
            "window_s": self.cpu.elapsed_s,
            "others_cores": self.cpu.others_cores(float(self.heard["cpu_s"])),
            "listeners": self.heard,
        }


class Audience:
    """A context manager: `listeners` of them, playing once it is entered."""

    def __init__(
        self, server: Server, listeners: int, *, icy_percent: float = 0.0, offset_s: tuple[float, float] = (0.0, 0.0), verify: int = 0
    ) -> None:
        self.server, self.listeners = server, listeners
        concurrency, rate = (listeners, ICECAST_RAMP_PER_S) if isinstance(server, Icecast) else (CONCURRENCY, RAMP_PER_S)
        command: list[str | Path] = [compiled("listeners"), "--port", str(server.port), "--path", MOUNT, "--listeners", str(listeners)]
        command += ["--icy-percent", f"{icy_percent:g}", "--offset-min", f"{offset_s[0]:g}", "--offset-max", f"{offset_s[1]:g}"]
        command += ["--concurrency", str(concurrency), "--ramp-rate", str(rate), "--ramp-timeout", f"{RAMP_TIMEOUT_S:g}"]
        if verify and not isinstance(server, Floor):
            command += ["--verify", str(verify), "--verify-file", audio_file()]
        self._child = Child("listeners", command, server.dir, ends_with_stdin=True)

    def __enter__(self) -> Audience:
        try:
            self.playing = self._child.answer(RAMP_TIMEOUT_S + ANSWER_TIMEOUT_S)
        except BaseException:
            self._child.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.end()

    def pause(self, seconds: float) -> None:
        """Lets them play; a server or audience that ends meanwhile is a BenchFailure."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(left_s, ALIVE_CHECK_S))
            self.server.child.check_alive()
            self._child.check_alive()

    def begin(self) -> None:
        self._child.tell("begin")

    def end(self) -> Answer:
        """What was heard since begin()."""
        self._child.tell("end")
        return self._child.answer(ANSWER_TIMEOUT_S)

    def window(self, settle_s: float, window_s: float) -> Window:
        """CPU of the server's processes and what the listeners got, over the same window."""
        self.pause(settle_s)
        meter = CpuMeter(self.server.child.pid)
        self.begin()
        self.pause(window_s)
        use = meter.stop()
        return Window(use, self.end())
