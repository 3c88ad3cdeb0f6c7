"""What a request on the source port means, as INTERFACES has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.ingest.mount import Mount, MountSettings, Source, SourceInfo
from appliance.ingest.source_request import Accept, Challenge, Decision, NewTitle, Options, Refuse, decide, leaves_body_out, matches
from appliance.wire.http_request import Request, RequestParser
from tests.ingest.source_makers import HandClock, basic, put, source

CAPTURED = Path(__file__).parent.parent / "data" / "requests"


def mounts(charset: str = "") -> dict[str, Mount]:
    settings = (MountSettings("test", "hack:me", "mp3", charset), MountSettings("aac", "other", "aac"), MountSettings("shut", ""))
    return {one.name: Mount(one, [], HandClock(), lambda: None, lambda mount: None) for one in settings}


def request(data: bytes) -> tuple[Request, bytes]:
    parser = RequestParser(allow_bare_line=True)
    found = parser.feed(data)
    assert isinstance(found, Request)
    return found, parser.rest


def decided(data: bytes, charset: str = "", on: dict[str, Mount] | None = None) -> Decision:
    """The decision for a request as sent, with its form behind it."""
    found, rest = request(data)
    return decide(found, rest[: found.content_length or 0], on or mounts(charset))


def title_get(query: str, *headers: str, path: str = "/admin/metadata", method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path}?{query} HTTP/1.0", *headers, "", ""]).encode("latin-1")


AUTH = f"Authorization: {basic()}"


@pytest.mark.parametrize(
    "head", [put(), source(), source(protocol="ICE/1.0"), put(mount="//test"), put(mount="/t%65st"), put(mount="/test?x=1")]
)
def test_a_source_with_the_password_is_taken(head: bytes) -> None:
    decision = decided(head)
    assert isinstance(decision, Accept)
    assert decision.mount.settings.name == "test"
    assert decision.user == "source"


@pytest.mark.parametrize("name", ["libshout-put", "liquidsoap-chunked"])
def test_captured_encoders_are_taken(name: str) -> None:
    assert isinstance(decided((CAPTURED / f"{name}.txt").read_bytes()), Accept)


def test_any_user_name_and_a_password_with_colons() -> None:
    decision = decided(put(f"Authorization: {basic(user='dj anna')}", password=None))
    assert isinstance(decision, Accept)
    assert decision.user == "dj anna"


@pytest.mark.parametrize("password", ["hack", "me", "hack:m", "hack:me ", "", "HACK:ME", "hack:mé"])
def test_a_wrong_password_is_a_challenge_that_is_told(password: str) -> None:
    assert decided(put(password=password)) == Challenge(True, "wrong password for mount test")


def test_no_password_is_a_challenge_that_is_normal() -> None:
    """libshout looks first."""
    decision = decided((CAPTURED / "libshout-put-poke.txt").read_bytes())
    assert isinstance(decision, Challenge)
    assert not decision.wrong


@pytest.mark.parametrize("header", ["Basic !!!", "Bearer abc", "Basic " + "x" * 5, "Basic bm9jb2xvbg=="])
def test_unreadable_credentials_are_told(header: str) -> None:
    decision = decided(put(f"Authorization: {header}", password=None))
    assert isinstance(decision, Challenge)
    assert decision.wrong


def test_a_mount_without_password_is_shut() -> None:
    decision = decided(put(mount="/shut", password=""))
    assert isinstance(decision, Challenge)
    assert decision.wrong
    assert not matches("", "")


@pytest.mark.parametrize("mount", ["/testXYZ", "/Test", "/", "/test/", "/test.mp3", "/a/test"])
def test_a_wrong_mount_is_404(mount: str) -> None:
    decision = decided(put(mount=mount))
    assert isinstance(decision, Refuse)
    assert decision.status == 404


@pytest.mark.parametrize(
    "kind", ["audio/mpeg", "AUDIO/MPEG", "audio/mp3", "audio/x-mpeg", "audio/mpeg; x=1", "application/octet-stream", None]
)
def test_content_types_of_mp3(kind: str | None) -> None:
    assert isinstance(decided(put(kind=kind)), Accept)


@pytest.mark.parametrize("kind", ["audio/aac", "audio/aacp"])
def test_content_types_of_aac(kind: str) -> None:
    assert isinstance(decided(put(mount="/aac", password="other", kind=kind)), Accept)
    decision = decided(put(kind=kind))
    assert isinstance(decision, Refuse)
    assert decision.status == 415


@pytest.mark.parametrize("kind", ["application/ogg", "audio/ogg", "text/plain", "video/webm", "audio/", "x"])
def test_another_content_type_is_415_and_says_what_is_taken(kind: str) -> None:
    decision = decided(put(kind=kind))
    assert isinstance(decision, Refuse)
    assert decision.status == 415
    assert "mp3" in decision.reason
    assert kind in decision.log


def test_a_full_mount_is_403_but_not_for_an_encoder_that_comes_back() -> None:
    found = mounts()
    for number in range(9):
        found["test"].join(Source("source" if number == 4 else f"user{number}", "Lavf/59", "x", "PUT", SourceInfo(), lambda reason: None))
    decision = decided(put(agent="other"), on=found)
    assert isinstance(decision, Refuse)
    assert decision.status == 403
    assert isinstance(decided(put(agent="Lavf/59"), on=found), Accept)


def test_ice_headers_are_kept_and_icy_ones_where_those_are_missing() -> None:
    ice = ("ice-name: B\xc3\xb6rse", "ice-description: d", "ice-public: 1")
    decision = decided(put(*ice, "icy-name: no", "icy-genre: Talk", "icy-url: http://x", "icy-br: 128,160"))
    assert isinstance(decision, Accept)
    assert decision.info == SourceInfo("Börse", "Talk", "http://x", "d", True, 128)


@pytest.mark.parametrize("bitrate", ["", "x", "-1", "99999999999", "\xb2", "128k"])
def test_a_bitrate_that_is_none_is_left_out(bitrate: str) -> None:
    decision = decided(put(f"ice-bitrate: {bitrate}"))
    assert isinstance(decision, Accept)
    assert decision.info.bitrate_kbps == 0


def test_header_text_is_cut_and_has_no_control_characters() -> None:
    """It goes into answers, pages and log lines."""
    decision = decided(put("ice-name: " + "n" * 5000 + "\x9b2J", agent="a\x9b2J\x85" + "b" * 5000))
    assert isinstance(decision, Accept)
    assert len(decision.info.name) == 500
    assert len(decision.agent) == 200
    assert decision.agent.isprintable()


@pytest.mark.parametrize("head", [b"OPTIONS * HTTP/1.1\r\n\r\n", b"OPTIONS /test HTTP/1.1\r\n\r\n", b"GET /admin/!POKE HTTP/1.1\r\n\r\n"])
def test_options_and_pokes(head: bytes) -> None:
    assert decided(head) == Options()


@pytest.mark.parametrize("name", ["libshout-options-tls", "libshout-admin-poke"])
def test_captured_pokes(name: str) -> None:
    assert decided((CAPTURED / f"{name}.txt").read_bytes()) == Options()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "put", "BREW"])
def test_anything_else_is_404(method: str) -> None:
    decision = decided(f"{method} /test HTTP/1.1\r\n\r\n".encode())
    assert isinstance(decision, Refuse)
    assert decision.status == 404


def test_a_path_cannot_write_into_the_log() -> None:
    """Neither a line of its own nor a terminal's command."""
    for head in (b"GET /%0aroot%20logged%20in%1b[2J HTTP/1.1\r\n\r\n", put(mount="/%0ax%1b[2J"), put(kind="a\x9bb")):
        decision = decided(head)
        assert isinstance(decision, Refuse)
        assert decision.log.isprintable()


def title(decision: Decision) -> str:
    assert isinstance(decision, NewTitle), decision
    assert decision.mount.settings.name == "test"
    return decision.title


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mode=updinfo&mount=/test&song=A+Song", "A Song"),
        ("mode=updinfo&mount=%2ftest&song=A%20Song", "A Song"),
        ("mode=updinfo&mount=test&song=A", "A"),
        ("mode=updinfo&song=A", "A"),
        ("mode=updinfo&mount=/test&artist=Queen&title=Radio", "Queen - Radio"),
        ("mode=updinfo&mount=/test&title=Radio", "Radio"),
        ("mode=updinfo&mount=/test&artist=&title=Radio", "Radio"),
        ("mode=updinfo&mount=/test&song=A&artist=Queen&title=Radio", "A"),
        ("mode=updinfo&mount=/test&song=", ""),
        ("mode=updinfo&mount=/test&song=a%26b%3dc", "a&b=c"),
        ("mode=updinfo&mount=/test&song=Sigur+R%C3%B3s", "Sigur Rós"),
        ("mode=updinfo&mount=/test&song=Sigur+R%F3s", "Sigur Rós"),
        ("mode=updinfo&mount=/test&charset=UTF%2d8&song=%C3%B3", "ó"),
        ("mode=updinfo&mount=/test&charset=koi8-r&song=%EB%C9%CE%CF", "Кино"),
        ("mode=updinfo&mount=/test&charset=punycode&song=%F3", "ó"),
        ("mode=updinfo&mount=/test&song=x%0d%0aIcy-Evil:%001", "x Icy-Evil:1"),
        ("mode=updinfo&mount=/test&song=Sigur R\xc3\xb3s", "Sigur Rós"),
    ],
)
def test_titles(query: str, expected: str) -> None:
    """song, artist and title, charset: strict UTF-8 first, then what was said, then Windows-1252 (CLIENTS)."""
    assert title(decided(title_get(query, AUTH))) == expected


def test_the_mounts_charset_is_used_where_none_is_said() -> None:
    query = "mode=updinfo&mount=/test&song=%EB%C9%CE%CF"
    assert title(decided(title_get(query, AUTH), charset="koi8-r")) == "Кино"
    assert title(decided(title_get(query + "&charset=cp1251", AUTH), charset="koi8-r")) == "лЙОП"


def test_a_url_goes_along() -> None:
    decision = decided(title_get("mode=updinfo&mount=/test&song=A&url=http%3A%2F%2Fx%2Fy", AUTH))
    assert isinstance(decision, NewTitle)
    assert decision.url == "http://x/y"


def test_a_title_by_form() -> None:
    """The body's fields, the query's beside them."""
    form = b"mode=updinfo&mount=%2Ftest&song=Queen%20-%20Don%27t+Stop"
    head = f"POST /admin/metadata HTTP/1.1\r\n{AUTH}\r\nContent-Length: {len(form)}\r\n\r\n".encode()
    assert title(decided(head + form)) == "Queen - Don't Stop"
    head = f"POST /admin/metadata?mode=updinfo&mount=/test HTTP/1.1\r\n{AUTH}\r\nContent-Length: 6\r\n\r\n".encode()
    assert title(decided(head + b"song=A")) == "A"


def test_a_chunked_form_is_411() -> None:
    decision = decided(f"POST /admin/metadata HTTP/1.1\r\n{AUTH}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    assert isinstance(decision, Refuse)
    assert decision.status == 411


def test_admin_cgi_needs_no_mount_and_no_header() -> None:
    """SHOUTcast's way: the password in the query says which mount."""
    decision = decided(title_get("pass=hack:me&mode=updinfo&song=Bj%F6rk", path="/admin.cgi"))
    assert title(decision) == "Björk"
    assert isinstance(decision, NewTitle)
    assert decision.shoutcast
    decision = decided(title_get("pass=other&song=A", path="/admin.cgi"))
    assert isinstance(decision, NewTitle)
    assert decision.mount.settings.name == "aac"


@pytest.mark.parametrize("given", ["%20hack:me", "hack:me%0a", "hack", ""])
def test_a_password_in_the_query_is_compared_to_the_letter(given: str) -> None:
    decision = decided(title_get(f"pass={given}&mode=updinfo&song=A", path="/admin.cgi"))
    assert isinstance(decision, Challenge)
    assert decision.wrong


@pytest.mark.parametrize(
    ("query", "header", "wrong"),
    [
        ("mode=updinfo&mount=/test&song=A", None, False),
        ("mode=updinfo&mount=/test&song=A", basic("nope"), True),
        ("mode=updinfo&mount=/test&song=A", basic("other"), True),
        ("mode=updinfo&song=A", basic("nope"), True),
        ("mode=updinfo&song=A", basic(""), True),
        ("mode=updinfo&mount=/shut&song=A", basic(""), True),
        ("mode=updinfo&mount=/test&song=A", "Basic ???", True),
    ],
)
def test_titles_need_the_mounts_password(query: str, header: str | None, wrong: bool) -> None:
    decision = decided(title_get(query, *([f"Authorization: {header}"] if header else [])))
    assert isinstance(decision, Challenge)
    assert decision.wrong is wrong


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("mode=updinfo&mount=/none&song=A", 404),
        ("mode=updinfo&mount=/test", 400),
        ("mode=viewxml&mount=/test&song=A", 400),
        ("mount=/test&song=A", 400),
    ],
)
def test_bad_title_updates(query: str, status: int) -> None:
    decision = decided(title_get(query, AUTH))
    assert isinstance(decision, Refuse)
    assert decision.status == status


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (put("Content-Length: 0"), True),
        (put("Expect: 100-continue"), True),
        (put(), False),
        (source(), False),
        (put("Content-Length: 5"), False),
        (put("Content-Length: 5", "Expect: 100-continue"), False),
        (put("Transfer-Encoding: chunked", "Expect: 100-continue"), False),
    ],
)
def test_when_another_request_may_follow_a_refused_source(head: bytes, expected: bool) -> None:
    """Only when no audio can be on its way."""
    assert leaves_body_out(request(head)[0]) is expected
