"""Real encoders from Debian feed the server: ffmpeg, ezstream (libshout), and our own; every listener's bytes are the file's frames."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.live_server import LiveServer, Player, found_in, playing, wait_for

PASSWORD = "pass-word"
STREAMS = "".join(
    f'[streams.{name}]\nformat = "{kind}"\nsource_password = "{PASSWORD}"\nburst = 2\nmeta_interval = 4096\n'
    for name, kind in (("put", "mp3"), ("legacy", "mp3"), ("shout", "mp3"), ("own", "mp3"), ("ownaac", "aac"), ("aac", "aac"))
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all encoders, a mount for each."""
    with LiveServer(tmp_path_factory.mktemp("server"), streams=STREAMS) as one:
        yield one


@contextmanager
def running(*command: str, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """A client program while the block runs."""
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def hear(server: LiveServer, mount: str, source: bytes, *, port_seconds: float = 3.0) -> list[Player]:
    """Listen raw and with titles; assert that the audio is the source's, byte for byte."""
    wait_for(lambda: server.get(f"/{mount}", method="HEAD")[0] == 200, f"audio on {mount}")
    players = [Player(server.port, f"/{mount}", icy=icy) for icy in (False, True)]
    with playing(*players):
        time.sleep(port_seconds)
    for player in players:
        found_in(player.audio, source)
    return players


@pytest.mark.parametrize(("mount", "extra", "listener_port"), [("put", [], False), ("legacy", ["-legacy_icecast", "1"], True)])
def test_ffmpeg(server: LiveServer, mp3_path: Path, mount: str, extra: list[str], listener_port: bool) -> None:
    """`ffmpeg -re ... icecast://`: PUT with Expect on the source port, SOURCE on the listener port."""
    port = server.port if listener_port else server.source_port
    target = f"icecast://source:{PASSWORD}@127.0.0.1:{port}/{mount}"
    words = ["-ice_name", "The Näme", "-ice_genre", "Noise"]
    copy = ["-re", "-i", str(mp3_path), "-c", "copy", "-f", "mp3", "-write_xing", "0", "-id3v2_version", "0"]
    with running("ffmpeg", "-hide_banner", "-loglevel", "error", *copy, *words, *extra, target):
        wait_for(lambda: server.get(f"/{mount}", method="HEAD")[0] == 200, f"audio on {mount}")
        wait_for(lambda: "icy-br" in server.get(f"/{mount}", method="HEAD")[1], "the bitrate, measured")
        head = server.get(f"/{mount}", method="HEAD")[1]
        hear(server, mount, mp3_path.read_bytes())
    assert head["icy-name"].encode("latin-1").decode() == "The Näme"
    assert (head["icy-br"], head["icy-genre"]) == ("128", "Noise")


def test_ffmpeg_sends_aac(server: LiveServer, aac_path: Path) -> None:
    """ADTS with its own content type; the answer says audio/aac."""
    target = f"icecast://source:{PASSWORD}@127.0.0.1:{server.source_port}/aac"
    copy = ["-re", "-i", str(aac_path), "-c", "copy", "-f", "adts", "-content_type", "audio/aac"]
    with running("ffmpeg", "-hide_banner", "-loglevel", "error", *copy, target):
        players = hear(server, "aac", aac_path.read_bytes())
    assert players[0].head["content-type"] == "audio/aac"


def test_ezstream(server: LiveServer, mp3_path: Path, tmp_path: Path) -> None:
    """libshout: the look-ahead without credentials, then the real request on the same connection; its title arrives."""
    configuration = tmp_path / "ezstream.xml"
    configuration.write_text(
        f"""<ezstream><servers><server><hostname>127.0.0.1</hostname><port>{server.port}</port><password>{PASSWORD}</password>
        <tls>none</tls></server></servers>
        <streams><stream><mountpoint>/shout</mountpoint><format>MP3</format><stream_name>Shout</stream_name></stream></streams>
        <intakes><intake><type>file</type><filename>{mp3_path}</filename><stream_once>0</stream_once></intake></intakes>
        <metadata><format_str>@a@ - @t@</format_str></metadata></ezstream>"""
    )
    configuration.chmod(0o600)
    with running("ezstream", "-c", str(configuration)):
        players = hear(server, "shout", mp3_path.read_bytes(), port_seconds=4.0)
    events = [line for line in server.events("source connected") if line["mount"] == "shout"]
    assert "libshout" in str(events[0]["agent"]).lower() or "ezstream" in str(events[0]["agent"]).lower()
    assert players[0].head["icy-name"] == "Shout"


@pytest.mark.parametrize("mount", ["own", "ownaac"])
def test_streammachine_source(server: LiveServer, mp3_path: Path, aac_path: Path, mount: str) -> None:
    """`streammachine source`, with a title."""
    path = mp3_path if mount == "own" else aac_path
    target = f"http://source:{PASSWORD}@127.0.0.1:{server.source_port}/{mount}"
    command = (sys.executable, "-m", "appliance", "source", str(path), "--to", target, "--title", "Señal")
    with running(*command):
        wait_for(lambda: any(line["title"] == "Señal" for line in server.events("title") if line["mount"] == mount), "the title")
        players = hear(server, mount, path.read_bytes(), port_seconds=4.0)
    assert players[1].titles == ["Señal"]
    assert PASSWORD not in server.log_text()


def test_curl_uploads(server: LiveServer, mp3_path: Path) -> None:
    """`curl -T`: PUT with a length; when the body ends the answer does too. Takes the mount of an encoder that has left."""
    target = f"http://127.0.0.1:{server.source_port}/put"
    command = ["curl", "-sS", "-T", str(mp3_path), "-u", f"source:{PASSWORD}", "--limit-rate", "400k", "-m", "20", target]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
