"""What we tell systemd (sd_notify(3)): state, watchdog, stored fds, barrier; nothing at all where there is no NOTIFY_SOCKET.

sdnotify finds and opens the socket (a path, or abstract with "@"). It cannot pass fds, and it sends on a blocking socket and hides what
went wrong; so the sending is done here. systemd reads its socket one message at a time and not at all while it reloads its units, and the
kernel queues only net.unix.max_dgram_qlen (10) messages: what comes again anyway (STATUS, WATCHDOG) is dropped when the queue is full, the
rest waits a little. No method raises for a systemd that does not listen: each returns whether the message was sent.

WATCHDOG_PID is not compared: after a handoff it names the predecessor. NOTIFY_SOCKET stays in the environment: a successor needs it, and
with NotifyAccess=main what others send is refused.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Final

import sdnotify

SEND_TIMEOUT_S: Final = 2.0
"""A `systemctl daemon-reload` keeps systemd from reading for a second or so; the main loop may not wait for longer."""
BARRIER_TIMEOUT_S: Final = 5.0
"""sd_notify_barrier(3) suggests a limit of seconds: systemd answers as soon as it has read what was sent before."""
MESSAGE_FDS_MAX: Final = 253
"""SCM_MAX_FD: more in one message is EINVAL (unix(7))."""
FD_NAME_MAX: Final = 255
"""FDNAME_MAX of systemd (sd_pid_notify_with_fds(3))."""
MICRO: Final = 1_000_000


def check_fd_name(name: str) -> str:
    """`name`, if it can be an FDNAME: 1 to 255 printable ASCII characters, no colon (sd_pid_notify_with_fds(3)). Raises ValueError."""
    if not 0 < len(name) <= FD_NAME_MAX or any(not " " <= char <= "~" or char == ":" for char in name):
        raise ValueError(f"no name for a stored fd: {name[:FD_NAME_MAX]!r}")
    return name


class Notifier:
    """The connection to systemd of one process; without NOTIFY_SOCKET every method does nothing and returns False."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = sdnotify.SystemdNotifier().socket if os.environ.get("NOTIFY_SOCKET") else None
        self.watchdog_s = _watchdog_s(os.environ) if self._socket else None

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager to tell."""
        return self._socket is not None

    def notify(self, text: str) -> bool:
        """Send `text` (lines of NAME=VALUE) as it is; waits for SEND_TIMEOUT_S at most."""
        return self._send(text, (), SEND_TIMEOUT_S)

    def ready(self, status: str = "") -> bool:
        """READY=1: start or reload is done, with a first STATUS."""
        return self.notify("READY=1" + (f"\nSTATUS={_one_line(status)}" if status else ""))

    def status(self, text: str) -> bool:
        """STATUS=: one line for `systemctl status`. Dropped when systemd is busy."""
        return self._send(f"STATUS={_one_line(text)}", (), 0)

    def watchdog(self) -> bool:
        """WATCHDOG=1: we live. Due every `watchdog_s`. Dropped when systemd is busy."""
        return self._send("WATCHDOG=1", (), 0)

    def reloading(self) -> bool:
        """RELOADING=1 with the time of it, as Type=notify-reload of later versions wants; `ready()` ends it."""
        return self.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "stopping") -> bool:
        """STOPPING=1: the end has begun."""
        return self.notify(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def main_pid(self, pid: int) -> bool:
        """MAINPID=: another process is the service from now on. With NotifyAccess=main only the one that still is may say so."""
        return self.notify(f"MAINPID={pid}")

    def extend_timeout(self, seconds: float) -> bool:
        """EXTEND_TIMEOUT_USEC=: start or stop goes on; do not kill us in the next `seconds`."""
        return self.notify(f"EXTEND_TIMEOUT_USEC={round(seconds * MICRO)}")

    def store(self, name: str, fds: Sequence[int]) -> bool:
        """FDSTORE=1: systemd keeps dups of `fds` under `name` until remove(), a stop, or a failed state. Raises ValueError for a bad name.

        FDPOLL=0: kept after a hang-up as well. Without it systemd would drop a connection (or a channel whose other side ended) behind
        our back, and a successor could not tell "ended" from "was never stored". systemd does not say when its store is full: it logs.
        """
        text = f"FDSTORE=1\nFDPOLL=0\nFDNAME={check_fd_name(name)}"
        batches = [fds[start : start + MESSAGE_FDS_MAX] for start in range(0, len(fds), MESSAGE_FDS_MAX)]
        return self.is_heard and all(self._send(text, batch, SEND_TIMEOUT_S) for batch in batches)

    def remove(self, name: str) -> bool:
        """FDSTOREREMOVE=1: systemd closes every fd it keeps under `name`. Raises ValueError for a bad name."""
        return self.notify(f"FDSTOREREMOVE=1\nFDNAME={check_fd_name(name)}")

    def barrier(self, timeout_s: float = BARRIER_TIMEOUT_S) -> bool:
        """BARRIER=1 (sd_notify_barrier(3)): wait until systemd has worked off all that was sent before; False when it has not in time.

        Blocks: call it where nothing else waits, or in a thread.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                sent = self._send("BARRIER=1", (writing,), min(timeout_s, SEND_TIMEOUT_S))
            finally:
                os.close(writing)
            poller = select.poll()
            poller.register(reading, 0)  # POLLHUP comes unasked, when systemd closes its end
            return sent and bool(poller.poll(max(0.0, timeout_s) * 1000))
        finally:
            os.close(reading)

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send(self, text: str, fds: Sequence[int], timeout_s: float) -> bool:
        if self._socket is None:
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendmsg([text.encode(errors="replace")], ancillary)
        except OSError:  # TimeoutError and BlockingIOError among them
            return False
        return True


def _one_line(text: str) -> str:
    """A line break would start another field."""
    return " ".join(text.split())


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises; None where no watchdog was asked for."""
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / MICRO / 2 if text.isascii() and text.isdecimal() and int(text) else None
