"""The new generation's side of a reload: says that it is ready, collects what it is given, and may use it after the commit.

Until `Go` nothing that was given is read, written or locked. The predecessor's end before the commit is this process's end too; once
`Taken` is said, it is the signal to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any, Final, NamedTuple

import msgspec

import appliance
from appliance.channel.framing import BadMessage, Channel, ChannelClosed
from appliance.channel.handoff import (
    GiveEnd,
    GiveListeners,
    GiveRequest,
    GiveRing,
    GiveSocket,
    GiveSource,
    Go,
    Got,
    HandoffMessage,
    Prepared,
    Refused,
    Serving,
    Taken,
)
from appliance.channel.messages import Stand
from appliance.ring.columns import Columns, RingRefused

WAIT_S: Final = 120.0
"""For the predecessor's next word; its own limits are shorter."""
DECODER: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(HandoffMessage)


class PredecessorGone(Exception):
    """The old process has ended, or has given something that cannot be used, before the commit: this one ends too."""


class Inheritance(NamedTuple):
    """What was given; all fds are owned. `rings`: key -> fd; `keys`: what the old generation's listeners call a stream -> key;
    `titles`: key -> title and URL that wait for their chunk."""

    sockets: dict[str, list[int]]
    rings: dict[str, int]
    keys: dict[int, str]
    titles: dict[str, tuple[bytes, bytes]]
    sources: list[tuple[int, int]]
    requests: list[tuple[GiveRequest, int]]
    stands: list[Stand]
    connections: list[int]


def refuse(takeover_fd: int, reason: str) -> None:
    """Say why this process will not take over, without a loop (it may not have come that far)."""
    with contextlib.suppress(OSError), socket.socket(fileno=takeover_fd) as sock:
        packet = (0).to_bytes(2, "little") + msgspec.msgpack.encode(Refused(reason[:4000]))
        sock.send(packet)


class TakingOver:
    """The connection to the predecessor."""

    def __init__(self, takeover_fd: int) -> None:
        self._given = Inheritance({}, {}, {}, {}, [], [], [], [])
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._go: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel = Channel(socket.socket(fileno=takeover_fd), self._told, self._lost, self._bad, DECODER)

    async def receive(self) -> Inheritance:
        """Say that all is prepared; returns what was given once it is this process's own. Raises PredecessorGone."""
        try:
            self._channel.send(Prepared(release=appliance.__version__))
            await asyncio.wait_for(self._ended, WAIT_S)
            self._try_rings()
            self._channel.send(Taken())
            await asyncio.wait_for(self._go, WAIT_S)
        except (ChannelClosed, RingRefused, TimeoutError, OSError) as error:
            with contextlib.suppress(ChannelClosed):
                self._channel.send(Refused(f"what was given cannot be used: {error}"))
            raise PredecessorGone(str(error)) from error
        return self._given

    def serving(self) -> None:
        """Say that this process serves: the predecessor has waited for that to end."""
        with contextlib.suppress(ChannelClosed):
            self._channel.send(Serving())
        self._channel.close()

    def _try_rings(self) -> None:
        for fd in self._given.rings.values():
            Columns(fd, writable=False).close()

    def _told(self, message: Any, fds: list[int]) -> None:
        given = self._given
        if isinstance(message, GiveSocket):
            given.sockets.setdefault(message.name, []).extend(fds)
        elif isinstance(message, GiveRing) and len(fds) == 1:
            given.rings[message.key], given.keys[message.index] = fds[0], message.key
            if message.title or message.url:
                given.titles[message.key] = (message.title, message.url)
        elif isinstance(message, GiveSource) and len(fds) == 2:
            given.sources.append((fds[0], fds[1]))
        elif isinstance(message, GiveRequest) and len(fds) == 1:
            given.requests.append((message, fds[0]))
        elif isinstance(message, GiveListeners) and len(fds) == len(message.listeners):
            given.stands.extend(message.listeners)
            given.connections.extend(fds)
            with contextlib.suppress(ChannelClosed):
                self._channel.send(Got())
        elif isinstance(message, GiveEnd):
            self._check(message)
        elif isinstance(message, Go) and not self._go.done():
            self._go.set_result(None)
        else:  # a kind of a newer release: what it is cannot be known, so it is let go
            for fd in fds:
                os.close(fd)

    def _check(self, end: GiveEnd) -> None:
        """Everything that was sent must have come."""
        given = self._given
        came = GiveEnd(sum(map(len, given.sockets.values())), len(given.rings), len(given.sources), len(given.stands))
        if self._ended.done():
            return
        if came == end:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(OSError(f"{came} came of {end}"))

    def _bad(self, error: BadMessage) -> None:
        if not self._ended.done():
            self._ended.set_exception(OSError(str(error)))

    def _lost(self) -> None:
        """EOF: before everything came, the end; after `Taken`, nobody else is left to serve."""
        if not self._ended.done():
            self._ended.set_exception(OSError("the old process is gone"))
        elif not self._go.done():
            self._go.set_result(None)
