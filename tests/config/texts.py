"""Loading a configuration from text, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from appliance.config.load import ConfigInvalid, Loaded, load


def load_text(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, sets: Sequence[str] = (), name: str = "config.toml"
) -> Loaded:
    """Write `text` to a file in `folder` and load it."""
    path = folder / name
    path.write_text(text)
    return load(path, environ or {}, sets)


def errors_of(
    folder: Path, text: str, environ: Mapping[str, str] | None = None, sets: Sequence[str] = (), name: str = "config.toml"
) -> list[str]:
    """Every error of `text`, as `path: message`; fails when there is none."""
    with pytest.raises(ConfigInvalid) as raised:
        load_text(folder, text, environ, sets, name)
    return [str(error) for error in raised.value.errors]
