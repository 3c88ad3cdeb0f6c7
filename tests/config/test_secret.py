"""Secrets: usable, never shown."""

from __future__ import annotations

import json

import msgspec
import pytest

from appliance.config.model import Config, StreamConfig
from appliance.config.secret import PrivateUrl, Secret


def test_no_way_of_printing_shows_it() -> None:
    """repr, str, format and %-format of the secret and of a struct that holds it."""
    secret = Secret("hunter2")
    config = Config(streams={"a": StreamConfig(source_password=secret)})
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret, repr(config), str(config)):  # noqa: UP031
        assert "hunter2" not in text
    assert secret.reveal() == "hunter2"


def test_encoders_refuse_it() -> None:
    """A secret cannot slip into JSON or msgpack unnoticed."""
    for encode in (json.dumps, msgspec.json.encode, msgspec.msgpack.encode):
        with pytest.raises(TypeError):
            encode({"password": Secret("hunter2")})


def test_empty_is_false_and_equality_is_of_the_value() -> None:
    assert not Secret() and Secret("a")
    assert Secret("ä") == Secret("ä") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != "a"
    assert (repr(Secret()), str(Secret())) == ("Secret('')", "")


def test_a_private_url_hides_only_user_and_password() -> None:
    url = PrivateUrl("redis://me:hunter2@cache:6379/1")
    assert (str(url), repr(url)) == ("redis://***@cache:6379/1", "PrivateUrl('redis://***@cache:6379/1')")
    assert url.has_password() and url.reveal().endswith("@cache:6379/1")
    assert str(PrivateUrl("redis://cache")) == "redis://cache" and not PrivateUrl("redis://cache").has_password()


def test_a_private_url_hides_a_password_that_has_an_at_sign() -> None:
    for text in ("http://me:pass@rest@host/x", "http://me:pass/rest@host/x", "http://me:pass rest@host"):
        assert "rest" not in str(PrivateUrl(text)) and "pass" not in str(PrivateUrl(text))
