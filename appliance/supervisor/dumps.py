"""Rewind dumps: when the rings are written to disk and read back, and what the operator hears of it.

- Read at start. The ring begins where the dump's ends, at once; its audio follows in the background (ring/restore.py), so that neither
  the start nor a source waits for a disk. The start waits RESTORE_WAIT_S at most: usually all is loaded by then.
- Written every `frequency` seconds, and at the end. One thread for all, a quarter of a core; at the end at full speed.
- Trouble with the disk never ends anything: it is one alert per cause, and the last good dump stays.
- A ring whose dump is still being read is not written: the file holds more than the ring. Nor is one that holds nothing, or nothing new.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from appliance.ring.columns import RingRefused
from appliance.ring.dump import DumpFailed, Written, write_dump
from appliance.ring.dump_format import DumpRefused, Ends
from appliance.ring.layout import FIRST_SEQ
from appliance.ring.reader import RingReader
from appliance.ring.restore import DumpFile, Restoration
from appliance.ring.writer import RingWriter
from appliance.supervisor.background import Background
from appliance.system.clock import Clock

SUFFIX: Final = ".rewind"
RESTORE_WAIT_S: Final = 2.0
"""The start waits so long for the dumps to be loaded, so that who comes first can rewind: 4 h of 128 kbit/s take a third of a second."""
STOP_LIMIT_S: Final = 60.0
"""All dumps of a stop, together; a slow card writes a gigabyte by then. What is not written when it is over is the oldest audio."""
STALLED_S: Final = 15.0
"""A disk that took nothing for so long at a stop hangs: the stop goes on without it."""
EXTEND_EVERY_S: Final = 2.0
EXTEND_US: Final = 20_000_000
"""What the service manager is asked for, again and again (EXTEND_TIMEOUT_USEC): more than STALLED_S, so that we decide first."""
REST: Final = 3
"""At intervals the thread rests so many times as long as it has computed: a quarter of a core."""


class _Abandoned(Exception):
    """The server stops: this dump is of no use any more."""


class _Pace:
    """Asked by the thread after each block: when to rest, when to end. `on_block` is told that the disk moves."""

    def __init__(self, stopping: threading.Event, deadline_s: float | None, on_block: Callable[[], None]) -> None:
        self._stopping, self._deadline_s, self._on_block = stopping, deadline_s, on_block
        self._computed_s = math.inf

    def go_on(self) -> bool:
        """False when the time is up. Raises _Abandoned when the server stops and this is not its last dump."""
        self._on_block()
        if self._deadline_s is not None:
            return time.monotonic() < self._deadline_s
        computed_s, self._computed_s = self._computed_s, time.thread_time()
        if self._stopping.wait(max(0.0, self._computed_s - computed_s) * REST):
            raise _Abandoned
        return True


class _Ring:
    """One stream's ring and its dump. `restoration`: while its past is being loaded."""

    def __init__(self, key: str, format_name: str, writer: RingWriter, path: Path) -> None:
        self.key, self.format_name, self.writer, self.path = key, format_name, writer, path
        self.dump: DumpFile | None = None
        self.restoration: Restoration | None = None
        self.reader: RingReader | None = None
        self.saved_head = FIRST_SEQ

    def close(self, *, busy: bool) -> None:
        """Let go, unless the thread may be in the middle of it."""
        if self.dump is not None and not busy:
            self.dump.close()
        if self.reader is not None and not busy:
            self.reader.close()


class Dumps:
    """The dumps of all streams. `on_restored` is called when a ring has its past again: workers are to look."""

    def __init__(self, folder: Path, frequency_s: float, clock: Clock, on_restored: Callable[[], None]) -> None:
        self._folder, self._frequency_s, self._clock, self._on_restored = folder, frequency_s, clock, on_restored
        self._rings: list[_Ring] = []
        self._thread = Background("rewind-dumps")
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = threading.Event()
        self._deadline_s: float | None = None
        self._progress = 0
        self._causes: set[str] = set()
        self._log = structlog.get_logger()

    def register(self, key: str, format_name: str, writer: RingWriter) -> None:
        """Keep this ring from now on; a new one begins where its dump ends. Reads the head of a file; never raises."""
        ring = _Ring(key, format_name, writer, self._folder / f"{key}{SUFFIX}")
        self._rings.append(ring)
        if writer.head_seq != FIRST_SEQ:
            return
        try:
            ring.dump = DumpFile(ring.path, key, format_name)
            ring.restoration = Restoration(writer, ring.dump.position, self._clock.monotonic_us())
        except FileNotFoundError:
            return
        except DumpRefused as error:
            self._refused(ring, str(error))

    def _refused(self, ring: _Ring, reason: str) -> None:
        self._log.warning("rewind dump refused", stream=ring.key, path=str(ring.path), reason=reason)

    async def start(self, wait_s: float = RESTORE_WAIT_S) -> None:
        """Load what was found, for at most `wait_s` seconds here, then in the background; and dump at intervals from then on."""
        loading = asyncio.create_task(self._restore())
        self._tasks.append(loading)
        await asyncio.wait({loading}, timeout=wait_s)
        if self._frequency_s:
            self._tasks.append(asyncio.create_task(self._regularly()))

    @property
    def is_loading(self) -> bool:
        """Whether a ring still waits for its past: one that is handed on now would go without."""
        return any(ring.restoration is not None for ring in self._rings)

    async def _restore(self) -> None:
        for ring in self._rings:
            if ring.dump is not None and ring.restoration is not None:
                await self._restore_one(ring, ring.dump, ring.restoration)
                ring.dump.close()
                ring.restoration = None

    async def _restore_one(self, ring: _Ring, dump: DumpFile, restoration: Restoration) -> None:
        begun, blocks = time.monotonic(), dump.blocks()
        try:
            while (block := await self._thread.run(partial(next, blocks, None))) is not None:
                restoration.store(block)
            found = restoration.publish()
        except (DumpRefused, RingRefused) as error:
            restoration.drop()
            self._refused(ring, str(error))
            return
        ring.saved_head = found.end_seq
        self._log.info(
            "rewind dump loaded",
            stream=ring.key,
            audio_s=round(found.seconds, 1),
            age_s=round((self._clock.wall_us() - dump.header.written_us) / 1e6, 1),
            took_s=round(time.monotonic() - begun, 2),
        )
        self._on_restored()

    async def _regularly(self) -> None:
        while True:
            await asyncio.sleep(self._frequency_s)
            await self._save_all()

    async def _save_all(self, end_s: float | None = None) -> None:
        """Dump each ring; with an end (monotonic seconds), each gets its share of the time left."""
        tried = []
        for number, ring in enumerate(self._rings):
            now_s = time.monotonic()
            share = None if end_s is None else now_s + (end_s - now_s) / (len(self._rings) - number)
            cause = await self._save(ring, share)
            tried += [] if cause is None else [cause]
        if tried:
            self._causes = set(tried) - {""}

    async def _save(self, ring: _Ring, deadline_s: float | None) -> str | None:
        """Dump a ring; returns the cause when it failed, "" when not, None when there was nothing to do."""
        if ring.restoration is not None:
            self._log.info("rewind dump left as it is", stream=ring.key, reason="its audio is still being loaded")
            return None
        if ring.writer.head_seq == ring.saved_head:
            return None
        ring.reader = ring.reader or RingReader(ring.writer.reader_fd)
        pace, begun_s = _Pace(self._stopping, deadline_s, self._moved), time.monotonic()
        wall_us = self._clock.wall_us()
        try:
            written = await self._thread.run(partial(write_dump, ring.reader, ring.path, ring.key, ring.format_name, wall_us, pace.go_on))
        except DumpFailed as error:
            self._failed(ring, error)
            return error.cause
        except _Abandoned:
            return None
        if written is not None:
            ring.saved_head = written.head_seq
            self._saved(ring, written, time.monotonic() - begun_s, last=deadline_s is not None)
        return ""

    def _moved(self) -> None:
        self._progress += 1

    def _failed(self, ring: _Ring, error: DumpFailed) -> None:
        """An alert for each cause, not for each stream and interval."""
        if error.cause not in self._causes:
            self._causes.add(error.cause)
            self._log.error("rewind dump failed", alert=True, stream=ring.key, reason=str(error), kept="the dump before, if there is one")

    def _saved(self, ring: _Ring, written: Written, took_s: float, *, last: bool) -> None:
        """At intervals it is nobody's news, unless it is short."""
        tell = self._log.info if last else self._log.debug
        if written.ends == Ends.TIME:
            tell = self._log.warning
        ends = {Ends.COMPLETE: "complete", Ends.TIME: "the newest part: the time was up", Ends.OVERTAKEN: "to where the ring went on"}
        size, took_s = written.file_bytes, round(took_s, 2)
        tell("rewind dump written", stream=ring.key, chunks=written.chunks, size_bytes=size, took_s=took_s, holds=ends[written.ends])

    async def finish(self, notify: Callable[[str], object], limit_s: float = STOP_LIMIT_S) -> None:
        """The last dumps, once the sources are ended; what runs at intervals is over. `notify`: words for the service manager."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        saving = asyncio.create_task(self._save_all(time.monotonic() + limit_s))
        seen, moved_s = self._progress, time.monotonic()
        while not saving.done():
            notify(f"EXTEND_TIMEOUT_USEC={EXTEND_US}")
            await asyncio.wait({saving}, timeout=EXTEND_EVERY_S)
            if self._progress != seen:
                seen, moved_s = self._progress, time.monotonic()
            elif not saving.done() and time.monotonic() - moved_s > STALLED_S:
                self._log.error("rewind dump given up", alert=True, reason=f"the disk took nothing for {STALLED_S:.0f} s")
                saving.cancel()
                break
        await asyncio.gather(saving, return_exceptions=True)

    def close(self) -> None:
        """Let files and rings go. A thread that hangs in a system call is left to itself: its ring stays mapped until the process ends."""
        self._thread.close()
        for ring in self._rings:
            ring.close(busy=self._thread.busy)
