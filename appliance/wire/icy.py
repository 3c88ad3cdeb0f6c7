"""ICY metadata: titles between the audio bytes, as SHOUTcast brought it in and every player reads it.

After each `icy-metaint` bytes of audio comes a length byte n and 16 * n bytes: "StreamTitle='...';StreamUrl='...';",
padded with NULs. There is no escaping. Players end a value at the first "';" (VLC, ExoPlayer, mpv), so an apostrophe
alone is sent as it is and "';" inside a title is parted by a space. ffmpeg looks for "';" from the opening "='" on, so
a value that starts with ";" would be lost there: it gets a space in front. An apostrophe in the address becomes %27.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import quote

ICY_BLOCK_MAX: Final = 4_080  # 255 * 16: all that the length byte can say
URL_MAX_BYTES: Final = 2_048  # leaves a title half of the block; a longer address is left out: half of one is none
EMPTY_BLOCK: Final = b"\0"  # "nothing new"

_UNIT_BYTES: Final = 16
_FIELDS: Final = b"StreamTitle='%b';StreamUrl='%b';"
_URL_CHARS: Final = "%/:?#[]@!$&()*+,;=~"  # RFC 3986 reserved, but for the apostrophe; "%" for what is encoded already

_spacing_controls = re.compile("[\t-\r\x85\u2028\u2029]+")
_controls = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]+")


class Metadata(NamedTuple):
    """One block that was not empty: its two fields as text, and its bytes without the length byte."""

    title: str
    url: str
    raw: bytes


def block(title: str, url: str = "") -> bytes:
    """Length byte and fields in UTF-8, at most 1 + ICY_BLOCK_MAX bytes; a title too long is cut at a character."""
    address = quote(_without_controls(url).lstrip(";"), safe=_URL_CHARS, errors="replace").encode()
    if len(address) > URL_MAX_BYTES:
        address = b""
    name = _without_controls(title).replace("';", "' ;")
    if name.startswith(";"):
        name = " " + name
    room = ICY_BLOCK_MAX - len(_FIELDS % (b"", address))
    fields = _FIELDS % (_cut(name.encode("utf-8", "replace"), room), address)
    units = -(-len(fields) // _UNIT_BYTES)
    return bytes((units,)) + fields.ljust(units * _UNIT_BYTES, b"\0")


def decode_title(raw: bytes, charset: str | None = None) -> str:
    """Text of title bytes: strict UTF-8, else `charset` if it is one known here, else Windows-1252.

    Bytes that a charset lacks become U+FFFD. Line breaks and tabs become a space, other control characters go.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(_CHARSETS.get(_charset_key(charset or ""), "cp1252"), "replace")
    return _without_controls(text)


def is_known_charset(charset: str) -> bool:
    """Whether `decode_title` knows this charset name (any case and punctuation)."""
    return _charset_key(charset) in _CHARSETS


def join_title(artist: str, title: str) -> str:
    """ "Artist - Title", or the one that is there."""
    return " - ".join(part for part in (artist.strip(), title.strip()) if part)


class IcyDemuxer:
    """Takes audio and metadata apart, as a player does. `meta_interval` is bytes of audio between blocks.

    Raises ValueError for an interval below 1.
    """

    def __init__(self, meta_interval: int) -> None:
        if meta_interval < 1:
            raise ValueError("meta_interval is a number of bytes above 0")
        self.meta_interval = meta_interval
        self._audio_left_bytes = meta_interval
        self._block = bytearray()
        self._block_left_bytes = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes | Metadata]:
        """Pieces of audio, and Metadata where a block that is not empty ended. Any split: the same audio, joined."""
        data = bytes(data)
        events: list[bytes | Metadata] = []
        at = 0
        while at < len(data):
            if self._block_left_bytes:
                at += self._take_block(data[at : at + self._block_left_bytes], events)
            elif self._audio_left_bytes:
                piece = data[at : at + self._audio_left_bytes]
                events.append(piece)
                self._audio_left_bytes -= len(piece)
                at += len(piece)
            else:
                self._block_left_bytes = data[at] * _UNIT_BYTES
                self._audio_left_bytes = self.meta_interval
                at += 1
        return events

    def _take_block(self, piece: bytes, events: list[bytes | Metadata]) -> int:
        self._block += piece
        self._block_left_bytes -= len(piece)
        if not self._block_left_bytes:
            events.append(parse_block(bytes(self._block)))
            self._block.clear()
        return len(piece)


def parse_block(raw: bytes) -> Metadata:
    """The fields of a block (without its length byte) from any server: a title may hold "';" before its true end."""
    fields = b"';" + raw.rstrip(b"\0")
    title = _field(fields, b"';StreamTitle='", (b"';StreamUrl='", b"';"))
    url = _field(fields, b"';StreamUrl='", (b"';",))
    return Metadata(decode_title(title), decode_title(url), raw)


def _field(fields: bytes, opening: bytes, endings: tuple[bytes, ...]) -> bytes:
    """The value behind `opening` up to the first of `endings` that is there, or to the end of a block cut short."""
    value = fields.partition(opening)[2]
    for ending in endings:
        if ending in value:
            return value[: value.index(ending)]
    return value


def _cut(text: bytes, room_bytes: int) -> bytes:
    return text if len(text) <= room_bytes else text[:room_bytes].decode("utf-8", "ignore").encode()


def _without_controls(text: str) -> str:
    return _controls.sub("", _spacing_controls.sub(" ", text)).strip()


def _charset_key(charset: str) -> str:
    return re.sub("[^0-9a-z]", "", charset.lower())


def _known_charsets() -> dict[str, str]:
    """Names as encoders give them, through _charset_key -> Python's. ISO-8859-1 is Windows-1252, as browsers read it.

    The list is closed, for Python also takes names that are no charset (punycode, unicode_escape) and remembers every
    unknown name for ever.
    """
    pages = (437, 737, 775, 850, 852, 855, 857, 866, 874, 932, 949, 950, *range(1250, 1259))
    parts = (*range(2, 12), *range(13, 17))
    parts_of_latin = {2: 2, 3: 3, 4: 4, 5: 9, 6: 10, 7: 13, 8: 14, 9: 15, 10: 16}
    asian = "shift_jis euc_jp euc_kr gb2312 gbk gb18030 big5 big5hkscs"
    names = {f"{prefix}{page}": f"cp{page}" for prefix in ("cp", "windows") for page in pages}
    names |= {f"iso8859{part}": f"iso8859-{part}" for part in parts}
    names |= {f"latin{number}": f"iso8859-{part}" for number, part in parts_of_latin.items()}
    names |= dict.fromkeys(("iso88591", "latin1", "usascii", "ascii", "utf8"), "cp1252")
    names |= {_charset_key(name): name for name in (*asian.split(), "koi8-r", "koi8-u", "tis-620")}
    return names | {"macintosh": "mac-roman", "macroman": "mac-roman", "sjis": "shift_jis", "windows31j": "cp932"}


_CHARSETS: Final = _known_charsets()  # names alone: looking the codecs up would load 60 modules into every worker
