"""Playlist files: nothing that a client sent can add a line to one."""

import pytest

from appliance.wire.playlists import m3u, pls, safe_url


def test_pls() -> None:
    """One endless entry."""
    assert pls("http://radio.example:8001/test?ua=x", "Radio Žižkov").decode().splitlines() == [
        "[playlist]",
        "NumberOfEntries=1",
        "File1=http://radio.example:8001/test?ua=x",
        "Title1=Radio Žižkov",
        "Length1=-1",
        "Version=2",
    ]


def test_m3u() -> None:
    """One endless entry."""
    assert m3u("https://radio.example/test", "A, B").decode().splitlines() == [
        "#EXTM3U",
        "#EXTINF:-1,A, B",
        "https://radio.example/test",
    ]


@pytest.mark.parametrize("evil", ["\n", "\r", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_line_can_be_added(evil: str) -> None:
    """Whatever anyone takes for a line break: neither address nor title brings one in."""
    url = f"http://h/x?a={evil}File2=http://evil{evil}#EXT-X-ENDLIST"
    title = f"Radio{evil}File2=http://evil"
    assert len(pls(url, title).decode().splitlines()) == 6
    assert len(m3u(url, title).decode().splitlines()) == 3
    assert len(pls(url, title).split(b"\n")) == 7


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("http://h/x?a=%0A%23b&c=d+e", "http://h/x?a=%0A%23b&c=d+e"),  # what is encoded stays as it is
        ("http://h/x?a=b c", "http://h/x?a=b%20c"),
        ("http://h/x?song=Bj\xf6rk", "http://h/x?song=Bj%F6rk"),  # a raw target's byte
        ("http://h/x?song=\u017di\u017e", "http://h/x?song=%C5%BDi%C5%BE"),
        ('http://h/<"\\^`{|}>', "http://h/%3C%22%5C%5E%60%7B%7C%7D%3E"),
        ("http://[::1]:8001/;x'~(1)*!$@,", "http://[::1]:8001/;x'~(1)*!$@,"),
        ("http://h/\ud800", "http://h/?"),
    ],
)
def test_safe_url(url: str, safe: str) -> None:
    """ASCII, one line, no spaces; the same address for the server that it names."""
    assert safe_url(url) == safe
    assert safe_url(safe) == safe
