"""Request heads: what real encoders and players send (tests/data/requests), and the answer to each kind of trouble."""

from pathlib import Path

import pytest

from appliance.wire.http_request import (
    BARE_LINE_MAX_BYTES,
    EMPTY_LINES_MAX,
    FIELDS_MAX,
    FIRST_LINE_MAX_BYTES,
    HEAD_MAX_BYTES,
    TARGET_MAX_BYTES,
    BadRequest,
    BareLine,
    FieldsParser,
    HeadTooLarge,
    LengthInvalid,
    Request,
    RequestError,
    RequestParser,
    TooManyHeaders,
    UriTooLong,
    VersionNotSupported,
    form_fields,
)

CORPUS = Path(__file__).parent.parent / "data" / "requests"
AUDIO_BYTES = 300

# file: method, path, version, what else must be so
SERVED: dict[str, tuple[str, str, tuple[int, int], dict[str, object]]] = {
    "butt-icecast-source": ("SOURCE", "/test", (1, 0), {"protocol": "ICE", "rest_bytes": AUDIO_BYTES}),
    "butt-shoutcast-title": ("GET", "/admin.cgi", (1, 0), {"song": b"Bj\xf6rk - J\xf3ga", "pass": b"hackme"}),
    "butt-status-poll": ("GET", "/7.html", (1, 0), {"keep_alive": False}),
    "chrome-audio": ("GET", "/test", (1, 1), {"range": "bytes=0-", "keep_alive": True}),
    "chrome-preflight": ("OPTIONS", "/test", (1, 1), {"access-control-request-headers": "icy-metadata,range"}),
    "curl-icy": ("GET", "/test", (1, 1), {"icy-metadata": "1", "keep_alive": True}),
    "curl-put-file": ("PUT", "/test", (1, 1), {"content_length": 1_213_753, "expects_continue": True}),
    "exoplayer": ("GET", "/test", (1, 1), {"icy-metadata": "1", "keep_alive": True}),
    "ffmpeg-play": ("GET", "/test", (1, 1), {"icy-metadata": "1", "keep_alive": False, "range": "bytes=0-"}),
    "ffmpeg-put": ("PUT", "/test", (1, 1), {"expects_continue": True, "content_length": None, "chunked": False}),
    "ffmpeg-source-audio-behind": ("SOURCE", "/test", (1, 1), {"rest_bytes": 400, "expects_continue": False}),
    "injection": ("GET", "/test.m3u8", (1, 1), {"ua": b"\n#EXT-X-ENDLIST", "session_id": b"x\r\nevil"}),
    "lf-hardware-audio-behind": ("SOURCE", "/test", (1, 0), {"ice-name": "Studio 1", "rest_bytes": AUDIO_BYTES}),
    "lf-title-raw-spaces": ("GET", "/admin.cgi", (1, 0), {"song": b"Mot\xf6rhead - Ace of Spades"}),
    "libshout-admin-poke": ("GET", "/admin/!POKE", (1, 1), {"keep_alive": True}),
    "libshout-options-tls": ("OPTIONS", "*", (1, 1), {"upgrade": "TLS/1.0, HTTP/1.1", "keep_alive": True}),
    "libshout-put": ("PUT", "/test", (1, 1), {"expects_continue": True, "content_length": None}),
    "libshout-put-poke": ("PUT", "/test", (1, 1), {"content_length": 0, "keep_alive": True}),
    "libshout-source": ("SOURCE", "/test", (1, 0), {"keep_alive": False, "ice-audio-info": "bitrate=128"}),
    "libshout-title": ("GET", "/admin/metadata", (1, 1), {"mount": b"/test", "charset": b"UTF-8", "song": b"demo"}),
    "libshout-title-post": ("POST", "/admin/metadata", (1, 1), {"content_length": 61, "rest_bytes": 61}),
    "liquidsoap-chunked": ("PUT", "/test", (1, 1), {"chunked": True, "expects_continue": True, "rest_bytes": 307}),
    "mpv-play": ("GET", "/test", (1, 1), {"user-agent": "libmpv"}),
    "pipelined": ("GET", "/a", (1, 1), {"rest_bytes": 40}),
    "proxy-absolute-form": ("GET", "/test", (1, 1), {"offset": b"60"}),
    "safari-probe": ("GET", "/test", (1, 1), {"range": "bytes=0-1", "icy-metadata": "0"}),
    "title-raw-utf8": ("GET", "/admin/metadata", (1, 0), {"song": "Sigur Rós".encode()}),
    "vlc-2-icy": ("GET", "/test", (1, 1), {"icy-metadata": "1", "keep_alive": False}),
    "vlc-first": ("GET", "/test", (1, 1), {"range": "bytes=0-", "icy-metadata": None}),
    "vlc-icy": ("GET", "/test", (1, 0), {"icy-metadata": "1", "keep_alive": False}),
    "wget": ("GET", "/test", (1, 1), {"keep_alive": True}),
    "winamp": ("GET", "/", (1, 0), {"icy-metadata": "1", "keep_alive": False}),
}
BARE = {
    "bad-http09": b"GET /",  # on a port that takes passwords any line may be one
    "butt-shoutcast": b"hack:me",
    "libshout-bare-poke": b"!POKE",
    "shoutcast-mount-password": b"/test:hack me",
}
REFUSED: dict[str, tuple[type[RequestError], int]] = {
    "bad-10000-headers": (TooManyHeaders, 431),
    "bad-audio": (BadRequest, 400),
    "bad-empty-lines": (BadRequest, 400),
    "bad-folded": (BadRequest, 400),
    "bad-http09": (BadRequest, 400),
    "bad-http2": (VersionNotSupported, 505),
    "bad-huge-line": (HeadTooLarge, 431),
    "bad-huge-target": (UriTooLong, 414),
    "bad-lone-cr": (BadRequest, 400),
    "bad-negative-length": (LengthInvalid, 400),
    "bad-no-colon": (BadRequest, 400),
    "bad-nul-in-value": (BadRequest, 400),
    "bad-smuggling": (LengthInvalid, 400),
    "bad-space-before-colon": (BadRequest, 400),
    "bad-tls-hello": (BadRequest, 400),
    "bad-transfer-coding": (LengthInvalid, 501),
    "bad-two-hosts": (BadRequest, 400),
    "bad-two-lengths": (LengthInvalid, 400),
    "butt-shoutcast": (BadRequest, 400),
    "libshout-bare-poke": (BadRequest, 400),
    "shoutcast-mount-password": (BadRequest, 400),
}
UNFINISHED = {"half-request"}


def sent(name: str) -> bytes:
    return (CORPUS / f"{name}.txt").read_bytes()


def parsed(data: bytes) -> Request:
    request = RequestParser().feed(data)
    assert isinstance(request, Request)
    return request


def refused(data: bytes, allow_bare_line: bool = False) -> RequestError:
    with pytest.raises(RequestError) as caught:
        RequestParser(allow_bare_line).feed(data)
    return caught.value


def test_corpus_is_all_judged() -> None:
    """Every request file has an expected result, and the other way round."""
    assert {path.stem for path in CORPUS.glob("*.txt")} == {*SERVED, *BARE, *REFUSED, *UNFINISHED}


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("name", SERVED)
def test_real_requests_are_read(name: str, bare: bool) -> None:
    """What real clients send is read as they mean it, on ports that take passwords too."""
    method, path, version, more = SERVED[name]
    parser = RequestParser(allow_bare_line=bare)
    request = parser.feed(sent(name))
    assert isinstance(request, Request)
    assert (request.method, request.path, request.version) == (method, path, version)
    for key, expected in more.items():
        if key == "rest_bytes":
            assert len(parser.rest) == expected
        elif hasattr(request, key):
            assert getattr(request, key) == expected
        elif isinstance(expected, bytes):
            assert request.query_bytes(key) == expected
        else:
            assert request.headers.get(key) == expected
    assert parser.received == sent(name)
    assert sent(name)[request.head_bytes :] == parser.rest


@pytest.mark.parametrize("name", BARE)
def test_bare_lines(name: str) -> None:
    """A password line is given as it is where it is allowed; what follows it is the rest."""
    parser = RequestParser(allow_bare_line=True)
    line = parser.feed(sent(name))
    assert line == BareLine(BARE[name])
    assert sent(name) == BARE[name] + b"\r\n" + parser.rest


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """Trouble is answered with its own status and one line that repeats nothing the client sent."""
    kind, status = REFUSED[name]
    error = refused(sent(name))
    assert type(error) is kind
    assert error.status == status
    assert error.reason == str(error)
    assert error.reason.isprintable()


def test_half_a_request_waits() -> None:
    """Without the blank line there is no answer yet, but the request has started."""
    parser = RequestParser()
    before = parser.started
    assert parser.feed(sent("half-request")) is None
    assert (before, parser.started) == (False, True)
    assert parser.rest == b""
    assert parser.received == sent("half-request")


def test_empty_lines_first() -> None:
    """Up to four empty lines before the request are skipped, whatever their ends; they do not start a request."""
    parser = RequestParser()
    assert parser.feed(b"\r\n\n" * (EMPTY_LINES_MAX // 2)) is None
    assert not parser.started
    request = parser.feed(b"GET / HTTP/1.0\n\nrest")
    assert isinstance(request, Request)
    assert request.head_bytes == 6 + 16
    assert parser.rest == b"rest"
    assert refused(b"\n" * (EMPTY_LINES_MAX + 1)).status == 400


def test_line_ends_may_be_mixed() -> None:
    """CRLF and bare LF both end a line, in one head too; a CR before the CR does not."""
    assert parsed(b"GET / HTTP/1.1\nA: 1\r\nB: 2\n\r\n").headers == {"a": "1", "b": "2"}
    assert parsed(b"GET / HTTP/1.1\r\nA: 1\nB: 2\r\n\n").headers == {"a": "1", "b": "2"}
    assert refused(b"GET / HTTP/1.1\r\r\n\r\n").status == 400
    assert refused(b"GET / HTTP/1.1\r\nA: 1\r\r\n\r\n").status == 400


def test_one_head_per_parser() -> None:
    """A parser is spent after its result or its error: a new one is made and fed the rest."""
    parser = RequestParser()
    parser.feed(sent("pipelined"))
    with pytest.raises(RuntimeError):
        parser.feed(b"")
    following = RequestParser().feed(parser.rest)
    assert isinstance(following, Request)
    assert following.path == "/b"
    parser = RequestParser()
    with pytest.raises(BadRequest):
        parser.feed(b"\0")
    with pytest.raises(RuntimeError):
        parser.feed(b"GET / HTTP/1.1\r\n\r\n")


def test_garbage_is_refused_before_its_line_ends() -> None:
    """A TLS hello or audio is answered at its first control character, not after the deadline."""
    assert refused(b"\x16\x03\x01").status == 400
    assert refused(b"GET /\x00").status == 400
    assert refused(b"hackme\x07", allow_bare_line=True).status == 400


@pytest.mark.parametrize(
    "line",
    [
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.10",
        b"GET / http/1.1",
        b"GET / ICY/1.0",
        b"GET / HTTP/1.1 x",
        b"GET\t/\tHTTP/1.1",
        b"GET /a b HTTP/1.1",  # spaces are forgiven in the query alone
        b"GET test HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"A" * 33 + b" / HTTP/1.1",
        b"GET /\xb2 HTTP/\xb2.\xb2",
    ],
)
def test_bad_request_lines(line: bytes) -> None:
    """What is no request line is a 400 as soon as it ends."""
    assert type(refused(line + b"\r\n")) is BadRequest


def test_versions() -> None:
    """HTTP/1.x and ICE/1.0 are spoken; a space at the line's end is forgiven; other versions are 505."""
    assert parsed(b"GET / HTTP/1.0 \r\n\r\n").version == (1, 0)
    assert parsed(b"GET / HTTP/1.1\r\n\r\n").version == (1, 1)
    assert parsed(b"GET / HTTP/1.2\r\n\r\n").version == (1, 2)
    assert (parsed(b"SOURCE /x ICE/1.0\n\n").protocol, parsed(b"SOURCE /x ICE/1.1\n\n").version) == ("ICE", (1, 0))
    for version in (b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"ICE/2.0"):
        assert refused(b"GET / " + version + b"\r\n").status == 505


def test_bare_line_limits() -> None:
    """A line that means to be HTTP or is too long for a password is no bare line."""
    for line in (b"GET / HTTP/1", b"SOURCE / ICE/x", b"p" * (BARE_LINE_MAX_BYTES + 1), b"pass\rword"):
        assert type(refused(line + b"\n", allow_bare_line=True)) is BadRequest
    longest = b"p" * BARE_LINE_MAX_BYTES
    assert RequestParser(True).feed(longest + b"\n") == BareLine(longest)
    assert RequestParser(True).feed("\npäss wörd\r\n".encode("latin-1")) == BareLine("päss wörd".encode("latin-1"))


def test_head_size_limit() -> None:
    """16 KiB in all, from the first byte to the blank line's end: not one byte more, and no waiting for the end."""
    start = b"\r\nGET / HTTP/1.1\r\nX: "
    fitting = start + b"a" * (HEAD_MAX_BYTES - len(start) - 4) + b"\r\n\r\n"
    assert parsed(fitting + b"audio" * 10_000).head_bytes == HEAD_MAX_BYTES
    assert type(refused(fitting.replace(b"X", b"XY"))) is HeadTooLarge
    assert type(refused(start + b"a" * HEAD_MAX_BYTES)) is HeadTooLarge
    assert RequestParser().feed(fitting[:-5]) is None


def test_number_of_headers_limit() -> None:
    """100 header lines pass, repeated names counted each; the 101st is refused, at once."""
    start = b"GET / HTTP/1.1\r\n"
    assert len(parsed(start + b"".join(b"h%d: x\r\n" % n for n in range(FIELDS_MAX)) + b"\r\n").headers) == FIELDS_MAX
    assert type(refused(start + b"a:b\r\n" * (FIELDS_MAX + 1))) is TooManyHeaders


def test_target_limit() -> None:
    """8 KiB of target pass; more is 414, also when the line never ends; a long line that is no request is 400."""
    longest = b"/" + b"a" * (TARGET_MAX_BYTES - 1)
    assert len(parsed(b"PROPPATCH " + longest + b" HTTP/1.1\r\n\r\n").target) == TARGET_MAX_BYTES
    assert type(refused(b"GET " + longest + b"a HTTP/1.1\r\n")) is UriTooLong
    assert type(refused(b"GET /" + b"a" * FIRST_LINE_MAX_BYTES)) is UriTooLong
    assert type(refused(b"a" * (FIRST_LINE_MAX_BYTES + 1))) is BadRequest


@pytest.mark.parametrize("field", [b":x", b"a b: x", b"a\x00: x", b"\xe4: x", b"a", b"a\t: x", b"{a}: x"])
def test_bad_header_names(field: bytes) -> None:
    """A header name is a token with its colon right behind it."""
    assert type(refused(b"GET / HTTP/1.1\r\n" + field + b"\r\n\r\n")) is BadRequest


def test_header_values() -> None:
    """Outer blanks go, tabs and 8-bit characters stay, repeated names are joined, empty values are values."""
    request = parsed(b"GET / HTTP/1.1\r\nA: \t x\ty \t\r\nB:\r\nice-name: Caf\xe9\r\na: z\r\n\r\n")
    assert request.headers == {"a": "x\ty, z", "b": "", "ice-name": "Caf\xe9"}
    for control in b"\x00\x01\x0b\x1b\x7f":
        assert type(refused(b"GET / HTTP/1.1\r\nA: x" + bytes((control,)) + b"\r\n\r\n")) is BadRequest


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        (b"Content-Length: 0", 0, False),
        (b"Content-Length: 0042", 42, False),
        (b"Content-Length: 5\r\nContent-Length: 5", 5, False),
        (b"Content-Length: 999999999999999999", 999_999_999_999_999_999, False),
        (b"Transfer-Encoding: Chunked", None, True),
    ],
)
def test_body_length(fields: bytes, length: int | None, chunked: bool) -> None:
    """A length that is sure is given."""
    request = parsed(b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n")
    assert (request.content_length, request.chunked) == (length, chunked)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: ", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: 0x5", 400),
        (b"Content-Length: 5_0", 400),
        (b"Content-Length: \xb2", 400),
        (b"Content-Length: 5, 6", 400),
        (b"Content-Length: 5,", 400),
        (b"Content-Length: 1000000000000000000", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: identity", 501),
        (b"Transfer-Encoding: \x0bchunked", 400),
    ],
)
def test_body_length_unsure(fields: bytes, status: int) -> None:
    """A length that two servers could read in two ways is refused (request smuggling)."""
    assert refused(b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n").status == status


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: Close\r\n", False),
        (b"1.1", b"Connection: foo, close\r\n", False),
        (b"1.1", b"Connection: TE\r\nConnection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, keep_alive: bool) -> None:
    """RFC 9112 9.3."""
    assert parsed(b"GET / HTTP/" + version + b"\r\n" + fields + b"\r\n").keep_alive is keep_alive


def test_expect_is_for_http_1_1() -> None:
    """An HTTP/1.0 client does not wait for 100 Continue."""
    assert parsed(b"PUT / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n").expects_continue
    assert not parsed(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n").expects_continue
    assert not parsed(b"PUT / HTTP/1.1\r\nExpect: cake\r\n\r\n").expects_continue


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/a%20b/%2Fc?x=/y", "/a b//c"),
        (b"/%C3%A9", "/é"),
        (b"/%E9", "/é"),
        (b"/\xc3\xa9", "/é"),
        (b"/%2541", "/%41"),
        (b"/%zz%", "/%zz%"),
        (b"/;stream.nsv", "/;stream.nsv"),
        (b"http://h:8001/a?b", "/a"),
        (b"HTTP://h?b", "/"),
        (b"//evil/x", "//evil/x"),
        (b"*", "*"),
    ],
)
def test_path(target: bytes, path: str) -> None:
    """The path is decoded once, UTF-8 else Latin-1, without query and without a proxy's scheme and host."""
    assert parsed(b"GET " + target + b" HTTP/1.1\r\n\r\n").path == path


def test_connect_is_read() -> None:
    """CONNECT is left to the router to refuse; its target is no path."""
    assert parsed(b"CONNECT h:443 HTTP/1.1\r\n\r\n").path == "h:443"


def test_query() -> None:
    """Fields are decoded, + is a space, the last of a name wins; bytes are to be had raw; the target stays as sent."""
    request = parsed(b"GET /x?a=1&b=%E4+%C3%A4&a=2+3&&c&d=e=f&%61%20=?g+ HTTP/1.1\r\n\r\n")
    assert request.query == {"a": "2 3", "b": "\xe4 \xc3\xa4", "c": "", "d": "e=f", "a ": "?g "}
    assert request.query_bytes("b") == b"\xe4 \xc3\xa4"
    assert request.query_bytes("z") is None
    assert request.raw_query == "a=1&b=%E4+%C3%A4&a=2+3&&c&d=e=f&%61%20=?g+"
    assert parsed(b"GET /x HTTP/1.1\r\n\r\n").query == {}


def test_form_fields() -> None:
    """A POST form of a title update is decoded like a query."""
    body = sent("libshout-title-post").partition(b"\r\n\r\n")[2]
    assert form_fields(body) == {b"mode": b"updinfo", b"mount": b"/test", b"song": b"Queen - Don't Stop Me"}


def test_fields_behind_a_password() -> None:
    """The icy- headers behind a SHOUTcast password are read with the same limits, audio behind them is the rest."""
    password = RequestParser(allow_bare_line=True)
    password.feed(sent("butt-shoutcast") + b"\xff\xfbaudio")
    fields = FieldsParser()
    assert fields.feed(b"") is None
    got = fields.feed(password.rest)
    assert got is not None
    assert (got["icy-name"], got["icy-br"], got["icy-irc"]) == ("No Name", "128", "")
    assert fields.rest == b"\xff\xfbaudio"
    spent = FieldsParser()
    with pytest.raises(TooManyHeaders):
        spent.feed(b"a:b\n" * 101)
    with pytest.raises(RuntimeError):
        spent.feed(b"\n")


def test_any_bytes_like_input() -> None:
    """bytes, bytearray and memoryview are all taken, and not kept: the caller may reuse its buffer."""
    buffer = bytearray(b"GET / HTTP/1.1\r\nA: b\r\n")
    parser = RequestParser()
    parser.feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    request = parser.feed(memoryview(b"\r\n"))
    assert isinstance(request, Request)
    assert request.headers == {"a": "b"}
