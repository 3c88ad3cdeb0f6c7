"""Where the server listens: systemd's sockets, its own, and what is said when the two do not agree."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from appliance.config.model import Config
from appliance.supervisor import listening
from appliance.supervisor.listening import Listening
from appliance.system.activation import Inherited
from appliance.system.sockets import CannotListen, slots


@contextlib.contextmanager
def closing(found: Listening) -> Iterator[Listening]:
    try:
        yield found
    finally:
        for sock in (*found.slots, *found.sources, found.api):
            sock.close()


def given(host: str, count: int = 1) -> tuple[list[int], int]:
    """(fds of listening sockets of one port, the port)."""
    found = slots(host, 0, count)
    port = found[0].getsockname()[1]
    return [sock.detach() for sock in found], port


def local(port: int = 0, source_port: int = 0, api_port: int = 0) -> Config:
    return Config(port=port, source_port=source_port, api_port=api_port, bind="127.0.0.1")


def test_without_systemd_everything_is_bound() -> None:
    with capture_logs() as logs, closing(listening.bind(local(), Inherited(), 3)) as found:
        assert len(found.slots) == 3
        assert len({sock.getsockname() for sock in found.slots}) == 1
        assert len({sock.getsockname() for sock in (found.slots[0], *found.sources, found.api)}) == 3
    assert logs == []


def test_sockets_of_systemd_are_used_as_they_are() -> None:
    """All three kinds, no line: they are where the configuration says."""
    (listeners, port), (sources, source_port), (apis, api_port) = given("127.0.0.1", 2), given("127.0.0.1"), given("127.0.0.1")
    inherited = Inherited({"listener": listeners, "source": sources, "api": apis})
    with capture_logs() as logs, closing(listening.bind(local(port, source_port, api_port), inherited, 2)) as found:
        assert [sock.fileno() for sock in found.slots] == listeners
        assert [sock.fileno() for sock in found.sources] == sources
        assert found.api.fileno() == apis[0]
        assert inherited.names == []
    assert logs == []


def test_what_systemd_does_not_give_is_bound() -> None:
    listeners, port = given("127.0.0.1", 2)
    with closing(listening.bind(local(port), Inherited({"listener": listeners}), 2)) as found:
        assert found.api.getsockname()[1] not in (0, port)


def test_another_port_is_an_error_line_that_names_both() -> None:
    (listeners, port), (other, configured) = given("127.0.0.1"), given("127.0.0.1")
    os.close(other[0])
    with capture_logs() as logs, closing(listening.bind(local(configured), Inherited({"listener": listeners}), 1)) as found:
        assert found.slots[0].getsockname()[1] == port
    (line,) = logs
    assert line["log_level"] == "error"
    assert (line["systemd"], line["configured"]) == (f"127.0.0.1:{port}", f"127.0.0.1:{configured}")
    assert "daemon-reload" in line["remedy"]


def test_another_address_is_told_as_well() -> None:
    """The admin port on every address, where the configuration says this machine alone."""
    apis, port = given("0.0.0.0")
    with capture_logs() as logs, closing(listening.bind(local(api_port=port), Inherited({"api": apis}), 1)):
        pass
    assert [(line["name"], line["systemd"]) for line in logs] == [("api", f"0.0.0.0:{port}")]


def test_more_ports_than_the_configured_one_are_fine() -> None:
    """An admin's drop-in adds port 80: every socket is a slot, the configured port is the first."""
    (first, _), (second, port) = given("127.0.0.1"), given("127.0.0.1", 2)
    with capture_logs() as logs, closing(listening.bind(local(port), Inherited({"listener": first + second}), 2)) as found:
        assert [sock.fileno() for sock in found.slots] == second + first
    assert logs == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the process ends; nobody closes what was bound before
@pytest.mark.parametrize("name", ["listener", "source", "api"])
def test_something_else_under_our_name_is_a_reason_not_to_start(name: str) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(CannotListen, match=f"named {name}: not a socket"):
        listening.bind(local(), Inherited({name: [reading]}), 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the process ends; nobody closes what was bound before
def test_two_admin_sockets_are_refused() -> None:
    fds = given("127.0.0.1")[0] + given("127.0.0.1")[0]
    with pytest.raises(CannotListen, match="2 sockets named api"):
        listening.bind(local(), Inherited({"api": fds}), 1)


def test_unknown_ones_are_closed_with_one_line() -> None:
    inherited = Inherited({"old": given("127.0.0.1", 2)[0], "stored": given("127.0.0.1")[0]})
    with capture_logs() as logs:
        listening.close_unknown(inherited)
        listening.close_unknown(inherited)
    assert [line["names"] for line in logs] == [["old", "stored"]]


def test_dual_stack_is_not_ipv6_alone() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6: the next test has its half of it")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        assert listening.is_at(both, "::", both.getsockname()[1])
        assert not listening.is_at(both, "::1", 0)
    with socket.create_server(("::", 0), family=socket.AF_INET6) as alone:
        assert not listening.is_at(alone, "::", 0)
        assert listening.address_of(alone).endswith("(IPv6 alone)")


def test_ipv4_alone_is_dual_stack_only_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("0.0.0.0", 0)) as sock:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
        assert not listening.is_at(sock, "::", 0)
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
        assert listening.is_at(sock, "::", 0)
