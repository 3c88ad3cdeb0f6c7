"""What a request to the source server means: a decision from the request and the mounts, no socket."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final, NamedTuple

from appliance.ingest.mount import Mount, SourceInfo
from appliance.wire import icy
from appliance.wire.basic_auth import parse_basic
from appliance.wire.http_request import Request, form_fields

CONTENT_TYPES: Final = {
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/x-mpeg": "mp3",
    "audio/mpeg3": "mp3",
    "audio/aac": "aac",
    "audio/aacp": "aac",
    "audio/x-aac": "aac",
    "audio/mp4a-latm": "aac",
}
UNSPECIFIC_TYPES: Final = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""No type, or the default of a generic client (curl -T, curl --data): the audio itself decides."""
FORM_MAX_BYTES: Final = 16 * 1024
"""The body of a title form: a title has at most 4 KB, three times that when percent-encoded."""
AGENT_MAX: Final = 200
"""Characters of a User-Agent that are kept: it stands in log lines and on the status page."""
TITLE_PATHS: Final = ("/admin/metadata", "/admin.cgi")


class Refuse(NamedTuple):
    """Answer with this status and reason; `log`: what the operator is told."""

    status: int
    reason: str
    log: str


class Challenge(NamedTuple):
    """401: no credentials (libshout's first look: normal, not logged) or wrong ones, unreadable ones too."""

    wrong: bool
    log: str


class Accept(NamedTuple):
    """A source for this mount."""

    mount: Mount
    user: str
    agent: str
    info: SourceInfo


class NewTitle(NamedTuple):
    """A title for this mount; `shoutcast`: answered as SHOUTcast's admin.cgi does."""

    mount: Mount
    title: str
    url: str
    shoutcast: bool


class Options(NamedTuple):
    """An OPTIONS or a poke: say what is allowed."""


Decision = Refuse | Challenge | Accept | NewTitle | Options


def decide(request: Request, body: bytes, mounts: Mapping[str, Mount]) -> Decision:
    """The decision for a request and, for a form, its body."""
    if request.method in {"SOURCE", "PUT"}:
        return _source(request, mounts)
    if request.chunked:
        return Refuse(411, "a form needs a Content-Length", "a chunked form")
    if request.method == "OPTIONS" or request.path == "/admin/!POKE":
        return Options()
    if request.path in TITLE_PATHS and request.method in {"GET", "POST", "HEAD"}:
        return _title(request, body, mounts)
    return Refuse(404, "no such page on the source port", f"{request.method} {request.path[:80]!r} is no source request")


def leaves_body_out(request: Request) -> bool:
    """Whether a SOURCE or PUT that is refused has no body on the way, so that the next bytes are the next request: libshout's look-ahead
    (Content-Length: 0), or an encoder that waits for the 100 and told no length that it would have to keep."""
    return request.content_length == 0 or (request.content_length is None and not request.chunked and request.expects_continue)


def matches(password: str, given: str) -> bool:
    """Constant-time comparison; an empty password opens nothing."""
    return bool(password) and hmac.compare_digest(password.encode(), given.encode())


def _source(request: Request, mounts: Mapping[str, Mount]) -> Decision:
    name = request.path.lstrip("/")
    header = request.headers.get("authorization")
    credentials = parse_basic(header)
    if credentials is None:
        return Challenge(wrong=header is not None, log="unreadable credentials" if header else "no credentials")
    mount = mounts.get(name)
    if mount is None:
        return Refuse(404, "no such mount", f"no mount named {name[:80]!r} is configured")
    if not matches(mount.settings.password, credentials[1]):
        return Challenge(wrong=True, log=f"wrong password for mount {name}")
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    found = CONTENT_TYPES.get(sent)
    if found != mount.settings.format and not (found is None and sent in UNSPECIFIC_TYPES):
        return Refuse(
            415,
            f"this mount takes {mount.settings.format}, not {sent[:80]}",
            f"mount {name} takes {mount.settings.format}, not {sent[:80]!r}",
        )
    agent = icy.decode_title(request.headers.get("user-agent", "").encode("latin-1", "replace"))[:AGENT_MAX]
    if not mount.has_room_for(credentials[0], agent):
        return Refuse(403, "this mount has as many sources as it takes", f"too many sources on mount {name}")
    return Accept(mount, credentials[0], agent, source_info(request.headers))


def source_info(headers: Mapping[str, str]) -> SourceInfo:
    """The ice-* headers, icy-* where those are missing; text as UTF-8 where it is."""

    def text(name: str) -> str:
        raw = headers.get(f"ice-{name}") or headers.get(f"icy-{name}") or ""
        return icy.decode_title(raw.encode("latin-1", "replace"), None)[:500]

    bitrate = text("bitrate") or headers.get("icy-br", "")
    digits = bitrate.partition(",")[0].strip()
    kbps = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0
    public = (text("public") or headers.get("icy-pub", "")) == "1"
    return SourceInfo(text("name"), text("genre"), text("url"), text("description"), public, kbps)


def _title(request: Request, body: bytes, mounts: Mapping[str, Mount]) -> Decision:
    fields = form_fields(request.raw_query.encode("latin-1", "replace")) | form_fields(body)
    shoutcast = request.path == "/admin.cgi"
    mount, refusal = _title_mount(request, fields, mounts)
    if refusal is not None or mount is None:
        return refusal or Challenge(wrong=True, log="title update")
    if fields.get(b"mode", b"") not in {b"updinfo", b""} or (b"mode" not in fields and not shoutcast):
        return Refuse(400, "mode=updinfo is what is known here", "title update with an unknown mode")
    charset = _ascii(fields.get(b"charset", b"")) or mount.settings.charset or None
    title = icy.decode_title(fields.get(b"song") or b"", charset)
    if not title:
        artist, name = (icy.decode_title(fields.get(key) or b"", charset) for key in (b"artist", b"title"))
        title = icy.join_title(artist, name)
    if not title and b"song" not in fields and b"title" not in fields and b"url" not in fields:
        return Refuse(400, "song= is missing", "title update without a title")
    return NewTitle(mount, title, icy.decode_title(fields.get(b"url") or b"", charset), shoutcast)


def _title_mount(
    request: Request, fields: Mapping[bytes, bytes], mounts: Mapping[str, Mount]
) -> tuple[Mount | None, Decision | None]:
    """The mount a title is for, by name, else the one whose password was given; or why not."""
    header = request.headers.get("authorization")
    credentials = parse_basic(header)
    given = credentials[1] if credentials else _password(fields[b"pass"]) if b"pass" in fields else None
    if given is None:
        return None, Challenge(wrong=header is not None, log="title update with unreadable credentials")
    name = icy.decode_title(fields.get(b"mount", b""), None).lstrip("/")
    if name:
        mount = mounts.get(name)
        if mount is None:
            return None, Refuse(404, "no such mount", f"title for an unknown mount {name[:80]!r}")
    else:
        mount = next((one for one in mounts.values() if matches(one.settings.password, given)), None)
    if mount is None or not matches(mount.settings.password, given):
        return None, Challenge(wrong=True, log="title update with a wrong password")
    return mount, None


def _password(raw: bytes) -> str:
    """As in Basic credentials: UTF-8, else Latin-1, every character counts."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _ascii(raw: bytes) -> str:
    return raw.decode("ascii", "replace")[:40]
