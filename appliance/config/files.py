"""Reading files: the configuration's text (TOML or JSON) and secrets that are kept in files of their own."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from appliance.config import kinds
from appliance.config.convert import Said, T, Tree
from appliance.config.model import Settings
from appliance.config.problems import Problems, join

FILE_MAX_BYTES: Final = 4 * 1024 * 1024
"""A thousand streams need a tenth of it; anything larger is not a configuration."""
SECRET_MAX_BYTES: Final = 4096
"""A password; a larger file was named by mistake."""


def read_tree(path: Path, problems: Problems) -> tuple[Tree, bool]:
    """(the file's content, whether it is JSON); an error gives an empty tree. JSON by suffix or by a first `{`."""
    text = _read(path, FILE_MAX_BYTES, str(path), problems)
    if text is None:
        return {}, False
    is_json = path.suffix.lower() == ".json" or text.lstrip()[:1] == "{"
    try:
        tree = json.loads(text, object_pairs_hook=_no_twice) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        problems.error(str(path), f"is no valid {'JSON' if is_json else 'TOML'}: {reason}")
        return {}, is_json
    if not isinstance(tree, dict):
        problems.error(str(path), 'is no configuration; allowed: a JSON object, {"port": 8001, ...}')
        return {}, is_json
    return tree, is_json


def fill_secrets(settings: T, tree: Tree, path: str, problems: Problems) -> T:
    """`settings` with each NAME_file read into NAME, its tables and lists too. Relative paths were made absolute by absolute_files()."""
    changed: dict[str, Any] = {}
    for field in structs.fields(type(settings)):
        value, full = getattr(settings, field.name), join(path, field.encode_name)
        inner = tree.get(field.encode_name)
        if isinstance(value, Settings) and isinstance(inner, dict):
            changed[field.name] = fill_secrets(value, inner, full, problems)
        elif isinstance(value, dict) and isinstance(inner, dict):
            changed[field.name] = {name: fill_secrets(entry, inner[name], join(full, name), problems) for name, entry in value.items()}
        elif kinds.is_secret(field.type) and (file := getattr(settings, f"{field.name}_file")) is not None:
            changed[field.name] = type(value)(_secret(file, value.reveal(), full, problems))
    return structs.replace(settings, **changed)


def absolute_files(table: type[Settings], tree: Tree, base: Path) -> None:
    """Make each relative NAME_file in `tree` one beside the configuration file, in `base`."""
    for field in structs.fields(table):
        given = tree.get(field.encode_name)
        inner, entry = kinds.table_of(field.type), kinds.entry_of(field.type)
        if inner and isinstance(given, dict):
            absolute_files(inner, given, base)
        elif entry and isinstance(given, dict):
            for one in given.values():
                if isinstance(one, dict):
                    absolute_files(entry, one, base)
        elif field.encode_name.endswith("_file") and isinstance(given, str) and given:
            tree[field.encode_name] = str(base / given)
        elif field.encode_name.endswith("_file") and isinstance(given, Said) and given.text:
            tree[field.encode_name] = str(base / given.text)


def _secret(file: Path, beside: str, path: str, problems: Problems) -> str:
    full = f"{path}_file"
    if beside:
        problems.error(full, f"given beside {path}; allowed: one of the two")
        return ""
    text = _read(file, SECRET_MAX_BYTES, full, problems)
    if text is None:
        return ""
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or not text.isprintable():
        problems.error(full, f"{file} {'has more than one line' if text else 'is empty'}; allowed: a file with one line, the secret")
        return ""
    if _readable_by_all(file):
        problems.warn(full, f"{file} can be read by every user of this machine; chmod 640 it")
    return text


def _read(path: Path, limit_bytes: int, where: str, problems: Problems) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        problems.error(where, f"cannot read {path}: {error.strerror or error}; allowed: a file that we may read")
        return None
    if len(data) > limit_bytes:
        problems.error(where, f"{path} is too large; allowed: {limit_bytes} bytes")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.error(where, f"{path} is not UTF-8 (byte {error.start}); allowed: text in UTF-8")
        return None


def _readable_by_all(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH)


def _no_twice(pairs: list[tuple[str, Any]]) -> Tree:
    tree: Tree = {}
    for name, value in pairs:
        if name in tree:
            raise ValueError(f"the key {name[:80]!r} is given twice")
        tree[name] = value
    return tree
