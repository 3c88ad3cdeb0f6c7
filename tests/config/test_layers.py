"""The environment and --set."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.load import load
from appliance.config.model import Config, StreamConfig
from tests.config.texts import errors_of, load_text

STREAMS = '[streams.test]\nseconds = 60\nburst = 5\n[streams."my.stream-2"]\n[streams.a__b]\n'


def from_environment(**environ: str) -> Config:
    return load(None, {f"STREAMMACHINE_{name}": value for name, value in environ.items()}).config


def stream_set(folder: Path, *sets: str, key: str = "test") -> StreamConfig:
    return load_text(folder, STREAMS, sets=sets).config.streams[key]


def test_the_interfaces_examples() -> None:
    config = from_environment(PORT="9000", STREAMS__TEST__SECONDS="3600")
    assert config.port == 9000 and config.streams["test"].seconds == 3600


@pytest.mark.parametrize("name", ["STREAMMACHINE_SOURCE_PORT", "streammachine_source_port", "StreamMachine_Source_Port"])
def test_keys_match_in_any_case(name: str) -> None:
    assert load(None, {name: "9000"}).config.source_port == 9000


@pytest.mark.parametrize(
    ("variable", "key"),
    [("TEST", "test"), ("Test", "test"), ("MY_STREAM_2", "my.stream-2"), ("MY.STREAM-2", "my.stream-2"), ("A__B", "a__b"), ("New", "new")],
)
def test_a_variable_finds_its_stream(tmp_path: Path, variable: str, key: str) -> None:
    """In any case, `_` for what shells do not allow, `__` inside too; an unknown one is new, in lower case."""
    streams = load_text(tmp_path, STREAMS, {f"STREAMMACHINE_STREAMS__{variable}__SECONDS": "77"}).config.streams
    assert streams[key].seconds == 77 and len(streams) == (4 if key == "new" else 3)


def test_the_exact_name_wins(tmp_path: Path) -> None:
    text = "[streams.test]\n[streams.TEST]\n"
    streams = load_text(tmp_path, text, {"STREAMMACHINE_STREAMS__TEST__SECONDS": "77"}).config.streams
    assert (streams["TEST"].seconds, streams["test"].seconds) == (77, 14400)


def test_text_is_taken_as_it_is() -> None:
    """A password of digits, a title in quotes: nothing is parsed away."""
    stream = from_environment(STREAMS__A__SOURCE_PASSWORD="0123", STREAMS__A__META_TITLE='"Live"', STREAMS__A__HOST="1.2").streams["a"]
    assert (stream.source_password.reveal(), stream.meta_title, stream.host) == ("0123", '"Live"', "1.2")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("yes", True), ("off", False), ("0", False)])
def test_true_and_false_in_several_words(text: str, value: bool) -> None:
    assert from_environment(CORS__ENABLED=text).cors.enabled is value


def test_lists_and_numbers_are_read_as_toml() -> None:
    config = from_environment(UA_SKIP='["a b", "c"]', SEND_INTERVAL="2", STREAMS__A__FFMPEG_ARGS='["-b:a", "64k"]')
    assert (config.ua_skip, config.send_interval, config.streams["a"].ffmpeg_args) == (("a b", "c"), 2.0, ("-b:a", "64k"))


def test_variables_that_are_no_keys(tmp_path: Path) -> None:
    """The file's own variable and that of `streammachine source` are left alone; others, empty names too, are errors."""
    assert load(None, {"STREAMMACHINE_CONFIG": "x", "STREAMMACHINE_SOURCE_PASSWORD": "x", "PATH": "x", "PORT": "1"}).config == Config()
    environ = {"STREAMMACHINE_PROT": "1", "STREAMMACHINE_STREAMS__A__SECODS": "1", "STREAMMACHINE_PORT__X": "1", "STREAMMACHINE_": "1"}
    assert errors_of(tmp_path, "", environ) == [
        "STREAMMACHINE_: no such key; known in the top table: " + ", ".join(Config.__struct_encode_fields__),
        "STREAMMACHINE_PORT__X: port has no keys below it",
        "STREAMMACHINE_PROT: no such key; did you mean STREAMMACHINE_PORT?",
        "STREAMMACHINE_STREAMS__A__SECODS: no such key; did you mean STREAMMACHINE_STREAMS__A__SECONDS?",
    ]
    (elsewhere,) = errors_of(tmp_path, "", {"STREAMMACHINE_SEGMENT_DURATION": "3"})
    assert elsewhere.endswith("did you mean STREAMMACHINE_HLS__SEGMENT_DURATION?")


def test_the_same_key_twice_is_an_error(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "", {"STREAMMACHINE_PORT": "1", "streammachine_port": "2"})
    assert error == "streammachine_port: the same key as STREAMMACHINE_PORT; allowed: one of the two"


def test_what_the_environment_says_is_checked_like_the_file(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "", {"STREAMMACHINE_PORT": "tcp://10.0.0.1:8001"})
    assert error == 'port: "tcp://10.0.0.1:8001" is not allowed; allowed: a whole number from 0 to 65535'
    (error,) = errors_of(tmp_path, "", {"STREAMMACHINE_STREAMS__A__META_TITLE": "\udcff"})
    assert error == "streams.a.meta_title: has control characters; allowed: printable text"


def test_a_layer_that_gives_the_secret_replaces_the_file_below(tmp_path: Path) -> None:
    """And the other way round: no conflict between layers."""
    (tmp_path / "pw").write_text("from-file\n")
    text = "[streams.a]\nsource_password_file = 'pw'\n"
    config = load_text(tmp_path, text, {"STREAMMACHINE_STREAMS__A__SOURCE_PASSWORD": "direct"}).config
    assert config.streams["a"].source_password.reveal() == "direct"
    text = "[streams.a]\nsource_password = 'direct'\n"
    config = load_text(tmp_path, text, sets=[f"streams.a.source_password_file={tmp_path}/pw"]).config
    assert config.streams["a"].source_password.reveal() == "from-file"


def test_set_takes_toml_or_text(tmp_path: Path) -> None:
    values = (
        "seconds=77",
        'meta_title="Live = now"',
        "host=radio.example",
        "root_route=true",
        "aliases=['x/y']",
        "meta_url=1984",
        "codec=a=b",
    )
    stream = stream_set(tmp_path, *(f"streams.test.{value}" for value in values))
    assert (stream.seconds, stream.meta_title, stream.host, stream.root_route) == (77, "Live = now", "radio.example", True)
    assert (stream.aliases, stream.meta_url, stream.codec, stream.burst) == (("x/y",), "1984", "a=b", 5)


@pytest.mark.parametrize("name", ['streams."my.stream-2".seconds', "streams.my.stream-2.seconds"])
def test_set_finds_a_name_with_dots(tmp_path: Path, name: str) -> None:
    assert stream_set(tmp_path, f"{name}=77", key="my.stream-2").seconds == 77


def test_set_takes_a_table(tmp_path: Path) -> None:
    """Each key in it is laid over what is there."""
    stream = stream_set(tmp_path, 'streams.test={seconds=77, programs=[{name="ä", start=06:00:00}], aliases=["x"]}')
    assert (stream.seconds, stream.burst, stream.aliases, stream.programs[0].name) == (77, 5, ("x",), "ä")
    assert stream_set(tmp_path, "streams.new={}", key="new") == stream_set(tmp_path, 'streams={new={source=""}}', key="new")
    assert stream_set(tmp_path, "streams.test={}").seconds == 60


def test_later_sets_win(tmp_path: Path) -> None:
    assert stream_set(tmp_path, "streams.test.seconds=77", "streams.test.seconds=88").seconds == 88


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("streams.test.source_password=hunter2", "streams.test.source_password"),
        ('streams."my.stream-2".source_password=hunter2', 'streams."my.stream-2".source_password'),
        ("streams.test={source_password='hunter2'}", "streams.test.source_password"),
        ("streams={test={source_password='hunter2'}}", "streams.test.source_password"),
        ("sources.m.password=hunter2", "sources.m.password"),
        ("alerts.email.password=hunter2", "alerts.email.password"),
        ("alerts.pagerduty.service_key=hunter2", "alerts.pagerduty.service_key"),
        ("redis.server=redis://:hunter2@host", "redis.server"),
        ("sources.m.url=http://me:hunter2@host/", "sources.m.url"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path, text: str, path: str) -> None:
    (error,) = errors_of(tmp_path, STREAMS, sets=[text])
    assert error.startswith(f"{path}: a secret is not taken from the command line; allowed: the file, ")
    assert "hunter2" not in error and "STREAMMACHINE_" in error


def test_the_way_out_that_the_refusal_names_works(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, STREAMS, sets=['streams."my.stream-2".source_password=x'])
    variable = error[error.index("STREAMMACHINE_") : -1]
    streams = load_text(tmp_path, STREAMS, {variable: "pw"}).config.streams
    assert streams["my.stream-2"].source_password.reveal() == "pw"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hunter2", "--set: no = in it; allowed: a.b.c=VALUE"),
        ("=hunter2", "--set: ; allowed: a.b.c=VALUE"),
        ("a b=hunter2", "--set: a; allowed: a.b.c=VALUE"),
        ("a=1\nb=hunter2", "--set a: no such key"),
        ("streams.test.pasword=hunter2", "--set streams.test.pasword: no such key; did you mean source_password?"),
        ("port.x=hunter2", "--set port.x: port has no keys below it"),
        ("PORT=hunter2", "--set PORT: no such key; did you mean port?"),
    ],
)
def test_a_set_that_cannot_be_used_does_not_repeat_its_value(tmp_path: Path, text: str, error: str) -> None:
    (found,) = errors_of(tmp_path, STREAMS, sets=[text])
    assert found.startswith(error) and "hunter2" not in found


def test_a_value_cannot_bring_further_keys(tmp_path: Path) -> None:
    """A line break in the value is part of the value."""
    (error,) = errors_of(tmp_path, "", sets=["port=1\nsource_port=2"])
    assert error == 'port: "1?source_port=2" is not allowed; allowed: a whole number from 0 to 65535'
