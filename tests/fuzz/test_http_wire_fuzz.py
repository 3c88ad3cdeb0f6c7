"""Hostile bytes: only documented exceptions come out, and what comes out can be used without another one."""

from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.wire.basic_auth import challenge, parse_basic
from appliance.wire.chunked import BadChunk, ChunkedDecoder
from appliance.wire.http_request import (
    FIELDS_MAX,
    HEAD_MAX_BYTES,
    TARGET_MAX_BYTES,
    BareLine,
    FieldsParser,
    Request,
    RequestError,
    RequestParser,
    form_fields,
)
from appliance.wire.http_response import REASONS, head, text
from appliance.wire.icy import IcyDemuxer, Metadata, block, decode_title, is_known_charset, join_title, parse_block
from appliance.wire.playlists import m3u, pls, safe_url

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=400)
SEEDS = [path.read_bytes() for path in sorted((Path(__file__).parent.parent / "data" / "requests").glob("*.txt"))]
SPLICES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b"%", b"%00", b"%0d%0a", b"?", b"\xff", b"\xc3"),
    *(b"HTTP/1.1", b"ICE/1.0", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 1\r\n", b"Content-Length: 2\n"),
    *(b"Host: x\r\n", b" folded\r\n", b"a" * 9_000, b"b: c\r\n" * 101, b"http://", b"'", b"';", b"Basic ====\r\n"),
]
splices = st.one_of(st.sampled_from(SPLICES), st.binary(max_size=4))
edits = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 6), splices), max_size=6)
chunk_pieces = st.sampled_from([b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b";"])
charsets = st.one_of(st.none(), st.text(max_size=30), st.sampled_from(["utf-16", "utf-7", "idna", "hex", "cp932"]))


def mutated(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The seed with bytes cut out and others put in, most of them in its head."""
    for at, cut_bytes, splice in changes:
        at %= len(seed) + 1
        seed = seed[:at] + splice + seed[at + cut_bytes :]
    return seed


def use(request: Request) -> None:
    """Does with a request what the servers do with one."""
    assert request.head_bytes <= HEAD_MAX_BYTES
    assert len(request.target) <= TARGET_MAX_BYTES
    assert len(request.headers) <= FIELDS_MAX
    assert not set("\r\n\0") & set(request.target + "".join(request.headers) + "".join(request.headers.values()))
    assert request.path
    assert request.keep_alive in (True, False)
    assert request.expects_continue in (True, False)
    assert request.content_length is None or (0 <= request.content_length < 1 << 63 and not request.chunked)
    parse_basic(request.headers.get("authorization"))
    for name in request.query:
        decode_title(request.query_bytes(name) or b"", request.query.get("charset"))
    assert len(pls("http://h" + request.target, request.path).decode().splitlines()) == 6
    head(200, request.headers.items())  # what came in as a header can go out as one


@FIXED
@given(st.sampled_from(SEEDS), edits, st.booleans(), st.integers(0, 700))
def test_requests(seed: bytes, changes: list[tuple[int, int, bytes]], bare: bool, cut: int) -> None:
    """Real requests, damaged: a request that can be used, a bare line, a refusal, or waiting for more."""
    data = mutated(seed, changes)
    parser = RequestParser(bare)
    try:
        event = parser.feed(data[:cut]) or parser.feed(data[cut:])
    except RequestError as error:
        assert error.status in REASONS
        assert b"\r\n\r\n" in text(error.status, error.reason)
        return
    if isinstance(event, Request):
        use(event)
    elif isinstance(event, BareLine):
        assert bare
        assert not set(b"\r\n\0") & set(event.text)
    else:
        assert len(data) < HEAD_MAX_BYTES


@FIXED
@given(st.sampled_from(SEEDS), edits)
def test_fields(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    """Header lines behind a password, damaged."""
    parser = FieldsParser()
    try:
        fields = parser.feed(mutated(seed, changes).partition(b"\n")[2])
    except RequestError:
        return
    assert fields is None or len(fields) <= FIELDS_MAX


@FIXED
@given(st.lists(st.one_of(st.binary(max_size=20), chunk_pieces), max_size=10))
def test_chunked(pieces: list[bytes]) -> None:
    """Never more payload than input; only BadChunk comes out."""
    decoder = ChunkedDecoder()
    try:
        payload_bytes = sum(len(decoder.feed(piece)) for piece in pieces)
    except BadChunk as fault:
        payload_bytes = len(fault.payload)
    assert payload_bytes + len(decoder.rest) <= sum(map(len, pieces))


@FIXED
@given(st.integers(1, 40), st.binary(max_size=400))
@example(1, b"a\xff" + b"StreamTitle='" * 400)
def test_icy_streams(meta_interval: int, stream: bytes) -> None:
    """A server that sends nonsense: audio and text come out, never more than came in."""
    for event in IcyDemuxer(meta_interval).feed(stream):
        if isinstance(event, Metadata):
            assert len(event.raw) <= 4_080
            assert not any(ord(character) < 32 for character in event.title + event.url)


@FIXED
@given(st.binary(max_size=300), charsets)
def test_titles(raw: bytes, charset: str | None) -> None:
    """Any bytes in any charset are a title that goes into a block and comes back."""
    title = decode_title(raw, charset)
    assert title == title.strip()
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in title)
    again = parse_block(block(join_title("", title), title)[1:]).title
    assert again == title.replace("';", "' ;") or title.startswith(";") or len(title) > 1_000
    is_known_charset(charset or "")


@FIXED
@given(st.text(max_size=200), st.text(max_size=200))
def test_playlists_and_heads(url: str, title: str) -> None:
    """No text adds a line to a playlist, to a challenge or to an answer."""
    assert len(pls(url, title).decode().splitlines()) == 6
    assert len(m3u(url, title).decode().splitlines()) == 3
    assert safe_url(url).isascii()
    assert b"\n" not in challenge(title).encode("utf-8", "replace")
    assert text(400, title).count(b"\n") == text(400, "").count(b"\n")


@FIXED
@given(st.one_of(st.text(max_size=60), st.text("abcdABCD0123+/= ", max_size=60).map(lambda tail: "Basic " + tail)))
def test_credentials(header: str) -> None:
    """Two strings or none."""
    credentials = parse_basic(header)
    assert credentials is None or all(isinstance(part, str) for part in credentials)


@FIXED
@given(st.binary(max_size=200))
def test_forms(form: bytes) -> None:
    """Any bytes are a form with fields, or without."""
    assert sum(map(len, form_fields(form).values())) <= len(form)
