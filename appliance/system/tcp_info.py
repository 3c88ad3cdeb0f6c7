"""What the kernel knows of a TCP connection's byte counts: how a successor finds where a killed process had come to (MECHANICS 4).

Offsets of `struct tcp_info` from linux/tcp.h; it only ever grows at its end. `tcpi_bytes_acked` and `tcpi_bytes_received` (Linux 4.1)
count from the connection's birth, for both ends of a connection that was accepted or made here; a FIN counts as one byte in either.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
import termios
from typing import Final

_BYTES_ACKED: Final = 120
"""After 8 single bytes, 24 u32 (rto to total_retrans) and 2 u64 (pacing_rate, max_pacing_rate)."""
_BYTES_RECEIVED: Final = 128
_INFO_BYTES: Final = 136
_CLOSE: Final = 7
_PEER_ENDED: Final = frozenset({8, 9, 11})
"""enum in net/tcp_states.h: CLOSE_WAIT, LAST_ACK, CLOSING: the peer's FIN was received."""
_TRIES: Final = 1000
"""Looks at a socket until no packet comes between two of them: a look takes a microsecond, a packet is 12 us even at 1 Gbit/s."""


def bytes_acked(sock: socket.socket) -> int:
    """Bytes ever sent that the peer has acknowledged (tcpi_bytes_acked). With SIOCOUTQ (`sockets.unacknowledged_bytes`) added, all that
    was ever written: exact while nobody writes; read both until this one did not change. Raises OSError when it is no TCP socket."""
    return _u64(_info(sock), _BYTES_ACKED)


def bytes_received(sock: socket.socket) -> int:
    """Bytes ever received, read by us or not (tcpi_bytes_received). Raises OSError when it is no TCP socket."""
    return _u64(_info(sock), _BYTES_RECEIVED)


def unread_bytes(sock: socket.socket) -> int:
    """Received bytes that were not read yet (SIOCINQ, tcp(7)), a FIN not counted. Raises OSError."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)  # the same number as SIOCINQ on Linux
    return count[0]


def consumed_bytes(sock: socket.socket) -> int | None:
    """Bytes that were ever read from this connection, by whatever process; None when the kernel cannot tell any more: a connection that is
    over, and whose error somebody has read. Raises OSError when it is no TCP socket."""
    for _ in range(_TRIES):
        before = _info(sock)
        unread = unread_bytes(sock)
        after = _info(sock)
        if after[0] == before[0] and after[_BYTES_RECEIVED:] == before[_BYTES_RECEIVED:]:
            ended = _peer_ended(sock, after[0])
            return None if ended is None else _u64(after, _BYTES_RECEIVED) - ended - unread
    raise OSError(errno.EAGAIN, "the connection does not stand still")


def _peer_ended(sock: socket.socket, state: int) -> bool | None:
    """Whether a FIN is among the received bytes. A closed socket has forgotten it, but for its error: after a FIN a RST is EPIPE."""
    if state != _CLOSE:
        return state in _PEER_ENDED
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return None if error == 0 else error == errno.EPIPE


def _info(sock: socket.socket) -> bytes:
    found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(found) < _INFO_BYTES:
        raise OSError(errno.EOPNOTSUPP, "this kernel does not count TCP bytes")
    return found


def _u64(info: bytes, at: int) -> int:
    return int(struct.unpack_from("=Q", info, at)[0])
