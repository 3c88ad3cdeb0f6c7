"""Files of StreamMachine 0.7.1: the ones it shipped, and each key that has another name, unit or meaning here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config.legacy import PRIVATE_RANGES
from appliance.config.load import Loaded
from tests.config.texts import errors_of, load_text

STANDALONE = {
    "port": 8001,
    "source_port": 8002,
    "api_port": 8003,
    "log": {"stdout": True},
    "streams": {
        "test": {
            "key": "test",
            "root_route": True,
            "format": "mp3",
            "seconds": 3600,
            "metaTitle": "Testing",
            "host": "localhost",
            "source_password": "testing",
        }
    },
}
"""What its config/standalone.json says."""


def load_old(folder: Path, **keys: Any) -> Loaded:
    return load_text(folder, json.dumps({"streams": {"a": {"source_password": "x"}}} | keys), name="old.json")


def test_its_standalone_file_works_without_a_warning(tmp_path: Path) -> None:
    loaded = load_old(tmp_path, **STANDALONE)
    stream = loaded.config.streams["test"]
    assert (stream.root_route, stream.seconds, stream.meta_title, stream.host) == (True, 3600, "Testing", "localhost")
    assert stream.source_password.reveal() == "testing" and loaded.warnings == []


def test_its_transcoding_file_works(tmp_path: Path) -> None:
    """Two streams of one mount, both `root_route`, one with the other's `key`."""
    stream = {"key": "test-mp3", "root_route": True, "seconds": 3600, "metaTitle": "Testing", "source": "test"}
    mp3 = {**stream, "format": "mp3", "ffmpeg_args": "-c:a libmp3lame|-b:a 64k|-f:a adts|-ac 1"}
    aac = {**stream, "format": "aac", "ffmpeg_args": "-c:a libfdk_aac|-b:a 48k|-f:a adts|-profile:a aac_he"}
    sources = {"test": {"format": "mp3", "password": "testing"}}
    loaded = load_old(tmp_path, sources=sources, streams={"test-mp3": mp3, "test-aac": aac})
    assert [stream.root_route for stream in loaded.config.streams.values()] == [False, True]
    assert loaded.config.sources["test"].password.reveal() == "testing"
    assert loaded.warnings[:2] == [
        'streams.test-aac.key: "test-mp3" ignored: the name is "test-aac", as it was in StreamMachine',
        "streams.test-mp3.root_route: ignored: test-aac has it too and comes later",
    ]


def test_its_example_of_a_master_works_with_warnings(tmp_path: Path) -> None:
    loaded = load_old(
        tmp_path,
        mode="master",
        source_port=8016,
        master={"port": 8020, "password": "super_secure_password"},
        log={"stdout": True, "json": {"file": "/x", "level": "info"}, "w3c": {"file": "/y"}, "campfire": {"token": "hunter2"}},
        alerts={
            "email": {
                "mailer_type": "SES",
                "mailer_options": {"AWSSecretKey": "hunter2"},
                "email_options": {"from": "a@my.domain", "to": "b@my.domain"},
            },
            "pagerduty": {"serviceKey": "hunter2"},
        },
        redis={"server": "redis://localhost:6379"},
    )
    config = loaded.config
    assert (config.source_port, config.redis.server.reveal()) == (8016, "redis://localhost:6379")
    assert (config.alerts.email.sender, config.alerts.email.to) == ("a@my.domain", "b@my.domain")
    assert config.alerts.pagerduty.service_key.reveal() == "hunter2"
    starts = ["master", "mode", "log.json", "log.w3c", "log.campfire", "alerts.email.mailer_type", "redis.server"]
    assert [warning.partition(": ")[0] for warning in loaded.warnings] == starts
    assert "hunter2" not in str(loaded) and "super_secure" not in str(loaded)


def test_its_example_of_a_slave_works_with_warnings(tmp_path: Path) -> None:
    loaded = load_old(tmp_path, mode="slave", slave={"master": "ws://host:8020?password=pw"}, cluster=2, port=8017, log={"stdout": True})
    assert (loaded.config.workers, loaded.config.port) == (2, 8017) and len(loaded.warnings) == 2


def test_every_stream_key_of_it_is_taken(tmp_path: Path) -> None:
    """Its DefaultOptions, written out as its API gives them."""
    stream = {
        "meta_interval": 32768, "max_buffer": 4194304, "key": "a", "seconds": 14400, "burst": 30, "source_password": None,
        "host": None, "fallback": None, "acceptSourceMeta": False, "log_minutes": True, "monitored": False, "metaTitle": "", "metaUrl": "",
        "format": "mp3", "preroll": "", "preroll_key": "", "transcoder": "", "root_route": False, "group": None, "bandwidth": 0,
        "codec": None, "ffmpeg_args": None, "stream_key": None, "impression_delay": 5000,
        "log_interval": 30000, "hls": {"segment_duration": 10},
    }  # fmt: skip
    loaded = load_old(tmp_path, streams={"a": stream})
    assert loaded.config.streams["a"].accept_source_meta is False and loaded.config.streams["a"].log_interval == 30
    assert [warning.partition(": ")[0] for warning in loaded.warnings] == [
        "streams.a.log_minutes",
        "streams.a.hls",
        "streams.a.log_interval",
        "streams.a",
        "streams.a.log_interval",
    ]


def test_every_default_of_it_is_taken(tmp_path: Path) -> None:
    """Its top-level Defaults: `false` for "none", milliseconds, an open admin API."""
    loaded = load_old(
        tmp_path,
        mode="standalone", handoff_type="external", port=8000, source_port=8001, log={"stdout": True}, ua_skip=False,
        hls={"segment_duration": 10, "limit_full_index": False},
        analytics={"finalize_secs": 300, "index_batch": 1000, "index_latency": 500},
        chunk_duration=2, behind_proxy=False, cluster=2, log_interval=30000, admin={"require_auth": False}, cors={"enabled": True},
    )  # fmt: skip
    config = loaded.config
    assert (config.port, config.chunk_duration, config.workers, config.log_interval) == (8000, 2, 2, 30)
    assert (config.ua_skip, config.hls.limit_full_index, config.trusted_proxies, config.admin.require_auth) == ((), "", (), False)
    assert [warning.partition(": ")[0] for warning in loaded.warnings] == ["handoff_type", "log_interval", "admin.require_auth"]


@pytest.mark.parametrize(
    ("keys", "path", "value"),
    [
        ({"log": {"stdout": {"level": "debug", "colorize": True}}}, "log.level", "debug"),
        ({"log": {"stdout": {"level": "event"}}}, "log.level", "info"),
        ({"log": {"stdout": {"level": "debug"}, "level": "error"}}, "log.level", "error"),
        ({"log": {"json": True}}, "log.json", True),
        ({"cors": False}, "cors.enabled", False),
        ({"rewind_dump": {"dir": "/srv/x", "frequency": -1}}, "rewind_dump.frequency", 0),
        ({"rewind_dump": {"dir": "dumps"}}, "rewind_dump.dir", Path.cwd() / "dumps"),
        ({"rewind_dump": False, "redis": None, "analytics": False}, "rewind_dump.dir", None),
        ({"analytics": {"es_uri": "http://host:9200/prefix", "request_timeout": 5000}}, "analytics.request_timeout", 5000),
        ({"port": "9000"}, "port", 9000),
        ({"log_interval": "30000"}, "log_interval", 30),
        ({"log_interval": 60}, "log_interval", 60),
        ({"sourcePort": 9000}, "source_port", 9000),
        ({"redis": {"server": "redis://localhost", "key": "Mine"}}, "redis.key", "Mine"),
        ({"alerts": {"email": {"mailer_type": "SMTP", "mailer_options": {"host": "mail", "port": 587}}}}, "alerts.email.host", "mail"),
        ({"ua_skip": ["^curl", "Bot"]}, "ua_skip", ("^curl", "Bot")),
    ],
)
def test_a_key_with_another_form(tmp_path: Path, keys: dict[str, Any], path: str, value: Any) -> None:
    found: Any = load_old(tmp_path, **keys).config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_smtp_login(tmp_path: Path) -> None:
    options = {"host": "mail", "port": 587, "auth": {"user": "me", "pass": "hunter2"}}
    email = load_old(tmp_path, alerts={"email": {"mailer_options": options, "email_options": {"to": "b@x"}}}).config.alerts.email
    assert (email.host, email.port, email.user, email.password.reveal(), email.to) == ("mail", 587, "me", "hunter2", "b@x")


def test_prerolls_of_all_streams(tmp_path: Path) -> None:
    """The top-level ones are the default of each stream."""
    streams = {"a": {}, "b": {"preroll": "http://own/"}}
    found = load_old(tmp_path, preroll="http://ads/", transcoder="http://t/", streams=streams).config.streams
    assert [(one.preroll, one.transcoder) for one in found.values()] == [("http://ads/", "http://t/"), ("http://own/", "http://t/")]
    assert load_old(tmp_path, preroll="", transcoder=False).config.streams["a"].preroll == ""


def test_a_mounts_old_password_key(tmp_path: Path) -> None:
    sources = {"m": {"key": "m", "source_password": "old"}, "n": {"password": "new", "source_password": "old"}}
    found = load_old(tmp_path, sources=sources, streams={"a": {"source": "m"}}).config.sources
    assert [one.password.reveal() for one in found.values()] == ["old", "new"]


def test_what_neither_knows_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    text = json.dumps({"prot": 1, "streams": {"a": {"metaTitel": "x", "metaTitle": "y", "meta_title": "z"}}})
    assert errors_of(tmp_path, text, name="old.json") == [
        "prot: no such key; did you mean port?",
        "streams.a.metaTitel: no such key; did you mean meta_title?",
        "streams.a.metaTitle: no such key; did you mean meta_title?",
    ]


def test_values_of_the_wrong_kind_do_not_stop_the_translation(tmp_path: Path) -> None:
    keys = {"log": 1, "alerts": {"email": 2, "pagerduty": []}, "streams": {"a": 3}, "sources": [], "rewind_dump": "x", "log_interval": True}
    found = errors_of(tmp_path, json.dumps(keys), name="old.json")
    assert [error.partition(": ")[0] for error in found] == [
        "log_interval",
        "log",
        "rewind_dump",
        "alerts.email",
        "alerts.pagerduty",
        "streams.a",
        "sources",
    ]


@pytest.mark.parametrize(
    ("text", "environ", "sets"),
    [
        ("behind_proxy = true", {}, []),
        ("", {"STREAMMACHINE_BEHIND_PROXY": "yes"}, []),
        ("behind_proxy = false", {}, ["behind_proxy=true"]),
    ],
)
def test_behind_proxy_is_every_private_address_and_warns(tmp_path: Path, text: str, environ: dict[str, str], sets: list[str]) -> None:
    """In every kind of file and layer."""
    loaded = load_text(tmp_path, text, environ, sets)
    assert loaded.config.trusted_proxies == PRIVATE_RANGES
    assert loaded.warnings[0].startswith("behind_proxy: every private address is now trusted")


def test_behind_proxy_gives_way_to_trusted_proxies(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "behind_proxy = true\ntrusted_proxies = ['192.0.2.7']\n")
    assert loaded.config.trusted_proxies == ("192.0.2.7",) and loaded.warnings[0] == "behind_proxy: ignored beside trusted_proxies"
    assert load_text(tmp_path, "behind_proxy = false\n").config.trusted_proxies == ()
    (error,) = errors_of(tmp_path, "behind_proxy = 3\n")
    assert error == "behind_proxy: 3 is not allowed; allowed: true or false (better: trusted_proxies)"
