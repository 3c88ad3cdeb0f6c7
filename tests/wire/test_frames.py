"""What both frame parsers owe: any split, resync, tags true and lying, format changes, restart, bounded memory and time."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from appliance.wire.adts import AdtsParser
from appliance.wire.audio_format import FrameParser, Resume
from appliance.wire.frame_sync import FrameSync
from appliance.wire.frames import AudioFormat, Frame, parser_for
from appliance.wire.mpeg_audio import MpegAudioParser
from tests.wire.frame_makers import (
    DATA,
    RUNS,
    SAMPLES,
    adts_frame,
    ape,
    assert_agrees,
    datas,
    drive,
    ffprobe,
    id3v1,
    id3v2,
    info_frame,
    mpeg_frame,
    parse,
    picture,
    pieces,
)

FORMATS = tuple(RUNS)
NEWER = {"mp3": {"rate": 48000}, "aac": {"rate": 48000}}
STEREO_44 = AudioFormat("mp3", 44100, 2, 128_000, 3, "mp4a.40.34")


@pytest.fixture(params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_stream_keys_are_those_of_streammachine_0_7() -> None:
    """0.7 has rate, kbit/s and s or m for MPEG audio, "Dual" being m; rate, object type and channels for AAC."""
    assert STEREO_44.stream_key == "mp3-44100-128-s"
    assert AudioFormat("mp3", 22050, 1, 64_000, 3, "mp4a.40.34").stream_key == "mp3-22050-64-m"
    assert AudioFormat("mp3", 44100, 2, 128_000, 3, "mp4a.40.34", dual=True).stream_key == "mp3-44100-128-m"
    assert AudioFormat("mp3", 44100, 2, 639_757, 3, "mp4a.40.34").stream_key == "mp3-44100-640-s"
    assert AudioFormat("aac", 44100, 2, 0, 0, "mp4a.40.2").stream_key == "aac-44100-2-2"


def test_a_format_knows_its_mime_type_and_what_a_decoder_can_follow() -> None:
    """Bitrate and channel mode may change within a run; rate, channels, layer and codec may not."""
    assert STEREO_44.mime == "audio/mpeg"
    assert AudioFormat("aac", 44100, 2, 0, 0, "mp4a.40.2").mime == "audio/aac"
    assert STEREO_44.same_codec(AudioFormat("mp3", 44100, 2, 320_000, 3, "mp4a.40.34", dual=True))
    for other in (
        AudioFormat("mp3", 48000, 2, 128_000, 3, "mp4a.40.34"),
        AudioFormat("mp3", 44100, 1, 128_000, 3, "mp4a.40.34"),
        AudioFormat("mp3", 44100, 2, 128_000, 2, "mp4a.40.33"),
        AudioFormat("aac", 44100, 2, 0, 0, "mp4a.40.2"),
    ):
        assert not STEREO_44.same_codec(other)


def test_a_frame_lasts_its_samples() -> None:
    assert Frame(b"", 1152, STEREO_44).duration_s == 1152 / 44100


def test_parser_for_takes_the_two_formats_only() -> None:
    """A configured format gives its parser, any other name says which there are."""
    parsers: list[FrameParser] = [parser_for("mp3"), parser_for("aac")]
    assert [type(parser) for parser in parsers] == [MpegAudioParser, AdtsParser]
    with pytest.raises(ValueError, match="'ogg': known are mp3, aac"):
        parser_for("ogg")


@pytest.mark.parametrize("file", SAMPLES)
def test_samples_agree_with_ffprobe(file: str) -> None:
    """Real streams: count, sizes and durations as ffprobe has them; every byte emitted in order or counted as skipped."""
    format_name, key = SAMPLES[file]
    data = (DATA / file).read_bytes()
    parser = parser_for(format_name)
    frames = drive(parser, data)
    assert_agrees(frames, ffprobe(DATA / file, format_name))
    assert {frame.format.stream_key for frame in frames} == {key}
    assert data.endswith(b"".join(datas(frames)))
    assert parser.position == len(data) == parser.skipped_bytes + sum(map(len, datas(frames)))


@pytest.mark.parametrize("file", SAMPLES)
def test_any_split_gives_the_same_frames(file: str) -> None:
    """Whole, byte by byte, in random pieces, and from any kind of buffer; the frames are bytes of their own."""
    format_name = SAMPLES[file][0]
    data = (DATA / file).read_bytes()[:30_000]
    whole = parse(format_name, data)
    assert parse(format_name, *(data[at : at + 1] for at in range(len(data)))) == whole
    rng = random.Random(1)
    for most in (3, 700, 5000):
        assert parse(format_name, *pieces(data, (rng.randint(0, most) for _ in range(200)))) == whole
    buffer = bytearray(data)
    parser = parser_for(format_name)
    frames = parser.feed(memoryview(buffer)) + parser.flush()
    buffer[:] = bytes(len(buffer))
    assert frames == whole and all(type(frame.data) is bytes for frame in frames)


def test_a_frame_counts_as_soon_as_its_successor_agrees(name: str) -> None:
    """Not a byte later; the last one waits for the end of the input."""
    run = RUNS[name](3)
    parser = parser_for(name)
    header_bytes = {"mp3": 4, "aac": 7}[name]
    assert parser.feed(run[0] + run[1][: header_bytes - 1]) == []
    assert parser.position == 0 and parser.format is None
    assert datas(parser.feed(run[1][header_bytes - 1 :] + run[2])) == run[:1] + run[1:2]
    assert parser.position == len(run[0] + run[1])
    assert datas(parser.flush()) == run[2:]
    assert parser.held_bytes == 0


def test_one_frame_alone_does_not_count(name: str) -> None:
    """Nothing vouches for it."""
    assert parse(name, RUNS[name](1)[0]) == []


@pytest.mark.parametrize("tail", [b"\xff", b"\xff\xfb\x90", b"TA", b"ID3\x04\x00\x00"])
def test_the_last_frame_counts_before_a_cut_header_or_tag(name: str, tail: bytes) -> None:
    """An input that ends within the next header or tag still ended after a whole frame."""
    run = RUNS[name](3)
    assert datas(parse(name, *run, tail)) == run


@pytest.mark.parametrize("tail", [b"\x00", b"ab", b"\xff\xff\xff\xff\xff\xff\xff", bytes(50)])
def test_the_last_frame_does_not_count_before_garbage(name: str, tail: bytes) -> None:
    """What stands where a header had to be shows that the frame may not be what it was."""
    run = RUNS[name](3)
    assert datas(parse(name, *run, tail)) == run[:-1]


def test_a_cut_last_frame_does_not_count(name: str) -> None:
    run = RUNS[name](3)
    parser = parser_for(name)
    assert datas(drive(parser, *run[:2], run[2][:-1])) == run[:2]
    assert parser.skipped_bytes == len(run[2]) - 1


def test_a_parser_goes_on_after_flush(name: str) -> None:
    """After the end of one input the next one is read as a new one, and the counts go on."""
    run = RUNS[name](3)
    parser = parser_for(name)
    assert datas(drive(parser, b"".join(run)) + drive(parser, b"noise", *run)) == run + run
    assert parser.position == 2 * len(b"".join(run)) + 5 and parser.skipped_bytes == 5


def test_resync_after_garbage(name: str) -> None:
    """All frames but those that the garbage touches: the one before it may have lost its end."""
    run, more = RUNS[name](5), RUNS[name](5)
    for seed in range(50):
        garbage = random.Random(seed).randbytes(3000)
        assert datas(parse(name, *run, garbage, *more)) == run[:-1] + more
        assert datas(parse(name, garbage, *more)) == more


def test_resync_after_a_cut_frame(name: str) -> None:
    """A frame without its end is dropped, and the one before it with it only when not even the header is whole; the
    frames behind are all there."""
    run, more = RUNS[name](5), RUNS[name](5)
    telling_bytes = 4  # the rest of an ADTS header may be anything
    for left in range(1, len(run[-1])):
        kept = run[:-1] if left >= telling_bytes else run[:-2]
        assert datas(parse(name, *run[:-1], run[-1][:left], *more)) == kept + more


def test_starting_inside_a_frame(name: str) -> None:
    """An encoder joined in mid-frame: the first whole frame is the first one."""
    run = RUNS[name](5)
    for missing in range(1, len(run[0])):
        assert datas(parse(name, run[0][missing:], *run[1:])) == run[1:]


def test_a_false_header_never_counts(name: str) -> None:
    """Look-alikes in garbage, each alone, with its length pointing anywhere, also to headers that do not agree."""
    run = RUNS[name](4)
    other = RUNS[name](2, **NEWER[name])
    rng = random.Random(2)
    for gap in range(1, len(run[0]) - 60):
        fakes = b"".join(frame[: rng.randint(7, 60)] + rng.randbytes(gap) for frame in (other[0], run[0]))
        assert datas(parse(name, *run, fakes, *run)) == run[:-1] + run
    lone = other[0]  # its end is exactly where a frame of another rate begins: nothing came before that vouches for it
    assert datas(parse(name, lone, *run)) == run
    assert datas(parse(name, *other, b"noise", lone, *run)) == other[:-1] + run


def test_a_format_change_is_accepted_when_two_headers_of_the_new_format_agree(name: str) -> None:
    """No frame is lost at the change, not the last of the old format either; each frame has its own format."""
    old, new = RUNS[name](3), RUNS[name](3, **NEWER[name])
    frames = parse(name, *old, *new)
    assert datas(frames) == old + new
    assert [frame.format.sample_rate for frame in frames] == [44100] * 3 + [48000] * 3
    parser = parser_for(name)
    assert datas(parser.feed(b"".join(old) + new[0] + new[1][:3])) == old[:-1]
    assert datas(parser.feed(new[1][3:])) == old[-1:] + new[:1]


def test_one_header_of_another_format_changes_nothing(name: str) -> None:
    """A single foreign frame between others is garbage, and the frame before it is not confirmed."""
    old, new = RUNS[name](3), RUNS[name](1, **NEWER[name])
    assert datas(parse(name, *old, *new, b"noise", *old)) == old[:-1] + old


TAGS = {
    "ID3v2": id3v2(picture(3, 5000)),
    "ID3v2 with footer": id3v2(picture(4, 300), footer=True),
    "ID3v2 empty": id3v2(b""),
    "ID3v1": id3v1(),
    "APEv2": ape(picture(5, 700)),
    "APE, ID3v1": ape(picture(5, 700)) + id3v1(),
    "ID3v1, ID3v2, ID3v2": id3v1() + id3v2(picture(6, 100)) + id3v2(picture(7, 100)),
    "a false header inside": id3v2(mpeg_frame()[:50] + adts_frame()[:50] + picture(8, 2000)),
}


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_dropped_and_no_frame_with_them(name: str, tag: str) -> None:
    """Before, between and behind frames, in one piece and byte by byte; the frame before a tag counts at once."""
    run, more, data = RUNS[name](4), RUNS[name](4), TAGS[tag]
    stream = b"".join([*run, data, *more])
    parser = parser_for(name)
    assert datas(drive(parser, stream)) == run + more
    assert parser.skipped_bytes == len(data)
    assert datas(parse(name, *(stream[at : at + 1] for at in range(len(stream))))) == run + more
    assert datas(parse(name, *run, data)) == run
    parser = parser_for(name)
    assert datas(parser.feed(b"".join(run) + data)) == run
    if not data.startswith(b"TAG"):
        assert datas(parse(name, data, *run)) == run


@pytest.mark.parametrize("claims_bytes", [1001, 1002, 1010, 1100, 5000, 1_000_000, 2**28 - 1])
def test_a_tag_that_claims_too_much_costs_no_frame(name: str, claims_bytes: int) -> None:
    """Up to 256 MB claimed for 1,000 bytes: the run of frames behind them is proof enough, from its first frame on."""
    run, body = RUNS[name](12), picture(9, 1000)
    lie = id3v2(body, claims_bytes=claims_bytes)
    parser = parser_for(name)
    assert datas(drive(parser, *run, lie, *run)) == run + run
    assert parser.skipped_bytes == len(lie)
    assert datas(parse(name, lie, *run)) == run
    liar = bytearray(ape(body)[:-32])
    liar[12:16] = claims_bytes.to_bytes(4, "little")
    assert datas(parse(name, *run, bytes(liar), *run)) == run + run


def test_a_frame_behind_a_tag_follows_the_one_before_it(name: str) -> None:
    """At the end of the input it counts, when its format is the same."""
    first, last = RUNS[name](2)
    for tag in (id3v1(), id3v2(b"text"), ape(b"items")):
        assert datas(parse(name, first, tag, last)) == [first, last]
        assert datas(parse(name, first, tag, *RUNS[name](1, **NEWER[name]))) == [first]


@pytest.mark.parametrize("claims_bytes", [0, 1, 100, 999])
def test_a_tag_that_claims_too_little_costs_no_frame(name: str, claims_bytes: int) -> None:
    """Its rest is garbage like any other."""
    run, lie = RUNS[name](6), id3v2(picture(9, 1000), claims_bytes=claims_bytes)
    assert datas(parse(name, *run, lie, *run)) == run + run


def test_frames_shown_in_a_true_tag_are_not_played(name: str) -> None:
    """Up to the proof's length, and a run that goes exactly through the tag's end proves the tag, not the lie."""
    run = RUNS[name](8)
    tag = id3v2(b"".join(run[:4]) + b"end")
    assert datas(parse(name, tag, *run)) == run
    stream = b"".join([b"noise", tag, *run])
    assert datas(parse(name, *(stream[at : at + 1] for at in range(len(stream))))) == run
    assert datas(parse(name, id3v2(b"text" + b"".join(run[:3])), *run)) == run


def test_a_huge_tag_streams_by_without_being_held(name: str) -> None:
    """A tag of 40 MB costs a look at its bytes, no memory."""
    run, block = RUNS[name](5), picture(10, 65536)
    parser = parser_for(name)
    frames = parser.feed(id3v2(b"", claims_bytes=640 * len(block)))
    tracemalloc.start()
    for _ in range(640):
        assert parser.feed(block) == [] and parser.held_bytes < 100
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * len(block)
    assert datas(frames + drive(parser, *run)) == run


def test_a_new_parser_goes_on_from_position(name: str) -> None:
    """Crash and restart at any moment of a real stream: what was read before, and what is read from `position` on, are
    together exactly the frames; with the bytes alone, and with the parser's state."""
    file = "mp3-44100-128-s.mp3" if name == "mp3" else "aac-256.aac"
    data = (DATA / file).read_bytes()[:25_000]
    whole = parse(name, data)
    rng = random.Random(3)
    for _ in range(150):
        crash = rng.randint(0, len(data))
        parser = parser_for(name)
        before = [frame for part in pieces(data[:crash], (rng.randint(1, 3000),)) for frame in parser.feed(part)]
        rest = data[parser.position :]
        resumed = parser_for(name, parser.resume)
        assert before + drive(resumed, rest) == whole
        assert resumed.position == len(data)
        assert before + parse(name, rest) == whole


@pytest.mark.parametrize("tag", TAGS)
def test_restart_with_state_is_exact_at_every_byte(name: str, tag: str) -> None:
    """Also inside tags, garbage, at a format change and before the last frame, where the bytes alone would not do."""
    lie = id3v2(picture(11, 60), claims_bytes=10_000)
    run, new = RUNS[name](2), RUNS[name](6, **NEWER[name])
    stream = b"".join([*run, TAGS[tag][:900], *run, *new, b"noise", lie, *new])
    whole = parse(name, stream)
    parser = parser_for(name)
    before: list[Frame] = []
    seen = Resume()
    for at in range(len(stream)):
        before += parser.feed(stream[at : at + 1])
        if parser.resume != seen:
            seen = parser.resume
            assert before + drive(parser_for(name, seen), stream[seen.position :]) == whole
    assert before + parser.flush() == whole


FLOODS = {
    "0xFF": b"\xff" * 40_000,
    "MPEG headers": b"\xff\xfb\x90\x00" * 10_000,
    "MPEG headers of many kinds": b"".join(b"\xff" + bytes([b, c]) for b in range(0xE0, 0x100) for c in range(250)),
    "free-format headers": b"\xff\xfb\x00\x00" * 10_000,
    "free-format headers of many kinds": b"".join(b"\xff%c%c\x00" % (0xE2 + i % 30, i % 16) for i in range(10_000)),
    "ADTS headers that claim all": b"\xff\xf1\x4c\x83\xff\xff\xfc" * 6_000,
    "ADTS headers": b"\xff\xf1\x4c\x80\x04\x1f\xfc\x00" * 5_000,
    "tag heads": id3v2(b"", claims_bytes=2**28 - 1) * 4_000,
    "small tags": id3v2(b"") * 4_000,
    "APE heads": ape(b"")[:32] * 1_200,
    "TAG": b"TAG" * 13_000,
    "headers in a huge tag": id3v2(b"", claims_bytes=2**28 - 1) + b"\xff\xfb\x90\x00\xff\xf1\x50\x80\x20\x1f\xfc" * 4_000,
    "zeros": bytes(40_000),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_cost_bounded_memory_and_linear_time(name: str, flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers looked at are at most a few for each byte, in one piece or in small ones, and what is held is bounded."""
    looks = [0]
    kind: type[MpegAudioParser | AdtsParser] = MpegAudioParser if name == "mp3" else AdtsParser
    plain = kind._look

    def counted(self: FrameSync, buf: bytes, at: int) -> object:
        looks[0] += 1
        return plain(self, buf, at)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "_look", counted)
    data = FLOODS[flood]
    for size in (len(data), 1400, 100):
        looks[0] = 0
        parser = kind()
        for at in range(0, len(data), size):
            parser.feed(data[at : at + size])
            assert parser.held_bytes <= kind.MAX_HELD_BYTES
        parser.flush()
        assert looks[0] < 8 * len(data)
        assert parser.position == len(data)


def test_frames_are_found_behind_any_flood(name: str) -> None:
    """Whatever came before, not one frame of the stream is lost."""
    run = RUNS[name](30)
    for flood, data in FLOODS.items():
        assert datas(parse(name, data, *run))[-30:] == run, flood


def test_info_frames_are_no_audio_frames_elsewhere() -> None:
    """An info frame confirms its predecessor, is confirmed by its successor, and is counted as skipped."""
    run = RUNS["mp3"](3)
    parser = parser_for("mp3")
    assert datas(drive(parser, *run, info_frame(), *run)) == run + run
    assert parser.skipped_bytes == len(info_frame())
