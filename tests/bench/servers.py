"""What is measured: StreamMachine, Debian's icecast2 and the C floor, each started with a config of its own on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import pwd
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.bench import encoder, processes
from tests.bench.programs import BUILD_DIR, PROJECT_ROOT, Answer, BenchFailure, Child, compiled

START_TIMEOUT_S: Final = 30.0
"""From exec to accepting connections; StreamMachine takes about a second."""
AUDIO_TIMEOUT_S: Final = 30.0
"""From the encoder's first byte to a listener's first byte."""
PREFILL_TIMEOUT_S: Final = 180.0
"""An hour of frames through a parser in Python."""
GRACE_S: Final = 2.0
"""For a server's helpers that end when they see its end."""
POLL_S: Final = 0.05
BURST_S: Final = 4
"""Seconds of audio sent at once to a new listener: 64 KB, icecast2's default, so that all servers send the same."""
GUARD_S: Final = 600
"""The ring is longer than the prefill by this, so that the oldest listener stays inside it during the run."""
PASSWORD: Final = "bench"
MOUNT: Final = "/bench"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def audio_file() -> Path:
    """The MP3 that all encoders loop; made once."""
    return encoder.make_mp3(BUILD_DIR / "noise-128.mp3")


def accepts(port: int) -> bool:
    """Whether something accepts connections there now."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def plays(port: int) -> bool:
    """Whether a listener gets 200 and a byte of audio now."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=AUDIO_TIMEOUT_S) as sock:
            sock.sendall(f"GET {MOUNT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer or answer.endswith(b"\r\n\r\n"):
                piece = sock.recv(65536)
                if not piece:
                    return False
                answer += piece
            return answer.split(b" ", 2)[1] == b"200"
    except OSError:
        return False


class Server:
    """A context manager: inside it the server runs and plays at `port`. Everything it started ends with it, by pid."""

    name = "server"

    def __init__(self) -> None:
        self.port = free_port()
        self.child: Child
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="streammachine-bench-")))
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def start(self) -> None:
        raise TypeError(f"{type(self).__name__} does not say how it starts")

    def run(self, command: list[str | Path], env: dict[str, str] | None = None, *, ends_with_stdin: bool = False) -> None:
        self.child = self._stack.enter_context(Child(self.name, command, self.dir, env=env, ends_with_stdin=ends_with_stdin))
        self._stack.callback(self._end_all)

    def _end_all(self) -> None:
        family = processes.tree(self.child.pid)
        self.child.end()
        if left := processes.end_left_over(family, GRACE_S):
            print(f"  ! {self.name} left processes behind, killed {GRACE_S:g} s later: {'; '.join(left)}", file=sys.stderr)

    def wait_for(self, what: str, timeout_s: float, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.child.check_alive()
            if time.monotonic() > deadline:
                raise self.child.failure(f"{what} not within {timeout_s:g} s")
            time.sleep(POLL_S)

    def feed(self, port: int, method: str, prefill_s: float) -> None:
        """An encoder of our own, until the server ends; returns when listeners hear it."""
        command: list[str | Path] = [sys.executable, "-m", "tests.bench.encoder", "--port", str(port), "--file", audio_file()]
        command += ["--mount", MOUNT, "--user-password", f"source:{PASSWORD}", "--method", method, "--prefill-s", f"{prefill_s:g}"]
        source = self._stack.enter_context(Child("encoder", command, self.dir))
        for word, timeout_s in (("connected", START_TIMEOUT_S), ("live", PREFILL_TIMEOUT_S)):
            if (said := source.line(timeout_s)) != word:
                raise source.failure(f"said {said!r} instead of {word!r}")
        self.wait_for("audio", AUDIO_TIMEOUT_S, lambda: plays(self.port))


class StreamMachine(Server):
    """`streammachine serve` with one MP3 stream, `prefill_s` seconds of it already in the ring."""

    name = "streammachine"

    def __init__(self, *, send_interval_s: float = 1.0, prefill_s: float = 0.0, workers: int = 2) -> None:
        super().__init__()
        self.send_interval_s, self.prefill_s, self.workers = send_interval_s, prefill_s, workers
        self.source_port, self.api_port = free_port(), free_port()

    def config(self) -> str:
        return f"""\
port = {self.port}
source_port = {self.source_port}
api_port = {self.api_port}
bind = "127.0.0.1"
api_bind = "127.0.0.1"
workers = {self.workers}
send_interval = {float(self.send_interval_s)}
state_dir = "{self.dir}/state"
runtime_dir = "{self.dir}/run"

[streams.bench]
format = "mp3"
seconds = {int(self.prefill_s) + GUARD_S}
burst = {BURST_S}
source_password = "{PASSWORD}"
"""

    def start(self) -> None:
        program = PROJECT_ROOT / ".venv" / "bin" / "streammachine"
        if not program.exists():
            raise BenchFailure(f"{program} is missing: run `make install` first")
        config = self.dir / "streammachine.toml"
        config.write_text(self.config())
        for name in ("state", "run"):
            (self.dir / name).mkdir()
        env = {key: value for key, value in os.environ.items() if not key.startswith(("STREAMMACHINE_", "NOTIFY_SOCKET", "LISTEN_"))}
        self.run([program, "serve", "--config", config], env)
        self.wait_for("the listener port", START_TIMEOUT_S, lambda: accepts(self.port))
        self.feed(self.source_port, "PUT", self.prefill_s)


class Icecast(Server):
    """Debian's icecast2 with its default queue and burst, as nobody when we are root (it refuses root)."""

    name = "icecast2"

    def config(self) -> str:
        return f"""\
<icecast>
  <limits>
    <clients>100000</clients><sources>2</sources><queue-size>524288</queue-size><client-timeout>30</client-timeout>
    <header-timeout>15</header-timeout><source-timeout>10</source-timeout><burst-on-connect>1</burst-on-connect><burst-size>65536</burst-size>
  </limits>
  <authentication>
    <source-password>{PASSWORD}</source-password><relay-password>{PASSWORD}</relay-password>
    <admin-user>admin</admin-user><admin-password>{PASSWORD}</admin-password>
  </authentication>
  <hostname>localhost</hostname>
  <listen-socket><port>{self.port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <fileserve>0</fileserve>
  <paths>
    <basedir>/usr/share/icecast2</basedir><logdir>{self.dir}/log</logdir><webroot>/usr/share/icecast2/web</webroot>
    <adminroot>/usr/share/icecast2/admin</adminroot>
  </paths>
  <logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog><loglevel>2</loglevel></logging>
</icecast>
"""

    def start(self) -> None:
        program = shutil.which("icecast2", path="/usr/bin:/usr/local/bin:" + os.environ.get("PATH", ""))
        if program is None:
            raise BenchFailure("icecast2 is not installed: apt install icecast2")
        config, log_dir = self.dir / "icecast.xml", self.dir / "log"
        config.write_text(self.config())
        log_dir.mkdir()
        command: list[str | Path] = [program, "-c", config]
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.dir.chmod(0o755)
            os.chown(log_dir, nobody.pw_uid, nobody.pw_gid)
            command = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", *command]
        self.run(command)
        self.wait_for("the port", START_TIMEOUT_S, lambda: accepts(self.port))
        self.feed(self.port, "SOURCE", 0.0)


class Floor(Server):
    """The C program that only sends: two processes, the cadence and bytes of StreamMachine."""

    name = "floor"

    def __init__(self, *, send_interval_s: float, listeners: int, workers: int = 2) -> None:
        super().__init__()
        self.send_interval_s, self.listeners, self.workers = send_interval_s, listeners, workers

    def start(self) -> None:
        command: list[str | Path] = [compiled("floor"), "--port", str(self.port), "--listeners", str(self.listeners)]
        command += ["--processes", str(self.workers), "--interval", f"{self.send_interval_s:g}", "--burst", str(BURST_S)]
        self.run([*command, "--bytes-per-second", f"{encoder.BYTES_PER_S:g}"], ends_with_stdin=True)
        self.child.line(START_TIMEOUT_S)

    def totals(self) -> Answer:
        """What it says of itself, "ready" left out."""
        self.child.tell("report")
        while not (line := self.child.line(START_TIMEOUT_S)).startswith("{"):
            continue
        answer: Answer = json.loads(line)
        return answer


def soft_limit_to_hard() -> int:
    """Raises RLIMIT_NOFILE for us and all children; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def interrupt_on_sigterm() -> None:
    """So that SIGTERM to the bench ends every child too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
