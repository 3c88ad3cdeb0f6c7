"""Where the configuration comes from: a file, then the environment, then --set; all its errors at once.

Nothing is logged here and nothing is changed outside: a load that fails leaves whoever asked as they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import structs

from appliance.config import convert, files, layers, legacy, rules
from appliance.config.convert import Tree
from appliance.config.model import Config, StreamConfig
from appliance.config.problems import ConfigError, ConfigInvalid, Problems

__all__ = ["DEFAULT_PATH", "ConfigError", "ConfigInvalid", "Loaded", "find_path", "load"]

DEFAULT_PATH: Final = Path("/etc/streammachine/streammachine.toml")
PATH_VARIABLE: Final = "STREAMMACHINE_CONFIG"


class Loaded(NamedTuple):
    """A usable configuration, what the operator should know about it (`path.to.key: text`), and the file it came from, if any."""

    config: Config
    warnings: list[str]
    path: Path | None


def find_path(cli: str | Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: --config, else $STREAMMACHINE_CONFIG, else DEFAULT_PATH. Whether it exists is for load() to say."""
    return Path(cli or environ.get(PATH_VARIABLE) or DEFAULT_PATH)


def load(path: Path | None, environ: Mapping[str, str], sets: Sequence[str] = ()) -> Loaded:
    """Read `path` (None: no file, only the layers above it), lay `environ` and `sets` over it, check all. Raises ConfigInvalid."""
    problems = Problems()
    tree = _file_tree(path, problems) if path else {}
    layers.from_environment(environ, tree, problems)
    layers.from_sets(sets, tree, problems)
    legacy.replace_behind_proxy(tree, problems)
    config = convert.build(Config, tree, "", problems)
    config = files.fill_secrets(config, tree, "", problems)
    rules.check(config, problems)
    if problems.errors:
        raise ConfigInvalid(problems.errors)
    return Loaded(_inherit(config), problems.warnings, path)


def runtime_dir_of(path: Path, environ: Mapping[str, str], sets: Sequence[str] = ()) -> Path:
    """`runtime_dir` alone, also of a configuration with errors elsewhere; the default where it cannot be read."""
    problems = Problems()
    try:
        tree = _file_tree(path, problems)
    except ConfigInvalid:
        tree = {}
    layers.from_environment(environ, tree, problems)
    layers.from_sets(sets, tree, problems)
    found = tree.get("runtime_dir")
    return Path(found) if isinstance(found, str | Path) else Config().runtime_dir


def _file_tree(path: Path, problems: Problems) -> Tree:
    if _is_missing(path):
        hint = f"name one with --config or ${PATH_VARIABLE}" if path == DEFAULT_PATH else "a TOML or JSON file"
        raise ConfigInvalid([ConfigError(str(path), f"no such file; allowed: {hint}")])
    tree, is_json = files.read_tree(path, problems)
    if problems.errors:
        raise ConfigInvalid(problems.errors)
    if is_json:
        tree = legacy.translate(tree, problems)
    files.absolute_files(Config, tree, path.absolute().parent)
    return tree


def _is_missing(path: Path) -> bool:
    """Whether there is nothing at `path`; what cannot be looked at is told when it is read."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _inherit(config: Config) -> Config:
    """What a stream does not say itself it has from the top, so that nobody need look twice."""
    return structs.replace(config, streams={key: _filled(stream, config) for key, stream in config.streams.items()})


def _filled(stream: StreamConfig, config: Config) -> StreamConfig:
    interval_s = config.log_interval if stream.log_interval is None else stream.log_interval
    return structs.replace(stream, timezone=stream.timezone or config.timezone, log_interval=interval_s)
