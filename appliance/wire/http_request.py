"""Request heads of HTTP/1.x and ICE/1.0, as players and encoders really send them: CRLF or bare LF, any split.

What a head is worth depends on its bytes alone, never on how they were cut into packets: every line is judged when
its LF arrives, the first line also by what has come of it, and the earliest fault wins. Each byte is looked at a fixed
number of times, so a head fed byte by byte costs linear time. One parser reads one head; what follows is its `rest`.
"""

import re
from functools import cached_property
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

HEAD_MAX_BYTES: Final = 16_384  # INTERFACES: "Headers over 16 KiB: 431"; counts from the first byte fed
FIELDS_MAX: Final = 100  # browsers send about 20, encoders about 15; each costs a dict entry
TARGET_MAX_BYTES: Final = 8_192  # RFC 9112 3 asks for 8,000 and more; a long title in a query is below 2,000
METHOD_MAX_BYTES: Final = 32  # the longest registered method has 17
FIRST_LINE_MAX_BYTES: Final = METHOD_MAX_BYTES + TARGET_MAX_BYTES + len("  HTTP/1.1\r")
BARE_LINE_MAX_BYTES: Final = 512  # a SHOUTcast password, or /MOUNT:password
EMPTY_LINES_MAX: Final = 4  # RFC 9112 2.2: skip at least one; encoders end a POST body with up to two
LENGTH_DIGITS_MAX: Final = 18  # so a Content-Length stays below 2**63 wherever it is added up

_NAME_CHARS = r"!#$%&'*+\-.^_`|~0-9A-Za-z"  # RFC 9110 5.6.2
_is_token = re.compile(f"[{_NAME_CHARS}]+").fullmatch
_first_line_garbage = re.compile(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]").search  # CR may yet turn out to be a line's end
_value_garbage = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search  # RFC 9110 5.5; tab is allowed
_method = f"[{_NAME_CHARS}]{{1,{METHOD_MAX_BYTES}}}"
_request_line = re.compile(rf"({_method}) (\S[^\r]*) (HTTP|ICE)/(\d)\.(\d) *", re.A).fullmatch
_starts_like_request = re.compile(rf"{_method} \S".encode()).match
_means_http = re.compile(r".* (?:HTTP|ICE)/\S* *", re.A).fullmatch
_target_form = re.compile(r"/[^ ?]*(?:\?.*)?|\*|[A-Za-z][A-Za-z0-9+.\-]*://[^ ?]*(?:\?.*)?").fullmatch
_absolute_prefix = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?]*").match


class RequestError(Exception):
    """A head that is refused: answer `status` with `reason` (one line, quoting nothing of the client's), then close."""

    status = 400

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = type(self).status if status is None else status


class BadRequest(RequestError):
    """Not a request, or a line that cannot be read (RFC 9112 2.2, 3, 5)."""


class LengthInvalid(RequestError):
    """The body's length cannot be known for sure (RFC 9112 6): 400; 501 for a transfer coding other than chunked."""


class UriTooLong(RequestError):
    """A target over TARGET_MAX_BYTES."""

    status = 414


class HeadTooLarge(RequestError):
    """No end within HEAD_MAX_BYTES."""

    status = 431


class TooManyHeaders(RequestError):
    """More than FIELDS_MAX header lines."""

    status = 431


class VersionNotSupported(RequestError):
    """HTTP/0.9, HTTP/2.0 and the like."""

    status = 505


class BareLine(msgspec.Struct, frozen=True):
    """A first line that is no HTTP request line: a SHOUTcast v1 password, `!POKE`. `text` lacks its line end."""

    text: bytes


class Request(msgspec.Struct, dict=True):
    """One request head.

    `method` is as sent (compare exactly); `target` is raw, each byte one character (Latin-1), and may hold raw spaces
    and 8-bit characters in its query, as old encoders send titles. `version` is (1, 0) for ICE/1.0. `headers` has
    lower-case names and Latin-1 values, repeated ones joined with ", ". `content_length` is bytes or None; `head_bytes`
    counts from the first byte fed to the blank line's end.
    """

    method: str
    target: str
    protocol: str
    version: tuple[int, int]
    headers: dict[str, str]
    content_length: int | None
    chunked: bool
    head_bytes: int

    @cached_property
    def path(self) -> str:
        """The target's path, percent-decoded once: UTF-8, else Latin-1. `*` and CONNECT's host:port stay as sent."""
        raw = self.target.partition("?")[0]
        if not raw.startswith("/") and (prefix := _absolute_prefix(raw)):
            raw = raw[prefix.end() :] or "/"
        return raw if raw.isascii() and "%" not in raw else _text(_percent_decoded(raw))

    @property
    def raw_query(self) -> str:
        """What follows the first "?", as sent; "" without one."""
        return self.target.partition("?")[2]

    @cached_property
    def query(self) -> dict[str, str]:
        """The query's fields, decoded (+ is a space; UTF-8, else Latin-1); the last of a name wins; no "=" is ""."""
        if "?" not in self.target:
            return {}
        return {_text(name): _text(value) for name, value in self._query_fields.items()}

    def query_bytes(self, name: str) -> bytes | None:
        """One field's percent-decoded bytes, for text whose charset is to be found out; None without such a field."""
        return self._query_fields.get(name.encode())

    @cached_property
    def _query_fields(self) -> dict[bytes, bytes]:
        return form_fields(self.raw_query.encode("latin-1"))

    @property
    def keep_alive(self) -> bool:
        """Whether the client keeps the connection (RFC 9112 9.3; 6.1: never after a chunked HTTP/1.0 body)."""
        options = self.headers.get("connection")
        if options is None:
            return self.version >= (1, 1)
        wishes = {option.strip() for option in options.lower().split(",")}
        if "close" in wishes:
            return False
        return self.version >= (1, 1) or ("keep-alive" in wishes and not self.chunked)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before its body (RFC 9110 10.1.1: not in HTTP/1.0)."""
        return self.headers.get("expect", "").lower() == "100-continue" and self.version >= (1, 1)


class _Head:
    """Bytes so far, how far they were read, and the reading of header lines up to the blank one."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._line_start = 0  # of the line now coming
        self._scanned = 0  # up to here no LF is to be looked for again
        self._fields: dict[str, str] = {}
        self._field_lines = 0
        self._over = False

    @property
    def received(self) -> bytes:
        """Everything fed so far: head and rest, for handing the request to another process."""
        return bytes(self._buffer)

    @property
    def rest(self) -> bytes:
        """What was fed beyond the head (audio may be in the same packet); b"" until the head is read."""
        return bytes(memoryview(self._buffer)[self._line_start :]) if self._over else b""

    def _take(self, data: bytes | bytearray | memoryview) -> None:
        if self._over:
            raise RuntimeError("a parser reads one head; make a new one and feed it the rest")
        self._buffer += data

    def _read_fields(self) -> bool:
        """Reads the header lines that are complete; True once the blank line was read."""
        end = min(len(self._buffer), HEAD_MAX_BYTES)
        newline = self._buffer.rfind(b"\n", self._scanned, end)
        self._scanned = end
        if newline >= 0:
            for line in self._buffer[self._line_start : newline].decode("latin-1").split("\n"):
                self._line_start += len(line) + 1
                if line.endswith("\r"):
                    line = line[:-1]
                if not line:
                    self._over = True
                    return True
                self._read_field(line)
        if end == HEAD_MAX_BYTES:
            raise HeadTooLarge(f"the request head is larger than {HEAD_MAX_BYTES} bytes")
        return False

    def _read_field(self, line: str) -> None:
        """One `Name: value` (RFC 9112 5): no space before the colon, no folding, no control characters."""
        if self._field_lines == FIELDS_MAX:
            raise TooManyHeaders(f"more than {FIELDS_MAX} header lines")
        self._field_lines += 1
        name, colon, value = line.partition(":")
        if not colon or not _is_token(name):
            raise _unreadable_field(line)
        if not (value.isascii() and value.isprintable()) and _value_garbage(value):
            raise BadRequest("a control character in a header value")
        name = name.lower()
        value = value.strip(" \t")
        if name not in self._fields:
            self._fields[name] = value
        elif name == "host":
            raise BadRequest("more than one Host header")  # RFC 9112 3.2
        else:
            self._fields[name] += ", " + value


class FieldsParser(_Head):
    """Header lines without a request line, as a SHOUTcast v1 encoder sends behind its password. The same limits."""

    def feed(self, data: bytes | bytearray | memoryview) -> dict[str, str] | None:
        """The fields (as in Request.headers) once the blank line came, else None. Raises RequestError."""
        self._take(data)
        try:
            return self._fields if self._read_fields() else None
        except RequestError:
            self._over = True
            raise


class RequestParser(_Head):
    """Reads one request head: `feed` until it gives a Request, or a BareLine where those are allowed."""

    def __init__(self, allow_bare_line: bool = False) -> None:
        super().__init__()
        self._allow_bare_line = allow_bare_line
        self._empty_lines = 0
        self._line: tuple[str, str, str, tuple[int, int]] | None = None

    @property
    def started(self) -> bool:
        """Whether any byte of the request came; the empty lines that may stand before it do not count."""
        return len(self._buffer.lstrip(b"\r\n")) > 0 if self._line is None else True

    def feed(self, data: bytes | bytearray | memoryview) -> Request | BareLine | None:
        """The head once its end (for a BareLine: its LF) came, else None. RequestError: the parser is spent."""
        self._take(data)
        try:
            while self._line is None:
                line = self._next_first_line()
                if line is None:
                    return None
                if line:
                    self._line = _read_request_line(line, self._allow_bare_line)
                    if self._line is None:
                        self._over = True
                        return BareLine(line)
            return self._finished(*self._line) if self._read_fields() else None
        except RequestError:
            self._over = True
            raise

    def _next_first_line(self) -> bytes | None:
        """The first line without its end, b"" for an empty line to skip, None when it is not yet complete."""
        newline = self._buffer.find(b"\n", self._scanned)
        end = newline if newline >= 0 else len(self._buffer)
        limit = self._line_start + FIRST_LINE_MAX_BYTES
        if _first_line_garbage(self._buffer, self._scanned, min(end, limit)):
            raise BadRequest("a control character in the first line")
        if end > limit:
            raise _first_line_too_long(self._buffer[self._line_start : limit])
        self._scanned = end
        if newline < 0:
            return None
        line = bytes(self._buffer[self._line_start : newline]).removesuffix(b"\r")
        self._line_start = self._scanned = newline + 1
        if not line:
            self._empty_lines += 1
            if self._empty_lines > EMPTY_LINES_MAX:
                raise BadRequest("empty lines where a request was expected")
        return line

    def _finished(self, method: str, target: str, protocol: str, version: tuple[int, int]) -> Request:
        fields = self._fields
        length: int | None = None
        chunked = False
        if "content-length" in fields or "transfer-encoding" in fields:
            length, chunked = _body_framing(fields)
        return Request(method, target, protocol, version, fields, length, chunked, self._line_start)


def form_fields(form: bytes) -> dict[bytes, bytes]:
    """Fields of a query or of an application/x-www-form-urlencoded body, decoded to bytes; the last of a name wins."""
    fields = {}
    for pair in form.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            fields[unquote_to_bytes(name.replace(b"+", b" "))] = unquote_to_bytes(value.replace(b"+", b" "))
    return fields


def _read_request_line(line: bytes, allow_bare_line: bool) -> tuple[str, str, str, tuple[int, int]] | None:
    """(method, target, protocol, version), or None for a bare line (RFC 9112 3)."""
    text = line.decode("latin-1")
    if "\r" in text:
        raise BadRequest("a lone CR in the first line")
    parts = _request_line(text)
    if parts is None:
        if allow_bare_line and len(line) <= BARE_LINE_MAX_BYTES and not _means_http(text):
            return None
        raise BadRequest("not an HTTP request line")
    method, target, protocol, major, minor = parts.groups()
    if len(target) > TARGET_MAX_BYTES:
        raise UriTooLong(f"the address is longer than {TARGET_MAX_BYTES} bytes")
    if major != "1":
        raise VersionNotSupported("only HTTP/1.0 and HTTP/1.1 are spoken here")
    if not _target_form(target) and method != "CONNECT":
        raise BadRequest("the address in the first line is not a path")
    return method, target, protocol, (1, int(minor)) if protocol == "HTTP" else (1, 0)


def _body_framing(fields: dict[str, str]) -> tuple[int | None, bool]:
    """(Content-Length, chunked) by RFC 9112 6.3, or LengthInvalid."""
    coding, length = fields.get("transfer-encoding"), fields.get("content-length")
    if coding is not None:
        if length is not None:
            raise LengthInvalid("both Transfer-Encoding and Content-Length")
        if coding.lower() != "chunked":
            raise LengthInvalid("the only transfer coding known here is chunked", 501)
        return None, True
    values = {value.strip() for value in (length or "").split(",")}  # a repeated one may stand if all agree
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > LENGTH_DIGITS_MAX:
        raise LengthInvalid("Content-Length is not one number of bytes")
    return int(value), False


def _unreadable_field(line: str) -> BadRequest:
    if line[0] in " \t":
        return BadRequest("a folded header line")
    return BadRequest("a header line without a colon" if ":" not in line else "a header name that is no name")


def _first_line_too_long(start: bytes | bytearray) -> RequestError:
    if _starts_like_request(start):
        return UriTooLong(f"the address is longer than {TARGET_MAX_BYTES} bytes")
    return BadRequest("not an HTTP request line")


def _percent_decoded(raw: str) -> bytes:
    return unquote_to_bytes(raw.encode("latin-1"))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
