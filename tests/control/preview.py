"""The demo's page with a make-believe station behind it, for looking at it while changing it.

    .venv/bin/python -m tests.control.preview [API_PORT [AUDIO_PORT]]

The audio port plays the demo's music as a worker would: a burst, then real time; `?offset=N` starts that far back.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from pathlib import Path

from aiohttp import web

from appliance.control.app import make_app, start
from appliance.control.station import StationStatus
from tests.control.fake_station import FakeStation

MUSIC = Path(__file__).resolve().parents[2] / "appliance" / "clients" / "audio" / "demo.mp3"
BYTES_PER_S = 16_000
BURST_S = 10.0
HELD_S = 2545.0


class PreviewStation(FakeStation):
    """Counts that move, and a buffer that grows."""

    def __init__(self, listener_port: int) -> None:
        super().__init__()
        self.facts.listener_port = listener_port
        self.began_at = time.time() - HELD_S

    def status(self) -> StationStatus:
        now = time.time()
        stream = self.facts.streams[0]
        stream.head_at, stream.burst_s = now, BURST_S
        stream.buffer_s = now - self.began_at
        stream.bytes_held = int(stream.buffer_s * BYTES_PER_S)
        stream.listeners = 1234 + int(20 * math.sin(now / 7))
        self.facts.workers[1].state = "serving"
        return self.facts

    async def audio(self, request: web.Request) -> web.StreamResponse:
        """GET /demo: from the music's byte of that moment on, for ever."""
        music = MUSIC.read_bytes()
        offset_s = float(request.query.get("offset", BURST_S))
        at_s = time.time() - offset_s
        response = web.StreamResponse(headers={"Content-Type": "audio/mpeg", "Access-Control-Allow-Origin": "*"})
        await response.prepare(request)
        lead_s = min(BURST_S, offset_s)
        while True:
            until_s = time.time() - offset_s + lead_s
            first, last = int(at_s * BYTES_PER_S), int(until_s * BYTES_PER_S)
            while first < last:
                place = first % len(music)
                piece = music[place : place + last - first]
                await response.write(piece)
                first += len(piece)
            at_s = last / BYTES_PER_S
            await asyncio.sleep(0.5)


async def main(api_port: int, audio_port: int) -> None:
    """Serves until interrupted."""
    station = PreviewStation(audio_port)
    listener = web.Application()
    listener.router.add_get("/demo", station.audio)
    await start(listener, "127.0.0.1", audio_port)
    _, port = await start(make_app(station, demo=True), "127.0.0.1", api_port)
    print(f"http://127.0.0.1:{port}/")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*(int(word) for word in [*sys.argv[1:], "18003", "18001"][:2])))
