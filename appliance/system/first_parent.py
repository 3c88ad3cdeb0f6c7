"""Without a service manager (a shell, a container): a tiny first process that stays while generations of the server come and go.

Who started us watches this pid. It reaps, forwards SIGTERM, SIGINT and SIGHUP to the generation that serves, and ends with the last
generation's exit code. It is forked before anything big is loaded, and as a subreaper (prctl(2)) it inherits each successor.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER: Final = 36
_WATCHED: Final = {*FORWARDED, signal.SIGCHLD}


def split() -> int:
    """Become two: returns in the child alone, with the fd on which the parent hears of later generations (`announce`)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    hears, tells = os.pipe()
    child = os.fork()
    if child:
        os.close(tells)
        os.set_blocking(hears, False)
        os._exit(_stay(child, hears))
    os.close(hears)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    return tells


def announce(tells: int, pid: int) -> None:
    """The generation that serves is `pid` now. To be said by the old one, before it ends."""
    os.write(tells, f"{pid}\n".encode())


def _stay(serving: int, hears: int) -> int:
    """Until the serving generation ends; its exit code, or 128 + the signal that ended it."""
    while True:
        number = signal.sigwait(_WATCHED)
        serving = _newest(hears, serving)
        if number in FORWARDED:
            os.kill(serving, number)
            continue
        code = _reap(serving)
        if code is not None:
            return code


def _newest(hears: int, serving: int) -> int:
    try:
        said = os.read(hears, 4096).split()
    except BlockingIOError:
        return serving
    return int(said[-1]) if said else serving


def _reap(serving: int) -> int | None:
    """Collect whoever has ended; the exit code if the serving one has."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 1 if code is None else code
        if pid == 0:
            return code
        if pid == serving:
            found = os.waitstatus_to_exitcode(status)
            code = found if found >= 0 else 128 - found
