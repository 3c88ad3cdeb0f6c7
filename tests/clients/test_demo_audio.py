"""The music of the demo: that it is what the demo needs, and loops without a seam."""

from __future__ import annotations

from pathlib import Path

from appliance.clients.audio_files import probe
from appliance.wire.frames import Frame, parser_for

DEMO = Path(__file__).parents[2] / "appliance" / "clients" / "audio" / "demo.mp3"


def frames(rounds: int) -> tuple[list[Frame], int]:
    """The frames of so many rounds, and the bytes that are none."""
    parser = parser_for("mp3")
    found = parser.feed(DEMO.read_bytes() * rounds) + parser.flush()
    return found, parser.skipped_bytes


def test_it_is_a_minute_and_a_quarter_of_128_kbit_s() -> None:
    """And small enough for a package."""
    found, skipped_bytes = frames(1)
    assert skipped_bytes == 0
    assert len(found) == 2904
    assert probe(DEMO).stream_key == "mp3-44100-128-s"
    assert {frame.format for frame in found} == {probe(DEMO)}
    assert 60 < sum(frame.duration_s for frame in found) < 90
    assert DEMO.stat().st_size < 1_300_000


def test_it_loops_frame_by_frame() -> None:
    """The last frame is followed by the first as by any other."""
    found, skipped_bytes = frames(2)
    assert skipped_bytes == 0
    assert [frame.data for frame in found[2904:]] == [frame.data for frame in found[:2904]]


def test_every_frame_stands_alone() -> None:
    """main_data_begin (ISO/IEC 11172-3 2.4.1.7, the first 9 bits of the side information) is 0 everywhere: no frame needs
    bits of one before it, so a player that starts anywhere, or at the seam, decodes at once without an error."""
    found, _ = frames(1)
    assert all(frame.data[1] & 1 for frame in found), "no CRC before the side information"
    assert not any(frame.data[4] << 1 | frame.data[5] >> 7 for frame in found)
