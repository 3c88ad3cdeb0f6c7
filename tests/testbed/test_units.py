"""The units under a real systemd (Debian 12, systemd 252, in ../shared/testbed): start, sockets, watchdog, failure, stop.

The system shares the host's network: listeners and the encoder are on the host, on ports that were free a moment before.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.process.live_server import PASSWORD, Player, Source, feeding, found_in, playing, wait_for
from tests.testbed import guest as guests
from tests.testbed.guest import Guest

pytestmark = pytest.mark.timeout(400)  # building the root file system takes up to a minute, once on a machine

CONFIG = "/etc/streammachine/streammachine.toml"
DROP_IN = "/etc/systemd/system/streammachine.service.d/test.conf"
SERVICE = "streammachine.service"
SOCKETS = ("streammachine.socket", "streammachine-source.socket", "streammachine-api.socket")
STOP_LIMIT_S = 10.0
READY_LIMIT_S = 10.0
"""0.8 s alone on 2 cores; a multiple, because other tests may run beside."""
SLOTS = 3


class Station(NamedTuple):
    """The installed station and its ports."""

    guest: Guest
    port: int
    source_port: int
    api_port: int

    def configure(self, port: int = 0, extra: str = "", *, tell: bool = True) -> None:
        """Write the configuration; `tell`: let the generator read it."""
        ports = f"port = {port or self.port}\nsource_port = {self.source_port}\napi_port = {self.api_port}\n"
        stream = f'[streams.test]\nsource_password = "{PASSWORD}"\nburst = 5\n'
        self.guest.write(CONFIG, f'bind = "127.0.0.1"\nworkers = {SLOTS}\n{ports}{extra}\n[log]\njson = true\n{stream}', "640")
        self.guest.run("chgrp", "streammachine", CONFIG)
        if tell:
            self.guest.run("systemctl", "daemon-reload")

    def state(self, unit: str = SERVICE) -> str:
        """What `systemctl is-active` says."""
        return self.guest.run("systemctl", "is-active", unit, check=False).strip()

    def main_pid(self) -> int:
        """The main process, 0 while there is none."""
        return int(self.guest.show(SERVICE, "MainPID"))

    def start(self) -> float:
        """`systemctl start`, which returns at READY=1; the seconds it took."""
        begun = time.monotonic()
        self.guest.run("systemctl", "start", SERVICE)
        return time.monotonic() - begun

    def events(self, name: str) -> list[dict[str, object]]:
        """The service's log lines of one event, by our own JSON."""
        lines = [json.loads(line) for line in self.guest.journal("-u", SERVICE).splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def says(self, text: str) -> None:
        """Wait until the service's journal has `text`: what a process writes arrives there a moment later."""
        wait_for(lambda: text in self.guest.journal("-u", SERVICE), f"{text!r} in the journal", 10)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One system for all tests of this module, installed but not started."""
    if missing := guests.needed():
        pytest.fail(missing)
    guest = Guest(f"units-{os.getpid()}")
    guest.testbed("create", timeout_s=guests.CREATE_TIMEOUT_S)
    guest.testbed("boot")
    try:
        guests.install(guest, tmp_path_factory.mktemp("tree"))
        guest.write(DROP_IN, "[Service]\nWatchdogSec=2s\nTimeoutAbortSec=1s\n")
        yield Station(guest, *free_ports(3))
    finally:
        guest.testbed("destroy")


@pytest.fixture
def station(booted: Station, request: pytest.FixtureRequest) -> Iterator[Station]:
    """The station, started with its usual configuration; stopped again with nothing left, whatever the test did."""
    booted.guest.run("rm", "-rf", "/var/lib/streammachine/rewind")  # what a former test's listeners heard would be played before ours
    booted.configure()
    booted.start()
    yield booted
    booted.guest.run("systemctl", "stop", SERVICE, *SOCKETS)
    booted.guest.run("systemctl", "reset-failed")
    wait_for(lambda: booted.guest.processes() == [], "the end of every process", STOP_LIMIT_S)


def test_it_is_ready_and_says_so(station: Station) -> None:
    """READY=1 after all is served, a STATUS line; the sockets are systemd's, one per worker, and the log says the configured ports."""
    assert station.state() == "active"
    assert "listeners; 0 of 1 streams on air" in station.guest.show(SERVICE, "StatusText")
    assert [station.state(unit) for unit in SOCKETS] == ["active"] * 3
    listening = station.guest.run("ss", "-Hltnp", f"sport = :{station.port}").splitlines()
    assert len(listening) == SLOTS
    assert all('"systemd"' in line and '"streammachine"' in line for line in listening)
    station.says('"event": "serving"')
    served = station.events("serving")[-1]
    assert (served["port"], served["source_port"], served["api_port"]) == station[1:]
    assert served["workers"] == SLOTS
    station.guest.run("systemctl", "stop", SERVICE)
    assert station.start() < READY_LIMIT_S


def test_listeners_on_every_slot_hear_the_source_byte_for_byte(station: Station, mp3: bytes) -> None:
    """From the host: an encoder, and more listeners than slots, so that each slot has some."""
    source = Source(station.source_port)
    with feeding(source, mp3, at_once_s=20):
        wait_for(lambda: on_air(station.port), "audio")
        players = [Player(station.port, f"/test?offset={index}") for index in range(4 * SLOTS)]
        with playing(*players):
            wait_for(lambda: all(len(player.audio) > 100_000 for player in players), "audio for everybody")
    source.close()
    for player in players:
        found_in(player.audio, mp3)


def test_the_watchdog_replaces_a_main_process_that_hangs(station: Station) -> None:
    """SIGSTOP: no WATCHDOG=1 any more; systemd ends everything of it and starts anew, on the same listening sockets."""
    before, inodes = station.main_pid(), listening_inodes(station)
    restarts = int(station.guest.show(SERVICE, "NRestarts"))
    time.sleep(3.0)  # longer than WatchdogSec=: it is being fed
    assert station.main_pid() == before
    station.guest.run("kill", "-STOP", str(before))
    wait_for(lambda: station.main_pid() not in (0, before) and station.state() == "active", "a new main process", 20)
    station.says("Watchdog timeout")
    assert int(station.guest.show(SERVICE, "NRestarts")) == restarts + 1
    assert listening_inodes(station) == inodes
    assert not [line for line in station.guest.processes() if line.split()[0] == str(before)]


@pytest.mark.parametrize("how", ["kill -9", "restart", "watchdog"])
def test_a_new_main_process_costs_nobody_anything(station: Station, mp3: bytes, how: str) -> None:
    """The supervisor dies, is restarted, or hangs: its workers play on, the encoder stays connected, every byte is right; a reload and a
    worker's death after it are survived as well."""
    source = Source(station.source_port)
    with feeding(source, mp3, at_once_s=30) as feeder:
        wait_for(lambda: on_air(station.port), "audio")
        paths = ("/test", "/test?offset=12")
        players = [Player(station.port, path, icy=icy) for path in paths for icy in (False, True) for _ in range(SLOTS)]
        with playing(*players):
            time.sleep(1.5)
            before, connected = station.main_pid(), len(station.events("source connected"))
            if how == "restart":
                station.guest.run("systemctl", "restart", SERVICE)
            else:
                station.guest.run("kill", "-9" if how == "kill -9" else "-STOP", str(before))
            wait_for(lambda: station.main_pid() not in (0, before) and station.state() == "active", "a new main process", 20)
            had, sent = [len(player.audio) for player in players], feeder.sent
            wait_for(lambda: all(len(player.audio) > had[index] + 60_000 for index, player in enumerate(players)), "more audio")
            assert feeder.sent > sent
            station.guest.run("systemctl", "reload", SERVICE)
            had = [len(player.audio) for player in players]
            wait_for(lambda: all(len(player.audio) > had[index] + 30_000 for index, player in enumerate(players)), "audio after a reload")
            assert not any(player.ended for player in players)
    source.close()
    for player in players:
        found_in(player.audio, mp3)
    station.says("going on with what was left")
    assert len(station.events("source connected")) == connected, "the encoder's connection went on"


def test_clients_that_come_while_there_is_no_main_process_are_served(station: Station) -> None:
    """kill -9: the workers answer them, or the backlog holds them; nobody is refused or reset."""
    station.guest.run("kill", "-9", str(station.main_pid()))
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", station.port), timeout=20) as sock:
            sock.sendall(b"GET /nothing HTTP/1.0\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 404 ")
    wait_for(lambda: station.state() == "active", "the start", 20)


def test_a_restart_keeps_the_listening_sockets(station: Station) -> None:
    """The same sockets by the kernel's numbers: nobody is refused in between. A daemon-reload keeps them too."""
    before, inodes = station.main_pid(), listening_inodes(station)
    station.guest.run("systemctl", "daemon-reload")
    station.guest.run("systemctl", "restart", SERVICE)
    assert station.main_pid() != before
    assert listening_inodes(station) == inodes
    on_air(station.port)


def test_stop_ends_every_process_and_stays_stopped(station: Station) -> None:
    """Within ten seconds, with listeners; and a listener who comes back at once does not start it again."""
    with Source(station.source_port).sock as source:
        source.settimeout(5)
        begun = time.monotonic()
        station.guest.run("systemctl", "stop", SERVICE)
        wait_for(lambda: station.guest.processes() == [], "the end of every process", STOP_LIMIT_S)
        assert time.monotonic() - begun < STOP_LIMIT_S
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", station.port), timeout=5)
    assert [station.state(unit) for unit in (SERVICE, *SOCKETS)] == ["inactive"] * 4
    assert station.guest.show(SERVICE, "Result") == "success"


def test_a_reload_costs_no_listener_a_byte(station: Station, mp3: bytes) -> None:
    """Another main process serves, which systemd knows and watches; encoder and listeners go on."""
    before, inodes = station.main_pid(), listening_inodes(station)
    source = Source(station.source_port)
    with feeding(source, mp3, at_once_s=20):
        wait_for(lambda: on_air(station.port), "audio")
        players = [Player(station.port, "/test?offset=5") for _ in range(2 * SLOTS)]
        with playing(*players):
            time.sleep(1.5)  # a listener is protected once it has lasted a second
            station.guest.run("systemctl", "reload", SERVICE)
            had = [len(player.audio) for player in players]
            assert station.main_pid() not in (0, before)
            assert station.state() == "active"
            wait_for(lambda: all(len(player.audio) > had[index] + 50_000 for index, player in enumerate(players)), "more audio")
    source.close()
    for player in players:
        found_in(player.audio, mp3)
    assert listening_inodes(station) == inodes
    assert station.guest.show(SERVICE, "NRestarts") == "0"


@pytest.mark.parametrize("delay_s", [0.15, 0.35])
def test_the_old_generation_dies_while_the_new_one_prepares(station: Station, mp3: bytes, delay_s: float) -> None:
    """kill -9 of the main process in the middle of a reload: its successor ends too, a third process goes on from the fd store."""
    source = Source(station.source_port)
    with feeding(source, mp3, at_once_s=20):
        wait_for(lambda: on_air(station.port), "audio")
        players = [Player(station.port, "/test?offset=5", icy=icy) for icy in (False, True) for _ in range(SLOTS)]
        with playing(*players):
            time.sleep(1.5)
            before = station.main_pid()
            station.guest.run("sh", "-c", f"systemctl --no-block reload {SERVICE}; sleep {delay_s}; kill -9 {before}")
            wait_for(lambda: station.main_pid() not in (0, before) and station.state() == "active", "a new main process", 20)
            had = [len(player.audio) for player in players]
            wait_for(lambda: all(len(player.audio) > had[index] + 50_000 for index, player in enumerate(players)), "more audio")
            assert not any(player.ended for player in players)
    source.close()
    for player in players:
        found_in(player.audio, mp3)
    assert [line for line in station.guest.processes() if "--takeover-fd" in line] == []


def test_touching_the_trigger_file_reloads(station: Station) -> None:
    """streammachine-reload.path, when it is started: /run/streammachine/reload."""
    station.guest.run("systemctl", "start", "streammachine-reload.path")
    before = station.main_pid()
    station.guest.run("touch", "/run/streammachine/reload")
    wait_for(lambda: station.main_pid() not in (0, before) and station.state() == "active", "another main process", 20)
    station.guest.run("systemctl", "stop", "streammachine-reload.path")


def test_a_reload_to_a_bad_configuration_leaves_everything_as_it_was(station: Station) -> None:
    """`systemctl reload` fails, the old process serves on, the reason is in the journal."""
    before = station.main_pid()
    station.configure(extra='colour = "blue"')
    with pytest.raises(AssertionError, match="exit code"):
        station.guest.run("systemctl", "reload", SERVICE)
    assert station.main_pid() == before
    wait_for(lambda: station.state() == "active", "the state")
    station.says("colour: ")
    on_air(station.port)
    station.configure()


def test_a_bad_configuration_fails_with_the_reason_in_the_journal(station: Station) -> None:
    """The start fails at once and is not tried again; the ports are those of before, for the six keys are good."""
    station.guest.run("systemctl", "stop", SERVICE)
    station.configure(extra='colour = "blue"')
    done = station.guest.run("systemctl", "start", SERVICE, check=False)
    assert done == ""
    assert station.state() == "failed"
    assert station.guest.show(SERVICE, "ExecMainStatus") == "1"
    station.says("colour: ")
    station.configure()
    station.start()
    assert station.state() == "active"


def test_ports_that_differ_are_told_and_the_remedy_works(station: Station) -> None:
    """The configuration changed and systemd was not told: an error line names both addresses, and what to do."""
    (other,) = free_ports(1)
    station.configure(port=other, tell=False)
    station.guest.run("systemctl", "restart", SERVICE)
    event = "not on the configured address: serving on what systemd gave"
    station.says(event)
    told = station.events(event)[-1]
    assert (told["systemd"], told["configured"]) == (f"127.0.0.1:{station.port}", f"127.0.0.1:{other}")
    on_air(station.port)
    station.guest.run("sh", "-c", str(told["remedy"]))
    on_air(other)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", station.port), timeout=5)


def test_a_configuration_that_cannot_be_read_gives_the_default_ports_and_a_line(station: Station) -> None:
    """Not TOML at all: the generator says why, in the journal and in the drop-in, and systemd goes on."""
    station.guest.write(CONFIG, "port = = 8000\n")
    station.guest.run("systemctl", "daemon-reload")
    shown = station.guest.run("systemctl", "cat", "streammachine.socket")
    assert "ListenStream=8001" in shown.partition("generator/")[2]
    assert "DEFAULT PORTS, because of" in shown
    station.says("is no valid TOML")
    station.configure()


def test_the_sandbox_is_tight(station: Station) -> None:
    """systemd's own score, and what it comes to: the user, one capability, and no place to write but our own."""
    rated = station.guest.run("systemd-analyze", "security", "--no-pager", SERVICE).splitlines()[-1]
    assert float(rated.split(":")[1].split()[0]) <= 2.0, rated
    pid = str(station.main_pid())
    status = station.guest.run("cat", f"/proc/{pid}/status")
    assert "CapEff:\t0000000000000400\n" in status
    assert "NoNewPrivs:\t1\n" in status
    assert station.guest.run("ps", "-o", "user:32=", "-p", pid).strip() == "streammachine"
    station.guest.run("systemd-analyze", "verify", SERVICE)


def on_air(port: int) -> bool:
    """Whether the test stream is on air; AssertionError when nobody answers."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(b"HEAD /test HTTP/1.0\r\n\r\n")
        answer = sock.recv(100)
    assert answer.startswith(b"HTTP/1.1 "), answer
    return b" 200 " in answer


def listening_inodes(station: Station) -> list[str]:
    """The kernel's numbers of the listening sockets of the listener port."""
    lines = station.guest.run("ss", "-Hltne", f"sport = :{station.port}").splitlines()
    return sorted(word for line in lines for word in line.split() if word.startswith("ino:"))
