"""The source files as the rules read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "appliance"


class Import(NamedTuple):
    """`target`: dotted name of what is imported; `lazy`: inside a function; `typing`: under `if TYPE_CHECKING`."""

    target: str
    line: int
    lazy: bool
    typing: bool


def modules() -> dict[str, Path]:
    """Every module of the package by dotted name; a package by its own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, name: str) -> Iterator[Import]:
    """Every import in a file, with relative ones made absolute."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    yield from _imports(ast.parse(path.read_text(), str(path)), package, lazy=False, typing=False)


def _imports(node: ast.AST, package: str, *, lazy: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base(child, package)
            yield from (Import(f"{base}.{alias.name}" if alias.name != "*" else base, child.lineno, lazy, typing) for alias in child.names)
        else:
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, package, lazy=inside, typing=typing or _is_type_checking(child))


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
