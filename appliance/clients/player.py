"""The test player, `streammachine listen`: receives a stream as a player does and says how it came.

It looks at frames only; nothing is decoded or heard. Titles and figures go to stdout, what went wrong to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from appliance.clients.answer import shown, why
from appliance.clients.pace import Pace, RealTime
from appliance.clients.reception import Reception, ReceptionProblem
from appliance.clients.tune_in import Station, TuneInProblem, hang_up, tune_in

READ_BYTES = 64 * 1024
REPORT_S = 10.0  # between two lines of figures
SILENCE_MAX_S = 30.0  # a live stream that is silent for so long has ended without saying so

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """How listening ended: the figures, and why it was no success ("" when it was)."""

    reception: Reception
    fault: str


class Player:
    """One listening session. `out` gets titles and figures, line by line."""

    def __init__(self, url: str, *, icy: bool, seconds: float | None, out: Say, pace: Pace) -> None:
        self._url = url
        self._icy = icy
        self._seconds = seconds
        self._out = out
        self._pace = pace
        self._stopping = asyncio.Event()
        self._reported_s = 0.0

    def stop(self) -> None:
        """Ends `listen` soon, from the same event loop; that is no fault."""
        self._stopping.set()

    async def listen(self) -> Outcome:
        """Until the time is over, the stream ends, or `stop`. Raises TuneInProblem."""
        station = await self._tune_in()
        try:
            began_s = self._pace.now_s()
            self._out(described(station))
            self._reported_s = began_s
            reception = Reception(station.answer, station.kind, began_s)
            fault = await self._receive(station, reception)
            reception.quiet_until(self._pace.now_s())
        finally:
            await hang_up(station)
        self._out(figures(reception, self._pace.now_s()))
        return Outcome(reception, fault or fault_of(reception))

    async def _tune_in(self) -> Station:
        tuning = asyncio.create_task(tune_in(self._url, icy=self._icy))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({tuning, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if tuning.done():
            return tuning.result()
        tuning.cancel()
        await asyncio.gather(tuning, return_exceptions=True)
        raise TuneInProblem("stopped before the server answered")

    async def _receive(self, station: Station, reception: Reception) -> str:
        """Feeds the reception; returns why it ended before its time, "" when it did not."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            self._take(reception, station.answer.rest)
            while not self._is_over(reception):
                data = b"" if reception.finished else await self._read(station, stopping, self._left_s(reception))
                if not data:
                    return self._why_nothing(reception, station)
                self._take(reception, data)
        except ReceptionProblem as problem:
            return str(problem)
        except OSError as error:
            return f"the connection broke: {why(error)}"
        finally:
            stopping.cancel()
        return ""

    def _take(self, reception: Reception, data: bytes) -> None:
        """Measures what came, and tells titles at once and figures every REPORT_S."""
        now_s = self._pace.now_s()
        for title in reception.feed(data, now_s) if data else ():
            self._out(f"{now_s - reception.began_s:8.1f} s  title: {shown(title) or '(none)'}")
        if now_s - self._reported_s >= REPORT_S:
            self._reported_s = now_s
            self._out(figures(reception, now_s))

    async def _read(self, station: Station, stopping: asyncio.Task[bool], timeout_s: float) -> bytes:
        """What came; b"" at the end of the stream, after the time, or when stopped."""
        reading = asyncio.create_task(station.reader.read(READ_BYTES))
        await asyncio.wait({reading, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return b""

    def _is_over(self, reception: Reception) -> bool:
        listened_s = self._pace.now_s() - reception.began_s
        return self._stopping.is_set() or (self._seconds is not None and listened_s >= self._seconds)

    def _left_s(self, reception: Reception) -> float:
        if self._seconds is None:
            return SILENCE_MAX_S
        return min(SILENCE_MAX_S, reception.began_s + self._seconds - self._pace.now_s())

    def _why_nothing(self, reception: Reception, station: Station) -> str:
        """The stream ended, the time is over, or the server fell silent: what is wrong with that, if anything."""
        if reception.finished or station.reader.at_eof():
            reception.end()
            listened_s = self._pace.now_s() - reception.began_s
            asked = self._seconds is not None and not self._is_over(reception)
            return f"the server ended the stream after {listened_s:.1f} of {self._seconds:g} s" if asked else ""
        return "" if self._is_over(reception) else f"nothing came for {SILENCE_MAX_S:g} s"


def described(station: Station) -> str:
    """The address that plays, its type, and how far behind live it begins."""
    headers = station.answer.headers
    words = [shown(station.url), shown(headers.get("content-type", "no content type"))]
    if "icy-name" in headers:
        words.append(shown(headers["icy-name"].encode("latin-1").decode("utf-8", "replace")))
    if "x-rewind-offset" in headers:
        words.append(f"X-Rewind-Offset {shown(headers['x-rewind-offset'])} s")
    if "icy-metaint" in headers:
        words.append(f"titles every {shown(headers['icy-metaint'])} bytes")
    return ", ".join(words)


def figures(reception: Reception, now_s: float) -> str:
    """One line of what was measured so far."""
    kinds = " then ".join(one.stream_key for one in reception.formats) or "no audio"
    return (
        f"{now_s - reception.began_s:8.1f} s  {kinds}, {reception.audio_s:.1f} s of audio, {reception.frames} frames, "
        f"{reception.bitrate_bps / 1000:.1f} kbit/s, longest gap {reception.longest_gap_s:.2f} s, "
        f"frame errors {reception.error_bytes} bytes"
    )


def fault_of(reception: Reception) -> str:
    """Why this was no success: no audio, or bytes in it that are no frames; "" when it was one."""
    if not reception.frames:
        return "no audio came" if not reception.received_bytes else "what came has no audio frames"
    if reception.error_bytes:
        return f"{reception.error_bytes} bytes of what came are no audio frames"
    return ""


def run(
    url: str,
    seconds: float | None = None,
    icy: bool = False,
    *,
    pace: Pace | None = None,
    out: Say | None = None,
    err: Say | None = None,
) -> int:
    """The command. Returns its exit code: 0 when audio came, for `seconds` if given, without a byte that is no frame."""
    tell = err or _say_on_stderr
    player_out = out or _say_on_stdout
    try:
        fault = asyncio.run(_until_signal(url, seconds, icy, pace or RealTime(), player_out))
    except TuneInProblem as problem:
        fault = str(problem)
    if fault:
        tell(fault)
    return 1 if fault else 0


async def _until_signal(url: str, seconds: float | None, icy: bool, pace: Pace, out: Say) -> str:
    player = Player(url, icy=icy, seconds=seconds, out=out, pace=pace)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: somebody else's signals
            loop.add_signal_handler(number, player.stop)
    return (await player.listen()).fault


def _say_on_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say_on_stderr(line: str) -> None:
    sys.stderr.write(f"streammachine listen: {line}\n")
    sys.stderr.flush()
