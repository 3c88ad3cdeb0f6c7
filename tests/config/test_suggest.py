"""Unknown keys: the nearest known one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.config.suggest import close, snake_case
from tests.config.texts import errors_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "prot: no such key; did you mean port?"),
        ("cors.orign = '*'", "cors.orign: no such key; did you mean origin?"),
        ("streams.a.secnds = 1", "streams.a.secnds: no such key; did you mean seconds?"),
        ("streams.a.metaTitle = 'x'", "streams.a.metaTitle: no such key; did you mean meta_title?"),
        ("streams.a.source-password = 'x'", "streams.a.source-password: no such key; did you mean source_password?"),
        ("sources.a.pasword = 'x'", "sources.a.pasword: no such key; did you mean password?"),
        ("streams.a.password = 'x'", "streams.a.password: no such key; did you mean source_password?"),
        ("sources.a.source_password = 'x'", "sources.a.source_password: no such key; did you mean password?"),
        ("cluster = 2", "cluster: no such key; did you mean workers?"),
        ("segment_duration = 2", "segment_duration: no such key here; did you mean hls.segment_duration?"),
        ("seconds = 2", "seconds: no such key here; did you mean streams.KEY.seconds?"),
        ("[stream.a]", "stream: no such key; did you mean streams?"),
        ('"über x" = 1', '"über x": no such key; known in the top table: port, source_port'),
        ("admin.zzzz = 1", "admin.zzzz: no such key; known in admin: require_auth, on_listener_port"),
    ],
)
def test_the_nearest_key_is_named(tmp_path: Path, text: str, words: str) -> None:
    (error,) = errors_of(tmp_path, text)
    assert error.startswith(words)


def test_spellings() -> None:
    assert [snake_case(name) for name in ("metaTitle", "Meta-Title", "acceptSourceMeta", "port")] == [
        "meta_title",
        "meta_title",
        "accept_source_meta",
        "port",
    ]
    assert close("Europe/Berln", {"Europe/Berlin", "UTC"}) == "Europe/Berlin" and close("zzz", {"port"}) == ""
