"""One SOCK_SEQPACKET connection: messages with their fds, in order, each whole or not at all.

Limits (MECHANICS 5): 128 KiB and 200 fds a message [M: 213,000 bytes are refused, 253 fds is the kernel's limit]. A receiver near its
own fd limit gets MSG_CTRUNC and fewer fds with no error, so the sender says how many there are: a message that lost fds is dropped
whole, its fds closed, and reported; the connection goes on.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from appliance.channel.messages import Message

MAX_BYTES: Final = 128 * 1024
MAX_FDS: Final = 200
MAX_QUEUED: Final = 4096
"""Messages waiting for a peer that does not read. A worker that is this far behind is as good as dead."""
BATCH: Final = 64
"""Messages read in one go before other work of the loop gets its turn."""

_HEAD_BYTES: Final = 2
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class ChannelClosed(Exception):
    """The peer is gone, or too far behind to be talked to."""


class BadMessage(Exception):
    """A message that cannot be used (unknown kind, wrong types, fds lost on the way); says why."""


def encode(message: msgspec.Struct, fd_count: int) -> bytes:
    """A packet: u16 number of fds (little-endian), then the msgpack map. Raises ValueError beyond the limits."""
    packet = fd_count.to_bytes(_HEAD_BYTES, "little") + _ENCODER.encode(message)
    if len(packet) > MAX_BYTES or fd_count > MAX_FDS:
        raise ValueError(f"a message of {len(packet)} bytes and {fd_count} fds is over the limit")
    return packet


def decode(packet: bytes, fds: Sequence[int], decoder: msgspec.msgpack.Decoder[Any] = _DECODER) -> Any:
    """The message of a packet, of the kinds `decoder` knows (those between supervisor and worker). Raises BadMessage."""
    expected = int.from_bytes(packet[:_HEAD_BYTES], "little")
    if expected != len(fds):
        raise BadMessage(f"{len(fds)} of {expected} file descriptors arrived (is this process at its limit?)")
    try:
        return decoder.decode(packet[_HEAD_BYTES:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(str(error)) from error


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and its fds (close-on-exec). Empty bytes mean the peer is gone. Raises BlockingIOError when there is none."""
    packet, ancillary, _, _ = sock.recvmsg(MAX_BYTES, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def _duplicates(fds: Sequence[int]) -> list[int]:
    kept: list[int] = []
    try:
        for fd in fds:
            kept.append(os.dup(fd))
    except OSError as error:
        for fd in kept:
            os.close(fd)
        raise ChannelClosed(f"no file descriptor left for a message that waits: {error}") from error
    return kept


class Channel:
    """A non-blocking connection on the running loop. `on_message(message, fds)` owns the fds; `on_bad` gets what was dropped."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Any, list[int]], None],
        on_closed: Callable[[], None],
        on_bad: Callable[[BadMessage], None],
        decoder: msgspec.msgpack.Decoder[Any] = _DECODER,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_closed, self._on_bad = on_message, on_closed, on_bad
        self._decoder = decoder
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        self._delivered = 0
        self._loop.add_reader(sock, self._readable)

    @property
    def fd(self) -> int:
        """The connection, to be stored or passed; it stays the channel's."""
        return self._sock.fileno()

    @property
    def is_flushed(self) -> bool:
        """Whether everything was sent; also when it is closed."""
        return not self._queue

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Send, or queue when the peer is busy. Fds are duplicated if they must wait; the caller keeps its own. Raises ChannelClosed."""
        if not self._open:
            raise ChannelClosed("the channel is closed")
        packet = encode(message, len(fds))
        if not self._queue and self._try(packet, fds):
            return
        if len(self._queue) >= MAX_QUEUED:
            raise ChannelClosed("the peer does not read")
        kept = _duplicates(fds)
        if not self._queue:
            self._loop.add_writer(self._sock, self._writable)
        self._queue.append((packet, kept))

    def _try(self, packet: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        return True

    def _writable(self) -> None:
        try:
            while self._queue and self._try(*self._queue[0]):
                for fd in self._queue.popleft()[1]:
                    os.close(fd)
        except ChannelClosed:
            self._lost()
            return
        if not self._queue:
            self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                packet, fds = receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._lost()
                return
            self._deliver(packet, fds)
            if not self._open:
                return

    def drain(self) -> None:
        """The peer has ended: deliver what it still said."""
        while self._open:
            before = self._delivered
            self._readable()
            if self._delivered == before:
                return

    def _deliver(self, packet: bytes, fds: list[int]) -> None:
        self._delivered += 1
        try:
            message = decode(packet, fds, self._decoder)
        except BadMessage as error:
            for fd in fds:
                os.close(fd)
            self._on_bad(error)
            return
        self._on_message(message, fds)

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._on_closed()

    def close(self) -> None:
        """Close without calling `on_closed`."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, fds in self._queue:
            for fd in fds:
                os.close(fd)
        self._queue.clear()
        self._sock.close()
