"""The periodic timer."""

from __future__ import annotations

import select

from appliance.system.ticker import Ticker


def test_it_ticks_once_a_period_and_counts_what_was_missed() -> None:
    """Readable after a period; `due` counts the ticks since the last call; not readable again until the next."""
    ticker = Ticker(0.01)
    try:
        assert ticker.due() == 0
        assert select.select([ticker.fd], [], [], 5)[0]
        assert ticker.due() >= 1
        poller = select.poll()
        missed = 0
        while missed < 3:  # not read meanwhile: at least one more has come each time we look a few periods later
            poller.poll(30)
            missed += ticker.due()
        assert missed >= 3
    finally:
        ticker.close()
