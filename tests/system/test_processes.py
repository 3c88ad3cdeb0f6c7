"""The zygote and what it launches: real processes, watched by pidfd."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from appliance.system import processes
from appliance.system.processes import CannotLaunch, FdArgument, Zygote


def report(fd: FdArgument, word: str) -> None:
    """Process target: say what it is, wait for EOF, end."""
    processes.leave_zygote()
    processes.least_rights()
    with socket.socket(fileno=fd.take()) as sock:
        bound = "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()
        main = "blank" if not hasattr(__import__("__main__"), "__file__") else "file"
        core = resource.getrlimit(resource.RLIMIT_CORE)[0]
        sock.send(f"{word} {os.getpid()} {os.getppid()} {bound} {core} {main}".encode())
        sock.recv(1)
    os._exit(7)


async def ended(pidfd: int) -> None:
    """Wait for a process to end, by its pidfd."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, over.set)
    await asyncio.wait_for(over.wait(), 10)
    loop.remove_reader(pidfd)
    os.close(pidfd)


async def test_a_launched_process_outlives_its_zygote() -> None:
    """It has its fd, no new rights, no core dumps, none of our __main__; a killed zygote takes nobody along; deaths are seen."""
    zygote = Zygote([])
    await zygote.start()
    pid = zygote.pid
    assert pid is not None
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    launched = await zygote.launch(report, FdArgument(theirs.fileno()), "hello")
    theirs.close()
    said = (await asyncio.to_thread(ours.recv, 200)).decode().split(" ")
    assert said == ["hello", str(launched.pid), str(pid), "True", "0", "blank"]
    zygote_fd = os.pidfd_open(pid)
    zygote.kill()
    await ended(zygote_fd)
    os.kill(launched.pid, 0)  # still there
    ours.close()
    await ended(launched.pidfd)


async def test_a_stopped_zygote_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch` gives up after its limit and ends the zygote; the next start makes a new one."""
    monkeypatch.setattr(processes, "LAUNCH_TIMEOUT_S", 0.3)
    zygote = Zygote([])
    await zygote.start()
    pid = zygote.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(CannotLaunch, match="did not answer"):
        await zygote.launch(report, FdArgument(theirs.fileno()), "never")
    monkeypatch.setattr(processes, "LAUNCH_TIMEOUT_S", 15.0)
    await zygote.start()
    assert zygote.pid != pid
    zygote.kill()


def test_raise_fd_limit() -> None:
    """The soft limit becomes the hard one."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1_024, before[1]), before[1]))
    assert processes.raise_fd_limit() == before[1]
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
