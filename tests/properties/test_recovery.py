"""A body that is read by one process after the other, cut anywhere, however sent: together they give exactly the frames of one."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ingest.source_body import SourceBody
from tests.ingest.source_makers import chunked, frames_of
from tests.wire.frame_makers import adts_frame, ape, id3v1, id3v2, mpeg_frame

FIXED = settings(max_examples=200, derandomize=True, database=None, deadline=None)


@dataclass(frozen=True)
class Step:
    """One read; then this share of the frames that came and are not out goes out, and perhaps the process dies: before it settles, or
    after, when it had read more than it counted."""

    size: int
    out: float
    settles: bool
    dies: bool
    uncounted: int


steps = st.builds(
    Step, st.integers(1, 2500), st.sampled_from([0, 0.3, 1, 1]), st.booleans(), st.booleans(), st.sampled_from([0, 0, 1, 700])
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A format and a stream: runs of frames, changes of format, tags, garbage."""
    aac = draw(st.booleans())
    parts = []
    for number in range(draw(st.integers(1, 5))):
        rate = draw(st.sampled_from((44100, 48000, 22050)))
        count = draw(st.integers(2, 12))
        if aac:
            parts += [adts_frame(number * 20 + one, size=200 + one * 7, rate=rate) for one in range(count)]
        else:
            free_bytes = draw(st.sampled_from((0, 0, 400)))
            parts += [mpeg_frame(number * 20 + one, rate=rate, kbps=64, pad=one % 2, free_bytes=free_bytes) for one in range(count)]
        parts.append(draw(st.sampled_from((b"", b"", id3v1(), id3v2(b"t" * 900), ape(b"x" * 300), b"garbage" * 40, b"\xff" * 5))))
    return "aac" if aac else "mp3", b"".join(parts)


@FIXED
@given(bodies(), st.sampled_from(["plain", "chunked", "length"]), st.lists(st.integers(1, 1500), min_size=1, max_size=8), st.lists(steps, min_size=1, max_size=60))  # fmt: skip  # noqa: E501
def test_the_union_is_exact(body: tuple[str, bytes], coding: str, sizes: list[int], plan: list[Step]) -> None:
    """Frames that went out before a cut, then those the successor finds beyond the count that is out, are the whole input's frames."""
    format_name, payload = body
    wanted = [frame.data for frame in frames_of(payload, format_name)]
    at_size = iter(sizes * (1 + len(payload)))
    raw = chunked(payload, at_size) if coding == "chunked" else payload + (b"next" if coding == "length" else b"")
    length = len(payload) if coding == "length" else None
    now = SourceBody.create("test", format_name, chunked=coding == "chunked", length=length)
    out: list[bytes] = []  # the ring
    held: list[bytes] = []  # the chunker
    at = 0
    for step in plan * (1 + len(raw) // len(plan)):
        if at >= len(raw):
            break
        piece = raw[at : at + step.size]
        at += len(piece)
        now.journal.put(piece)
        held += [frame.data for frame in now.replay()]
        going = round(len(held) * step.out)
        out += held[:going]
        del held[:going]
        if step.settles:
            now.settle(len(held))
        if step.dies:
            uncounted = raw[at : at + step.uncounted]
            now.journal.room()[: len(uncounted)] = uncounted
            at += len(uncounted)
            journal = now.journal
            now = SourceBody.resume(journal, format_name, chunked=coding == "chunked")
            journal.count_up_to(journal.received + len(uncounted))
            ring = sum(map(len, out)) - now.audio_bytes
            held = beyond(ring, [frame.data for frame in now.replay()])
    held += [frame.data for frame in now.flush()]
    assert out + held == wanted
    assert now.complete == (coding != "plain")
    now.close()


def beyond(size: int, frames: list[bytes]) -> list[bytes]:
    """Without the first frames, of just this size."""
    while size:
        size -= len(frames.pop(0))
        assert size >= 0
    return frames
