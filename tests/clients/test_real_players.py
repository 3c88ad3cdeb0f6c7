"""Real players from Debian hear the server: curl, ffprobe/ffmpeg, mpv, and our own test player; also far behind live."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.live_server import LiveServer, Source, feeding, found_in, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mp3: bytes) -> Iterator[LiveServer]:
    """A server that has played for 40 s."""
    with LiveServer(tmp_path_factory.mktemp("server")) as one:
        source = Source(one.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: one.get("/test", method="HEAD")[0] == 200, "audio")
            time.sleep(0.5)
            yield one
        source.close()


def run(*command: str, seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Run a client to its end."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)


def test_curl(server: LiveServer, mp3: bytes) -> None:
    """What curl saves is the source's audio."""
    done = run("curl", "-sS", "-m", "3", f"http://127.0.0.1:{server.port}/test?offset=20")
    assert done.returncode == 28, done.stderr  # stopped by -m: the stream is endless
    found_in(done.stdout, mp3)


def test_ffmpeg_decodes_without_errors(server: LiveServer) -> None:
    """ffmpeg asks for metadata, decodes five seconds, and reports nothing after the first frames (MP3's bit reservoir)."""
    url = f"http://127.0.0.1:{server.port}/test"
    done = run("ffmpeg", "-hide_banner", "-loglevel", "error", "-t", "5", "-i", url, "-f", "null", "-")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"\n") <= 4, done.stderr.decode()


def test_mpv(server: LiveServer) -> None:
    """mpv plays two seconds, live and from the playlist."""
    for path in ("/test", "/test.m3u?offset=30", "/test.pls"):
        done = run("mpv", "--no-config", "--no-video", "--ao=null", "--length=2", "--msg-level=all=error", f"http://127.0.0.1:{server.port}{path}")
        assert done.returncode == 0, (path, done.stdout, done.stderr)


@pytest.mark.parametrize("icy", [False, True])
def test_streammachine_listen(server: LiveServer, icy: bool) -> None:
    """Our own player finds no byte that is not a frame."""
    url = f"http://127.0.0.1:{server.port}/test?offset=15"
    done = run(sys.executable, "-m", "appliance", "listen", url, "--seconds", "3", *(["--icy"] if icy else []))
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_and_usage() -> None:
    """`check` names every error; a wrong command is a usage error."""
    missing = run(sys.executable, "-m", "appliance", "check", "--config", str(Path("/nonexistent.toml")))
    assert missing.returncode == 1
    assert b"/nonexistent.toml" in missing.stdout + missing.stderr
    assert run(sys.executable, "-m", "appliance", "flie").returncode == 2
