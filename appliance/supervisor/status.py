"""The station as the status page sees it: read from shared memory and the fleet, no message to anybody."""

from __future__ import annotations

import contextlib
from pathlib import Path

import appliance
from appliance.control.station import SourceStatus, StationStatus, StreamStatus, WorkerStatus
from appliance.ingest.mount import Source
from appliance.ring.counters import Count, StreamCount
from appliance.ring.layout import MEDIA_HZ, Word
from appliance.ring.reader import RingReader
from appliance.supervisor.fleet import Place
from appliance.supervisor.main import Ports
from appliance.supervisor.station import Station, StreamFeed
from appliance.supervisor.workers import Handle


class StationView:
    """Implements control's Station protocol."""

    def __init__(self, station: Station, ports: Ports, started_at: float) -> None:
        self._station, self._ports, self._started_at = station, ports, started_at
        self._readers = {key: RingReader(feed.writer.reader_fd) for key, feed in station.feeds.items()}

    def status(self) -> StationStatus:
        """Everything, now."""
        workers = self._station.workers
        return StationStatus(
            version=appliance.__version__,
            started_at=self._started_at,
            listener_port=self._ports.listener,
            source_port=self._ports.source,
            api_port=self._ports.api,
            streams=[self._stream(feed) for feed in self._station.feeds.values()],
            workers=[_worker(handle, workers.fleet.places[handle.place]) for handle in workers.handles],
        )

    def _stream(self, feed: StreamFeed) -> StreamStatus:
        reader, active = self._readers[feed.key], self._station.mount_of(feed).active
        head, epoch = reader.head_seq, reader.current_epoch()
        oldest = reader.oldest(head)
        title = reader.title(reader.meta_id(head - 1)) if head > oldest else None
        pages = [handle.counters.stream(feed.index) for handle in self._station.workers.handles]
        newest = (head - 1) & reader.mask
        return StreamStatus(
            key=feed.key,
            format=feed.config.format,
            title=title.title if title else "",
            url=title.url if title else "",
            stream_key=epoch.stream_key if epoch else "",
            bitrate_bps=epoch.bitrate_bps if epoch else 0,
            on_air=active is not None,
            source=_source(feed, active, self._station) if active else None,
            listeners=sum(page[StreamCount.LISTENERS] for page in pages),
            rewound=sum(page[StreamCount.REWOUND] for page in pages),
            buffer_s=(reader.media[head & reader.mask] - reader.media[oldest & reader.mask]) / MEDIA_HZ,
            window_s=feed.config.seconds,
            head_at=(reader.ts_us(newest) / 1e6) if head > oldest else 0.0,
            bytes_held=reader.pos[head & reader.mask] - reader.words[Word.LIMIT_POS],
            burst_s=feed.config.burst,
        )


def _source(feed: StreamFeed, source: Source, station: Station) -> SourceStatus:
    return SourceStatus(
        mount=station.mount_of(feed).settings.name,
        uuid=source.uuid,
        address=source.address,
        agent=source.agent,
        protocol=source.protocol,
        stream_key=source.format.stream_key if source.format else "",
        active=True,
        connected_at=source.connected_at,
        bytes_received=source.bytes_received,
    )


def _worker(handle: Handle, place: Place) -> WorkerStatus:
    words = handle.counters.worker
    pid = handle.process.pid if handle.process else 0
    return WorkerStatus(
        slot=handle.place,
        pid=pid,
        state=place.phase.value,
        listeners=words[Count.LISTENERS],
        connections_total=words[Count.ACCEPTED],
        bytes_sent=words[Count.BYTES_SENT],
        rss_bytes=_rss_bytes(pid) if pid else 0,
        restarts=place.restarts,
    )


def _rss_bytes(pid: int) -> int:
    """Resident memory without the rings (RssAnon + RssFile)."""
    found = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssFile:")):
                found += int(line.split()[1]) * 1024
    return found
