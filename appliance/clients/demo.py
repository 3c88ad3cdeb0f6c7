"""`streammachine demo`: a configuration that needs no file, an encoder with the music that ships inside, and the URLs to hear it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from appliance.clients.target import PASSWORD_VARIABLE
from appliance.config.model import Config, StreamConfig
from appliance.config.secret import Secret

AUDIO: Final = Path(__file__).parent / "audio" / "demo.mp3"
TITLE: Final = "Harbour, Early"
KEY: Final = "demo"
WINDOW_S: Final = 4 * 3600
BURST_S: Final = 5.0
"""Shorter than the default, so that the rewind slider is of use soon after the start."""
PORT: Final = 8001
END_S: Final = 5.0


class Ports(Protocol):
    """The ports as bound."""

    @property
    def listener(self) -> int:
        """For listeners."""

    @property
    def source(self) -> int:
        """For encoders."""

    @property
    def api(self) -> int:
        """For the page."""


Stop = Callable[[], Awaitable[None]]


def prepare(port: int | None) -> tuple[Config, Callable[[Ports], Awaitable[Stop]]]:
    """The demo's configuration (on 127.0.0.1 only), and what to do once the server serves: it returns how to end that."""
    password = secrets.token_urlsafe(16)
    first = PORT if port is None else port
    free = port is not None or _all_free(first)
    stream = StreamConfig(seconds=WINDOW_S, burst=BURST_S, root_route=True, source_password=Secret(password), meta_title=TITLE)
    folder = Path(tempfile.gettempdir()) / f"streammachine-demo-{os.getpid()}"  # the command removes it at the end
    config = Config(
        port=first if free else 0,
        source_port=first + 1 if free and first else 0,
        api_port=first + 2 if free and first else 0,
        bind="127.0.0.1",
        runtime_dir=folder,
        state_dir=folder,
        streams={KEY: stream},
    )
    return config, lambda ports: _feed(ports, password)


def _all_free(first: int) -> bool:
    """Whether the three usual ports are free; another server may be running."""
    for port in range(first, first + 3):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


async def _feed(ports: Ports, password: str) -> Stop:
    """Start the encoder as a process of its own, against the real source port; the password goes through its environment."""
    command = [sys.executable, "-m", "appliance", "source", str(AUDIO), "--title", TITLE]
    encoder = await asyncio.create_subprocess_exec(
        *command,
        "--to",
        f"http://127.0.0.1:{ports.source}/{KEY}",
        env={**os.environ, PASSWORD_VARIABLE: password},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    _say(ports)

    async def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            encoder.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(encoder.wait(), END_S)

    return stop


def _say(ports: Ports) -> None:
    stream = f"http://127.0.0.1:{ports.listener}/{KEY}"
    lines = (
        "",
        "StreamMachine is playing.",
        "",
        f"  In a browser, with a rewind slider:  http://127.0.0.1:{ports.api}/",
        f"  In any player:                       {stream}",
        f"  A minute ago (once it has played):   {stream}?offset=60",
        f"  As a playlist:                       {stream}.m3u",
        "",
        f"  mpv {stream}",
        f"  curl -s {stream} | mpv -",
        "",
        "Ctrl-C ends it.",
    )
    print("\n".join(lines), flush=True)  # noqa: T201 - this is what the command is for
