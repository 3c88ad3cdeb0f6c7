"""An encoder for the bench, a child of its own: sends a real MP3 over PUT or SOURCE in real time, looped, after a prefill as fast as
the server takes it. `python -m tests.bench.encoder --port P --file F`; prints "connected", then "live" once the prefill is sent."""

from __future__ import annotations

import argparse
import base64
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

SAMPLE_RATE: Final = 44100
FRAME_SAMPLES: Final = 1152  # MPEG-1 layer III
BITRATE_BPS: Final = 128_000
BYTES_PER_S: Final = BITRATE_BPS / 8
AUDIO_S: Final = 120
STEP_S: Final = 0.1
"""Between writes of live audio: about four frames, as encoders send."""
IO_TIMEOUT_S: Final = 60.0
"""A write may wait while the server works off the prefill."""
PREFILL_PIECE_BYTES: Final = 64 * 1024
HEAD_MAX_BYTES: Final = 16 * 1024
FFMPEG_TIMEOUT_S: Final = 120.0


def make_mp3(path: Path) -> Path:
    """Two minutes of pink noise under a tone, 128 kbit/s CBR stereo, frames only: no two places in it are alike."""
    if path.exists():
        return path
    made = path.with_suffix(".part.mp3")
    noise = f"anoisesrc=color=pink:amplitude=0.3:seed=7:sample_rate={SAMPLE_RATE}:duration={AUDIO_S}"
    tone = f"sine=frequency=220:sample_rate={SAMPLE_RATE}:duration={AUDIO_S}"
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-f", "lavfi", "-i", noise, "-f", "lavfi", "-i", tone]
    command += ["-filter_complex", "[0][1]amix=inputs=2,aformat=channel_layouts=stereo", "-c:a", "libmp3lame", "-b:a", f"{BITRATE_BPS}"]
    command += ["-write_xing", "0", "-id3v2_version", "0", "-map_metadata", "-1", "-f", "mp3", str(made)]
    path.parent.mkdir(exist_ok=True)
    subprocess.run(command, check=True, timeout=FFMPEG_TIMEOUT_S)
    return made.rename(path)


def request_head(method: str, mount: str, user_password: str, port: int) -> bytes:
    credentials = base64.b64encode(user_password.encode()).decode()
    version = "HTTP/1.0" if method == "SOURCE" else "HTTP/1.1"
    expect = "" if method == "SOURCE" else "Expect: 100-continue\r\n"
    return (
        f"{method} {mount} {version}\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {credentials}\r\nUser-Agent: bench-encoder/1\r\n"
        f"Content-Type: audio/mpeg\r\nice-name: bench\r\nice-bitrate: {BITRATE_BPS // 1000}\r\nice-public: 0\r\n{expect}\r\n"
    ).encode()


def connect(method: str, mount: str, user_password: str, port: int) -> socket.socket:
    """A source connection that the server has accepted; ConnectionError with its answer otherwise."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=IO_TIMEOUT_S)
    sock.sendall(request_head(method, mount, user_password, port))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < HEAD_MAX_BYTES:
        piece = sock.recv(HEAD_MAX_BYTES)
        if not piece:
            break
        answer += piece
    if answer.split(b" ")[1:2] not in ([b"100"], [b"200"]):
        raise ConnectionError(f"the server answered {answer[:200]!r}")
    return sock


class LoopedAudio:
    """Bytes of a file read round and round."""

    def __init__(self, audio: bytes) -> None:
        self._twice, self._size, self._pos = memoryview(audio + audio), len(audio), 0

    def take(self, size_bytes: int) -> memoryview:
        """At most one file's length at a time."""
        start = self._pos
        self._pos = (start + size_bytes) % self._size
        return self._twice[start : start + size_bytes]


def send(sock: socket.socket, audio: LoopedAudio, prefill_s: float) -> None:
    """Until the server or the bench ends."""
    bench_pid = os.getppid()
    left_bytes = int(prefill_s * BYTES_PER_S)
    while left_bytes > 0:
        piece = audio.take(min(left_bytes, PREFILL_PIECE_BYTES))
        sock.sendall(piece)
        left_bytes -= len(piece)
    print("live", flush=True)
    start_s, sent_bytes = time.monotonic(), 0
    while os.getppid() == bench_pid:
        due_bytes = int((time.monotonic() - start_s) * BYTES_PER_S)
        while sent_bytes < due_bytes:
            piece = audio.take(min(due_bytes - sent_bytes, PREFILL_PIECE_BYTES))
            sock.sendall(piece)
            sent_bytes += len(piece)
        time.sleep(STEP_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--mount", default="/bench")
    parser.add_argument("--user-password", default="source:bench")
    parser.add_argument("--method", choices=("PUT", "SOURCE"), default="PUT")
    parser.add_argument("--prefill-s", type=float, default=0.0)
    options = parser.parse_args()
    try:
        sock = connect(options.method, options.mount, options.user_password, options.port)
        print("connected", flush=True)
        send(sock, LoopedAudio(options.file.read_bytes()), options.prefill_s)
    except OSError as error:
        print(f"encoder: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
