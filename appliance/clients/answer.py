"""The answer of a server, as our test clients read it: status line and headers, from HTTP, Icecast or SHOUTcast.

More forgiving than `wire` is to requests: a test client must be able to say what a wrong server sent.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import NamedTuple

ANSWER_TIMEOUT_S = 10.0  # a server that has not answered a whole head by then is not going to
HEAD_MAX_BYTES = 16 * 1024  # as much as the servers take from us
DETAIL_MAX_BYTES = 2048  # of an error's body; only its first line is shown
DETAIL_MAX_CHARS = 160  # of that line
DETAIL_TIMEOUT_S = 2.0  # the body of an error is a courtesy

_status_line = re.compile(r"(?:HTTP/\d\.\d|ICY)[ \t]+(\d{3})(?:[ \t]+(.*))?")
_head_end = re.compile(rb"\r?\n\r?\n")
_markup = re.compile(r"<[^>]*>")


class AnswerProblem(Exception):
    """No answer came, or none that can be read. The message is for the user."""


class Answer(NamedTuple):
    """`headers` have lower-case names, the last of equal ones wins. `rest` is what followed the head in the same reads."""

    status: int
    reason: str
    headers: dict[str, str]
    rest: bytes


def parse_answer(head: bytes, rest: bytes = b"") -> Answer:
    """A head without its blank line. Raises AnswerProblem when the first line is no status line."""
    first, *lines = head.decode("latin-1").splitlines() or [""]
    match = _status_line.fullmatch(first.strip())
    if match is None:
        raise AnswerProblem(f"the answer is not HTTP: {shown(first)!r}")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return Answer(int(match[1]), match[2] or "", headers, rest)


async def read_answer(
    reader: asyncio.StreamReader, timeout_s: float | None = ANSWER_TIMEOUT_S, received: bytes = b""
) -> Answer:
    """Reads one head; `received` is what came of it already. None waits for ever.

    Raises AnswerProblem: nothing in time, closed before, too long, not HTTP; OSError from the socket.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not (end := _head_end.search(received)):
                if len(received) > HEAD_MAX_BYTES:
                    raise AnswerProblem("the answer's head is endless")
                piece = await reader.read(4096)
                if not piece:
                    raise AnswerProblem("the server closed the connection without an answer")
                received += piece
    except TimeoutError as error:
        raise AnswerProblem(f"no answer within {timeout_s or 0:g} s") from error
    return parse_answer(received[: end.start()], received[end.end() :])


async def read_detail(reader: asyncio.StreamReader, answer: Answer) -> str:
    """The first line of an error's body, for the user; else the reason of the status line; "" when there is neither."""
    body = answer.rest
    length = answer.headers.get("content-length", "")
    wanted = min(int(length), DETAIL_MAX_BYTES) if length.isdecimal() else DETAIL_MAX_BYTES
    try:
        async with asyncio.timeout(DETAIL_TIMEOUT_S):
            while len(body) < wanted and (piece := await reader.read(wanted - len(body))):
                body += piece
    except (TimeoutError, OSError):
        pass  # what came so far will do
    text = _markup.sub(" ", body.decode("utf-8", "replace")).strip()
    return shown(text.splitlines()[0]) if text else shown(answer.reason)


def why(error: Exception) -> str:
    """An error of the network in words, without the addresses and numbers that asyncio puts into it."""
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "no answer in time" if isinstance(error, TimeoutError) else str(error)


def shown(text: str) -> str:
    """Text from a server, safe for a terminal: one line, no control characters, not long."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:DETAIL_MAX_CHARS]
