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
import contextlib
import itertools
import math
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final

from appliance.ring.counters import Count, CountersPage, StreamCount
from appliance.ring.layout import Word
from appliance.ring.listeners import KIND_ICY, KIND_RAW, ListenerTable
from appliance.system import sockets
from appliance.system.clock import Clock
from appliance.system.ticker import Ticker
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
TICK_MIN_S: Final = 0.06
"""A wake-up costs as much as six sends: with short intervals a tick serves several buckets. [At 1 s: 3 ms/s of CPU a worker less.]"""
BUCKETS_A_ROUND: Final = 8
"""Buckets served before other events get their turn after a delay."""

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
        on_end: Callable[[Listener, str], bool | None],
        on_join: Callable[[Listener], None] = lambda listener: None,
    ) -> None:
        """`on_end(listener, reason)` is told of each that ends; it returns whether the listener's row must stay for now."""
        self._clock, self._poller, self._table, self._on_end, self._on_join = clock, poller, table, on_end, on_join
        self._counts = counters.worker
        self._loop = asyncio.get_running_loop()
        self._checkpoint_rounds = max(1, int(CHECKPOINT_S / send_interval_s))
        self._buckets: list[dict[Stream, dict[int, Cohort]]] = [{} for _ in range(PHASES)]
        self._next_bucket = self._round = self._joins = 0
        self._owed = 0
        self._buckets_a_tick = math.ceil(TICK_MIN_S / (send_interval_s / PHASES))
        self._tick_s = send_interval_s / PHASES * self._buckets_a_tick
        self._ticker: Ticker | None = Ticker(self._tick_s)
        self._loop.add_reader(self._ticker.fd, self._tick)
        self.listeners: set[Listener] = set()
        self._parted: set[Listener] = set()

    def _tick(self) -> None:
        """Serve the buckets of this tick; after a delay those of several."""
        if self._ticker is None:
            return
        due = self._ticker.due()
        if due > 1:
            self._counts[Count.TICK_LATE_US] = max(int((due - 1) * self._tick_s * 1e6), self._counts[Count.TICK_LATE_US])
        self._owed = min(PHASES, self._owed + due * self._buckets_a_tick)
        self._serve_owed()

    def _serve_owed(self) -> None:
        """A few buckets, then other events get their turn."""
        for _ in range(min(self._owed, BUCKETS_A_ROUND)):
            self._owed -= 1
            self._serve_next()
        if self._owed:
            self._loop.call_soon(self._serve_owed)

    def _serve_next(self) -> None:
        bucket, self._next_bucket = self._next_bucket, (self._next_bucket + 1) % PHASES
        self._round += self._next_bucket == 0
        now_us = self._clock.monotonic_us()
        note = (self._round + bucket) % self._checkpoint_rounds == 0
        for stream, cohorts in list(self._buckets[bucket].items()):
            sent = self._serve_cohorts(stream, list(cohorts.values()), stream.reader.pace(stream.head, now_us))
            self._counts[Count.BYTES_SENT] += sent
            stream.counts[StreamCount.BYTES_SENT] += sent
            if note:
                for cohort in list(cohorts.values()):
                    self._note(cohort)

    def _serve_cohorts(self, stream: Stream, cohorts: list[Cohort], pace: int) -> int:
        """Move each cohort to the last chunk that ends by its media position (live: to the head), and send what lies between.

        Returns the bytes sent. What all cohorts share is looked up once: with rewound listeners there are as many cohorts as listeners.
        """
        reader, head, sent = stream.reader, stream.head, 0
        media, pos, mask, words = reader.media, reader.pos, reader.mask, reader.words
        data, capacity = reader.columns.data, reader.columns.capacity
        for cohort in cohorts:
            seq = first = cohort.seq
            if cohort.distance:
                due = pace - cohort.distance
                while seq < head and media[(seq + 1) & mask] <= due:
                    seq += 1
            elif head > seq:
                seq = head
            if seq != first:
                start, end = cohort.pos, pos[seq & mask]
                cohort.seq, cohort.pos = seq, end
                at = start % capacity
                if not (cohort.raw or cohort.metered):
                    pass
                elif first < words[Word.TAIL_SEQ]:
                    self._end(cohort.level, "overtaken by the buffer", Count.LAPPED)
                elif at + end - start > capacity:  # the span goes around the end of the ring
                    self._settle_sent(cohort, start, [(listener, _UNTRIED) for listener in cohort.level])
                elif len(cohort.raw) == 1 and not cohort.metered:
                    sent += self._send_alone(cohort, data[at : at + end - start], start)
                else:
                    sent += self._send_view(cohort, data[at : at + end - start], start, first)
            if cohort.late:
                self._check_late(cohort)
        return sent

    def _send_alone(self, cohort: Cohort, view: memoryview, start: int) -> int:
        """One raw listener, as most rewound ones are: nothing to set up. Returns the bytes sent."""
        try:
            taken = os.write(cohort.raw_fds[0], view)
        except BlockingIOError:
            taken = 0
        except OSError:
            taken = _LOST
        if taken != len(view) or cohort.stream.reader.words[Word.LIMIT_POS] > start:
            self._settle_sent(cohort, start, [(cohort.raw[0], taken)])
        return max(0, taken)

    def _send_view(self, cohort: Cohort, view: memoryview, start: int, first: int) -> int:
        """One system call per listener. Returns the bytes sent."""
        fallen: Fallen = []
        sent = self._send_raw(cohort, view, fallen) if cohort.raw else 0
        if cohort.metered:
            sent += self._send_metered(cohort, view, start, first, fallen)
        if fallen or cohort.stream.reader.words[Word.LIMIT_POS] > start:
            self._settle_sent(cohort, start, fallen)
        return sent

    def _send_raw(self, cohort: Cohort, view: memoryview, fallen: Fallen) -> int:
        """The innermost loop, driven from C: `map` calls write() for one fd after the other, and goes on behind one that raised."""
        size, sent, index = len(view), 0, 0
        writes = map(os.write, cohort.raw_fds, itertools.repeat(view))
        while index < len(cohort.raw):
            taken = _LOST
            try:
                for taken in writes:
                    if taken != size:
                        break
                    index += 1
                else:
                    break
            except BlockingIOError:
                taken = 0
            except OSError:
                taken = _LOST
            fallen.append((cohort.raw[index], taken))
            sent += max(0, taken)
            index += 1
        return sent + size * (len(cohort.raw) - len(fallen))

    def _settle_sent(self, cohort: Cohort, start: int, fallen: Fallen) -> None:
        """After the sends: end everybody if the bytes may have been overwritten meanwhile, else look after those who fell behind."""
        if cohort.stream.reader.limit_pos > start:
            self._end(cohort.level, "overtaken by the buffer while stopped", Count.LAPPED)
            return
        for listener, taken in fallen:
            self._fall(listener, start, taken)

    def _send_metered(self, cohort: Cohort, view: memoryview, start: int, first: int, fallen: Fallen) -> int:
        """Those with metadata: most spans have no block, or one. Returns the bytes sent."""
        write, size, end, sent = os.write, len(view), cohort.pos, 0
        title: int | None = _UNKNOWN
        for listener in cohort.metered:
            head = listener.playhead
            try:
                if head.meta_at >= end:
                    taken = write(listener.fd, view)
                    whole = size
                else:
                    if title == _UNKNOWN:
                        title = cohort.stream.meta_between(first, cohort.seq)
                    taken, whole = self._send_block(listener, head, view, start, title)
            except BlockingIOError:
                taken, whole = 0, size
            except OSError:
                taken, whole = _LOST, size
            if taken != whole:
                fallen.append((listener, taken))
            if taken > 0:
                sent += taken
        return sent

    def _send_block(self, listener: Listener, head: Playhead, view: memoryview, start: int, title: int | None) -> tuple[int, int]:
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
        cohort.remove_level(listener)
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
        elif how is Step.AHEAD:
            self._poller.change(listener.fd, HANG_UP, listener)
        elif how is Step.LEVEL:
            listener.cohort.late.discard(listener)
            listener.cohort.add_level(listener)
            listener.late = False
            listener.lag_limit = listener.stream.entry.max_buffer
            self._poller.change(listener.fd, HANG_UP, listener)

    def _check_late(self, cohort: Cohort) -> None:
        """Drop, or tell to skip, who is too late; an adopted listener that was ahead of its new cohort can go on when that has moved."""
        for listener in [one for one in cohort.late if one.ahead and cohort.pos > one.playhead.pos]:
            listener.ahead = False
            self._poller.change(listener.fd, WRITE, listener)
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
                listener.lapped = True
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
        catch_up.checkpoint(listener, self._table)
        self.listeners.add(listener)
        self._count(listener, 1)
        stream.counts[StreamCount.STARTED] += 1
        self._poller.change(listener.fd, WRITE, listener)
        self.push(listener, catch_up.FIRST_SEND_BYTES)
        self._on_join(listener)

    def adopt(self, listener: Listener, distance: int) -> None:
        """Go on with a listener of another worker, whose playhead was worked out (worker/adoption.py) and whose row was claimed."""
        stream, reader, due = listener.stream, listener.stream.reader, listener.stream.head
        if distance:
            pace = reader.pace(stream.head, self._clock.monotonic_us())
            due = reader.seq_at_media(max(0, pace - distance), stream.head)
        cohort = listener.cohort = self._cohort(stream, distance, due)
        cohort.late.add(listener)
        listener.lag_limit += max(0, cohort.pos - listener.playhead.pos)
        self.listeners.add(listener)
        self._count(listener, 1)
        self._poller.watch(listener.fd, WRITE, listener)

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
        row_stays = self._on_end(listener, reason)
        self.listeners.discard(listener)
        self._parted.discard(listener)
        self._part(listener)
        self._count(listener, -1)
        if not row_stays:
            self._table.release(listener.row)
        self._poller.forget(listener.fd)
        if listener.kept_id and not listener.lapped:  # the supervisor's duplicate would hold the line
            with contextlib.suppress(OSError):
                listener.sock.shutdown(socket.SHUT_RDWR)
        listener.sock.close()

    def _part(self, listener: Listener) -> None:
        """Take a listener out of its cohort; an empty cohort goes too."""
        cohort = listener.cohort
        if listener.late:
            cohort.late.discard(listener)
        else:
            cohort.remove_level(listener)
        if cohort.is_empty:
            cohorts = self._buckets[cohort.bucket][cohort.stream]
            del cohorts[cohort.distance]
            if not cohorts:
                del self._buckets[cohort.bucket][cohort.stream]

    def end_stream(self, stream: Stream) -> None:
        """A stream is no longer served: its listeners end."""
        for listener in [one for one in self.listeners if one.stream is stream]:
            self.leave(listener, "stream removed")

    def stop(self) -> None:
        """No more ticks."""
        if self._ticker is not None:
            self._loop.remove_reader(self._ticker.fd)
            self._ticker.close()
            self._ticker = None
        self._owed = 0

    def let_go(self) -> None:
        """Send nothing more, and checkpoint everybody where that is possible (not within a block: then the older one leads there)."""
        self.stop()
        for bucket in self._buckets:
            for cohorts in bucket.values():
                for cohort in cohorts.values():
                    self._note(cohort)

    def drain(self) -> None:
        """Send everybody what is due now and end them: the level at once, the late when they are level."""
        self.stop()
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
