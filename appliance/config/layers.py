"""What is laid over the file: environment variables, then --set. Both name one key each, in their own spelling."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import structs

from appliance.config import kinds, suggest
from appliance.config.convert import Said, Tree
from appliance.config.model import Config, Settings
from appliance.config.problems import Problems, join
from appliance.config.secret import PrivateUrl

PREFIX: Final = "STREAMMACHINE_"
BETWEEN: Final = "__"
NOT_KEYS: Final = frozenset({"CONFIG", "SOURCE_PASSWORD"})
"""STREAMMACHINE_CONFIG names the file; STREAMMACHINE_SOURCE_PASSWORD belongs to `streammachine source`."""
BEHIND_PROXY: Final = "behind_proxy"
"""A key of StreamMachine 0.7.1 that every layer still accepts (INTERFACES); legacy.py turns it into `trusted_proxies`."""


class UnknownKey(Exception):
    """No such key: `path` is the table, `name` what is not in it."""

    def __init__(self, path: str, name: str, table: type[Settings] | None) -> None:
        super().__init__(name)
        self.path, self.name, self.table = path, name, table

    def message(self) -> str:
        """What to say."""
        return suggest.unknown_key(self.path, self.name, self.table) if self.table else f"{self.path} has no keys below it"


class Target(NamedTuple):
    """A key that was found: its names from the top, and its annotation."""

    names: tuple[str, ...]
    annotation: Any


def find(parts: Sequence[str], tree: Tree, any_case: bool) -> Target:
    """The key that `parts` name; KEYs of streams and sources are matched with those in `tree` first. Raises UnknownKey.

    A KEY may hold the separator itself ("my.stream"), so the longest run of parts that is a known KEY wins.
    """
    annotation: Any = Config
    names: tuple[str, ...] = ()
    rest = list(parts)
    while rest:
        path = ".".join(names)
        table, entry = kinds.table_of(annotation), kinds.entry_of(annotation)
        if entry:
            name, used = _entry_name(rest, _at(tree, names), any_case)
            annotation = entry
        elif table:
            name, annotation = _field(rest[0], table, path, any_case)
            used = 1
        else:
            raise UnknownKey(path, rest[0], None)
        names, rest = (*names, name), rest[used:]
    return Target(names, annotation)


def from_environment(environ: Mapping[str, str], tree: Tree, problems: Problems) -> None:
    """Lay every STREAMMACHINE_ variable over `tree`."""
    seen: dict[tuple[str, ...], str] = {}
    for variable in sorted(variables(environ)):
        try:
            target = find(variable[len(PREFIX) :].split(BETWEEN), tree, any_case=True)
        except UnknownKey as unknown:
            problems.error(variable, _as_variable(unknown))
            continue
        if target.names in seen:
            problems.error(variable, f"the same key as {seen[target.names]}; allowed: one of the two")
            continue
        seen[target.names] = variable
        _lay(tree, target, Said(environ[variable]))


def from_sets(sets: Sequence[str], tree: Tree, problems: Problems) -> None:
    """Lay each `a.b.c=VALUE` over `tree`. Secrets are refused: a command line can be read by every user of the machine."""
    for text in sets:
        name, equals, value = text.partition("=")
        name = name.strip()
        parts = _toml_key(name)
        if not equals or parts is None:
            problems.error("--set", f"{_printable(name) if equals else 'no = in it'}; allowed: a.b.c=VALUE")
            continue
        try:
            for target, said in _leaves(find(parts, tree, any_case=False), Said(value, quoted=True), tree):
                if not _refused(target, said, problems):
                    _lay(tree, target, said)
        except UnknownKey as unknown:
            problems.error(f"--set {_printable(name)}", unknown.message())


def variables(environ: Mapping[str, str]) -> Iterator[str]:
    """The names of the variables that are configuration keys, in any case."""
    for name in environ:
        if name.upper().startswith(PREFIX) and name.upper()[len(PREFIX) :] not in NOT_KEYS:
            yield name


def _field(part: str, table: type[Settings], path: str, any_case: bool) -> tuple[str, Any]:
    wanted = part.lower() if any_case else part
    if table is Config and wanted == BEHIND_PROXY:
        return BEHIND_PROXY, bool
    for field in structs.fields(table):
        if field.encode_name == wanted:
            return wanted, field.type
    raise UnknownKey(path, wanted, table)


def _entry_name(rest: Sequence[str], known: Tree, any_case: bool) -> tuple[str, int]:
    """(the KEY, how many of `rest` it is made of)."""
    if not any_case:
        for used in range(len(rest), 0, -1):
            if ".".join(rest[:used]) in known:
                return ".".join(rest[:used]), used
        return rest[0], 1
    by_variable = {_folded(name): name for name in reversed(known)}
    for used in range(len(rest), 0, -1):
        joined = BETWEEN.join(rest[:used])
        if joined in known:
            return joined, used
        if _folded(joined) in by_variable:
            return by_variable[_folded(joined)], used
    return rest[0].lower(), 1


def _folded(name: str) -> str:
    """A KEY as a variable's name can spell it: shells allow no `-` and no `.` there."""
    return re.sub(r"[.-]", "_", name).upper()


def _at(tree: Tree, names: Sequence[str]) -> Tree:
    found: Any = tree
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _lay(tree: Tree, target: Target, said: Said) -> None:
    *tables, last = target.names
    for name in tables:
        inner = tree.get(name)
        tree[name] = tree = inner if isinstance(inner, dict) else {}
    if last in tree and isinstance(tree[last], dict) and said.text.strip() == "{}":
        return
    tree.pop(last.removesuffix("_file") if last.endswith("_file") else f"{last}_file", None)
    tree[last] = {} if said.text.strip() == "{}" and _is_table(target.annotation) else said


def _leaves(target: Target, said: Said, tree: Tree) -> Iterator[tuple[Target, Said]]:
    """The keys that one --set sets: an inline table sets each key in it."""
    if not _is_table(target.annotation) or not said.text.strip().startswith("{"):
        yield target, said
        return
    try:
        inner = tomllib.loads(f"value = {said.text}")
    except (ValueError, RecursionError):
        inner = {}
    table = inner.get("value") if inner.keys() == {"value"} else None
    if not table:
        yield target, said
        return
    for names, value in _flat(table, target.names):
        yield find(names, tree, any_case=False), Said(_toml(value), quoted=True)


def _flat(table: Tree, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, (*names, name))
        else:
            yield (*names, name), value


def _toml(value: Any) -> str:
    """A parsed value as text again; JSON's strings, numbers and lists are TOML's."""
    import json

    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "[" + ", ".join(_inline(one) if isinstance(one, dict) else _toml(one) for one in value) + "]"
    return json.dumps(value, default=str, ensure_ascii=False)


def _inline(table: Tree) -> str:
    return "{" + ", ".join(f"{_toml(name)} = {_toml(value)}" for name, value in table.items()) + "}"


def _is_table(annotation: Any) -> bool:
    return bool(kinds.table_of(annotation) or kinds.entry_of(annotation))


def _toml_key(name: str) -> list[str] | None:
    """The parts of a dotted TOML key (`streams."my.stream".seconds`), None when it is none."""
    try:
        tree: Any = tomllib.loads(f"{name} = 0")
    except (ValueError, RecursionError):
        return None
    parts = []
    while isinstance(tree, dict) and len(tree) == 1:
        part, tree = next(iter(tree.items()))
        parts.append(part)
    return parts if tree == 0 else None


def _refused(target: Target, said: Said, problems: Problems) -> bool:
    if not _is_private(target, said):
        return False
    path = ""
    for name in target.names:
        path = join(path, name)
    variable = PREFIX + BETWEEN.join(_folded(name) for name in target.names)
    file = f"{path}_file, " if kinds.is_secret(target.annotation) else ""
    problems.error(path, f"a secret is not taken from the command line; allowed: the file, {file}the environment ({variable})")
    return True


def _is_private(target: Target, said: Said) -> bool:
    if kinds.is_secret(target.annotation):
        return True
    return kinds.bare(target.annotation)[0] is PrivateUrl and PrivateUrl(said.text).has_password()


def _as_variable(unknown: UnknownKey) -> str:
    """The message with the suggestion spelt as a variable."""
    message = unknown.message()
    head, marker, name = message.partition("did you mean ")
    if not marker:
        return message
    name = name.removesuffix("?")
    full = name if "here" in head or not unknown.path else f"{unknown.path}.{name}"
    return f"{head}{marker}{PREFIX}{BETWEEN.join(part.upper() for part in full.split('.'))}?"


def _printable(text: str) -> str:
    """A key for a message; nothing of a value that was put where a key should be."""
    found = re.match(r"[\w.\"-]{0,80}", text)
    return found[0] if found else ""
