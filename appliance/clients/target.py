"""Where a source goes: `http://source:PASSWORD@HOST:PORT/MOUNT`, and the requests that go there."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

import appliance
from appliance.wire.frames import AudioFormat

PASSWORD_VARIABLE = "STREAMMACHINE_SOURCE_PASSWORD"  # noqa: S105 - the name of a variable
DEFAULT_USER = "source"
DEFAULT_PORT = 80  # of http URLs (RFC 9110 4.2.1)
AGENT = f"streammachine-source/{appliance.__version__}"
SHAPE = "http://source:PASSWORD@HOST:PORT/MOUNT"

_unsafe = re.compile(r"[\x00-\x20\x7f]")


class TargetInvalid(Exception):
    """The URL is no place for a source. The message never repeats the URL: it holds a password."""


class Target(NamedTuple):
    """`mount` is the path as it goes on the wire, "/test". `authorization` is the header's value."""

    host: str
    port: int
    mount: str
    authorization: str

    @property
    def place(self) -> str:
        """HOST:PORT, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """The URL without the credentials."""
        return f"http://{self.place}{self.mount}"

    def __repr__(self) -> str:
        return f"Target({self})"


def parse_target(url: str, environ: Mapping[str, str]) -> Target:
    """The target of a URL; a password that is not in it comes from STREAMMACHINE_SOURCE_PASSWORD.

    User and password may be percent-encoded; the password may contain ":". Raises TargetInvalid.
    """
    parts, port = _split(url)
    if not parts.hostname:
        raise TargetInvalid(f"--to has no host; it is {SHAPE}")
    if parts.path in ("", "/") or parts.query or parts.fragment:
        raise TargetInvalid(f"--to must end with a mount and nothing behind it: {SHAPE} (a ?, # or / in a password: %3F, %23, %2F)")
    password = unquote(parts.password) if parts.password else environ.get(PASSWORD_VARIABLE, "")
    if not password:
        raise TargetInvalid(f"--to has no password; it is {SHAPE}, or set {PASSWORD_VARIABLE}")
    user = unquote(parts.username or DEFAULT_USER)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return Target(parts.hostname, port, quote(unquote(parts.path), safe="/~"), f"Basic {token}")


def _split(url: str) -> tuple[SplitResult, int]:
    if _unsafe.search(url):
        raise TargetInvalid("--to contains a space or a control character")
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        # "from None": the error's own words repeat a part of the URL, which may be one of the password
        raise TargetInvalid(f"--to cannot be read as a URL; it is {SHAPE}, special characters in the password percent-encoded") from None
    if parts.scheme != "http":
        raise TargetInvalid(f"--to must begin with http://; it is {SHAPE}")
    return parts, port


def source_request(method: str, target: Target, audio: AudioFormat) -> bytes:
    """The head that begins a source: "PUT" (HTTP/1.1, Expect: 100-continue) or Icecast's "SOURCE" (HTTP/1.0)."""
    expect = "Expect: 100-continue\r\n" if method == "PUT" else ""
    kbps = round(audio.bitrate_bps / 1000)
    info = f"channels={audio.channels};samplerate={audio.sample_rate}" + (f";bitrate={kbps}" if kbps else "")
    return (
        f"{method} {target.mount} HTTP/{'1.1' if method == 'PUT' else '1.0'}\r\n"
        f"Host: {target.place}\r\n"
        f"Authorization: {target.authorization}\r\n"
        f"User-Agent: {AGENT}\r\n"
        f"Content-Type: {audio.mime}\r\n"
        f"Ice-Name: {target.mount.strip('/')}\r\n"
        "Ice-Public: 0\r\n"
        f"Ice-Audio-Info: {info}\r\n" + (f"Ice-Bitrate: {kbps}\r\n" if kbps else "") + f"{expect}\r\n"
    ).encode("latin-1")


def title_request(target: Target, title: str) -> bytes:
    """Icecast's title update, sent beside the source's connection."""
    query = f"mode=updinfo&mount={quote(target.mount, safe='')}&charset=UTF-8&song={quote(title, safe='', errors='replace')}"
    return (
        f"GET /admin/metadata?{query} HTTP/1.1\r\n"
        f"Host: {target.place}\r\n"
        f"Authorization: {target.authorization}\r\n"
        f"User-Agent: {AGENT}\r\n"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")
