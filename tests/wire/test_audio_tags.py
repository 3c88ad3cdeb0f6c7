"""ID3 and APE tags: what their heads claim."""

from __future__ import annotations

from appliance.wire.audio_tags import MAX_TAG_BYTES, TAG_HEAD_BYTES, tag_size
from tests.wire.frame_makers import ape, id3v1, id3v2


def test_tag_sizes() -> None:
    """What a tag's head claims; None only where the bytes end too early to know; no error for nonsense."""
    assert tag_size(b"xx" + id3v2(bytes(300)), 2) == 310
    assert tag_size(id3v2(bytes(300), footer=True), 0) == 320
    assert tag_size(id3v2(b"", claims_bytes=2**28 - 1) + bytes(22), 0) == 2**28 + 9 < MAX_TAG_BYTES
    assert tag_size(id3v1(), 0) == 128
    assert tag_size(ape(bytes(40)), 0) == 32 + 40 + 32
    assert tag_size(ape(bytes(40))[-32:], 0) == 32
    assert tag_size(ape(b"")[:12] + b"\xff\xff\xff\xff" + ape(b"")[16:], 0) == 32
    for tag in (id3v2(bytes(300)), ape(b"12")):
        assert [tag_size(tag[:n], 0) for n in range(1, 10)] == [None] * 9
        assert tag_size(tag[:TAG_HEAD_BYTES], 0) == len(tag)
    assert tag_size(id3v1()[:2], 0) is None
    nonsense = (b"", b"ID4", b"ID3\xff" + bytes(30), b"ID3\x04\x00\x00\x80" + bytes(30), b"APETAGEX" + bytes(24))
    assert [tag_size(head, 0) for head in nonsense] == [0] * len(nonsense)
