"""The chunked transfer coding."""

import time

import pytest

from appliance.wire.chunked import SIZE_LINE_MAX_BYTES, TRAILERS_MAX_BYTES, BadChunk, ChunkedDecoder, ChunkState

BODY = b"4\r\nWiki\r\n7;name=value\r\npedia i\r\nB \r\nn \r\nchunks.\r\n0\r\nExpires: never\r\n\r\nGET /"


def test_whole_body() -> None:
    """Sizes, extensions, data that looks like line ends, trailers, and what follows."""
    decoder = ChunkedDecoder()
    assert decoder.feed(BODY) == b"Wikipedia in \r\nchunks."
    assert decoder.finished
    assert decoder.rest == b"GET /"


def test_byte_by_byte() -> None:
    """Payload comes as soon as it is there."""
    decoder = ChunkedDecoder()
    pieces = [decoder.feed(BODY[at : at + 1]) for at in range(len(BODY))]
    assert b"".join(pieces) == b"Wikipedia in \r\nchunks."
    assert pieces[3] == b"W"
    assert decoder.finished
    assert decoder.rest == b"GET /"


def test_after_the_end() -> None:
    """More input is rest, never payload."""
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\n\r\n")
    assert decoder.feed(b"1\r\nx\r\n") == b""
    assert decoder.rest == b"1\r\nx\r\n"


def test_bare_lf() -> None:
    """Line ends without CR are taken."""
    decoder = ChunkedDecoder()
    assert decoder.feed(b"3\nabc\n0000\n\n") == b"abc"
    assert decoder.finished


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1_0\r\n",
        b"\xb2\r\n",
        b"1\r\r\n",
        b"1;a\rb\r\n",
        b"1;a\0\r\n",
        b"f" * 17 + b"\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\rb",
        b"1\r\nabc",
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfb\x90\x64" * 300,
        b"1;" + b"e" * SIZE_LINE_MAX_BYTES,
        b"0\r\n" + b"t" * TRAILERS_MAX_BYTES,
        b"0\r\n" + b"trailer: x\r\n" * 1_000,
    ],
)
def test_bad_bodies(body: bytes) -> None:
    """What is not chunked is refused, whole or byte by byte, and stays refused."""
    decoder = ChunkedDecoder()
    with pytest.raises(BadChunk) as whole:
        decoder.feed(body)
    with pytest.raises(BadChunk):
        decoder.feed(b"")
    decoder = ChunkedDecoder()
    with pytest.raises(BadChunk) as split:
        for at in range(len(body)):
            decoder.feed(body[at : at + 1])
    assert whole.value.reason == split.value.reason


def test_payload_before_the_fault_is_not_lost() -> None:
    """What came before the fault was audio: the error carries it."""
    with pytest.raises(BadChunk) as caught:
        ChunkedDecoder().feed(b"3\r\nabc\r\n2\r\nde\r\nzz\r\n")
    assert caught.value.payload == b"abcde"


def test_linear_time() -> None:
    """Half a megabyte byte by byte, and 100,000 one-byte chunks in one piece: no rescans, no copies that grow."""
    started_s = time.process_time()
    decoder = ChunkedDecoder()
    decoder.feed(b"80000\r\n")
    assert sum(len(decoder.feed(b"a")) for _ in range(0x80000)) == 0x80000
    assert len(ChunkedDecoder().feed(b"1\r\na\r\n" * 100_000)) == 100_000
    assert time.process_time() - started_s < 10


def test_resumed_at_any_byte() -> None:
    """A decoder made from another's state, fed from the line that one was in, gives the rest; a state that cannot be is refused."""
    for cut in range(len(BODY) + 1):
        first = ChunkedDecoder()
        payload = first.feed(BODY[:cut])
        second = ChunkedDecoder(first.state)
        payload += second.feed(BODY[cut - first.line_bytes :] if not first.finished else b"")
        assert payload == b"Wikipedia in \r\nchunks." and second.finished
    for wrong in (ChunkState("other"), ChunkState("chunk", -1)):
        with pytest.raises(ValueError):
            ChunkedDecoder(wrong)


def test_a_trailers_limit_counts_over_a_resume() -> None:
    """Lines that came before count."""
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\n" + b"a: b\r\n" * 1000)
    with pytest.raises(BadChunk):
        ChunkedDecoder(decoder.state).feed(b"a: b\r\n" * 700)
