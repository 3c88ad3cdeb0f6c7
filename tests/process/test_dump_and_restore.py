"""The machine ends, the hours stay: real servers, stopped and killed, whose successors play the old audio byte for byte."""

from __future__ import annotations

import os
import signal
from base64 import b64encode
from pathlib import Path

from appliance.ring.dump import write_dump
from appliance.ring.dump_format import DumpRefused
from appliance.ring.reader import RingReader
from appliance.ring.restore import DumpFile
from appliance.ring.writer import AudioInfo, Chunk, RingWriter
from tests.process.live_server import PASSWORD, LiveServer, Player, Source, playing, wait_for
from tests.process.test_end_to_end import whole_frames

STREAM = f'[streams.test]\nsource_password = "{PASSWORD}"\nburst = 20\nmeta_interval = 4096\n'
SECOND = 16_000


def audible(server: LiveServer) -> None:
    wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")


def dumped_head(path: Path) -> int:
    """The head of the dump on disk; 0 without one."""
    try:
        with DumpFile(path, "test", "mp3") as dump:
            return dump.position.head_seq
    except (FileNotFoundError, DumpRefused):
        return 0


def set_title(server: LiveServer, title: str) -> None:
    token = b64encode(f"source:{PASSWORD}".encode()).decode()
    path = f"/admin/metadata?mode=updinfo&mount=/test&song={title}"
    assert server.get(path, headers=f"Authorization: Basic {token}\r\n", port=server.source_port)[0] == 200


def test_a_restart_keeps_the_rewind_buffer(tmp_path: Path, mp3: bytes) -> None:
    """Stop, start: `offset=` plays what was sent before, with its (long) title, by the clock while no source is there, and then what
    the encoder sends next; nothing is missing between the two, and the ring's numbers go on."""
    first = whole_frames(mp3[: 30 * SECOND])
    middle = mp3.index(b"\xff\xfb", len(mp3) // 2)
    second = whole_frames(mp3[middle : middle + 10 * SECOND])
    title = "T" * 900
    with LiveServer(tmp_path, streams=STREAM) as server:
        source = Source(server.source_port)
        set_title(server, title)
        source.send(first)
        audible(server)
        assert server.stop() == 0
        source.close()
        path = tmp_path / "state" / "rewind" / "test.rewind"
        head = dumped_head(path)
        assert head > 50 and path.stat().st_size > len(first)
        server.start()
        audible(server)
        player, icy = Player(server.port, "/test?offset=25"), Player(server.port, "/test?offset=25", icy=True)
        with playing(player, icy):
            wait_for(lambda: len(player.audio) > 21 * SECOND, "the past, paced by the clock")
            back = Source(server.source_port)
            back.send(second)
            wait_for(lambda: len(player.audio) > 26 * SECOND, "the new source")
            back.close()
            assert server.stop() == 0
        joined = first + second
        for one in (player, icy):
            start = joined.find(bytes(one.audio[:2000]))
            assert 4 * SECOND < start < 6 * SECOND
            assert bytes(one.audio) == joined[start : start + len(one.audio)]
        assert icy.titles == [title]
        (loaded,) = server.events("rewind dump loaded")
        assert float(str(loaded["audio_s"])) > 29
        assert dumped_head(path) > head


def test_kill_between_two_dumps_costs_what_came_after_the_first(tmp_path: Path, mp3: bytes) -> None:
    """kill -9: the newest interval dump is whole, and is loaded."""
    first = whole_frames(mp3[: 25 * SECOND])
    path = tmp_path / "state" / "rewind" / "test.rewind"
    with LiveServer(tmp_path, streams="[rewind_dump]\nfrequency = 1\n" + STREAM) as server:
        source = Source(server.source_port)
        source.send(first)
        wait_for(lambda: dumped_head(path) > 48, "the dump of the first part")
        source.send(mp3[len(first) : len(first) + 5 * SECOND])
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        source.close()
        (tmp_path / "run" / "streammachine.json").unlink()
        head = dumped_head(path)
        server.start()
        assert server.get("/test", method="HEAD")[0] == 200
        player = Player(server.port, "/test?offset=20")
        with playing(player):
            wait_for(lambda: len(player.audio) > 19 * SECOND, "the past")
        start = mp3.find(bytes(player.audio[:2000]))
        assert start > 0 and bytes(player.audio) == mp3[start : start + len(player.audio)]
        assert head <= 48 + 14


def test_a_torn_dump_is_named_and_the_server_serves(tmp_path: Path, mp3: bytes) -> None:
    """Not half of it is heard; live audio is."""
    with LiveServer(tmp_path, streams=STREAM) as server:
        source = Source(server.source_port)
        source.send(mp3[: 30 * SECOND])
        audible(server)
        server.stop()
        source.close()
        path = tmp_path / "state" / "rewind" / "test.rewind"
        data = bytearray(path.read_bytes())
        data[-50_000] ^= 8
        path.write_bytes(data)
        server.start()
        (line,) = server.events("rewind dump refused")
        assert "checksum" in str(line["reason"])
        assert server.get("/test", method="HEAD")[0] == 503
        source = Source(server.source_port)
        source.send(mp3[50 * SECOND : 60 * SECOND])
        audible(server)
        player = Player(server.port, "/test?offset=60")
        with playing(player):
            wait_for(lambda: len(player.audio) > 8 * SECOND, "live audio")
        assert mp3[50 * SECOND :].find(bytes(player.audio[:2000])) in range(2000)
        source.close()


def test_a_disk_that_cannot_be_written_is_an_alert_and_no_crash(tmp_path: Path, mp3: bytes) -> None:
    """One line for all intervals and streams; listeners hear nothing of it; the exit code is 0."""
    (tmp_path / "file").write_text("no folder")
    top = f'[rewind_dump]\ndir = "{tmp_path}/file/rewind"\nfrequency = 1\n'
    with LiveServer(tmp_path, streams=top + STREAM) as server:
        source = Source(server.source_port)
        source.send(mp3[: 10 * SECOND])
        audible(server)
        wait_for(lambda: server.events("rewind dump failed"), "the alert")
        source.send(mp3[10 * SECOND : 20 * SECOND])
        assert server.stop() == 0
        source.close()
        (line,) = server.events("rewind dump failed")
        assert line["alert"] is True and line["level"] == "error" and "Not a directory" in str(line["reason"])


def test_an_hour_is_there_when_the_server_is_ready(tmp_path: Path, mp3: bytes) -> None:
    """58 MB: `offset=3000` is answered from it at once, and no start takes seconds for it."""
    frames = whole_frames(mp3[: 60 * SECOND])
    writer = RingWriter.create("test", 3600, 0.5, 65536)
    writer.start_epoch(AudioInfo("mp3-44100-128-s", "mp4a.40.34", 44100, 2, 128_000))
    half, chunks = len(frames) // 120, []
    for number in range(7200):
        chunks.append(frames[number % 120 * half :][:half])
        writer.append(Chunk(chunks[-1], 22050, 44100, 1_700_000_000_000_000 + number * 500_000), 1)
    reader = RingReader(writer.reader_fd)
    write_dump(reader, tmp_path / "state" / "rewind" / "test.rewind", "test", "mp3", 1)
    reader.close()
    writer.close()
    with LiveServer(tmp_path, streams=STREAM) as server:
        player = Player(server.port, "/test?offset=3000")
        assert player.status == 200 and float(player.head["x-rewind-offset"]) == 3000.0
        with playing(player):
            wait_for(lambda: len(player.audio) > 20 * SECOND, "a burst of the past")
        assert bytes(player.audio) == b"".join(chunks[1200:])[: len(player.audio)]
        (loaded,) = server.events("rewind dump loaded")
        assert loaded["audio_s"] == 3600.0
