"""Where the commands of the same machine reach the running server: a unix socket in runtime_dir, open to its owner only.

One line of JSON each way, then it is closed: {"command": "reload"} -> {"ok": true} or {"ok": false, "reason": "..."}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

SOCKET_FILE: Final = "control.sock"
LINE_MAX_BYTES: Final = 4096
LINE_TIMEOUT_S: Final = 5.0
"""For the request line; the answer may take as long as a reload."""

Commands = Mapping[str, Callable[[], Awaitable[str]]]
"""Command -> what carries it out and gives "" or the reason why not."""


class CommandSocket:
    """Serves commands until it is closed."""

    def __init__(self, runtime_dir: Path, commands: Commands) -> None:
        self._path = runtime_dir / SOCKET_FILE
        self._commands = commands
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, in place of a former generation's socket. Raises OSError."""
        partial = self._path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, partial, limit=LINE_MAX_BYTES)
        finally:
            os.umask(mask)
        partial.replace(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            asked = json.loads(await asyncio.wait_for(reader.readline(), LINE_TIMEOUT_S))
            name = asked.get("command", "") if isinstance(asked, dict) else ""
            command = self._commands.get(name)
            reason = await command() if command else f"unknown command {str(name)[:40]!r}"
            answer = {"ok": True} if not reason else {"ok": False, "reason": reason}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    def close(self) -> None:
        """No more commands. The file is left when it is a successor's by now: only the last to end removes it."""
        if self._server is not None:
            self._server.close()

    def remove(self) -> None:
        """The server ends: the file goes too."""
        self.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
