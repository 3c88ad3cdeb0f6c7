"""Tags found between audio frames: ID3v1, ID3v2 (id3.org, 2.2 to 2.4) and APE (hydrogenaudio APEv1, APEv2). Sizes only."""

from __future__ import annotations

import re
import struct

TAG_HEAD_BYTES = 32  # the longest tag head (APE): with this many bytes tag_size() always knows
MAX_TAG_BYTES = 2**28 + 20  # the largest ID3v2 tag with its head and foot; an APE head that claims more is no head

ID3V1_BYTES = 128
_ID3V2_HEAD_BYTES = 10
_ID3V2_FOOTER_FLAG = 0x10  # ID3v2.4 3.1: ten more bytes follow
_ID3V2 = re.compile(rb"ID3[^\xff]{2}[\s\S][\x00-\x7f]{4}")  # ID3v2 3.1: version bytes never $FF, size bytes under $80
_APE_MAGIC = b"APETAGEX"
_APE_HEAD = struct.Struct("<8sIIII8x")  # magic, version, bytes of items and footer, item count, flags
_APE_VERSIONS = (1000, 2000)
_APE_IS_HEADER = 1 << 29

_BEGINNINGS = ((b"TAG", 3), (b"ID3", _ID3V2_HEAD_BYTES), (_APE_MAGIC, TAG_HEAD_BYTES))  # magic, bytes needed to be sure

# What a search through garbage stops at. ID3v1 is not among them: three letters are too little evidence where nothing
# is known, and its 128 bytes are soon passed as garbage.
START_PATTERN = rb"ID3[^\xff]{2}[\s\S][\x00-\x7f]{4}|APETAGEX"


def tag_size(buf: bytes, at: int) -> int | None:
    """The bytes that the tag beginning at buf[at] claims to have, its head included; 0: no tag begins there.

    None: the buffer ends before that can be told (never with TAG_HEAD_BYTES there). The claim may be a lie.
    """
    head = buf[at : at + TAG_HEAD_BYTES]
    for magic, needed_bytes in _BEGINNINGS:
        if head and magic.startswith(head[: len(magic)]) and len(head) < needed_bytes:
            return None
    if head.startswith(b"TAG"):
        return ID3V1_BYTES
    if _ID3V2.match(head):
        return _id3v2_size(head)
    return _ape_size(head) if head.startswith(_APE_MAGIC) else 0


def _id3v2_size(head: bytes) -> int:
    a, b, c, d = head[6:10]
    foot_bytes = _ID3V2_HEAD_BYTES if head[5] & _ID3V2_FOOTER_FLAG else 0
    return _ID3V2_HEAD_BYTES + (a << 21 | b << 14 | c << 7 | d) + foot_bytes


def _ape_size(head: bytes) -> int:
    _, version, body_bytes, _, flags = _APE_HEAD.unpack(head)
    if version not in _APE_VERSIONS:
        return 0
    if not flags & _APE_IS_HEADER or body_bytes > MAX_TAG_BYTES - TAG_HEAD_BYTES:
        return TAG_HEAD_BYTES  # a footer, whose items went by before, or a claim not worth believing
    return TAG_HEAD_BYTES + int(body_bytes)
