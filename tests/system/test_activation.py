"""What a service starts with, tried in a process of its own (fds from 3 on are taken), and what Inherited does with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from appliance.system.activation import Inherited, as_listening, generation_name, inherit
from tests.rules.sources import ROOT

SHOW = """
import json, os, sys
count, pid, names = sys.argv[1:4]
for fd in range(3, 8):
    os.dup2(1, fd, inheritable=True)
os.environ.update({"LISTEN_FDS": count, "LISTEN_PID": pid.replace("SELF", str(os.getpid())), "LISTEN_FDNAMES": names})
if not names: del os.environ["LISTEN_FDNAMES"]
from appliance.system.activation import inherit
got = inherit()
found = {name: got.take(name) for name in got.names}
print(json.dumps([found, [n for n in os.environ if n.startswith("LISTEN_")], [os.get_inheritable(fd) for fd in range(3, 8)]]))
"""


def shown(count: str, names: str, pid: str = "SELF") -> list[object]:
    import json

    done = subprocess.run([sys.executable, "-c", SHOW, count, pid, names], cwd=ROOT, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_fds_come_by_name_closed_to_children_and_the_variables_are_gone() -> None:
    """Several of one name in systemd's order; nothing is left for a child to misunderstand."""
    assert shown("4", "listener:api:listener:ring.live") == [
        {"listener": [3, 5], "api": [4], "ring.live": [6]},
        [],
        [False, False, False, False, True],
    ]


@pytest.mark.parametrize(
    ("count", "names", "expected"),
    [
        ("2", "", {"unknown": [3, 4]}),
        ("3", "a", {"a": [3], "unknown": [4, 5]}),
        ("1", "a:b", {"a": [3]}),
        ("2", "a:", {"a": [3], "unknown": [4]}),
    ],
)
def test_names_that_are_missing(count: str, names: str, expected: dict[str, list[int]]) -> None:
    assert shown(count, names)[0] == expected


@pytest.mark.parametrize(("count", "pid"), [("2", "1"), ("2", ""), ("", "SELF"), ("x", "SELF"), ("-1", "SELF"), ("99999999999", "SELF")])
def test_what_is_not_for_us_is_not_touched(count: str, pid: str) -> None:
    """Another process's variables (a shell passed them on), or nonsense: no fd is taken, the variables go."""
    assert shown(count, "a:b", pid) == [{}, [], [True] * 5]


def test_an_fd_that_is_not_open_is_left_out() -> None:
    environ = {"LISTEN_FDS": "1000", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ""}
    limit = max(int(one) for one in os.listdir("/proc/self/fd"))
    states = {fd: os.get_inheritable(fd) for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")}
    found = inherit(environ)
    assert environ == {}
    assert set(found.take("unknown")) <= set(range(3, limit + 1))
    for fd, state in states.items():
        if os.path.exists(f"/proc/self/fd/{fd}"):
            os.set_inheritable(fd, state)


def test_by_key_and_by_generation() -> None:
    """Whose an fd is stands in its name; a stream named like a generation is one."""
    workers = {"worker.g7.0": [5, 6], "worker.g7.1": [7], "worker.g12.0": [8], "worker.gx.0": [9]}
    found = Inherited({"ring.live": [3], "ring.g7.x": [4], **workers, "api": [10]})
    assert found.take_keys("ring") == {"live": [3], "g7.x": [4]}
    assert found.take_generations("worker") == {7: {"0": [5, 6], "1": [7]}, 12: {"0": [8]}}
    assert found.take("api") == [10]
    assert found.take("api") == []
    assert found.names == ["worker.gx.0"]
    assert generation_name("worker", 7, 0) == "worker.g7.0"


def test_what_nobody_takes_is_closed() -> None:
    reading, writing = os.pipe()
    found = Inherited({"old": [reading, writing]})
    assert found.close_rest() == ["old"]
    for fd in (reading, writing):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert found.close_rest() == []


def test_a_listening_socket_is_taken_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        taken = as_listening(os.dup(server.fileno()))
    with taken, socket.create_connection(address, timeout=5):
        assert not taken.getblocking()
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert taken.getsockname() == address


def test_other_fds_are_refused_and_closed() -> None:
    """A pipe, a TCP socket that does not listen, a unix socket that does."""
    reading, writing = os.pipe()
    os.close(writing)
    idle = socket.socket().detach()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0streammachine-{os.getpid()}-{id(unix)}")
        unix.listen()
        for fd in (reading, idle, os.dup(unix.fileno())):
            with pytest.raises(ValueError, match="not a"):
                as_listening(fd)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
