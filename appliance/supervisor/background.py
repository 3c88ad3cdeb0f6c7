"""One daemon thread that does slow calls one after the other, awaited from the event loop.

A daemon, because a disk that hangs must not keep the process from ending: the default executor's threads are joined at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Background:
    """Starts its thread with the first call."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._given = self._done = 0

    async def run(self, call: Callable[[], T]) -> T:
        """Call it in the thread; returns or raises what it does. Cancelled: the call goes on, and nobody hears of its end."""
        if not self._thread.is_alive():
            self._thread.start()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            settle: Callable[[], None]
            try:
                settle = partial(_settle, found, found.set_result, call())
            except Exception as error:  # noqa: BLE001 - carried to the caller
                settle = partial(_settle, found, found.set_exception, error)
            self._done += 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle)

        self._given += 1
        self._calls.put(work)
        return await found

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    @property
    def busy(self) -> bool:
        """Whether calls are under way or wait."""
        return self._given != self._done

    def close(self) -> None:
        """The thread ends after the calls it has."""
        self._calls.put(None)


def _settle(future: asyncio.Future[T], settle: Callable[[U], None], value: U) -> None:
    if not future.done():
        settle(value)
