"""ICY metadata: what we write, through the eyes of the players; what we read from encoders and other servers."""

import codecs
import re
import time

import pytest

from appliance.wire.icy import (
    _CHARSETS,
    EMPTY_BLOCK,
    ICY_BLOCK_MAX,
    URL_MAX_BYTES,
    IcyDemuxer,
    Metadata,
    block,
    decode_title,
    is_known_charset,
    join_title,
    parse_block,
)

TITLES = [
    "Queen - Don't Stop Me Now",
    "Guns N' Roses - Knockin' on Heaven's Door",
    "'",
    "''",
    "a'",
    "'quoted'",
    "x='y",
    'He said "hi"; she left',
    "a;b",
    "Пётр Чайковский - Щелкунчик",
    "StreamUrl='x",
    "",
]


def ffmpeg_reads(data: bytes) -> dict[str, str]:
    """As libavformat does: a key ends at "='", and the value at the first "';" looked for from that "='" on."""
    fields = {}
    rest = data[1:].partition(b"\0")[0]
    while (opening := rest.find(b"='")) >= 0 and (ending := rest.find(b"';", opening)) >= 0:
        fields[rest[:opening].decode()] = rest[opening + 2 : max(ending, opening + 2)].decode()
        rest = rest[ending + 2 :]
    return fields


def vlc_reads(data: bytes) -> str:
    """As VLC does: what stands between StreamTitle=' and the next "';", else the next ";"."""
    value = data[1:].partition(b"\0")[0].partition(b"StreamTitle='")[2]
    return value.partition(b"';" if b"';" in value else b";")[0].decode()


def exoplayer_reads(data: bytes) -> dict[str, str]:
    """As ExoPlayer does: shortest matches of key='value'; one after the other."""
    return dict(re.findall(r"(.+?)='(.*?)';", data[1:].decode(), re.DOTALL))


@pytest.mark.parametrize("title", TITLES)
def test_players_read_titles_as_they_are(title: str) -> None:
    """No escaping: an apostrophe, a quote or a semicolon alone arrives as it was."""
    data = block(title, "http://radio.example/now")
    assert ffmpeg_reads(data) == {"StreamTitle": title, "StreamUrl": "http://radio.example/now"}
    assert vlc_reads(data) == title
    assert exoplayer_reads(data) == {"StreamTitle": title, "StreamUrl": "http://radio.example/now"}


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Rock 'n';Roll", "Rock 'n' ;Roll"),
        ("a';StreamUrl='http://evil", "a' ;StreamUrl='http://evil"),
        ("';';", "' ;' ;"),
        ("'';", "'' ;"),
        (";-) smile", " ;-) smile"),
    ],
)
def test_a_title_cannot_end_its_field(title: str, shown: str) -> None:
    """What players take for the end of the field is parted by a space; nothing after it is lost or believed."""
    data = block(title, "http://good")
    assert ffmpeg_reads(data) == {"StreamTitle": shown, "StreamUrl": "http://good"}
    assert vlc_reads(data) == shown
    assert exoplayer_reads(data) == {"StreamTitle": shown, "StreamUrl": "http://good"}


def test_block_layout() -> None:
    """Length byte in units of 16, NUL padding, no unit more than needed."""
    data = block("0123456", "")
    assert data == b"\x03StreamTitle='0123456';StreamUrl='';" + b"\0" * 13
    exact = block("0" * 20, "")
    assert exact == b"\x03StreamTitle='" + b"0" * 20 + b"';StreamUrl='';"
    assert EMPTY_BLOCK == b"\0"


def test_long_titles_are_cut_at_a_character() -> None:
    """4,080 bytes at most; no half character; the address survives."""
    for title in ("é" * 4_000, "a" + "é" * 4_000, "𝄞" * 2_000, "a" * 10_000):
        data = block(title, "http://radio.example/")
        assert len(data) == 1 + ICY_BLOCK_MAX
        assert data[0] == 255
        fields = ffmpeg_reads(data)
        assert title.startswith(fields["StreamTitle"])
        assert len(fields["StreamTitle"].encode()) > ICY_BLOCK_MAX - 60
        assert fields["StreamUrl"] == "http://radio.example/"


def test_addresses() -> None:
    """An address is percent-encoded where it must be; one that is far too long is left out, not cut."""
    encoded = "http://h/it%27s;x%20y%20?%C3%A9=%20#f"
    assert ffmpeg_reads(block("t", "http://h/it's;x y\n?é=%20#f"))["StreamUrl"] == encoded
    assert ffmpeg_reads(block("t", ";x"))["StreamUrl"] == "x"
    assert ffmpeg_reads(block("t", "h" * URL_MAX_BYTES))["StreamUrl"] == "h" * URL_MAX_BYTES
    assert ffmpeg_reads(block("t", "h" * (URL_MAX_BYTES + 1))) == {"StreamTitle": "t", "StreamUrl": ""}


def test_controls_never_reach_a_player() -> None:
    """A NUL would end the block early; line breaks become spaces; lone surrogates do not stop the stream."""
    assert vlc_reads(block(" a\0b\r\nc\x1b\x85d\u2028e \ud800\n")) == "ab c d e ?"


@pytest.mark.parametrize(
    ("raw", "charset", "text"),
    [
        ("Björk".encode(), None, "Björk"),
        ("Björk".encode(), "latin1", "Björk"),  # valid UTF-8 wins over what is said
        ("Björk".encode("latin-1"), None, "Björk"),
        ("Björk".encode("latin-1"), "UTF-8", "Björk"),
        ("Björk".encode("latin-1"), "ISO-8859-1", "Björk"),
        ("Žižek “x” €".encode("cp1252"), "iso-8859-1", "Žižek “x” €"),
        ("Žižkov".encode("iso-8859-2"), "ISO_8859-2", "Žižkov"),
        ("Кино".encode("cp1251"), "windows-1251", "Кино"),
        ("Кино".encode("koi8-r"), "KOI8-R", "Кино"),
        ("東京".encode("shift_jis"), "Shift_JIS", "東京"),
        (b"caf\xe9", "no-such-charset", "café"),
        (b"caf\xe9", "unicode_escape", "café"),
        (b"caf\xe9", "punycode", "café"),
        (b"caf\xe9", "a\0b", "café"),
        (b"x\x81\xe9", None, "x\ufffdé"),
        (b"\xef\xbb\xbfBOM", None, "BOM"),
        (b"a\tb\r\n\0c\x7f\xc2\x9b", None, "a b c"),
        (b"", None, ""),
    ],
)
def test_decode_title(raw: bytes, charset: str | None, text: str) -> None:
    """Strict UTF-8, else the charset if it is one, else Windows-1252; no control characters."""
    assert decode_title(raw, charset) == text


def test_charsets_are_real() -> None:
    """Every name in the list is a charset that Python has and that decodes any bytes without an exception."""
    for name, codec in _CHARSETS.items():
        assert codecs.lookup(codec)
        assert is_known_charset(name)
        decode_title(bytes(range(256)) * 2, name)
    assert is_known_charset("ISO-8859-15")
    assert not is_known_charset("")


def test_join_title() -> None:
    """Artist and title as one line; nothing dangles when one of them is missing."""
    assert join_title("Björk", " Jóga ") == "Björk - Jóga"
    assert join_title("", "News") == "News"
    assert join_title("Björk", " ") == "Björk"
    assert join_title("", "") == ""


@pytest.mark.parametrize("title", TITLES)
def test_what_we_write_we_read(title: str) -> None:
    """The test player sees what was written."""
    data = block(title, "http://h/")
    assert parse_block(data[1:]) == Metadata(title, "http://h/", data[1:])


@pytest.mark.parametrize(
    ("raw", "title", "url"),
    [
        (b"StreamTitle='a';\0\0\0", "a", ""),
        (b"StreamTitle='it';s me';StreamUrl='u';\0", "it';s me", "u"),
        (b"StreamTitle='a';StreamUrl='", "a", ""),
        (b"StreamTitle='cut sho", "cut sho", ""),
        (b"StreamTitle='caf\xe9';", "café", ""),
        (b"StreamUrl='u';StreamTitle='t';", "t", "u"),
        (b"adw_ad='true';StreamTitle='t';", "t", ""),
        (b"garbage", "", ""),
        (b"", "", ""),
    ],
)
def test_blocks_of_other_servers(raw: bytes, title: str, url: str) -> None:
    """Fields in any order, missing, cut short, in other charsets."""
    assert parse_block(raw) == Metadata(title, url, raw)


def test_demuxer() -> None:
    """Audio and metadata come apart; empty blocks are not told of."""
    demuxer = IcyDemuxer(4)
    first = block("Song")
    events = demuxer.feed(b"aaaa" + first + b"bbbb\0cccc\0dd")
    assert events == [b"aaaa", Metadata("Song", "", first[1:]), b"bbbb", b"cccc", b"dd"]
    assert demuxer.feed(memoryview(b"ddee")) == [b"dd"]  # "e" is a length byte: 101 units follow


def test_demuxer_byte_by_byte() -> None:
    """Any split gives the same audio and the same metadata."""
    blocks = (block("A"), EMPTY_BLOCK, block("B" * 3_000, "http://u"), EMPTY_BLOCK)
    stream = b"".join(b"audio" + piece for piece in blocks)
    demuxer = IcyDemuxer(5)
    events = [event for at in range(len(stream)) for event in demuxer.feed(stream[at : at + 1])]
    assert b"".join(event for event in events if isinstance(event, bytes)) == b"audio" * 4
    assert [event.title for event in events if isinstance(event, Metadata)] == ["A", "B" * 3_000]


def test_demuxer_needs_an_interval() -> None:
    """A server that says icy-metaint: 0 sends no metadata; there is nothing to take apart."""
    for interval in (0, -1):
        with pytest.raises(ValueError, match="meta_interval"):
            IcyDemuxer(interval)


def test_linear_time() -> None:
    """300 KB byte by byte, and blocks after every single byte: no rescans, no copies that grow."""
    started_s = time.process_time()
    demuxer = IcyDemuxer(1 << 20)
    assert sum(len(demuxer.feed(b"a")) for _ in range(300_000)) == 300_000
    assert len(IcyDemuxer(1).feed(b"a\0" * 100_000)) == 100_000
    assert time.process_time() - started_s < 10
