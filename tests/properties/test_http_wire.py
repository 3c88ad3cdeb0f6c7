"""Any split of the input gives the same events: whole, byte by byte, randomly cut, with anything behind it."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.wire.chunked import BadChunk, ChunkedDecoder
from appliance.wire.http_request import BareLine, FieldsParser, Request, RequestError, RequestParser
from appliance.wire.icy import ICY_BLOCK_MAX, IcyDemuxer, Metadata, block

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=150)
CORPUS = sorted((Path(__file__).parent.parent / "data" / "requests").glob("*.txt"))
LONGEST_BYTEWISE = 20_000  # beyond every limit of a head; more would only cost time

cut_points = st.lists(st.integers(0, 2_000), max_size=8)
anything = st.binary(max_size=60)


def mixtures(pieces: list[bytes]) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.one_of(anything, st.sampled_from(pieces)), max_size=9)


def split(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
        yield data[at:cut]
        at = cut
    yield data[at:]


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(min(len(data), LONGEST_BYTEWISE)))


def head_of(parser: RequestParser | FieldsParser, pieces: Iterable[bytes], data: bytes) -> tuple[object, ...]:
    """What a caller sees: the event and what follows the head, or the refusal."""
    for piece in pieces:
        try:
            event = parser.feed(piece)
        except RequestError as error:
            return type(error), error.status, error.reason
        if event is not None:
            assert data.startswith(parser.received)
            return event, data[len(parser.received) - len(parser.rest) :]
    assert parser.rest == b""
    return (None,)


def same_for_any_split(data: bytes, cuts: Iterable[int]) -> tuple[object, ...]:
    for bare in (True, False):
        whole = head_of(RequestParser(bare), [data], data)
        assert head_of(RequestParser(bare), split(data, cuts), data) == whole
        assert head_of(RequestParser(bare), bytewise(data), data) == whole
    fields = head_of(FieldsParser(), [data], data)
    assert head_of(FieldsParser(), split(data, cuts), data) == fields
    return whole


line_ends = st.sampled_from([b"\r\n", b"\n"])
words = st.text("abcdefXYZ019-_.", min_size=1, max_size=12).map(str.encode)
queries = st.sampled_from([b"", b"?a=b", b"?song=a%20b&c=+", b"?a b"])
targets = st.builds(lambda path, query: b"/" + path + query, words, queries)
values = st.one_of(words, st.just(b""), st.just(b"a\tb, c"), st.just(b"caf\xe9"), st.just(b"bytes=0-"))


@st.composite
def good_heads(draw: st.DrawFn) -> tuple[bytes, dict[str, str]]:
    """A head that must be read, and its headers."""
    end = draw(line_ends)
    lines = [draw(st.sampled_from([b"GET ", b"SOURCE ", b"PUT "])) + draw(targets) + b" HTTP/1.1"]
    headers: dict[str, str] = {}
    for name, value in draw(st.lists(st.tuples(words.map(lambda word: b"x-" + word), values), max_size=12)):
        lines.append(name + draw(st.sampled_from([b":", b": ", b":\t "])) + value)
        key, text = name.decode().lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    skipped = draw(st.sampled_from([b"", b"\r\n", b"\n\n"]))
    return skipped + b"".join(line + draw(st.sampled_from([end, end, b"\n"])) for line in [*lines, b""]), headers


@FIXED
@given(good_heads(), anything, cut_points)
def test_good_heads(head: tuple[bytes, dict[str, str]], behind: bytes, cuts: list[int]) -> None:
    """A good head gives one request with its headers, and what is behind it untouched, however it comes."""
    data, headers = head
    request, rest = same_for_any_split(data + behind, cuts)
    assert isinstance(request, Request)
    assert request.headers == headers
    assert request.head_bytes == len(data)
    assert rest == behind


@FIXED
@given(mixtures([b"GET / HTTP/1.1", b"\r\n", b"\n", b"\r", b"a: b", b" ", b":"]), cut_points)
def test_any_bytes(pieces: list[bytes], cuts: list[int]) -> None:
    """Whatever comes, its cuts do not matter."""
    same_for_any_split(b"".join(pieces), cuts)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_corpus(path: Path) -> None:
    """Each real request gives the same whole, byte by byte and cut, with more behind it."""
    data = path.read_bytes()
    same_for_any_split(data, range(0, 2_000, 7))
    whole = head_of(RequestParser(True), [data], data)
    if isinstance(whole[0], Request | BareLine):
        assert head_of(RequestParser(True), [data + b"\0\r\n\r\nmore"], data + b"\0\r\n\r\nmore")[0] == whole[0]


def body_of(pieces: Iterable[bytes]) -> tuple[bytes, bytes, bool, str]:
    """(payload, rest, finished, fault) as a caller sees them."""
    decoder = ChunkedDecoder()
    payload = b""
    for piece in pieces:
        try:
            payload += decoder.feed(piece)
        except BadChunk as fault:
            return payload + fault.payload, b"", decoder.finished, fault.reason
    return payload, decoder.rest, decoder.finished, ""


@FIXED
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), line_ends, anything, cut_points, st.booleans())
def test_chunked_bodies(chunks: list[bytes], end: bytes, behind: bytes, cuts: list[int], extras: bool) -> None:
    """Payload in, payload out; what is behind the last chunk is untouched."""
    extension, trailer = (b" ;a=b", b"Trailer: x" + end) if extras else (b"", b"")
    body = b"".join(b"%X%b%b%b%b" % (len(chunk), extension, end, chunk, end) for chunk in chunks)
    body += b"0" + extension + end + trailer + end + behind
    expected = (b"".join(chunks), behind, True, "")
    assert body_of([body]) == body_of(split(body, cuts)) == body_of(bytewise(body)) == expected


@FIXED
@given(mixtures([b"3\r\nabc\r\n", b"0\r\n", b"\r\n", b"1;", b"\n", b"fff\n"]), cut_points)
def test_chunked_any_bytes(pieces: list[bytes], cuts: list[int]) -> None:
    """Whatever comes, its cuts do not matter: the same payload, the same fault."""
    body = b"".join(pieces)
    assert body_of([body]) == body_of(split(body, cuts)) == body_of(bytewise(body))


def heard(meta_interval: int, pieces: Iterable[bytes]) -> list[bytes | Metadata]:
    """The demuxer's events with neighbouring audio joined."""
    demuxer = IcyDemuxer(meta_interval)
    events: list[bytes | Metadata] = []
    for event in (event for piece in pieces for event in demuxer.feed(piece)):
        if isinstance(event, bytes) and events and isinstance(events[-1], bytes):
            events[-1] += event
        else:
            events.append(event)
    return events


@FIXED
@given(st.integers(1, 50), st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=8), cut_points)
def test_icy_streams(meta_interval: int, titles: list[str | None], cuts: list[int]) -> None:
    """Audio and titles come out as they went in, however the stream is cut."""
    audio = bytes(range(1, 201)) * 3
    stream = b"".join(
        audio[at : at + meta_interval] + (b"\0" if title is None else block(title))
        for at, title in zip(range(0, len(audio), meta_interval), titles, strict=False)
    )
    whole = heard(meta_interval, [stream])
    assert heard(meta_interval, split(stream, cuts)) == heard(meta_interval, bytewise(stream)) == whole
    assert b"".join(event for event in whole if isinstance(event, bytes)) == audio[: meta_interval * len(titles)]
    blocks = [event.raw for event in whole if isinstance(event, Metadata)]
    assert blocks == [block(title)[1:] for title in titles if title is not None]


@FIXED
@given(st.text(), st.text())
def test_every_block_is_well_formed(title: str, url: str) -> None:
    """Any title and any address give two fields that end where they should, within the limit, on whole units."""
    data = block(title, url)
    assert len(data) == 1 + 16 * data[0] <= 1 + ICY_BLOCK_MAX
    fields = data[1:].rstrip(b"\0")
    assert fields.startswith(b"StreamTitle='")
    assert fields.endswith(b"';")
    assert fields.count(b"';") == 2
    assert b"\0" not in fields
    fields.decode()
