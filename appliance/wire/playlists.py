"""Playlist files that point a player at a stream. The address may hold what a client sent; it can never add a line."""

import re
from typing import Final
from urllib.parse import quote

PLS_MIME: Final = "audio/x-scpls"
M3U_MIME: Final = "audio/x-mpegurl"

_URL_CHARS: Final = "%/:?#[]@!$&'()*+,;=~"  # RFC 3986 reserved; "%" for what is encoded already

_line_breakers = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def pls(url: str, title: str) -> bytes:
    """A .pls file with one endless entry; line ends and keys as StreamMachine 0.7 wrote them, plus the title."""
    return (
        f"[playlist]\nNumberOfEntries=1\nFile1={safe_url(url)}\nTitle1={_one_line(title)}\nLength1=-1\nVersion=2\n"
    ).encode("utf-8", "replace")


def m3u(url: str, title: str) -> bytes:
    """An extended .m3u file with one endless entry."""
    return f"#EXTM3U\n#EXTINF:-1,{_one_line(title)}\n{safe_url(url)}\n".encode("utf-8", "replace")


def safe_url(url: str) -> str:
    """The address with everything percent-encoded that may not stand in one (RFC 3986 2): ASCII, one line, no spaces.

    A request's raw target is Latin-1, so characters up to U+00FF stand for the byte that the client sent; an address
    with others is encoded as UTF-8.
    """
    try:
        return quote(url.encode("latin-1"), safe=_URL_CHARS)
    except UnicodeEncodeError:
        return quote(url, safe=_URL_CHARS, errors="replace")


def _one_line(text: str) -> str:
    return _line_breakers.sub(" ", text).strip()
