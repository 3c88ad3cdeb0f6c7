"""Secrets in files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.texts import errors_of, load_text

STREAM = "[streams.a]\nsource_password_file = '{}'\n"


def put(path: Path, content: bytes, mode: int = 0o640) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"p:w", b"p:w\n", b"p:w\r\n", b"\xef\xbb\xbfp:w\n"])
def test_the_line_of_the_file_is_the_secret(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / "pw", content)
    loaded = load_text(tmp_path, STREAM.format(tmp_path / "pw"))
    assert loaded.config.streams["a"].source_password.reveal() == "p:w" and loaded.warnings == []


def test_a_relative_name_is_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    put(tmp_path / "secrets/pw", b"abc\n")
    text = (
        "[streams.a]\nsource_password_file = 'secrets/pw'\n[sources.m]\npassword_file = 'secrets/pw'\n"
        "[alerts.email]\npassword_file = 'secrets/pw'\n[alerts.pagerduty]\nservice_key_file = 'secrets/pw'\n"
    )
    config = load_text(tmp_path, text).config
    given = (config.streams["a"].source_password, config.sources["m"].password)
    assert [one.reveal() for one in (*given, config.alerts.email.password, config.alerts.pagerduty.service_key)] == ["abc"] * 4


def test_spaces_belong_to_a_password(tmp_path: Path) -> None:
    put(tmp_path / "pw", b" a b \n")
    assert load_text(tmp_path, STREAM.format("pw")).config.streams["a"].source_password.reveal() == " a b "


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"a\nb\n", "has more than one line"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 4097, "is too large"),
    ],
)
def test_a_file_that_holds_no_secret_is_an_error(tmp_path: Path, content: bytes, words: str) -> None:
    put(tmp_path / "pw", content)
    (error,) = errors_of(tmp_path, STREAM.format("pw"))
    assert error.startswith(f"streams.a.source_password_file: {tmp_path / 'pw'} {words}")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, STREAM.format("nothere"))
    where = f"streams.a.source_password_file: cannot read {tmp_path / 'nothere'}"
    assert error == f"{where}: No such file or directory; allowed: a file that we may read"
    (tmp_path / "folder").mkdir()
    (error,) = errors_of(tmp_path, STREAM.format("folder"))
    assert "folder: Is a directory; allowed" in error


def test_a_file_that_opens_but_cannot_be_read_is_named(tmp_path: Path) -> None:
    """As a disk fault gives it; also for root, who is forbidden nothing."""
    (error,) = errors_of(tmp_path, STREAM.format("/proc/self/mem"))
    assert error == "streams.a.source_password_file: cannot read /proc/self/mem: Input/output error; allowed: a file that we may read"


def test_the_secret_and_its_file_in_one_layer_are_an_error(tmp_path: Path) -> None:
    put(tmp_path / "pw", b"abc")
    (error,) = errors_of(tmp_path, STREAM.format("pw") + "source_password = 'hunter2'\n")
    assert error == "streams.a.source_password_file: given beside streams.a.source_password; allowed: one of the two"


def test_a_file_for_everybody_gives_a_warning(tmp_path: Path) -> None:
    put(tmp_path / "pw", b"abc", 0o644)
    (warning,) = load_text(tmp_path, STREAM.format("pw")).warnings
    assert warning == f"streams.a.source_password_file: {tmp_path / 'pw'} can be read by every user of this machine; chmod 640 it"


def test_from_other_layers_the_path_is_absolute(tmp_path: Path) -> None:
    """There is no file beside which a relative one could be."""
    (error,) = errors_of(tmp_path, "[streams.a]\n", sets=["streams.a.source_password_file=pw"])
    assert error == 'streams.a.source_password_file: "pw" is not absolute; allowed: an absolute path'
