"""What annotations say of a key."""

from __future__ import annotations

from appliance.config import kinds
from appliance.config.model import Config, StreamConfig
from appliance.config.secret import Secret

FIELDS = dict(kinds.every_key(Config))


def test_every_key_goes_into_tables_streams_and_lists() -> None:
    for path in ("port", "cors.origin", "alerts.email.from", "streams.KEY.seconds", "streams.KEY.programs.name", "sources.KEY.url"):
        assert path in FIELDS


def test_tables_are_told_from_values() -> None:
    assert kinds.entry_of(FIELDS["streams"].type) is StreamConfig
    assert kinds.table_of(FIELDS["cors"].type) and kinds.item_of(FIELDS["streams.KEY.programs"].type)
    for path in ("port", "ua_skip", "streams.KEY.source_password_file"):
        assert not (kinds.table_of(FIELDS[path].type) or kinds.entry_of(FIELDS[path].type) or kinds.item_of(FIELDS[path].type))


def test_every_secret_can_be_kept_in_a_file() -> None:
    """A field of type Secret has a sibling NAME_file."""
    for path, field in FIELDS.items():
        assert not kinds.is_secret(field.type) or f"{path}_file" in FIELDS
        assert path.endswith(("password", "service_key")) == (kinds.bare(field.type)[0] is Secret)


def test_every_bounded_number_says_its_bounds() -> None:
    """No number of the configuration is without limits."""
    for path, field in FIELDS.items():
        if kinds.bare(field.type)[0] in (int, float):
            assert " from " in kinds.allowed(field.type), path
