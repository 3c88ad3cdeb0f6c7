"""What a reload and the death of a worker cost those who listen: the longest gap of anyone, and that nobody is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.bench.audience import Audience, Options
from tests.bench.programs import compiled
from tests.bench.report import Budget, Report, Row
from tests.bench.servers import MOUNT, Server

NAME: Final = "survive"
INTERVAL_S: Final = 1.0
REWOUND_S: Final = (30.0, 570.0)
PREFILL_S: Final = 600.0
ICY_PERCENT: Final = 33.0
RELOAD_BUDGET: Final = Budget(5.0)
EXTRA_GAP_BUDGET: Final = Budget(1.0)
"""Issue B: the longest extra gap of any listener, beyond send_interval."""
AFTER_S: Final = 4.0
RELOADS: Final = 3
KNOCKED_RELOADS: Final = 20
KNOCKS_PER_S: Final = 500.0
KNOCKING_S: Final = 45.0
"""20 reloads take about 25 s; the load lasts longer."""


def run(options: Options, report: Report) -> None:
    with options.under_test(send_interval_s=INTERVAL_S, prefill_s=PREFILL_S) as server:
        count = 2 * options.listeners
        with Audience(server, count, icy_percent=ICY_PERCENT, offset_s=REWOUND_S, verify=options.verify) as audience:
            audience.pause(options.settle_s)
            audience.begin()
            taken_s = [_reload(server) for _ in range(RELOADS)]
            audience.pause(AFTER_S)
            heard = audience.end()
        what = f"reload with {count} listeners, raw, ICY and rewound"
        _rows(report, what, count, heard)
        report.add(Row(NAME, f"{what}: slowest of {RELOADS}", max(taken_s), "s", budget=RELOAD_BUDGET, details={"each_s": taken_s}))
        _connects_meanwhile(server, report)
        with Audience(server, options.listeners, icy_percent=ICY_PERCENT, verify=options.verify) as audience:
            audience.pause(options.settle_s)
            audience.begin()
            for pid in _workers(server):
                os.kill(pid, signal.SIGKILL)
            audience.pause(AFTER_S)
            heard = audience.end()
        _rows(report, f"all workers killed, {options.listeners} listeners", options.listeners, heard)


def _connects_meanwhile(server: Server, report: Report) -> None:
    """New connections at a steady rate under reloads in a row: none refused or reset."""
    command = [compiled("connects"), "--port", str(server.port), "--path", MOUNT, "--seconds", f"{KNOCKING_S:g}", "--warmup", "1"]
    command += ["--rate", f"{KNOCKS_PER_S:g}", "--concurrency", "64", "--close", "plain"]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as knocking:
        for _ in range(KNOCKED_RELOADS):
            _reload(server)
        done = json.loads(knocking.communicate(timeout=KNOCKING_S * 2)[0])
    failed = sum(done[name] for name in ("connect_errors", "resets", "timeouts", "bad_status"))
    what = f"{KNOCKED_RELOADS} reloads in a row under {KNOCKS_PER_S:g} connects/s: refused, reset or timed out"
    report.add(Row(NAME, what, failed, f"of {done['connects']}", budget=Budget(0), details=done))


def _rows(report: Report, what: str, count: int, heard: dict[str, float]) -> None:
    lost = count - heard["playing"] + heard["mismatches"]
    report.add(Row(NAME, f"{what}: lost, or with wrong bytes", lost, "listeners", budget=Budget(0)))
    extra_s = heard["longest_gap_s"] - INTERVAL_S
    report.add(Row(NAME, f"{what}: longest gap beyond send_interval", extra_s, "s", budget=EXTRA_GAP_BUDGET, details=dict(heard)))


def _reload(server: Server) -> float:
    begun = time.monotonic()
    command = [sys.executable, "-m", "appliance", "reload", "--config", str(server.dir / "streammachine.toml")]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"the reload failed: {done.stderr.decode()}")
    return time.monotonic() - begun


def _workers(server: Server) -> list[int]:
    """The workers of the generation that serves now: the children of its zygote."""
    pid = json.loads((Path(server.dir) / "run" / "streammachine.json").read_text())["pid"]
    return [worker for child in _children(pid) for worker in _children(child)]


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
