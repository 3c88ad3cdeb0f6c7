"""From an address to running audio: redirects and playlist files are followed, the answer is checked."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import appliance
from appliance.clients.answer import Answer, AnswerProblem, read_answer, read_detail, shown, why
from appliance.wire.chunked import BadChunk, ChunkedDecoder

CONNECT_TIMEOUT_S = 10.0  # a listening port answers in one round trip
HOPS_MAX = 5  # redirects and playlists on the way; more is a loop
PLAYLIST_MAX_BYTES = 64 * 1024  # a playlist that points to a stream has a few lines
PLAYLIST_TIMEOUT_S = 10.0  # to come whole
REDIRECTS = frozenset({301, 302, 303, 307, 308})
KINDS = {  # frame parser by Content-Type; SHOUTcast servers may send none and mean MP3
    "": "mp3",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/mpeg3": "mp3",
    "audio/x-mpeg": "mp3",
    "audio/aac": "aac",
    "audio/aacp": "aac",
    "audio/x-aac": "aac",
}
PLAYLISTS = frozenset({"audio/x-mpegurl", "audio/mpegurl", "audio/x-scpls", "application/pls+xml", "audio/scpls"})
AGENT = f"streammachine-listen/{appliance.__version__}"

_unsafe = re.compile(r"[\x00-\x20\x7f]")
_pls_entry = re.compile(r"\s*file\d+\s*=\s*(\S.*)", re.IGNORECASE)


class TuneInProblem(Exception):
    """There is no audio at this address; the message says why."""


class Station(NamedTuple):
    """Running audio: the answer to GET, the parser's name for it, and the connection its body comes from."""

    url: str
    answer: Answer
    kind: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def tune_in(url: str, *, icy: bool) -> Station:
    """Opens an http address; `icy` asks for titles. Raises TuneInProblem."""
    for _ in range(HOPS_MAX + 1):
        station = await _get(url, icy)
        try:
            onward = await _onward(url, station)
        except BaseException:
            await hang_up(station)
            raise
        if onward is None:
            return station
        await hang_up(station)
        url = onward
    raise TuneInProblem(f"more than {HOPS_MAX} redirects and playlists on the way")


async def hang_up(station: Station) -> None:
    """Closes the connection."""
    station.writer.close()
    with contextlib.suppress(OSError):
        await station.writer.wait_closed()


def playlist_entry(text: str) -> str | None:
    """The first address in a .m3u or .pls file, None without one."""
    for line in text.lstrip("\ufeff").splitlines():
        match = _pls_entry.fullmatch(line)
        if match:
            return match[1].strip()
        word = line.strip()
        if word and word[0] not in "#[" and not re.match(r"\w+\s*=", word):
            return word
    return None


async def _get(url: str, icy: bool) -> Station:
    parts, port = _split(url)
    host = parts.hostname or ""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, UnicodeError) as error:
        raise TuneInProblem(f"cannot reach {parts.netloc.rpartition('@')[2]}: {why(error)}") from error
    try:
        writer.write(_request(parts, icy))
        answer = await read_answer(reader)
    except (AnswerProblem, OSError) as error:
        writer.close()
        raise TuneInProblem(f"{shown(url)}: {why(error)}") from error
    except BaseException:
        writer.close()
        raise
    return Station(url, answer, "", reader, writer)._replace(kind=KINDS.get(_content_type(answer), ""))


async def _onward(url: str, station: Station) -> str | None:
    """Where this answer points to, None when it is the audio. Raises TuneInProblem when it is neither."""
    answer = station.answer
    if answer.status in REDIRECTS and answer.headers.get("location"):
        return urljoin(url, answer.headers["location"])
    if answer.status != 200:
        detail = await read_detail(station.reader, answer)
        raise TuneInProblem(f"{shown(url)}: the server answered {answer.status}: {detail}")
    content_type = _content_type(answer)
    if content_type in PLAYLISTS or urlsplit(url).path.lower().endswith((".m3u", ".pls")):
        return await _entry(url, station)
    if not station.kind:
        raise TuneInProblem(f"{shown(url)}: {shown(content_type)} is neither MP3 nor AAC (ADTS)")
    return None


async def _entry(url: str, station: Station) -> str:
    text = (await _playlist(url, station)).decode("utf-8", "replace")
    entry = playlist_entry(text)
    if entry is None or "#EXT-X-" in text:
        what = "an HLS playlist, which is not played here" if entry else "a playlist without an address"
        raise TuneInProblem(f"{shown(url)}: {what}")
    return urljoin(url, entry)


async def _playlist(url: str, station: Station) -> bytes:
    body, length = station.answer.rest, station.answer.headers.get("content-length", "")
    wanted = min(int(length), PLAYLIST_MAX_BYTES) if length.isdecimal() else PLAYLIST_MAX_BYTES
    try:
        async with asyncio.timeout(PLAYLIST_TIMEOUT_S):
            while len(body) < wanted and (piece := await station.reader.read(wanted - len(body))):
                body += piece
    except OSError as error:
        raise TuneInProblem(f"{shown(url)}: the playlist did not come whole") from error
    if "chunked" not in station.answer.headers.get("transfer-encoding", "").lower():
        return body
    try:
        return ChunkedDecoder().feed(body)
    except BadChunk as fault:
        raise TuneInProblem(f"{shown(url)}: {fault}") from fault


def _content_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise TuneInProblem(f"{shown(url)} is no address: {error}") from error
    if parts.scheme != "http" or not parts.hostname or _unsafe.search(url):
        raise TuneInProblem(f"{shown(url)} is no http://HOST[:PORT]/... address")
    return parts, port


def _request(parts: SplitResult, icy: bool) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return (
        f"GET {quote(target, safe='%/:?#[]@!$&()*+,;=~')} HTTP/1.1\r\n"
        f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
        f"User-Agent: {AGENT}\r\n"
        f"Accept: */*\r\n{'Icy-MetaData: 1' + chr(13) + chr(10) if icy else ''}"
        "Connection: close\r\n\r\n"
    ).encode("latin-1", "replace")
