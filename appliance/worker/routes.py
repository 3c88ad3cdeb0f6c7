"""What a request on the listener port means: a decision, no socket. Errors are those of INTERFACES, each one plain line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from appliance.channel.messages import WorkerSettings
from appliance.wire import playlists
from appliance.wire.http_request import Request
from appliance.worker.answers import CROSSDOMAIN, Answers, index_page, is_old_agent
from appliance.worker.rewind import BadOffset, Start, find_start, parse_offset
from appliance.worker.stream import Stream, StreamTable

ROOT_PATHS: Final = ("", ";", ";stream.nsv")
SOURCE_METHODS: Final = ("SOURCE", "PUT")
SOURCE_PATHS: Final = ("/admin/metadata", "/admin.cgi", "/admin/!POKE")
"""Routes of source credentials: the supervisor answers them (ARCHITECTURE 2)."""
RETRY_AFTER_S: Final = 5
PLAYLIST_TYPES: Final = {".pls": playlists.PLS_MIME, ".m3u": playlists.M3U_MIME}


class Reply(NamedTuple):
    """Send these bytes; go on with the connection when `keep_alive`."""

    data: bytes
    keep_alive: bool


class Play(NamedTuple):
    """Begin audio: the connection becomes a listener. `probe`: a player's look at the first bytes, which is no listener."""

    stream: Stream
    start: Start
    head: bytes
    icy: bool
    probe: bool


class Pass(NamedTuple):
    """A request that the supervisor serves."""


Action = Reply | Play | Pass


def may_keep(request: Request) -> bool:
    """Whether the connection can go on behind the answer: a body is not read here, so it must not be taken for the next request."""
    return request.keep_alive and not request.content_length and not request.chunked


class Router:
    """Decides by method, path, headers. `full` says whether a limit on listeners is reached for a stream (reason), else ""."""

    def __init__(self, settings: WorkerSettings, streams: StreamTable, answers: Answers, full: Callable[[Stream], str]) -> None:
        self._streams, self._answers, self._full = streams, answers, full
        self._cors = settings.cors_enabled
        self._skip = tuple(re.compile(pattern) for pattern in settings.ua_skip)

    def route(self, request: Request) -> Action:
        """The decision for one request."""
        path, method = request.path, request.method
        if method in SOURCE_METHODS or path in SOURCE_PATHS or (method == "OPTIONS" and request.target == "*"):
            return Pass()
        if method == "OPTIONS":
            keep = may_keep(request)
            return Reply(self._answers.preflight(keep_alive=keep), keep)
        if method not in {"GET", "HEAD"}:
            return self._error(request, 405, f"{method} is not allowed here", [("Allow", "GET, HEAD, OPTIONS")])
        name = path.lstrip("/") if path.startswith("/") else path
        stream = self._streams.root if name in ROOT_PATHS else self._streams.get(name)
        if stream is not None:
            return self._play(request, stream)
        return self._page(request, name)

    def _error(self, request: Request, status: int, reason: str, extra: list[tuple[str, str]] | None = None) -> Reply:
        keep = may_keep(request) and request.method in {"GET", "HEAD"}
        head_only = request.method == "HEAD"
        return Reply(self._answers.error(status, reason, head_only=head_only, keep_alive=keep, extra=extra), keep)

    def _page(self, request: Request, name: str) -> Reply:
        """Playlists and the few fixed pages; 404 for all else."""
        if name == "index.html":
            return self._small(request, index_page([stream.entry for stream in self._streams]), "text/html; charset=utf-8")
        if name == "crossdomain.xml" and self._cors:
            return self._small(request, CROSSDOMAIN, "text/x-cross-domain-policy")
        stem, dot, kind = name.rpartition(".")
        mime = PLAYLIST_TYPES.get(dot + kind)
        if mime is None:
            return self._error(request, 404, "no such stream")
        stream = self._streams.root if name == "listen.pls" and self._streams.get("listen") is None else self._streams.get(stem)
        if stream is None:
            return self._error(request, 404, "no such stream")
        if not (stream.entry.host or request.headers.get("host")):  # an HTTP/1.0 client: a URL without a host would be no use to it
            return self._error(request, 400, "a Host header is needed for a playlist, or `host` in the stream's configuration")
        render = playlists.pls if kind == "pls" else playlists.m3u
        return self._small(request, render(self._url(request, stream), stream.entry.name or stream.entry.key), mime)

    def _url(self, request: Request, stream: Stream) -> str:
        host = stream.entry.host or request.headers.get("host", "")
        query = request.target.partition("?")[2]
        return f"http://{host}/{stream.entry.key}" + (f"?{query}" if query else "")

    def _small(self, request: Request, body: bytes, mime: str) -> Reply:
        keep = may_keep(request)
        return Reply(self._answers.page(body, mime, head_only=request.method == "HEAD", keep_alive=keep), keep)

    def _play(self, request: Request, stream: Stream) -> Action:
        agent = request.headers.get("user-agent", "")
        if any(pattern.search(agent) for pattern in self._skip):
            return self._error(request, 403, "this player is not welcome here")
        try:
            offset_s = parse_offset(request.query)
        except BadOffset as error:
            return self._error(request, 400, str(error))
        if stream.empty:
            return self._error(request, 503, "nothing to play yet", [("Retry-After", str(RETRY_AFTER_S))])
        full = self._full(stream)
        if full and request.method == "GET":
            return self._error(request, 503, full, [("Retry-After", str(RETRY_AFTER_S))])
        icy = request.headers.get("icy-metadata", "").strip() == "1"
        start = find_start(stream, offset_s)
        head = self._answers.audio(stream.entry, start, icy=icy, old=is_old_agent(agent))
        if request.method == "HEAD":
            return Reply(head, False)
        return Play(stream, start, head, icy, request.headers.get("range", "").strip() == "bytes=0-1")
