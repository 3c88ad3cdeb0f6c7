"""Audio made by hand for the parser tests: frames bit by bit, tags, and ffmpeg and ffprobe as judges.

A frame's body is a run of one byte that differs from frame to frame and is never 0xFF, so no false header is inside.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.wire.frames import Frame, FrameParser, parser_for

DATA = Path(__file__).parent.parent / "data"
SAMPLES = {  # file: format, stream key
    "mp3-44100-128-s.mp3": ("mp3", "mp3-44100-128-s"),
    "mp3-44100-64-m.mp3": ("mp3", "mp3-44100-64-m"),
    "mp3-22050-64-s.mp3": ("mp3", "mp3-22050-64-s"),
    "aac-256.aac": ("aac", "aac-44100-2-2"),
}
LSF_2_3 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
KBPS = {  # ISO/IEC 11172-3 2.4.2.3, 13818-3 2.4.2.3: by MPEG version ("1" or "2", also for 2.5) and layer
    ("1", 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    ("1", 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    ("1", 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    ("2", 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    ("2", 2): LSF_2_3,
    ("2", 3): LSF_2_3,
}
RATES = {"1": (44100, 48000, 32000), "2": (22050, 24000, 16000), "2.5": (11025, 12000, 8000)}
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
STEREO, JOINT, DUAL, MONO = range(4)
VERSION_BITS = {"1": 3, "2": 2, "2.5": 0}


def mpeg_samples(version: str, layer: int) -> int:
    return 384 if layer == 1 else 576 if layer == 3 and version != "1" else 1152


def mpeg_frame(
    number: int = 1, *, layer: int = 3, kbps: int = 128, rate: int = 44100, mode: int = STEREO, pad: int = 0,
    crc: bool = False, free_bytes: int = 0,
) -> bytes:  # fmt: skip
    """One MPEG audio frame; `free_bytes`: a free-format frame of that length without padding."""
    version = next(name for name, rates in RATES.items() if rate in rates)
    index = 0 if free_bytes else KBPS[version[0], layer].index(kbps) + 1
    word = 0x7FF << 21 | VERSION_BITS[version] << 19 | (4 - layer) << 17 | (not crc) << 16 | index << 12
    word |= RATES[version].index(rate) << 10 | pad << 9 | mode << 6
    if layer == 1:
        length = free_bytes or 12 * kbps * 1000 // rate * 4
    else:
        length = free_bytes or mpeg_samples(version, layer) // 8 * kbps * 1000 // rate
    length += pad * (4 if layer == 1 else 1)
    return word.to_bytes(4, "big") + bytes([number % 251]) * (length - 4)


def adts_frame(
    number: int = 1, *, size: int = 300, rate: int = 44100, channels: int = 2, profile: int = 1, crc: bool = False,
    blocks: int = 1, mpeg2: bool = False, flags: int = 0,
) -> bytes:  # fmt: skip
    """One ADTS frame of `size` bytes. `profile`: object type less one. `flags`: the copyright, home, original bits."""
    word = 0xFFF << 44 | mpeg2 << 43 | (not crc) << 40 | profile << 38 | AAC_RATES.index(rate) << 34
    word |= channels << 30 | flags << 26 | size << 13 | 0x7FF << 2 | blocks - 1
    return word.to_bytes(7, "big") + bytes([number % 251]) * (size - 7)


def mpeg_run(count: int, **settings: int) -> list[bytes]:
    return [mpeg_frame(number, **settings) for number in range(1, count + 1)]  # type: ignore[arg-type]


def adts_run(count: int, **settings: int) -> list[bytes]:
    return [adts_frame(number, **settings) for number in range(1, count + 1)]  # type: ignore[arg-type]


RUNS: dict[str, Callable[..., list[bytes]]] = {"mp3": mpeg_run, "aac": adts_run}


def id3v2(body: bytes, *, claims_bytes: int | None = None, footer: bool = False) -> bytes:
    """An ID3v2.4 tag; `claims_bytes`: a body size that is a lie."""
    size = len(body) if claims_bytes is None else claims_bytes
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    rest = b"\x04\x00" + (b"\x10" if footer else b"\x00") + syncsafe
    return b"ID3" + rest + body + (b"3DI" + rest if footer else b"")


def id3v1(title: bytes = b"A Song") -> bytes:
    return b"TAG" + title.ljust(125, b"\0")


def ape(items: bytes) -> bytes:
    """An APEv2 tag with header and footer."""
    fields = (2000).to_bytes(4, "little") + (len(items) + 32).to_bytes(4, "little") + (1).to_bytes(4, "little")
    header, footer = ((flags << 29).to_bytes(4, "little") + bytes(8) for flags in (5, 4))
    return b"APETAGEX" + fields + header + items + b"APETAGEX" + fields + footer


def info_frame(
    name: bytes = b"Info", *, rate: int = 44100, mode: int = STEREO, crc: bool = False, shift: int = 0
) -> bytes:
    """A layer III frame that describes a file: Xing's, LAME's or FhG's; `shift`: 2 where its writer counts the CRC."""
    frame = bytearray(mpeg_frame(0, rate=rate, mode=mode, crc=crc))
    side = {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[rate >= 32000, mode == MONO]
    place = shift + (36 if name == b"VBRI" else 4 + side)
    fields = name + (b"\0\1" if name == b"VBRI" else b"\0\0\0\x0f")
    frame[place : place + len(fields)] = fields
    return bytes(frame)


def picture(seed: int, size: int) -> bytes:
    """Bytes as a JPEG has them: any, but behind 0xFF only 0x00 or a restart marker."""
    body = random.Random(seed).randbytes(size)
    return b"".join(piece + b"\xff\x00" for piece in body.split(b"\xff"))[:size]


def pieces(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """The data cut into pieces of these sizes; the last one is what remains."""
    cut, at = [], 0
    for size in sizes:
        cut.append(data[at : at + size])
        at += size
    return [*cut, data[at:]]


def parse(format_name: str, *parts: bytes) -> list[Frame]:
    """The frames of these pieces of input, flushed."""
    return drive(parser_for(format_name), *parts)


def drive(parser: FrameParser, *parts: bytes) -> list[Frame]:
    """Feed the parts to this parser and flush it."""
    frames = [frame for part in parts for frame in parser.feed(part)]
    return frames + parser.flush()


def datas(frames: Iterable[Frame]) -> list[bytes]:
    return [frame.data for frame in frames]


def ffmpeg(*args: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *args], check=True, timeout=60)


def ffprobe(path: Path, demuxer: str) -> list[tuple[int, float]]:
    """(bytes, seconds) of every packet, as ffprobe -show_packets sees them."""
    command = ["ffprobe", "-v", "quiet", "-f", demuxer, "-show_packets", "-of", "json", str(path)]
    packets = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)["packets"]
    return [(int(packet["size"]), float(packet["duration_time"])) for packet in packets]


def assert_agrees(frames: list[Frame], packets: list[tuple[int, float]]) -> None:
    """Same count, sizes and durations (ffprobe prints microseconds)."""
    assert [len(frame.data) for frame in frames] == [size for size, _ in packets]
    assert all(abs(frame.duration_s - seconds) < 2e-6 for frame, (_, seconds) in zip(frames, packets, strict=True))
