"""Who is on air: the first source, its own return, the standby; and what the streams get of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from appliance.ingest.mount import STANDBY_MAX, Mount, MountSettings, Source, SourceInfo, set_title
from appliance.ring.layout import META_TEXT_BYTES, Flag, Word
from appliance.wire.frames import Frame
from tests.ingest.source_makers import PASSWORD, HandClock, StreamAtHand, audio_of, frames_of, stored
from tests.wire.frame_makers import mpeg_run

FRAMES = frames_of(b"".join(mpeg_run(240)))


class Stage:
    """A mount with two streams, sources that leave when they are ended, and a log."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.feeds = [StreamAtHand(self.clock, "one"), StreamAtHand(self.clock, "two", titles=False)]
        self.rung = 0
        self.on_air: list[Source | None] = []
        settings = MountSettings("test", PASSWORD)
        self.mount = Mount(settings, self.feeds, self.clock, self._ring, lambda mount: self.on_air.append(mount.active))
        self.ended: list[tuple[str, str]] = []

    def _ring(self) -> None:
        self.rung += 1

    def source(self, user: str, agent: str = "Lavf", last: list[Frame] | None = None) -> Source:
        """It joins; `last`: frames it still has when it is ended."""

        def end(reason: str) -> None:
            self.ended.append((user, reason))
            if last:
                self.mount.frames(made, last)
            self.mount.leave(made, reason)

        made = Source(user, agent, "192.0.2.1", "PUT HTTP/1.1", SourceInfo(), end)
        self.mount.join(made)
        return made

    def play(self, source: Source, frames: list[Frame]) -> None:
        for frame in frames:
            self.clock.pass_us(26_122)
            self.mount.frames(source, [frame])

    @property
    def audio(self) -> bytes:
        return audio_of(self.feeds[0].writer)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    for feed in made.feeds:
        feed.writer.close()


@pytest.fixture
def logs() -> Iterator[list[EventDict]]:
    with capture_logs() as found:
        yield found


def data(frames: list[Frame]) -> bytes:
    return b"".join(frame.data for frame in frames)


def test_the_first_source_is_on_air(stage: Stage) -> None:
    """All streams of the mount get its frames, and the doorbell rings once a chunk."""
    first = stage.source("a")
    assert stage.mount.active is first
    stage.play(first, FRAMES)
    rung = stage.rung
    stage.mount.leave(first, "done")
    assert [audio_of(feed.writer) for feed in stage.feeds] == [data(FRAMES)] * 2
    assert rung <= 1 + len(stored(stage.feeds[0].writer))
    assert stage.rung > rung


def test_any_other_source_stands_by(stage: Stage) -> None:
    """Another user, or the same user with another agent: nothing of it is heard while the first is there."""
    first = stage.source("a", "Lavf")
    second, third = stage.source("b", "Lavf"), stage.source("a", "butt")
    stage.play(second, FRAMES[:100])
    stage.play(third, FRAMES[:100])
    stage.play(first, FRAMES[100:])
    stage.mount.leave(third, "done")
    assert stage.mount.active is first
    stage.mount.leave(first, "done")
    assert stage.audio == data(FRAMES[100:])
    assert stage.mount.active is second


def test_the_standby_goes_on_at_a_frame_boundary(stage: Stage) -> None:
    """The active one ends: all its frames, then the standby's from the next one on; no time away."""
    first, second = stage.source("a"), stage.source("b")
    stage.play(first, FRAMES[:110])
    stage.play(second, FRAMES[:50])
    stage.mount.leave(first, "closed")
    stage.play(second, FRAMES[50:160])
    stage.mount.leave(second, "closed")
    assert stage.audio == data(FRAMES[:110]) + data(FRAMES[50:160])
    assert sum(chunk.flags & Flag.SOURCE_START != 0 for chunk in stored(stage.feeds[0].writer)) == 2


def test_the_same_encoder_takes_over_at_once(stage: Stage) -> None:
    """Same user and agent: the old connection is ended with its last frames, the new one is heard from its first."""
    first = stage.source("a", last=FRAMES[110:113])
    standby = stage.source("b")
    stage.play(first, FRAMES[:110])
    again = stage.source("a")
    assert stage.mount.active is again
    assert [user for user, _ in stage.ended] == ["a"]
    assert stage.mount.sources == [again, standby]
    stage.play(again, FRAMES[113:])
    stage.mount.leave(again, "closed")
    assert stage.audio == data(FRAMES)


def test_a_standby_that_comes_back_keeps_its_place(stage: Stage) -> None:
    """It replaces itself in the line, not the one on air."""
    first, old, third = stage.source("a"), stage.source("b"), stage.source("c")
    again = stage.source("b")
    assert stage.mount.sources == [first, again, third]
    assert old not in stage.mount.sources
    assert stage.mount.active is first


def test_an_old_connection_cannot_end_its_successor(stage: Stage) -> None:
    """It is gone already; its late words change nothing."""
    old = stage.source("a")
    again = stage.source("a")
    stage.mount.leave(old, "late")
    stage.mount.frames(old, FRAMES[:50])
    assert stage.mount.active is again
    stage.mount.leave(again, "done")
    assert stage.audio == b""


def test_the_line_is_bounded_and_an_encoder_that_comes_back_needs_no_room(stage: Stage) -> None:
    for number in range(1 + STANDBY_MAX):
        assert stage.mount.has_room_for(f"user{number}", "Lavf")
        stage.source(f"user{number}")
    assert not stage.mount.has_room_for("one more", "Lavf")
    assert not stage.mount.has_room_for("user0", "butt")
    assert stage.mount.has_room_for("user0", "Lavf")
    assert stage.mount.has_room_for("user5", "Lavf")


def test_away_and_present(stage: Stage) -> None:
    """Away counts from the last audio, and ends with the next audio, not with a connection."""
    words = stage.feeds[0].writer.columns.words
    first = stage.source("a")
    stage.play(first, FRAMES[:100])
    last_us = stage.feeds[0].writer.appended_us
    stage.mount.leave(first, "closed")
    assert words[Word.AWAY_SINCE_US] >= last_us
    stage.clock.pass_us(60_000_000)
    again = stage.source("a")
    assert words[Word.AWAY_SINCE_US] != 0
    stage.play(again, FRAMES[:40])
    assert words[Word.AWAY_SINCE_US] == 0
    assert stage.audio.startswith(data(FRAMES[:100]))


def test_no_time_away_between_a_source_and_its_standby(stage: Stage) -> None:
    words = stage.feeds[0].writer.columns.words
    first, second = stage.source("a"), stage.source("b")
    stage.play(first, FRAMES[:100])
    stage.mount.leave(first, "closed")
    assert words[Word.AWAY_SINCE_US] == 0
    stage.mount.leave(second, "closed")
    assert words[Word.AWAY_SINCE_US] != 0


def test_workers_are_told_who_is_on_air(stage: Stage) -> None:
    """Each change, and nothing else."""
    first = stage.source("a")
    second = stage.source("b")
    stage.mount.leave(first, "closed")
    stage.mount.leave(second, "closed")
    assert stage.on_air == [first, second, None]


def test_poll_lets_a_held_burst_go(stage: Stage) -> None:
    stage.mount.frames(stage.source("a"), FRAMES[:100])
    assert stage.audio == b""
    stage.clock.pass_us(300_000)
    rung = stage.rung
    stage.mount.poll()
    assert stage.rung == rung + 1
    assert data(FRAMES).startswith(stage.audio)
    assert len(stage.audio) > 0


def test_titles_go_to_streams_that_take_them(stage: Stage) -> None:
    stage.mount.title("Sigur Rós", "http://example.org")
    stage.play(stage.source("a"), FRAMES)
    assert {chunk.title for chunk in stored(stage.feeds[0].writer)} == {"Sigur Rós"}
    assert {chunk.title for chunk in stored(stage.feeds[1].writer)} == {""}


@pytest.mark.parametrize("url", ["", "http://example.org/" + "x" * 2000, "http://example.org/" + "x" * 5000])
def test_a_long_title_is_cut_at_a_character(stage: Stage, url: str) -> None:
    """With its address it fits a metadata row; an address too long is left out, never half."""
    set_title(stage.feeds[0].chunker, "ö" * 5000, url)
    stage.play(stage.source("a"), FRAMES)
    title = stored(stage.feeds[0].writer)[0].title
    room = META_TEXT_BYTES - (len(url) if len(url) < 2048 else 0)
    assert title == "ö" * (room // 2)


def test_the_log_tells_sessions_and_their_end(stage: Stage, logs: list[EventDict]) -> None:
    """One line when a source comes and one when it ends, a warning when the operator should look."""
    first = stage.source("a")
    stage.mount.leave(first, "closed by the encoder")
    again = stage.source("a")
    stage.mount.leave(again, "no audio for 10 s", faulty=True)
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("source connected", "info"), ("source ended", "info"), ("source connected", "info"), ("source ended", "warning"),
    ]  # fmt: skip
    assert all(line["mount"] == "test" and line["peer"] == "192.0.2.1" for line in logs)


def test_a_clock_set_back_is_told_once(stage: Stage, logs: list[EventDict]) -> None:
    """MECHANICS 2: never a step, slew and log."""
    first = stage.source("a")
    stage.play(first, FRAMES)
    stage.clock.wall -= 60_000_000
    stage.play(first, FRAMES)
    told = [line for line in logs if line["log_level"] == "warning"]
    assert [line["stream"] for line in told] == ["one", "two"]
    assert told[0]["seconds"] == pytest.approx(60, abs=1)
    assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in stored(stage.feeds[0].writer))


def test_a_password_is_never_shown() -> None:
    assert PASSWORD not in repr(MountSettings("test", PASSWORD))
