"""What systemd would receive: a datagram socket in the test stands in for it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.system.notify import MESSAGE_FDS_MAX, Notifier, check_fd_name


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end, by both kinds of address."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@streammachine-test-{os.getpid()}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def said(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def test_every_message_has_the_words_of_sd_notify(manager: socket.socket) -> None:
    notifier = Notifier()
    before_us = time.monotonic_ns() // 1000
    sent = [
        notifier.ready("on\nair — ü"),
        notifier.ready(),
        notifier.status("12\nlisteners"),
        notifier.watchdog(),
        notifier.main_pid(77),
        notifier.extend_timeout(2.5),
        notifier.stopping(),
        notifier.notify("X=1"),
    ]
    assert sent == [True] * 8
    assert [said(manager) for _ in sent] == [
        "READY=1\nSTATUS=on air — ü",
        "READY=1",
        "STATUS=12 listeners",
        "WATCHDOG=1",
        "MAINPID=77",
        "EXTEND_TIMEOUT_USEC=2500000",
        "STOPPING=1\nSTATUS=stopping",
        "X=1",
    ]
    assert notifier.reloading()
    first, _, moment = said(manager).partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before_us <= int(moment) <= time.monotonic_ns() // 1000
    notifier.close()


def test_stored_fds_arrive_with_their_name_and_without_polling(manager: socket.socket) -> None:
    """More than one message carries are sent in several, none twice."""
    reading, writing = os.pipe()
    notifier = Notifier()
    assert notifier.store("worker.g7.0", [reading] * MESSAGE_FDS_MAX + [writing])
    batches = []
    for _ in range(2):
        text, fds, _, _ = socket.recv_fds(manager, 4096, MESSAGE_FDS_MAX)
        assert text.decode().split("\n") == ["FDSTORE=1", "FDPOLL=0", "FDNAME=worker.g7.0"]
        batches.append(fds)
    assert [len(fds) for fds in batches] == [MESSAGE_FDS_MAX, 1]
    os.write(batches[1][0], b"x")
    assert os.read(batches[0][0], 1) == b"x"
    assert notifier.remove("worker.g7.0")
    assert said(manager) == "FDSTOREREMOVE=1\nFDNAME=worker.g7.0"
    for fd in [reading, writing, *batches[0], *batches[1]]:
        os.close(fd)
    notifier.close()


def test_the_barrier_waits_until_the_manager_closes_the_fd(manager: socket.socket) -> None:
    notifier = Notifier()
    fds: list[int] = []

    def take() -> None:
        text, found, _, _ = socket.recv_fds(manager, 4096, 4)
        assert text == b"BARRIER=1"
        fds.extend(found)
        os.close(found[0])

    thread = threading.Thread(target=take)
    thread.start()
    assert notifier.barrier(5)
    thread.join()
    assert len(fds) == 1
    notifier.close()


def test_the_barrier_has_a_limit(manager: socket.socket) -> None:
    """A manager that does not read: False after the time given, and no fd left open."""
    notifier = Notifier()
    before = len(os.listdir("/proc/self/fd"))
    begun = time.monotonic()
    assert not notifier.barrier(0.05)
    assert 0.04 < time.monotonic() - begun < 2
    assert len(os.listdir("/proc/self/fd")) == before
    notifier.close()


def test_a_busy_manager_costs_no_time_for_what_comes_again(manager: socket.socket) -> None:
    """The queue is full: WATCHDOG and STATUS are dropped at once."""
    notifier = Notifier()
    for _ in range(10_000):
        if not notifier.watchdog():
            break
    begun = time.monotonic()
    assert not notifier.watchdog()
    assert not notifier.status("x")
    assert time.monotonic() - begun < 0.5
    notifier.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify drops its unconnected socket unclosed
@pytest.mark.parametrize("name", [None, "", "/no/such/socket"])
def test_without_a_manager_nothing_happens(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    notifier = Notifier()
    assert not any([notifier.ready(), notifier.watchdog(), notifier.store("x", []), notifier.store("x", [0]), notifier.barrier(0)])
    notifier.close()


@pytest.mark.parametrize(("text", "expected"), [("20000000", 10.0), ("", None), ("0", None), ("-5", None), ("x", None), ("²", None)])
def test_the_watchdog_interval_is_half_of_the_limit(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, text: str, expected: float | None
) -> None:
    """Whatever WATCHDOG_PID says: after a handoff it is the predecessor."""
    monkeypatch.setenv("WATCHDOG_USEC", text)
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier()
    assert notifier.watchdog_s == expected
    notifier.close()


def test_names_of_stored_fds() -> None:
    assert check_fd_name("worker.g7.0") == "worker.g7.0"
    assert check_fd_name("x" * 255)
    for bad in ("", "a:b", "a\nb", "ü", "\x7f", "x" * 256):
        with pytest.raises(ValueError, match="no name for a stored fd"):
            check_fd_name(bad)
        with pytest.raises(ValueError, match="no name for a stored fd"):
            Notifier().store(bad, [])
