"""Connect, first audio byte, close: the rate of an idle server, and the wait for the first byte while others listen."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.bench.audience import Audience, Options
from tests.bench.processes import CpuMeter
from tests.bench.programs import Answer, compiled, run_for_answer
from tests.bench.report import Budget, Report, Row
from tests.bench.servers import MOUNT, Floor, Icecast, Server, StreamMachine

NAME: Final = "connect"
RATE_BUDGET: Final = Budget(5000, at_least=True)
FIRST_BYTE_BUDGET: Final = Budget(50)
PACED_PER_S: Final = 500.0
"""A tenth of what is promised: a rush at the full hour, not a load test."""
WARMUP_S: Final = 1.0
EXTRA_TIMEOUT_S: Final = 20.0
GAP_S: Final = 1.5
"""send_interval + 0.5 s: what listeners may notice of others that come and go."""


def run(options: Options, report: Report) -> None:
    peers_too = options.close != "drain"  # neither the floor nor icecast2 sees that a listener half-closed
    floor_per_s = _floor(options, report) if peers_too else None
    with options.under_test() as server:
        ours = _connects(options, server)
        report.add(_rate_row(options, server.name, ours, floor_per_s, RATE_BUDGET))
        _with_listeners(options, report, server)
    if peers_too and options.server == StreamMachine.name:
        with Icecast() as peer:
            theirs = _connects(options, peer)
        report.add(_rate_row(options, peer.name, theirs))


def _floor(options: Options, report: Report) -> float:
    """Connections a second that two C processes accept, answer and forget."""
    with Floor(send_interval_s=1.0, listeners=0, workers=options.workers) as server:
        answer = _connects(options, server)
    report.add(_rate_row(options, "C floor", answer))
    return float(answer["connects_per_s"])


def _with_listeners(options: Options, report: Report, server: Server) -> None:
    """First-byte times while `listeners` play, at a rush and at full tilt; and that those who play notice nothing."""
    with Audience(server, options.listeners, verify=options.verify) as audience:
        audience.pause(options.settle_s)
        audience.begin()
        for what, rate in ((f"{PACED_PER_S:g} connects/s", PACED_PER_S), ("as fast as it goes", 0.0)):
            answer = _connects(options, server, rate)
            name = f"first byte p99, {options.listeners} on, {what}"
            report.add(Row(NAME, name, answer["p99_ms"], "ms", budget=FIRST_BYTE_BUDGET, faults=_faults(answer), details=answer))
        heard = audience.end()
    lost = options.listeners - heard["playing"] + heard["mismatches"]
    name = f"longest gap of the {options.listeners} meanwhile"
    faults = (f"{lost} listeners lost, refused or with wrong bytes",) if lost else ()
    report.add(Row(NAME, name, heard["longest_gap_s"], "s", budget=Budget(GAP_S), faults=faults, details=heard))


def _connects(options: Options, server: Server, rate: float = 0.0) -> Answer:
    command: list[str | Path] = [compiled("connects"), "--port", str(server.port), "--path", MOUNT, "--rate", f"{rate:g}"]
    command += ["--seconds", f"{options.connect_s:g}", "--warmup", f"{WARMUP_S:g}"]
    command += ["--concurrency", str(options.concurrency), "--close", options.close]
    timeout_s = WARMUP_S + options.connect_s + EXTRA_TIMEOUT_S
    meter = CpuMeter(server.child.pid)
    answer = run_for_answer("connects", command, server.dir, timeout_s)
    use = meter.stop()
    return {**answer, "server_cpu_s": use.cpu_s, "others_cores": use.others_cores(answer["cpu_s"])}


def _faults(answer: Answer) -> tuple[str, ...]:
    names = ("connect_errors", "resets", "timeouts", "bad_status")
    found = [f"{answer[name]} {name.replace('_', ' ')}" for name in names if answer[name]]
    return (", ".join(found),) if found else ()


def _rate_row(options: Options, name: str, answer: Answer, floor_per_s: float | None = None, budget: Budget | None = None) -> Row:
    what = f"{name}: connect, first byte, close ({options.close})"
    peer = Floor.name if floor_per_s is not None else ""
    return Row(NAME, what, answer["connects_per_s"], "per s", peer, floor_per_s, budget, _faults(answer), answer)
