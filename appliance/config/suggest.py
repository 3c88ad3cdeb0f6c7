"""The nearest known key to one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from msgspec import structs

from appliance.config import kinds
from appliance.config.model import Config, Settings

OLD_NAMES: Final = {
    "cluster": "workers",
    "tz": "timezone",
    "listen": "bind",
    "host": "bind",
    "metadata": "meta_title",
    "password": "source_password",
    "source_password": "password",
}
"""What people of StreamMachine 0.7.1 or Icecast look for, and what is called otherwise in the table beside, where it is meant."""
NEAR_ENOUGH: Final = 0.6
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def snake_case(name: str) -> str:
    """`metaTitle`, `Meta-Title` -> `meta_title`."""
    return _HUMP.sub("_", name).replace("-", "_").lower()


def nearest(name: str, known: Iterable[str]) -> str:
    """The known key most like `name`, or "" when none is like it."""
    return close(snake_case(name), known)


def close(name: str, known: Iterable[str]) -> str:
    """The known name most like `name`, spelt as it is, or ""."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=NEAR_ENOUGH)
    return found[0] if found else ""


def unknown_key(path: str, name: str, table: type[Settings]) -> str:
    """The message for a key that `table`, the table at `path`, does not have."""
    names = [field.encode_name for field in structs.fields(table)]
    paths = dict(_all_keys())
    if OLD_NAMES.get(name) in names:
        return f"no such key; did you mean {OLD_NAMES[name]}?"
    elsewhere = paths.get(snake_case(name), "") if snake_case(name) not in names else ""
    if not elsewhere and (here := nearest(name, names)):
        return f"no such key; did you mean {here}?"
    if elsewhere := elsewhere or paths.get(nearest(name, paths), ""):
        return f"no such key here; did you mean {elsewhere}?"
    return f"no such key; known in {path or 'the top table'}: {', '.join(names)}"


@cache
def _all_keys() -> tuple[tuple[str, str], ...]:
    """(name, full path), the outermost table that has a name coming last so that it wins in a dict."""
    return tuple(reversed([(field.encode_name, path) for path, field in kinds.every_key(Config)]))
