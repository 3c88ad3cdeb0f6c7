"""Aliases: no path has two owners."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.paths import plain_alias
from tests.config.texts import errors_of, load_text

STREAMS = "[streams.live]\n[streams.b]\naliases = ['{}']\n"


@pytest.mark.parametrize("alias", ["stream", "/stream", "radio/live.mp3", "/radio/live.mp3/", "a~b@c+d-e_f", "live/main", "x" * 200])
def test_paths_that_an_alias_can_be(tmp_path: Path, alias: str) -> None:
    assert load_text(tmp_path, STREAMS.format(alias)).config.streams["b"].aliases == (alias,)


@pytest.mark.parametrize(
    ("alias", "words"),
    [
        ("", "is no usable path; allowed: a path like"),
        ("/", "is no usable path"),
        ("a//b", "is no usable path"),
        ("a/../b", "is no usable path"),
        ("a b", "is no usable path"),
        ("a?b", "is no usable path"),
        ("a%20b", "is no usable path"),
        ("ä", "is no usable path"),
        (";stream.nsv", "is no usable path"),
        ("listen.pls", "is no usable path"),
        ("x.M3U8", "is no usable path"),
        ("x" * 201, "is no usable path"),
        ("admin", "is a path of the server itself"),
        ("/admin/x", "is a path of the server itself"),
        ("sg/x", "is a path of the server itself"),
        ("status-json.xsl", "is a path of the server itself"),
        ("live", "is stream live itself"),
        ("b", "is stream b itself"),
        ("live/ts/1", "is a path of stream live"),
        ("live/export", "is a path of stream live"),
    ],
)
def test_paths_that_it_cannot(tmp_path: Path, alias: str, words: str) -> None:
    (error,) = errors_of(tmp_path, STREAMS.format(alias))
    assert error.startswith("streams.b.aliases: ") and words in error


def test_two_streams_cannot_share_one(tmp_path: Path) -> None:
    """Outer slashes make no difference."""
    text = "[streams.a]\naliases = ['x/y', 'z', '/z']\n[streams.b]\naliases = ['/x/y/']\n"
    assert errors_of(tmp_path, text) == [
        'streams.a.aliases: "/z" is twice; allowed: each path once',
        'streams.b.aliases: "/x/y/" is an alias of a too; allowed: each path once',
    ]
    assert plain_alias("/x/y/") == "x/y"
