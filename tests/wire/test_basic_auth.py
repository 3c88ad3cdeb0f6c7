"""HTTP Basic credentials."""

from base64 import b64encode

import pytest

from appliance.wire.basic_auth import challenge, parse_basic


def basic(credentials: bytes) -> str:
    return "Basic " + b64encode(credentials).decode()


@pytest.mark.parametrize(
    ("credentials", "user", "password"),
    [
        (b"source:hackme", "source", "hackme"),
        (b"source:hack:me::", "source", "hack:me::"),
        (b":hackme", "", "hackme"),
        (b"source:", "source", ""),
        (b":", "", ""),
        ("sürce:pässwort€".encode(), "sürce", "pässwort€"),
        ("sürce:pässwort".encode("latin-1"), "sürce", "pässwort"),
        (b"a:b c\0d\r\n", "a", "b c\0d\r\n"),
    ],
)
def test_credentials(credentials: bytes, user: str, password: str) -> None:
    """Only the first colon divides; UTF-8, else Latin-1."""
    assert parse_basic(basic(credentials)) == (user, password)


def test_as_encoders_write_it() -> None:
    """The scheme in any case, more spaces, padding forgotten."""
    for header in ("basic c291cmNlOng=", "BASIC   c291cmNlOng= ", "Basic c291cmNlOng"):
        assert parse_basic(header) == ("source", "x")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic =",
        "Basic ====",
        "Basic c",
        "Basic c291cmNl",  # no colon
        "Basic c291cmNlOng=, Basic c291cmNlOng=",
        "Basic c291cm NlOng=",
        "Basic c291cmNlOng=\n",
        "Basicc291cmNlOng=",
        "Bearer c291cmNlOng=",
        "Basic caf\xe9",
        "Basic \u0663",
        "Basic " + "A" * 16_001,
    ],
)
def test_no_credentials(header: str | None) -> None:
    """Anything else is no credentials, and no exception."""
    assert parse_basic(header) is None


def test_challenge() -> None:
    """The realm is quoted, and cannot leave its quotes or its line."""
    assert challenge("StreamMachine") == 'Basic realm="StreamMachine"'
    assert challenge('a"b\\c\r\nd') == 'Basic realm="a\\"b\\\\c d"'
