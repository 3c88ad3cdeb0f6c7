"""Properties of the frame parsers, over streams composed of runs of frames, tags, lies, garbage and cut frames."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.wire.frames import parser_for
from tests.wire.frame_makers import (
    AAC_RATES,
    JOINT,
    KBPS,
    MONO,
    RATES,
    STEREO,
    adts_frame,
    ape,
    datas,
    drive,
    id3v1,
    id3v2,
    mpeg_frame,
    parse,
    picture,
    pieces,
)

FIXED = settings(max_examples=150, derandomize=True, database=None, deadline=None)


@dataclass(frozen=True)
class Part:
    """A piece of a stream: the frames in it that are whole, or none, and whether it is a tag or garbage."""

    kind: str  # "run", "tag", "garbage"
    frames: tuple[bytes, ...]
    data: bytes


def run(frames: list[bytes]) -> Part:
    return Part("run", tuple(frames), b"".join(frames))


@st.composite
def mpeg_runs(draw: st.DrawFn) -> Part:
    """VBR with changing padding and mode, or free format, of any version and layer."""
    version = draw(st.sampled_from(sorted(RATES)))
    layer, rate = draw(st.integers(1, 3)), draw(st.sampled_from(RATES[version]))
    modes = draw(st.sampled_from(((MONO,), (STEREO, JOINT))))
    free_bytes = draw(st.one_of(st.just(0), st.integers(10, 300).map(lambda slots: 4 * slots)))
    kbps = st.sampled_from(KBPS[version[0], layer])
    frame = st.tuples(kbps, st.sampled_from(modes), st.integers(0, 1), st.booleans())
    drawn = draw(st.lists(frame, min_size=3, max_size=8))
    crc = drawn[0][3]
    return run([
        mpeg_frame(number, layer=layer, rate=rate, kbps=kbps, mode=mode, pad=pad, crc=crc, free_bytes=free_bytes)
        for number, (kbps, mode, pad, _) in enumerate(drawn)
    ])  # fmt: skip


@st.composite
def adts_runs(draw: st.DrawFn) -> Part:
    """Frames of changing size, blocks and CRC, of any rate, channels and profile."""
    rate, channels = draw(st.sampled_from(AAC_RATES)), draw(st.integers(0, 7))
    profile, mpeg2 = draw(st.integers(0, 3)), draw(st.booleans())
    frame = st.tuples(st.integers(10, 1000), st.integers(1, 4), st.booleans())
    return run([
        adts_frame(number, size=size, rate=rate, channels=channels, profile=profile, crc=crc, blocks=blocks, mpeg2=mpeg2)
        for number, (size, blocks, crc) in enumerate(draw(st.lists(frame, min_size=3, max_size=8)))
    ])  # fmt: skip


RUNS = {"mp3": mpeg_runs(), "aac": adts_runs()}
PICTURES = st.builds(picture, st.integers(0, 50), st.integers(0, 1500))
TAGS = st.one_of(PICTURES.map(id3v2), st.just(id3v1()), PICTURES.map(ape)).map(lambda data: Part("tag", (), data))
# Nothing in it begins a header or a tag.
GARBAGE = st.binary(min_size=8, max_size=600).map(lambda data: Part("garbage", (), bytes(b & 0x3F for b in data)))
NAMES = st.sampled_from(sorted(RUNS))


@st.composite
def clean_streams(draw: st.DrawFn) -> tuple[str, list[Part]]:
    """Runs with tags and garbage between them, and nothing that the parser could doubt."""
    name = draw(NAMES)
    return name, draw(st.lists(st.one_of(RUNS[name], RUNS[name], TAGS, GARBAGE), min_size=1, max_size=7))


@st.composite
def wild_streams(draw: st.DrawFn) -> tuple[str, bytes]:
    """The same, cut and mixed with lying tags, frames of the other format and any bytes."""
    name = draw(NAMES)
    lies = st.tuples(PICTURES, st.integers(0, 5000)).map(lambda lie: id3v2(lie[0], claims_bytes=lie[1]))
    whole = st.one_of(*RUNS.values(), TAGS, GARBAGE).map(lambda part: part.data)
    cut = st.tuples(whole, st.integers(0, 3000)).map(lambda pair: pair[0][: pair[1]])
    headers = st.binary(max_size=40).map(lambda data: b"".join(b"\xff\xfb" + bytes([byte]) for byte in data))
    return name, b"".join(draw(st.lists(st.one_of(whole, cut, lies, headers, st.binary(max_size=300)), max_size=7)))


def expected(parts: list[Part]) -> list[bytes]:
    """All frames, but those with garbage directly behind them."""
    frames: list[bytes] = []
    for part, successor in zip(parts, [*parts[1:], None], strict=True):
        confirmed = successor is None or successor.kind != "garbage"
        frames += part.frames if confirmed else part.frames[:-1]
    return frames


@FIXED
@given(clean_streams())
def test_exactly_the_confirmed_frames_are_found(stream: tuple[str, list[Part]]) -> None:
    """Every frame whose successor (a frame of any format, a tag, the end) confirms it, and nothing else."""
    name, parts = stream
    assert datas(parse(name, *(part.data for part in parts))) == expected(parts)


@FIXED
@given(wild_streams(), st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_gives_the_same_frames(stream: tuple[str, bytes], sizes: list[int]) -> None:
    """Frames, formats and counts, whatever the bytes are."""
    name, data = stream
    whole, split = parser_for(name), parser_for(name)
    assert drive(whole, data) == drive(split, *pieces(data, sizes))
    assert (whole.position, whole.skipped_bytes, whole.format) == (split.position, split.skipped_bytes, split.format)


@FIXED
@given(wild_streams(), st.integers(1, 700))
def test_input_is_emitted_or_skipped_in_order(stream: tuple[str, bytes], step: int) -> None:
    """At any time: emitted + skipped = position, position + held = fed; the frames are pieces of the input, in order."""
    name, data = stream
    parser = parser_for(name)
    emitted, searched = 0, 0
    for at in range(0, len(data) + step, step):
        piece = data[at : at + step]
        for frame in parser.feed(piece) if piece else parser.flush():
            searched = data.index(frame.data, searched) + len(frame.data)
            emitted += len(frame.data)
        assert emitted + parser.skipped_bytes == parser.position >= searched
        assert parser.position + parser.held_bytes == min(at + step, len(data))
    assert parser.held_bytes == 0


@FIXED
@given(wild_streams(), st.integers(0, 5000), st.integers(1, 900))
def test_a_resumed_parser_gives_exactly_the_remaining_frames(stream: tuple[str, bytes], crash: int, step: int) -> None:
    """A crash anywhere, the state kept: what was emitted before and after it is what one parser emits."""
    name, data = stream
    parser = parser_for(name)
    before = [frame for at in range(0, min(crash, len(data)), step) for frame in parser.feed(data[at : at + step])]
    resumed = parser_for(name, parser.resume)
    assert before + drive(resumed, data[parser.position :]) == parse(name, data)
    assert resumed.position == len(data)


@FIXED
@given(clean_streams(), st.integers(0, 5000))
def test_a_new_parser_finds_the_confirmed_frames_from_position(stream: tuple[str, list[Part]], crash: int) -> None:
    """With the bytes alone nothing is emitted twice or out of order; at most the first frame is lost, two in free format,
    where one interval is no proof."""
    name, parts = stream
    data = b"".join(part.data for part in parts)
    parser = parser_for(name)
    before = datas(parser.feed(data[:crash]))
    after = datas(parse(name, data[parser.position :]))
    whole, done = expected(parts), len(before)
    assert before == whole[:done]
    free_format = name == "mp3" and done + 1 < len(whole) and whole[done][2] >> 4 == 0
    assert after in [whole[done + lost :] for lost in range(3 if free_format else 2)]
