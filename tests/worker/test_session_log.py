"""One line per listener that lasted; repeated trouble is one line a second with a count (STYLE 11)."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from appliance.worker.session_log import SessionLog
from tests.fakes import Air, entry
from tests.worker.conftest import MakeStudio


async def test_a_listener_that_lasted_is_one_line(make_studio: MakeStudio) -> None:
    """What an operator wants to know of it, with the true number of bytes."""
    air = Air()
    air.play(40)
    studio = make_studio(air, entry())
    player = studio.tune_in(icy=True, offset_s=10)
    for _ in range(3):
        air.play(2)
        studio.round()
        studio.read_all()
    with capture_logs() as lines:
        SessionLog(3).ended(player.listener, "left", studio.clock.monotonic_us())
    assert lines == [
        {
            "event": "listener ended", "log_level": "info", "worker": 3, "stream": "test", "peer": "127.0.0.1", "agent": "test",
            "seconds": 3.0, "sent_bytes": len(player.got), "icy": True, "rewound": True, "skips": 0, "reason": "left",
        }
    ]  # fmt: skip


async def test_brief_ones_are_counted(make_studio: MakeStudio) -> None:
    """A second is churn: one line per log interval and stream."""
    air = Air()
    air.play(40)
    studio = make_studio(air, entry())
    log = SessionLog(0)
    with capture_logs() as lines:
        for _ in range(5):
            log.ended(studio.tune_in().listener, "left", studio.clock.monotonic_us() + 999_999)
        assert not lines
        log.summary()
        log.summary()
    assert [(line["event"], line["stream"], line["count"]) for line in lines] == [("brief listeners", "test", 5)]


def trouble_lines(seconds: list[int]) -> list[dict[str, Any]]:
    """Lines of so many refusals in each of these seconds."""
    log = SessionLog(0)
    with capture_logs() as lines:
        for number in seconds:
            for _ in range(number):
                log.trouble("bad request", "no colon", peer="127.0.0.1")
            log.tick()
    return [dict(line) for line in lines]


def test_a_single_trouble_is_said_at_once() -> None:
    """With its context, once."""
    lines = trouble_lines([1, 0, 0, 1])
    assert [(line["event"], line["reason"], line["peer"]) for line in lines] == [("bad request", "no colon", "127.0.0.1")] * 2


def test_repeated_trouble_is_one_line_a_second() -> None:
    """The first at once; then one line each second with how many more there were; all of them are accounted for."""
    lines = trouble_lines([100, 50, 1, 0, 0])
    assert [line.get("more") for line in lines] == [None, 99, 50, 1]


def test_kinds_are_apart() -> None:
    """Another reason is another line."""
    log = SessionLog(0)
    with capture_logs() as lines:
        for reason in ("a", "b", "a"):
            log.trouble("bad request", reason)
        log.tick()
    assert [(line["reason"], line.get("more")) for line in lines] == [("a", None), ("b", None), ("a", 1)]
