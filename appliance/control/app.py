"""The HTTP server on `api_port`: the demo's page and its JSON; for a plain `serve` closed but for /health.

aiohttp and jinja2 are loaded by this module only, and only the supervisor imports it.
"""

from __future__ import annotations

import math
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import jinja2
import msgspec
from aiohttp import web

from appliance.control.station import Station, StationStatus

STATUS_MAX_AGE_S = 1.0  # pages poll each second; however many they are, the station is asked and rendered this often
SHUTDOWN_S = 1.0  # for answers under way when the server is closed; there are only short ones
NONCE_BYTES = 16  # CSP3 7.1 asks for at least 128 bits
TEMPLATES = Path(__file__).parent / "templates"
HOST_HEADER = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
OPEN_PATHS = frozenset({"/health"})
CLOSED = "The admin API needs a user, and this server has none yet. Only /health is open.\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Clock = Callable[[], float]


class StatusFeed:
    """The station's status, asked for and rendered at most once in STATUS_MAX_AGE_S."""

    def __init__(self, station: Station, clock: Clock) -> None:
        self._station = station
        self._clock = clock
        self._taken_at_s = -math.inf
        self._taken: tuple[StationStatus, bytes] | None = None

    def _fresh(self) -> tuple[StationStatus, bytes]:
        now_s = self._clock()
        if self._taken is None or now_s - self._taken_at_s >= STATUS_MAX_AGE_S:
            status = self._station.status()
            self._taken = (status, msgspec.json.encode(status))
            self._taken_at_s = now_s
        return self._taken

    def status(self) -> StationStatus:
        """The status, up to STATUS_MAX_AGE_S old."""
        return self._fresh()[0]

    def json(self) -> bytes:
        """The same as UTF-8 JSON."""
        return self._fresh()[1]


class Pages:
    """The handlers, and what they share: the status feed and the loaded template."""

    def __init__(self, station: Station, clock: Clock) -> None:
        self._feed = StatusFeed(station, clock)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["duration"] = duration
        self._demo = environment.get_template("demo.html")

    async def page(self, request: web.Request) -> web.Response:
        """GET /: the first stream's page, its numbers filled in already, then kept fresh by its script."""
        status = self._feed.status()
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        text = self._demo.render(
            nonce=nonce,
            status=status,
            facts=msgspec.to_builtins(status),
            stream=status.streams[0] if status.streams else None,
            serving=sum(worker.state == "serving" for worker in status.workers),
            base=f"http://{host_of(request.headers.get('Host', ''))}:{status.listener_port}",
        )
        headers = {"Content-Security-Policy": content_security_policy(nonce)}
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    async def status_json(self, request: web.Request) -> web.Response:
        """GET /api/status.json: a StationStatus."""
        return web.Response(body=self._feed.json(), content_type="application/json")

    async def health(self, request: web.Request) -> web.Response:
        """GET /health: 200 while a worker serves, else 503; says nothing else about the station."""
        serving = any(worker.state == "serving" for worker in self._feed.status().workers)
        body = b'{"status":"ok"}' if serving else b'{"status":"no worker is serving"}'
        return web.Response(status=200 if serving else 503, body=body, content_type="application/json")


def duration(seconds: float) -> str:
    """Seconds as "0:07", "12:34" or "1:02:03"."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def host_of(header: str) -> str:
    """The host of a Host header without its port (RFC 9110 7.2), brackets kept; "localhost" where there is none to trust
    with standing in a page."""
    match = HOST_HEADER.fullmatch(header)
    return match[1] if match else "localhost"


def content_security_policy(nonce: str) -> str:
    """Only the page's own style and script; audio by scheme, since the listener port is another origin and its host is
    whatever name the visitor came by (also IPv6 literals, which host sources cannot name)."""
    own = f"'nonce-{nonce}'"
    return (
        f"default-src 'none'; script-src {own}; style-src {own}; connect-src 'self'; media-src http: https:; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@web.middleware
async def closed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers 401 to all but OPEN_PATHS, whether or not there is such a path."""
    if request.path in OPEN_PATHS:
        return await handler(request)
    headers = {"WWW-Authenticate": 'Basic realm="StreamMachine admin", charset="UTF-8"'}
    return web.Response(status=401, text=CLOSED, headers=headers)


async def harden(request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every answer, errors too; none may be stored: the counts are of this second."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "StreamMachine"
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")


def make_app(station: Station, *, demo: bool, clock: Clock = time.monotonic) -> web.Application:
    """The application: in the demo the page, its JSON and /health, open to everybody; otherwise /health alone."""
    pages = Pages(station, clock)
    app = web.Application(middlewares=[] if demo else [closed])
    app.on_response_prepare.append(harden)
    app.router.add_get("/health", pages.health)
    if demo:
        app.router.add_get("/", pages.page)
        app.router.add_get("/api/status.json", pages.status_json)
    return app


async def start(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serves the application; returns the runner, which `await runner.cleanup()` closes, and the port that was bound
    (port 0 takes a free one). OSError when the address cannot be bound; nothing is left open then."""
    runner = await _started(app, lambda runner: web.TCPSite(runner, host, port))
    return runner, int(runner.addresses[0][1])


async def serve_on(app: web.Application, listener: socket.socket) -> web.AppRunner:
    """Serves the application on a socket that is bound already; `await runner.cleanup()` closes both."""
    return await _started(app, lambda runner: web.SockSite(runner, listener))


async def _started(app: web.Application, site: Callable[[web.AppRunner], web.BaseSite]) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await site(runner).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
