"""A fuzzer for the frame parsers: real streams mutilated, headers in heaps, plain noise. Seeded, with fixed counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.wire.adts import AdtsParser
from appliance.wire.audio_tags import TAG_HEAD_BYTES
from appliance.wire.frames import parser_for
from appliance.wire.mpeg_audio import MpegAudioParser
from tests.wire.frame_makers import DATA, SAMPLES, adts_frame, ape, datas, drive, id3v1, id3v2, info_frame, mpeg_frame

FIXED = settings(max_examples=300, derandomize=True, database=None, deadline=None)
BOUND_BYTES = {"mp3": MpegAudioParser.MAX_HELD_BYTES, "aac": AdtsParser.MAX_HELD_BYTES}
STREAMS = {file: (DATA / file).read_bytes()[:12_000] for file in SAMPLES}
MORSELS = (
    b"\xff",
    b"\xff\xfb\x90\x00",
    b"\xff\xfb\x00\x00",
    b"\xff\xf1\x50\x80",
    adts_frame(size=8191)[:7],
    mpeg_frame(),
    mpeg_frame(free_bytes=300),
    adts_frame(),
    info_frame(),
    id3v1(),
    id3v2(b"x" * 50, claims_bytes=2**28 - 1)[:10],
    id3v2(b"x" * 50),
    ape(b"x" * 50),
    ape(b"")[:TAG_HEAD_BYTES],
    b"ID3",
    b"APETAGEX",
)


def examine(name: str, data: bytes, step: int) -> list[bytes]:
    """Feed in steps and check all that holds for any input; return the frames' data."""
    parser = parser_for(name)
    frames, place = [], 0
    for at in range(0, len(data) + step, step):
        piece = data[at : at + step]
        found = parser.feed(piece) if piece else parser.flush()
        for frame in found:
            place = data.index(frame.data, place) + len(frame.data)
            assert frame.data[0] == 0xFF and frame.data[1] & 0xE0 == 0xE0
            assert frame.samples > 0 and frame.format.sample_rate > 0 and frame.duration_s > 0
        frames += datas(found)
        assert parser.held_bytes <= BOUND_BYTES[name]
    assert parser.position == len(data) == parser.skipped_bytes + sum(map(len, frames))
    return frames


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A real stream with bytes changed, taken out, doubled, or replaced by morsels, anywhere."""
    data = bytearray(STREAMS[draw(st.sampled_from(sorted(STREAMS)))])
    for _ in range(draw(st.integers(1, 12))):
        at, count = draw(st.integers(0, len(data))), draw(st.integers(0, 600))
        change = draw(st.integers(0, 3))
        if change == 0:
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif change == 1:
            del data[at : at + count]
        elif change == 2:
            data[at:at] = data[at : at + count]
        else:
            data[at:at] = draw(st.sampled_from(MORSELS))
    return bytes(data)


@pytest.mark.parametrize("name", sorted(BOUND_BYTES))
@FIXED
@given(data=mutilated(), step=st.integers(1, 4000))
def test_mutilated_streams(name: str, data: bytes, step: int) -> None:
    """No error, no byte twice, all accounted for, memory bounded, also with the other format's stream; any step the same."""
    assert examine(name, data, step) == datas(drive(parser_for(name), data))


@pytest.mark.parametrize("name", sorted(BOUND_BYTES))
@FIXED
@given(data=st.lists(st.one_of(st.sampled_from(MORSELS), st.binary(max_size=60)), max_size=60).map(b"".join))
def test_heaps_of_morsels(name: str, data: bytes) -> None:
    """Headers, tags and parts of them in any order, in one piece and in small ones."""
    assert examine(name, data, 7) == examine(name, data, max(1, len(data)))


@pytest.mark.parametrize("name", sorted(BOUND_BYTES))
def test_noise_holds_no_frames(name: str) -> None:
    """2 MB of random bytes, with 400 false headers in them: a false sync never counts."""
    noise = random.Random(4).randbytes(2_000_000)
    assert examine(name, noise, 65536) == []


@pytest.mark.parametrize("name", sorted(BOUND_BYTES))
def test_frames_that_survive_are_found(name: str) -> None:
    """Of a stream with damage in some places all frames come out whose bytes, and whose successor's header, are whole."""
    data = next(data for file, data in STREAMS.items() if SAMPLES[file][0] == name)
    whole = datas(drive(parser_for(name), data))
    begin = data.index(whole[0])
    for seed in range(200):
        rng = random.Random(seed)
        hits = sorted(rng.sample(range(begin, len(data)), 5))
        damaged = bytearray(data)
        for hit in hits:
            damaged[hit] = 0
        survivors, at = [], begin
        for frame in whole:
            end = at + len(frame)
            if damaged[at : end + 7] == data[at : end + 7]:
                survivors.append(frame)
            at = end
        found = iter(datas(drive(parser_for(name), bytes(damaged))))
        assert all(frame in found for frame in survivors), seed
