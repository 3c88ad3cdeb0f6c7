"""kill -9 of workers costs no listener that lasted a second its connection or a byte: raw, with titles, rewound, slow, skipping."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from tests.process.live_server import PASSWORD, LiveServer, Player, Source, feeding, found_in, playing, wait_for

STREAMS = f'[streams.test]\nsource_password = "{PASSWORD}"\nburst = 5\nmeta_interval = 4096\n'
LASTING_S = 1.6
"""A second, and until the worker has told of it."""


def one_of_each(server: LiveServer) -> list[Player]:
    """Live and rewound, raw and with titles, several of each, so that every worker has some."""
    paths = ("/test", "/test?offset=12", "/test?offset=30.5")
    return [Player(server.port, path, icy=icy) for _ in range(3) for icy in (False, True) for path in paths]


def test_listeners_survive_every_worker_in_turn_and_all_at_once(tmp_path: Path, mp3: bytes) -> None:
    """Each worker is killed once it has listeners, then all together; nobody is cut off, every byte is right, no gap is long."""
    with LiveServer(tmp_path, streams=STREAMS, top="workers = 3\n") as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players = one_of_each(server)
            slow = Player(server.port, "/test?offset=35", receive_buffer=4096)
            with playing(*players, slow):
                time.sleep(LASTING_S)
                for pid in server.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                    wait_for(lambda: pid not in server.worker_pids() and len(server.worker_pids()) == 3, "the replacement")  # noqa: B023
                    time.sleep(0.3)
                for pid in server.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                wait_for(lambda: len(server.events("worker died")) == 6 and len(server.worker_pids()) == 3, "three replacements")
                before = [len(player.audio) for player in players]
                time.sleep(2.5)
                assert not any(player.ended for player in (*players, slow))
            after = [len(player.audio) for player in players]
        source.close()
    assert all(now - then > 16_000 for now, then in zip(after, before, strict=True)), "everybody goes on"
    for player in (*players, slow):
        found_in(player.audio, mp3)
        assert player.longest_gap_s < 2.2
    assert sum(int(str(line["orphans"])) for line in server.events("worker died")) >= 2 * len(players)


def test_a_second_death_during_adoption_changes_nothing(tmp_path: Path, mp3: bytes) -> None:
    """Kills at random moments, one on the heels of the other (fixed seed): still every byte, still connected."""
    chance = random.Random(11)
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            players = one_of_each(server)
            with playing(*players):
                time.sleep(LASTING_S)
                for _ in range(12):
                    pids = server.worker_pids()
                    if pids:
                        os.kill(chance.choice(pids), signal.SIGKILL)
                    time.sleep(chance.uniform(0.0, 0.25))
                wait_for(lambda: len(server.worker_pids()) == 2, "both workers")
                before = [len(player.audio) for player in players]
                wait_for(lambda: all(len(one.audio) > then for one, then in zip(players, before, strict=True)), "audio for all")
                assert not any(player.ended for player in players)
        source.close()
    for player in players:
        found_in(player.audio, mp3)


def test_brief_connections_leave_nothing_behind(tmp_path: Path, mp3: bytes) -> None:
    """Listeners that lasted and left: the supervisor's duplicates are closed, the peers see the end."""
    with LiveServer(tmp_path, streams=STREAMS) as server:
        source = Source(server.source_port)
        with feeding(source, mp3, at_once_s=40):
            wait_for(lambda: server.get("/test", method="HEAD")[0] == 200, "audio")
            descriptors = Path(f"/proc/{server.pid}/fd")
            idle = len(list(descriptors.iterdir()))
            players = one_of_each(server)
            with playing(*players):
                wait_for(lambda: len(list(descriptors.iterdir())) >= idle + len(players), "the duplicates")
            wait_for(lambda: len(list(descriptors.iterdir())) <= idle, "the duplicates' end")
        source.close()
