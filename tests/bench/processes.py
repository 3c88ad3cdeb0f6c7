"""CPU and memory of a server: all processes of its session and below it, read from /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CPUCLOCK_SCHED: Final = 2
"""Kernel ABI: the clock of a whole process in ns is (~pid << 3) | 2, as clock_getcpuclockid(3) makes it."""
POLL_S: Final = 0.02
_STAT_STATE, _STAT_PPID, _STAT_SESSION, _STAT_START = 0, 1, 3, 19
"""Indices in /proc/PID/stat behind the command name: proc(5) fields 3, 4, 6 and 22."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of one process by kind (proc(5), /proc/PID/status), and its open descriptors."""

    anon_bytes: int
    file_bytes: int
    shared_bytes: int
    fds: int


def _stat_fields(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def tree(root: int) -> dict[int, int]:
    """pid -> start time of `root`, of all below it, and of all in its session (children of a helper that ended stay in it)."""
    stats: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        fields = _stat_fields(int(entry)) if entry.isdigit() else None
        if fields is not None and fields[_STAT_STATE] != "Z":
            stats[int(entry)] = fields
    found = {pid for pid, fields in stats.items() if pid == root or int(fields[_STAT_SESSION]) == root}
    while more := {pid for pid, fields in stats.items() if int(fields[_STAT_PPID]) in found} - found:
        found |= more
    return {pid: int(stats[pid][_STAT_START]) for pid in found}


def end_left_over(processes: dict[int, int], grace_s: float) -> list[str]:
    """SIGKILL to those of `processes` (pid -> start time) that live on after `grace_s`; their pids and command lines."""
    deadline = time.monotonic() + grace_s
    while (left := [pid for pid, start in processes.items() if _lives(pid, start)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    said = []
    for pid in left:
        with suppress(OSError):
            said.append(f"{pid} {Path(f'/proc/{pid}/cmdline').read_text().replace(chr(0), ' ').strip()}")
            os.kill(pid, signal.SIGKILL)
    return said


def _lives(pid: int, start: int) -> bool:
    fields = _stat_fields(pid)
    return fields is not None and fields[_STAT_STATE] != "Z" and int(fields[_STAT_START]) == start


def cpu_ns(pid: int) -> int:
    """User and system time of a process and its threads, also those that ended; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0


def memory(pid: int) -> Memory:
    """Raises OSError when it is gone."""
    kinds = {"RssAnon:": 0, "RssFile:": 0, "RssShmem:": 0}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        words = line.split()
        if words and words[0] in kinds:
            kinds[words[0]] = int(words[1]) * 1024
    return Memory(kinds["RssAnon:"], kinds["RssFile:"], kinds["RssShmem:"], len(os.listdir(f"/proc/{pid}/fd")))


def memfd_bytes(pids: Iterable[int]) -> dict[str, int]:
    """Memory that each memfd held open by any of `pids` takes, by name and inode: one shared by all counts once."""
    held: dict[str, int] = {}
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = os.readlink(fd)
                if name.startswith("/memfd:"):
                    status = fd.stat()
                    held[f"{name.removesuffix(' (deleted)')}#{status.st_ino}"] = status.st_blocks * 512
            except OSError:
                continue
    return held


def machine_busy_s() -> float:
    """CPU seconds that this machine has spent on anything since boot (user to steal, without idle and iowait)."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """CPU of the tree below `root` since the last start(). A process born since counts in full; one that died cannot be read: say so."""

    def __init__(self, root: int) -> None:
        self._root = root
        self.start()

    def start(self) -> None:
        self._at_start = {pid: cpu_ns(pid) for pid in tree(self._root)}
        self._busy_s, self._start_s = machine_busy_s(), time.monotonic()

    def stop(self) -> CpuUse:
        now = {pid: cpu_ns(pid) for pid in tree(self._root)}
        elapsed_s = time.monotonic() - self._start_s
        by_pid = {pid: (ns - self._at_start.get(pid, 0)) / 1e9 for pid, ns in now.items()}
        return CpuUse(elapsed_s, by_pid, len(self._at_start.keys() - now.keys()), machine_busy_s() - self._busy_s)


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU seconds per process over `elapsed_s`; `died` processes are missing in it; `machine_s` is what the whole machine used."""

    elapsed_s: float
    by_pid: dict[int, float]
    died: int
    machine_s: float

    @property
    def cpu_s(self) -> float:
        return sum(self.by_pid.values())

    def others_cores(self, load_generator_s: float) -> float:
        """Cores that neither the server nor our load generator kept busy: other people's, and the kernel's own threads."""
        return round((self.machine_s - self.cpu_s - load_generator_s) / self.elapsed_s, 3)

    def ms_per_s_per_1000(self, listeners: int) -> float:
        """The unit of the budgets: ms of CPU per second and 1,000 listeners."""
        return self.cpu_s * 1000 / self.elapsed_s / (listeners / 1000)
