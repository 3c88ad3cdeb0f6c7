"""The station: streams with their rings, mounts with their sources, workers, and the source server, tied together."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import structlog

from appliance.channel.messages import PassRequest, StreamEntry, StreamInfo, WorkerSettings
from appliance.config.model import Config, StreamConfig, mounts
from appliance.ingest.chunker import Chunker
from appliance.ingest.mount import Mount, MountSettings, SourceInfo, set_title
from appliance.ingest.source_server import SourceServer
from appliance.ring.writer import RingWriter
from appliance.supervisor.workers import WorkerEntry, Workers
from appliance.system.clock import Clock
from appliance.system.processes import Zygote

MIMES = {"mp3": "audio/mpeg", "aac": "audio/aac"}


class StreamFeed:
    """One stream: its ring, its chunker, its entry as workers know it. Implements ingest's `Feed`."""

    def __init__(self, index: int, key: str, config: StreamConfig, chunk_s: float, clock: Clock) -> None:
        self.key, self.index, self.config = key, index, config
        self.writer = RingWriter.create(key, config.seconds, chunk_s, config.max_buffer)
        self.chunker = Chunker(self.writer, clock, chunk_s)
        self.accepts_titles = config.accept_source_meta
        self.sent: StreamEntry | None = None
        if config.meta_title or config.meta_url:
            set_title(self.chunker, config.meta_title, config.meta_url)

    def entry(self, info: SourceInfo) -> StreamEntry:
        """What workers need to know, with what the source says of itself."""
        config, epoch = self.config, self.writer.epoch()
        return StreamEntry(
            index=self.index,
            key=self.key,
            mime=MIMES[config.format],
            burst_s=config.burst,
            meta_interval=config.meta_interval,
            max_buffer=config.max_buffer,
            skip_slow=config.slow_listener == "skip",
            root=config.root_route,
            aliases=list(config.aliases),
            host=config.host,
            max_listeners=config.max_listeners,
            name=info.name,
            genre=info.genre,
            url=info.url,
            description=info.description,
            public=info.public,
            bitrate_kbps=info.bitrate_kbps or (epoch.bitrate_bps // 1000 if epoch else 0),
        )


class Station:
    """Owns everything but the processes' outer life (supervisor/main.py)."""

    def __init__(
        self, config: Config, clock: Clock, slots: list[socket.socket], zygote: Zygote, entry: WorkerEntry
    ) -> None:
        self.config, self.clock = config, clock
        self._log = structlog.get_logger()
        self.feeds = {
            key: StreamFeed(index, key, stream, config.chunk_duration, clock)
            for index, (key, stream) in enumerate(config.streams.items())
        }
        self.mounts = self._make_mounts()
        self.source_server = SourceServer(self.mounts, config.source_timeout)
        self.workers = Workers(len(slots), worker_settings(config), entry, zygote, slots, self._entries, self._passed)

    def _make_mounts(self) -> Mapping[str, Mount]:
        feeds: dict[str, list[StreamFeed]] = {}
        for key, stream in self.config.streams.items():
            feeds.setdefault(stream.source or key, []).append(self.feeds[key])
        found = {}
        for name, source in mounts(self.config).items():
            if not source.password:
                self._log.warning("a mount has no password: no source can connect", mount=name)
            settings = MountSettings(name, source.password.reveal(), source.format, source.charset)
            found[name] = Mount(settings, feeds.get(name, []), self.clock, self._on_audio, self._on_source)
        return found

    def mount_of(self, feed: StreamFeed) -> Mount:
        """The mount that feeds a stream."""
        return self.mounts[feed.config.source or feed.key]

    def _entries(self) -> list[tuple[StreamEntry, int]]:
        """Every stream for a new worker: what was sent to the others, so that `refresh` reaches all alike."""
        found = []
        for feed in self.feeds.values():
            feed.sent = feed.sent or self._entry(feed)
            found.append((feed.sent, feed.writer.reader_fd))
        return found

    def _entry(self, feed: StreamFeed) -> StreamEntry:
        active = self.mount_of(feed).active
        return feed.entry(active.info if active else SourceInfo())

    def refresh(self) -> None:
        """Tell the workers what has changed about streams (a source's name, a bitrate)."""
        for feed in self.feeds.values():
            if feed.sent is None or self.mount_of(feed).active is None:
                continue
            now = self._entry(feed)
            if now != feed.sent:
                feed.sent = now
                self.workers.tell_all(StreamInfo(now))

    def _on_audio(self) -> None:
        self.workers.doorbells.ring()

    def _on_source(self, mount: Mount) -> None:
        self._on_audio()
        self.refresh()

    def _passed(self, message: PassRequest, fd: int) -> None:
        """A worker read a request that is for the source server."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            return
        self.source_server.adopt(sock, message.peer, received=message.received, lone=True)

    def stop_ingest(self) -> None:
        """End the sources; what they sent is published to the last frame."""
        self.source_server.close("the server stops")

    def close(self) -> None:
        """Let the rings go."""
        for feed in self.feeds.values():
            feed.writer.close()


def worker_settings(config: Config) -> WorkerSettings:
    """The part of the configuration that workers get."""
    return WorkerSettings(
        send_interval=config.send_interval,
        source_timeout=config.source_timeout,
        ua_skip=list(config.ua_skip),
        cors_origin=config.cors.origin,
        cors_enabled=config.cors.enabled,
        max_listeners=config.max_listeners,
        log_interval=config.log_interval,
        log_level=config.log.level,
        log_json=config.log.json,
    )
