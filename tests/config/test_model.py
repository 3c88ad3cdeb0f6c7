"""The model: INTERFACES' defaults, and which mounts there are."""

from __future__ import annotations

import subprocess
import sys

import pytest
from msgspec import structs

from appliance.config.model import Config, SourceConfig, StreamConfig, mounts
from appliance.config.secret import Secret


def test_the_defaults_are_those_of_the_interface() -> None:
    config, stream, source = Config(), StreamConfig(), SourceConfig()
    assert (config.port, config.source_port, config.api_port, config.bind, config.api_bind) == (8001, 8002, 8003, "::", "127.0.0.1")
    assert (config.workers, config.chunk_duration, config.send_interval) == (0, 0.5, 1.0)
    assert (str(config.state_dir), str(config.runtime_dir)) == ("/var/lib/streammachine", "/run/streammachine")
    assert (config.timezone, config.trusted_proxies, config.ua_skip, config.max_listeners) == ("UTC", (), (), 0)
    assert (config.cors.enabled, config.cors.origin, config.hls.segment_duration) == (True, "*", 10)
    assert (config.admin.require_auth, config.admin.on_listener_port) == (True, False)
    assert (config.log_interval, config.source_timeout) == (30, 10)
    assert (stream.format, stream.seconds, stream.burst, stream.meta_interval, stream.max_buffer) == ("mp3", 14400, 30, 32768, 4194304)
    assert (stream.slow_listener, stream.accept_source_meta, stream.root_route, stream.monitored) == ("drop", True, False, False)
    assert (stream.max_listeners, source.on_demand, source.shoutcast) == (0, False, True)


def test_the_configuration_cannot_be_changed_in_place() -> None:
    """Who holds a configuration can rely on it: a changed one is another object."""
    with pytest.raises(AttributeError):
        Config().port = 1  # type: ignore[misc]


def test_a_stream_without_source_has_a_mount_of_its_own() -> None:
    stream = StreamConfig(source_password=Secret("pw"), format="aac", monitored=True)
    mount = mounts(Config(streams={"live": stream}))["live"]
    assert (mount.password.reveal(), mount.format, mount.monitored) == ("pw", "aac", True)


def test_streams_that_share_a_mount_share_the_first_password() -> None:
    streams = {"a": StreamConfig(source="m"), "b": StreamConfig(source="m", source_password=Secret("pw"))}
    found = mounts(Config(streams=streams))
    assert list(found) == ["m"] and found["m"].password.reveal() == "pw"


def test_a_mount_of_sources_keeps_its_own_password() -> None:
    streams = {"a": StreamConfig(source="m", source_password=Secret("stream"))}
    declared = SourceConfig(password=Secret("mount"), charset="latin-1")
    assert mounts(Config(streams=streams, sources={"m": declared}))["m"] == declared
    bare = structs.replace(declared, password=Secret())
    taken = mounts(Config(streams=streams, sources={"m": bare}))["m"]
    assert (taken.password.reveal(), taken.charset) == ("stream", "latin-1")


def test_loading_it_is_cheap() -> None:
    """The model alone pulls in no time zones, network or archive modules."""
    dear = ("zoneinfo", "asyncio", "socket", "logging", "json")
    code = f"import sys, appliance.config.model; print([name for name in {dear} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
