"""Whatever the layers say, loading gives a configuration or says what is wrong; a secret is in neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.config import kinds
from appliance.config.load import ConfigInvalid, load
from appliance.config.model import Config

SECRET = "hunter2"
KEYS = sorted(path.replace(".KEY.", ".a.") for path, _ in kinds.every_key(Config))
OLD = ["cluster", "mode", "master", "log.stdout", "log.stdout.level", "behind_proxy", "alerts.email.mailer_options", "streams.a.metaTitle"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["mp3", "aac", "UTC", "/x", "http://h/", "30000", "{}", "[]", "true", "a.b"]),
    st.lists(st.one_of(st.text(max_size=4), st.integers(), st.dictionaries(st.sampled_from(["name", "start"]), st.text(max_size=5)))),
    st.dictionaries(st.sampled_from(["level", "a", "name", "seconds"]), st.integers(), max_size=2),
)
SETTINGS = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    *tables, last = path.split(".")
    for name in tables:
        inner = tree.get(name)
        tree[name] = tree = inner if isinstance(inner, dict) else {}
    tree[last] = value


def outcome(path: Path, environ: dict[str, str], sets: list[str]) -> str:
    try:
        loaded = load(path, environ, sets)
    except ConfigInvalid as invalid:
        assert invalid.errors and all("allowed" in error.message or "key" in error.message for error in invalid.errors), str(invalid)
        return str(invalid)
    return f"{loaded.config} {loaded.warnings}"


@SETTINGS
@given(st.dictionaries(st.sampled_from(KEYS + OLD), VALUES, max_size=6))
def test_any_json_is_taken_or_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    tree: dict[str, Any] = {}
    for path, value in keys.items():
        put(tree, path, value)
    put(tree, "streams.z.source_password", SECRET)
    file = tmp_path / "a.json"
    file.write_text(json.dumps(tree))
    assert SECRET not in outcome(file, {}, [])


@SETTINGS
@given(
    st.dictionaries(st.sampled_from(KEYS), st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=4),
    st.lists(st.tuples(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), st.text(max_size=12)), max_size=4),
)
def test_any_environment_and_any_set_are_taken_or_refused(tmp_path: Path, environ: dict[str, str], sets: list[tuple[str, str]]) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"[streams.z]\nsource_password = '{SECRET}'\n")
    variables = {"STREAMMACHINE_" + key.upper().replace(".", "__"): value for key, value in environ.items()}
    assert SECRET not in outcome(file, variables, [f"{key}={value}" for key, value in sets])
