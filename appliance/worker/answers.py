"""What the worker says: heads of audio answers, rendered once per stream and kind; errors and small pages."""

from __future__ import annotations

import html
import time
from typing import Final

from appliance.channel.messages import StreamEntry, WorkerSettings
from appliance.wire import http_response
from appliance.worker.rewind import Start

OLD_AGENTS: Final = ("winamp", "nsplayer", "realmedia", "shoutcastsource", "blackberry")
"""Agents that need `ICY 200 OK`; every other one gets HTTP (CLIENTS.md: it breaks newer Android)."""
EXPOSED: Final = "icy-metaint, icy-name, icy-br, icy-genre, icy-url, icy-description, X-Rewind-Offset, X-Rewind-Time"
ALLOWED_HEADERS: Final = "Icy-MetaData, Range"
PREFLIGHT_S: Final = 86_400
CROSSDOMAIN: Final = (
    b'<?xml version="1.0"?>\n<cross-domain-policy><allow-access-from domain="*"/></cross-domain-policy>\n'
)


def is_old_agent(agent: str) -> bool:
    """Whether an agent is one of those that only know SHOUTcast's status line."""
    lower = agent.lower()
    return any(name in lower for name in OLD_AGENTS)


class Answers:
    """Everything that is the same for many requests is rendered once. `forget` when a stream's entry changes."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._heads: dict[tuple[int, bool, bool], bytes] = {}
        self._date = (0, b"")

    def forget(self, index: int) -> None:
        """The entry of this stream changed."""
        self._heads = {key: head for key, head in self._heads.items() if key[0] != index}

    def cors(self) -> list[tuple[str, str]]:
        """The CORS headers of every answer."""
        if not self._settings.cors_enabled:
            return []
        origin = self._settings.cors_origin
        vary = [("Vary", "Origin")] if origin != "*" else []
        return [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", EXPOSED), *vary]

    def audio(self, entry: StreamEntry, start: Start, *, icy: bool, old: bool) -> bytes:
        """The head of an endless audio answer."""
        key = (entry.index, icy, old)
        fixed = self._heads.get(key)
        if fixed is None:
            fixed = self._heads[key] = self._render_audio(entry, icy, old)
        seconds, micro = divmod(start.ts_us, 1_000_000)
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return b"%sX-Rewind-Offset: %.2f\r\nX-Rewind-Time: %s.%03dZ\r\nDate: %s\r\n\r\n" % (
            fixed,
            start.offset_s,
            when.encode(),
            micro // 1000,
            self._now(),
        )

    def _now(self) -> bytes:
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, http_response.http_date(second).encode())
        return self._date[1]

    def _render_audio(self, entry: StreamEntry, icy: bool, old: bool) -> bytes:
        headers = [
            ("Content-Type", entry.mime),
            ("Connection", "close"),
            ("Cache-Control", "no-cache, no-store"),
            ("Pragma", "no-cache"),
            ("Expires", "Mon, 26 Jul 1997 05:00:00 GMT"),
            ("Accept-Ranges", "none"),
            ("Server", self._settings.server_name),
            *self.cors(),
            ("icy-name", entry.name or entry.key),
            ("icy-genre", entry.genre),
            ("icy-url", entry.url),
            ("icy-description", entry.description),
            ("icy-pub", str(int(entry.public))),
        ]
        if entry.bitrate_kbps:
            headers.append(("icy-br", str(entry.bitrate_kbps)))
        if icy:
            headers.append(("icy-metaint", str(entry.meta_interval)))
        shown = [(name, clean(value)) for name, value in headers if value]
        return http_response.head(200, shown, icy=old).removesuffix(b"\r\n")

    def preflight(self, *, keep_alive: bool) -> bytes:
        """The answer to OPTIONS."""
        extra = [("Connection", "keep-alive" if keep_alive else "close")]
        if self._settings.cors_enabled:
            extra += [
                ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
                ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
                ("Access-Control-Max-Age", str(PREFLIGHT_S)),
            ]
        return http_response.head(204, [("Allow", "GET, HEAD, OPTIONS"), *self.cors(), *extra, ("Server", self._settings.server_name)])

    def page(self, body: bytes, mime: str, *, head_only: bool, keep_alive: bool) -> bytes:
        """A small page or playlist."""
        headers = [
            ("Content-Type", mime),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-cache"),
            ("Connection", "keep-alive" if keep_alive else "close"),
            ("Server", self._settings.server_name),
            *self.cors(),
        ]
        return http_response.head(200, headers) + (b"" if head_only else body)

    def error(
        self,
        status: int,
        reason: str,
        *,
        head_only: bool = False,
        keep_alive: bool = False,
        extra: list[tuple[str, str]] | None = None,
    ) -> bytes:
        """One plain-text line."""
        headers = [("Server", self._settings.server_name), *self.cors(), *(extra or [])]
        return http_response.text(status, reason, headers, head_only=head_only, keep_alive=keep_alive)


def index_page(entries: list[StreamEntry]) -> bytes:
    """The page at /index.html: the streams, each with a player."""
    rows = "".join(
        f'<li><a href="/{html.escape(entry.key)}">{html.escape(entry.name or entry.key)}</a> '
        f'<audio controls preload="none" src="/{html.escape(entry.key)}"></audio> '
        f'<a href="/{html.escape(entry.key)}.m3u">m3u</a> <a href="/{html.escape(entry.key)}.pls">pls</a></li>'
        for entry in entries
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>StreamMachine</title></head><body><h1>StreamMachine</h1><ul>{rows}</ul></body></html>\n"
    )
    return page.encode()


def clean(value: str) -> str:
    """Text of an encoder or config as a header value: without control characters."""
    return "".join(char for char in value if char >= " " and char != "\x7f")
