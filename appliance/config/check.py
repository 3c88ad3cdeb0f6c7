"""`streammachine check`: every error of a configuration, or what it amounts to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from appliance.config.load import ConfigInvalid, Loaded, find_path, load
from appliance.config.model import mounts


def run(config_path: str | Path | None, sets: Sequence[str], environ: Mapping[str, str], out: TextIO) -> int:
    """Print each error on a line of its own, warnings as `warning: ...`, or a summary. Returns the exit code: 0 usable, 1 not."""
    path = find_path(config_path, environ)
    try:
        loaded = load(path, environ, sets)
    except ConfigInvalid as invalid:
        for error in invalid.errors:
            print(error, file=out)
        return 1
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=out)
    print(_summary(loaded), file=out)
    return 0


def _summary(loaded: Loaded) -> str:
    config = loaded.config
    streams = ", ".join(f"/{key}" for key in config.streams) or "none"
    ports = f"listeners on {config.port}, sources on {config.source_port}, admin on {config.api_port}"
    return f"{loaded.path}: good; streams: {streams}; mounts: {', '.join(mounts(config)) or 'none'}; {ports}"
