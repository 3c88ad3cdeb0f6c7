"""Fixtures for all tests: generated audio, made once a session."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


def make_audio(path: Path, seconds: float, *arguments: str) -> Path:
    """White noise (every frame is unique, so a byte position is found by content) as bare frames without tags."""
    filters = ["-f", "lavfi", "-i", f"anoisesrc=duration={seconds}:amplitude=0.3:seed=7:sample_rate=44100"]
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *filters, *arguments, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="session")
def mp3_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 s of MP3, 44.1 kHz stereo, 128 kbit/s."""
    out = tmp_path_factory.mktemp("audio") / "noise.mp3"
    return make_audio(out, 100, "-ac", "2", "-c:a", "libmp3lame", "-b:a", "128k", "-write_xing", "0", "-id3v2_version", "0")


@pytest.fixture(scope="session")
def mp3(mp3_path: Path) -> bytes:
    """The bytes of `mp3_path`: whole frames only."""
    return mp3_path.read_bytes()


@pytest.fixture(scope="session")
def aac_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s of AAC-LC in ADTS, 44.1 kHz stereo."""
    out = tmp_path_factory.mktemp("audio") / "noise.aac"
    return make_audio(out, 60, "-ac", "2", "-c:a", "aac", "-b:a", "96k", "-f", "adts")
