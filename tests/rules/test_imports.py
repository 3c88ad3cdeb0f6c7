"""STYLE's import order, read from the sources: nothing up, sideways or in a circle, and each role loads only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.sources import ROOT, Import, imports_of, modules

LEVELS = (
    {"wire", "config"},
    {"ring", "system", "channel"},
    {"ingest", "control", "clients", "analytics", "alerts", "cluster"},
    {"worker", "supervisor"},
)
"""Low to high. A folder imports from lower levels and itself; modules of the top folder (cli, __main__) from all."""
ADMIN_LIBRARIES = {"aiohttp", "jinja2", "prometheus_client", "redis", "argon2", "defusedxml"}
"""Only the supervisor's control, analytics and alerts load these, when they start."""
WITHOUT_ADMIN = {"worker", "ring", "system", "channel", "wire", "config", "ingest"}
NOT_SANS_IO = {
    *("socket", "asyncio", "os", "time", "logging", "select", "selectors", "ssl", "threading", "subprocess", "signal", "pathlib"),
    *("multiprocessing", "urllib.request", "http.client", "mmap", "random", "secrets"),
}
SILENT = {"wire", "ring", "config", "channel"}
"""Libraries raise, programs log."""

MODULES = modules()
IMPORTS = {name: list(imports_of(path, name)) for name, path in MODULES.items()}


def folder_of(module: str) -> str:
    """`appliance.ring.writer` -> "ring"; "" for a module of the top folder."""
    parts = module.split(".")
    is_folder = len(parts) > 2 or (len(parts) == 2 and MODULES.get(module, Path()).name == "__init__.py")
    return parts[1] if is_folder else ""


def own(target: str) -> str | None:
    """The module of ours that an import loads: `appliance.ring.writer.RingWriter` -> `appliance.ring.writer`."""
    while target and target not in MODULES:
        target = target.rpartition(".")[0]
    return target or None


def level_of(folder: str) -> int:
    return next((index for index, level in enumerate(LEVELS) if folder in level), len(LEVELS))


def where(module: str, found: Import) -> str:
    return f"{MODULES[module].relative_to(ROOT)}:{found.line} imports {found.target}"


def test_every_folder_has_its_level() -> None:
    """A new folder is put into LEVELS, not past them."""
    folders = {folder_of(name) for name in MODULES} - {""}
    assert folders <= set().union(*LEVELS)


def test_no_import_points_up_or_sideways() -> None:
    wrong = []
    for module, imports in IMPORTS.items():
        here = folder_of(module)
        for found in imports:
            target = own(found.target)
            if target in (None, "appliance"):
                continue
            there = folder_of(target or "")
            if there != here and level_of(there) >= level_of(here):
                wrong.append(where(module, found))
    assert wrong == []


def test_worker_and_supervisor_meet_only_in_channel_and_ring() -> None:
    wrong = []
    for module, imports in IMPORTS.items():
        other = {"worker": "appliance.supervisor", "supervisor": "appliance.worker"}.get(folder_of(module))
        wrong += [where(module, found) for found in imports if other and (own(found.target) or "").startswith(other)]
    assert wrong == []


def test_no_import_goes_in_a_circle() -> None:
    """Imports inside functions count: a circle that only works by luck of the order is one."""
    graph = {module: {own(found.target) for found in imports if not found.typing} - {None, module} for module, imports in IMPORTS.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in sorted(name for name in graph[module] if name):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_wire_is_sans_io() -> None:
    """Standard library without anything that reads, waits or tells the time; msgspec; itself."""
    wrong = []
    for module, imports in IMPORTS.items():
        for found in imports if folder_of(module) == "wire" else []:
            top = found.target.partition(".")[0]
            refused = any(found.target == name or found.target.startswith(name + ".") for name in NOT_SANS_IO)
            if refused or (top not in sys.stdlib_module_names and top not in ("msgspec", "appliance", "__future__")):
                wrong.append(where(module, found))
    assert wrong == []


def test_libraries_do_not_log() -> None:
    wrong = []
    for module, imports in IMPORTS.items():
        names = [found for found in imports if found.target.partition(".")[0] in ("logging", "structlog", "warnings")]
        wrong += [where(module, found) for found in names if folder_of(module) in SILENT]
    assert wrong == []


def test_admin_libraries_stay_where_they_belong() -> None:
    """Not in worker, ring, system, channel, wire, config, ingest at all; nowhere else below `control`'s level at import time."""
    wrong = []
    for module, imports in IMPORTS.items():
        for found in imports:
            if found.target.partition(".")[0] not in ADMIN_LIBRARIES:
                continue
            folder = folder_of(module)
            if folder in WITHOUT_ADMIN or (folder == "" and not found.lazy and not found.typing):
                wrong.append(where(module, found))
    assert wrong == []


@pytest.mark.parametrize("module", ["appliance.__main__", "appliance.cli", "appliance.worker.main", "appliance.config.load"])
def test_really_importing_it_loads_no_admin_library(module: str) -> None:
    """The same by experiment, with all that comes along."""
    code = f"import sys, {module}; print(sorted({ADMIN_LIBRARIES!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
