"""Files as an endless run of frames: read piece by piece, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from appliance.wire.frames import AudioFormat, Frame, FrameParser, parser_for

READ_BYTES = 64 * 1024
PROBE_FRAMES = 8  # so many that agree are no accident; a file with fewer is taken for what most of it is
KINDS = ("mp3", "aac")


class FileProblem(Exception):
    """A file cannot be sent; the message names it and says why."""


class AudioFiles:
    """Files of one format, one after the other, for ever. Raises FileProblem when there is nothing to send in one of
    them, or when they differ in codec, sample rate or channels (a listener's decoder would have to start anew)."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise FileProblem("no file to send")
        formats = [probe(path) for path in self.paths]
        self.format = formats[0]
        for path, other in zip(self.paths, formats, strict=True):
            if not other.same_codec(self.format):
                raise FileProblem(f"{path} is {described(other)}, but {self.paths[0]} is {described(self.format)}: send one format")

    def frames(self) -> Iterator[Frame]:
        """All frames of all files, and from the first file again. Raises FileProblem when a file changed under us."""
        while True:
            for path in self.paths:
                yield from frames_of(path, self.format.codec)


def probe(path: Path) -> AudioFormat:
    """The format of the first frame. Raises FileProblem: not readable, or neither MP3 nor AAC (ADTS)."""
    found: dict[str, list[Frame]] = {kind: [] for kind in KINDS}
    parsers = {kind: parser_for(kind) for kind in KINDS}
    with _opened(path) as file:
        while max(map(len, found.values())) < PROBE_FRAMES and (data := _read(file, path)):
            for kind, parser in parsers.items():
                found[kind] += parser.feed(data)
    for kind, parser in parsers.items():
        found[kind] += parser.flush()
    frames = max(found.values(), key=len)
    if not frames:
        raise FileProblem(f"{path} has no MP3 or AAC (ADTS) frames")
    return frames[0].format


def frames_of(path: Path, kind: str) -> Iterator[Frame]:
    """One file's frames, its tags left out. Raises FileProblem when it cannot be read or has none."""
    parser: FrameParser = parser_for(kind)
    count = 0
    with _opened(path) as file:
        while data := _read(file, path):
            frames = parser.feed(data)
            count += len(frames)
            yield from frames
    last = parser.flush()
    if not count + len(last):
        raise FileProblem(f"{path} has no frames any more")
    yield from last


def described(audio: AudioFormat) -> str:
    """A format in words."""
    return f"{audio.codec.upper()} ({audio.profile}) at {audio.sample_rate} Hz with {audio.channels} channel(s)"


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileProblem(f"{path}: {error.strerror}") from error


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(READ_BYTES)
    except OSError as error:
        raise FileProblem(f"{path}: {error.strerror}") from error
