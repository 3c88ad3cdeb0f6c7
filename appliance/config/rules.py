"""What must hold between keys, and what the bounds of one key cannot say: addresses, patterns, URLs, time zones, mounts.

Each rule keeps quiet about a key that has an error already: what it would see there is only the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import NODEFAULT, structs

from appliance.config import kinds, paths, suggest
from appliance.config.convert import KEY_ALLOWED, key_fault
from appliance.config.model import Config, Program, Settings, SourceConfig, StreamConfig, mounts
from appliance.config.problems import Problems, join, shown

HOST_PATTERN: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
ORIGIN_PATTERN: Final = re.compile(r"https?://" + HOST_PATTERN.pattern)
VARIANT_PATTERN: Final = re.compile(r"(?:mp3|aac):[1-9][0-9]{0,2}k")
START_PATTERN: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9])?")

NOT_YET: Final = frozenset(
    {
        "trusted_proxies",
        "hls.segment_duration",
        "hls.limit_full_index",
        "admin.on_listener_port",
        "redis.server",
        "redis.key",
        "analytics.es_uri",
        "alerts.email.to",
        "alerts.pagerduty.service_key",
        "streams.fallback",
        "streams.monitored",
        "streams.group",
        "streams.bandwidth",
        "streams.codec",
        "streams.ffmpeg_args",
        "streams.variants",
        "streams.programs",
        "streams.preroll",
        "streams.transcoder",
        "streams.log_interval",
        "sources.monitored",
        "sources.url",
        "sources.on_demand",
    }
)
"""Keys that this release reads and checks but does not act on: whoever sets one is told. A feature that comes takes its keys out here."""


def check(config: Config, problems: Problems) -> None:
    """Add what is wrong with `config` to `problems`, and what is only odd as warnings."""
    _ports(config, problems)
    _addresses(config, problems)
    _patterns(config, problems)
    _zone(config.timezone, "timezone", problems)
    _urls(config, problems)
    if not config.admin.require_auth:
        problems.warn("admin.require_auth", "the admin API is open to everybody who reaches api_port")
    if not config.streams:
        problems.warn("streams", "there are none, so there is nothing to listen to")
    for key, stream in config.streams.items():
        _stream(stream, join("streams", key), problems)
    for key, source in config.sources.items():
        _source(source, join("sources", key), problems)
    _root_route(config, problems)
    paths.check_aliases(config, problems)
    _mounts(config, problems)
    _not_yet(config, problems)


def _ports(config: Config, problems: Problems) -> None:
    seen: dict[int, str] = {}
    for name in ("port", "source_port", "api_port"):
        port = getattr(config, name)
        if problems.is_bad(name) or port == 0:
            continue
        if port in seen:
            problems.error(name, f"{port} is {seen[port]} too; allowed: a port of its own (or 0 for any free one)")
        seen.setdefault(port, name)


def _addresses(config: Config, problems: Problems) -> None:
    import ipaddress

    for name in ("bind", "api_bind"):
        value = getattr(config, name)
        try:
            ipaddress.ip_address(value)
        except ValueError:
            problems.error(name, f'{shown(value)} is no IP address; allowed: an address of this machine, "::" or "0.0.0.0" for all')
    for value in config.trusted_proxies:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            hint = " (bits are set behind the prefix)" if "host bits" in str(error) else ""
            problems.error("trusted_proxies", f'{shown(value)} is no network{hint}; allowed: CIDR, "10.0.0.0/8" or "192.0.2.7"')


def _patterns(config: Config, problems: Problems) -> None:
    for pattern in config.ua_skip:
        _pattern(pattern, "ua_skip", problems)
    _pattern(config.hls.limit_full_index, "hls.limit_full_index", problems)
    origin = config.cors.origin
    if origin != "*" and not ORIGIN_PATTERN.fullmatch(origin):
        problems.error("cors.origin", f'{shown(origin)} is no origin; allowed: "*" or "https://radio.example", without a path')


def _pattern(pattern: str, path: str, problems: Problems) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        problems.error(path, f"{shown(pattern)} is no pattern ({error}); allowed: a regular expression")


def _zone(name: str, path: str, problems: Problems) -> None:
    import zoneinfo

    if name in ("", "UTC"):
        return
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        near = suggest.close(name, zoneinfo.available_timezones())
        hint = f"; did you mean {near}?" if near else ""
        problems.error(path, f'{shown(name)} is no time zone{hint}; allowed: a name of the IANA list, "Europe/Berlin" or "UTC"')


def _urls(config: Config, problems: Problems) -> None:
    _url(config.redis.server.reveal(), "redis.server", ("redis", "rediss", "unix"), problems)
    _url(config.analytics.es_uri.reveal(), "analytics.es_uri", ("http", "https"), problems)


def _url(url: str, path: str, schemes: tuple[str, ...], problems: Problems) -> None:
    """Scheme and host; the URL itself is not shown, it may hold a password."""
    from urllib.parse import urlsplit

    if not url:
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname or (parts.scheme in ("file", "unix") and parts.path))
        good = good and parts.port != 0
    except ValueError:
        good = False
    if not good or any(char.isspace() for char in url):
        problems.error(path, f"no usable URL; allowed: {' or '.join(f'{scheme}:' for scheme in schemes)} with a host or path")


def _stream(stream: StreamConfig, path: str, problems: Problems) -> None:
    burst, seconds = join(path, "burst"), join(path, "seconds")
    if stream.burst >= stream.seconds and not problems.is_bad(burst, seconds):
        problems.error(burst, f"{stream.burst:g} is not less than seconds ({stream.seconds}); allowed: less audio than is kept")
    if stream.source and (fault := key_fault(stream.source)):
        problems.error(join(path, "source"), f"{fault}; allowed: a mount's name, {KEY_ALLOWED}")
    if stream.group and (fault := key_fault(stream.group)):
        problems.error(join(path, "group"), f"{fault}; allowed: {KEY_ALLOWED}")
    if stream.host and not HOST_PATTERN.fullmatch(stream.host):
        problems.error(join(path, "host"), f'{shown(stream.host)} is no host; allowed: "radio.example" or "radio.example:8001"')
    for variant in stream.variants:
        if not VARIANT_PATTERN.fullmatch(variant):
            problems.error(join(path, "variants"), f'{shown(variant)} is no variant; allowed: "aac:64k", "mp3:128k"')
    _zone(stream.timezone, join(path, "timezone"), problems)
    _url(stream.fallback.reveal(), join(path, "fallback"), ("file", "http", "https"), problems)
    for name in ("preroll", "transcoder"):
        _url(getattr(stream, name), join(path, name), ("http", "https"), problems)
    for index, program in enumerate(stream.programs):
        _program(program, f"{join(path, 'programs')}[{index}]", problems)


def _program(program: Program, path: str, problems: Problems) -> None:
    from datetime import datetime

    _zone(program.zone, join(path, "zone"), problems)
    if bool(program.start) == bool(program.times) and not problems.is_bad(join(path, "start"), join(path, "times")):
        problems.error(path, "allowed: either start (a time of day) or times (a list of moments)")
    if program.start and not START_PATTERN.fullmatch(program.start):
        problems.error(join(path, "start"), f'{shown(program.start)} is no time of day; allowed: "06:00" or "06:00:30"')
    for moment in program.times:
        try:
            datetime.fromisoformat(moment)
        except ValueError:
            problems.error(join(path, "times"), f'{shown(moment)} is no moment; allowed: ISO 8601, "2026-05-01T06:00:00+02:00"')


def _source(source: SourceConfig, path: str, problems: Problems) -> None:
    _url(source.url.reveal(), join(path, "url"), ("http", "https"), problems)
    if source.on_demand and not source.url:
        problems.error(join(path, "on_demand"), "true without url; allowed: only for a mount that pulls")
    try:
        b"".decode(source.charset or "utf-8")
        b"a".decode(source.charset or "utf-8")
    except (LookupError, ValueError):
        problems.error(join(path, "charset"), f'{shown(source.charset)} is no character set; allowed: "latin-1", "windows-1251", ...')


def _root_route(config: Config, problems: Problems) -> None:
    first, *others = [key for key, stream in config.streams.items() if stream.root_route] or [""]
    for key in others:
        problems.error(join(join("streams", key), "root_route"), f"true, and for {first} too; allowed: one stream for /")


def _mounts(config: Config, problems: Problems) -> None:
    """Each stream's mount: that it exists, delivers what the stream is to be, and lets its encoder in."""
    found = mounts(config)
    passwords: dict[str, str] = {}
    for key, stream in config.streams.items():
        path, name = join("streams", key), stream.source or key
        mount = found[name]
        if stream.source and not mount.password and not mount.url and config.sources and name not in {*config.sources, *config.streams}:
            near = suggest.close(name, config.sources)
            hint = f"; did you mean {near}?" if near else ""
            problems.error(join(path, "source"), f"no mount is called {shown(name)}{hint}; allowed: one of {', '.join(config.sources)}")
            continue
        if stream.format != mount.format and not stream.ffmpeg_args and not problems.is_bad(join(path, "format")):
            problems.error(
                join(path, "format"), f'"{stream.format}", but mount {name} delivers "{mount.format}"; allowed: the same, or ffmpeg_args'
            )
        if stream.source_password and stream.source_password != mount.password:
            where = join("sources", name) if name in config.sources else join("streams", passwords.get(name, name))
            problems.error(join(path, "source_password"), f"mount {name} has its password from {where}; allowed: one password for a mount")
        elif stream.source_password:
            passwords.setdefault(name, key)
    for name, mount in found.items():
        if not mount.password and not mount.url:
            where = join("sources", name) if name in config.sources else join("streams", name)
            problems.warn(where, "no password is set, so no source can connect")


def _not_yet(config: Config, problems: Problems) -> None:
    names = list(_set_in_vain(config, "", ""))
    if names:
        problems.warn(names[0], f"this release does not act on it yet{' (nor on ' + ', '.join(names[1:]) + ')' if names[1:] else ''}")


def _set_in_vain(settings: Settings, path: str, generic: str) -> Iterator[str]:
    """The paths of keys in NOT_YET that are not at their default."""
    for field in structs.fields(type(settings)):
        value: Any = getattr(settings, field.name)
        full, plain = join(path, field.encode_name), f"{generic}{field.encode_name}"
        if isinstance(value, Settings):
            yield from _set_in_vain(value, full, f"{plain}.")
        elif kinds.entry_of(field.type):
            for key, entry in value.items():
                yield from _set_in_vain(entry, join(full, key), f"{plain}.")
        elif plain in NOT_YET and value != (field.default if field.default_factory is NODEFAULT else field.default_factory()):
            yield full
