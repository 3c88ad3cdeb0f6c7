"""The configuration as msgspec structs: every key, its type, its default (INTERFACES.md) and its bounds.

Only types, defaults and bounds that concern one key are here; what concerns several is in rules.py. Reading files is load.py's work, so a
`Config()` made in code has the defaults and nothing else. Structs are frozen: a changed configuration is a new one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field, structs

from appliance.config.secret import PrivateUrl, Secret

DAY_S: Final = 24 * 3600
SECONDS_MAX: Final = 7 * DAY_S
"""A week of rewind: 128 kbit/s fill 9.7 GB by then, and the chunk table 1.2 million rows."""
BURST_MAX_S: Final = 600
"""What every new listener gets at once; more is a download, not a burst."""
CHUNK_MIN_S: Final = 0.1
"""Four MP3 frames: below it the table costs more than the audio's look-up gains."""
CHUNK_MAX_S: Final = 5.0
"""The step of every position; above it live listeners are needlessly late."""
SEND_INTERVAL_MIN_S: Final = 0.25
"""50 phase buckets 5 ms apart: a finer timer costs more than its sends."""
SEND_INTERVAL_MAX_S: Final = 5.0
"""Players buffer about this much; a longer pause is heard."""
META_INTERVAL_MIN: Final = 1024
"""One ICY length byte per KiB; players read the block in place, so smaller only costs."""
META_INTERVAL_MAX: Final = 1024 * 1024
"""A minute at 128 kbit/s: the longest that a title may be late."""
MAX_BUFFER_MIN: Final = 64 * 1024
"""Four seconds at 128 kbit/s: a mobile listener's usual hiccup."""
MAX_BUFFER_MAX: Final = 1024**3
"""The ring holds at least this much, so it is memory."""
PORT_MAX: Final = 65535
WORKERS_MAX: Final = 128
"""Each worker maps the counters pages of all the others, passed in one message of at most 200 fds."""
LISTENERS_MAX: Final = 10_000_000
TIMEOUT_MAX_S: Final = 3600
"""A source silent for an hour is gone."""
LOG_INTERVAL_MAX_S: Final = 900
"""Also tells our seconds from the milliseconds of StreamMachine 0.7.1 (30000), which always exceed it."""
SEGMENT_MIN_S: Final = 1
SEGMENT_MAX_S: Final = 60
"""RFC 8216 has no limit; players wait for three segments before they start."""
TEXT_MAX: Final = 1000
"""Characters of a title, a URL, a pattern: fits into one ICY block (4080 bytes) and one log line."""

Port = Annotated[int, Meta(ge=0, le=PORT_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_MAX)]
Listeners = Annotated[int, Meta(ge=0, le=LISTENERS_MAX)]
LogInterval = Annotated[float, Meta(ge=1, le=LOG_INTERVAL_MAX_S)]
Format = Literal["mp3", "aac"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every table of the configuration is."""


class Cors(Settings, frozen=True):
    """`origin`: "*", or one origin as browsers send it (`https://radio.example`)."""

    enabled: bool = True
    origin: Text = "*"


class Hls(Settings, frozen=True):
    """`limit_full_index`: pattern of the user agents that get the whole window; empty: all do."""

    segment_duration: Annotated[float, Meta(ge=SEGMENT_MIN_S, le=SEGMENT_MAX_S)] = 10
    limit_full_index: Text = ""


class Log(Settings, frozen=True):
    """Logs go to stderr; `json`: one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


class Admin(Settings, frozen=True):
    """Who may use the admin API, and whether it is reachable on the listener port too."""

    require_auth: bool = True
    on_listener_port: bool = False


class RewindDump(Settings, frozen=True):
    """Copies of the rewind buffers on disk. `dir`: None is `state_dir`/rewind; `frequency` in seconds: 0 is at the end only."""

    dir: Path | None = None
    frequency: Annotated[int, Meta(ge=0, le=DAY_S)] = 0


class Redis(Settings, frozen=True):
    """`server`: redis://[user:password@]host[:port][/database], empty: no Redis; `key`: prefix of our keys there."""

    server: PrivateUrl = field(default_factory=PrivateUrl)
    key: Annotated[str, Meta(min_length=1, max_length=100)] = "StreamMachine"


class Analytics(Settings, frozen=True):
    """`es_uri`: http://host:port/PREFIX, empty: off; `finalize_secs` in seconds, the other times in milliseconds as in 0.7.1."""

    es_uri: PrivateUrl = field(default_factory=PrivateUrl)
    finalize_secs: Annotated[int, Meta(ge=10, le=DAY_S)] = 300
    index_batch: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    index_latency: Annotated[int, Meta(ge=10, le=60_000)] = 500
    request_timeout: Annotated[int, Meta(ge=100, le=600_000)] = 30_000


class EmailAlerts(Settings, frozen=True):
    """Off while `to` is empty."""

    host: Text = "localhost"
    port: Annotated[int, Meta(ge=1, le=PORT_MAX)] = 25
    user: Text = ""
    password: Secret = field(default_factory=Secret)
    password_file: Path | None = None
    sender: Text = field(default="", name="from")
    to: Text = ""


class PagerDutyAlerts(Settings, frozen=True):
    """Off while there is no `service_key`."""

    service_key: Secret = field(default_factory=Secret)
    service_key_file: Path | None = None


class Alerts(Settings, frozen=True):
    """Where alerts are sent."""

    email: EmailAlerts = field(default_factory=EmailAlerts)
    pagerduty: PagerDutyAlerts = field(default_factory=PagerDutyAlerts)


class Program(Settings, frozen=True):
    """A programme of a stream: at `start` (HH:MM[:SS]) on `days`, or at each of `times` (ISO 8601). `zone`: empty is the stream's."""

    name: Annotated[str, Meta(min_length=1, max_length=TEXT_MAX)]
    start: Text = ""
    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    zone: Text = ""
    times: tuple[str, ...] = ()


class StreamConfig(Settings, frozen=True):
    """One stream, `[streams.KEY]`. Empty `source`: the mount named KEY; see mounts()."""

    format: Format = "mp3"
    seconds: Annotated[int, Meta(ge=1, le=SECONDS_MAX)] = 14400
    burst: Annotated[float, Meta(ge=0, le=BURST_MAX_S)] = 30
    meta_interval: Annotated[int, Meta(ge=META_INTERVAL_MIN, le=META_INTERVAL_MAX)] = 32768
    max_buffer: Annotated[int, Meta(ge=MAX_BUFFER_MIN, le=MAX_BUFFER_MAX)] = 4194304
    slow_listener: Literal["drop", "skip"] = "drop"
    source: Text = ""
    source_password: Secret = field(default_factory=Secret)
    source_password_file: Path | None = None
    meta_title: Text = ""
    meta_url: Text = ""
    accept_source_meta: bool = True
    root_route: bool = False
    fallback: PrivateUrl = field(default_factory=PrivateUrl)
    monitored: bool = False
    group: Text = ""
    bandwidth: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    codec: Text = ""
    ffmpeg_args: str | tuple[str, ...] = ""
    variants: tuple[str, ...] = ()
    timezone: Text = ""
    programs: tuple[Program, ...] = ()
    aliases: tuple[str, ...] = ()
    host: Text = ""
    preroll: Text = ""
    preroll_key: Text = ""
    transcoder: Text = ""
    impression_delay: Annotated[int, Meta(ge=0, le=600_000)] = 5000
    log_interval: LogInterval | None = None
    max_listeners: Listeners = 0


class SourceConfig(Settings, frozen=True):
    """One source mount, `[sources.KEY]`."""

    password: Secret = field(default_factory=Secret)
    password_file: Path | None = None
    format: Format = "mp3"
    monitored: bool = False
    url: PrivateUrl = field(default_factory=PrivateUrl)
    on_demand: bool = False
    charset: Text = ""
    shoutcast: bool = True


class Config(Settings, frozen=True):
    """The whole configuration; a port of 0 means any free one."""

    port: Port = 8001
    source_port: Port = 8002
    api_port: Port = 8003
    bind: Text = "::"
    api_bind: Text = "127.0.0.1"
    workers: Annotated[int, Meta(ge=0, le=WORKERS_MAX)] = 0
    chunk_duration: Annotated[float, Meta(ge=CHUNK_MIN_S, le=CHUNK_MAX_S)] = 0.5
    send_interval: Annotated[float, Meta(ge=SEND_INTERVAL_MIN_S, le=SEND_INTERVAL_MAX_S)] = 1.0
    state_dir: Path = Path("/var/lib/streammachine")
    runtime_dir: Path = Path("/run/streammachine")
    timezone: Text = "UTC"
    trusted_proxies: tuple[str, ...] = ()
    ua_skip: tuple[str, ...] = ()
    max_listeners: Listeners = 0
    log_interval: LogInterval = 30
    source_timeout: Annotated[float, Meta(ge=1, le=TIMEOUT_MAX_S)] = 10
    cors: Cors = field(default_factory=Cors)
    hls: Hls = field(default_factory=Hls)
    log: Log = field(default_factory=Log)
    admin: Admin = field(default_factory=Admin)
    rewind_dump: RewindDump = field(default_factory=RewindDump)
    redis: Redis = field(default_factory=Redis)
    analytics: Analytics = field(default_factory=Analytics)
    alerts: Alerts = field(default_factory=Alerts)
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    sources: dict[str, SourceConfig] = field(default_factory=dict)


def mounts(config: Config) -> dict[str, SourceConfig]:
    """Every mount by name: those of `[sources]`, and one for each stream whose mount is not among them.

    As in StreamMachine 0.7.1 such a mount takes password, format and `monitored` from its stream: from the first that has a password, else
    the first. A mount of `[sources]` with no password of its own takes its stream's.
    """
    found = dict(config.sources)
    for key, stream in config.streams.items():
        name = stream.source or key
        known = found.get(name)
        if known is None:
            found[name] = SourceConfig(password=stream.source_password, format=stream.format, monitored=stream.monitored)
        elif not known.password and stream.source_password:
            found[name] = structs.replace(known, password=stream.source_password)
    return found
