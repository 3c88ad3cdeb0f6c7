"""Values that must never reach a log: passwords, and URLs that may carry one."""

from __future__ import annotations

import hmac
import re
from typing import Final

HIDDEN: Final = "***"
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s]*@")
_PERHAPS_USERINFO: Final = re.compile(r"(?<=://).*@", re.DOTALL)
"""For printing: a password may hold characters that it should not, so all before the last @ is hidden."""


class Secret:
    """A password. `reveal()` gives it; str, repr and format never do, and msgspec and json refuse to encode it.

    False when empty: an empty secret means "none set" and must open nothing.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself, for the one comparison or login that needs it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Constant time in the content, as compare_digest is."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})" if self._value else "Secret('')"

    def __str__(self) -> str:
        return HIDDEN if self._value else ""


class PrivateUrl(Secret):
    """A URL whose user and password part is hidden in str and repr (`redis://***@host/0`)."""

    __slots__ = ()

    def has_password(self) -> bool:
        """Whether there is a user or password in it."""
        return _USERINFO.search(self._value) is not None

    def __repr__(self) -> str:
        return f"PrivateUrl({str(self)!r})"

    def __str__(self) -> str:
        return _PERHAPS_USERINFO.sub(HIDDEN + "@", self._value)
