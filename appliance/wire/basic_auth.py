"""HTTP Basic credentials (RFC 7617), as encoders send them."""

import binascii
import re

_credentials = re.compile(r"basic +([A-Za-z0-9+/]+)={0,2} *", re.I | re.A).fullmatch
_line_breakers = re.compile("[\x00-\x1f\x7f]+")


def parse_basic(header: str | None) -> tuple[str, str] | None:
    """(user, password) of an Authorization header, or None when there are none to be read in it.

    UTF-8, else Latin-1. Only the first ":" divides, so a password may contain more. Missing "=" padding is forgiven.
    """
    parts = _credentials(header or "")
    if parts is None:
        return None
    digits = parts[1]
    try:
        raw = binascii.a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error:
        return None
    user, colon, password = _text(raw).partition(":")
    return (user, password) if colon else None


def challenge(realm: str) -> str:
    """The value of WWW-Authenticate; quotes and backslashes in `realm` are escaped, line breaks become spaces."""
    quoted = _line_breakers.sub(" ", realm).replace("\\", "\\\\").replace('"', '\\"')
    return f'Basic realm="{quoted}"'


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
