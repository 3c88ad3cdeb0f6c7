"""Values: types, bounds, texts, names of streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.convert import key_fault
from tests.config.texts import errors_of, load_text

INTEGER = "a whole number from 1 to 604800"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("seconds = 0", f"streams.a.seconds: 0 is not allowed; allowed: {INTEGER}"),
        ("seconds = 604801", f"streams.a.seconds: 604801 is not allowed; allowed: {INTEGER}"),
        ("seconds = 1.5", f"streams.a.seconds: 1.5 is not allowed; allowed: {INTEGER}"),
        ("seconds = true", f"streams.a.seconds: true is not allowed; allowed: {INTEGER}"),
        ('seconds = "60"', f'streams.a.seconds: "60" is not allowed; allowed: {INTEGER}'),
        ("seconds = 99999999999999999999999", f"streams.a.seconds: 99999999999999999999999 is not allowed; allowed: {INTEGER}"),
        ("burst = nan", "streams.a.burst: nan is not allowed; allowed: a number from 0 to 600"),
        ("burst = inf", "streams.a.burst: inf is not allowed; allowed: a number from 0 to 600"),
        ("burst = 2026-01-01", 'streams.a.burst: "2026-01-01" is not allowed; allowed: a number from 0 to 600'),
        ("root_route = 1", "streams.a.root_route: 1 is not allowed; allowed: true or false"),
        ('format = "ogg"', 'streams.a.format: "ogg" is not allowed; allowed: "mp3" or "aac"'),
        ('slow_listener = "Drop"', 'streams.a.slow_listener: "Drop" is not allowed; allowed: "drop" or "skip"'),
        ("meta_interval = 1023", "streams.a.meta_interval: 1023 is not allowed; allowed: a whole number from 1024 to 1048576"),
        ("max_buffer = 65535", "streams.a.max_buffer: 65535 is not allowed; allowed: a whole number from 65536 to 1073741824"),
        ("meta_title = 3", "streams.a.meta_title: 3 is not allowed; allowed: text of 0 to 1000 characters"),
        ('meta_title = "a\\nb"', "streams.a.meta_title: has control characters; allowed: printable text"),
        ("aliases = 'x'", 'streams.a.aliases: "x" is not allowed; allowed: a list of texts'),
        ("aliases = ['x', 3]", "streams.a.aliases: 3 in the list is not allowed; allowed: a list of texts"),
        ("ffmpeg_args = 3", "streams.a.ffmpeg_args: 3 is not allowed; allowed: text or a list of texts"),
        ("programs = 3", "streams.a.programs: 3 is not allowed; allowed: a list of tables"),
        ("source_password = 3", "streams.a.source_password: the value (not shown) is not allowed; allowed: text"),
        ("fallback = 3", "streams.a.fallback: not a URL; allowed: a URL"),
        ("source_password_file = 3", "streams.a.source_password_file: 3 is not allowed; allowed: an absolute path"),
    ],
)
def test_a_value_that_is_not_allowed_says_what_is(tmp_path: Path, line: str, error: str) -> None:
    assert errors_of(tmp_path, f"[streams.a]\n{line}\n") == [error]


def test_tables_that_are_none(tmp_path: Path) -> None:
    text = "cors = 1\nstreams = 'x'\nsources.m = []\n"
    assert errors_of(tmp_path, text) == [
        "cors: 1 is not allowed; allowed: a table",
        'streams: "x" is not allowed; allowed: a table',
        "sources.m: a list is not allowed; allowed: a table",
    ]


def test_bounds_are_inclusive(tmp_path: Path) -> None:
    stream = load_text(tmp_path, "[streams.a]\nseconds = 604800\nburst = 600\n[streams.b]\nseconds = 1\nburst = 0\n").config.streams
    assert (stream["a"].seconds, stream["a"].burst, stream["b"].seconds, stream["b"].burst) == (604800, 600, 1, 0)


def test_toml_times_are_texts(tmp_path: Path) -> None:
    """`start = 06:00:00` and `times = [2026-05-01T06:00:00Z]` are as good in quotes."""
    text = "[[streams.a.programs]]\nname = 'm'\nstart = 06:00:00\n[[streams.a.programs]]\nname = 'o'\ntimes = [2026-05-01T06:00:00Z]\n"
    first, second = load_text(tmp_path, text).config.streams["a"].programs
    assert (first.start, second.times) == ("06:00:00", ("2026-05-01T06:00:00+00:00",))


def test_items_of_a_list_of_tables_are_told_apart(tmp_path: Path) -> None:
    text = "[[streams.a.programs]]\nname = 'm'\nstart = '06:00'\n[[streams.a.programs]]\nstart = '6'\ndays = ['mon', 'noday']\n"
    assert errors_of(tmp_path, text) == [
        "streams.a.programs[1].name: missing; allowed: text of 1 to 1000 characters",
        'streams.a.programs[1].days: "noday" in the list is not allowed; allowed: a list of these: '
        '"mon" or "tue" or "wed" or "thu" or "fri" or "sat" or "sun"',
        'streams.a.programs[1].start: "6" is no time of day; allowed: "06:00" or "06:00:30"',
    ]


@pytest.mark.parametrize("name", ["a", "A9", "kpcc-64.aac", "live_2", "x" * 64, "0", "Admin", "adminx", "a..b"])
def test_names_that_a_stream_can_have(name: str) -> None:
    assert key_fault(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        *("", "-a", ".a", "_a", "a b", "a/b", "ä", "a\n", "x" * 65, "a.pls", "a.m3u", "a.m3u8", "a.json", "a.M3U8"),
        *("admin", "sg", "api", "index.html", "health", "metrics", "crossdomain.xml", "status-json.xsl", "admin.cgi", "7.html"),
    ],
)
def test_names_that_it_cannot(name: str) -> None:
    assert key_fault(name)


def test_a_bad_name_is_told_with_the_rule_and_its_table_is_read_on(tmp_path: Path) -> None:
    first, second = errors_of(tmp_path, '[streams."a b"]\nseconds = 0\n')
    assert first.startswith('streams."a b": not a usable name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -')
    assert second.startswith('streams."a b".seconds: 0 is not allowed')
