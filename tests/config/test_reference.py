"""etc/streammachine/streammachine.toml: the reference of every key, against the model."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo

from appliance.config import convert, kinds
from appliance.config.load import load
from appliance.config.model import Config, SourceConfig, StreamConfig
from appliance.config.problems import Problems

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "etc/streammachine/streammachine.toml"
DOCS = ROOT / "docs/configuration.md"
TABLE = re.compile(r"^#?\[{1,2}([a-z_.]+)\]{1,2}$")
KEY = re.compile(r"^#?([a-z_]+) = (.+)$")
EXAMPLES = {"streams.KEY.programs.name", "streams.KEY.programs.start"}
"""Keys shown with an example: a program must have a name and a time."""
INHERITED = {"streams.KEY.log_interval": 30}
"""Keys shown with what they inherit."""


def shown_keys() -> Iterator[tuple[str, Any]]:
    """(path with KEY, value) of every key line of the reference, commented or not."""
    table = ""
    for line in REFERENCE.read_text().splitlines():
        if found := TABLE.match(line):
            table = found[1].replace(".live", ".KEY") + "."
        elif found := KEY.match(line):
            yield table + found[1], tomllib.loads(f"value = {found[2]}")["value"]


def leaves() -> dict[str, FieldInfo]:
    return {
        path: field
        for path, field in kinds.every_key(Config)
        if not (kinds.table_of(field.type) or kinds.entry_of(field.type) or kinds.item_of(field.type))
    }


def test_every_key_of_the_model_is_in_the_reference_and_every_key_there_is_in_the_model() -> None:
    """Neither has one that the other lacks, and none is there twice."""
    shown = [path for path, _ in shown_keys()]
    assert sorted(shown) == sorted(leaves())


def test_the_values_shown_are_the_defaults() -> None:
    """What a commented key shows is what holds without it."""
    fields = leaves()
    for path, value in shown_keys():
        field = fields[path]
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        problems = Problems()
        meant = convert._leaf(field.type, value, path, problems)
        assert not problems.errors
        if path not in EXAMPLES:
            assert meant == INHERITED.get(path, default), path


def test_the_reference_is_valid_as_it_is_and_changes_nothing() -> None:
    loaded = load(REFERENCE, {})
    assert loaded.config == Config()


def test_the_reference_is_valid_with_every_key_uncommented(tmp_path: Path) -> None:
    """So each line can be taken as it stands; streams and mounts are then those of the defaults."""
    lines = [line.removeprefix("#") if TABLE.match(line) or KEY.match(line) else line for line in REFERENCE.read_text().splitlines()]
    whole = tmp_path / "whole.toml"
    whole.write_text("\n".join(lines))
    config = load(whole, {}).config
    assert set(config.streams) == set(config.sources) == {"live"}
    stream = config.streams["live"]
    assert stream.programs[0].name == "morning"
    plain = StreamConfig(timezone="UTC", log_interval=30, programs=stream.programs)
    assert stream == plain and config.sources["live"] == SourceConfig()


@pytest.mark.parametrize("path", sorted(leaves()))
def test_every_key_is_in_the_documentation(path: str) -> None:
    """docs/configuration.md names each key."""
    assert f"`{path.rpartition('.')[2]}`" in DOCS.read_text()
