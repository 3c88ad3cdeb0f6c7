"""The station: streams with their rings, mounts with their sources, workers, and the source server, tied together."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import structlog

from appliance.channel.messages import PassRequest, StreamEntry, StreamInfo, WorkerSettings
from appliance.config.model import Config, StreamConfig, mounts
from appliance.ingest.chunker import Chunker
from appliance.ingest.mount import Mount, MountSettings, SourceInfo, set_title
from appliance.ingest.source_server import Released, SourceServer
from appliance.ring.columns import RingRefused
from appliance.ring.writer import RingWriter
from appliance.supervisor.dumps import Dumps
from appliance.supervisor.workers import Workers
from appliance.system.clock import Clock

MIMES = {"mp3": "audio/mpeg", "aac": "audio/aac"}


class StreamFeed:
    """One stream: its ring, its chunker, its entry as workers know it. Implements ingest's `Feed`."""

    def __init__(
        self, index: int, key: str, config: StreamConfig, chunk_s: float, clock: Clock, dumps: Dumps, writer: RingWriter
    ) -> None:
        self.key, self.index, self.config = key, index, config
        self.writer = writer
        dumps.register(key, config.format, self.writer)  # before the chunker, which goes on from the ring's newest label
        self.chunker = Chunker(self.writer, clock, chunk_s)
        self.accepts_titles = config.accept_source_meta
        self.sent: StreamEntry | None = None
        if (config.meta_title or config.meta_url) and writer.epoch() is None:  # a ring that goes on has its titles
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

    def __init__(self, config: Config, clock: Clock, workers: Workers, rings: Mapping[str, int]) -> None:
        """`rings`: key -> memfd of the streams whose ring another generation has left (fds owned from now on)."""
        self.config, self.clock, self.workers = config, clock, workers
        self._log = structlog.get_logger()
        self.dumps = Dumps(dump_folder(config), config.rewind_dump.frequency, clock, self._on_audio)
        self.feeds = {
            key: StreamFeed(index, key, stream, config.chunk_duration, clock, self.dumps, self._ring_of(key, stream, rings.get(key)))
            for (key, stream), index in zip(config.streams.items(), indexes(config, workers.known_streams), strict=True)
        }
        self.mounts = self._make_mounts()
        self.source_server = SourceServer(self.mounts, config.source_timeout)
        workers.streams, workers.on_request = self._entries, self._passed
        for key in rings.keys() - self.feeds.keys():
            self._log.warning("a stream is no longer configured: its buffer and its listeners end", stream=key)
            os.close(rings[key])

    def _ring_of(self, key: str, stream: StreamConfig, fd: int | None) -> RingWriter:
        """The ring that was left, if it can be written; else a new one."""
        if fd is not None:
            try:
                writer = RingWriter.attach(fd)
            except RingRefused as error:
                self._log.error("a stream's buffer is lost", stream=key, reason=str(error), alert=True)
                os.close(fd)
            else:
                if writer.window_s != stream.seconds:
                    self._log.warning("seconds: a new value counts from the next restart on", stream=key, now=writer.window_s)
                return writer
        return RingWriter.create(key, stream.seconds, self.config.chunk_duration, stream.max_buffer)

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

    def release(self) -> Released:
        """Another generation takes over: stop writing to rings, reading from sources and sending to listeners. `workers.all_gone` says
        when the workers have ended."""
        released = self.source_server.release()
        for feed in self.feeds.values():
            feed.writer.unlock()
        self.workers.let_go()
        return released

    def stop_ingest(self) -> None:
        """End the sources; what they sent is published to the last frame."""
        self.source_server.close("the server stops")

    def close(self) -> None:
        """Let the rings go."""
        self.dumps.close()
        for feed in self.feeds.values():
            feed.writer.close()


def indexes(config: Config, known: Mapping[str, int]) -> list[int]:
    """A number for each stream, in order: the one that workers know it by, else a free one."""
    free = (number for number in range(len(config.streams) + len(known)) if number not in known.values())
    return [known[key] if key in known else next(free) for key in config.streams]


def dump_folder(config: Config) -> Path:
    """Where the rewind dumps are."""
    return config.rewind_dump.dir or config.state_dir / "rewind"


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
