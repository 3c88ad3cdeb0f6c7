"""The listening sockets: systemd's where it gives some, our own elsewhere.

Ports are said in the configuration; the systemd generator (system/generator.py) writes the .socket units from it. They can still differ:
the configuration was changed and systemd not told, or a drop-in says something else. Then we serve on what systemd gave (that is where
listeners are and wait), and say so in an error line that names both and the remedy.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, NamedTuple

import structlog

from appliance.config.model import Config
from appliance.system import activation, sockets
from appliance.system.activation import Inherited

LISTENER: Final = "listener"
SOURCE: Final = "source"
API: Final = "api"
"""FileDescriptorName= of our .socket units."""
REMEDY: Final = "systemctl daemon-reload && systemctl stop streammachine && systemctl start streammachine"


class Listening(NamedTuple):
    """`slots`: the listener port, one socket at least, each to be accepted by a worker; `sources`: one at least. All are non-blocking."""

    slots: list[socket.socket]
    sources: list[socket.socket]
    api: socket.socket


def bind(config: Config, inherited: Inherited, workers: int) -> Listening:
    """Every port, before anything else is started: a port in use is the commonest mistake. Raises CannotListen.

    Without systemd there are `workers` slots; with it as many as it gives: the kernel spreads connections over all of them, so every one is
    accepted on, whatever the number of workers (MECHANICS 8).
    """
    slots = _given(inherited, LISTENER, config.bind, config.port)
    if not slots:
        sockets.bound_alone(config.bind, config.port)
        slots = sockets.slots(config.bind, config.port, workers)
    sources = _given(inherited, SOURCE, config.bind, config.source_port)
    sources = sources or [sockets.listening(config.bind, config.source_port, reuse_port=False)]
    apis = _given(inherited, API, config.api_bind, config.api_port)
    if len(apis) > 1:
        raise sockets.CannotListen(f"systemd gives {len(apis)} sockets named {API}; allowed: one")
    return Listening(slots, sources, apis[0] if apis else sockets.listening(config.api_bind, config.api_port, reuse_port=False))


def close_unknown(inherited: Inherited) -> None:
    """Close what nobody has taken, with one line about it."""
    if names := inherited.close_rest():
        structlog.get_logger().warning("file descriptors of systemd that nobody knows were closed", names=names)


def _given(inherited: Inherited, name: str, host: str, port: int) -> list[socket.socket]:
    """systemd's sockets of a name; the one that is configured comes first."""
    found = []
    for fd in inherited.take(name):
        try:
            found.append(activation.as_listening(fd))
        except ValueError as error:
            raise sockets.CannotListen(f"systemd gives a file descriptor named {name}: {error}") from None
    if found and port and not any(is_at(sock, host, port) for sock in found):
        given = ", ".join(sorted({address_of(sock) for sock in found}))
        text = "not on the configured address: serving on what systemd gave"
        structlog.get_logger().error(text, name=name, systemd=given, configured=f"{_bracketed(host)}:{port}", remedy=REMEDY)
    return sorted(found, key=lambda sock: not is_at(sock, host, port))


def is_at(sock: socket.socket, host: str, port: int) -> bool:
    """Whether a socket listens at a configured address. "::" is dual stack, or IPv4 alone where there is no IPv6; port 0 is any."""
    bound, bound_port = sock.getsockname()[:2]
    if port not in (0, bound_port):
        return False
    if host == "::" and sock.family == socket.AF_INET:
        return bool(bound == "0.0.0.0" and not socket.has_dualstack_ipv6())
    if host == "::" and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return False
    return ipaddress.ip_address(bound) == ipaddress.ip_address(host)


def address_of(sock: socket.socket) -> str:
    """ADDRESS:PORT, and whether that is IPv6 alone."""
    bound, port = sock.getsockname()[:2]
    alone = sock.family == socket.AF_INET6 and bound == "::" and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return f"{_bracketed(bound)}:{port}{' (IPv6 alone)' if alone else ''}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
