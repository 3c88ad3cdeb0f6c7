"""Response heads and one-line answers."""

import pytest

from appliance.wire.http_request import RequestError
from appliance.wire.http_response import CONTINUE, REASONS, head, http_date, text


def test_head() -> None:
    """Status line, headers in their order, blank line."""
    assert head(200, [("Content-Type", "audio/mpeg"), ("icy-br", "128")]) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nicy-br: 128\r\n\r\n"
    )
    assert head(503, ()) == b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    assert head(299, ()) == b"HTTP/1.1 299 Unknown\r\n\r\n"


def test_icy_head() -> None:
    """Old players get the status line that they know."""
    assert head(200, [("icy-name", "Radio")], icy=True) == b"ICY 200 OK\r\nicy-name: Radio\r\n\r\n"


def test_values_go_out_as_utf8() -> None:
    """A station's name is text."""
    assert "icy-name: Rádió Žižkov\r\n".encode() in head(200, [("icy-name", "Rádió Žižkov")])
    assert b"icy-name: ?\r\n" in head(200, [("icy-name", "\ud800")])


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\nb", "a\rb", "\0"])
def test_no_line_can_be_added(value: str) -> None:
    """CR, LF and NUL in a value are refused: nobody writes our headers for us."""
    with pytest.raises(ValueError, match="X-Test"):
        head(200, [("X-Test", value)])
    with pytest.raises(ValueError, match="X-Test"):
        text(200, "fine", [("X-Test", value)])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\n", "ä"])
def test_names_are_tokens(name: str) -> None:
    """A header name that is none is refused."""
    with pytest.raises(ValueError, match="header name"):
        head(200, [(name, "x")])


def test_text() -> None:
    """A whole answer: one line, its length, and what becomes of the connection."""
    answer = text(401, "a user\nand a password are needed", [("WWW-Authenticate", 'Basic realm="x"')])
    start, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"a user and a password are needed\n"
    assert start.split(b"\r\n") == [
        b"HTTP/1.1 401 Unauthorized",
        b'WWW-Authenticate: Basic realm="x"',
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]


def test_text_length_counts_bytes() -> None:
    """Content-Length is of the UTF-8 bytes, not of the characters."""
    start, _, body = text(404, "kein Strom „Ärger“", keep_alive=True).partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in start
    assert start.endswith(b"Connection: keep-alive")


def test_text_for_head() -> None:
    """HEAD gets the same head and no body."""
    assert text(404, "no such stream", head_only=True) + b"no such stream\n" == text(404, "no such stream")


def test_dates() -> None:
    """The RFC's own example, the epoch, fractions cut, a leap day."""
    assert http_date(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert http_date(784_111_777.999) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(1_709_164_800) == "Thu, 29 Feb 2024 00:00:00 GMT"
    with pytest.raises((ValueError, OverflowError)):
        http_date(float("inf"))


def test_every_refusal_has_a_reason_phrase() -> None:
    """Whatever a parser refuses with can be answered by name."""
    kinds = RequestError.__subclasses__()
    assert {kind.status for kind in kinds} | {501} <= set(REASONS)
    assert head(100, ()) == CONTINUE
