"""What is wrong with a configuration: collected, never only the first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
ERRORS_MAX: Final = 100
"""A file of another kind gives thousands; the first hundred say so."""


class ConfigError(NamedTuple):
    """`path`: the key, file or variable; `message`: what is wrong, what is allowed."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigInvalid(Exception):
    """The configuration cannot be used; `errors` has every reason, in the order they were found."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = list(errors)


class Problems:
    """Errors and warnings of one load."""

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []
        self.warnings: list[str] = []
        self._bad: set[str] = set()

    def error(self, path: str, message: str) -> None:
        """The configuration cannot be used, because of the key at `path`."""
        self._bad.add(path)
        if len(self.errors) < ERRORS_MAX:
            self.errors.append(ConfigError(one_line(path), one_line(message)))

    def warn(self, path: str, message: str) -> None:
        """It can be used, but the operator should know."""
        self.warnings.append(one_line(f"{path}: {message}"))

    def is_bad(self, *paths: str) -> bool:
        """Whether any of these keys has an error already: then its value here is only the default."""
        return any(path in self._bad for path in paths)


def join(path: str, name: str) -> str:
    """`path.name`, quoted as TOML does when the name is no bare key."""
    shown = name if _BARE.fullmatch(name) else '"' + name[:80] + '"'
    return f"{path}.{shown}" if path else shown


def one_line(text: str) -> str:
    """What a terminal or log can take: a name or value from outside may hold anything."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def shown(value: object) -> str:
    """A value for a message: short, on one line, in TOML's words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    text = one_line(text)
    return text if len(text) <= 60 else text[:57] + "..."
