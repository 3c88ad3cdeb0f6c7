"""The messages between a generation (S1) and its successor (S2). Rules and framing as between supervisor and worker (messages.py)."""

from __future__ import annotations

import msgspec

from appliance.channel.messages import Stand

HANDOFF_VERSION = 1


class Prepared(msgspec.Struct, tag="prepared"):
    """S2 to S1: code, config and workers are ready. Nothing of S1's was touched."""

    version: int = HANDOFF_VERSION
    release: str = ""


class Refused(msgspec.Struct, tag="refused"):
    """S2 to S1: it will not take over; the reason is for the operator."""

    reason: str


class GiveSocket(msgspec.Struct, tag="give_socket"):
    """S1 to S2. Fds: a listening socket. `name`: listener, source or api; several of one name are slots, in order."""

    name: str


class GiveRing(msgspec.Struct, tag="give_ring"):
    """S1 to S2. Fds: a stream's ring, unlocked. `index`: what S1's listeners call the stream; `title`, `url`: waiting for its chunk."""

    key: str
    index: int
    title: bytes = b""
    url: bytes = b""


class GiveSource(msgspec.Struct, tag="give_source"):
    """S1 to S2. Fds: an encoder's connection and its journal, which says all about it."""


class GiveRequest(msgspec.Struct, tag="give_request"):
    """S1 to S2. Fds: a connection whose request is half read. `received`: the bytes so far. `source_port`: it is the source
    server's, else a worker's; `lone`: it came in by the listener port (SourceConnection)."""

    received: bytes
    peer: str
    source_port: bool = False
    lone: bool = False


class GiveListeners(msgspec.Struct, tag="give_listeners"):
    """S1 to S2. Fds: one connection per listener."""

    listeners: list[Stand]


class GiveEnd(msgspec.Struct, tag="give_end"):
    """S1 to S2: that was all."""

    sockets: int = 0
    rings: int = 0
    sources: int = 0
    listeners: int = 0


class Got(msgspec.Struct, tag="got"):
    """S2 to S1: the last GiveListeners has come; send the next."""


class Taken(msgspec.Struct, tag="taken"):
    """S2 to S1: all has come and can be used. The commit."""


class Go(msgspec.Struct, tag="go"):
    """S1 to S2: it is yours."""


class Serving(msgspec.Struct, tag="serving"):
    """S2 to S1: it serves. Whoever asked for the reload may be told."""


HandoffMessage = (
    Serving | Prepared | Refused | GiveSocket | GiveRing | GiveSource | GiveRequest | GiveListeners | GiveEnd | Got | Taken | Go
)
