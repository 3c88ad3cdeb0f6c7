"""The channel over real SOCK_SEQPACKET pairs: order, fds, limits, a busy peer, a lost one (MECHANICS 5)."""

from __future__ import annotations

import array
import asyncio
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from appliance.channel import framing
from appliance.channel.framing import MAX_BYTES, MAX_FDS, MAX_QUEUED, BadMessage, Channel, ChannelClosed
from appliance.channel.messages import AddStreams, Message, PassRequest, RemoveStream, StreamEntry


class End:
    """One end, and what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.got: list[tuple[Message, list[int]]] = []
        self.bad: list[BadMessage] = []
        self.closed = 0
        self.news = asyncio.Event()
        self.sock = sock
        self.channel = Channel(sock, self._message, self._closed, self._bad)

    def _message(self, message: Message, fds: list[int]) -> None:
        self.got.append((message, fds))
        self.news.set()

    def _closed(self) -> None:
        self.closed += 1
        self.news.set()

    def _bad(self, error: BadMessage) -> None:
        self.bad.append(error)
        self.news.set()

    async def wait(self, messages: int = 0, bad: int = 0, closed: int = 0) -> None:
        while len(self.got) < messages or len(self.bad) < bad or self.closed < closed:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 3)

    @property
    def indexes(self) -> list[int]:
        return [message.index for message, _ in self.got if isinstance(message, RemoveStream)]


Pair = tuple[End, End]


def open_fds() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two connected ends; no fd may be left over."""
    gc.collect()  # what earlier tests left must not go in between
    before = open_fds()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = End(one), End(other)
    yield ends
    for end in ends:
        end.channel.close()
        for _, fds in end.got:
            for fd in fds:
                os.close(fd)
    gc.collect()
    assert open_fds() == before


@pytest.fixture
def few_fds() -> Iterator[None]:
    """A soft limit of a few fds above those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    filler = [os.dup(0) for _ in range(highest + 2 - open_fds())]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in filler:
        os.close(fd)


async def test_messages_arrive_in_order_both_ways(pair: Pair) -> None:
    """Each whole."""
    one, other = pair
    for index in range(300):
        one.channel.send(RemoveStream(index))
    other.channel.send(RemoveStream(-1))
    await other.wait(300)
    await one.wait(1)
    assert other.indexes == list(range(300))
    assert one.indexes == [-1]


async def test_fds_travel_with_their_message(pair: Pair) -> None:
    """Up to MAX_FDS, in order, close-on-exec; the sender keeps its own."""
    one, other = pair
    files = [os.memfd_create(f"f{number}") for number in range(MAX_FDS)]
    one.channel.send(AddStreams([StreamEntry(0, "k")]), files)
    one.channel.send(RemoveStream(1))
    await other.wait(2)
    received = other.got[0][1]
    assert [os.fstat(fd).st_ino for fd in received] == [os.fstat(fd).st_ino for fd in files]
    assert not any(os.get_inheritable(fd) for fd in received)
    assert other.got[1][1] == []
    for fd in files:
        os.close(fd)


async def test_the_limits(pair: Pair) -> None:
    """128 KiB and 200 fds pass; one more is refused with a ValueError and nothing is sent."""
    one, other = pair
    most = MAX_BYTES - len(framing.encode(PassRequest(b"", "x"), 0)) - 3  # bin8 becomes bin32
    one.channel.send(PassRequest(b"a" * most, "x"))
    with pytest.raises(ValueError, match="over the limit"):
        one.channel.send(PassRequest(b"a" * (MAX_BYTES + 1), "x"))
    with pytest.raises(ValueError, match="over the limit"):
        one.channel.send(RemoveStream(1), [0] * (MAX_FDS + 1))
    one.channel.send(RemoveStream(2))
    await other.wait(2)
    assert other.indexes == [2]


async def test_a_busy_peer_gets_everything_later(pair: Pair) -> None:
    """Messages wait with duplicates of their fds: the sender may close its own at once."""
    one, other = pair
    asyncio.get_running_loop().remove_reader(other.sock)
    for index in range(2_000):
        fd = os.memfd_create("x") if index % 100 == 0 else -1
        one.channel.send(RemoveStream(index), [fd] if fd >= 0 else [])
        if fd >= 0:
            os.close(fd)
    assert one.channel._queue
    asyncio.get_running_loop().add_reader(other.sock, other.channel._readable)
    await other.wait(2_000)
    assert other.indexes == list(range(2_000))
    assert [len(fds) for _, fds in other.got] == [int(index % 100 == 0) for index in range(2_000)]
    assert not one.channel._queue


async def test_a_peer_that_never_reads_is_as_good_as_dead(pair: Pair) -> None:
    """The queue is bounded; at its end send says so. Closing frees the waiting fds (the fixture counts)."""
    one, other = pair
    asyncio.get_running_loop().remove_reader(other.sock)
    with pytest.raises(ChannelClosed):
        for index in range(MAX_QUEUED + 2_000):
            one.channel.send(RemoveStream(index), [0] if index % 1_000 == 999 else [])
    assert len(one.channel._queue) == MAX_QUEUED


async def test_a_bad_message_is_dropped_and_the_channel_goes_on(pair: Pair) -> None:
    """Unknown kind, garbage, with fds: reported, its fds closed, the next message arrives."""
    one, other = pair
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]))]
    one.sock.sendmsg([b"\x02\0garbage"], rights)
    one.sock.sendmsg([framing.encode(RemoveStream(1), 5)], rights)
    one.channel.send(RemoveStream(7))
    await other.wait(1, bad=2)
    assert other.indexes == [7]
    assert "2 of 5" in str(other.bad[1])


async def test_fds_lost_at_the_limit_fail_that_message_only(pair: Pair, few_fds: None) -> None:
    """A receiver near NOFILE gets fewer fds and no error: the batch fails, not the process (MECHANICS 5)."""
    one, other = pair
    one.channel.send(AddStreams([]), [0] * 20)
    one.channel.send(RemoveStream(7))
    await other.wait(1, bad=1)
    assert other.indexes == [7]
    assert "of 20 file descriptors arrived" in str(other.bad[0])


async def test_a_message_that_must_wait_without_an_fd_left(pair: Pair, few_fds: None) -> None:
    """It is refused as what the callers expect, and nothing leaks; what needs no fd still goes."""
    one, other = pair
    asyncio.get_running_loop().remove_reader(other.sock)
    index = 0
    while not one.channel._queue:
        one.channel.send(RemoveStream(index))
        index += 1
    with pytest.raises(ChannelClosed):
        one.channel.send(AddStreams([]), [0] * 20)
    asyncio.get_running_loop().add_reader(other.sock, other.channel._readable)
    one.channel.send(RemoveStream(index))
    await other.wait(index + 1)
    assert other.indexes == list(range(index + 1))


async def test_the_death_of_a_peer_is_eof_once(pair: Pair) -> None:
    """What it had sent is delivered first; afterwards send refuses."""
    one, other = pair
    one.channel.send(RemoveStream(1))
    one.channel.close()
    await other.wait(1, closed=1)
    assert other.indexes == [1]
    with pytest.raises(ChannelClosed):
        other.channel.send(RemoveStream(2))
    other.channel.close()
    assert (one.closed, other.closed) == (0, 1)


async def test_a_peer_that_dies_with_messages_waiting(pair: Pair) -> None:
    """The sender hears of it, and lets their fds go."""
    one, other = pair
    asyncio.get_running_loop().remove_reader(other.sock)
    while not one.channel._queue:
        one.channel.send(RemoveStream(1), [0])
    other.channel.close()
    await one.wait(closed=1)
    assert not one.channel._queue


async def test_a_channel_closed_by_a_message_reads_no_more(pair: Pair) -> None:
    """Its owner closed it while it was told something."""
    one, other = pair
    other.channel._on_message = lambda message, fds: other.channel.close()
    for index in range(3):
        one.channel.send(RemoveStream(index))
    await one.wait(closed=1)
    assert other.closed == 0
