"""The test encoder, `streammachine source`: MP3 or AAC files to a mount, frame by frame in real time, looped.

Frame n is sent when the sum of the durations before it has passed on the monotonic clock since the connection began: each
wait is worked out from the start, so small delays do not add up. A password goes to the server and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from appliance.clients.answer import AnswerProblem, read_answer, why
from appliance.clients.audio_files import AudioFiles, FileProblem
from appliance.clients.pace import Pace, RealTime
from appliance.clients.source_link import Link, SourceProblem, close, open_source, refusal, send_title
from appliance.clients.target import Target, TargetInvalid, parse_target
from appliance.wire.frames import Frame

RETRY_MAX_S = 30.0  # 1, 2, 4, 8, 16, 30, 30 ... seconds between attempts
STEADY_S = 10.0  # a connection that lasted so long worked: the next wait begins at 1 s again
SEND_TIMEOUT_S = 10.0  # a server that takes nothing for so long is gone; as long as `source_timeout` the other way round
LAST_WORDS_S = 1.0  # for the answer that a server sent before it closed
LATE_MAX_S = 5.0  # later than this (a suspended machine) is not made up for: a flood would not be real time

Say = Callable[[str], None]


class Schedule:
    """When each frame is due: its place in the audio since `start`, summed per sample rate, hence exact."""

    def __init__(self, start_s: float) -> None:
        self._base_s = start_s
        self._samples = 0
        self._rate = 1

    def due_s(self, frame: Frame) -> float:
        """The time for this frame, which is then counted."""
        if frame.format.sample_rate != self._rate:
            self._base_s += self._samples / self._rate
            self._samples, self._rate = 0, frame.format.sample_rate
        due_s = self._base_s + self._samples / self._rate
        self._samples += frame.samples
        return due_s

    def shift(self, seconds: float) -> None:
        """Everything so much later from now on."""
        self._base_s += seconds


class Encoder:
    """Sends until stopped, and connects again when a connection that had worked is lost. `frames_sent`, `connections`
    count what was done; `say` gets one line for each thing that a user should know."""

    def __init__(self, target: Target, files: AudioFiles, title: str | None, say: Say, pace: Pace) -> None:
        self._target = target
        self._files = files
        self._frames: Iterator[Frame] = files.frames()
        self._title = title
        self._say = say
        self._pace = pace
        self._stopping = asyncio.Event()
        self.frames_sent = 0
        self.connections = 0

    def stop(self) -> None:
        """Ends `run` soon, from the same event loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Returns after `stop`. Raises SourceProblem (never worked, or a final refusal) and FileProblem."""
        sending = asyncio.create_task(self._keep_sending())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            stopping.cancel()
            return await sending
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        return None

    async def _keep_sending(self) -> None:
        failures = 0
        while True:
            began_s = self._pace.now_s()
            try:
                await self._send_once()
            except SourceProblem as problem:
                if problem.final or not self.connections:
                    raise
                failures = 0 if self._pace.now_s() - began_s >= STEADY_S else failures
                wait_s = min(2.0**failures, RETRY_MAX_S)
                failures += 1
                self._say(f"{problem}; trying again in {wait_s:g} s")
                await self._pace.sleep(wait_s)

    async def _send_once(self) -> None:
        """One connection from its start to its end, which is a SourceProblem."""
        link = await open_source(self._target, self._files.format)
        self.connections += 1
        again = " again" if self.connections > 1 else ""
        self._say(f"connected{again}: {self._target}, {self._files.format.stream_key}")
        watching = asyncio.create_task(self._watch(link))
        telling = asyncio.create_task(self._tell_title())
        try:
            await self._send_frames(link, watching)
        except OSError as error:
            await asyncio.wait({watching}, timeout=LAST_WORDS_S)
            if watching.done():
                watching.result()
            lost = "no audio was taken" if isinstance(error, TimeoutError) else why(error)
            raise SourceProblem(f"{self._target}: connection lost ({lost})") from error
        finally:
            await _ended(watching, telling)
            await close(link)

    async def _send_frames(self, link: Link, watching: asyncio.Task[None]) -> None:
        schedule = Schedule(self._pace.now_s())
        for frame in self._frames:
            wait_s = schedule.due_s(frame) - self._pace.now_s()
            if wait_s < -LATE_MAX_S:
                schedule.shift(-wait_s)
                self._say(f"{-wait_s:.1f} s late: going on from now")
            if wait_s > 0:
                await self._pace.sleep(wait_s)
            if watching.done():
                watching.result()
            link.writer.write(frame.data)
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await link.writer.drain()
            self.frames_sent += 1

    async def _watch(self, link: Link) -> None:
        """Reads what a server sends while it takes audio: a late 200 is fine, all else is the end. Raises SourceProblem."""
        try:
            received = link.received
            while True:
                answer = await read_answer(link.reader, None, received)
                received = answer.rest
                if answer.status >= 300:
                    raise await refusal(self._target, link.reader, answer)
        except (AnswerProblem, OSError) as error:
            raise SourceProblem(f"{self._target}: connection lost (the server closed it)") from error

    async def _tell_title(self) -> None:
        if self._title is None:
            return
        try:
            await send_title(self._target, self._title)
        except SourceProblem as problem:
            self._say(f"the title was not taken: {problem}")


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(
    files: Sequence[str | Path],
    to: str,
    title: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    pace: Pace | None = None,
    say: Say | None = None,
) -> int:
    """The command. Returns its exit code: 0 after SIGINT or SIGTERM, 1 when it cannot send; says why on stderr."""
    tell = say or _say_on_stderr
    try:
        target = parse_target(to, environ)
        audio = AudioFiles(files)
        asyncio.run(_until_signal(target, audio, title, tell, pace or RealTime()))
    except (TargetInvalid, FileProblem, SourceProblem) as problem:
        tell(str(problem))
        return 1
    return 0


async def _until_signal(target: Target, files: AudioFiles, title: str | None, say: Say, pace: Pace) -> None:
    encoder = Encoder(target, files, title, say, pace)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: somebody else's signals
            loop.add_signal_handler(number, encoder.stop)
    await encoder.run()
    say(f"stopped after {encoder.frames_sent} frames")


def _say_on_stderr(line: str) -> None:
    sys.stderr.write(f"streammachine source: {line}\n")
    sys.stderr.flush()
