"""How errors are told."""

from __future__ import annotations

from appliance.config.problems import ConfigError, ConfigInvalid, Problems, join, shown


def test_paths_are_quoted_as_toml_does() -> None:
    assert join(join("streams", "my.stream"), "seconds") == 'streams."my.stream".seconds'
    assert join("", "port") == "port"


def test_values_are_short_and_on_one_line() -> None:
    values: tuple[object, ...] = (True, 1, 1.5, "a\nb", {}, [], None)
    assert [shown(value) for value in values] == ["true", "1", "1.5", '"a?b"', "a table", "a list", "None"]
    assert len(shown("x" * 100)) == 60


def test_an_exception_says_all() -> None:
    invalid = ConfigInvalid([ConfigError("a", "b"), ConfigError("", "c")])
    assert str(invalid) == "a: b\nc" and [error.path for error in invalid.errors] == ["a", ""]


def test_bad_keys_are_remembered_beyond_the_limit() -> None:
    problems = Problems()
    for index in range(200):
        problems.error(f"k{index}", "x")
    assert len(problems.errors) == 100 and problems.is_bad("x", "k199") and not problems.is_bad("k200")
