"""CPU per listener: live at three cadences, ICY, spread over an hour of rewind, against the C floor and icecast2 in the same session."""

from __future__ import annotations

from typing import Final

from tests.bench.audience import Audience, Options, Window
from tests.bench.report import Budget, Report, Row
from tests.bench.servers import Floor, Icecast, Server, StreamMachine

NAME: Final = "fanout"
UNIT: Final = "ms/s/1000"
INTERVALS_S: Final = (0.5, 1.0, 2.0)
DEFAULT_INTERVAL_S: Final = 1.0
"""The default send_interval: ICY, rewound and icecast2 are compared at it."""
RAW_BUDGET: Final = Budget(1.25, of="ratio")
ICY_BUDGET: Final = Budget(1.4, of="ratio")
REWOUND_BUDGET: Final = Budget(1.5, of="ratio")
ICECAST_BUDGET: Final = Budget(0.25, of="ratio")
REWIND_MARGIN_S: Final = 30.0
"""Offsets stay this far from live and from the ring's oldest second."""
ICECAST_INTERVAL_S: Final = 2.0
"""Allowed shortfall of its listeners: its own cadence is finer."""


def run(options: Options, report: Report) -> None:
    raw = None
    for interval_s in INTERVALS_S:
        floor = _floor(options, report, interval_s)  # just before ours: the machine may be shared
        ours = _at_cadence(options, report, interval_s, floor)
        raw = ours if interval_s == DEFAULT_INTERVAL_S else raw
    if raw is not None and options.server == StreamMachine.name:
        _against_icecast(options, report, raw)


def _floor(options: Options, report: Report, interval_s: float) -> float:
    """The least it can cost, checked against what the floor says of itself."""
    floor = Floor(send_interval_s=interval_s, listeners=options.listeners, workers=options.workers)
    with floor as server, Audience(server, options.listeners) as audience:
        audience.pause(options.settle_s)
        before = server.totals()
        window = audience.window(0, options.window_s)
        after = server.totals()
    own_cpu_s = (after["cpu_ns"] - before["cpu_ns"]) / 1e9
    details = {**window.details(), "own_cpu_s": own_cpu_s, "own_totals": after}
    faults = window.faults(options.listeners, interval_s)
    report.add(Row(NAME, f"C floor, every {interval_s:g} s", window.ms_per_s_per_1000, UNIT, faults=faults, details=details))
    return window.ms_per_s_per_1000


def _at_cadence(options: Options, report: Report, interval_s: float, floor: float) -> Window:
    """Raw at this cadence; at the default one ICY and rewound too, on the same server. The window of raw."""
    is_default = interval_s == DEFAULT_INTERVAL_S
    with options.under_test(send_interval_s=interval_s, prefill_s=options.rewind_s if is_default else 0.0) as server:
        raw = _measure(options, report, server, interval_s, floor, "raw, live", RAW_BUDGET)
        if is_default:
            _measure(options, report, server, interval_s, floor, "ICY, live", ICY_BUDGET, icy_percent=100)
            over = (REWIND_MARGIN_S, options.rewind_s - REWIND_MARGIN_S)
            what = f"raw, spread over {options.rewind_s:g} s of rewind"
            _measure(options, report, server, interval_s, floor, what, REWOUND_BUDGET, offset_s=over)
    return raw


def _measure(
    options: Options,
    report: Report,
    server: Server,
    interval_s: float,
    floor: float,
    what: str,
    budget: Budget,
    icy_percent: float = 0.0,
    offset_s: tuple[float, float] = (0.0, 0.0),
) -> Window:
    with Audience(server, options.listeners, icy_percent=icy_percent, offset_s=offset_s, verify=options.verify) as audience:
        window = audience.window(options.settle_s, options.window_s)
    faults = window.faults(options.listeners, interval_s)
    name = f"{what}, every {interval_s:g} s"
    report.add(Row(NAME, name, window.ms_per_s_per_1000, UNIT, Floor.name, floor, budget, faults, window.details()))
    return window


def _against_icecast(options: Options, report: Report, ours: Window) -> None:
    with Icecast() as server, Audience(server, options.listeners) as audience:
        theirs = audience.window(options.settle_s, options.window_s)
    faults = theirs.faults(options.listeners, ICECAST_INTERVAL_S)
    figure = theirs.ms_per_s_per_1000
    report.add(Row(NAME, "icecast2, its own cadence", figure, UNIT, faults=faults, details=theirs.details()))
    what = f"raw, live, every {DEFAULT_INTERVAL_S:g} s"
    report.add(Row(NAME, what, ours.ms_per_s_per_1000, UNIT, Icecast.name, figure, ICECAST_BUDGET))
