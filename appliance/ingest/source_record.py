"""What a source's journal says beside the bytes, as msgpack maps: unknown fields are ignored, missing ones have their defaults, so that
a release reads what its predecessor and its successor write. Fields never change their meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from appliance.ingest.mount import MountSettings, OnAir, Source, SourceInfo
from appliance.ring.journal import JournalRefused
from appliance.wire.chunked import ChunkState
from appliance.wire.frames import AudioFormat, Resume

VERSION: Final = 1
"""Raised when a reader of the old meaning would do harm; a higher one than this is refused."""

_encoder = msgspec.msgpack.Encoder()
_Kind = TypeVar("_Kind", "Mark", "SourceRecord")


class Mark(msgspec.Struct, omit_defaults=True):
    """How to go on reading a body. `at`: journal position; `payload`: payload bytes before it; `left_bytes`: of Content-Length, -1 for
    none; `phase`, `chunk_left_bytes`, `trailer_bytes`: the chunked coding there. Then the frame parser, all before whose `position` (of the
    payload, not before `payload`) is in the rings or dropped for good, and the `frames` and `audio_bytes` that it had given by then."""

    at: int = 0
    payload: int = 0
    left_bytes: int = -1
    phase: str = "size"
    chunk_left_bytes: int = 0
    trailer_bytes: int = 0
    position: int = 0
    format: AudioFormat | None = None
    follows: bool = False
    tag_left_bytes: int = 0
    frames: int = 0
    audio_bytes: int = 0

    @property
    def resume(self) -> Resume:
        """The frame parser's state."""
        return Resume(self.position, self.format, self.follows, self.tag_left_bytes)

    @property
    def coding(self) -> ChunkState:
        """The chunked decoder's state."""
        return ChunkState(self.phase, self.chunk_left_bytes, self.trailer_bytes)


class SourceRecord(msgspec.Struct, omit_defaults=True):
    """Whose connection this is; as `Source`. `format`: "mp3" or "aac"; `chunked`: the body's coding; `final_due`: the encoder expects an
    answer when its body ends; `tcp_base`: bytes read from the connection before journal position 0, -1 when it is no TCP; `ended`: it has
    left its mount, and nothing is to be taken over."""

    version: int = VERSION
    mount: str = ""
    format: str = ""
    chunked: bool = False
    final_due: bool = False
    tcp_base: int = -1
    uuid: str = ""
    user: str = ""
    agent: str = ""
    address: str = ""
    protocol: str = ""
    info: SourceInfo = msgspec.field(default_factory=SourceInfo)
    connected_at: float = 0.0
    rank: int = 0
    on_air: bool = False
    ended: bool = False
    rings: dict[str, OnAir] = {}


def record_of(source: Source, settings: MountSettings, chunked: bool, final_due: bool, tcp_base: int) -> SourceRecord:
    """All of a connection that is a source."""
    return SourceRecord(
        mount=settings.name,
        format=settings.format,
        chunked=chunked,
        final_due=final_due,
        tcp_base=tcp_base,
        uuid=source.uuid,
        user=source.user,
        agent=source.agent,
        address=source.address,
        protocol=source.protocol,
        info=source.info,
        connected_at=source.connected_at,
        rank=source.rank,
        on_air=source.on_air,
        ended=source.ended,
        rings=source.rings,
    )


def source_of(record: SourceRecord, end: Callable[[str], None], note: Callable[[], None]) -> Source:
    """The source again, but for what its body tells."""
    source = Source(record.user, record.agent, record.address, record.protocol, record.info, end, note)
    source.uuid, source.connected_at, source.rank = record.uuid, record.connected_at, record.rank
    source.on_air, source.rings = record.on_air, dict(record.rings)
    return source


def encoded(record: Mark | SourceRecord) -> bytes:
    """For the journal."""
    return _encoder.encode(record)


def decoded(raw: bytes, kind: type[_Kind]) -> _Kind:
    """From the journal; an empty one gives the defaults. Raises JournalRefused."""
    try:
        found = msgspec.msgpack.decode(raw, type=kind) if raw else kind()
    except (msgspec.MsgspecError, ValueError) as error:
        raise JournalRefused(f"the journal's {kind.__name__} cannot be read: {error}") from error
    if isinstance(found, SourceRecord) and found.version > VERSION:
        raise JournalRefused(f"a record of version {found.version}, this release reads {VERSION}")
    return found
