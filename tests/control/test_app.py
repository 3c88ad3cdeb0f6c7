"""What the demo's page and its JSON say, what they are protected by, and that a plain server is closed."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from html.parser import HTMLParser

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from appliance.control.app import duration, host_of, make_app, serve_on, start
from appliance.control.station import StationStatus
from tests.control.fake_station import FakeStation, worker_status

Client = TestClient[Request, Application]
Open = Callable[..., Awaitable[Client]]


class Page(HTMLParser):
    """The elements of a page: text by id, attributes by id, all start tags; fails on a wrongly nested end tag."""

    VOID = frozenset({"meta", "link", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.codes: list[str] = []
        self.open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        name = attributes.get("id")
        if name is not None:
            assert name not in self.attributes, f"id {name} twice"
            self.attributes[name] = attributes
            self.text[name] = ""
        if tag == "code":
            self.codes.append("")
        if tag not in self.VOID:
            self.open.append((tag, name))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, name in self.open:
            if name is not None:
                self.text[name] += data
            if tag == "code":
                self.codes[-1] += data


class ManualClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def station() -> FakeStation:
    return FakeStation()


@pytest.fixture
async def open_client() -> AsyncIterator[Open]:
    clients: list[Client] = []

    async def make(app: Application) -> Client:
        client: Client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


async def test_the_page_shows_the_stream_before_any_script_ran(station: FakeStation, open_client: Open) -> None:
    """Name, title, state, bitrate, buffer and counts are in the HTML itself."""
    client = await open_client(make_app(station, demo=True))
    answer = await client.get("/")
    page = Page(await answer.text())
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.text["title"] == "Harbour, Early"
    assert page.text["air"] == "On air"
    assert page.text["listeners"] == "1234"
    assert page.text["rewound"] == "56"
    assert page.text["workers"] == "1 of 2"
    assert page.text["bitrate"] == "128 kbit/s"
    assert page.text["buffer"] == "1:12:05 of 4:00:00"
    assert page.text["format"] == "mp3-44100-128-s"


async def test_the_rewind_slider_reaches_as_far_as_the_buffer(station: FakeStation, open_client: Open) -> None:
    """Live is 0 at its right end, the oldest reachable second at its left."""
    client = await open_client(make_app(station, demo=True))
    slider = Page(await (await client.get("/")).text()).attributes["rewind"]
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "-4325", "0", "0")


async def test_audio_is_on_the_listener_port_of_the_host_that_was_asked(station: FakeStation, open_client: Open) -> None:
    """However the visitor came by this server, the player and the addresses to copy name the same host."""
    client = await open_client(make_app(station, demo=True))
    for host, base in (
        ("radio.example:8003", "http://radio.example:8001"),
        ("192.0.2.7:8003", "http://192.0.2.7:8001"),
        ("[2001:db8::1]:8003", "http://[2001:db8::1]:8001"),
    ):
        page = Page(await (await client.get("/", headers={"Host": host})).text())
        assert json.loads(page.text["facts"])["audio"] == f"{base}/demo"
        assert page.codes[:2] == [f"{base}/demo", f"{base}/demo.m3u"]
        assert any(code == f"mpv {base}/demo" for code in page.codes)
        assert any(code.startswith("curl ") and code.endswith(f" {base}/demo") for code in page.codes)


async def test_what_an_encoder_sends_as_title_stays_text(station: FakeStation, open_client: Open) -> None:
    """A title full of markup shows as it is, in the heading and in the script's data, and closes nothing."""
    title = """</script><script>alert("x")</script> & 'Q' <!-- {{ 7 * 7 }}"""
    station.facts.streams[0].title = title
    client = await open_client(make_app(station, demo=True))
    html = await (await client.get("/")).text()
    page = Page(html)
    assert page.text["title"] == title
    assert json.loads(page.text["facts"])["status"]["streams"][0]["title"] == title
    assert "<script>alert" not in html
    assert [tag for tag, _ in page.tags].count("script") == 2


async def test_the_policy_admits_this_pages_own_style_and_script_only(station: FakeStation, open_client: Open) -> None:
    """The nonce is new for each page, and nothing inline, neither handler nor style attribute, would need more."""
    client = await open_client(make_app(station, demo=True))
    nonces = set()
    for _ in range(2):
        answer = await client.get("/")
        policy = answer.headers["Content-Security-Policy"]
        page = Page(await answer.text())
        allowed = re.findall(r"'nonce-([^']+)'", policy)
        used = {attributes["nonce"] for _, attributes in page.tags if "nonce" in attributes}
        assert set(allowed) == used
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert not [name for _, attributes in page.tags for name in attributes if name == "style" or name[:2] == "on"]
        nonces |= used
    assert len(nonces) == 2


async def test_nothing_is_loaded_from_elsewhere(station: FakeStation, open_client: Open) -> None:
    """The page works on a box without internet: no address but data, its own paths and the listener port."""
    client = await open_client(make_app(station, demo=True))
    page = Page(await (await client.get("/")).text())
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "/").startswith(("/", "data:"))


async def test_the_json_is_the_stations_status(station: FakeStation, open_client: Open) -> None:
    """/api/status.json decodes to the very facts."""
    client = await open_client(make_app(station, demo=True))
    answer = await client.get("/api/status.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert msgspec.json.decode(await answer.read(), type=StationStatus) == station.facts


async def test_the_station_is_asked_at_most_once_a_second(station: FakeStation, open_client: Open) -> None:
    """Many viewers cost what one does; a second later the answer is new."""
    clock = ManualClock()
    client = await open_client(make_app(station, demo=True, clock=clock))
    for _ in range(5):
        await client.get("/api/status.json")
        await client.get("/")
        clock.now_s += 0.09
    assert station.asked == 1
    station.facts.streams[0].listeners = 7
    clock.now_s = 101.0
    assert (await (await client.get("/api/status.json")).json())["streams"][0]["listeners"] == 7
    assert station.asked == 2


@pytest.mark.parametrize("path", ["/", "/api/status.json", "/health", "/nowhere"])
async def test_every_answer_carries_the_protecting_headers(path: str, station: FakeStation, open_client: Open) -> None:
    """Errors too."""
    client = await open_client(make_app(station, demo=True))
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "StreamMachine"


async def test_a_station_without_streams_or_audio_still_has_a_page(station: FakeStation, open_client: Open) -> None:
    """Before the first audio the buffer is empty and the bitrate unknown; with no stream there is no player."""
    stream = station.facts.streams[0]
    stream.on_air, stream.buffer_s, stream.head_at, stream.bitrate_bps, stream.stream_key = False, 0.0, 0.0, 0, ""
    stream.source, stream.title = None, ""
    page = Page(await (await (await open_client(make_app(station, demo=True))).get("/")).text())
    assert (page.text["air"], page.text["title"], page.text["format"]) == ("Off air", "demo", "mp3")
    station.facts.streams = []
    answer = await (await open_client(make_app(station, demo=True))).get("/")
    assert answer.status == 200
    assert "No stream is configured" in await answer.text()


@pytest.mark.parametrize("path", ["/", "/api/status.json", "/api/streams", "/nowhere", "/healthy", "/health/"])
async def test_a_plain_server_is_closed(path: str, station: FakeStation, open_client: Open) -> None:
    """Without the demo all but /health wants a user, and says so in words; no path is told from another."""
    client = await open_client(make_app(station, demo=False))
    for method in ("GET", "HEAD", "POST", "DELETE"):
        answer = await client.request(method, path)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "needs a user" in await (await client.get(path)).text()


@pytest.mark.parametrize("demo", [True, False])
async def test_health_is_open_and_follows_the_workers(demo: bool, station: FakeStation, open_client: Open) -> None:
    """200 while a worker serves, 503 when none does."""
    client = await open_client(make_app(station, demo=demo))
    answer = await client.get("/health")
    assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    station.facts.workers = [worker_status(0, "dead")]
    answer = await (await open_client(make_app(station, demo=demo))).get("/health")
    assert answer.status == 503


async def test_started_on_a_free_port_and_closed_again(station: FakeStation) -> None:
    """start tells the port; after cleanup nobody listens there; a taken port is an OSError."""
    runner, port = await start(make_app(station, demo=True), "127.0.0.1", 0)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.status == 200
    with pytest.raises(OSError):
        await start(make_app(station, demo=True), "127.0.0.1", port)
    await runner.cleanup()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_serves_on_a_socket_that_was_bound_before(station: FakeStation) -> None:
    """As the supervisor does it, which binds all its ports before anything starts."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    runner = await serve_on(make_app(station, demo=True), listener)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.status == 200
    await runner.cleanup()
    assert listener.fileno() == -1


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:8003", "localhost"),
        ("radio.example", "radio.example"),
        ("[::1]:8003", "[::1]"),
        ("", "localhost"),
        ("a b", "localhost"),
        ("x;rm -rf /", "localhost"),
        ("evil.example/path", "localhost"),
        ("user@evil.example", "localhost"),
    ],
)
def test_only_a_plain_host_is_taken_from_the_host_header(header: str, host: str) -> None:
    """It stands in command lines that people copy into a shell."""
    assert host_of(header) == host


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.9, "0:07"), (754, "12:34"), (3723, "1:02:03"), (-1, "0:00")])
def test_durations(seconds: float, text: str) -> None:
    """As a clock shows them, hours only when there are some."""
    assert duration(seconds) == text
