"""Real processes that read an encoder into a ring, killed -9 one after the other: the ring has every frame, once, in order."""

from __future__ import annotations

import itertools
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from appliance.ring.layout import Flag
from appliance.ring.writer import RingWriter
from tests.ingest.source_makers import Stored, chunked, frames_of, put, stored

ROOT = Path(__file__).parents[2]
AUDIO = b"".join(frame.data for frame in frames_of((ROOT / "tests" / "data" / "mp3-44100-128-s.mp3").read_bytes()))
KILLS = 40
WAIT_S = 30
BYTES_S = 400_000
"""Twenty-five times real time: several chunks are published and settled between two kills."""


class KeeperProcess:
    """source_roles' keeper, and what it says."""

    def __init__(self, ring_fd: int, connection: socket.socket) -> None:
        fds = ring_fd, connection.fileno()
        command = [sys.executable, "-m", "tests.process.source_roles", *map(str, fds)]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def tell(self, order: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self._process.stdout
        assert select.select([self._process.stdout], [], [], WAIT_S)[0], "the keeper says nothing"
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(WAIT_S)


class Encoder(threading.Thread):
    """Sends audio in pieces of any size until told to stop, at a frame's end; then ends its stream."""

    def __init__(self, sock: socket.socket, coding: str, rng: random.Random) -> None:
        super().__init__()
        self._sock, self._coding, self._rng = sock, coding, rng
        self.frames_sent, self.enough, self.failure = b"", threading.Event(), ""

    def run(self) -> None:
        try:
            self._send_all()
        except OSError as error:
            self.failure = str(error)

    def _send_all(self) -> None:
        sent, begun = bytearray(), time.monotonic()
        while not self.enough.is_set():
            sent += AUDIO
            body = AUDIO if self._coding == "plain" else chunked(AUDIO, iter(lambda: self._rng.randint(1, 6000), 0), finished=False)
            at = 0
            while at < len(body):
                size = self._rng.choice([1, 50, 417, 1500, 9000, 40_000])
                self._sock.sendall(body[at : at + size])
                at += size
                behind_s = (len(sent) - len(body) + at) / BYTES_S - (time.monotonic() - begun)
                self.enough.wait(max(0.0, behind_s))
        self._sock.sendall(b"0\r\n\r\n" if self._coding == "chunked" else b"")
        self._sock.shutdown(socket.SHUT_WR)
        self.frames_sent = bytes(sent)


def connected() -> tuple[socket.socket, socket.socket]:
    """The encoder's and the server's end of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname())
        return far, listening.accept()[0]


def begun(encoder: socket.socket) -> None:
    """Until the server has answered."""
    encoder.settimeout(WAIT_S)
    assert encoder.recv(100).startswith(b"HTTP/1.0 200 OK")


@pytest.mark.parametrize(("coding", "seed"), [("plain", 1), ("chunked", 2)])
def test_killed_at_random_moments(coding: str, seed: int) -> None:
    """Forty kills each, 0 to 120 ms after the successor was forked: at its start, amid its parsing, amid its reading."""
    rng = random.Random(seed)
    ring = RingWriter.create("test", 900, 0.05, 1 << 20)
    ring_fd = os.dup(ring.fd)
    ring.close()
    far, near = connected()
    near.setblocking(False)
    keeper = KeeperProcess(ring_fd, near)
    near.close()
    keeper.tell("start")
    far.sendall(put(*(["Transfer-Encoding: chunked"] if coding == "chunked" else [])))
    begun(far)
    encoder = Encoder(far, coding, random.Random(seed))
    encoder.start()
    keeper.tell("heard")  # the connect burst is held for a quarter of a second: longer than these servers live
    heads = []
    for _ in range(KILLS):
        time.sleep(rng.random() * 0.12)  # the moment of the kill is what is drawn here
        status, head = map(int, keeper.tell("kill").split())
        assert status == -9
        heads.append(head)
        keeper.tell("start")
    encoder.enough.set()
    encoder.join(WAIT_S)
    assert keeper.tell("end").split()[0] == "0" and not encoder.failure
    keeper.close()
    far.close()
    ring = RingWriter.attach(ring_fd)
    check(stored(ring), encoder.frames_sent)
    ring.close()
    assert len(set(heads)) > KILLS / 5, heads


def check(chunks: list[Stored], sent: bytes) -> None:
    """Just what was sent; one source, one epoch, no break."""
    found = b"".join(chunk.data for chunk in chunks)
    assert len(found) == len(sent) and found == sent
    assert [chunk.flags & Flag.SOURCE_START for chunk in chunks] == [Flag.SOURCE_START] + [0] * (len(chunks) - 1)
    assert not any(chunk.flags & Flag.DISCONTINUITY for chunk in chunks) and {chunk.epoch for chunk in chunks} == {1}
    assert all(chunk.ts_us <= after.ts_us for chunk, after in itertools.pairwise(chunks))
