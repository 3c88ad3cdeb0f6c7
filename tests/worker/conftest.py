"""Studios that are closed, and checked, when their test is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from appliance.channel.messages import StreamEntry
from tests.fakes import Air
from tests.worker.studio import Studio

MakeStudio = Callable[..., Studio]


@pytest.fixture
async def make_studio() -> AsyncIterator[MakeStudio]:
    """make_studio(air=None, entry=None, send_interval_s=1.0)."""
    with ExitStack() as stack:

        def make(air: Air | None = None, entry: StreamEntry | None = None, send_interval_s: float = 1.0) -> Studio:
            studio = Studio(air or Air(), entry, send_interval_s)
            stack.callback(studio.close)
            return studio

        yield make


@pytest.fixture
def air() -> Iterator[Air]:
    """A ring with 20 s of audio."""
    air = Air()
    air.play(40)
    yield air
    air.close()
