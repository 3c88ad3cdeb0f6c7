"""What systemd hears over time, with a notifier that keeps what it is told."""

from __future__ import annotations

import asyncio

import pytest

from appliance.supervisor import heartbeat
from appliance.supervisor.heartbeat import Heartbeat
from appliance.system.notify import Notifier


class Heard(Notifier):
    """A notifier with a service manager that is this list."""

    def __init__(self, watchdog_s: float | None, *, heard: bool = True) -> None:
        super().__init__()
        self.watchdog_s, self.said, self._heard = watchdog_s, asyncio.Queue[str](), heard

    @property
    def is_heard(self) -> bool:
        return self._heard

    def _send(self, text: str, fds: object, timeout_s: float) -> bool:
        self.said.put_nowait(text)
        return self._heard


async def hear(heard: Heard, count: int) -> list[str]:
    return [await asyncio.wait_for(heard.said.get(), 5) for _ in range(count)]


async def test_ready_then_the_watchdog_then_stopping_and_silence() -> None:
    heard = Heard(0.01)
    beat = Heartbeat(heard, lambda: True, lambda: "fine")
    beat.start()
    assert await hear(heard, 4) == ["READY=1\nSTATUS=fine", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]
    beat.stop()
    while (last := (await hear(heard, 1))[0]) == "WATCHDOG=1":
        pass
    assert last == "STOPPING=1\nSTATUS=stopping"
    await asyncio.sleep(0.05)
    assert heard.said.empty()


async def test_the_watchdog_is_fed_only_while_all_is_alive() -> None:
    heard = Heard(0.01)
    alive = True
    beat = Heartbeat(heard, lambda: alive, lambda: "")
    beat.start()
    await hear(heard, 3)
    alive = False
    while not heard.said.empty():
        heard.said.get_nowait()
    await asyncio.sleep(0.05)
    assert heard.said.empty()
    beat.stop()


async def test_the_status_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "STATUS_S", 0.01)
    heard = Heard(None)
    texts = iter(["one", "two", *["three"] * 1000])
    beat = Heartbeat(heard, lambda: True, lambda: next(texts))
    beat.start()
    assert await hear(heard, 3) == ["READY=1\nSTATUS=one", "STATUS=two", "STATUS=three"]
    beat.stop()


async def test_nobody_listens() -> None:
    """No service manager: nothing runs."""
    heard = Heard(0.01, heard=False)
    beat = Heartbeat(heard, lambda: True, lambda: "")
    beat.start()
    await asyncio.sleep(0.03)
    assert heard.said.empty()
