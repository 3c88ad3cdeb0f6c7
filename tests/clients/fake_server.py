"""A server on 127.0.0.1 whose connections a test scripts one by one, and a pace that runs through hours at once."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from typing import Self

Script = Callable[["Visit"], Awaitable[None]]

_head_end = re.compile(rb"\r\n\r\n")


class FastPace:
    """Time that passes by being waited for. `sleeps` are the waits asked for; `oversleep_s` makes each one longer."""

    def __init__(self, oversleep_s: float = 0.0) -> None:
        self.time_s = 1000.0
        self.oversleep_s = oversleep_s
        self.sleeps: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time_s += seconds + self.oversleep_s
        await asyncio.sleep(0)


class Visit:
    """One connection, its request read: `line`, `headers` (lower-case names) and `early`, what followed the head at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.line = ""
        self.headers: dict[str, str] = {}
        self.early = b""

    async def read_request(self) -> None:
        """Fills in the request."""
        received = b""
        while not (end := _head_end.search(received)):
            piece = await self._reader.read(4096)
            assert piece, f"no whole request: {received!r}"
            received += piece
        self.line, *lines = received[: end.start()].decode("latin-1").split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.early = received[end.end() :]

    @property
    def credentials(self) -> str:
        """USER:PASSWORD of the Authorization header."""
        return base64.b64decode(self.headers["authorization"].removeprefix("Basic ")).decode()

    async def read_body(self, count: int) -> bytes:
        """So many bytes behind the head; fewer when the client ends before."""
        try:
            return self.early[:count] + await self._reader.readexactly(max(0, count - len(self.early)))
        except asyncio.IncompleteReadError as short:
            return self.early + short.partial

    async def send(self, data: bytes) -> None:
        """Sends bytes, in one piece."""
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, status: int, body: str = "", **headers: str) -> None:
        """A whole plain answer."""
        lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body.encode())}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    async def until_client_ends(self) -> None:
        """Reads whatever comes until the client closes."""
        while await self._reader.read(65536):
            pass


class FakeServer:
    """`scripts` are run for the connections in their order; a connection too many is closed. `visits` are all that came.

    As a context manager: closed at the end, and a script's own failure is raised there.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._tasks: list[asyncio.Task[None]] = []
        self.visits: list[Visit] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self._server.close()
        for task in self._tasks:
            if not task.done():
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        failures = [one for one in results if isinstance(one, AssertionError)]
        if failures and error is None:
            raise failures[0]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        try:
            if self._scripts:
                script = self._scripts.pop(0)
                visit = Visit(reader, writer)
                await visit.read_request()
                self.visits.append(visit)
                await script(visit)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            writer.close()
