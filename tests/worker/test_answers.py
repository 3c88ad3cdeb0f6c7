"""Heads and pages: CLIENTS.md, "Players"."""

from __future__ import annotations

import pytest

from appliance.channel.messages import WorkerSettings
from appliance.worker.answers import Answers, clean, index_page, is_old_agent
from appliance.worker.rewind import Start
from tests.fakes import entry

START = Start(1, 0, 12.345, 1_767_323_045_678_901)


def lines(head: bytes) -> list[str]:
    """The lines of a head, which must end with an empty one."""
    assert head.endswith(b"\r\n\r\n")
    return head.decode().removesuffix("\r\n\r\n").split("\r\n")


def test_an_audio_head() -> None:
    """What VLC, browsers and icecast's players look for."""
    head = Answers(WorkerSettings()).audio(
        entry(name="Radio Ü", genre="Jazz", url="http://r/", description="All day", public=True, bitrate_kbps=128),
        START,
        icy=True,
        old=False,
    )
    found = lines(head)
    assert found[0] == "HTTP/1.1 200 OK"
    for line in (
        "Content-Type: audio/mpeg", "Connection: close", "Accept-Ranges: none", "icy-name: Radio Ü", "icy-genre: Jazz", "icy-url: http://r/",
        "icy-description: All day", "icy-pub: 1", "icy-br: 128", "icy-metaint: 8192", "Access-Control-Allow-Origin: *",
        "X-Rewind-Offset: 12.35", "X-Rewind-Time: 2026-01-02T03:04:05.678Z",
    ):  # fmt: skip
        assert line in found or line.replace("12.35", "12.34") in found
    exposed = next(line for line in found if line.startswith("Access-Control-Expose-Headers")).lower()
    for name in ("icy-metaint", "icy-name", "icy-br", "icy-genre", "icy-url", "icy-description"):
        assert name in exposed
    assert not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in found)
    assert any(line.startswith("Date: ") for line in found)


def test_icy_name_is_always_there() -> None:
    """VLC 3.0.24 shows titles only where the answer carries it: the key when the source said none. Unknown things are left out."""
    found = lines(Answers(WorkerSettings()).audio(entry(), START, icy=False, old=True))
    assert found[0] == "ICY 200 OK"
    assert "icy-name: test" in found
    assert not any(line.startswith(("icy-br", "icy-genre", "icy-metaint")) for line in found)


def test_what_an_encoder_says_cannot_break_the_head() -> None:
    """Control characters of a name go."""
    head = Answers(WorkerSettings()).audio(entry(name="a\r\nSet-Cookie: x\0\x7f"), START, icy=False, old=False)
    assert "icy-name: aSet-Cookie: x" in lines(head)
    assert clean("a\tb\n") == "ab"


def test_heads_are_rendered_again_when_the_entry_changes() -> None:
    """`forget`: the source said something new."""
    answers = Answers(WorkerSettings())
    assert b"icy-name: old" in answers.audio(entry(name="old"), START, icy=False, old=False)
    answers.forget(0)
    assert b"icy-name: new" in answers.audio(entry(name="new"), START, icy=False, old=False)


@pytest.mark.parametrize(("settings", "origin"), [(WorkerSettings(), "*"), (WorkerSettings(cors_origin="https://r.example"), "https://r.example")])
def test_cors_on_every_answer(settings: WorkerSettings, origin: str) -> None:
    """Errors and pages too: a script must be able to read why. An origin of its own varies."""
    answers = Answers(settings)
    for data in (answers.error(404, "x"), answers.page(b"", "a/b", head_only=False, keep_alive=True), answers.preflight(keep_alive=True)):
        assert f"Access-Control-Allow-Origin: {origin}" in lines(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        assert (b"Vary: Origin" in data) is (origin != "*")
    assert b"Access-Control" not in Answers(WorkerSettings(cors_enabled=False)).error(404, "x")


def test_errors_are_one_plain_line() -> None:
    """Whatever the reason holds."""
    head, _, body = Answers(WorkerSettings()).error(400, "two\r\nlines", extra=[("Retry-After", "5")]).partition(b"\r\n\r\n")
    assert body == b"two lines\n"
    assert b"Retry-After: 5" in head
    assert Answers(WorkerSettings()).error(400, "x", head_only=True).endswith(b"\r\n\r\n")


def test_old_agents() -> None:
    """By name, in any case; nobody else."""
    assert is_old_agent("Winamp 2.81; Nullsoft Winamp3")
    assert not any(map(is_old_agent, ("", "VLC/3.0.18 LibVLC/3.0.18", "Lavf/59", "ExoPlayer", "AppleCoreMedia/1.0", "Mozilla/5.0")))


def test_the_index_page_escapes() -> None:
    """A name is an encoder's word."""
    page = index_page([entry(name="<script>alert(1)</script>")])
    assert b"<script>" not in page
    assert b"&lt;script&gt;" in page
