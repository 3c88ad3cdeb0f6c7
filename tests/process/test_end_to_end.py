"""The promise, with real processes: every byte a listener gets is a byte the source sent, in order, whatever happens beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.live_server import PASSWORD, Feeder, LiveServer, Player, Source, feeding, found_in, playing, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server for the tests that leave it as it was; each has a mount of its own."""
    mounts = "".join(
        f'[streams.{name}]\nsource_password = "{PASSWORD}"\nburst = 10\n{extra}\n'
        for name, extra in {
            "live": "",
            "again": "",
            "away": "",
            "titles": "meta_interval = 4096",
            "slow": "max_buffer = 65536",
            "skip": 'max_buffer = 65536\nslow_listener = "skip"',
            "passed": "root_route = true",
            "many": "",
        }.items()
    )
    with LiveServer(tmp_path_factory.mktemp("server"), streams=mounts) as one:
        yield one


def test_live_rewound_raw_and_icy_get_exactly_the_sources_frames(server: LiveServer, mp3: bytes) -> None:
    """From live, from an offset, raw and with ICY removed, with a reader that stalls beside them."""
    source = Source(server.source_port, "live")
    with feeding(source, mp3, at_once_s=60):
        wait_for(lambda: server.get("/live", method="HEAD")[0] == 200, "audio")
        time.sleep(1.0)
        stalled = Player(server.port, "/live", receive_buffer=4096)
        paths = ("/live", "/live?offset=25", "/live?offset=50.5")
        players = [Player(server.port, path, icy=icy) for path in paths for icy in (False, True)]
        with playing(*players):
            time.sleep(5.0)
        stalled.sock.close()
    starts = [found_in(player.audio, mp3) for player in players]
    for player in players:
        assert player.longest_gap_s < 1.5
        assert len(player.audio) > 4 * 16_000
    offsets = [float(player.head["x-rewind-offset"]) for player in players]
    assert offsets == pytest.approx([10, 10, 25, 25, 50.5, 50.5], abs=0.6)
    # an offset of 40 s more starts 40 s of bytes earlier
    assert starts[0] - starts[4] == pytest.approx((50.5 - 10) * 16_000, abs=16_000)
    source.close()


def test_a_source_that_reconnects_goes_on_for_the_same_listeners(server: LiveServer, mp3: bytes) -> None:
    """The encoder drops and comes back (same agent, old socket still open): the listeners hear the one, then the other, no byte lost."""
    middle = mp3.index(b"\xff\xfb", len(mp3) // 2)
    first, second = mp3[: 16_000 * 12], whole_frames(mp3[middle : middle + 16_000 * 8])
    source = Source(server.source_port, "again")
    source.send(first)
    wait_for(lambda: server.get("/again", method="HEAD")[0] == 200, "audio")
    player = Player(server.port, "/again?offset=12")
    with playing(player):
        wait_for(lambda: len(player.audio) > 100_000, "audio of the first connection")
        back = Source(server.source_port, "again")
        back.send(second)
        back.close()
        wait_for(lambda: second[-20_000:] in player.audio, "the end of the second connection")
    source.close()
    joined = whole_frames(first) + second
    start = joined.find(bytes(player.audio[:2000]))
    assert start >= 0
    assert joined[start : start + len(player.audio)] == bytes(player.audio)
    assert len(server.events("source connected")) >= 2


def whole_frames(data: bytes) -> bytes:
    """The whole MPEG frames at the start of `data` (the last one that is cut is no frame)."""
    from appliance.wire.frames import parser_for

    parser = parser_for("mp3")
    frames = parser.feed(data) + parser.flush()
    return b"".join(frame.data for frame in frames)


def test_rewound_listener_plays_on_while_the_source_is_away(server: LiveServer, mp3: bytes) -> None:
    """Paced by the clock until the edge; live listeners stay connected; when the source is back both go on."""
    source = Source(server.source_port, "away")
    source.send(mp3[: 16_000 * 30])
    wait_for(lambda: server.get("/away", method="HEAD")[0] == 200, "audio")
    time.sleep(0.5)
    live, rewound = Player(server.port, "/away"), Player(server.port, "/away?offset=20")
    with playing(live, rewound):
        source.close()
        wait_for(lambda: len(rewound.audio) > 9 * 16_000, "the burst")
        at_once, begun = len(rewound.audio), time.monotonic()
        wait_for(lambda: len(rewound.audio) >= 15 * 16_000, "audio paced by the clock", 10)
        lasted = time.monotonic() - begun
        assert lasted == pytest.approx((15 * 16_000 - at_once) / 16_000, abs=1.6)
        back = Source(server.source_port, "away", agent="another")
        back.send(mp3[16_000 * 40 : 16_000 * 45])
        wait_for(lambda: bytes(mp3[16_000 * 42 : 16_000 * 42 + 4000]) in bytes(live.audio), "the new source, live")
        assert not live.ended
        back.close()


def test_titles_arrive_in_place_and_only_when_they_change(server: LiveServer, mp3: bytes) -> None:
    """The encoder's titles, by GET on the source port and on the listener port, in ICY blocks; audio stays exact."""
    source = Source(server.source_port, "titles")
    from base64 import b64encode

    token = b64encode(f"source:{PASSWORD}".encode()).decode()
    authorization = f"Authorization: Basic {token}\r\n"
    with feeding(source, mp3, at_once_s=15):
        wait_for(lambda: server.get("/titles", method="HEAD")[0] == 200, "audio")
        player = Player(server.port, "/titles", icy=True)
        with playing(player):
            for port, song in ((server.source_port, "One%20%E2%82%AC"), (server.port, "Two%20it%27s")):
                status, _, body = server.get(
                    f"/admin/metadata?mode=updinfo&mount=/titles&song={song}", headers=authorization, port=port
                )
                assert status == 200 and b"successful" in body
                wait_for(lambda: len(player.titles) == (1 if port == server.source_port else 2), "the title", 12)  # noqa: B023
    source.close()
    assert player.titles == ["One €", "Two it's"]
    found_in(player.audio, mp3)


def test_slow_listener_is_dropped_alone(server: LiveServer, mp3: bytes) -> None:
    """One that reads nothing is dropped at max_buffer, with a reason in the log; the one beside it notices nothing."""
    source = Source(server.source_port, "slow")
    with feeding(source, mp3, at_once_s=12, bytes_s=64_000):
        wait_for(lambda: server.get("/slow", method="HEAD")[0] == 200, "audio")
        stalled, quick = Player(server.port, "/slow", receive_buffer=4096), Player(server.port, "/slow")
        with playing(quick):
            wait_for(lambda: any("max_buffer" in str(line["reason"]) for line in server.events("listener ended")), "the drop")
        stalled.sock.close()
    source.close()
    found_in(quick.audio, mp3)


def test_slow_listener_may_skip_whole_frames(server: LiveServer, mp3: bytes) -> None:
    """With slow_listener = "skip" it stays, loses whole chunks, and what it gets are the source's frames."""
    source = Source(server.source_port, "skip")
    player = None
    with feeding(source, mp3, at_once_s=1, bytes_s=160_000):
        wait_for(lambda: server.get("/skip", method="HEAD")[0] == 200, "audio")
        player = Player(server.port, "/skip", receive_buffer=4096)
        time.sleep(6.0)
        with playing(player):
            wait_for(lambda: len(player.audio) > 500_000, "audio after the stall")
    source.close()
    from appliance.wire.frames import parser_for

    frames = parser_for("mp3").feed(bytes(player.audio))
    assert sum(len(frame.data) for frame in frames) > 0.99 * len(player.audio)
    known = {frame.data for frame in parser_for("mp3").feed(mp3)}
    assert all(frame.data in known for frame in frames)
    ended = [line for line in server.events("listener ended") if line["stream"] == "skip"]
    assert ended and int(str(ended[-1]["skips"])) > 0


def test_source_on_the_listener_port(server: LiveServer, mp3: bytes) -> None:
    """One public port is enough: SOURCE and PUT, with audio behind the head, go to the supervisor; the root route plays."""
    source = Source(server.port, "passed", method="PUT")
    with feeding(source, mp3, at_once_s=5):
        wait_for(lambda: server.get("/", method="HEAD")[0] == 200, "audio")
        player = Player(server.port, "/;stream.nsv")
        with playing(player):
            time.sleep(2.5)
    source.close()
    found_in(player.audio, mp3)


@pytest.mark.parametrize(
    ("request_text", "status", "words"),
    [
        ("GET /nothing HTTP/1.1\r\n\r\n", 404, "no such stream"),
        ("GET /many?offset=soon HTTP/1.1\r\n\r\n", 400, "seconds behind live"),
        ("GET /many?offset=-1 HTTP/1.1\r\n\r\n", 400, "seconds behind live"),
        ("GET /many HTTP/1.1\r\n\r\n", 503, "nothing to play yet"),
        ("DELETE /many HTTP/1.1\r\n\r\n", 405, "not allowed"),
        ("GET /many HTTP/1.1\r\nno colon here\r\n\r\n", 400, "colon"),
        ("GET /many HTTP/3.0\r\n\r\n", 505, "HTTP/1.1"),
        ("nonsense\r\n\r\n", 400, "request line"),
        ("GET /" + "a" * 9000 + " HTTP/1.1\r\n\r\n", 414, "8192"),
        ("GET /many HTTP/1.1\r\n" + "X: y\r\n" * 10_000 + "\r\n", 431, ""),
        ("GET /many HTTP/1.1\r\nX: " + "y" * 20_000 + "\r\n\r\n", 431, "16384"),
        ("SOURCE /many HTTP/1.0\r\n\r\n", 401, "password"),
        ("SOURCE /nowhere HTTP/1.0\r\nAuthorization: Basic eDp4\r\n\r\n", 404, "no such mount"),
        ("SOURCE /many HTTP/1.0\r\nAuthorization: Basic eDp4\r\n\r\n", 401, "password"),
        ("GET /admin/metadata?mode=updinfo&mount=/many&song=x HTTP/1.0\r\n\r\n", 401, "password"),
        ("GET /many\n", 400, ""),
    ],
)
def test_bad_requests_get_their_answer(server: LiveServer, request_text: str, status: int, words: str) -> None:
    """Each error of INTERFACES, as one plain line, on the listener port; the server goes on."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(request_text.encode())
            sock.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(65536):
                data += part
    answer = data.decode("latin-1")
    assert answer.split(" ")[1] == str(status), answer
    assert words in answer
    if status == 401:
        assert "WWW-Authenticate: Basic" in answer and "\r\n\r\n" in answer


def test_worker_is_replaced_and_new_listeners_play(tmp_path: Path, mp3: bytes) -> None:
    """kill -9 of every worker in turn: a new one takes its place, connections that wait are served, listeners of others play on."""
    with LiveServer(tmp_path) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=10):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            before = server.worker_pids()
            assert len(before) == 2
            for pid in before:
                os.kill(pid, signal.SIGKILL)
                player = Player(server.port)
                with playing(player):
                    wait_for(lambda: len(player.audio) > 60_000, "audio through the other worker")  # noqa: B023
                found_in(player.audio, mp3)
                wait_for(lambda: len(server.worker_pids()) == 2, "the replacement")
            assert not set(before) & set(server.worker_pids())
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
        source.close()
        assert len(server.events("worker died")) == 2


def test_sigterm_sends_what_is_queued_and_ends(tmp_path: Path, mp3: bytes) -> None:
    """SIGTERM: the last whole frame the source sent reaches the listeners, then FIN; exit code 0, no process left."""
    with LiveServer(tmp_path) as server:
        source = Source(server.source_port)
        source.send(mp3[: 16_000 * 20])
        wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
        player = Player(server.port)
        pids = server.worker_pids()
        begun = time.monotonic()
        with playing(player):
            time.sleep(0.3)
            assert server.stop() == 0
            wait_for(lambda: player.ended, "the end of the stream", 5)
        assert time.monotonic() - begun < 8
        source.close()
        found_in(player.audio, mp3)
        assert bytes(player.audio).endswith(whole_frames(mp3[: 16_000 * 20])[-3000:])
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the workers' end", 5)


def test_one_copy_of_the_audio_and_small_workers(tmp_path: Path, mp3: bytes) -> None:
    """A worker before listeners uses at most 45 MB of its own (RssAnon + RssFile); the ring is shared, not copied."""
    with LiveServer(tmp_path) as server:
        source = Source(server.source_port)
        source.send(mp3[: 16_000 * 60])
        wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
        for pid in server.worker_pids():
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            own = sum(int(status[name].split()[0]) for name in ("RssAnon", "RssFile"))
            assert own < 45 * 1024, f"{own} KiB"
        source.close()


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    """Exit code 1 and one line that names the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = LiveServer(tmp_path)
        server.config.write_text(server.config.read_text().replace("port = 0", f"port = {port}", 1))
        with pytest.raises(AssertionError, match=f"port {port}"):
            server.start()


def test_unused_feeder_is_stopped(mp3: bytes) -> None:
    """The test's own feeder ends with its block."""
    ours, theirs = socket.socketpair()
    source = Source.__new__(Source)
    source.sock = ours
    with feeding(source, mp3) as feeder:
        assert isinstance(feeder, Feeder)
    assert not feeder.is_alive()
    ours.close()
    theirs.close()
