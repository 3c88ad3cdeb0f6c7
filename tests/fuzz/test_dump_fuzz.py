"""A dump with bytes flipped, cut, put in, moved: refused with a reason, and the ring holds nothing of it. Seeded, with fixed counts."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from unittest import mock

import pytest

from appliance.ring import dump as dump_module
from appliance.ring import dump_format as fmt
from appliance.ring.dump import write_dump
from appliance.ring.dump_format import DumpRefused
from appliance.ring.layout import Geometry
from appliance.ring.reader import RingReader
from appliance.ring.restore import load_dump
from tests.ring.plain_ring import MP3, PlainRing, audio, feed, held, make_ring

LAYOUT = Geometry(chunk_slots=256, meta_slots=16, epoch_slots=8, capacity_bytes=1 << 20)
CASES = 600
FORGED = 300


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A dump of 40 chunks in ten blocks, with titles, epochs and breaks."""
    path = tmp_path_factory.mktemp("dump") / "a"
    writer, plain = make_ring(LAYOUT, window_s=60), PlainRing()
    for number in range(40):
        if number % 9 == 0:
            plain.epochs = writer.start_epoch(MP3)
        if number % 6 == 0:
            writer.set_title(f"title {number}".encode() * 40, b"url", number)
        feed(writer, plain, 1, 700, flags=number % 7 == 0)
    with mock.patch.object(dump_module, "BLOCK_AUDIO_BYTES", 2800):
        write_dump(RingReader(writer.reader_fd), path, "a", "mp3", 1)
    writer.close()
    return path.read_bytes()


def mutilated(data: bytes, dice: random.Random) -> bytes:
    """One to three things that happen to files."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at, size = dice.randrange(len(found)), dice.choice((1, 2, 8, 100, 5000))
        kind = dice.randrange(7)
        if kind <= 1:
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            del found[at : at + size]
        elif kind == 4:
            found[at:at] = dice.randbytes(size)
        elif kind == 5:
            found[at : at + size] = bytes(len(found[at : at + size]))
        else:
            found[at:at] = found[dice.randrange(len(found)) :][:size]
        if not found:
            break
    return bytes(found)


def test_no_mutilated_dump_is_loaded(good: bytes, tmp_path: Path) -> None:
    """Whatever is wrong, wherever: DumpRefused with words, nothing held, and live audio goes in as into any ring."""
    dice, path = random.Random(11), tmp_path / "a"
    tried = 0
    while tried < CASES:
        bad = mutilated(good, dice)
        if bad == good:
            continue
        tried += 1
        path.write_bytes(bad)
        ring = make_ring(LAYOUT, window_s=60)
        with pytest.raises(DumpRefused, match=r"\w+ \w+"):
            load_dump(ring, path, "a", "mp3", 1)
        reader = RingReader(ring.reader_fd)
        head = reader.head_seq
        assert head == reader.tail_seq == reader.oldest(head) and head in (1, 41)
        pos, plain = ring.head_pos, PlainRing()
        feed(ring, plain, 3)
        assert held(reader, pos, ring.head_pos) == audio(0, 2100) and reader.tail_seq == head
        reader.close()
        ring.close()


def test_every_cut_is_seen(good: bytes, tmp_path: Path) -> None:
    """As a stop of the machine would leave it."""
    path = tmp_path / "a"
    ring = make_ring(LAYOUT, window_s=60)
    for size in {*range(0, len(good), 97), *range(len(good) - 60, len(good))}:
        path.write_bytes(good[:size])
        with pytest.raises(DumpRefused):
            load_dump(ring, path, "a", "mp3", 1)
    assert ring.head_seq == 1
    ring.close()


def forged(data: bytes, dice: random.Random) -> bytes:
    """A changed byte in header, block or trailer, with the checksums put right: as a faulty program would write it."""
    found = bytearray(data)
    size = fmt.unpack_header(data).size_bytes
    begins = [at for at in range(size, len(data)) if data.startswith(b"BLCK", at)]
    ends = [*begins[1:], len(data) - fmt.TRAILER.size]
    part = dice.randrange(len(begins) + 2)
    if part == 0:
        found[dice.randrange(size - 4)] = dice.randrange(256)
    elif part == 1:
        found[dice.randrange(len(data) - fmt.TRAILER.size + 8, len(data) - 4)] = dice.randrange(256)
    else:
        at, end = begins[part - 2], ends[part - 2]
        found[dice.randrange(at + 8, min(end, at + 800))] = dice.randrange(256)
        found[at + 4 : at + 8] = zlib.crc32(found[at + 8 : end]).to_bytes(4, "little")
    found[size - 4 : size] = found[-4:] = zlib.crc32(found[: size - 4]).to_bytes(4, "little")
    tail = len(found) - fmt.TRAILER.size
    found[tail + 4 : tail + 8] = zlib.crc32(found[tail + 8 :]).to_bytes(4, "little")
    return bytes(found)


def test_forged_dumps_raise_nothing_else(good: bytes, tmp_path: Path) -> None:
    """With right checksums, too, it is loaded or refused; the ring can be appended to and read either way."""
    dice, path, refused = random.Random(5), tmp_path / "a", 0
    for _ in range(FORGED):
        path.write_bytes(forged(good, dice))
        ring = make_ring(LAYOUT, window_s=60)
        try:
            load_dump(ring, path, "a", "mp3", 1)
        except DumpRefused:
            refused += 1
        reader, plain = RingReader(ring.reader_fd), PlainRing()
        pos = ring.head_pos
        feed(ring, plain, 120)
        start = max(pos, reader.limit_pos)
        assert held(reader, start, ring.head_pos) == audio(start - pos, ring.head_pos - start)
        assert reader.head_seq - reader.tail_seq > 100
        reader.close()
        ring.close()
    assert FORGED // 3 < refused < FORGED
