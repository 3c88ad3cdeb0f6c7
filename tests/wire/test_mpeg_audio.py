"""MPEG audio: every header there is against ffprobe, real encoders, free format, CRC, tag frames."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

from appliance.wire.frames import parser_for
from appliance.wire.mpeg_audio import MAX_FREE_FRAME_BYTES, MIN_FREE_FRAME_BYTES
from tests.wire.frame_makers import (
    DUAL,
    JOINT,
    KBPS,
    MONO,
    RATES,
    STEREO,
    assert_agrees,
    datas,
    drive,
    ffmpeg,
    ffprobe,
    id3v1,
    info_frame,
    mpeg_frame,
    mpeg_run,
    mpeg_samples,
    parse,
)

TONE = ("-f", "lavfi", "-i", "sine=frequency=500:sample_rate=48000:duration=0.2,aformat=channel_layouts=stereo")


def every_header(version: str, layer: int, rate: int, modes: tuple[int, ...]) -> list[bytes]:
    """A frame of each bitrate, mode, padding and CRC, which belong to one run."""
    settings = product(KBPS[version[0], layer], modes, (0, 1), (False, True))
    return [
        mpeg_frame(number, layer=layer, kbps=kbps, rate=rate, mode=mode, pad=pad, crc=crc)
        for number, (kbps, mode, pad, crc) in enumerate(settings, 1)
    ]


@pytest.mark.parametrize("version", RATES)
def test_every_header_agrees_with_ffprobe(version: str, tmp_path: Path) -> None:
    """All layers, rates, bitrates, channel modes, paddings, with and without CRC: VBR runs of handmade frames."""
    runs = list(product((1, 2, 3), RATES[version], ((STEREO, JOINT, DUAL), (MONO,))))

    def check(run: tuple[int, int, tuple[int, ...]]) -> None:
        layer, rate, modes = run
        made = every_header(version, layer, rate, modes)
        file = tmp_path / f"{layer}-{rate}-{len(modes)}.mp3"
        file.write_bytes(b"".join(made))
        frames = parse("mp3", file.read_bytes())
        assert datas(frames) == made
        assert_agrees(frames, ffprobe(file, "mp3"))
        assert {frame.samples for frame in frames} == {mpeg_samples(version, layer)}
        (stream,) = {frame.format for frame in frames}
        assert (stream.codec, stream.sample_rate, stream.layer) == ("mp3", rate, layer)
        assert stream.profile == {1: "mp4a.40.32", 2: "mp4a.40.33", 3: "mp4a.40.34"}[layer]
        assert stream.channels == (1 if modes == (MONO,) else 2)
        assert stream.bitrate_bps == KBPS[version[0], layer][0] * 1000

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, runs))


def check_encoded(files: list[Path], joined: Path) -> None:
    """The files' frames, one file after the other, are what ffprobe sees in all of them joined; whole files are used up."""
    frames = []
    for file in files:
        data = file.read_bytes()
        found = parse("mp3", data)
        assert b"".join(datas(found)) == data and len(found) > 2
        frames += found
    joined.write_bytes(b"".join(file.read_bytes() for file in files))
    assert_agrees(frames, ffprobe(joined, "mp3"))


@pytest.mark.parametrize("rate", [rate for rates in RATES.values() for rate in rates])
def test_lame_agrees_with_ffprobe(rate: int, tmp_path: Path) -> None:
    """libmp3lame in MPEG 1, 2 and 2.5: all bitrates, mono, stereo, joint stereo, and VBR."""
    version = next(name for name, rates in RATES.items() if rate in rates)
    qualities = [("-b:a", f"{kbps}k") for kbps in KBPS[version[0], 3]] + [("-q:a", str(q)) for q in (0, 5, 9)]
    args: list[str | Path] = []
    files: dict[str, list[Path]] = {"1": [], "2": []}
    for number, ((channels, joint), quality) in enumerate(product((("2", "0"), ("2", "1"), ("1", "0")), qualities)):
        files[channels].append(tmp_path / f"{number}.mp3")
        args += ["-c:a", "libmp3lame", *quality, "-ar", str(rate), "-ac", channels, "-joint_stereo", joint]
        args += ["-write_xing", "0", "-id3v2_version", "0", "-f", "mp3", files[channels][-1]]
    ffmpeg(*TONE, *args)
    for encoded in files.values():
        check_encoded(encoded, tmp_path / "joined.mp3")


def test_twolame_agrees_with_ffprobe(tmp_path: Path) -> None:
    """Layer II from a real encoder, with CRC and without."""
    args: list[str | Path] = []
    groups: dict[tuple[int, str], list[Path]] = {}
    for rate, channels, kbps in product(RATES["1"] + RATES["2"], ("1", "2"), (64, 96, 160)):
        file = tmp_path / f"{rate}-{channels}-{kbps}.mp2"
        groups.setdefault((rate, channels), []).append(file)
        args += ["-c:a", "libtwolame", "-error_protection", "0" if kbps == 96 else "1", "-b:a", f"{kbps}k"]
        args += ["-ar", str(rate), "-ac", channels, "-f", "mp2", file]
    ffmpeg(*TONE, *args)
    for files in groups.values():
        assert {file.read_bytes()[1] & 1 for file in files} == {0, 1}
        check_encoded(files, tmp_path / "joined.mp3")


@pytest.mark.parametrize("quality", [("-q:a", "2"), ("-b:a", "128k")])
def test_a_file_with_all_its_tags_agrees_with_ffprobe(quality: tuple[str, str], tmp_path: Path) -> None:
    """ID3v2, Xing or Info frame with LAME's part, ID3v1: only the audio frames are left; looped, too."""
    file = tmp_path / "tagged.mp3"
    options = ("-write_id3v1", "1", "-id3v2_version", "3", "-metadata", "title=A Song", "-metadata", "artist=Someone")
    ffmpeg(*TONE, "-c:a", "libmp3lame", *quality, *options, file)
    data = file.read_bytes()
    assert data.startswith(b"ID3") and data[-128:-125] == b"TAG"
    assert (b"Xing" if quality[0] == "-q:a" else b"Info") in data[:1000]
    frames = parse("mp3", data)
    assert_agrees(frames, ffprobe(file, "mp3"))
    assert datas(parse("mp3", data * 3)) == datas(frames) * 3


def test_the_bitrate_is_that_of_the_first_header() -> None:
    """In VBR the format does not change from frame to frame; a resumed parser keeps it."""
    made = [mpeg_frame(kbps=kbps) for kbps in (128, 320, 32, 160, 64)]
    parser = parser_for("mp3")
    frames = parser.feed(b"".join(made[:4]))
    frames += drive(parser_for("mp3", parser.resume), *made[3:])
    assert datas(frames) == made
    assert {frame.format.stream_key for frame in frames} == {"mp3-44100-128-s"}


def test_stereo_joint_and_dual_agree_mono_does_not() -> None:
    """Joint stereo comes and goes from frame to frame; the number of channels makes a new format."""
    made = [mpeg_frame(number, mode=mode) for number, mode in enumerate((STEREO, JOINT, DUAL, STEREO, MONO, MONO, MONO))]
    frames = parse("mp3", *made)
    assert datas(frames) == made
    assert [frame.format.channels for frame in frames] == [2] * 4 + [1] * 3
    assert parse("mp3", mpeg_frame(mode=MONO), mpeg_frame(mode=STEREO)) == []


@pytest.mark.parametrize("reserved", [b"\xff\xeb\x90\x00", b"\xff\xf9\x90\x00", b"\xff\xfb\xf0\x00", b"\xff\xfb\x9c\x00"])
def test_reserved_values_are_no_header(reserved: bytes) -> None:
    """Version 01, layer 00, bitrate 1111, rate 11."""
    assert parse("mp3", *[reserved + bytes(413)] * 5) == []


@pytest.mark.parametrize("free_bytes", [MIN_FREE_FRAME_BYTES + 8, 100, 417, 2089, MAX_FREE_FRAME_BYTES - 5])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_free_format(free_bytes: int, layer: int) -> None:
    """The length is the distance of headers, less padding, and the bitrate is that of the length."""
    free_bytes -= free_bytes % 4 if layer == 1 else 0
    made = [mpeg_frame(number, layer=layer, free_bytes=free_bytes, pad=number // 2 % 2) for number in range(12)]
    stream = b"".join(made)
    frames = parse("mp3", stream)
    assert datas(frames) == made
    (bitrate_bps,) = {frame.format.bitrate_bps for frame in frames}
    assert abs(bitrate_bps - free_bytes * 8 * 44100 / mpeg_samples("1", layer)) <= 1
    for step in (1, 1000):
        assert datas(parse("mp3", *(stream[at : at + step] for at in range(0, len(stream), step)))) == made
    assert datas(parse("mp3", b"noise", *made, id3v1(), *made, b"noise", *made)) == made + made[:-1] + made


def test_free_format_key() -> None:
    """640 kbit/s make 2,089 bytes, named by the nearest kbit/s."""
    assert parse("mp3", *mpeg_run(4, free_bytes=2089))[0].format.stream_key == "mp3-44100-640-s"


def test_free_format_needs_a_third_header_or_the_end() -> None:
    """One interval alone is no proof; two, or one that ends with the input, are."""
    one, two, three = mpeg_run(3, free_bytes=1000)
    parser = parser_for("mp3")
    assert parser.feed(one + two) == []
    assert datas(parser.feed(three[:4])) == [one, two]
    assert datas(parse("mp3", one, two)) == [one, two]
    assert parse("mp3", one, two, bytes(10)) == []


def test_free_format_beyond_the_limit_is_no_frame() -> None:
    assert parse("mp3", *mpeg_run(4, free_bytes=MAX_FREE_FRAME_BYTES + 1)) == []


def test_free_format_with_look_alikes_inside() -> None:
    """A few headers inside the frames are seen through, as their distances do not repeat; past a limit it gives up."""
    for fakes, found in ((1, True), (7, True), (8, False)):
        made = []
        for frame in mpeg_run(6, free_bytes=2000):
            body = bytearray(frame)
            for fake in range(fakes):
                place = 40 + fake * fake * 13 + fake * 40
                body[place : place + 4] = frame[:4]
            made.append(bytes(body))
        assert (datas(parse("mp3", *made)) == made) is found


def test_free_format_begins_and_ends_within_a_stream() -> None:
    """From a told length to free, to another free one, and back: no frame is lost."""
    made = mpeg_run(4) + mpeg_run(4, free_bytes=1000) + mpeg_run(4) + mpeg_run(4, free_bytes=700, rate=48000)
    assert datas(parse("mp3", *made)) == made
    rates = [round(frame.format.bitrate_bps / 1000) for frame in parse("mp3", *made)]
    assert rates == [128] * 4 + [306] * 8 + [233] * 4


def test_free_format_resumes_with_the_length_known() -> None:
    """From any frame on, also before the last one, where nothing more can be measured."""
    made = [mpeg_frame(number, free_bytes=1044, pad=number % 2) for number in range(6)]
    stream = b"".join(made)
    for crash in range(len(stream)):
        parser = parser_for("mp3")
        before = parser.feed(stream[:crash])
        assert datas(before + drive(parser_for("mp3", parser.resume), stream[parser.position :])) == made


@pytest.mark.parametrize("name", [b"Xing", b"Info", b"VBRI"])
@pytest.mark.parametrize("rate", [44100, 22050, 8000])
@pytest.mark.parametrize("mode", [STEREO, MONO])
def test_info_frames_are_dropped_anywhere(name: bytes, rate: int, mode: int) -> None:
    """As the first frame, in mid-stream (a looping encoder sends them), and last; with and without a CRC."""
    run = mpeg_run(3, rate=rate, mode=mode)
    for crc, shift in ((False, 0), (True, 0), (True, 2)):
        info = info_frame(name, rate=rate, mode=mode, crc=crc, shift=shift)
        parser = parser_for("mp3")
        assert datas(drive(parser, info, *run, info, info, *run, info)) == run + run
        assert parser.skipped_bytes == 4 * len(info)


def test_info_frames_are_recognised_at_their_place_only() -> None:
    """Audio that holds such a name elsewhere, or without the fields that follow it, is audio; so is layer II."""
    frame = bytearray(mpeg_frame(1))
    places = [place for place in range(4, 200) if place not in (36, 38)]
    made = []
    for place in places:
        frame[place : place + 8] = b"Xing\0\0\0\x0f"
        made.append(bytes(frame))
        frame[place : place + 8] = b"\x01" * 8
    frame[36:44] = b"Xing\0\0\0\x10"
    made.append(bytes(frame))
    frame[36:44] = b"VBRI\0\2\0\0"
    made.append(bytes(frame))
    assert datas(parse("mp3", *made)) == made
    layer_2 = bytearray(mpeg_frame(1, layer=2))
    layer_2[36:44] = b"Xing\0\0\0\x0f"
    assert datas(parse("mp3", *[bytes(layer_2)] * 3)) == [bytes(layer_2)] * 3
