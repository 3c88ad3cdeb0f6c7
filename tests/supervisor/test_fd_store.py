"""What is kept with systemd and how it is sorted when it comes back."""

from __future__ import annotations

import os
import socket

import pytest

from appliance.ring.journal import SourceJournal
from appliance.supervisor.fd_store import FdStore, what_is_left
from appliance.system.activation import Inherited
from appliance.system.notify import Notifier


def memory() -> int:
    """Some memfd."""
    return os.memfd_create("test")


def is_open(fd: int) -> bool:
    """Whether this process still has it."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_is_left_is_sorted_by_name_and_kind() -> None:
    """A source's connection and journal come in any order; doubles are closed; unknown names are left for `close_rest`."""
    ours, theirs = socket.socketpair()
    journal, rings, channel, unknown = memory(), [memory(), memory()], memory(), memory()
    inherited = Inherited({"ring.a": rings, "source.u": [journal, ours.fileno()], "worker.17": [channel], "other": [unknown]})
    left = what_is_left(inherited)
    assert left.rings == {"a": rings[0]} and not is_open(rings[1])
    assert left.sources == {"u": (ours.fileno(), journal)}
    assert left.channels == [channel]
    assert inherited.names == ["other"]
    for fd in (journal, rings[0], channel, unknown):
        os.close(fd)
    ours.close()
    theirs.close()


def test_half_a_source_is_closed() -> None:
    """A connection without its journal cannot be gone on with."""
    ours, theirs = socket.socketpair()
    left = what_is_left(Inherited({"source.u": [ours.detach()]}))
    assert left.sources == {}
    assert theirs.recv(1) == b""
    theirs.close()


def test_nothing_is_said_where_nobody_keeps_fds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd, or without --fd-store."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    store = FdStore(Notifier(), is_on=True)
    assert not store.is_on
    journal = SourceJournal.create("test")
    store.keep("u", 0, journal.fd)
    store.drop("u")
    journal.close()


def test_names_and_fds_reach_the_service_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """FDSTORE=1 with the name and the fds, FDSTOREREMOVE=1 with the name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        notifier = Notifier()
        store, one, other = FdStore(notifier, is_on=True), memory(), memory()
        store.keep("u", one, other)
        text, fds, _, _ = socket.recv_fds(manager, 4096, 10)
        assert {"FDSTORE=1", "FDNAME=source.u", "FDPOLL=0"} <= set(text.decode().split("\n"))
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(one).st_ino, os.fstat(other).st_ino]
        store.drop_worker(17)
        assert {"FDSTOREREMOVE=1", "FDNAME=worker.17"} <= set(manager.recv(4096).decode().split("\n"))
        notifier.close()
    for fd in (one, other, *fds):
        os.close(fd)
