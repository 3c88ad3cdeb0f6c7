"""Frames in, chunks into the rewind ring out: one chunker per stream.

A chunk is a whole, constant number of frames (about `chunk_duration`), so that chunk boundaries of a constant-rate stream are evenly
spaced and listeners who joined at different times can share a cohort. A codec change starts an epoch. A burst at connect is held for a
moment, so that its first frame can be labelled early enough: no frame's end may be later than its arrival.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from appliance.ingest.media_clock import MediaClock
from appliance.ring.columns import Epoch
from appliance.ring.layout import MEDIA_HZ, TITLE_SPACING_S, Flag, Word
from appliance.ring.writer import AudioInfo, Chunk, RingWriter
from appliance.system.clock import Clock
from appliance.wire.frames import AudioFormat, Frame

HOLD_US: Final = 250_000
"""A connect burst is taken to be over so long after its first frame."""
HOLD_BYTES: Final = 512 * 1024
"""A burst larger than this is let go at once (32 s of 128 kbit/s): what is held must fit the source's journal, twice."""


class Chunker:
    """Feeds one ring."""

    def __init__(self, writer: RingWriter, clock: Clock, chunk_s: float) -> None:
        self._writer, self._clock, self._chunk_s = writer, clock, chunk_s
        self._times = MediaClock(_last_end_us(writer))
        self._format: AudioFormat | None = None
        self._held: list[Frame] = []
        self._held_bytes = self._held_ticks = self._began_us = 0
        self._hold_until_us: int | None = None
        self._awaited = self._fresh = False
        self._again_bytes = 0
        self._title: tuple[bytes, bytes] = _last_title(writer)
        self._wanted: tuple[bytes, bytes] | None = None

    @property
    def frames_held(self) -> int:
        """Frames that were fed and are not in the ring yet: the last ones."""
        return len(self._held)

    @property
    def head_pos(self) -> int:
        """The ring's position of the next byte that is published."""
        return self._writer.head_pos

    @property
    def wanted_title(self) -> tuple[bytes, bytes] | None:
        """A title that was asked for and is not in the ring yet: for the process that goes on with the ring (`want_title`)."""
        return self._wanted

    @property
    def offset_us(self) -> int:
        """How far the wall clock is ahead of this stream's labels, as last judged."""
        return self._times.offset_us

    def begin(self) -> None:
        """A source starts to feed: its first frame and what comes in the next moment are its connect burst."""
        self.finish()
        self._awaited = self._fresh = True
        self._again_bytes = 0

    def resume(self, again_bytes: int, *, fresh: bool) -> None:
        """Go on with a source that another process fed: the first `again_bytes` of what comes are in the ring already. `fresh`: nothing of
        this source is, so it begins here. No epoch, no discontinuity; labels go on by samples from the newest chunk's end."""
        self._again_bytes = again_bytes
        self._awaited = self._fresh = fresh

    def feed(self, frames: Sequence[Frame]) -> int:
        """Take frames; returns how many chunks were published."""
        if self._again_bytes:
            frames = self._not_again(frames)
        if self._awaited and frames:
            self._awaited, self._held_ticks = False, 0
            self._began_us = self._clock.monotonic_us()
            self._hold_until_us = self._began_us + HOLD_US
        self._held += frames
        self._held_bytes += sum([len(frame.data) for frame in frames])
        if self._hold_until_us is not None:
            self._date_burst(frames)
        return self.poll()

    def _not_again(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Without those that are in the ring."""
        for at, frame in enumerate(frames):
            if self._again_bytes < len(frame.data):
                self._again_bytes = 0
                return frames[at:]
            self._again_bytes -= len(frame.data)
        return []

    def _date_burst(self, frames: Sequence[Frame]) -> None:
        """When the burst's first sample was heard, at the latest: so that none of these frames ends later than now."""
        self._held_ticks += sum([frame.samples * MEDIA_HZ // frame.format.sample_rate for frame in frames])
        length_us = -(-self._held_ticks * 1_000_000 // MEDIA_HZ)
        self._began_us = min(self._began_us, self._clock.monotonic_us() - length_us)

    def poll(self) -> int:
        """Publish the chunks that are whole, once a connect burst is over; returns how many."""
        if self._hold_until_us is not None:
            if self._clock.monotonic_us() < self._hold_until_us and self._held_bytes < HOLD_BYTES:
                return 0
            self._release()
        return self._publish(whole_only=True)

    def finish(self) -> int:
        """The source is gone: publish all whole frames, a short last chunk too; returns how many chunks that made."""
        if self._hold_until_us is not None:
            self._release()
        return self._publish(whole_only=False)

    def away(self) -> None:
        """No source feeds this stream from now on; rewound listeners go on by the clock from the last chunk's time."""
        self._writer.away(self._writer.appended_us or self._clock.monotonic_us())

    def want_title(self, title: bytes, url: bytes) -> None:
        """The next chunk carries this title (UTF-8); if titles come too fast, the latest does as soon as it may."""
        self._wanted = (title, url)

    def _release(self) -> None:
        """The burst is over. Only now the source counts as present: one that connects and sends no audio must not stop the clock that
        rewound listeners follow."""
        self._hold_until_us = None
        self._writer.present(self._began_us)
        self._times.begin(self._clock.wall_us() - (self._clock.monotonic_us() - self._began_us))

    def _publish(self, *, whole_only: bool) -> int:
        appended = 0
        while count := self._next_chunk(whole_only=whole_only):
            self._append(self._held[:count])
            del self._held[:count]
            appended += 1
        return appended

    def _next_chunk(self, *, whole_only: bool) -> int:
        """How many of the held frames are the next chunk: a constant number, fewer before another codec and at the end; 0: none yet."""
        if not self._held:
            return 0
        first = self._held[0]
        count = max(1, round(self._chunk_s * first.format.sample_rate / first.samples))
        for at, frame in enumerate(self._held[:count]):
            if frame.format is not first.format and not frame.format.same_codec(first.format):
                return at
        return count if len(self._held) >= count else 0 if whole_only else len(self._held)

    def _append(self, frames: list[Frame]) -> None:
        data = b"".join([frame.data for frame in frames])
        samples, rate = sum(frame.samples for frame in frames), frames[0].format.sample_rate
        changed = self._start_epoch(frames[0].format)
        self._apply_title()
        now = self._clock.monotonic_us()
        stamp = self._times.stamp(samples * MEDIA_HZ // rate, self._clock.wall_us(), now)
        flags = (Flag.SOURCE_START if self._fresh else 0) | (Flag.DISCONTINUITY if stamp.discontinuity or changed else 0)
        self._writer.append(Chunk(data, samples, rate, stamp.ts_us, flags), now)
        self._fresh = False
        self._held_bytes -= len(data)

    def _start_epoch(self, found: AudioFormat) -> bool:
        """Write the epoch's row before its first chunk; a source that comes back with the same codec goes on in the old epoch.
        True when the codec is another than before."""
        last, self._format = self._format, found
        if last is found or (last is not None and last.same_codec(found)):
            return False
        old, heard = self._writer.epoch(), _last_epoch(self._writer)
        audio = AudioInfo(found.stream_key, found.profile, found.sample_rate, found.channels, found.bitrate_bps)
        if old is None or old[1:] != (audio.rate, audio.channels, audio.bitrate_bps, audio.stream_key, audio.profile):
            self._writer.start_epoch(audio)
        return heard is not None and (heard.profile, heard.rate, heard.channels) != (audio.profile, audio.rate, audio.channels)

    def _apply_title(self) -> None:
        if self._wanted is None or not self._writer.title_due(TITLE_SPACING_S * MEDIA_HZ):
            return
        if self._wanted != self._title:
            self._writer.set_title(*self._wanted, self._clock.wall_us())
        self._title, self._wanted = self._wanted, None


def _last_slot(writer: RingWriter) -> int | None:
    """Where the newest chunk's entry is; None for an empty ring."""
    seq = writer.head_seq - 1
    slot = seq & writer.columns.chunk_mask
    return slot if seq >= 1 and writer.columns.view["seq"][slot] == seq else None


def _last_epoch(writer: RingWriter) -> Epoch | None:
    """The newest chunk's epoch. The ring's newest may be one whose first chunk a killed process did not come to append."""
    slot = _last_slot(writer)
    return None if slot is None else writer.columns.epoch(writer.columns.view["epoch"][slot])


def _last_title(writer: RingWriter) -> tuple[bytes, bytes]:
    """What the ring's newest title says."""
    columns, meta_id = writer.columns, writer.columns.words[Word.META_HEAD]
    slot, at = meta_id & columns.meta_mask, columns.text_at(meta_id)
    if meta_id == 0 or columns.view["meta_seq"][slot] != meta_id:
        return b"", b""
    split = at + columns.view["meta_title_bytes"][slot]
    return columns.map[at:split], columns.map[split : split + columns.view["meta_url_bytes"][slot]]


def _last_end_us(writer: RingWriter) -> int:
    """The end of the newest chunk's label; 0 for an empty ring."""
    slot, view = _last_slot(writer), writer.columns.view
    if slot is None:
        return 0
    return view["ts_us"][slot] + view["samples"][slot] * 1_000_000 // view["rate"][slot]
