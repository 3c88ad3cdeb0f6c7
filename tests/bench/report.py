"""Rows of the bench: figure, peer, ratio, budget, met or MISSED; printed as they come, written as JSON at the end."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

WIDTHS: Final = (8, 48, 17, 18, 6, 8)
QUIET_CORES: Final = 0.2
"""A tenth of the two-core machine: above it a figure says as much about the neighbours."""
HEADINGS: Final = ("bench", "what", "figure", "peer", "ratio", "budget", "verdict")


@dataclass(frozen=True, slots=True)
class Budget:
    """What issue A allows: a bound on the figure itself, or on its ratio to the peer's."""

    limit: float
    of: str = "figure"
    at_least: bool = False

    def met(self, figure: float, ratio: float | None) -> bool:
        value = figure if self.of == "figure" else ratio
        if value is None:
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{'x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `faults`: what makes a figure worthless (listeners dropped or starved): a budget with one is missed."""

    bench: str
    what: str
    figure: float
    unit: str
    peer: str = ""
    peer_figure: float | None = None
    budget: Budget | None = None
    faults: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.figure / self.peer_figure if self.peer_figure else None

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return "FAULT" if self.faults else ""
        return "met" if self.budget.met(self.figure, self.ratio) and not self.faults else "MISSED"

    def cells(self) -> tuple[str, ...]:
        peer = f"{self.peer} {self.peer_figure:.4g}" if self.peer_figure is not None else ""
        ratio = f"{self.ratio:.2f}x" if self.ratio is not None else ""
        return self.bench, self.what, f"{self.figure:.4g} {self.unit}", peer, ratio, str(self.budget or ""), self.verdict


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Hardware")):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _table_line(cells: tuple[str, ...]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False))
    return "  ".join((*padded, cells[-1])).rstrip()


class Report:
    """Collects rows; prints each at once, for a full run takes minutes."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.rows: list[Row] = []
        self._options, self._machine = options, machine()
        self._failures: list[str] = []

    def print_head(self) -> None:
        about = self._machine
        print(f"command: {shlex.join(['python', '-m', 'tests.bench', *sys.argv[1:]])}")
        print(f"machine: {about['cpu']}, {about['cores']} cores, Linux {about['kernel']} {about['architecture']}, ", end="")
        print(f"Python {about['python']}, load {about['load_average_at_start']:.2f}, {about['date']}")
        if self._options.get("quick"):
            print("--quick: the sizes only show that the bench works; verdicts need a full run")
        print(_table_line(HEADINGS), flush=True)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(_table_line(row.cells()), flush=True)
        for fault in row.faults:
            print(f"{'':{WIDTHS[0]}}  ! {fault}", flush=True)
        if (others := row.details.get("others_cores", 0.0)) > QUIET_CORES:
            print(f"{'':{WIDTHS[0]}}  ~ something else kept {others:.1f} cores busy meanwhile", flush=True)

    def fail(self, bench: str, why: str) -> None:
        """A bench that could not be run to its end."""
        self._failures.append(f"{bench}: {why}")
        print(f"{bench}: NOT MEASURED: {why}", file=sys.stderr, flush=True)

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict in ("MISSED", "FAULT")]

    @property
    def failed(self) -> bool:
        return bool(self._failures)

    def write_json(self, path: Path) -> None:
        rows = [{**asdict(row), "ratio": row.ratio, "verdict": row.verdict} for row in self.rows]
        whole = {"command": sys.argv[1:], "machine": self._machine, "options": self._options, "rows": rows, "failures": self._failures}
        path.write_text(json.dumps(whole, indent=1, default=str) + "\n")
