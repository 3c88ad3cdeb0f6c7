"""Messages: round trips, and what a release must bear from the one before and after it."""

from __future__ import annotations

import msgspec
import pytest

from appliance.channel import framing, messages
from appliance.channel.framing import BadMessage
from appliance.channel.messages import (
    AddStreams,
    Adopted,
    AdoptListeners,
    DropListeners,
    HalfRead,
    Hello,
    KeepListeners,
    Kept,
    LetGo,
    Message,
    Noted,
    PassRequest,
    Rejoin,
    RemoveStream,
    Setup,
    Slots,
    Stand,
    Stop,
    StreamEntry,
    StreamInfo,
    WorkerSettings,
)

ONE_OF_EACH: list[Message] = [
    Hello(1, release="0.1.0"),
    Setup(3, WorkerSettings(ua_skip=["a", "b"], max_listeners=5)),
    AddStreams([StreamEntry(0, "test"), StreamEntry(1, "aac", aliases=["x/y"], public=True)]),
    StreamInfo(StreamEntry(0, "test", name="Rädio")),
    RemoveStream(1),
    Slots([0, 2], [2]),
    Stop(2.5),
    PassRequest(bytes(range(256)), "::1"),
    KeepListeners(7, [Kept(1, 2, 0, 8192, 1 << 40, 5, "10.0.0.1", "VLC/3")]),
    LetGo(),
    Rejoin(),
    HalfRead(b"GET /te", "::1"),
    DropListeners(8, [1, 2, 3]),
    Noted(8),
    AdoptListeners(9, [Stand(Kept(1, 2, 0), 100, 1 << 40, 1 << 41, 17, 3)]),
    Adopted(9, [None, Kept(4, 5, 0)]),
]


@pytest.mark.parametrize("message", ONE_OF_EACH)
def test_round_trip(message: Message) -> None:
    """What is sent is what comes."""
    assert framing.decode(framing.encode(message, 0), []) == message


def test_every_kind_is_here() -> None:
    """A new kind brings its test."""
    assert {type(message) for message in ONE_OF_EACH} == set(messages.Message.__args__)


@pytest.mark.parametrize("message", ONE_OF_EACH)
def test_fields_of_a_later_release_are_ignored(message: Message) -> None:
    """Fields may be added with a default: an older reader does not know them."""
    raw = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    later = msgspec.msgpack.encode(raw | {"new_field": [1, 2, {"x": None}]})
    assert framing.decode(b"\0\0" + later, []) == message


def test_fields_an_earlier_release_did_not_send_have_defaults() -> None:
    """Only what has no default must be there."""
    assert framing.decode(b"\0\0" + msgspec.msgpack.encode({"type": "hello", "pid": 7}), []) == Hello(7)
    assert framing.decode(b"\0\0" + msgspec.msgpack.encode({"type": "stop"}), []) == Stop()
    entry = {"index": 4, "key": "k"}
    assert framing.decode(b"\0\0" + msgspec.msgpack.encode({"type": "stream_info", "stream": entry}), []) == StreamInfo(StreamEntry(4, "k"))


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"\0", b"\0\0", b"\0\0\xc1", b"\0\0garbage", b"\0\0\x80", b"\1\0" + msgspec.msgpack.encode(Stop()),
        b"\0\0" + msgspec.msgpack.encode({"type": "unheard_of"}), b"\0\0" + msgspec.msgpack.encode({"type": "hello", "pid": "x"}),
        b"\0\0" + msgspec.msgpack.encode({"type": "slots", "slots": [1], "added": None}), b"\0\0" + msgspec.msgpack.encode([1, 2]),
        b"\0\0" + msgspec.msgpack.encode(Stop()) + b"\0", b"\0\0\x82\xa4type\xa5hello\xa7release\xa1\xff",
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_a_bad_message(packet: bytes) -> None:
    """Unknown kinds, wrong types, garbage, lost fds: one exception, with a reason."""
    with pytest.raises(BadMessage) as refused:
        framing.decode(packet, [])
    assert str(refused.value)


def test_no_secrets_reach_a_worker() -> None:
    """ARCHITECTURE 2: a worker gets a small stream table."""
    fields = {name for kind in (*messages.Message.__args__, StreamEntry, WorkerSettings) for name in kind.__struct_fields__}
    assert not [name for name in fields if "pass" in name or "secret" in name or "credential" in name]
