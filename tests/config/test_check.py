"""`streammachine check`."""

from __future__ import annotations

import io
from pathlib import Path

from appliance.config.check import run


def checked(path: Path, *sets: str, environ: dict[str, str] | None = None) -> tuple[int, list[str]]:
    out = io.StringIO()
    return run(path, sets, environ or {}, out), out.getvalue().splitlines()


def test_a_good_file_gives_a_summary_and_0(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[streams.live]\nsource_password = 'pw'\n[streams.low]\nsource = 'live'\n")
    line = f"{path}: good; streams: /live, /low; mounts: live; listeners on 8001, sources on 8002, admin on 8003"
    assert checked(path) == (0, [line])
    code, lines = checked(path, "streams.low.monitored=true")
    assert (code, lines) == (0, ["warning: streams.low.monitored: this release does not act on it yet", line])


def test_a_bad_one_gives_every_error_on_a_line_and_1(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("prot = 1\nport = -1\n")
    assert checked(path) == (
        1,
        ["prot: no such key; did you mean port?", "port: -1 is not allowed; allowed: a whole number from 0 to 65535"],
    )


def test_the_variable_names_the_file(tmp_path: Path) -> None:
    out = io.StringIO()
    assert run(None, [], {"STREAMMACHINE_CONFIG": str(tmp_path / "none.toml")}, out) == 1
    assert out.getvalue() == f"{tmp_path}/none.toml: no such file; allowed: a TOML or JSON file\n"
