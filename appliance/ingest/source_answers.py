"""What an encoder is answered to a request that begins no source."""

from __future__ import annotations

from typing import Final

from appliance.ingest.source_request import Challenge, NewTitle, Options, Refuse
from appliance.wire import http_response
from appliance.wire.basic_auth import challenge

ALLOWED: Final = "GET, HEAD, OPTIONS, SOURCE, PUT"
"""PUT tells libshout to use HTTP/1.1 with Expect; POST is not there, so it sends titles by GET (CLIENTS.md)."""
TITLE_DONE: Final = (
    '<?xml version="1.0"?>\n<iceresponse><message>Metadata update successful</message><return>1</return></iceresponse>\n'
)


def answer(decision: Refuse | Challenge | NewTitle | Options, keep: bool, *, head_only: bool) -> bytes:
    """The whole answer; `keep`: a next request may follow it on the connection."""
    if isinstance(decision, Challenge):
        headers = [("WWW-Authenticate", challenge("StreamMachine")), ("Allow", ALLOWED)]
        return http_response.text(401, "the source password is needed", headers, head_only=head_only, keep_alive=keep)
    if isinstance(decision, Options):
        return http_response.head(204, [("Allow", ALLOWED), ("Connection", "keep-alive" if keep else "close")])
    if isinstance(decision, NewTitle):
        return _title_answer(decision, keep, head_only=head_only)
    return http_response.text(decision.status, decision.reason, head_only=head_only)


def _title_answer(decision: NewTitle, keep: bool, *, head_only: bool) -> bytes:
    body = ("OK\n" if decision.shoutcast else TITLE_DONE).encode()
    headers = [
        ("Content-Type", "text/plain" if decision.shoutcast else "text/xml"),
        ("Content-Length", str(len(body))),
        ("Connection", "keep-alive" if keep else "close"),
    ]
    return http_response.head(200, headers) + (b"" if head_only else body)
