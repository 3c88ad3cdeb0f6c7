"""User memory per listener over all our processes, a worker before its listeners, and how many copies of the audio there are."""

from __future__ import annotations

from typing import Any, Final

from tests.bench.audience import Audience, Options
from tests.bench.encoder import BYTES_PER_S
from tests.bench.processes import Memory, memfd_bytes, memory, tree
from tests.bench.report import Budget, Report, Row
from tests.bench.servers import StreamMachine

NAME: Final = "memory"
PER_LISTENER_BUDGET: Final = Budget(3.0)
WORKER_BUDGET: Final = Budget(45.0)
KIB: Final = 1024
MB: Final = 1_000_000
PREFILL_S: Final = 600.0
"""Ten minutes of audio are 9.6 MB: a second copy could not hide."""
WORKER_SHARE: Final = 20
"""A process with more than a twentieth of the listeners' sockets serves them."""
SUPERVISOR_SHARE: Final = 0.9
"""Of all listeners: no worker has so many; the supervisor holds a duplicate of each."""
AUDIO_SHARE: Final = 0.5
"""A memfd of at least half the audio's size is a copy of it; tables and counters are smaller."""


def run(options: Options, report: Report) -> None:
    with options.under_test(prefill_s=PREFILL_S) as server:
        supervisor = server.child.pid
        before = _memories(supervisor)
        with Audience(server, options.listeners) as audience:
            audience.pause(options.settle_s)
            after = _memories(supervisor)
            memfds = memfd_bytes(after)
            window = audience.window(0, 1.0)
        name = server.name
    details = {"before": before, "after": after, "memfds": memfds, "supervisor": supervisor}
    faults = window.faults(options.listeners, 1.0)[:1] if window.playing != options.listeners else ()
    grown_bytes = sum(max(0, now.anon_bytes - _anon_bytes(before, pid)) for pid, now in after.items())  # who shrank hides no growth
    what = f"{name}: RssAnon per listener, {options.listeners} on"
    report.add(Row(NAME, what, grown_bytes / options.listeners / KIB, "KiB", budget=PER_LISTENER_BUDGET, faults=faults, details=details))
    _idle_rows(report, name, before, _workers(before, after, supervisor, options.listeners), supervisor)
    if name == StreamMachine.name:
        _copies_row(report, memfds)


def _memories(supervisor: int) -> dict[int, Memory]:
    found: dict[int, Memory] = {}
    for pid in tree(supervisor):
        try:
            found[pid] = memory(pid)
        except OSError:
            continue
    return found


def _anon_bytes(memories: dict[int, Memory], pid: int) -> int:
    return memories[pid].anon_bytes if pid in memories else 0


def _workers(before: dict[int, Memory], after: dict[int, Memory], supervisor: int, listeners: int) -> list[int]:
    """Those whose open descriptors grew with the listeners, without the supervisor, which keeps duplicates: it has all of them."""
    grown = {pid: now.fds - before[pid].fds for pid, now in after.items() if pid in before and pid != supervisor}
    grown = {pid: fds for pid, fds in grown.items() if fds < listeners * SUPERVISOR_SHARE}
    return sorted(pid for pid, fds in grown.items() if fds > listeners / WORKER_SHARE)


def _idle_rows(report: Report, name: str, before: dict[int, Memory], workers: list[int], supervisor: int) -> None:
    def mb(pid: int) -> float:
        return (before[pid].anon_bytes + before[pid].file_bytes) / MB

    if workers:
        largest = max(workers, key=mb)
        faces: dict[str, Any] = {str(pid): before[pid] for pid in workers}
        what = f"{name}: largest of {len(workers)} workers, idle"
        report.add(Row(NAME, what, mb(largest), "MB", budget=WORKER_BUDGET, details=faces))
    elif name == StreamMachine.name:
        report.fail(NAME, "no process of the server took listeners, so none could be weighed")
    report.add(Row(NAME, f"{name}: first process, idle", mb(supervisor), "MB"))
    rest = [mb(pid) for pid in before if pid != supervisor and pid not in workers]
    if rest:
        report.add(Row(NAME, f"{name}: {len(rest)} other processes, idle", sum(rest), "MB"))


def _copies_row(report: Report, memfds: dict[str, int]) -> None:
    """The ring is there once; processes that map it share its pages."""
    audio_bytes = PREFILL_S * BYTES_PER_S
    copies = {name: size for name, size in memfds.items() if size >= audio_bytes * AUDIO_SHARE}
    what = f"copies of {audio_bytes / MB:.1f} MB audio in shared memory"
    report.add(Row(NAME, what, len(copies), "copies", budget=Budget(1), details=copies))
    report.add(Row(NAME, "shared memory, all kinds", sum(memfds.values()) / MB, "MB"))
