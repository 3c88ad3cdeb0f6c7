"""Loading: layers, file kinds, files that cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from appliance.config.load import DEFAULT_PATH, ConfigInvalid, find_path, load
from appliance.config.model import Config
from tests.config.texts import errors_of, load_text


def test_nothing_at_all_is_the_defaults() -> None:
    assert load(None, {}).config == Config()


def test_toml_json_and_json_without_suffix_say_the_same(tmp_path: Path) -> None:
    toml = load_text(tmp_path, "port = 9\n[streams.a]\nseconds = 60\n").config
    text = '{"port": 9, "streams": {"a": {"seconds": 60}}}'
    assert toml == load_text(tmp_path, text, name="a.json").config == load_text(tmp_path, f"\n  {text}", name="a.conf").config


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert load_text(tmp_path, "\ufeffport = 9\n").config.port == 9


def test_environment_goes_over_the_file_and_set_over_both(tmp_path: Path) -> None:
    text = "port = 1\nsource_port = 2\napi_port = 3\n"
    config = load_text(tmp_path, text, {"STREAMMACHINE_SOURCE_PORT": "20", "STREAMMACHINE_API_PORT": "30"}, ["api_port=300"]).config
    assert (config.port, config.source_port, config.api_port) == (1, 20, 300)


def test_a_stream_has_from_the_top_what_it_does_not_say(tmp_path: Path) -> None:
    text = 'timezone = "Europe/Berlin"\nlog_interval = 60\n[streams.a]\n[streams.b]\ntimezone = "UTC"\nlog_interval = 5\n'
    streams = load_text(tmp_path, text).config.streams
    assert [(one.timezone, one.log_interval) for one in streams.values()] == [("Europe/Berlin", 60), ("UTC", 5)]


def test_where_the_file_is_looked_for() -> None:
    """--config, else the variable, else /etc; an empty one counts as none."""
    assert find_path("a", {"STREAMMACHINE_CONFIG": "b"}) == Path("a")
    assert find_path(None, {"STREAMMACHINE_CONFIG": "b"}) == Path("b")
    assert find_path("", {"STREAMMACHINE_CONFIG": ""}) == DEFAULT_PATH == Path("/etc/streammachine/streammachine.toml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"nothere\.toml: no such file; allowed: a TOML or JSON file"):
        load(tmp_path / "nothere.toml", {})


def test_a_folder_that_may_not_be_entered_is_no_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a stack trace: the reason comes from reading it."""

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigInvalid, match=r"cannot read .*: Permission denied; allowed: a file that we may read"):
        load(tmp_path / "a.toml", {})


def test_the_missing_default_file_says_how_to_name_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("appliance.config.load.DEFAULT_PATH", tmp_path / "none.toml")
    with pytest.raises(ConfigInvalid, match="name one with --config or \\$STREAMMACHINE_CONFIG"):
        load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "port = \n", "is no valid TOML: Invalid value (at line 1"),
        ("a.toml", "port = 1\nport = 2\n", "is no valid TOML: Cannot overwrite"),
        ("a.json", '{"port": 1', "is no valid JSON: "),
        ("a.json", '{"port": 1, "port": 2}', "the key 'port' is given twice"),
        ("a.json", "[1]", "is no configuration; allowed: a JSON object"),
        ("a.json", '{"a":' * 100_000, "nested too deeply" if sys.version_info < (3, 14) else "is no valid JSON"),
        ("a.toml", "a = " + "[" * 100_000, "is no valid TOML"),
        ("a.toml", "# " + "x" * (4 * 1024 * 1024), "is too large"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, text: str, words: str) -> None:
    (error,) = errors_of(tmp_path, text, name=name)
    assert words in error and error.startswith(str(tmp_path))


def test_a_directory_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="Is a directory"):
        load(tmp_path, {})
    (tmp_path / "a.toml").write_bytes(b"port = 1 # \xff")
    with pytest.raises(ConfigInvalid, match="is not UTF-8 \\(byte 11\\)"):
        load(tmp_path / "a.toml", {})


def test_every_error_comes_at_once(tmp_path: Path) -> None:
    """File, environment, --set, bounds, unknown keys and rules between keys: one load names them all."""
    text = 'port = 70000\nprot = 1\napi_port = 8002\n[streams.a]\nburst = 99\nseconds = 60\n[streams."bad key"]\nformat = "ogg"\n'
    errors = errors_of(tmp_path, text, {"STREAMMACHINE_WORKERS": "many"}, ["streams.a.sekonds=3"])
    assert [error.partition(": ")[0] for error in errors] == [
        "--set streams.a.sekonds",
        "prot",
        "port",
        "workers",
        'streams."bad key"',
        'streams."bad key".format',
        "api_port",
        "streams.a.burst",
    ]


def test_a_file_of_another_kind_gives_a_hundred_errors_at_most(tmp_path: Path) -> None:
    assert len(errors_of(tmp_path, "\n".join(f"k{index} = 1" for index in range(1000)))) == 100
