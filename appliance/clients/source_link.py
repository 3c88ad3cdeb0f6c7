"""One connection of the test encoder: how it is opened, and what a server says that wants no audio.

PUT comes first (HTTP/1.1, the audio begins after "100 Continue"); a server that does not know it gets Icecast's SOURCE.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from appliance.clients.answer import ANSWER_TIMEOUT_S, Answer, AnswerProblem, read_answer, read_detail, why
from appliance.clients.target import Target, source_request, title_request
from appliance.wire.frames import AudioFormat

CONNECT_TIMEOUT_S = 10.0  # a listening port answers in one round trip
CONTINUE_TIMEOUT_S = 4.0  # what libshout waits, too
PUT_UNKNOWN = frozenset({400, 405, 417, 501, 505})  # how servers without PUT or Expect say so
FINAL = frozenset({401, 404, 415})  # these do not change by themselves
WORDS = {401: "wrong user or password", 403: "refused", 404: "no such mount", 415: "wrong format for this mount"}


class SourceProblem(Exception):
    """A source is not taken or was dropped. `final`: trying again is no use."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Link(NamedTuple):
    """A connection; once a source was accepted on it, audio goes to `writer`, and what comes back (`received`, then from
    `reader`) is the end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""


async def open_source(target: Target, audio: AudioFormat) -> Link:
    """Connects and is accepted. Raises SourceProblem."""
    return await _ask(target, audio, "PUT") or await _ask(target, audio, "SOURCE") or _nothing(target)


async def send_title(target: Target, title: str) -> None:
    """Tells the mount a title. Raises SourceProblem."""
    link = await _connected(target)
    try:
        link.writer.write(title_request(target, title))
        answer = await read_answer(link.reader)
        if answer.status != 200:
            raise await refusal(target, link.reader, answer)
    except (AnswerProblem, OSError) as error:
        raise SourceProblem(f"{target}: {why(error)}") from error
    finally:
        await close(link)


async def refusal(target: Target, reader: asyncio.StreamReader, answer: Answer) -> SourceProblem:
    """The error for an answer that is no acceptance, with the server's own words."""
    detail = await read_detail(reader, answer)
    words = WORDS.get(answer.status, "the server answered")
    said = f": {detail}" if detail else ""
    return SourceProblem(f"{target}: {words} ({answer.status}{said})", final=answer.status in FINAL)


async def close(link: Link) -> None:
    """Closes it; what goes wrong in that does not matter any more."""
    link.writer.close()
    with contextlib.suppress(OSError):
        await link.writer.wait_closed()


async def _ask(target: Target, audio: AudioFormat, method: str) -> Link | None:
    """An accepted source, or None when the server does not know this method."""
    link = await _connected(target)
    accepted: Link | None = None
    try:
        link.writer.write(source_request(method, target, audio))
        accepted = await _accepted(target, link, method)
    except OSError as error:
        raise SourceProblem(f"{target}: {why(error)}") from error
    finally:
        if accepted is None:
            await close(link)
    return accepted


async def _accepted(target: Target, link: Link, method: str) -> Link | None:
    """None: not by this method. Raises SourceProblem when the server wants no source whatever the method."""
    is_put = method == "PUT"
    try:
        answer = await read_answer(link.reader, CONTINUE_TIMEOUT_S if is_put else ANSWER_TIMEOUT_S)
    except AnswerProblem as error:
        if is_put:
            return None
        raise SourceProblem(f"{target}: {error}") from error
    if answer.status in (100, 200):
        return link._replace(received=answer.rest)
    if is_put and answer.status in PUT_UNKNOWN:
        return None
    raise await refusal(target, link.reader, answer)


async def _connected(target: Target) -> Link:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return Link(*await asyncio.open_connection(target.host, target.port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
        raise SourceProblem(f"cannot reach {target.place}: {why(error)}") from error


def _nothing(target: Target) -> Link:
    raise SourceProblem(f"{target}: the server takes neither PUT nor SOURCE")
