"""The test encoder: what it sends, when, where it gives up and where it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from appliance.clients import encoder
from appliance.clients.audio_files import AudioFiles, FileProblem
from appliance.clients.encoder import Encoder, Schedule
from appliance.clients.source_link import SourceProblem
from appliance.clients.target import TargetInvalid, parse_target
from appliance.wire.frames import parser_for
from tests.clients.fake_server import FakeServer, FastPace, Script, Visit
from tests.wire.frame_makers import adts_run, id3v1, id3v2, mpeg_run

PASSWORD = "pass:w rd%/@é"
QUOTED = "pass:w%20rd%25%2F%40%C3%A9"
FRAMES = mpeg_run(40)
FRAME_S = 1152 / 44100


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.mp3"
    path.write_bytes(id3v2(b"x" * 500) + b"".join(FRAMES) + id3v1())
    return path


class Bench:
    """An encoder, what it said, and the server it talks to."""

    def __init__(self, server: FakeServer, files: AudioFiles, title: str | None, pace: FastPace) -> None:
        self.said: list[str] = []
        self.pace = pace
        target = parse_target(f"http://source:{QUOTED}@127.0.0.1:{server.port}/test", {})
        self.encoder = Encoder(target, files, title, self.said.append, pace)

    async def run(self) -> None:
        async with asyncio.timeout(20):
            await self.encoder.run()


def bench(server: FakeServer, *paths: Path, title: str | None = None, pace: FastPace | None = None) -> Bench:
    return Bench(server, AudioFiles(paths), title, pace or FastPace())


def takes(bodies: list[bytes], count: int, stop: Callable[[], None] | None = None) -> Script:
    """Accepts a PUT or SOURCE, keeps so many bytes of its body, and closes, or calls `stop`."""

    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n" if visit.line.startswith("PUT") else b"HTTP/1.0 200 OK\r\n\r\n")
        bodies.append(await visit.read_body(count))
        if stop is not None:
            stop()
            await visit.until_client_ends()

    return script


def says(status: int, body: str = "", **headers: str) -> Script:
    async def script(visit: Visit) -> None:
        await visit.answer(status, body, **headers)

    return script


async def hangs_up(visit: Visit) -> None:
    """Closes without a word."""


async def test_frames_go_out_whole_and_looped_without_tags(song: Path) -> None:
    """What a server gets is the file's frames, byte for byte, and at the end the first frame again."""
    bodies: list[bytes] = []
    wanted = b"".join(FRAMES * 3)
    async with FakeServer() as server:
        here = bench(server, song)
        server._scripts.append(takes(bodies, len(wanted), here.encoder.stop))
        await here.run()
        visit = server.visits[0]
    assert bodies == [wanted]
    assert visit.line == "PUT /test HTTP/1.1"
    assert visit.credentials == f"source:{PASSWORD}"
    assert visit.headers["expect"] == "100-continue"
    assert visit.headers["content-type"] == "audio/mpeg"
    assert visit.headers["ice-bitrate"] == "128"
    assert visit.headers["host"] == f"127.0.0.1:{server.port}"
    assert visit.early == b"", "audio before 100 Continue"


async def test_aac_says_so(tmp_path: Path) -> None:
    """ADTS is found out by its frames, whatever the file's name."""
    path = tmp_path / "song"
    run = adts_run(30)
    path.write_bytes(b"".join(run))
    bodies: list[bytes] = []
    async with FakeServer() as server:
        here = bench(server, path)
        server._scripts.append(takes(bodies, len(b"".join(run)), here.encoder.stop))
        await here.run()
        assert server.visits[0].headers["content-type"] == "audio/aac"
    assert bodies == [b"".join(run)]


async def test_the_pace_is_that_of_the_audio_however_late_each_wait_ends(song: Path) -> None:
    """Waits that each take 10 ms too long add up to 10 ms in all: 400 frames take 400 durations."""
    pace = FastPace(oversleep_s=0.010)
    async with FakeServer() as server:
        here = bench(server, song, pace=pace)
        server._scripts.append(takes([], 400 * len(FRAMES[0]), here.encoder.stop))
        await here.run()
    elapsed_s = pace.time_s - 1000.0
    assert 0 <= elapsed_s - (here.encoder.frames_sent - 1) * FRAME_S < 0.011 + FRAME_S


def test_a_month_of_frames_ends_on_the_microsecond() -> None:
    """The schedule is a sum of samples, not of rounded durations."""
    frame = parser_for("mp3").feed(b"".join(mpeg_run(2)))[0]
    schedule = Schedule(5.0)
    month = 30 * 86_400 * 44_100 // 1152
    schedule._samples, schedule._rate = (month - 1) * 1152, 44_100
    schedule.due_s(frame)
    assert schedule.due_s(frame) == pytest.approx(5.0 + month * 1152 / 44_100, abs=1e-6)


def test_the_schedule_goes_on_when_the_rate_changes() -> None:
    """A file may change its format: the audio before keeps its length."""
    first = parser_for("mp3").feed(b"".join(mpeg_run(2)))[0]
    other = parser_for("mp3").feed(b"".join(mpeg_run(2, rate=48000)))[0]
    schedule = Schedule(0.0)
    assert [schedule.due_s(frame) for frame in (first, other, other, first)] == pytest.approx(
        [0.0, FRAME_S, FRAME_S + 0.024, FRAME_S + 0.048]
    )


async def test_time_that_a_machine_slept_is_not_made_up_for(song: Path) -> None:
    """After a minute of suspension the encoder goes on in real time and does not flood the server with the minute."""
    pace = FastPace()
    async with FakeServer() as server:
        here = bench(server, song, pace=pace)

        async def suspend(visit: Visit) -> None:
            await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await visit.read_body(20 * len(FRAMES[0]))
            pace.time_s += 60.0
            before = here.encoder.frames_sent
            await visit.read_body(100 * len(FRAMES[0]))
            sent = here.encoder.frames_sent - before
            assert pace.time_s - 1060.0 > (sent - 2) * FRAME_S
            here.encoder.stop()

        server._scripts.append(suspend)
        await here.run()
    assert [line for line in here.said if "late: going on from now" in line]


@pytest.mark.parametrize("first", [says(405), says(501), says(400), says(417), hangs_up])
async def test_a_server_without_put_gets_source(first: Script, song: Path) -> None:
    """An old Icecast refuses PUT in one way or another; then the encoder speaks its language."""
    bodies: list[bytes] = []
    wanted = b"".join(FRAMES)
    async with FakeServer(first) as server:
        here = bench(server, song)
        server._scripts.append(takes(bodies, len(wanted), here.encoder.stop))
        await here.run()
        visit = server.visits[1]
    assert visit.line == "SOURCE /test HTTP/1.0"
    assert "expect" not in visit.headers
    assert visit.credentials == f"source:{PASSWORD}"
    assert bodies == [wanted]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wrong user or password (401"),
        (403, "refused (403"),
        (404, "no such mount (404"),
        (415, "wrong format for this mount (415"),
        (500, "the server answered (500"),
    ],
)
async def test_a_refusal_is_told_in_words_and_ends_it(status: int, words: str, song: Path) -> None:
    """With the server's own reason; nothing is tried twice."""
    async with FakeServer(says(status, "<b>the reason</b>\r\nmore")) as server:
        here = bench(server, song)
        with pytest.raises(SourceProblem) as caught:
            await here.run()
        assert len(server.visits) == 1
    assert words in str(caught.value)
    assert "the reason)" in str(caught.value)
    assert "more" not in str(caught.value)


async def test_a_refusal_behind_the_continue_is_seen_too(song: Path) -> None:
    """Some servers look at the type only after 100 Continue, even in the same packet."""

    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 415 No\r\nContent-Length: 6\r\n\r\nno mp3")
        await visit.until_client_ends()

    async with FakeServer(script) as server:
        with pytest.raises(SourceProblem, match=r"wrong format for this mount \(415: no mp3\)"):
            await bench(server, song).run()


async def test_an_answer_that_is_not_http_is_named(song: Path) -> None:
    """A wrong port often speaks something else."""

    async def script(visit: Visit) -> None:
        await visit.send(b"SSH-2.0-OpenSSH\x1b[2J\r\n\r\n")

    async with FakeServer(script, script) as server:
        with pytest.raises(SourceProblem, match=r"the answer is not HTTP: 'SSH-2.0-OpenSSH \[2J'"):
            await bench(server, song).run()


async def test_a_lost_connection_comes_back_with_longer_and_longer_waits(song: Path) -> None:
    """It worked, was dropped, and the server is away for a while: 1, 2, 4 ... seconds, and on with the next frame."""
    bodies: list[bytes] = []
    ten = 10 * len(FRAMES[0])
    # each attempt is a PUT, and where that is not answered, a SOURCE
    async with FakeServer(takes(bodies, ten), *[hangs_up] * 6) as server:
        here = bench(server, song)
        server._scripts.append(takes(bodies, ten, here.encoder.stop))
        await here.run()
    waits = [wait for wait in here.pace.sleeps if wait >= 1.0]
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert here.encoder.connections == 2
    assert bodies[0] == b"".join(FRAMES[:10])
    assert bodies[1][: len(FRAMES[0])] in FRAMES
    assert [line for line in here.said if "connection lost" in line and "trying again in 1 s" in line]
    assert [line for line in here.said if line.startswith("connected again")]


async def test_the_wait_never_exceeds_half_a_minute_and_starts_anew_after_steady_work(song: Path) -> None:
    """A server away for long is asked every 30 s; after a connection that lasted the next wait is 1 s again."""
    steady = 500 * len(FRAMES[0])  # 13 s
    async with FakeServer(takes([], 10), *[hangs_up] * 14, takes([], steady)) as server:
        here = bench(server, song)
        server._scripts.append(takes([], 10, here.encoder.stop))
        await here.run()
    assert [wait for wait in here.pace.sleeps if wait >= 1.0] == [1, 2, 4, 8, 16, 30, 30, 30, 1]


async def test_a_final_refusal_ends_it_after_it_had_worked_too(song: Path) -> None:
    """The password was changed meanwhile: asking again and again would only fill the server's log."""
    async with FakeServer(takes([], 10), says(401)) as server:
        with pytest.raises(SourceProblem, match="401"):
            await bench(server, song).run()


async def test_the_title_goes_through_the_metadata_page(song: Path) -> None:
    """Beside the running source, in UTF-8, with the same credentials."""
    title = "Größe & Söhne = 100 % 'live'?"
    updates: list[Visit] = []
    async with FakeServer() as server:
        here = bench(server, song, title=title)

        async def update(visit: Visit) -> None:
            updates.append(visit)
            await visit.answer(200)
            here.encoder.stop()

        server._scripts += [takes([], 10**9), update]
        await here.run()
    method, target, _ = updates[0].line.split()
    fields = parse_qs(urlsplit(target).query, strict_parsing=True)
    assert (method, urlsplit(target).path) == ("GET", "/admin/metadata")
    assert fields == {"mode": ["updinfo"], "mount": ["/test"], "song": [title], "charset": ["UTF-8"]}
    assert updates[0].credentials == f"source:{PASSWORD}"


async def test_a_refused_title_is_told_and_the_audio_goes_on(song: Path) -> None:
    """A title is not worth a connection."""
    async with FakeServer() as server:
        here = bench(server, song, title="T")

        async def script(visit: Visit) -> None:
            await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            while not [line for line in here.said if "title" in line]:
                await visit.read_body(len(FRAMES[0]))
            assert await visit.read_body(10 * len(FRAMES[0]))
            here.encoder.stop()

        server._scripts += [script, says(400, "no titles here")]
        await here.run()
    assert [line for line in here.said if line.startswith("the title was not taken: ") and "no titles here" in line]


async def test_nobody_at_the_address(song: Path) -> None:
    """The place is named, without the credentials."""
    async with FakeServer() as server:
        here = bench(server, song)
    with pytest.raises(SourceProblem, match=rf"cannot reach 127.0.0.1:{server.port}: Connection refused"):
        await here.run()


def test_the_password_is_never_in_what_is_said(song: Path) -> None:
    """Neither in errors about the URL nor in the error of a connection; the exit code is 1."""
    secret = "S3cr3t"
    for to in (
        f"http://source:{secret}@127.0.0.1:1/test",
        f"https://source:{secret}@127.0.0.1:1/test",
        f"http://source:{secret}@127.0.0.1:1",
        f"http://source:{secret}@127.0.0.1:{secret}/test",
        f"http://source:{secret}@[::1/test",
        f"http://source:{secret}/x@127.0.0.1:1/test",
        f"http://source:{secret}#@127.0.0.1:1/test",
        f"http://source:{secret} x@127.0.0.1:1/test",
        f"source:{secret}@127.0.0.1",
    ):
        said: list[str] = []
        assert encoder.run([song], to, None, environ={}, say=said.append) == 1
        assert len(said) == 1
        assert secret not in said[0]


def test_targets() -> None:
    """Passwords may hold anything that is percent-encoded, ":" as it is; without one the environment's is taken."""
    target = parse_target("http://me:a:b%2Fc@[::1]:8002/dir/my%20mount", {})
    assert (target.host, target.port, target.mount) == ("::1", 8002, "/dir/my%20mount")
    assert target.place == "[::1]:8002"
    assert target.authorization == "Basic bWU6YTpiL2M="
    assert parse_target("http://h/m", {"STREAMMACHINE_SOURCE_PASSWORD": "x"}).authorization == "Basic c291cmNlOng="
    assert parse_target("http://h/m", {"STREAMMACHINE_SOURCE_PASSWORD": "x"}).port == 80
    assert "b%2Fc" not in repr(target)
    with pytest.raises(TargetInvalid, match="STREAMMACHINE_SOURCE_PASSWORD"):
        parse_target("http://h:1/m", {})


def test_files_that_cannot_be_sent(tmp_path: Path, song: Path) -> None:
    """Each is named with the reason before anything is connected."""
    text = tmp_path / "notes.txt"
    text.write_text("no audio here\n" * 5000)
    empty = tmp_path / "empty.mp3"
    empty.touch()
    aac = tmp_path / "song.aac"
    aac.write_bytes(b"".join(adts_run(20)))
    mono = tmp_path / "mono.mp3"
    mono.write_bytes(b"".join(mpeg_run(20, mode=3)))
    for paths, words in (
        ([text], "notes.txt has no MP3 or AAC"),
        ([empty], "empty.mp3 has no MP3 or AAC"),
        ([tmp_path / "gone.mp3"], "gone.mp3: No such file"),
        ([tmp_path], "Is a directory"),
        ([song, aac], "song.aac is AAC"),
        ([song, mono], "mono.mp3 is MP3 (mp4a.40.34) at 44100 Hz with 1 channel(s), but"),
        ([], "no file"),
    ):
        with pytest.raises(FileProblem) as caught:
            AudioFiles(paths)
        assert words in str(caught.value)
        said: list[str] = []
        assert encoder.run(paths, "http://source:x@127.0.0.1:1/m", say=said.append) == 1
        assert words in said[0]


def test_several_files_follow_each_other(tmp_path: Path, song: Path) -> None:
    """In the order given, then from the first; bit rates may differ."""
    other = tmp_path / "other.mp3"
    run = mpeg_run(12, kbps=64)
    other.write_bytes(b"".join(run))
    frames = [frame.data for frame in islice(AudioFiles([song, other]).frames(), 60)]
    assert frames == FRAMES + run + FRAMES[:8]


def test_a_file_that_is_emptied_meanwhile_ends_it(song: Path) -> None:
    """Instead of an endless loop over nothing."""
    files = AudioFiles([song])
    song.write_bytes(b"")
    with pytest.raises(FileProblem, match="no frames any more"):
        next(files.frames())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_command_cleanly(number: signal.Signals, song: Path) -> None:
    """Exit code 0, whole frames on the wire, in real time; the password from the environment."""
    program = "import sys; from appliance.clients import encoder; sys.exit(encoder.run([sys.argv[1]], sys.argv[2]))"
    bodies: list[bytes] = []
    enough = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        bodies.append(await visit.read_body(5 * len(FRAMES[0])))
        enough.set()
        bodies.append(await visit.read_body(10**9))

    async with FakeServer(script) as server, asyncio.timeout(20):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(song), f"http://127.0.0.1:{server.port}/test",
            env={**os.environ, "STREAMMACHINE_SOURCE_PASSWORD": PASSWORD}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await enough.wait()
        process.send_signal(number)
        _, said = await process.communicate()
        assert server.visits[0].credentials == f"source:{PASSWORD}"
    assert process.returncode == 0
    assert b"stopped after" in said
    assert PASSWORD.encode() not in said
    whole = b"".join(bodies)
    assert len(whole) % len(FRAMES[0]) == 0
    assert whole == b"".join(FRAMES * 3)[: len(whole)]
