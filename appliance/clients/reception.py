"""What a listener received, measured: bytes in with their times, titles and figures out. No socket, no clock."""

from __future__ import annotations

from appliance.clients.answer import Answer
from appliance.wire.chunked import BadChunk, ChunkedDecoder
from appliance.wire.frames import AudioFormat, Frame, parser_for
from appliance.wire.icy import IcyDemuxer, Metadata

INTERVAL_DIGITS_MAX = 9  # of icy-metaint: a server that says more means nothing by it


class ReceptionProblem(Exception):
    """The body breaks its own framing; the message says how."""


class Reception:
    """Feed it the body of an answer; times are monotonic seconds.

    `audio_s`, `audio_bytes` and `frames` are of whole frames. `longest_gap_s` is the longest time in which nothing came,
    from the answer on. `titles` counts changes.
    """

    def __init__(self, answer: Answer, kind: str, began_s: float) -> None:
        interval = answer.headers.get("icy-metaint", "")
        known = interval.isascii() and interval.isdecimal() and len(interval) <= INTERVAL_DIGITS_MAX and int(interval) > 0
        chunked = "chunked" in answer.headers.get("transfer-encoding", "").lower()
        self._chunks = ChunkedDecoder() if chunked else None
        self._icy = IcyDemuxer(int(interval)) if known else None
        self._parser = parser_for(kind)
        self._last_s = began_s
        self._title: str | None = None
        self.began_s = began_s
        self.longest_gap_s = 0.0
        self.received_bytes = 0
        self.audio_bytes = 0
        self.audio_s = 0.0
        self.frames = 0
        self.titles = 0
        self.formats: list[AudioFormat] = []

    @property
    def error_bytes(self) -> int:
        """Bytes between the titles that are no audio frames."""
        return self._parser.skipped_bytes

    @property
    def bitrate_bps(self) -> float:
        """Of the audio itself, not of its arrival (which begins with a burst)."""
        return self.audio_bytes * 8 / self.audio_s if self.audio_s else 0.0

    @property
    def finished(self) -> bool:
        """A chunked body has come to its declared end."""
        return self._chunks is not None and self._chunks.finished

    def quiet_until(self, now_s: float) -> None:
        """Counts the time since something came as a gap."""
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)

    def feed(self, data: bytes, now_s: float) -> list[str]:
        """What came at this time; returns the titles that began in it. Raises ReceptionProblem."""
        self.quiet_until(now_s)
        self._last_s = now_s
        self.received_bytes += len(data)
        if self._chunks is not None:
            try:
                data = self._chunks.feed(data)
            except BadChunk as fault:
                raise ReceptionProblem(f"the chunked body is broken: {fault}") from fault
        if self._icy is None:
            self._take_audio(data)
            return []
        titles = []
        for event in self._icy.feed(data):
            if isinstance(event, Metadata):
                titles += self._take_title(event.title)
            else:
                self._take_audio(event)
        return titles

    def end(self) -> None:
        """The server ended the body: its last frame counts, and a piece of one is an error."""
        self._count(self._parser.flush())

    def _take_title(self, title: str) -> list[str]:
        if title == self._title:
            return []
        self._title = title
        self.titles += 1
        return [title]

    def _take_audio(self, data: bytes) -> None:
        self._count(self._parser.feed(data))

    def _count(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.frames += 1
            self.audio_bytes += len(frame.data)
            self.audio_s += frame.duration_s
            if not self.formats or not frame.format.same_codec(self.formats[-1]):
                self.formats.append(frame.format)
