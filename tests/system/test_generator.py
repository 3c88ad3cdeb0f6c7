"""The generator without systemd: what it writes for a configuration, and that no configuration stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.config.model import Config
from appliance.system import generator
from appliance.system.generator import Unit, units
from tests.rules.sources import ROOT


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be said in the journal."""
    lines: list[str] = []
    monkeypatch.setattr(generator, "tell", lines.append)
    return lines


def generate(tmp_path: Path, text: str, name: str = "streammachine.toml") -> tuple[int, dict[str, list[str]], dict[str, str]]:
    """(exit code, ListenStream= values by unit, whole texts by unit) for a configuration."""
    config, out = tmp_path / name, tmp_path / "out"
    config.write_text(text)
    out.mkdir()
    code = generator.run(out, {"STREAMMACHINE_CONFIG": str(config)}, 2)
    texts = {path.parent.name.removesuffix(".d"): path.read_text() for path in out.glob("*/*.conf")}
    streams = {
        name: [line.removeprefix("ListenStream=") for line in text.splitlines() if line.startswith("ListenStream=")]
        for name, text in texts.items()
    }
    return code, streams, texts


DEFAULTS = {
    "streammachine.socket": ["", "8001", "8001"],
    "streammachine-source.socket": ["", "8002"],
    "streammachine-api.socket": ["", "127.0.0.1:8003"],
}
"""With two cores; the empty line takes away what the shipped unit says."""


def test_an_empty_configuration_has_the_default_ports_and_a_slot_for_each_core(tmp_path: Path, told: list[str]) -> None:
    assert generate(tmp_path, "")[:2] == (0, DEFAULTS)
    assert told == []


def test_ports_addresses_and_workers_are_the_configurations(tmp_path: Path, told: list[str]) -> None:
    """Whatever else is wrong with it: that is for `serve` to say."""
    text = 'port = 80\nsource_port = 81\napi_port = 82\nbind = "192.0.2.1"\napi_bind = "::1"\nworkers = 3\ncolour = 1\nchunk_duration = "x"'
    code, streams, _ = generate(tmp_path, text)
    assert (code, told) == (0, [])
    assert streams == {
        "streammachine.socket": ["", *["192.0.2.1:80"] * 3],
        "streammachine-source.socket": ["", "192.0.2.1:81"],
        "streammachine-api.socket": ["", "[::1]:82"],
    }


def test_a_json_file_of_the_predecessor_is_read_as_well(tmp_path: Path, told: list[str]) -> None:
    streams = generate(tmp_path, '{"port": 9001, "sourcePort": 9002, "cluster": 1}', "old.json")[1]
    assert streams["streammachine.socket"][1:] == ["9001"]
    assert streams["streammachine-source.socket"][1:] == ["9002"]


@pytest.mark.parametrize(
    "text",
    [
        "port = = 1",
        "port = 99999",
        'port = "\\n[Service]\\nExecStart=/bin/sh"',
        'bind = "radio.example"',
        'bind = "fe80::1%a b"',
        "workers = 1000",
        "port = 8002",
        "{",
        "\x00",
    ],
)
def test_what_cannot_be_used_gives_the_defaults_and_the_reason(tmp_path: Path, told: list[str], text: str) -> None:
    """In the exit code, in a line, and in the drop-ins; never in a line that systemd would take for a setting."""
    code, streams, texts = generate(tmp_path, text)
    assert (code, streams) == (1, DEFAULTS)
    assert told
    for one in texts.values():
        assert "# DEFAULT PORTS, because of " in one
        assert {line.partition("=")[0] for line in one.splitlines() if not line.startswith("#")} == {"[Socket]", "ListenStream"}


def test_no_file_at_all(tmp_path: Path, told: list[str]) -> None:
    assert generator.run(tmp_path, {"STREAMMACHINE_CONFIG": str(tmp_path / "none.toml")}, 2) == 1
    assert "No such file" in told[0]
    assert (tmp_path / "streammachine.socket.d" / generator.DROP_IN).exists()


def test_a_fifo_is_not_waited_for(tmp_path: Path, told: list[str]) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert generator.run(tmp_path, {"STREAMMACHINE_CONFIG": str(tmp_path / "fifo")}, 2) == 1
    assert "is no file" in told[0]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, told: list[str]) -> None:
    assert generator.run(tmp_path / "missing" / "\0", {"STREAMMACHINE_CONFIG": "/dev/null"}, 2) == 1
    assert "default ports" in told[0]


def test_port_0_masks_the_unit(tmp_path: Path, told: list[str]) -> None:
    """Any free port: only the server can choose it."""
    code, streams, _ = generate(tmp_path, "port = 0\napi_port = 0")
    assert (code, list(streams)) == (0, ["streammachine-source.socket"])
    assert os.readlink(tmp_path / "out" / "streammachine.socket") == "/dev/null"


def test_dual_stack_is_a_bare_port_and_all_of_ipv4_is_not() -> None:
    """ListenStream=8001 is IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    assert units(Config(bind="0.0.0.0", workers=1), 8)[0] == Unit("streammachine.socket", ["0.0.0.0:8001"])
    assert units(Config(), 8)[0].streams == ["8001"] * 8
    assert units(Config(bind="fe80::1%eth0", workers=1), 8)[0].streams == ["[fe80::1%%eth0]:8001"]


def test_it_is_quick_and_loads_nothing_of_the_server(tmp_path: Path) -> None:
    """Every boot and every daemon-reload waits for it: 0.1 s here."""
    code = f"import sys; from appliance.system.generator import main; code = main([{str(tmp_path)!r}, 'early', 'late'])\n"
    code += "print(code, sorted({'numpy', 'uvloop', 'aiohttp', 'structlog', 'asyncio'} & sys.modules.keys()))"
    environment = {**os.environ, "STREAMMACHINE_CONFIG": "/dev/null"}
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout == "1 []\n", done.stderr
    assert "/dev/null" in done.stderr
    assert time.monotonic() - begun < 5


def test_the_shipped_units_agree_with_the_generator() -> None:
    """The same units, each with a default port and the name that the supervisor looks for."""
    from appliance.supervisor import listening

    found = units(Config(workers=2), 2)
    names = dict(zip((unit.name for unit in found), (listening.LISTENER, listening.SOURCE, listening.API), strict=True))
    for unit in found:
        lines = (ROOT / "systemd" / unit.name).read_text().splitlines()
        assert [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")] == unit.streams
        assert f"FileDescriptorName={names[unit.name]}" in lines
    service = (ROOT / "systemd" / "streammachine.service").read_text()
    assert all(name in service for name in names)
