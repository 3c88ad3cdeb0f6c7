"""House rules that a reader would check line by line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.rules.sources import PACKAGE, ROOT, modules

LINES_MAX = 450
"""Files are mostly under 300 lines of code; above this one has two subjects."""
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc", "shared", "base", "core"}
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|raise NotImplemented" + r"Error\b")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:wo" + r"rk|ho" + r"me|ro" + r"ot|Us" + r"ers)/\w")
TEXT_SUFFIXES = {".py", ".toml", ".md", ".html", ".c", ".service", ".socket", ".cfg", ".sh", ""}
SHIPPED = ("appliance", "tests", "docs", "etc", "debian", "systemd", ".ci")


def texts(*folders: str) -> list[Path]:
    """The text files below these folders, and those of the top folder."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if "__pycache__" not in path.parts]
    found += [path for path in sorted(ROOT.iterdir()) if path.name not in (".git", ".gitignore")]
    return [path for path in found if path.is_file() and path.suffix in TEXT_SUFFIXES]


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_path_of_a_developers_machine() -> None:
    """What works only here does not work."""
    assert lines_with(MACHINE_PATH, texts(*SHIPPED)) == []


def test_nothing_is_left_for_later() -> None:
    assert lines_with(UNFINISHED, [path for path in texts("appliance") if PACKAGE in path.parents]) == []


def test_no_file_has_two_subjects() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules().values()}
    assert {name: size for name, size in sizes.items() if size > LINES_MAX} == {}


def test_modules_are_named_for_what_they_hold() -> None:
    """A nameless drawer gathers everything."""
    assert [name for name in modules() if set(name.split(".")) & EMPTY_NAMES] == []


def test_every_module_says_why_it_is_there() -> None:
    """The file head: one line, or more where there is an invariant."""
    missing = [name for name, path in modules().items() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert missing == []
