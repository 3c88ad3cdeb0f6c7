"""`streammachine reload`: asks the running server to hand over, waits, and says how it went."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final, TextIO

SOCKET_FILE: Final = "control.sock"
TIMEOUT_S: Final = 120.0
"""Longer than all limits of a reload together."""
EXIT_FAILED: Final = 1


def run(runtime_dir: Path, out: TextIO, err: TextIO) -> int:
    """Exit 0 only when the new process serves; else 1, with the reason on `err`."""
    path = runtime_dir / SOCKET_FILE
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(b'{"command": "reload"}\n')
            answer = json.loads(sock.makefile("rb").readline() or b'{"ok": false, "reason": "the server ended without an answer"}')
    except FileNotFoundError:
        err.write(f"no server is running: there is no {path}\n")
        return EXIT_FAILED
    except TimeoutError:
        err.write(f"no answer for {TIMEOUT_S:.0f} s\n")
        return EXIT_FAILED
    except (OSError, ValueError) as error:
        err.write(f"cannot ask the server at {path}: {error}\n")
        return EXIT_FAILED
    if answer.get("ok"):
        out.write("reloaded: the new process serves\n")
        return 0
    err.write(f"not reloaded, the old process serves on: {answer.get('reason', 'no reason given')}\n")
    return EXIT_FAILED
