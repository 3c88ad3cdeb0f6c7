"""15,000 listeners on this machine: none dropped, each at the full rate, no long gap."""

from __future__ import annotations

from typing import Final

from tests.bench.audience import CHUNK_S, Audience, Options
from tests.bench.encoder import BYTES_PER_S
from tests.bench.report import Budget, Report, Row

NAME: Final = "many"
INTERVAL_S: Final = 1.0
GAP_ABOVE_INTERVAL_S: Final = 0.5
"""Issue A: longest gap under send_interval + 0.5 s."""


def run(options: Options, report: Report) -> None:
    with options.under_test(send_interval_s=INTERVAL_S) as server, Audience(server, options.many, verify=options.verify) as audience:
        window = audience.window(options.settle_s, options.window_s)
    heard = window.heard
    faults = window.faults(options.many, INTERVAL_S)
    lost = options.many - window.playing
    what = f"{options.many} raw, live"
    report.add(Row(NAME, f"{what}: refused or dropped", lost, "listeners", budget=Budget(0), details=window.details()))
    allowed_s = Budget(INTERVAL_S + GAP_ABOVE_INTERVAL_S)
    report.add(Row(NAME, f"{what}: longest gap of any", heard["longest_gap_s"], "s", budget=allowed_s))
    least = heard["rate_min"] / BYTES_PER_S * 100
    whole = Budget(round(100 * (1 - (INTERVAL_S + CHUNK_S) / heard["window_s"]), 1), at_least=True)
    report.add(Row(NAME, f"{what}: slowest listener", least, "% of rate", budget=whole, faults=faults))
    report.add(Row(NAME, f"{what}: compared byte for byte", heard["verified"], "listeners"))
    report.add(Row(NAME, f"{what}: CPU", window.ms_per_s_per_1000, "ms/s/1000"))
