"""Response heads and one-line answers (RFC 9110, RFC 9112 4). Nothing a client sent can add a line to them."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

REASONS: Final[dict[int, str]] = {
    100: "Continue",
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"  # the whole answer to `Expect: 100-continue` (RFC 9110 15.2.1)

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_is_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_breaks_line = re.compile(r"[\r\n\0]").search


def head(status: int, headers: Iterable[tuple[str, str]], *, icy: bool = False) -> bytes:
    """A response head with its blank line: "HTTP/1.1 200 OK", or "ICY 200 OK" for old players.

    Values are text and go out as UTF-8. Raises ValueError for a name that is no token and for CR, LF or NUL in a value.
    """
    lines = [f"{'ICY' if icy else 'HTTP/1.1'} {status} {REASONS.get(status, 'Unknown')}"]
    for name, value in headers:
        if not _is_token(name):
            raise ValueError(f"not a header name: {name!r}")
        if _breaks_line(value):
            raise ValueError(f"a line break or NUL in the value of {name}")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def text(
    status: int,
    message: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    head_only: bool = False,
    keep_alive: bool = False,
) -> bytes:
    """A whole answer: one line of plain text (line breaks in `message` become spaces), its length, Connection.

    `head_only` is for HEAD: the same head, no body. Raises ValueError as `head` does.
    """
    body = (" ".join(message.split()) + "\n").encode("utf-8", "replace")
    framing = (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "keep-alive" if keep_alive else "close"),
    )
    start = head(status, (*headers, *framing))
    return start if head_only else start + body


def http_date(epoch_s: float) -> str:
    """IMF-fixdate, e.g. "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 5.6.7); whole seconds, rounded down.

    Raises ValueError or OverflowError outside the years 1 to 9999.
    """
    moment = datetime.fromtimestamp(epoch_s // 1, UTC)
    day = f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04}"
    return f"{day} {moment.hour:02}:{moment.minute:02}:{moment.second:02} GMT"
