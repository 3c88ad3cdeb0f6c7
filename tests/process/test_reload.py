"""`streammachine reload`: new code and config while people listen; and when the new ones are broken, the old serve on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.process.live_server import PASSWORD, LiveServer, Player, Source, feeding, found_in, parse_answer, playing, wait_for

STREAMS = f'[streams.test]\nsource_password = "{PASSWORD}"\nburst = 5\nmeta_interval = 4096\n'


def reload(server: LiveServer) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-m", "appliance", "reload", "--config", str(server.config)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False)


def one_of_each(server: LiveServer) -> list[Player]:
    """Raw and with titles, live and rewound."""
    paths = ("/test", "/test?offset=12", "/test?offset=30.5")
    return [Player(server.port, path, icy=icy) for _ in range(2) for icy in (False, True) for path in paths]


def test_ten_reloads_cost_nobody_anything(tmp_path: Path, mp3: bytes) -> None:
    """Listeners of every kind, a stalled one and the encoder stay connected, and every byte is right, across ten generations."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40) as feeder:
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players = one_of_each(server)
            slow = Player(server.port, "/test?offset=35", receive_buffer=4096)
            with playing(*players):
                pids = {server.pid}
                for _ in range(10):
                    done = reload(server)
                    assert done.returncode == 0, done.stderr
                    pids.add(server.pid)
                assert len(pids) == 11
                young = Player(server.port, "/test")
                with playing(young):
                    before = [len(player.audio) for player in players]
                    time.sleep(2.5)
                assert not any(player.ended for player in players)
                after = [len(player.audio) for player in players]
            with playing(slow):
                wait_for(lambda: len(slow.audio) > 200_000, "the stalled one goes on")
            assert feeder.sent < len(mp3)
        source.close()
    assert all(now - then > 16_000 for now, then in zip(after, before, strict=True)), "everybody goes on"
    for player in (*players, slow, young):
        found_in(player.audio, mp3)
    assert max(player.longest_gap_s for player in players) < 2.5


def test_broken_config_and_back(tmp_path: Path, mp3: bytes) -> None:
    """A reload to a broken configuration fails with the reason and leaves everything as it was; the mended one works."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=20):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            player = Player(server.port, icy=True)
            with playing(player):
                good, pid = server.config.read_text(), server.pid
                server.config.write_text(good.replace("burst = 5", 'burst = "many"'))
                done = reload(server)
                assert done.returncode == 1
                assert "streams.test.burst" in done.stderr and "old process serves on" in done.stderr
                assert server.pid == pid
                server.config.write_text(good + "\n[streams.second]\nsource_password = 'x'\n")
                assert reload(server).returncode == 0
                assert server.pid != pid
                assert server.get("/second")[0] == 503
                heard = len(player.audio)
                wait_for(lambda: len(player.audio) > heard + 16_000, "audio goes on")
        source.close()
        found_in(player.audio, mp3)


def broken_release(server: LiveServer, text: str) -> Path:
    """A release whose supervisor module is as given, in front of the real one for the next generation only."""
    folder = server.path / "broken"
    (folder / "appliance").mkdir(parents=True)
    (folder / "appliance" / "__init__.py").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('half an upgrade')", "ended with code"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with code"),
    ],
)
def test_broken_code(tmp_path: Path, mp3: bytes, code: str, words: str) -> None:
    """A release that does not import, or dies: the old one serves on and says so."""
    with LiveServer(tmp_path, streams=STREAMS, path_for_code=tmp_path / "broken") as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=20):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            player = Player(server.port)
            with playing(player):
                broken_release(server, code)
                pid = server.pid
                done = reload(server)
                assert done.returncode == 1 and words in done.stderr, done
                assert server.pid == pid
                heard = len(player.audio)
                wait_for(lambda: len(player.audio) > heard + 16_000, "audio goes on")
        source.close()
        found_in(player.audio, mp3)


SCRIPTED = """
import os, signal, socket, sys, msgspec
sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--takeover-fd") + 1]))
def say(kind):
    sock.send((0).to_bytes(2, "little") + msgspec.msgpack.encode({{"type": kind}}))
say("prepared")
while True:
    kind = msgspec.msgpack.decode(sock.recvmsg(1 << 17, 4096)[0][2:])["type"]
    if kind == "{step}":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "give_listeners":
        say("got")
"""


def test_a_successor_that_dies_at_each_step_is_taken_back_from(tmp_path: Path, mp3: bytes) -> None:
    """A successor that takes things and is killed: at the first socket, ring, source, listeners, and at the end. All go on as they were."""
    with LiveServer(tmp_path, streams=STREAMS, path_for_code=tmp_path / "broken") as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players, pid = one_of_each(server), server.pid
            with playing(*players):
                (tmp_path / "broken" / "appliance").mkdir(parents=True)
                for step in ("give_socket", "give_ring", "give_source", "give_listeners", "give_end"):
                    (tmp_path / "broken" / "appliance" / "__init__.py").write_text(SCRIPTED.format(step=step))
                    done = reload(server)
                    assert done.returncode == 1 and "serves on" in done.stderr, done
                    assert server.pid == pid
                before = [len(player.audio) for player in players]
                wait_for(lambda: all(len(one.audio) > then for one, then in zip(players, before, strict=True)), "audio for all")
                assert not any(player.ended for player in players)
                assert server.get("/test", method="HEAD")[0] == 200
        source.close()
    for player in players:
        found_in(player.audio, mp3)
    assert len(server.events("reload: taken back, this release serves on")) == 5


def test_workers_that_die_during_reloads(tmp_path: Path, mp3: bytes) -> None:
    """kill -9 of a worker at many moments of a reload, of either generation: nobody is cut off, no byte is wrong."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players = one_of_each(server)
            with playing(*players):
                time.sleep(1.6)
                for number in range(8):
                    outcome: list[subprocess.CompletedProcess[str]] = []
                    thread = threading.Thread(target=lambda: outcome.append(reload(server)))  # noqa: B023
                    thread.start()
                    time.sleep(0.2 + 0.12 * number)
                    for pid in server.worker_pids()[:1]:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    thread.join(60)
                    assert outcome and outcome[0].returncode == 0, outcome
                wait_for(lambda: len(server.worker_pids()) == 2, "both workers")
                before = [len(player.audio) for player in players]
                wait_for(lambda: all(len(one.audio) > then for one, then in zip(players, before, strict=True)), "audio for all")
                assert not any(player.ended for player in players)
        source.close()
    for player in players:
        found_in(player.audio, mp3)


def next_release(folder: Path) -> None:
    """A checkout of a later release: new fields in what generations and processes say to each other, and a new kind of message."""
    shutil.copytree(Path(__file__).parents[2] / "appliance", folder / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
    patch(folder / "appliance" / "__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"')
    handoff = folder / "appliance" / "channel" / "handoff.py"
    patch(handoff, "HANDOFF_VERSION = 1", "HANDOFF_VERSION = 2")
    patch(handoff, "    key: str\n    index: int\n", "    key: str\n    index: int\n    later: dict[str, int] = {}\n")
    patch(handoff, "    listeners: list[Stand]\n", "    listeners: list[Stand]\n    mood: str = 'new'\n")
    messages = folder / "appliance" / "channel" / "messages.py"
    patch(messages, "    title: int = 0\n", "    title: int = 0\n    hue: int = 3\n")
    patch(messages, '    agent: str = ""\n', '    agent: str = ""\n    country: str = "?"\n')


def patch(path: Path, old: str, new: str) -> None:
    """Change one place of a file, which must be there."""
    text = path.read_text()
    assert old in text, f"{path}: {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_two_releases_hand_over_to_each_other_both_ways(tmp_path: Path, mp3: bytes) -> None:
    """N to N+1 and back to N: unknown fields are ignored, missing ones defaulted; every byte is right."""
    with LiveServer(tmp_path, streams=STREAMS, path_for_code=tmp_path / "later") as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players = one_of_each(server)
            with playing(*players):
                next_release(tmp_path / "later")
                assert reload(server).returncode == 0
                shutil.rmtree(tmp_path / "later")
                assert reload(server).returncode == 0
                before = [len(player.audio) for player in players]
                wait_for(lambda: all(len(one.audio) > then for one, then in zip(players, before, strict=True)), "audio for all")
                assert not any(player.ended for player in players)
        source.close()
    assert [line["release"] for line in server.events("serving")] == ["0.1.0", "0.2.0", "0.1.0"]
    for player in players:
        found_in(player.audio, mp3)


def test_sighup_reloads_too(tmp_path: Path) -> None:
    """Sent to the process that was started, which passes it on."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        assert server.process is not None
        before = server.pid
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.pid != before, "another generation")


def test_a_request_that_is_half_read_is_gone_on_with(tmp_path: Path, mp3: bytes) -> None:
    """Half a head before the reload, the other half after it: one answer."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        source.send(mp3[: 16_000 * 10])
        wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as listener:
            listener.sendall(b"HEAD /te")
            time.sleep(0.3)
            assert reload(server).returncode == 0
            listener.sendall(b"st HTTP/1.1\r\nHost: h\r\n\r\n")
            assert parse_answer(listener.recv(4096))[0] == 200
        source.close()


def test_connections_during_reloads_are_neither_refused_nor_reset(tmp_path: Path, mp3: bytes) -> None:
    """New listeners come all the time: each gets audio."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=20):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            stop, failures, count = threading.Event(), [], [0]

            def knock() -> None:
                while not stop.is_set():
                    try:
                        assert server.get("/test", method="HEAD")[0] == 200
                        count[0] += 1
                    except (OSError, AssertionError, IndexError, ValueError) as error:
                        failures.append(repr(error))

            threads = [threading.Thread(target=knock) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in range(4):
                assert reload(server).returncode == 0
            stop.set()
            for thread in threads:
                thread.join(20)
        source.close()
    assert failures == []
    assert count[0] > 50


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    """`reload` without a server."""
    done = reload(LiveServer(tmp_path))
    assert done.returncode == 1
    assert "no server is running" in done.stderr
