"""A mount: where sources connect, and the streams that its audio goes to.

The first source is active; another with the same user and agent is that encoder come back, and takes over at once; any other stands by,
its audio parsed and dropped, and takes over at a frame boundary when the active one is gone. Without a source the streams keep their
buffers and their listeners.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from appliance.ingest.chunker import Chunker
from appliance.ring.columns import RingRefused
from appliance.ring.layout import META_TEXT_BYTES
from appliance.system.clock import Clock
from appliance.wire.frames import AudioFormat, Frame
from appliance.wire.icy import URL_MAX_BYTES

OFF_CLOCK_US: Final = 1_000_000
"""Labels so far ahead of the wall clock are worth a line in the log: time was set back, or a source sends faster than real time."""
STANDBY_MAX: Final = 8
"""Sources that may wait on one mount: a station has a main and a backup encoder or two; each costs a connection and its parsing."""


class SourceInfo(msgspec.Struct, frozen=True):
    """What a source says of itself in ice-*/icy-* headers."""

    name: str = ""
    genre: str = ""
    url: str = ""
    description: str = ""
    public: bool = False
    bitrate_kbps: int = 0


class MountSettings(msgspec.Struct, frozen=True):
    """A mount's configuration. `format`: "mp3" or "aac"; `charset` of titles that are not UTF-8."""

    name: str
    password: str
    format: str = "mp3"
    charset: str = ""

    def __repr__(self) -> str:
        return f"MountSettings({self.name!r}, format={self.format!r})"


class OnAir(msgspec.Struct, frozen=True):
    """When a source went on air for a ring: the position of the ring's head, and the audio bytes that the source had given before."""

    head_pos: int = 0
    audio_bytes: int = 0


class Source:
    """One connected source. `end(reason)` closes its connection; `note()` keeps what it is for a successor of this process: called when
    `rank` (its place among the mount's sources), `on_air`, `rings` (by stream) or `ended` change, before anything follows from it."""

    def __init__(
        self,
        user: str,
        agent: str,
        address: str,
        protocol: str,
        info: SourceInfo,
        end: Callable[[str], None],
        note: Callable[[], None] = lambda: None,
    ) -> None:
        self.uuid = str(uuid.uuid4())
        self.rank = 0
        self.on_air = self.ended = False
        self.rings: dict[str, OnAir] = {}
        self.audio_bytes = 0
        self.note = note
        self.user, self.agent, self.address, self.protocol, self.info = user, agent, address, protocol, info
        self.end = end
        self.connected_at = 0.0
        self.bytes_received = 0
        self.format: AudioFormat | None = None

    def order(self) -> tuple[bool, int, float]:
        """What sorts the sources of a mount: the one on air first."""
        return not self.on_air, self.rank, self.connected_at

    def is_same_encoder(self, other: Source) -> bool:
        """Whether both have the same credentials and agent: the encoder that came back while its old socket still looked alive."""
        return (self.user, self.agent) == (other.user, other.agent)


class Feed(Protocol):
    """A stream as its mount sees it."""

    key: str
    chunker: Chunker
    accepts_titles: bool


class Mount:
    """`on_audio` is called when chunks were published, `on_source` when the active source or its words changed."""

    def __init__(
        self, settings: MountSettings, feeds: Sequence[Feed], clock: Clock, on_audio: Callable[[], None], on_source: Callable[[Mount], None]
    ) -> None:
        self.settings = settings
        self.feeds = list(feeds)
        self.sources: list[Source] = []
        self.paused = False
        """Set while another process may go on with the rings: `poll` then publishes nothing."""
        self._clock = clock
        self._off_clock: set[str] = set()
        self._on_audio, self._on_source = on_audio, on_source
        self._log = structlog.get_logger().bind(mount=settings.name)

    @property
    def active(self) -> Source | None:
        """The source on air."""
        return self.sources[0] if self.sources else None

    def has_room_for(self, user: str, agent: str) -> bool:
        """Whether such a source may join: one more may stand by, or it takes over from itself."""
        return len(self.sources) <= STANDBY_MAX or any((one.user, one.agent) == (user, agent) for one in self.sources)

    def join(self, source: Source) -> None:
        """A source with the right password begins."""
        source.connected_at = self._clock.wall_us() / 1e6
        same = next((one for one in self.sources if one.is_same_encoder(source)), None)
        source.rank = same.rank if same is not None else 1 + max((one.rank for one in self.sources), default=0)
        self.sources.insert(len(self.sources) if same is None else self.sources.index(same) + 1, source)
        source.note()
        on_air = self.active in {source, same}
        self._log.info("source connected", peer=source.address, agent=source.agent, protocol=source.protocol, on_air=on_air)
        if same is not None:
            same.end("the same encoder connected again")  # it leaves with its last frame, and the next in line is the new one
        elif on_air:
            self._begin(source)

    def _each(self, act: Callable[[Chunker], int | None]) -> int:
        """Do it with every stream's chunker; returns the chunks that were published. A stream whose ring is no longer ours is let go."""
        appended = 0
        for feed in list(self.feeds):
            try:
                appended += act(feed.chunker) or 0
            except RingRefused as error:
                self._log.error("a stream is written no more", stream=feed.key, reason=str(error))
                self.feeds.remove(feed)
        return appended

    def _begin(self, source: Source) -> None:
        self._each(lambda chunker: chunker.begin())
        source.on_air = True
        source.rings = {feed.key: OnAir(feed.chunker.head_pos, source.audio_bytes) for feed in self.feeds}
        source.note()
        self._on_source(self)

    def rejoin(self, sources: Sequence[Source]) -> None:
        """Sources that another process had on this mount go on here, each in its place. What they give first, from the `audio_bytes` on
        that they are set to, may be in the rings already."""
        self.sources = sorted(sources, key=Source.order)
        active = self.active
        if active is not None and active.on_air:
            for feed in self.feeds:
                self._resume(feed, active)
        elif active is not None:
            self._log.info("source takes over", peer=active.address, agent=active.agent)
            self._begin(active)
        else:
            self._each(lambda chunker: chunker.away())
        self._on_audio()
        self._on_source(self)

    def _resume(self, feed: Feed, source: Source) -> None:
        begun, chunker = source.rings.get(feed.key), feed.chunker
        published = chunker.head_pos - begun.head_pos if begun is not None else -1
        if begun is None or published < 0 or begun.audio_bytes + published < source.audio_bytes:
            self._log.warning("a stream goes on with another ring than its source had", stream=feed.key)
            chunker.begin()
            source.rings[feed.key] = OnAir(chunker.head_pos, source.audio_bytes)
            source.note()
        else:
            chunker.resume(begun.audio_bytes + published - source.audio_bytes, fresh=not published)

    def end_if_replaced(self, source: Source) -> None:
        """After `rejoin`, when all was parsed that the other process had read of this source, and before its successors': that process may
        have ended between the coming of an encoder's new connection and the end of its old one."""
        if any(one.is_same_encoder(source) and one.connected_at > source.connected_at for one in self.sources):
            source.end("the same encoder connected again")

    def leave(self, source: Source, reason: str, *, faulty: bool = False) -> None:
        """A source is gone: what it sent is published to the last whole frame, and the next one takes over. `faulty`: the operator
        should look into the reason."""
        if source not in self.sources:
            return
        was_active = self.active is source
        self.sources.remove(source)
        tell = self._log.warning if faulty else self._log.info
        tell("source ended", peer=source.address, agent=source.agent, reason=reason, received_bytes=source.bytes_received)
        if was_active:
            self._each(lambda chunker: chunker.finish())
            self._on_audio()
        source.ended = True
        source.note()
        if was_active:
            self._hand_on()

    def _hand_on(self) -> None:
        if self.active is not None:
            self._log.info("source takes over", peer=self.active.address, agent=self.active.agent)
            self._begin(self.active)
            return
        self._each(lambda chunker: chunker.away())
        self._on_audio()
        self._on_source(self)

    def frames(self, source: Source, frames: Sequence[Frame]) -> None:
        """Audio of a source; only the active one's is heard."""
        source.format = frames[-1].format
        source.audio_bytes += sum([len(frame.data) for frame in frames])
        if source is not self.active:
            return
        if self._each(lambda chunker: chunker.feed(frames)):
            self._on_audio()
            self._watch_clocks()

    def _watch_clocks(self) -> None:
        """Labels ahead of the wall clock never step back (MECHANICS 2); say so once, and again when it has happened anew."""
        for feed in self.feeds:
            ahead_us = -feed.chunker.offset_us
            if ahead_us > OFF_CLOCK_US and feed.key not in self._off_clock:
                self._off_clock.add(feed.key)
                self._log.warning("audio times are ahead of the clock, slewing", stream=feed.key, seconds=round(ahead_us / 1e6, 1))
            elif ahead_us < OFF_CLOCK_US // 2:
                self._off_clock.discard(feed.key)

    def poll(self) -> None:
        """Several times a second: let bursts go that were held long enough."""
        if not self.paused and self._each(lambda chunker: chunker.poll()):
            self._on_audio()

    def title(self, text: str, url: str) -> None:
        """A title from an encoder or an admin: heard with the next chunk of every stream that takes titles of its source."""
        self._log.info("title", title=text, url=url or None)
        for feed in self.feeds:
            if feed.accepts_titles:
                set_title(feed.chunker, text, url)


def set_title(chunker: Chunker, text: str, url: str) -> None:
    """Give a stream a title, cut to what a metadata row and an ICY block hold."""
    link = url.encode("utf-8", "replace")
    link = link if len(link) <= URL_MAX_BYTES else b""
    title = text.encode("utf-8", "replace")[: META_TEXT_BYTES - len(link)]
    chunker.want_title(title.decode("utf-8", "ignore").encode(), link)
