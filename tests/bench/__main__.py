"""`python -m tests.bench`, which is `make bench`: measures StreamMachine, its C floor and icecast2 on this machine, and says which budgets
of docs/performance.md are met. Exit code 0, also when one is missed (1 with --strict); 1 when something could not be measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from tests.bench import connect, fanout, many, memory, survive
from tests.bench.audience import Options
from tests.bench.programs import BenchFailure
from tests.bench.report import Report
from tests.bench.servers import Icecast, StreamMachine, interrupt_on_sigterm, soft_limit_to_hard

BENCHES: Final[dict[str, Callable[[Options, Report], None]]] = {
    fanout.NAME: fanout.run,
    many.NAME: many.run,
    connect.NAME: connect.run,
    memory.NAME: memory.run,
    survive.NAME: survive.run,
}
FD_SPARE: Final = 1000
"""Descriptors that a server with `many` listeners needs beside them."""
INTERRUPTED: Final = 130


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short: shows that everything works")
    parser.add_argument("--only", action="append", choices=tuple(BENCHES), help="one bench; may be repeated")
    parser.add_argument("--server", choices=(StreamMachine.name, Icecast.name), default=StreamMachine.name, help="what to measure")
    parser.add_argument("--listeners", type=int, help="instead of 5,000 in fanout, connect and memory")
    parser.add_argument("--many", type=int, help="instead of 15,000 in many")
    parser.add_argument("--window", type=float, metavar="S", help="seconds that CPU and gaps are measured")
    parser.add_argument("--workers", type=int, default=2, help="processes that serve listeners, ours and the floor's")
    parser.add_argument("--concurrency", type=int, help="connections at a time in connect")
    parser.add_argument("--close", choices=("plain", "reset", "drain"), default="plain", help="how connect closes (connects.c)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and details there")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a budget is missed")
    return parser.parse_args()


def sizes(chosen: argparse.Namespace) -> Options:
    options = Options().quickly() if chosen.quick else Options()
    given: dict[str, Any] = {"listeners": chosen.listeners, "many": chosen.many, "window_s": chosen.window}
    given |= {"concurrency": chosen.concurrency, "workers": chosen.workers, "close": chosen.close, "server": chosen.server}
    return replace(options, **{name: value for name, value in given.items() if value is not None})


def run(benches: list[str], options: Options, report: Report) -> None:
    fd_limit = soft_limit_to_hard()
    for name in benches:
        needed = (options.many if name == many.NAME else options.listeners) + FD_SPARE
        if needed > fd_limit:
            report.fail(name, f"it needs {needed} descriptors a process, the hard limit is {fd_limit}")
            continue
        try:
            BENCHES[name](options, report)
        except (BenchFailure, OSError) as error:
            report.fail(name, str(error))


def main() -> int:
    chosen = arguments()
    options = sizes(chosen)
    report = Report(asdict(options))
    interrupt_on_sigterm()
    report.print_head()
    try:
        run(chosen.only or list(BENCHES), options, report)
    except KeyboardInterrupt:
        print("interrupted: every child was ended", file=sys.stderr)
        return INTERRUPTED
    finally:
        if chosen.json:
            report.write_json(chosen.json)
    if report.missed:
        print(f"{len(report.missed)} of {len(report.rows)} rows missed their budget or have a fault")
    return 1 if report.failed or (chosen.strict and report.missed) else 0


if __name__ == "__main__":
    sys.exit(main())
