"""Rules between keys, and those of one key that no bound can say."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config import kinds
from appliance.config.model import Config
from appliance.config.rules import NOT_YET
from tests.config.texts import errors_of, load_text

PASSWORD = "source_password = 'pw'\n"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("source_port = 8001", "source_port: 8001 is port too; allowed: a port of its own (or 0 for any free one)"),
        ("port = 8003", "api_port: 8003 is port too"),
        ('bind = "localhost"', 'bind: "localhost" is no IP address; allowed: an address of this machine, "::" or "0.0.0.0" for all'),
        ('api_bind = ""', 'api_bind: "" is no IP address'),
        ('trusted_proxies = ["10.0.0.1/8"]', 'trusted_proxies: "10.0.0.1/8" is no network (bits are set behind the prefix); allowed: CIDR'),
        ('trusted_proxies = ["proxy"]', 'trusted_proxies: "proxy" is no network; allowed: CIDR, "10.0.0.0/8" or "192.0.2.7"'),
        (
            'ua_skip = ["ok", "("]',
            'ua_skip: "(" is no pattern (missing ), unterminated subpattern at position 0); allowed: a regular expression',
        ),
        ('hls.limit_full_index = "*"', 'hls.limit_full_index: "*" is no pattern (nothing to repeat at position 0)'),
        (
            'cors.origin = "radio.example"',
            'cors.origin: "radio.example" is no origin; allowed: "*" or "https://radio.example", without a path',
        ),
        ('cors.origin = "https://radio.example/"', 'cors.origin: "https://radio.example/" is no origin'),
        ('timezone = "Europe/Berln"', 'timezone: "Europe/Berln" is no time zone; did you mean Europe/Berlin?; allowed: a name of the IANA'),
        ('timezone = "../etc/passwd"', 'timezone: "../etc/passwd" is no time zone; allowed'),
        ('timezone = "Europe"', 'timezone: "Europe" is no time zone'),
        ('redis.server = "localhost"', "redis.server: no usable URL; allowed: redis: or rediss: or unix: with a host or path"),
        ('redis.server = "redis://:hun/ter2@host"', "redis.server: no usable URL"),
        ('analytics.es_uri = "http://"', "analytics.es_uri: no usable URL; allowed: http: or https:"),
        (
            "streams.a.burst = 60\nstreams.a.seconds = 60",
            "streams.a.burst: 60 is not less than seconds (60); allowed: less audio than is kept",
        ),
        ("streams.a.seconds = 30", "streams.a.burst: 30 is not less than seconds (30)"),
        ('streams.a.source = "a/b"', "streams.a.source: not a usable name; allowed: a mount's name, 1 to 64 of"),
        ('streams.a.group = "x.m3u8"', "streams.a.group: ends as playlists and reports do; allowed: 1 to 64"),
        ('streams.a.host = "http://x"', 'streams.a.host: "http://x" is no host; allowed: "radio.example" or "radio.example:8001"'),
        ('streams.a.variants = ["opus:64k"]', 'streams.a.variants: "opus:64k" is no variant; allowed: "aac:64k", "mp3:128k"'),
        ('streams.a.timezone = "X/Y"', 'streams.a.timezone: "X/Y" is no time zone'),
        ('streams.a.fallback = "/music.mp3"', "streams.a.fallback: no usable URL; allowed: file: or http: or https: with a host or path"),
        ('streams.a.preroll = "ftp://x"', "streams.a.preroll: no usable URL"),
        (
            'streams.a.programs = [{name = "x"}]',
            "streams.a.programs[0]: allowed: either start (a time of day) or times (a list of moments)",
        ),
        ('streams.a.programs = [{name = "x", start = "25:00"}]', 'streams.a.programs[0].start: "25:00" is no time of day'),
        ('streams.a.programs = [{name = "x", times = ["now"]}]', 'streams.a.programs[0].times: "now" is no moment; allowed: ISO 8601'),
        ('streams.a.programs = [{name = "x", start = "06:00", zone = "X"}]', 'streams.a.programs[0].zone: "X" is no time zone'),
        ('sources.m.url = "file:/x"', "sources.m.url: no usable URL; allowed: http: or https:"),
        ("sources.m.on_demand = true", "sources.m.on_demand: true without url; allowed: only for a mount that pulls"),
        ('sources.m.charset = "klingon"', 'sources.m.charset: "klingon" is no character set; allowed: "latin-1"'),
        ('sources.m.charset = "base64"', 'sources.m.charset: "base64" is no character set'),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, start: str) -> None:
    (error,) = errors_of(tmp_path, text)
    assert error.startswith(start) and "hun" not in error


@pytest.mark.parametrize(
    "text",
    [
        "port = 0\nsource_port = 0\napi_port = 0",
        'bind = "0.0.0.0"\napi_bind = "::1"',
        'trusted_proxies = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]',
        'cors.origin = "https://radio.example:8443"',
        'timezone = "America/Los_Angeles"',
        'redis.server = "redis://:pw@localhost:6379/1"',
        'redis.server = "unix:///run/redis.sock"',
        'streams.a.fallback = "file:/srv/music.mp3"',
        'streams.a.fallback = "file:///srv/music.mp3"',
        'streams.a.host = "[::1]:8001"',
        'sources.m = {url = "https://me:pw@radio.example/x", on_demand = true, charset = "windows-1251"}',
    ],
)
def test_what_is_allowed(tmp_path: Path, text: str) -> None:
    load_text(tmp_path, text)


def test_a_rule_says_nothing_of_a_key_that_has_an_error_already(tmp_path: Path) -> None:
    """Else the default, which nobody wrote, would be blamed."""
    (error,) = errors_of(tmp_path, 'port = "x"\nsource_port = 8001\n')
    assert error.startswith("port: ")
    (error,) = errors_of(tmp_path, "streams.a = {seconds = 10, burst = 'x'}\n")
    assert error.startswith("streams.a.burst: ")


def test_one_stream_has_the_root(tmp_path: Path) -> None:
    text = "[streams.a]\nroot_route = true\n[streams.b]\n[streams.c]\nroot_route = true\n"
    assert errors_of(tmp_path, text) == ["streams.c.root_route: true, and for a too; allowed: one stream for /"]


def test_a_mount_that_nobody_has_is_a_slip_of_the_pen(tmp_path: Path) -> None:
    text = "[sources.studio]\npassword = 'pw'\n[streams.a]\nsource = 'studoi'\n"
    assert errors_of(tmp_path, text) == ['streams.a.source: no mount is called "studoi"; did you mean studio?; allowed: one of studio']


def test_a_mount_is_made_where_none_is_declared(tmp_path: Path) -> None:
    """Without [sources]; with a password of its own; or of another stream's name."""
    assert load_text(tmp_path, f"[streams.a]\nsource = 'studio'\n{PASSWORD}").warnings == []
    declared = "[sources.m]\npassword = 'pw'\n"
    assert load_text(tmp_path, f"{declared}[streams.a]\nsource = 'studio'\n{PASSWORD}").warnings == []
    assert load_text(tmp_path, f"{declared}[streams.b]\n{PASSWORD}[streams.a]\nsource = 'b'\n").warnings == []


def test_a_mount_without_a_password_gives_a_warning(tmp_path: Path) -> None:
    assert load_text(tmp_path, "[streams.a]\n").warnings == ["streams.a: no password is set, so no source can connect"]
    assert load_text(tmp_path, "[streams.a]\nsource = 'm'\n[sources.m]\n").warnings == [
        "sources.m: no password is set, so no source can connect"
    ]


def test_a_mount_has_one_password(tmp_path: Path) -> None:
    text = f"[streams.a]\n{PASSWORD}[streams.b]\nsource = 'a'\nsource_password = 'hunter2'\n"
    assert errors_of(tmp_path, text) == [
        "streams.b.source_password: mount a has its password from streams.a; allowed: one password for a mount"
    ]
    text = f"[sources.a]\npassword = 'hunter2'\n[streams.a]\n{PASSWORD}"
    assert errors_of(tmp_path, text) == [
        "streams.a.source_password: mount a has its password from sources.a; allowed: one password for a mount"
    ]
    assert load_text(tmp_path, f"[streams.a]\n{PASSWORD}[streams.b]\nsource = 'a'\n{PASSWORD}").warnings == []


def test_a_stream_has_its_mounts_format_or_a_transcoder(tmp_path: Path) -> None:
    text = f"[streams.a]\n{PASSWORD}[streams.b]\nsource = 'a'\nformat = 'aac'\n"
    assert errors_of(tmp_path, text) == ['streams.b.format: "aac", but mount a delivers "mp3"; allowed: the same, or ffmpeg_args']
    load_text(tmp_path, text + "ffmpeg_args = '-c:a|aac'\n")


def test_odd_things_give_warnings(tmp_path: Path) -> None:
    assert load_text(tmp_path, "").warnings == ["streams: there are none, so there is nothing to listen to"]
    assert load_text(tmp_path, f"admin.require_auth = false\n[streams.a]\n{PASSWORD}").warnings == [
        "admin.require_auth: the admin API is open to everybody who reaches api_port"
    ]


def test_keys_that_wait_for_their_feature_say_so(tmp_path: Path) -> None:
    """Set to something: one warning with all of them; set to their default: none."""
    text = f"redis.server = 'redis://host'\n[streams.a]\nfallback = 'file:/x.mp3'\nmonitored = false\n{PASSWORD}"
    assert load_text(tmp_path, text).warnings == ["redis.server: this release does not act on it yet (nor on streams.a.fallback)"]
    text = f"[streams.a]\nmonitored = true\n{PASSWORD}"
    assert load_text(tmp_path, text).warnings == ["streams.a.monitored: this release does not act on it yet"]


def test_those_keys_exist() -> None:
    assert {path.replace(".KEY", "") for path, _ in kinds.every_key(Config)} >= NOT_YET
