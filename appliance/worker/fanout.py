"""The hot loop: due chunks of the rewind ring to the sockets of many listeners.

Level listeners of a cohort stand at the same byte, so the span that is due is computed once and sent to each with one system call.
Whoever could not take all of it is late (catch_up.py) until it is level again. There is no queue: the ring is the buffer.

Cost per listener and send_interval: one write(), one compare, no allocation; every other send of a metered (ICY) listener has a block in
it: one writev() and one checkpoint. Plan: each of PHASES buckets is served once per interval by one timer; the doorbell moves heads only.

What must never happen: bytes below the ring's limit are sent. A span is checked against the tail before its sends and against the limit
after them; whoever may have got overwritten bytes (this process was stopped in between) is ended and never goes on.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final

from appliance.ring.counters import Count, CountersPage, StreamCount
from appliance.ring.listeners import KIND_ICY, KIND_RAW, ListenerTable
from appliance.system import sockets
from appliance.system import sockets
from appliance.system.clock import Clock
from appliance.wire.icy import EMPTY_BLOCK
from appliance.worker import catch_up
from appliance.worker.catch_up import Step
from appliance.worker.listener import Cohort, Listener
from appliance.worker.playhead import NEVER, Playhead
from appliance.worker.poller import HANG_UP, WRITE, Poller
from appliance.worker.stream import Stream

PHASES: Final = 50
"""Buckets of an interval: at 10,000 listeners a tick is 200 sends, 3 ms."""
CHECKPOINT_S: Final = 50.0
"""Between checkpoints of level listeners without metadata (MECHANICS 4: at least every 60 s)."""
BUCKETS_A_ROUND: Final = 5
"""Buckets served before other events get their turn when the timer is late."""

TIMER_GRAIN_S: Final = 0.001
"""uvloop's timers and clock count whole milliseconds: what is due within one is due now, or the loop would spin until the clock moves."""

_LOST: Final = -1
_UNTRIED: Final = -2
_UNKNOWN: Final = -1

Fallen = list[tuple[Listener, int]]
"""Level listeners that did not take their whole span, with the bytes they took, or _LOST, or _UNTRIED."""


class Fanout:
    """All lasting listeners of a worker."""

    def __init__(
        self,
        send_interval_s: float,
        clock: Clock,
        poller: Poller,
        counters: CountersPage,
        table: ListenerTable,
        on_end: Callable[[Listener, str], None],
    ) -> None:
        self._clock, self._poller, self._table, self._on_end = clock, poller, table, on_end
        self._counts = counters.worker
        self._loop = asyncio.get_running_loop()
        self._step_s = send_interval_s / PHASES
        self._checkpoint_rounds = max(1, int(CHECKPOINT_S / send_interval_s))
        self._buckets: list[dict[Stream, dict[int, Cohort]]] = [{} for _ in range(PHASES)]
        self._next_bucket = self._round = self._joins = 0
        self._next_s = self._loop.time() + self._step_s
        self._timer = self._loop.call_later(self._step_s, self._tick)
        self.listeners: set[Listener] = set()
        self._parted: set[Listener] = set()

    def _tick(self) -> None:
        """Serve the buckets whose time has come; a late timer serves several, a few a round. Whatever fails, the next tick comes."""
        now = self._loop.time()
        late_us = int((now - self._next_s) * 1e6)
        self._counts[Count.TICK_LATE_US] = max(late_us, self._counts[Count.TICK_LATE_US])
        try:
            for _ in range(BUCKETS_A_ROUND):
                if self._next_s > now + TIMER_GRAIN_S:
                    break
                self._serve_next()
        finally:
            if now - self._next_s > self._step_s * PHASES:
                self._next_s = now
            self._timer = self._loop.call_at(self._next_s, self._tick)

    def _serve_next(self) -> None:
        bucket, self._next_bucket = self._next_bucket, (self._next_bucket + 1) % PHASES
        self._next_s += self._step_s
        self._round += self._next_bucket == 0
        now_us = self._clock.monotonic_us()
        note = (self._round + bucket) % self._checkpoint_rounds == 0
        for stream, cohorts in list(self._buckets[bucket].items()):
            pace = stream.reader.pace(stream.head, now_us)
            for cohort in list(cohorts.values()):
                self._serve(cohort, pace - cohort.distance)
                if note:
                    self._note(cohort)

    def _serve(self, cohort: Cohort, due: int) -> None:
        """Move the cohort to the last chunk that ends by media position `due` (live: to the head) and send what lies between."""
        stream, reader, first = cohort.stream, cohort.stream.reader, cohort.seq
        media, mask, head, seq = reader.media, reader.mask, stream.head, first
        if cohort.distance:
            while seq < head and media[(seq + 1) & mask] <= due:
                seq += 1
        elif head > seq:
            seq = head
        if seq != first:
            start = cohort.pos
            cohort.seq, cohort.pos = seq, reader.pos[seq & mask]
            if cohort.level:
                if first < reader.tail_seq:
                    self._end(cohort.level, "overtaken by the buffer", Count.LAPPED)
                else:
                    self._send_level(cohort, start, first)
        if cohort.late:
            self._check_late(cohort)

    def _send_level(self, cohort: Cohort, start: int, first: int) -> None:
        stream = cohort.stream
        views = stream.reader.columns.spans(start, cohort.pos)
        fallen: Fallen
        if len(views) == 1:
            sent, fallen = self._send_view(cohort, views[0], start, first)
            self._counts[Count.BYTES_SENT] += sent
            stream.counts[StreamCount.BYTES_SENT] += sent
        else:
            fallen = [(listener, _UNTRIED) for listener in cohort.level]
        if stream.reader.limit_pos > start:
            self._end(cohort.level, "overtaken by the buffer while stopped", Count.LAPPED)
            return
        for listener, taken in fallen:
            self._fall(listener, start, taken)

    def _send_view(self, cohort: Cohort, view: memoryview, start: int, first: int) -> tuple[int, Fallen]:
        """One system call per listener. Returns the bytes sent and who did not take all."""
        write, size, end, sent = os.write, len(view), cohort.pos, 0
        title: int | None = _UNKNOWN
        fallen: Fallen = []
        for listener in cohort.level:
            head = listener.playhead
            try:
                if head.meta_at >= end:
                    taken = write(listener.fd, view)
                    whole = size
                else:
                    if title == _UNKNOWN:
                        title = cohort.stream.meta_between(first, cohort.seq)
                    taken, whole = self._send_metered(listener, head, view, start, title)
            except BlockingIOError:
                taken, whole = 0, size
            except OSError:
                taken, whole = _LOST, size
            if taken != whole:
                fallen.append((listener, taken))
            if taken > 0:
                sent += taken
        return sent, fallen

    def _send_metered(self, listener: Listener, head: Playhead, view: memoryview, start: int, title: int | None) -> tuple[int, int]:
        """A span with one ICY block in it, under one title; anything rarer goes the late way.

        Returns the bytes taken and the bytes there were; unless they are equal, the playhead is as before.
        """
        end = start + len(view)
        if title is None or head.meta_at + head.interval < end:
            return _UNTRIED, len(view)
        at = head.meta_at - start
        block = EMPTY_BLOCK if title == head.title else listener.stream.block(title)
        whole = len(view) + len(block)
        taken = os.writev(listener.fd, (view[:at], block, view[at:]))
        if taken == whole:
            head.meta_at += head.interval
            head.title = title
            head.overhead += len(block)
            if listener.row >= 0:
                self._table.checkpoint(listener.row, head.overhead + end - head.start_pos, end, head.meta_at - end, title)
        return taken, whole

    def _fall(self, listener: Listener, pos: int, taken: int) -> None:
        """A level listener did not take its cohort's span: it has a playhead of its own from here on."""
        cohort, head = listener.cohort, listener.playhead
        cohort.level.remove(listener)
        cohort.late.add(listener)
        listener.late = True
        head.pos = pos
        if taken == _LOST:
            self.leave(listener, "connection lost")
            return
        if taken > 0:
            head.advance(taken, head.gather(cohort.stream, cohort.pos)[1])
        self._poller.change(listener.fd, WRITE, listener)
        if taken == _UNTRIED:
            self.push(listener)

    def push(self, listener: Listener, most_bytes: int = catch_up.CATCH_UP_BYTES) -> None:
        """Send a late listener its next piece."""
        how, taken = catch_up.step(listener, self._table, most_bytes)
        self._counts[Count.BYTES_SENT] += taken
        listener.stream.counts[StreamCount.BYTES_SENT] += taken
        if how is Step.LOST:
            self.leave(listener, "connection lost")
        elif how is Step.LAPPED:
            self._end([listener], "overtaken by the buffer", Count.LAPPED)
        elif how is Step.LEVEL and listener.leaving:
            self._part_in_peace(listener)
        elif how is Step.LEVEL:
            listener.cohort.late.discard(listener)
            listener.cohort.level.append(listener)
            listener.late = False
            listener.lag_limit = listener.stream.entry.max_buffer
            self._poller.change(listener.fd, HANG_UP, listener)

    def _check_late(self, cohort: Cohort) -> None:
        for listener in [one for one in cohort.late if catch_up.is_too_late(one)]:
            if listener.stream.entry.skip_slow:
                self._counts[Count.SKIPPED] += not listener.skipping
                listener.skipping = True
            else:
                listener.stream.counts[StreamCount.DROPPED_SLOW] += 1
                self._end([listener], "too slow: more than max_buffer behind", Count.DROPPED_SLOW)

    def _note(self, cohort: Cohort) -> None:
        """Checkpoint those who had no block for a while."""
        for listener in cohort.level:
            listener.playhead.pos = cohort.pos
            catch_up.checkpoint(listener, self._table)
        for listener in cohort.late:
            if not listener.playhead.pending:
                catch_up.checkpoint(listener, self._table)

    def _end(self, listeners: Iterable[Listener], reason: str, count: int) -> None:
        for listener in list(listeners):
            self._counts[count] += 1
            if count == Count.LAPPED:
                sockets.reset_at_close(listener.sock)
            self.leave(listener, reason)

    def join(self, listener: Listener, seq: int, behind: int) -> None:
        """Start a listener at chunk `seq`: `behind` 0 follows the head; else its media ticks behind it are kept, a burst less.

        The connection must be watched by the poller already; its response head is the playhead's `pending`.
        """
        stream, reader = listener.stream, listener.stream.reader
        due, distance = stream.head, 0
        if behind:
            due = max(seq, reader.seq_at_media(reader.media[seq & reader.mask] + stream.burst_ticks, stream.head))
            distance = max(1, reader.pace(stream.head, self._clock.monotonic_us()) - reader.media[due & reader.mask])
        cohort = self._cohort(stream, distance, due)
        if cohort.seq < seq:  # its bucket has not come round since the newest chunk: start where it stands
            head = listener.playhead
            listener.playhead = Playhead(cohort.pos, head.interval, head.pending, head.overhead)
        listener.cohort = cohort
        cohort.late.add(listener)
        listener.lag_limit += max(0, cohort.pos - listener.playhead.pos)
        listener.joined_us = self._clock.monotonic_us()
        kind = KIND_ICY if listener.playhead.meta_at != NEVER else KIND_RAW
        listener.row = self._table.claim(stream.entry.index, kind, listener.playhead.pos)
        self.listeners.add(listener)
        self._count(listener, 1)
        stream.counts[StreamCount.STARTED] += 1
        self._poller.change(listener.fd, WRITE, listener)
        self.push(listener, catch_up.FIRST_SEND_BYTES)

    def _cohort(self, stream: Stream, distance: int, seq: int) -> Cohort:
        """The cohort of this distance in the next bucket in turn."""
        bucket, self._joins = self._joins % PHASES, self._joins + 1
        cohorts = self._buckets[bucket].setdefault(stream, {})
        found = cohorts.get(distance)
        if found is None:
            found = cohorts[distance] = Cohort(stream, bucket, distance, seq)
        return found

    def _count(self, listener: Listener, by: int) -> None:
        counts = listener.stream.counts
        self._counts[Count.LISTENERS] += by
        counts[StreamCount.LISTENERS] += by
        if listener.cohort.distance:
            counts[StreamCount.REWOUND] += by

    def leave(self, listener: Listener, reason: str) -> None:
        """End a listener: its connection, its row, its place. Once only."""
        if listener not in self.listeners:
            return
        self._on_end(listener, reason)
        self.listeners.discard(listener)
        self._parted.discard(listener)
        self._part(listener)
        self._count(listener, -1)
        self._table.release(listener.row)
        self._poller.forget(listener.fd)
        listener.sock.close()

    def _part(self, listener: Listener) -> None:
        """Take a listener out of its cohort; an empty cohort goes too."""
        cohort = listener.cohort
        if listener.late:
            cohort.late.discard(listener)
        else:
            cohort.level.remove(listener)
        if not cohort.level and not cohort.late:
            cohorts = self._buckets[cohort.bucket][cohort.stream]
            del cohorts[cohort.distance]
            if not cohorts:
                del self._buckets[cohort.bucket][cohort.stream]

    def end_stream(self, stream: Stream) -> None:
        """A stream is no longer served: its listeners end."""
        for listener in [one for one in self.listeners if one.stream is stream]:
            self.leave(listener, "stream removed")

    def drain(self) -> None:
        """Send everybody what is due now and end them: the level at once, the late when they are level."""
        self._timer.cancel()
        for _ in range(PHASES):
            self._serve_next()
        for listener in list(self.listeners):
            listener.leaving = True
            if not listener.late:
                self._part_in_peace(listener)

    def _part_in_peace(self, listener: Listener) -> None:
        """FIN behind the last byte; `end_flushed` lets the connection go when the peer has acknowledged all."""
        try:
            listener.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.leave(listener, "connection lost")
        else:
            self._poller.change(listener.fd, HANG_UP, listener)
            self._parted.add(listener)

    def end_flushed(self) -> None:
        """While draining, several times a second: end those whose peer has everything, the FIN too."""
        for listener in list(self._parted):
            if not sockets.unacknowledged_bytes(listener.sock):
                self.leave(listener, "the server stops")
