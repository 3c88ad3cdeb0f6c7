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


class Source:
    """One connected source. `end(reason)` closes its connection."""

    def __init__(self, user: str, agent: str, address: str, protocol: str, info: SourceInfo, end: Callable[[str], None]) -> None:
        self.uuid = str(uuid.uuid4())
        self.user, self.agent, self.address, self.protocol, self.info = user, agent, address, protocol, info
        self.end = end
        self.connected_at = 0.0
        self.bytes_received = 0
        self.format: AudioFormat | None = None

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
        self.sources.insert(len(self.sources) if same is None else self.sources.index(same) + 1, source)
        on_air = self.active in {source, same}
        self._log.info("source connected", peer=source.address, agent=source.agent, protocol=source.protocol, on_air=on_air)
        if same is not None:
            same.end("the same encoder connected again")  # it leaves with its last frame, and the next in line is the new one
        elif on_air:
            self._begin()

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

    def _begin(self) -> None:
        self._each(lambda chunker: chunker.begin())
        self._on_source(self)

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
            self._hand_on()

    def _hand_on(self) -> None:
        self._each(lambda chunker: chunker.finish())
        self._on_audio()
        if self.active is not None:
            self._log.info("source takes over", peer=self.active.address, agent=self.active.agent)
            self._begin()
            return
        self._each(lambda chunker: chunker.away())
        self._on_audio()
        self._on_source(self)

    def frames(self, source: Source, frames: Sequence[Frame]) -> None:
        """Audio of a source; only the active one's is heard."""
        source.format = frames[-1].format
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
        if self._each(lambda chunker: chunker.poll()):
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
