"""A worker's fan-out with real rings and sockets, its rounds turned by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from appliance.channel.messages import StreamEntry
from appliance.ring.counters import Count, StreamCount
from appliance.ring.listeners import Checkpoint, ListenerTable
from appliance.worker.fanout import PHASES, Fanout
from appliance.worker.listener import Listener
from appliance.worker.playhead import Playhead
from appliance.worker.poller import READ, Poller
from appliance.worker.rewind import Start, find_start
from appliance.worker.stream import Stream
from tests import fakes
from tests.fakes import Air

HEAD = b"HTTP/1.1 200 OK\r\nX-Head: 1\r\n\r\n"


class Player:
    """The far end of a listener. `got`: every byte read so far."""

    def __init__(self, sock: socket.socket, listener: Listener, start: Start, icy: bool) -> None:
        self.sock, self.listener, self.start = sock, listener, start
        self.got = b""
        self.ended = self.reset = False
        self.interval = listener.playhead.interval if icy else 0

    def read(self, most_bytes: int = 1 << 30) -> bytes:
        """Read what is there (at most so much); nothing once closed."""
        if self.sock.fileno() < 0:
            return self.got
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while most_bytes:
                try:
                    data = self.sock.recv(min(most_bytes, 65_536))
                except ConnectionResetError:
                    self.ended = self.reset = True
                    break
                if not data:
                    self.ended = True
                    break
                self.got += data
                most_bytes -= len(data)
        return self.got

    @property
    def body(self) -> bytes:
        """What came behind the response head."""
        assert self.got.startswith(HEAD[: len(self.got)])
        return self.got[len(HEAD) :]


def played(chunks: int = 40, **shape: int) -> Air:
    """A ring with some audio."""
    air = Air(**shape)
    air.play(chunks)
    return air


class Studio:
    """One stream, its fan-out, its players. Nothing happens unless a test turns a round."""

    def __init__(self, air: Air, entry: StreamEntry | None = None, send_interval_s: float = 1.0, *, ticking: bool = False) -> None:
        self.air, self.clock = air, air.clock
        self.faults: list[BaseException] = []
        self.poller = Poller(asyncio.get_running_loop(), self.faults.append)
        self.page = fakes.counters()
        fd = ListenerTable.create("test")
        self.table = ListenerTable(fd, writable=True)
        os.close(fd)
        self.ends: list[tuple[Listener, str]] = []
        self.fanout = Fanout(
            send_interval_s, self.clock, self.poller, self.page, self.table, lambda listener, why: self.ends.append((listener, why))
        )
        if not ticking:
            self.fanout.stop()
        self.stream = Stream(entry or fakes.entry(), air.reader(), self.page)
        self.players: list[Player] = []

    def tune_in(
        self, *, icy: bool = False, offset_s: float = 0.0, sndbuf: int = 0, tcp: bool = False, sent_bytes: int = 0
    ) -> Player:
        """A new listener, as Worker.begin makes it."""
        if tcp:
            server, client = fakes.loopback()
        else:
            server, client = socket.socketpair()
            server.setblocking(False)
        if sndbuf:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
        start = find_start(self.stream, offset_s)
        pos = self.stream.reader.pos[start.seq & self.stream.reader.mask]
        playhead = Playhead(pos, self.stream.entry.meta_interval if icy else 0, HEAD, sent_bytes)
        listener = Listener(server, self.fanout, self.stream, playhead, "127.0.0.1", "test")
        self.poller.watch(server.fileno(), READ, listener)
        self.fanout.join(listener, start.seq, start.behind)
        player = Player(client, listener, start, icy)
        self.players.append(player)
        return player

    def turn(self) -> None:
        """All writable late listeners get their next pieces, until nobody takes more."""
        sent = -1
        while sent != self.count(Count.BYTES_SENT):
            sent = self.count(Count.BYTES_SENT)
            self.poller._poll()
        self.poller._poll()

    def round(self, *, learn: bool = True) -> None:
        """One send_interval: every bucket once."""
        if learn:
            self.stream.learn()
        for _ in range(PHASES):
            self.fanout._serve_next()
        self.turn()

    def read_all(self) -> None:
        """Everybody reads until nothing more comes."""
        before = -1
        while before != sum(len(player.got) for player in self.players):
            before = sum(len(player.got) for player in self.players)
            for player in self.players:
                player.read()
            self.turn()

    def count(self, word: int) -> int:
        """A worker counter."""
        return self.page.worker[word]

    def stream_count(self, word: int) -> int:
        """A counter of the stream."""
        return self.stream.counts[word]

    def row(self, player: Player) -> Checkpoint:
        """The player's newest checkpoint."""
        found = self.table.read(player.listener.row)
        assert found is not None
        return found

    def expected(self, player: Player, end: int) -> bytes:
        """What this player must have got when it stands at logical byte `end` (and nothing was skipped)."""
        pos = self.row_start(player)
        return self.air.sent(pos, end, player.interval)

    def row_start(self, player: Player) -> int:
        """Where its audio began, as the table says."""
        return player.listener.playhead.start_pos

    def present(self) -> tuple[int, int, int]:
        """Listeners of the worker, of the stream, and rewound ones of the stream, now."""
        return self.count(Count.LISTENERS), self.stream_count(StreamCount.LISTENERS), self.stream_count(StreamCount.REWOUND)

    def close(self) -> None:
        """Everybody leaves."""
        self.fanout.stop()
        for listener in list(self.fanout.listeners):
            self.fanout.leave(listener, "test over")
        for player in self.players:
            player.sock.close()
        self.poller.close()
        self.air.close()
        assert not self.faults
        assert self.present() == (0, 0, 0)
        assert not any(self.fanout._buckets)
