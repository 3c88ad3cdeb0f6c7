"""A tree of plain values -> Config, with every error on the way: msgspec.convert alone would stop at the first."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec import structs
from msgspec.structs import FieldInfo

from appliance.config import kinds, suggest
from appliance.config.model import Settings
from appliance.config.problems import Problems, join, shown
from appliance.config.secret import Secret

T = TypeVar("T", bound=Settings)
Tree = dict[str, Any]

KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PLAYLIST_ENDINGS: Final = (".pls", ".m3u", ".m3u8", ".json")
OWN_NAMES: Final = frozenset({"admin", "sg", "api", "index.html", "health", "metrics"})
OWN_FILES: Final = frozenset({"crossdomain.xml", "status-json.xsl", "admin.cgi", "7.html"})
"""Paths that the server answers itself for players, encoders and monitors: a stream of that name could not be reached."""
OWN_LIST: Final = ", ".join(sorted(OWN_NAMES | OWN_FILES))
KEY_ALLOWED: Final = (
    f"1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, not ending in {' '.join(PLAYLIST_ENDINGS)}, and none of {OWN_LIST}"
)
BOOLS: Final = {"1": True, "yes": True, "on": True, "true": True, "0": False, "no": False, "off": False, "false": False}
"""What an environment variable may say for true and false."""
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BAD: Final = object()


class Said(NamedTuple):
    """A value that came as text (environment, --set, a number in a JSON string), read by the type of its key.

    `quoted`: a text key's value may be in TOML quotes.
    """

    text: str
    quoted: bool = False


def key_fault(name: str) -> str:
    """Why `name` cannot be a KEY of streams or sources; "" when it can."""
    if not KEY_PATTERN.fullmatch(name):
        return "not a usable name"
    if name.lower().endswith(PLAYLIST_ENDINGS):
        return "ends as playlists and reports do"
    return "a name that the server needs itself" if name in OWN_NAMES | OWN_FILES else ""


def build(table: type[T], tree: Tree, path: str, problems: Problems) -> T:
    """The struct of `tree`; a key with an error has its default in it."""
    known = {field.encode_name: field for field in structs.fields(table)}
    for name in tree:
        if name not in known:
            problems.error(join(path, name), suggest.unknown_key(path, name, table))
    values: dict[str, Any] = {}
    for name, field in known.items():
        full = join(path, name)
        if name in tree:
            value = _value(field, tree[name], full, problems)
            if value is not _BAD:
                values[field.name] = value
        elif field.required:
            problems.error(full, f"missing; allowed: {kinds.allowed(field.type)}")
        if field.required and field.name not in values:
            values[field.name] = ""
    return table(**values)


def _value(field: FieldInfo, given: Any, path: str, problems: Problems) -> Any:
    inner, entry, item = kinds.table_of(field.type), kinds.entry_of(field.type), kinds.item_of(field.type)
    if inner or entry:
        if isinstance(given, dict):
            return build(inner, given, path, problems) if inner else _entries(entry, given, path, problems)
    elif item:
        given = _parsed(given.text) if isinstance(given, Said) else given
        if isinstance(given, list) and all(isinstance(one, dict) for one in given):
            return tuple(build(item, one, f"{path}[{index}]", problems) for index, one in enumerate(given))
    else:
        return _leaf(field.type, given, path, problems)
    return _refuse(field.type, given, path, problems)


def _entries(entry: type[Settings] | None, given: Tree, path: str, problems: Problems) -> dict[str, Settings]:
    assert entry is not None  # noqa: S101  (the caller asked kinds.entry_of)
    found = {}
    for name, tree in given.items():
        full = join(path, name)
        if fault := key_fault(name):
            problems.error(full, f"{fault}; allowed: {KEY_ALLOWED}")
        if isinstance(tree, dict):
            found[name] = build(entry, tree, full, problems)
        else:
            problems.error(full, f"{shown(_plain(tree))} is not allowed; allowed: a table")
    return found


def _leaf(annotation: Any, given: Any, path: str, problems: Problems) -> Any:
    value = _read(annotation, given)
    if _has_controls(value):
        if not (kinds.is_text(annotation) or kinds.is_list(annotation)):
            return _refuse(annotation, given, path, problems)
        problems.error(path, "has control characters; allowed: printable text")
        return _BAD
    if value == "" and kinds.bare(annotation)[0] is Path and kinds.bare(annotation)[2]:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return _refuse(annotation, given, path, problems)
    try:
        return msgspec.convert(value, annotation, dec_hook=_custom)
    except msgspec.ValidationError:
        return _refuse(annotation, given, path, problems)


def _read(annotation: Any, given: Any) -> Any:
    """The value that was meant: text as it is for text keys, parsed for others; TOML's dates and times are text here."""
    if isinstance(given, Said):
        given = _said(annotation, given)
    if isinstance(given, datetime.date | datetime.time):
        return given.isoformat()
    if isinstance(given, list):
        return [_read(annotation, one) if isinstance(one, Said | datetime.date | datetime.time) else one for one in given]
    return given


def _said(annotation: Any, said: Said) -> Any:
    if kinds.bare(annotation)[0] is bool and said.text.strip().lower() in BOOLS:
        return BOOLS[said.text.strip().lower()]
    value = _parsed(said.text)
    if not kinds.is_text(annotation):
        return value
    if (isinstance(value, str) and said.quoted) or (isinstance(value, list) and kinds.is_list(annotation)):
        return value
    return said.text


def _parsed(text: str) -> Any:
    """`text` as a TOML value, else as it is."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if tree.keys() == {"value"} else text


def _custom(kind: type, value: Any) -> Any:
    """msgspec's hook for the types it does not know; ValueError becomes its ValidationError."""
    if not isinstance(value, str):
        raise ValueError
    if kind is Path:
        if not value.startswith("/"):
            raise ValueError
        return Path(value)
    if issubclass(kind, Secret):
        return kind(value)
    raise ValueError


def _has_controls(value: Any) -> bool:
    """Control characters would break a log line, a header or an ICY block; lone surrogates cannot be sent at all."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and _UNPRINTABLE.search(text) for text in texts)


def _refuse(annotation: Any, given: Any, path: str, problems: Problems) -> Any:
    kind = kinds.bare(annotation)[0]
    if isinstance(kind, type) and issubclass(kind, Secret):
        what = "the value (not shown) is not allowed" if kind is Secret else "not a URL"
    elif kind is Path and isinstance(_plain(given), str):
        what = f"{shown(_plain(given))} is not absolute"
    else:
        what = f"{_short(annotation, given)} is not allowed"
    problems.error(path, f"{what}; allowed: {kinds.allowed(annotation)}")
    return _BAD


def _short(annotation: Any, given: Any) -> str:
    """What was given, the wrong item of a list when only that is wrong."""
    value = _read(annotation, given)
    kind = kinds.bare(annotation)[0]
    if isinstance(value, list) and get_origin(kind) is tuple:
        wrong = next((one for one in value if not _fits(one, get_args(kind)[0])), value)
        return f"{shown(wrong)} in the list" if wrong is not value else shown(value)
    return shown(value)


def _fits(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation, dec_hook=_custom)
    except msgspec.ValidationError:
        return False
    return True


def _plain(given: Any) -> Any:
    return given.text if isinstance(given, Said) else given
