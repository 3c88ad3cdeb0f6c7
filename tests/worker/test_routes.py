"""What requests on the listener port mean: INTERFACES, "Listener port"; CLIENTS.md, "Players"."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from appliance.channel.messages import StreamEntry, WorkerSettings
from appliance.worker.answers import Answers
from appliance.worker.routes import Pass, Play, Reply, Router
from appliance.worker.stream import Stream, StreamTable
from tests.fakes import Air, counters, entry, parsed


class Desk:
    """A router over a table of streams; `full` is what the limits say."""

    def __init__(self, air: Air, settings: WorkerSettings | None = None, *entries: StreamEntry) -> None:
        self.table = StreamTable(counters())
        for one in entries or (entry(0, "test", root=True), entry(1, "aac", mime="audio/aac", aliases=["/live/aac", "listen.aac"])):
            self.table.add(one, air.writer.reader_fd)
        self.full = ""
        used = settings or WorkerSettings()
        self.router = Router(used, self.table, Answers(used), self._full)

    def _full(self, stream: Stream) -> str:
        del stream
        return self.full

    def ask(self, target: str, method: str = "GET", version: str = "1.1", **fields: str) -> Reply | Play | Pass:
        lines = [f"{method} {target} HTTP/{version}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        return self.router.route(parsed(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")))

    def reply(self, target: str, method: str = "GET", version: str = "1.1", **fields: str) -> tuple[int, dict[str, str], bytes]:
        """Status, header fields, body; Connection and Content-Length must be true."""
        found = self.ask(target, method, version, **fields)
        assert isinstance(found, Reply)
        head, _, body = found.data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        assert headers["connection"] == ("keep-alive" if found.keep_alive else "close")
        if method != "HEAD":
            assert int(headers.get("content-length", 0)) == len(body)
        return int(lines[0].split(" ")[1]), headers, body

    def play(self, target: str, **fields: str) -> Play:
        found = self.ask(target, **fields)
        assert isinstance(found, Play)
        return found


@pytest.fixture
def desk(air: Air) -> Iterator[Desk]:
    """`test` (root) and `aac` (two aliases), 20 s of audio each."""
    yield Desk(air)


def key(play: Play) -> str:
    """Which stream it is."""
    return play.stream.entry.key


@pytest.mark.parametrize("target", ["/test", "/test?x=y", "/te%73t", "http://radio.example/test", "/", "/;", "/;stream.nsv", "/?offset=3"])
def test_audio(desk: Desk, target: str) -> None:
    """By key, whatever its spelling; and by the paths of the root stream."""
    assert key(desk.play(target)) == "test"


@pytest.mark.parametrize("target", ["/aac", "/live/aac", "/listen.aac"])
def test_aliases(desk: Desk, target: str) -> None:
    """Other paths, slashes allowed."""
    assert key(desk.play(target)) == "aac"


@pytest.mark.parametrize("target", ["/nope", "/testXYZ", "/test/", "/TEST", "/test/../aac", "/favicon.ico", "/7.html", "/stats?sid=1", "*"])
def test_unknown_is_404(desk: Desk, target: str) -> None:
    """One plain-text line; the connection may go on."""
    status, headers, body = desk.reply(target)
    assert (status, headers["content-type"], body) == (404, "text/plain; charset=utf-8", b"no such stream\n")
    assert headers["connection"] == "keep-alive"


def test_no_root_stream(air: Air) -> None:
    """Then / is 404, and so is listen.pls."""
    desk = Desk(air, None, entry())
    assert desk.reply("/")[0] == desk.reply("/;stream.nsv")[0] == desk.reply("/listen.pls")[0] == 404


@pytest.mark.parametrize("target", ["/test?offset=-1", "/test?offset=abc", "/test?offset=nan", "/test?at=2026-01-01T00:00:00Z"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_bad_offset_is_400_with_the_reason(desk: Desk, target: str, method: str) -> None:
    """Never live audio for what could not be understood."""
    status, _, body = desk.reply(target, method)
    assert status == 400
    assert (method == "HEAD") is (body == b"")
    assert body.count(b"\n") <= 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_nothing_to_play_yet_is_503(method: str) -> None:
    """With Retry-After."""
    air = Air()
    status, headers, _ = Desk(air).reply("/test", method)
    assert status == 503
    assert int(headers["retry-after"]) > 0
    air.close()


def test_over_a_limit_is_503(desk: Desk) -> None:
    """With the reason; HEAD is no listener."""
    desk.full = "full house"
    status, headers, body = desk.reply("/test")
    assert (status, body) == (503, b"full house\n")
    assert "retry-after" in headers
    assert desk.reply("/test", "HEAD")[0] == 200
    assert desk.reply("/test.pls", host="h")[0] == 200


@pytest.mark.parametrize(
    ("pattern", "agent"), [("BadBot", "x BadBot/1.0"), ("(?i)badbot", "BADBOT"), ("^Wget", "Wget/1.2"), ("b(.)\\1", "boo")]
)
def test_banned_agents_get_403(air: Air, pattern: str, agent: str) -> None:
    """`ua_skip`: patterns, each on its own (flags, groups)."""
    desk = Desk(air, WorkerSettings(ua_skip=["^never$", "(a)(b)", pattern]))
    assert desk.reply("/test", user_agent=agent)[0] == 403
    assert desk.reply("/test", "HEAD", user_agent=agent)[0] == 403
    assert key(desk.play("/test", user_agent="VLC/3")) == key(desk.play("/test")) == "test"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "PROPFIND", "get", "TRACE", "CONNECT"])
def test_other_methods_are_405(desk: Desk, method: str) -> None:
    """With Allow, and the end of the connection: there may be a body."""
    status, headers, _ = desk.reply("/test", method)
    assert (status, headers["allow"], headers["connection"]) == (405, "GET, HEAD, OPTIONS", "close")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("SOURCE", "/test"), ("PUT", "/test"), ("PUT", "/nope"), ("GET", "/admin/metadata?mode=updinfo&song=x"),
        ("POST", "/admin/metadata"),
        ("GET", "/admin.cgi?pass=x&mode=updinfo&song=y"), ("GET", "/admin/!POKE"), ("OPTIONS", "*"),
    ],
)  # fmt: skip
def test_sources_and_titles_go_to_the_supervisor(desk: Desk, method: str, target: str) -> None:
    """ARCHITECTURE 2: one public port is enough."""
    assert isinstance(desk.ask(target, method), Pass)


@pytest.mark.parametrize("target", ["/admin/", "/admin/listclients", "/admin/killsource?mount=/test", "/api/streams", "/admin/metadata/x"])
def test_nothing_else_of_the_admin_is_reachable(desk: Desk, target: str) -> None:
    """Only routes of source credentials."""
    assert desk.reply(target)[0] == 404


def test_head_has_the_headers_of_get(desk: Desk) -> None:
    """Icy ones too, and no body."""
    got = desk.play("/test?offset=5", icy_metadata="1").head
    status, headers, body = desk.reply("/test?offset=5", "HEAD", icy_metadata="1")
    assert (status, body) == (200, b"")
    lines = [line for line in got.decode().split("\r\n")[1:] if line and not line.startswith("Date")]
    assert all(headers[line.split(": ")[0].lower()] == line.split(": ", 1)[1] for line in lines)
    assert headers["icy-metaint"] == "8192"


@pytest.mark.parametrize(("value", "icy"), [("1", True), (" 1 ", True), ("0", False), ("", False), ("yes", False), (None, False)])
def test_icy_metadata_only_when_asked_with_1(desk: Desk, value: str | None, icy: bool) -> None:
    """`Icy-MetaData: 0` means no metadata."""
    play = desk.play("/test", **({} if value is None else {"Icy-MetaData": value}))
    assert play.icy is icy
    assert (b"icy-metaint: 8192" in play.head) is icy


@pytest.mark.parametrize(("value", "probe"), [("bytes=0-1", True), ("bytes=0-", False), ("bytes=100-", False), ("bytes=0-10", False)])
def test_ranges_get_200_and_a_probe_is_known(desk: Desk, value: str, probe: bool) -> None:
    """Never 206; Safari's look at the first two bytes is no listener."""
    play = desk.play("/test", range=value)
    assert play.probe is probe
    assert play.head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Accept-Ranges: none\r\n" in play.head


@pytest.mark.parametrize("agent", ["WinampMPEG/5.0", "NSPlayer/9", "RealMedia Player", "shoutcastsource", "BlackBerry9000"])
def test_old_agents_get_icy_200(desk: Desk, agent: str) -> None:
    """And nobody else: it breaks newer Android."""
    assert desk.play("/test", user_agent=agent).head.startswith(b"ICY 200 OK\r\n")


def test_rewind_headers_tell_the_truth(desk: Desk, air: Air) -> None:
    """Seconds between the first byte and the head; a live listener: about burst. Clamped: what is really given."""
    for query, seconds in (("", 2.0), ("?offset=7", 7.0), ("?offset=7.3", 7.5), ("?offset=999", 20.0)):
        play = desk.play(f"/test{query}")
        told = re.search(rb"X-Rewind-Offset: ([\d.]+)\r\nX-Rewind-Time: (\S+)Z\r\n", play.head)
        assert told is not None
        assert float(told[1]) == seconds
        reader = play.stream.reader
        assert len(air.audio) - reader.pos[play.start.seq & reader.mask] == seconds * 16_000


@pytest.mark.parametrize("ending", ["pls", "m3u"])
def test_playlists_keep_the_query(desk: Desk, ending: str) -> None:
    """The host the client asked, the scheme it came with, its query parameters."""
    status, headers, body = desk.reply(f"/test.{ending}?offset=60&x=%20y", host="radio.example:8001")
    assert status == 200
    assert b"http://radio.example:8001/test?offset=60&x=%20y\n" in body
    assert headers["content-type"] == {"pls": "audio/x-scpls", "m3u": "audio/x-mpegurl"}[ending]
    assert desk.reply(f"/test.{ending}", "HEAD", host="h")[2] == b""


def test_playlists_of_the_root_and_of_aliases(desk: Desk) -> None:
    """listen.pls is the root stream's."""
    assert b"http://h/test\n" in desk.reply("/listen.pls", host="h")[2]
    assert b"/aac\n" in desk.reply("/live/aac.m3u", host="h")[2]
    assert desk.reply("/test.pls")[0] == desk.reply("/test.m3u", "GET", "1.0")[0] == 400, "no host to name"
    assert desk.reply("/nope.pls")[0] == desk.reply("/.pls")[0] == desk.reply("/test.pls.m3u")[0] == 404


def test_a_playlist_cannot_be_injected_into(desk: Desk) -> None:
    """CLIENTS: `?ua=%0A#EXT-X-ENDLIST` injected a line in 0.7.1; raw bytes of a host or query cannot either."""
    body = desk.reply("/test.m3u?ua=%0A#EXT&y=\xe9 z", host="evil host\t/x")[2]
    assert len(body.splitlines()) == 3
    assert b" " not in body.splitlines()[2]


def test_a_configured_host_wins(air: Air) -> None:
    """`host` of the stream."""
    desk = Desk(air, None, entry(host="radio.example"))
    assert b"http://radio.example/test\n" in desk.reply("/test.pls", host="10.0.0.1")[2]


def test_preflight(desk: Desk, air: Air) -> None:
    """CLIENTS: Access-Control-Allow-Headers: Icy-MetaData, Range; none of it when CORS is off."""
    status, headers, body = desk.reply("/test", "OPTIONS", origin="http://x", access_control_request_method="GET")
    assert (status, body, headers["access-control-allow-origin"]) == (204, b"", "*")
    assert headers["access-control-allow-headers"] == "Icy-MetaData, Range"
    off = Desk(air, WorkerSettings(cors_enabled=False)).reply("/test", "OPTIONS")[1]
    assert not [name for name in off if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/nope"), ("GET", "/test.pls"), ("OPTIONS", "/test"), ("HEAD", "/nope"), ("GET", "/index.html")]
)
@pytest.mark.parametrize("body", [{"content_length": "5"}, {"transfer_encoding": "chunked"}])
def test_a_body_ends_the_connection(desk: Desk, method: str, target: str, body: dict[str, str]) -> None:
    """It is not read here, so it must never be taken for the next request."""
    assert desk.reply(target, method, **body)[1]["connection"] == "close"


@pytest.mark.parametrize(
    ("version", "connection", "kept"), [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True)]
)
def test_keep_alive(desk: Desk, version: str, connection: str, kept: bool) -> None:
    """RFC 9112 9.3."""
    fields = {"connection": connection} if connection else {}
    for target in ("/nope", "/test.pls", "/index.html", "/test?offset=x"):
        assert (desk.reply(target, version=version, **fields)[1]["connection"] == "keep-alive") is kept


def test_pages(desk: Desk, air: Air) -> None:
    """index.html names the streams; crossdomain.xml is there while CORS is."""
    status, headers, body = desk.reply("/index.html")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b'href="/test"' in body
    assert b'href="/aac"' in body
    assert desk.reply("/crossdomain.xml")[0] == 200
    assert Desk(air, WorkerSettings(cors_enabled=False)).reply("/crossdomain.xml")[0] == 404
