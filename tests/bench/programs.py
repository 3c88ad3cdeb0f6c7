"""The C programs of the bench and every other child: compiled at run time, asked in lines, awaited with a limit, ended by pid."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

BENCH_DIR: Final = Path(__file__).resolve().parent
PROJECT_ROOT: Final = BENCH_DIR.parents[1]
BUILD_DIR: Final = PROJECT_ROOT / ".bench"

COMPILE_TIMEOUT_S: Final = 60.0
"""A compile takes a second; more means a broken toolchain."""
END_TIMEOUT_S: Final = 15.0
"""A server that sends what is queued and joins its workers needs a few; then SIGKILL."""
LINE_MAX_BYTES: Final = 1 << 20
"""Our programs print lines under 8 KiB."""
LOG_TAIL_CHARACTERS: Final = 2000

Answer = dict[str, Any]


class BenchFailure(Exception):
    """A measurement that could not be made: what was awaited, and the end of the child's log."""


def compiled(name: str) -> Path:
    """The program built from `NAME.c`, newer than its source; BenchFailure with the compiler's words."""
    source, program = BENCH_DIR / f"{name}.c", BUILD_DIR / name
    newest = max(source.stat().st_mtime, (BENCH_DIR / "loopback.h").stat().st_mtime)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    BUILD_DIR.mkdir(exist_ok=True)
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise BenchFailure("gcc is not installed: apt install gcc libc6-dev") from error
    if done.returncode:
        raise BenchFailure(f"{' '.join(command)}:\n{done.stderr}")
    return program


class Child:
    """A child process in a session of its own, as a context manager; its stderr is kept in a file of `log_dir`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log_dir: Path,
        *,
        env: Mapping[str, str] | None = None,
        ends_with_stdin: bool = False,
    ) -> None:
        self.name, self._ends_with_stdin = name, ends_with_stdin
        self._log_path = log_dir / f"{name}.log"
        self._buffer = b""
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                cwd=PROJECT_ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def failure(self, what: str) -> BenchFailure:
        """With the exit code, if it ended, and the end of its log."""
        code = self.process.poll()
        state = "still running" if code is None else f"ended with {code}"
        tail = self._log_path.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]
        return BenchFailure(f"{self.name}: {what} ({state})\n{tail}")

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            raise self.failure("ended by itself")

    def line(self, timeout_s: float) -> str:
        """The next line of its stdout; BenchFailure after `timeout_s` or at its end."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self.process.stdout], [], [], left_s)[0]:
                raise self.failure(f"no answer within {timeout_s:g} s")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece or len(self._buffer) > LINE_MAX_BYTES:
                raise self.failure("its output ended" if not piece else "its output has no lines")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(words.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self.failure(f"did not take {words!r}") from error

    def answer(self, timeout_s: float) -> Answer:
        """The next line as a JSON object."""
        line = self.line(timeout_s)
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise self.failure(f"said {line!r}, which is not JSON") from error
        if not isinstance(parsed, dict):
            raise self.failure(f"said {line!r}, which is not an object")
        return parsed

    def end(self) -> None:
        """The end of its stdin, SIGTERM unless that is enough, then SIGKILL; returns once it is reaped."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        if not self._ends_with_stdin:
            self.process.terminate()
        try:
            self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_TIMEOUT_S)
        self.process.stdout.close()


def run_for_answer(name: str, command: Sequence[str | Path], log_dir: Path, timeout_s: float) -> Answer:
    """A program that prints one JSON line when it is done."""
    with Child(name, command, log_dir) as child:
        return child.answer(timeout_s)
