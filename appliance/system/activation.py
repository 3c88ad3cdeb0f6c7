"""What systemd hands to a starting service (sd_listen_fds(3)): sockets of its .socket units, and fds that were stored before, by name.

Names of stored fds say whose they are: KIND, or KIND.KEY ("ring.live"), or KIND.gN.KEY with the generation that stored them
("worker.g7.0"). Which of them a kind has, its owner knows: a stream may be called "g7.x". All belong to `Inherited` until they are taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import MutableMapping
from typing import Final

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""
VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
NAMELESS: Final = "unknown"
"""What sd_listen_fds_with_names(3) calls an fd when there are no names."""
FDS_MAX: Final = 1_000_000
"""Above any limit of open files that systemd gives: a larger LISTEN_FDS is not systemd's."""
_GENERATION: Final = re.compile(r"g(0|[1-9][0-9]{0,17})\.(.+)", re.DOTALL)


class Inherited:
    """The fds by name, in systemd's order; close-on-exec. What nobody takes is closed by `close_rest`."""

    def __init__(self, fds: dict[str, list[int]] | None = None) -> None:
        self._fds = fds or {}

    @property
    def names(self) -> list[str]:
        """The names that are left, in the order in which they first came."""
        return list(self._fds)

    def take(self, name: str) -> list[int]:
        """Every fd of that name; they are the caller's now. Empty when there is none."""
        return self._fds.pop(name, [])

    def take_keys(self, kind: str) -> dict[str, list[int]]:
        """Every fd named KIND.KEY, by KEY: for kinds of which there is one generation ("ring")."""
        found = {name: name.removeprefix(f"{kind}.") for name in self._fds if name.startswith(f"{kind}.")}
        return {key: self._fds.pop(name) for name, key in found.items()}

    def take_generations(self, kind: str) -> dict[int, dict[str, list[int]]]:
        """Every fd named KIND.gN.KEY, by N and KEY. A name of that kind in another form stays, and ends in `close_rest`."""
        taken: dict[int, dict[str, list[int]]] = {}
        for name in self.names:
            match = _GENERATION.fullmatch(name.removeprefix(f"{kind}.")) if name.startswith(f"{kind}.") else None
            if match:
                taken.setdefault(int(match[1]), {})[match[2]] = self._fds.pop(name)
        return taken

    def close_rest(self) -> list[str]:
        """Close what nobody took; returns its names, for one line in the log."""
        names = self.names
        for fd in [fd for name in names for fd in self._fds.pop(name)]:
            with contextlib.suppress(OSError):
                os.close(fd)
        return names


def generation_name(kind: str, generation: int, key: str | int) -> str:
    """The name that `take_generations` understands: "worker.g7.0"."""
    return f"{kind}.g{generation}.{key}"


def inherit(environ: MutableMapping[str, str] = os.environ) -> Inherited:
    """What systemd gave to this process; the variables are removed, so that no child takes them for its own. Call it once, first of all."""
    count, pid, names = (environ.pop(name, "") for name in VARIABLES)
    if pid != str(os.getpid()) or not count.isascii() or not count.isdecimal() or int(count) > FDS_MAX:
        return Inherited()
    named = names.split(":") if names else []
    found: dict[str, list[int]] = {}
    for index in range(int(count)):
        fd = FIRST_FD + index
        try:
            os.set_inheritable(fd, False)
        except OSError:
            continue  # closed meanwhile: then it is nobody's
        found.setdefault(named[index] if index < len(named) and named[index] else NAMELESS, []).append(fd)
    return Inherited(found)


def as_listening(fd: int) -> socket.socket:
    """The non-blocking listening TCP socket that `fd` is, owned from now on. Raises ValueError (and closes `fd`) when it is none."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise ValueError(f"not a socket ({error.strerror})") from error
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ValueError("not a listening TCP socket")
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as system/sockets.py does: accepted sockets inherit it
    return sock
