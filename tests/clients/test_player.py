"""The test player: what it asks for, how it finds the audio, what it measures, and when it is content."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from appliance.clients import player
from appliance.clients.answer import Answer
from appliance.clients.player import Outcome, Player
from appliance.clients.reception import Reception, ReceptionProblem
from appliance.clients.tune_in import TuneInProblem, playlist_entry
from appliance.wire import icy, playlists
from tests.clients.fake_server import FakeServer, FastPace, Script, Visit
from tests.wire.frame_makers import adts_run, mpeg_run

FRAMES = mpeg_run(40)
AUDIO = b"".join(FRAMES)
AUDIO_S = 40 * 1152 / 44100


def plays(body: bytes, content_type: str = "audio/mpeg", first_line: str = "HTTP/1.0 200 OK", **headers: str) -> Script:
    """Answers with this body and ends it by closing."""

    async def script(visit: Visit) -> None:
        lines = [first_line, f"Content-Type: {content_type}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        await visit.send(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    return script


def points_to(path: str) -> Script:
    async def script(visit: Visit) -> None:
        await visit.answer(302, "over there", Location=path)

    return script


class Session:
    """What a player told, and how it ended."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def listen(self, server: FakeServer, path: str = "/test", *, icy: bool = False, seconds: float | None = None) -> Outcome:
        url = f"http://127.0.0.1:{server.port}{path}"
        async with asyncio.timeout(20):
            return await Player(url, icy=icy, seconds=seconds, out=self.told.append, pace=FastPace()).listen()

    def titles(self) -> list[str]:
        return [line.partition("title: ")[2] for line in self.told if "title: " in line]


def with_titles(audio: bytes, interval: int, titles: dict[int, str]) -> bytes:
    """Audio with an ICY block behind each interval: `titles` by block number, else empty."""
    body = b""
    for number, at in enumerate(range(0, len(audio), interval)):
        body += audio[at : at + interval]
        if len(audio) - at >= interval:
            body += icy.block(titles[number]) if number in titles else icy.EMPTY_BLOCK
    return body


def answer(**headers: str) -> Answer:
    return Answer(200, "OK", {name.replace("_", "-"): value for name, value in headers.items()}, b"")


async def test_audio_that_comes_whole_is_a_success() -> None:
    """All frames are counted, the bit rate is that of the audio, and the offset is told."""
    session = Session()
    async with FakeServer(plays(AUDIO, X_Rewind_Offset="29.98", icy_name="Radio Süd")) as server:
        outcome = await session.listen(server, "/test?offset=30")
        visit = server.visits[0]
    assert outcome.fault == ""
    assert (outcome.reception.frames, outcome.reception.error_bytes) == (40, 0)
    assert outcome.reception.audio_s == pytest.approx(AUDIO_S)
    assert outcome.reception.bitrate_bps == pytest.approx(len(AUDIO) * 8 / AUDIO_S)
    assert visit.line == "GET /test?offset=30 HTTP/1.1"
    assert visit.headers["host"] == f"127.0.0.1:{server.port}"
    assert "icy-metadata" not in visit.headers
    assert "X-Rewind-Offset 29.98 s" in session.told[0]
    assert "Radio Süd" in session.told[0]
    assert "40 frames, 127.7 kbit/s" in session.told[-1]
    assert "frame errors 0 bytes" in session.told[-1]


async def test_titles_are_told_as_they_change() -> None:
    """The same title again is no change; the audio around the blocks is whole."""
    titles = {0: "One: Größe", 2: "One: Größe", 4: "Two\x1b[2J", 5: ""}
    session = Session()
    async with FakeServer(plays(with_titles(AUDIO, 1000, titles), icy_metaint="1000")) as server:
        outcome = await session.listen(server, icy=True)
        assert server.visits[0].headers["icy-metadata"] == "1"
    assert session.titles() == ["One: Größe", "Two[2J", "(none)"]
    assert (outcome.fault, outcome.reception.frames) == ("", 40)


async def test_bytes_that_are_no_frames_are_a_failure() -> None:
    """Garbage between frames (the frame before it has no successor to confirm it, so it counts as well), a stream that
    starts within a frame, and one that is cut off in one."""
    for body, errors in (
        (b"".join(FRAMES[:20]) + b"garbage" + b"".join(FRAMES[20:]), 7 + len(FRAMES[0])),
        (AUDIO[100:], len(FRAMES[0]) - 100),
        (AUDIO[:-50], len(FRAMES[0]) - 50),
    ):
        async with FakeServer(plays(body)) as server:
            outcome = await Session().listen(server)
        assert outcome.reception.error_bytes == errors
        assert outcome.fault == f"{errors} bytes of what came are no audio frames"


async def test_redirects_and_playlists_lead_to_the_audio() -> None:
    """Relative or absolute, one after the other; the request for titles goes along."""
    async with FakeServer(points_to("/lists/a.m3u")) as server:
        base = f"http://127.0.0.1:{server.port}"
        server._scripts += [
            plays(playlists.m3u(f"{base}/b.pls?x=1", "T"), "audio/x-mpegurl"),
            plays(playlists.pls(f"{base}/live", "T"), "audio/x-scpls"),
            plays(AUDIO),
        ]
        session = Session()
        outcome = await session.listen(server, icy=True)
        lines = [visit.line.split()[1] for visit in server.visits]
    assert lines == ["/test", "/lists/a.m3u", "/b.pls?x=1", "/live"]
    assert all(visit.headers["icy-metadata"] == "1" for visit in server.visits)
    assert outcome.fault == ""
    assert session.told[0].startswith(f"{base}/live, audio/mpeg")


async def test_a_chunked_playlist_is_read_by_its_content() -> None:
    """A chunk's size is no address."""
    async with FakeServer() as server:
        text = playlists.m3u(f"http://127.0.0.1:{server.port}/live", "T")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
        server._scripts += [plays(body, "audio/x-mpegurl", "HTTP/1.1 200 OK", Transfer_Encoding="chunked"), plays(AUDIO)]
        assert (await Session().listen(server)).fault == ""


def test_playlist_entries() -> None:
    """The first address, whatever stands around it."""
    assert playlist_entry("\ufeff#EXTM3U\n#EXTINF:-1,T\n\n http://h/a \nhttp://h/b") == "http://h/a"
    assert playlist_entry("[playlist]\nNumberOfEntries=1\nTitle1=x\nfile1 = http://h/a?b=c\n") == "http://h/a?b=c"
    assert playlist_entry("relative/path.mp3") == "relative/path.mp3"
    assert playlist_entry("[playlist]\nNumberOfEntries=0\n") is None
    assert playlist_entry("") is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (plays(b"<html>", "text/html"), "text/html is neither MP3 nor AAC"),
        (plays(b"", first_line="HTTP/1.1 404 Not Found"), "the server answered 404: Not Found"),
        (plays(b"#EXTM3U\n#EXT-X-TARGETDURATION:10\na.mp3\n", "audio/x-mpegurl"), "an HLS playlist"),
        (plays(b"#EXTM3U\n", "audio/x-mpegurl"), "a playlist without an address"),
        (plays(b"", first_line="hello"), "the answer is not HTTP: 'hello'"),
        (points_to("https://example.org/"), "is no http://HOST"),
    ],
)
async def test_where_there_is_no_audio_the_reason_is_told(script: Script, words: str) -> None:
    """In words, with what the server said."""
    async with FakeServer(script) as server:
        with pytest.raises(TuneInProblem) as caught:
            await Session().listen(server)
    assert words in str(caught.value)


async def test_a_redirect_loop_ends() -> None:
    """After five hops."""
    async with FakeServer(*[points_to("/test")] * 9) as server:
        with pytest.raises(TuneInProblem, match="more than 5"):
            await Session().listen(server)
        assert len(server.visits) == 6


async def test_old_and_chunked_servers_are_understood() -> None:
    """SHOUTcast's "ICY 200 OK" without a type means MP3; HTTP/1.1 may chunk; AAC is told by its type."""
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in FRAMES) + b"0\r\n\r\n"
    aac = b"".join(adts_run(30))

    async def shoutcast(visit: Visit) -> None:
        await visit.send(b"ICY 200 OK\nicy-name:x\n\n" + AUDIO)

    for script, frames in (
        (shoutcast, 40),
        (plays(chunked, first_line="HTTP/1.1 200 OK", Transfer_Encoding="chunked"), 40),
        (plays(aac, "audio/aacp; charset=x"), 30),
    ):
        async with FakeServer(script) as server:
            outcome = await Session().listen(server)
        assert (outcome.fault, outcome.reception.frames) == ("", frames)


async def test_a_stream_that_ends_before_the_asked_time_is_a_failure() -> None:
    """Asked for a minute, got a second: the server hung up. Without a time it may end."""
    async with FakeServer(plays(AUDIO)) as server:
        outcome = await Session().listen(server, seconds=60)
    assert outcome.fault == "the server ended the stream after 0.0 of 60 s"
    assert outcome.reception.frames == 40


async def test_an_answer_without_audio_is_a_failure() -> None:
    """Nothing at all, or nothing that is audio."""
    async with FakeServer(plays(b""), plays(b"these are words " * 100)) as server:
        assert (await Session().listen(server)).fault == "no audio came"
        assert (await Session().listen(server)).fault == "what came has no audio frames"


async def test_listening_stops_by_itself_after_the_asked_time() -> None:
    """A live stream has no end: the player leaves, content."""
    async with FakeServer() as server:

        async def endless(visit: Visit) -> None:
            await visit.send(b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n" + AUDIO)
            await visit.until_client_ends()

        server._scripts.append(endless)
        url = f"http://127.0.0.1:{server.port}/test"
        said: list[str] = []
        code = await asyncio.to_thread(player.run, url, 0.2, False, out=said.append, err=said.append)
    assert code == 0
    assert "frame errors 0 bytes" in said[-1]


async def test_the_commands_exit_code_and_reason() -> None:
    """1 and the reason on stderr, where there is no audio."""
    async with FakeServer(plays(b"", first_line="HTTP/1.1 503 Nothing yet")) as server:
        url = f"http://127.0.0.1:{server.port}/test"
        said: list[str] = []
        assert await asyncio.to_thread(player.run, url, err=said.append) == 1
    assert said == [f"{url}: the server answered 503: Nothing yet"]


def test_gaps_rates_and_formats_are_measured_by_the_times_given() -> None:
    """The longest time without anything, also before the first byte and up to the end."""
    reception = Reception(answer(), "mp3", 100.0)
    for at_s, piece in ((100.5, AUDIO[:5000]), (102.5, AUDIO[5000:9000]), (102.6, AUDIO[9000:])):
        reception.feed(piece, at_s)
    assert reception.longest_gap_s == pytest.approx(2.0)
    reception.quiet_until(105.0)
    assert reception.longest_gap_s == pytest.approx(2.4)
    reception.feed(b"".join(mpeg_run(5, rate=48000)), 105.0)
    assert [one.stream_key for one in reception.formats] == ["mp3-44100-128-s", "mp3-48000-128-s"]


def test_a_broken_chunk_is_a_problem_and_a_silly_interval_none() -> None:
    """What a server does wrong is told, not stumbled over."""
    with pytest.raises(ReceptionProblem, match="chunked body is broken"):
        Reception(answer(transfer_encoding="chunked"), "mp3", 0.0).feed(b"audio\r\n", 0.0)
    for interval in ("0", "-5", "x", "9" * 30, "²"):
        reception = Reception(answer(icy_metaint=interval), "mp3", 0.0)
        reception.feed(AUDIO, 0.0)
        assert reception.frames == 39


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_the_figures(number: signal.Signals) -> None:
    """Also while the server has not answered yet; then that is the reason."""
    program = "import sys; from appliance.clients import player; sys.exit(player.run(sys.argv[1]))"
    waiting = asyncio.Event()

    async def plays_on(visit: Visit) -> None:
        await visit.send(b"HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n" + AUDIO)
        await visit.until_client_ends()

    async def never_answers(visit: Visit) -> None:
        waiting.set()
        await visit.until_client_ends()

    async with FakeServer(plays_on, never_answers) as server, asyncio.timeout(20):

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, f"http://127.0.0.1:{server.port}/test", env=dict(os.environ),
                cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip

        process = await start()
        assert process.stdout is not None
        first = await process.stdout.readline()
        assert b"audio/mpeg" in first
        process.send_signal(number)
        told, said = await process.communicate()
        # the signal may come before the first read, when the kernel already holds the audio
        assert b"frame errors 0 bytes" in told
        assert process.returncode == (1 if b"no audio" in said else 0)

        process = await start()
        await waiting.wait()
        process.send_signal(number)
        told, said = await process.communicate()
        assert (process.returncode, told) == (1, b"")
        assert b"stopped before the server answered" in said
