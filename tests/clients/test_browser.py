"""The demo page in a real browser: it plays, rewinds, counts its listener, and reports no error."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.process.live_server import wait_for

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--window-size=1000,1000",
)
STEP_S = 30.0


@contextmanager
def demo(tmp_path: Path) -> Iterator[str]:
    """`streammachine demo` on free ports; gives the URL of its page."""
    out = tmp_path / "demo.out"
    with out.open("wb") as sink:
        command = [sys.executable, "-m", "appliance", "demo", "--port", "0"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: "In a browser" in out.read_text() or process.poll() is not None, "the demo's URLs")
        found = re.search(r"In a browser.*(http://\S+)", out.read_text())
        assert found, out.read_text()
        yield found.group(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, out.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def chromium(tmp_path: Path) -> Iterator[str]:
    """A browser; gives the address of its debugging port."""
    profile = tmp_path / "profile"
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = profile / "DevToolsActivePort"
        wait_for(lambda: port_file.exists() and port_file.read_text().count("\n") >= 1, "chromium's debugging port")
        yield f"http://127.0.0.1:{port_file.read_text().splitlines()[0]}"
    finally:
        process.terminate()
        process.wait(20)


class Tab:
    """One page over the DevTools protocol; collects errors and console messages."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events that come first are looked at."""
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        while True:
            message = await asyncio.wait_for(self._socket.receive_json(), STEP_S)
            if message.get("id") == self._calls:
                result: dict[str, Any] = message.get("result", {})
                return result
            self._look(message)

    def _look(self, event: dict[str, Any]) -> None:
        kind, details = event.get("method", ""), event.get("params", {})
        if kind == "Runtime.exceptionThrown" or (kind == "Runtime.consoleAPICalled" and details["type"] in {"error", "warning"}):
            self.complaints.append(json.dumps(details)[:400])
        if kind == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.complaints.append(json.dumps(details)[:400])

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Wait until it is true."""
        end = asyncio.get_running_loop().time() + STEP_S
        while not (found := await self.value(expression)):
            assert asyncio.get_running_loop().time() < end, f"waited in vain for {expression}; {self.complaints}"
            await asyncio.sleep(0.1)
        return found


async def drive(page: str, debugger: str) -> list[str]:
    """Open the page, play, go back, go live; returns what the browser complained about."""
    async with aiohttp.ClientSession() as session, session.put(f"{debugger}/json/new?about:blank") as answer:
        target = json.loads(await answer.text())["webSocketDebuggerUrl"]
        async with session.ws_connect(target, max_msg_size=0) as socket:
            tab = Tab(socket)
            await tab.call("Runtime.enable")
            await tab.call("Log.enable")
            await tab.call("Page.enable")
            await tab.call("Page.navigate", url=page)
            await tab.until("document.readyState === 'complete' && document.getElementById('air').textContent.includes('On air')")
            assert await tab.value("document.getElementById('title').textContent") == "Harbour, Early"
            await tab.value("document.getElementById('play').click()")
            await tab.until("document.getElementById('audio').currentTime > 1.5")
            await tab.until("document.getElementById('listeners').textContent.trim() === '1'")
            # the buffer is long enough to go back beyond the burst
            await tab.until("-Number(document.getElementById('rewind').min) > 9")
            await tab.value(
                "(() => { const slider = document.getElementById('rewind'); slider.value = slider.min;"
                "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change')); })()"
            )
            await tab.until("document.getElementById('audio').src.includes('offset=')")
            await tab.until("document.getElementById('audio').currentTime > 1")
            await tab.until("document.getElementById('rewound').textContent.trim() === '1'")
            await tab.value("document.getElementById('live').click()")
            await tab.until("!document.getElementById('audio').src.includes('offset=') && document.getElementById('audio').currentTime > 1")
            assert await tab.value("document.getElementById('behind').textContent") == "LIVE"
            return tab.complaints


def test_the_demo_page_plays_and_rewinds(tmp_path: Path) -> None:
    """Two commands, no encoder: a person opens the printed URL, hears music, drags the slider back, returns to live."""
    with demo(tmp_path) as page, chromium(tmp_path) as debugger:
        complaints = asyncio.run(drive(page, debugger))
    assert complaints == []
