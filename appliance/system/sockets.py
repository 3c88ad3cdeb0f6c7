"""Listening sockets as slots, and the options of accepted ones."""

from __future__ import annotations

import array
import contextlib
import fcntl
import socket
import struct
import termios
from typing import Final

BACKLOG: Final = 4096
"""Connections that may wait; the kernel caps it at net.core.somaxconn (4,096 on Debian 12)."""
LISTENER_SNDBUF_BYTES: Final = 128 * 1024
"""Per lasting listener (the kernel doubles it for its own book-keeping): 8 s of 128 kbit/s in flight, and a bound on kernel memory."""
PASSIVE_TIMEOUT_S: Final = 30
"""Added to the time `max_buffer` bytes take, before the kernel gives up on a peer that acknowledges nothing."""
MIN_BYTES_S: Final = 4_000
"""32 kbit/s: the slowest stream for which TCP_USER_TIMEOUT is made long enough to hold `max_buffer`."""


class CannotListen(Exception):
    """A port that cannot be bound; says which and why."""


def listening(bind: str, port: int, *, reuse_port: bool = True) -> socket.socket:
    """A non-blocking listening TCP socket. "::" is dual stack, or IPv4 alone where there is no IPv6. Raises CannotListen."""
    try:
        return _listening(bind, port, reuse_port)
    except OSError as error:
        if bind == "::" and error.errno is not None and not socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):
                return _listening("0.0.0.0", port, reuse_port)
        raise CannotListen(f"cannot listen on {bind} port {port}: {error.strerror or error}") from error


def _listening(bind: str, port: int, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse_port))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Inherited by accepted sockets: the end of a send must not wait for an acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((bind, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def slots(bind: str, port: int, count: int) -> list[socket.socket]:
    """`count` SO_REUSEPORT sockets of one address; port 0 chooses a free one for all. Raises CannotListen."""
    first = listening(bind, port)
    host, chosen = first.getsockname()[:2]
    return [first, *(listening(host, chosen) for _ in range(count - 1))]


def bound_alone(bind: str, port: int) -> None:
    """Raise CannotListen when another program already listens there: SO_REUSEPORT of the same user would silently share the port."""
    if port:
        listening(bind, port, reuse_port=False).close()


def make_lasting(sock: socket.socket, max_buffer_bytes: int) -> None:
    """Options of a connection that becomes a listener: bounded send buffer, and an end for peers that vanished."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LISTENER_SNDBUF_BYTES)
    timeout_s = max_buffer_bytes // MIN_BYTES_S + PASSIVE_TIMEOUT_S
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_s * 1000)


def reset_at_close(sock: socket.socket) -> None:
    """Make the close a RST that drops what was not sent yet: bytes that may be wrong must not follow (MECHANICS 1)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def unacknowledged_bytes(sock: socket.socket) -> int:
    """Bytes written that the peer has not acknowledged (SIOCOUTQ, tcp(7)); a FIN counts as one."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)  # the same number as SIOCOUTQ on Linux
    return count[0]


def peer_of(address: object) -> str:
    """The peer's address as text, IPv4-mapped ones as IPv4."""
    host = str(address[0]) if isinstance(address, tuple) and address else "?"
    return host.removeprefix("::ffff:")
