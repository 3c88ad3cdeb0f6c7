"""A real server for tests: `streammachine serve` as a child process on free ports of 127.0.0.1, and simple clients for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from appliance.wire.icy import IcyDemuxer, Metadata

PASSWORD = "test:pass word"
WAIT_S = 30.0


def wait_for(condition: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Poll until true; AssertionError with `what` after the limit."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.02)


class LiveServer:
    """One server. `streams`: TOML text of the stream tables (a `test` stream by default); `top`: TOML text of top-level keys."""

    def __init__(self, tmp_path: Path, *, streams: str = "", top: str = "", path_for_code: Path | None = None) -> None:
        self.path = tmp_path
        self.config = tmp_path / "streammachine.toml"
        self.log_path = tmp_path / "server.log"
        streams = streams or f'[streams.test]\nsource_password = "{PASSWORD}"\nroot_route = true\n'
        head = 'port = 0\nsource_port = 0\napi_port = 0\nbind = "127.0.0.1"\n'
        head += f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n'
        self.config.write_text(head + ("" if "workers" in top else "workers = 2\n") + top + "\n[log]\njson = true\n" + streams)
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.source_port = self.api_port = 0
        self._path_for_code = path_for_code

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(self.log_text()[-6000:])
        self.stop()

    def start(self) -> None:
        """Start it and wait until it serves."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMMACHINE_")}
        if self._path_for_code is not None:
            environment["PYTHONPATH"] = str(self._path_for_code)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "serve", "--config", str(self.config)],
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=self.path,
            )
        ports = self.path / "run" / "streammachine.json"
        wait_for(lambda: ports.exists() or self.process.poll() is not None, "the server to start")  # type: ignore[union-attr]
        assert self.process.poll() is None, f"the server ended: {self.log_text()}"
        found = json.loads(ports.read_text())
        self.port, self.source_port, self.api_port = found["port"], found["source_port"], found["api_port"]

    @property
    def pid(self) -> int:
        """The supervisor that serves (its first parent is `process`)."""
        return int(json.loads((self.path / "run" / "streammachine.json").read_text())["pid"])

    def successors(self) -> list[int]:
        """New generations that have not taken over."""
        return [pid for pid in children(self.pid) if b"--takeover-fd" in command_line(pid)]

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def log_text(self) -> str:
        """Everything it has logged."""
        return self.log_path.read_text()

    def events(self, name: str) -> list[dict[str, object]]:
        """The log lines of one event."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def worker_pids(self) -> list[int]:
        """The workers: the zygote's children."""
        zygotes = [pid for pid in children(self.pid) if b"forkserver" in command_line(pid)]
        return sorted(pid for zygote in zygotes for pid in children(zygote))

    def get(self, path: str, *, headers: str = "", method: str = "GET", port: int = 0) -> tuple[int, dict[str, str], bytes]:
        """A short request: status, headers, body up to its end."""
        with socket.create_connection(("127.0.0.1", port or self.port), timeout=10) as sock:
            sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n".encode())
            data = b""
            while part := sock.recv(65536):
                data += part
        return parse_answer(data)


def parse_answer(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, lower-case headers, body."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:])
    return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}, body


def children(pid: int) -> list[int]:
    """Child processes, by the kernel."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_line(pid: int) -> bytes:
    """A process's arguments; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class Source:
    """An encoder in the test: sends bytes as told over SOURCE or PUT."""

    def __init__(self, port: int, mount: str = "test", *, agent: str = "test-encoder", method: str = "SOURCE") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        token = b64encode(f"source:{PASSWORD}".encode()).decode()
        version = "HTTP/1.0" if method == "SOURCE" else "HTTP/1.1"
        head = f"{method} /{mount} {version}\r\nAuthorization: Basic {token}\r\nUser-Agent: {agent}\r\nContent-Type: audio/mpeg\r\n\r\n"
        self.sock.sendall(head.encode())
        answer = self.sock.recv(4096)
        assert b" 200 " in answer, answer

    def send(self, data: bytes) -> None:
        """Send audio."""
        self.sock.sendall(data)

    def close(self) -> None:
        """End it."""
        self.sock.close()


class Feeder(threading.Thread):
    """Sends audio in real time over a Source, from `start` seconds already sent at once; stops at the end or when told."""

    def __init__(self, source: Source, data: bytes, bytes_s: int, at_once_s: float) -> None:
        super().__init__(daemon=True)
        self.source, self.data, self.bytes_s, self.at_once_s = source, data, bytes_s, at_once_s
        self.sent = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        while self.sent < len(self.data) and not self._stopped.wait(0.05):
            due = int((time.monotonic() - begun + self.at_once_s) * self.bytes_s)
            part = self.data[self.sent : due]
            try:
                self.source.send(part)
            except OSError:
                return
            self.sent += len(part)

    def stop(self) -> None:
        """Stop sending; the connection stays."""
        self._stopped.set()
        self.join()


@contextmanager
def feeding(source: Source, data: bytes, *, bytes_s: int = 16_000, at_once_s: float = 0.0) -> Iterator[Feeder]:
    """Feed while the block runs."""
    feeder = Feeder(source, data, bytes_s, at_once_s)
    feeder.start()
    try:
        yield feeder
    finally:
        feeder.stop()


class Player(threading.Thread):
    """A listener: reads until the end, keeps the audio (ICY removed) and the titles."""

    def __init__(self, port: int, path: str = "/test", *, icy: bool = False, headers: str = "", receive_buffer: int = 0) -> None:
        super().__init__(daemon=True)
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(("127.0.0.1", port))
        extra = "Icy-MetaData: 1\r\n" if icy else ""
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nUser-Agent: test-player\r\n{extra}{headers}\r\n".encode())
        self.audio = bytearray()
        self.titles: list[str] = []
        self.head: dict[str, str] = {}
        self.status = 0
        self.longest_gap_s = 0.0
        self.ended = False
        self._read_head(icy)

    def _read_head(self, icy: bool) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.sock.recv(4096)
            assert part, f"closed in the head: {data!r}"
            data += part
        self.status, self.head, rest = parse_answer(data)
        self._demuxer = IcyDemuxer(int(self.head["icy-metaint"])) if icy and self.status == 200 else None
        self._take(rest)

    def _take(self, data: bytes) -> None:
        for event in self._demuxer.feed(data) if self._demuxer else [data]:
            if isinstance(event, Metadata):
                self.titles.append(event.title)
            else:
                self.audio += event

    def run(self) -> None:
        last = time.monotonic()
        try:
            while data := self.sock.recv(65536):
                now = time.monotonic()
                self.longest_gap_s = max(self.longest_gap_s, now - last)
                last = now
                self._take(data)
        except OSError:
            pass
        self.ended = True

    def close(self) -> None:
        """Leave."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        if self.ident is not None:
            self.join()
        self.sock.close()


@contextmanager
def playing(*players: Player) -> Iterator[None]:
    """Read in the background while the block runs; then leave."""
    for player in players:
        player.start()
    try:
        yield
    finally:
        for player in players:
            player.close()


def found_in(audio: bytes | bytearray, source: bytes) -> int:
    """Where `audio` starts in `source`; asserts that every byte of it is the source's, in order."""
    assert len(audio) > 2000, f"only {len(audio)} bytes of audio"
    start = source.find(audio[:2000])
    assert start >= 0, "the first bytes are not the source's"
    expected = source[start : start + len(audio)]
    if bytes(audio) != expected:
        same = next(i for i, (one, other) in enumerate(zip(audio, expected, strict=False)) if one != other)
        raise AssertionError(f"byte {same} of {len(audio)} differs from the source")
    return start
