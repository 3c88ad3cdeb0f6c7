"""AAC in ADTS: ffmpeg's encoder at every rate, and by hand what it does not make: CRC, several raw blocks, every field."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from appliance.wire.frames import parser_for
from tests.wire.frame_makers import AAC_RATES, adts_frame, adts_run, assert_agrees, datas, ffmpeg, ffprobe, parse

TONE = ("-f", "lavfi", "-i", "sine=frequency=500:sample_rate=48000:duration=0.2,aformat=channel_layouts=stereo")


def test_ffmpegs_encoder_agrees_with_ffprobe(tmp_path: Path) -> None:
    """All rates; mono, stereo and 5.1; a low and a high bitrate, which make one stream for ffprobe."""
    args: list[str | Path] = []
    streams: dict[tuple[int, int], list[Path]] = {}
    for rate, channels, kbps in product(AAC_RATES, (1, 2, 6), (24, 256)):
        file = tmp_path / f"{rate}-{channels}-{kbps}.aac"
        streams.setdefault((rate, channels), []).append(file)
        args += ["-c:a", "aac", "-b:a", f"{kbps}k", "-ar", str(rate), "-ac", str(channels), "-f", "adts", file]
    ffmpeg(*TONE, *args)

    def check(stream: tuple[int, int]) -> None:
        data = b"".join(file.read_bytes() for file in streams[stream])
        frames = parse("aac", data)
        assert b"".join(datas(frames)) == data
        joined = tmp_path / "-".join(map(str, stream))
        joined.write_bytes(data)
        assert_agrees(frames, ffprobe(joined, "aac"))
        assert {frame.format.stream_key for frame in frames} == {f"aac-{stream[0]}-2-{stream[1]}"}

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, streams))


@pytest.mark.parametrize("mpeg2", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_field_by_hand_agrees_with_ffprobe(mpeg2: bool, channels: int, tmp_path: Path) -> None:
    """CRC, one to four raw blocks, MPEG-2 and -4, sizes from small to the largest; behind a few real frames, from which
    ffprobe learns the rate. ffmpeg cannot decode several raw blocks ("More than one AAC RDB per ADTS frame is not
    implemented") and gives such frames 1024 or all their samples, as its probing goes: there the standard is asked."""
    real = tmp_path / "real.aac"
    options = ["-c:a", "aac", "-ar", "44100", "-ac", str(channels), "-write_mpeg2", str(int(mpeg2)), "-f", "adts"]
    ffmpeg(*TONE, *options, real)
    settings = product((30, 300, 1024, 8191), (1, 2, 3, 4), (False, True))
    made = datas(parse("aac", real.read_bytes())) + [
        adts_frame(number, size=size, blocks=blocks, crc=crc, mpeg2=mpeg2, channels=channels)
        for number, (size, blocks, crc) in enumerate(settings)
    ]
    joined = tmp_path / "joined.aac"
    joined.write_bytes(b"".join(made))
    frames = parse("aac", joined.read_bytes())
    assert datas(frames) == made
    packets = ffprobe(joined, "aac")
    assert [size for size, _ in packets] == [len(frame.data) for frame in frames]
    pairs = [pair for pair in zip(frames, packets, strict=True) if pair[0].samples == 1024]
    assert_agrees([frame for frame, _ in pairs], [packet for _, packet in pairs])
    assert [frame.samples for frame in frames[-8::2]] == [1024, 2048, 3072, 4096]


@pytest.mark.parametrize("profile", [0, 1, 2, 3])
def test_formats(profile: int) -> None:
    """Every object type, rate and channel configuration is named; 7 means 8 channels, 0 is told in the audio."""
    for rate, channels in product(AAC_RATES, range(8)):
        (stream,) = {frame.format for frame in parse("aac", *adts_run(3, rate=rate, channels=channels, profile=profile))}
        heard = 8 if channels == 7 else channels
        assert (stream.codec, stream.sample_rate, stream.channels, stream.bitrate_bps) == ("aac", rate, heard, 0)
        assert (stream.profile, stream.layer) == (f"mp4a.40.{profile + 1}", 0)
        assert stream.stream_key == f"aac-{rate}-{profile + 1}-{heard}"


def test_he_aac_is_framed_by_its_core() -> None:
    """Implicit SBR does not show in ADTS: 1024 samples at the core's rate last as long as the 2048 that are heard."""
    frames = parse("aac", *adts_run(4, rate=24000))
    assert {frame.format.stream_key for frame in frames} == {"aac-24000-2-2"}
    assert sum(frame.duration_s for frame in frames) == pytest.approx(4 * 2048 / 48000)


def test_bits_that_may_change_within_a_stream() -> None:
    """CRC or not, original, home and copyright bits do not break a run."""
    made = [adts_frame(number, crc=number % 3 == 0, flags=number % 16) for number in range(40)]
    frames = parse("aac", *made)
    assert datas(frames) == made and len({frame.format for frame in frames}) == 1


@pytest.mark.parametrize(("first", "second"), [
    ({"rate": 44100}, {"rate": 48000}), ({"channels": 1}, {"channels": 2}),
    ({"profile": 0}, {"profile": 1}), ({"mpeg2": True}, {"mpeg2": False}),
])  # fmt: skip
def test_headers_that_do_not_agree(first: dict[str, int], second: dict[str, int]) -> None:
    """Rate, channels, profile or version differ: neither frame confirms the other."""
    assert parse("aac", *adts_run(1, **first), *adts_run(1, **second)) == []


@pytest.mark.parametrize("header", [
    "fff1 5080 00ff fc",  # length 7: nothing but a header
    "fff0 5080 013f fc",  # length 9 with a CRC: the same
    "fff1 7480 25ff fc",  # rate index 13
    "fff1 7c80 25ff fc",  # rate index 15
    "fff3 5080 25ff fc",  # layer bits
    "ffe1 5080 25ff fc",  # eleven sync bits
])  # fmt: skip
def test_no_header(header: str) -> None:
    """Reserved values, and lengths that hold no audio."""
    frame = bytes.fromhex(header)
    length = (frame[3] & 3) << 11 | frame[4] << 3 | frame[5] >> 5
    assert parse("aac", *[frame + bytes(length - 7)] * 6) == []


@pytest.mark.parametrize(("size", "crc"), [(8, False), (10, True), (8191, False), (8191, True)])
def test_the_smallest_and_the_largest_frame(size: int, crc: bool) -> None:
    """Right at the bounds of what a length can be, whole and byte by byte."""
    made = adts_run(4, size=size, crc=crc)
    assert datas(parse("aac", *made)) == made
    parser = parser_for("aac")
    frames = [frame for byte in b"".join(made) for frame in parser.feed(bytes([byte]))]
    assert datas(frames + parser.flush()) == made
