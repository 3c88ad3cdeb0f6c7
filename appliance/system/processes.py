"""Processes: the zygote that workers are forked from, watching them, their rights.

The zygote is multiprocess's fork server with the worker's modules preloaded: it has the running release in memory, so a replacement starts
in 30 ms and never reads code from disk, where a newer release may lie. What was found in its source (multiprocess 0.70.19) and matters
here:
- A child imports the parent's `__main__` again, from disk. So the parent shows a blank one while it starts the zygote and its children.
- Children inherit the write end of the zygote's "alive" pipe and keep it running after its owner's death: `leave_zygote` closes it.
- `Process.start` waits for the child's pid without a limit: it is called in a thread, and the zygote is killed when it does not answer.
- `Process.sentinel` says "dead" when the zygote dies. Deaths are therefore watched by pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import multiprocess
from multiprocess import forkserver, reduction

LAUNCH_TIMEOUT_S: Final = 15.0
"""A fork from the zygote takes 30 ms; a cold zygote up to a second on a loaded box."""
KILL_WAIT_S: Final = 1.0
"""A killed process is gone within a millisecond, unless the kernel holds it."""
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_DUMPABLE: Final = 4


class CannotLaunch(Exception):
    """A process that could not be started; says why."""


class Launched(NamedTuple):
    """A started process and a pidfd that becomes readable when it ends."""

    pid: int
    pidfd: int


class FdArgument:
    """An fd as an argument of a launched process: duplicated into it, whatever number it has there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._fd),)

    def take(self) -> int:
        """The fd in this process."""
        return self._fd


def _received(dup: Any) -> FdArgument:
    return FdArgument(dup.detach())


class Zygote:
    """Launches workers. One at a time; blocking calls run in a thread."""

    def __init__(self, preload: list[str]) -> None:
        self._context = multiprocess.get_context("forkserver")
        self._context.set_forkserver_preload(preload)
        self._lock = asyncio.Lock()
        self._started: list[Any] = []

    @property
    def pid(self) -> int | None:
        """The zygote's pid; None before its start."""
        found: int | None = forkserver._forkserver._forkserver_pid
        return found

    async def start(self) -> None:
        """Start it, and wait until it has loaded everything: the first launch must not find it cold. Raises CannotLaunch."""
        await self._in_thread(forkserver.ensure_running)

    async def launch(self, target: Callable[..., None], *arguments: object) -> Launched:
        """Fork a process that calls `target(*arguments)`. Raises CannotLaunch."""
        async with self._lock:
            process = self._context.Process(target=target, args=arguments)
            await self._in_thread(process.start)
            self._started = [one for one in self._started if one.exitcode is None]
            self._started.append(process)
            try:
                return Launched(process.pid, os.pidfd_open(process.pid))
            except OSError as error:
                raise CannotLaunch(f"the new process ended at once: {error}") from error

    async def _in_thread(self, call: Callable[[], object]) -> None:
        """Run a blocking call of multiprocess with a limit; a zygote that does not answer is killed, which ends the call."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[BaseException | None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(error)

        def work() -> None:
            error: BaseException | None = None
            try:
                with _blank_main():
                    call()
            except BaseException as raised:  # noqa: BLE001 - carried to the caller
                error = raised
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, error)

        threading.Thread(target=work, daemon=True).start()
        try:
            error = await asyncio.wait_for(done, LAUNCH_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            raise CannotLaunch(f"the zygote did not answer for {LAUNCH_TIMEOUT_S:.0f} s") from None
        if error is not None:
            raise CannotLaunch(f"cannot start a process: {error!r}") from error

    def kill(self) -> None:
        """End the zygote; its children live on. Returns when it has ended, so that the next start does not take it for alive."""
        if self.pid is None:
            return
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(self.pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _readable(pidfd, KILL_WAIT_S)
            finally:
                os.close(pidfd)


@contextlib.contextmanager
def _blank_main() -> Iterator[None]:
    real = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = real


def _readable(fd: int, seconds: float) -> None:
    """Wait; poll, since select cannot take fds over 1,023."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll(seconds * 1000)


def leave_zygote() -> None:
    """In a new child: let go of the zygote's pipes, so that it ends with its owner."""
    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None


def least_rights() -> None:
    """No new privileges, no core dumps (they would hold listeners' addresses)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def fd_limit() -> int:
    """Open files this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_fd_limit() -> int:
    """Set the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
