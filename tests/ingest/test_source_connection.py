"""An encoder's conversation over a real socket, into a real ring; time stands still until a test moves it."""

from __future__ import annotations

import itertools
import random
import socket
from pathlib import Path

import pytest

from appliance.ingest import source_connection
from appliance.ingest.source_body import SourceBody
from appliance.ring.journal import JOURNAL_BYTES, SourceJournal
from appliance.wire.chunked import ChunkedDecoder
from appliance.wire.frames import Frame, parser_for
from tests.ingest.source_makers import Desk, Encoder, basic, chunked, frames_of, put, scene, source, turn, until
from tests.wire.frame_makers import adts_run, id3v2, mpeg_run

DATA = Path(__file__).parent.parent / "data"
CAPTURED = DATA / "requests"
SAMPLE = (DATA / "mp3-44100-128-s.mp3").read_bytes()
AUDIO = b"".join(frame.data for frame in frames_of(SAMPLE))
FRAMES = len(frames_of(SAMPLE))
EXPECTING = "Expect: 100-continue"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BEGUN = b"HTTP/1.0 200 OK\r\n\r\n"


async def ends(encoder: Encoder, desk: Desk) -> None:
    """The encoder closes; the server has taken all."""
    encoder.close()
    await until(lambda: not desk.open)


async def settled(desk: Desk) -> None:
    """The burst is over."""
    await turn()
    desk.pass_s(0.3)


# --- the ways to begin ---


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (put(EXPECTING), CONTINUE),
        (put(), BEGUN),
        (put("content-type: audio/mpeg", kind=None), BEGUN),
        (source(), BEGUN),
        (source(protocol="ICE/1.0"), BEGUN),
        (source(protocol="HTTP/1.1"), BEGUN),
        (source(end="\n"), BEGUN),
        (put(end="\n"), BEGUN),
        (put("Content-Length: 0"), BEGUN),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
async def test_audio_reaches_the_ring(head: bytes, answer: bytes, behind: bool) -> None:
    """Audio after the answer, or in the same packet as the headers: the ring has exactly the sent frames, to the last."""
    async with scene() as (desk, logs):
        encoder = desk.connect()
        if behind:
            await encoder.send(head + SAMPLE[:3000])
            await encoder.send(SAMPLE[3000:])
        else:
            await encoder.send(head)
            assert await encoder.head() == answer
            await encoder.send(SAMPLE)
        await ends(encoder, desk)
        assert desk.audio == AUDIO
        assert [line["event"] for line in logs] == ["source connected", "source ended"]


async def test_libshouts_look_ahead_and_the_true_request_on_one_socket() -> None:
    """The poke without credentials gets a whole 401 that lists PUT; the socket lives; the PUT gets its 100; no trouble is logged."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send((CAPTURED / "libshout-put-poke.txt").read_bytes())
        head = await encoder.head()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"WWW-Authenticate: Basic realm=" in head
        assert b"Connection: keep-alive\r\n" in head
        assert b"PUT" in head.partition(b"Allow: ")[2].partition(b"\r\n")[0]
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        assert len(await encoder.body(length)) == length
        assert encoder.silent()
        await encoder.send((CAPTURED / "libshout-put.txt").read_bytes())
        assert await encoder.head() == CONTINUE
        await encoder.send(SAMPLE)
        await ends(encoder, here.desk)
        assert here.desk.audio == AUDIO
        assert here.warnings() == []


async def test_libshouts_tls_question_then_poke_then_put() -> None:
    """OPTIONS * with Upgrade, the look-ahead and the PUT, all on one socket."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send((CAPTURED / "libshout-options-tls.txt").read_bytes())
        head = await encoder.head()
        assert head.startswith(b"HTTP/1.1 204 ")
        assert b"PUT" in head.partition(b"Allow: ")[2].partition(b"\r\n")[0]
        assert b"Upgrade" not in head
        await encoder.send(put("Content-Length: 0", "Connection: Keep-Alive", password=None))
        assert (await encoder.head()).startswith(b"HTTP/1.1 401 ")
        await encoder.body(len("the source password is needed\n"))
        await encoder.send(put(EXPECTING))
        assert await encoder.head() == CONTINUE
        assert here.warnings() == []


@pytest.mark.parametrize("name", ["libshout-admin-poke", "libshout-bare-poke"])
async def test_pokes_are_answered_and_not_told(name: str) -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send((CAPTURED / f"{name}.txt").read_bytes())
        encoder.sock.shutdown(socket.SHUT_WR)
        assert await encoder.rest()
        assert here.logs == []


async def test_a_password_with_colons() -> None:
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(source(password="hack:me"))
        assert await encoder.head() == BEGUN


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_any_split_of_the_head(end: str) -> None:
    """Byte by byte, with audio behind."""
    async with scene() as (desk, _):
        encoder = desk.connect()
        head = source(end=end)
        await encoder.send_split(head + SAMPLE[:50], itertools.repeat(1))
        await encoder.send(SAMPLE[50:])
        await ends(encoder, desk)
        assert desk.audio == AUDIO


# --- the body ---


@pytest.mark.parametrize("seed", range(8))
async def test_byte_identity_for_any_split(seed: int) -> None:
    """Whatever the packets: the frames that were sent, in order, none twice, none missing."""
    random_ = random.Random(seed)
    async with scene() as (desk, _):
        encoder = desk.connect()
        most = random_.choice([3, 200, 1500, 20000])
        part = SAMPLE[: 3000 if most == 3 else None]
        await encoder.send_split(put() + part, iter(lambda: random_.randint(1, most), 0))
        await ends(encoder, desk)
        assert desk.audio == b"".join(frame.data for frame in frames_of(part))


@pytest.mark.parametrize("seed", range(6))
async def test_chunked_split_anywhere(seed: int) -> None:
    """Chunks of any size, packets of any size: the same frames; the end is the last chunk."""
    random_ = random.Random(seed)
    part = SAMPLE[: random_.choice([2000, 30000])]
    body = chunked(part, iter(lambda: random_.randint(1, 700), 0))
    async with scene() as (desk, logs):
        encoder = desk.connect()
        most = random_.choice([1, 5, 3000]) if len(part) == 2000 else 3000
        await encoder.send(put("Transfer-Encoding: chunked", EXPECTING))
        assert await encoder.head() == CONTINUE
        await encoder.send_split(body, iter(lambda: random_.randint(1, most), 0))
        assert (await encoder.head()).startswith(b"HTTP/1.1 200 OK")
        await until(lambda: not desk.open)
        assert desk.audio == b"".join(frame.data for frame in frames_of(part))
        assert logs[-1]["log_level"] == "info"


async def test_bad_chunked_coding_ends_the_source_with_what_was_good() -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        good = chunked(SAMPLE[:20000], itertools.repeat(1000), finished=False)
        await encoder.send(put("Transfer-Encoding: chunked") + good + b"zzz\r\n" + SAMPLE)
        await until(lambda: not here.desk.open)
        assert here.desk.audio == b"".join(frame.data for frame in frames_of(SAMPLE[:20000]))
        assert here.warnings() == ["source ended: bad chunked coding: a chunk without a size"]


@pytest.mark.parametrize("expecting", [False, True])
async def test_a_body_with_a_length_ends_there(expecting: bool) -> None:
    """curl -T: what is behind the length is no audio. One final answer: the 200 that began it, or the one behind a 100."""
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(put(f"Content-Length: {len(SAMPLE)}", *([EXPECTING] if expecting else [])))
        await encoder.send(SAMPLE + mpeg_run(3)[0] * 3)
        answer = await encoder.rest()
        assert answer.count(b"HTTP/1.") == 1 + expecting
        assert answer.startswith(CONTINUE if expecting else BEGUN)
        assert answer.count(b"200 OK") == 1
        assert desk.audio == AUDIO


async def test_tags_and_garbage_are_dropped() -> None:
    """ID3 in front, noise between: only frames reach the ring."""
    run = b"".join(mpeg_run(100))
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(put() + id3v2(b"x" * 500) + run + b"noise" * 50 + run)
        await ends(encoder, desk)
        assert desk.audio == b"".join(frame.data for frame in frames_of(run + b"noise" * 50 + run))


async def test_aac() -> None:
    run = b"".join(adts_run(100))
    async with scene(format_name="aac") as (desk, _):
        encoder = desk.connect()
        await encoder.send(put(kind="audio/aac"))
        await encoder.send(run)
        await ends(encoder, desk)
        assert desk.audio == run


async def test_every_stream_of_the_mount_gets_it() -> None:
    async with scene(streams=3) as (desk, _):
        encoder = desk.connect()
        await encoder.send(put() + SAMPLE)
        await ends(encoder, desk)
        assert [feed.writer.head_pos for feed in desk.feeds] == [len(AUDIO)] * 3


async def test_a_reset_publishes_to_the_last_frame() -> None:
    """The encoder's machine is gone: all whole frames count."""
    async with scene() as (desk, logs):
        encoder = desk.connect()
        await encoder.send(put() + SAMPLE)
        connection = next(iter(desk.open))
        connection.close("Connection reset by peer")
        assert desk.audio == AUDIO
        assert logs[-1]["reason"] == "Connection reset by peer"


# --- refusals ---


async def refused(request: bytes, status: int, said: str) -> bytes:
    """The whole answer to a request that is refused: complete, closed, one warning that says why, no audio, mount untouched."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(request)
        answer = await encoder.rest()
        head, blank, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), answer
        assert blank
        assert b"Connection: close" in head
        assert int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]) == len(body)
        assert body.count(b"\n") == 1
        warnings = here.warnings()
        assert len(warnings) == 1
        assert said in warnings[0]
        assert here.desk.audio == b""
        assert here.desk.mount.sources == []
        assert not here.desk.open
        return answer


@pytest.mark.parametrize("behind", [b"", SAMPLE])
async def test_a_wrong_password_is_a_complete_401(behind: bytes) -> None:
    """Also when audio is sent without waiting: the answer is not eaten by a reset."""
    answer = await refused(source(password="nope") + behind, 401, "wrong password for mount test")
    assert b'WWW-Authenticate: Basic realm="StreamMachine"\r\n' in answer


@pytest.mark.parametrize("behind", [b"", SAMPLE])
async def test_a_wrong_mount_is_404(behind: bytes) -> None:
    await refused(put(mount="/testXYZ") + behind, 404, "testXYZ")


@pytest.mark.parametrize("behind", [b"", SAMPLE])
async def test_a_wrong_content_type_is_415(behind: bytes) -> None:
    await refused(put(kind="application/ogg") + behind, 415, "application/ogg")


async def test_unreadable_credentials_are_told() -> None:
    await refused(put("Authorization: Basic ?", password=None), 401, "unreadable credentials")


async def test_unknown_pages_are_404() -> None:
    await refused(b"GET /test HTTP/1.1\r\n\r\n", 404, "/test")


async def test_audio_without_credentials_is_not_read_as_requests() -> None:
    """An encoder that does not wait: one 401, the end, and no complaints about its audio."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(put("Connection: keep-alive", password=None) + SAMPLE)
        answer = await encoder.rest()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert here.warnings() == []


async def test_a_bare_password_line_is_told() -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(b"hackme\r\n")
        assert await encoder.rest() == b"invalid password\r\n"
        assert len(here.warnings()) == 1


# --- limits ---


async def test_no_frame_in_64_kib() -> None:
    """An encoder that sends text: closed, the reason in the log, in one line."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(put() + b"what a lovely day " * 3600)
        assert here.desk.open
        await encoder.send(b"what a lovely day " * 100)
        assert not here.desk.open
        assert len(here.warnings()) == 1
        assert "no mp3 frame" in here.warnings()[0]
        assert here.desk.mount.active is None


async def test_no_frame_in_10_s() -> None:
    for sent in (b"", b"what a lovely day"):
        async with scene() as here:
            encoder = here.desk.connect()
            await encoder.send(put() + sent)
            here.desk.pass_s(9.9)
            assert here.desk.open
            here.desk.pass_s(0.2)
            assert not here.desk.open
            assert here.warnings() == [f"source ended: no mp3 frame in its first {len(sent)} bytes: is the encoder set to mp3?"]


async def test_the_wrong_audio_is_told() -> None:
    """AAC on an mp3 mount, said to be mp3."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(put() + b"".join(adts_run(300)))
        await turn()
        assert not here.desk.open
        assert "is the encoder set to mp3?" in here.warnings()[0]


@pytest.mark.parametrize("timeout_s", [10.0, 3.0])
async def test_a_stalled_source_is_cut_after_source_timeout(timeout_s: float) -> None:
    """Silence: cut, its audio kept, one warning; the mount is free."""
    async with scene(source_timeout_s=timeout_s) as here:
        encoder = here.desk.connect()
        await encoder.send(put() + SAMPLE)
        here.desk.pass_s(timeout_s - 0.1)
        assert here.desk.open
        here.desk.pass_s(0.2)
        assert not here.desk.open
        assert here.desk.audio == AUDIO
        assert here.warnings() == [f"source ended: no audio for {timeout_s:g} s"]
        assert here.desk.mount.active is None


async def test_garbage_is_no_sign_of_life() -> None:
    """Once it was audio, then text without end: cut like a stall."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(put() + SAMPLE)
        for _ in range(2):
            here.desk.pass_s(4)
            await encoder.send(b"lorem ipsum " * 100)
        here.desk.pass_s(4)
        assert not here.desk.open
        assert here.warnings() == ["source ended: no audio for 10 s"]


async def test_audio_now_and_then_keeps_a_source() -> None:
    """A frame every 9 s is a slow source, but one."""
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(put() + SAMPLE[:20000])
        at = 20000
        for _ in range(10):
            here.desk.pass_s(9)
            await encoder.send(SAMPLE[at : at + 1000])
            at += 1000
        assert here.desk.open


@pytest.mark.parametrize("sent", [b"PUT", put()[:-1], put()[:40], b"POST /admin/metadata HTTP/1.1\r\nContent-Length: 40\r\n\r\nmode=up"])
async def test_a_request_that_takes_too_long_is_408(sent: bytes) -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(sent)
        here.desk.pass_s(9.9)
        assert encoder.silent()
        here.desk.pass_s(0.2)
        assert (await encoder.rest()).startswith(b"HTTP/1.1 408 ")
        assert len(here.warnings()) == 1
        assert "408" in here.warnings()[0]


async def test_bytes_now_and_then_do_not_prolong_a_head() -> None:
    """10 s in all (slow loris)."""
    async with scene() as here:
        encoder = here.desk.connect()
        for byte in put()[:9]:
            await encoder.send(bytes((byte,)))
            here.desk.pass_s(1.1)
        assert here.desk.open
        here.desk.pass_s(0.2)
        assert (await encoder.rest()).startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        here.desk.pass_s(11)
        assert await encoder.rest() == b""
        assert here.logs == []


@pytest.mark.parametrize("sent", [b"PUT /te", put()[:-2], b"POST /admin/metadata HTTP/1.1\r\nContent-Length: 40\r\n\r\nmode=up"])
async def test_half_a_request_is_told(sent: bytes) -> None:
    async with scene() as here:
        encoder = here.desk.connect()
        await encoder.send(sent)
        await ends(encoder, here.desk)
        assert here.warnings() == ["bad source request: closed by the encoder before the request was complete"]


async def test_a_connection_without_a_byte_is_not_told() -> None:
    """A health check of a load balancer."""
    async with scene() as here:
        await ends(here.desk.connect(), here.desk)
        assert here.logs == []


async def test_repeated_trouble_is_one_line_and_a_count() -> None:
    """A hundred wrong passwords from one address in one second."""
    async with scene() as here:
        for _ in range(100):
            encoder = here.desk.connect()
            await encoder.send(put(password="guess"))
            await encoder.rest()
        assert len(here.warnings()) == 1
        here.desk.trouble.tick()
        assert here.logs[-1]["more"] == 99
        here.desk.trouble.tick()
        assert len(here.logs) == 2


# --- coming back, standing by ---


async def test_the_same_encoder_takes_over_while_its_old_socket_looks_alive() -> None:
    """The old connection is ended, its frames are all in the ring, then come the new one's; no frame twice."""
    frames = [frame.data for frame in frames_of(SAMPLE)]
    async with scene() as here:
        old = here.desk.connect()
        await old.send(put() + b"".join(frames[:60]))
        new = here.desk.connect()
        await new.send(put())
        assert await new.head() == BEGUN
        assert await old.head() == BEGUN
        assert await old.rest() == b""
        await new.send(b"".join(frames[60:]))
        await ends(new, here.desk)
        assert here.desk.audio == AUDIO
        assert here.warnings() == []


async def test_a_standby_waits_and_goes_on() -> None:
    frames = [frame.data for frame in frames_of(SAMPLE)]
    async with scene() as (desk, _):
        first, second = desk.connect(), desk.connect()
        await first.send(put() + b"".join(frames[:60]))
        await second.send(put(agent="backup") + b"".join(frames[:70]) + frames[70][:100])
        assert await second.head() == BEGUN
        first.close()
        await until(lambda: len(desk.open) == 1)
        await second.send(frames[70][100:] + b"".join(frames[71:]))
        await ends(second, desk)
        # frame 69 was complete, but only the header of frame 70 confirmed it: it was heard before the hand-on
        assert desk.audio == b"".join(frames[:60]) + b"".join(frames[70:])


# --- titles ---

TITLE = "/admin/metadata?mode=updinfo&mount=/test&song="


async def titled(desk: Desk, request: bytes) -> bytes:
    """Its answer; then audio with that title."""
    encoder = desk.connect()
    await encoder.send(request)
    answer = await encoder.head()
    feeding = desk.connect()
    await feeding.send(put() + SAMPLE)
    await ends_one(feeding, desk)
    return answer


async def ends_one(encoder: Encoder, desk: Desk) -> None:
    count = len(desk.open)
    encoder.close()
    await until(lambda: len(desk.open) < count)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (f"GET {TITLE}Sigur+R%F3s HTTP/1.0\r\nAuthorization: {basic()}\r\n\r\n", "Sigur Rós"),
        (f"GET {TITLE}Sigur+R%C3%B3s&url=http%3A//x HTTP/1.1\r\nAuthorization: {basic()}\r\n\r\n", "Sigur Rós"),
        (f"GET /admin/metadata?mode=updinfo&mount=/test&artist=A&title=B HTTP/1.0\r\nAuthorization: {basic()}\r\n\r\n", "A - B"),
        ("GET /admin.cgi?pass=hack:me&mode=updinfo&song=Bj%F6rk HTTP/1.0\nUser-Agent: x\n\n", "Björk"),
        ("GET /admin.cgi?pass=hack:me&mode=updinfo&song=Mot\xf6rhead - Ace of Spades HTTP/1.0\r\n\r\n", "Motörhead - Ace of Spades"),
        (f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: 32\r\n\r\nmode=updinfo&mount=/test&song=AB", "AB"),
    ],
)
async def test_titles_are_heard(request_: str, expected: str) -> None:
    async with scene() as here:
        answer = await titled(here.desk, request_.encode("latin-1"))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert here.desk.chunks[0].title == expected
        assert here.warnings() == []


async def test_a_title_split_anywhere() -> None:
    form = b"mode=updinfo&mount=/test&song=A+B"
    request = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: {len(form)}\r\n\r\n".encode() + form
    async with scene() as (desk, logs):
        for _ in range(2):
            encoder = desk.connect()
            await encoder.send_split(request, itertools.repeat(1))
            assert (await encoder.head()).startswith(b"HTTP/1.1 200 OK")
        assert [line["title"] for line in logs] == ["A B", "A B"]


async def test_titles_on_a_kept_connection_stay_apart() -> None:
    """Three in one packet, the middle one a form: three answers in order, and no field of one leaks into another."""
    form = b"mode=updinfo&mount=/test&song=two&url=http://two"
    request = f"GET {TITLE}one HTTP/1.1\r\nAuthorization: {basic()}\r\n\r\n".encode()
    request += f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: {len(form)}\r\n\r\n".encode() + form
    request += f"GET {TITLE}three HTTP/1.1\r\nAuthorization: {basic()}\r\nConnection: close\r\n\r\n".encode()
    for sizes in (itertools.repeat(len(request)), itertools.cycle([7, 150, 1])):
        async with scene() as (desk, logs):
            encoder = desk.connect()
            await encoder.send_split(request, sizes)
            assert (await encoder.rest()).count(b"HTTP/1.1 200 OK") == 3
            assert [(line["title"], line["url"]) for line in logs] == [("one", None), ("two", "http://two"), ("three", None)]


async def test_requests_behind_a_full_read_stay_in_order() -> None:
    """More than one read of pipelined titles: all, in the order they were sent."""
    request = b"".join(f"GET {TITLE}{number} HTTP/1.1\r\nAuthorization: {basic()}\r\n\r\n".encode() for number in range(400))
    async with scene() as (desk, logs):
        encoder = desk.connect()
        await encoder.send(request)
        await until(lambda: len(logs) == 400)
        assert [line["title"] for line in logs] == [str(number) for number in range(400)]


async def test_a_form_with_expect_gets_its_100() -> None:
    form = b"mode=updinfo&mount=/test&song=A"
    async with scene() as (desk, _):
        encoder = desk.connect()
        head = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\n{EXPECTING}\r\nContent-Length: {len(form)}\r\n\r\n"
        await encoder.send(head.encode())
        assert await encoder.head() == CONTINUE
        await encoder.send(form)
        assert (await encoder.head()).startswith(b"HTTP/1.1 200 OK")


async def test_head_has_no_body() -> None:
    async with scene() as (desk, _):
        for path, header in ((f"{TITLE}x", f"Authorization: {basic()}"), (f"{TITLE}x", "X: y"), ("/x", "X: y")):
            encoder = desk.connect()
            await encoder.send(f"HEAD {path} HTTP/1.0\r\n{header}\r\n\r\n".encode())
            answer = await encoder.rest()
            assert answer.endswith(b"\r\n\r\n")
            assert answer.count(b"\r\n\r\n") == 1


async def test_butt_closes_without_reading() -> None:
    """Its title counts, and nothing is told."""
    async with scene() as here:
        encoder = here.desk.connect()
        await here.desk.connect().send(b"")
        encoder.sock.send((CAPTURED / "butt-shoutcast-title.txt").read_bytes().replace(b"hackme", b"hack:me"))
        encoder.close()
        await turn()
        assert [line["event"] for line in here.logs] == ["title"]


@pytest.mark.parametrize("path", [f"{TITLE}A", "/admin.cgi?pass=x&mode=updinfo&song=A"])
async def test_a_title_with_a_wrong_password_changes_nothing(path: str) -> None:
    await refused(f"GET {path} HTTP/1.0\r\nAuthorization: {basic('nope')}\r\n\r\n".encode(), 401, "wrong password")


async def test_a_huge_form_is_413() -> None:
    head = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: 16385\r\n\r\n"
    await refused(head.encode() + b"x" * 100, 413, "a form over the limit")


# --- requests passed on from the listener port ---


async def test_a_passed_source_goes_on_with_what_was_read() -> None:
    """Head and first audio were read by a worker; the rest comes on the socket."""
    async with scene() as (desk, _):
        encoder = desk.connect(received=source() + SAMPLE[:5000], lone=True)
        await encoder.send(SAMPLE[5000:])
        assert await encoder.head() == BEGUN
        await ends(encoder, desk)
        assert desk.audio == AUDIO


async def test_a_passed_title_is_answered_and_closed() -> None:
    """The supervisor has no listener path: Connection: close."""
    async with scene() as (desk, logs):
        encoder = desk.connect(received=f"GET {TITLE}A HTTP/1.1\r\nAuthorization: {basic()}\r\n\r\n".encode(), lone=True)
        answer = await encoder.rest()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        assert [line["event"] for line in logs] == ["title"]


async def test_a_passed_poke_keeps_the_socket() -> None:
    """401, 100 and OPTIONS are the exceptions: libshout reuses the connection."""
    async with scene() as (desk, _):
        encoder = desk.connect(received=put("Content-Length: 0", password=None), lone=True)
        head = await encoder.head()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"Connection: keep-alive" in head
        await encoder.body(30)
        await encoder.send(put(EXPECTING))
        assert await encoder.head() == CONTINUE
        await encoder.send(SAMPLE)
        await ends(encoder, desk)
        assert desk.audio == AUDIO


async def test_half_a_passed_form_is_completed() -> None:
    form = b"mode=updinfo&mount=/test&song=A"
    head = f"POST /admin/metadata HTTP/1.1\r\nAuthorization: {basic()}\r\nContent-Length: {len(form)}\r\n\r\n".encode()
    async with scene() as (desk, logs):
        encoder = desk.connect(received=head + form[:9], lone=True)
        await encoder.send(form[9:])
        assert (await encoder.rest()).startswith(b"HTTP/1.1 200 OK")
        assert logs[0]["title"] == "A"


# --- the journal ---


def test_settled_input_is_in_the_ring() -> None:
    """At any moment, for any split: every frame of which a byte lies before `settled` is out (in the ring), and a parser that is fed the
    unsettled bytes finds all frames that are not."""
    frames = frames_of(SAMPLE)
    ends_at = list(itertools.accumulate(len(frame.data) for frame in frames))
    for seed in range(12):
        random_ = random.Random(seed)
        most = random_.choice([10, 400, 2000, 30000])
        body, out, known, at = SourceBody.create("test", "mp3"), 0, 0, 0
        while at < len(AUDIO):
            piece = AUDIO[at : at + random_.randint(1, most)]
            at += len(piece)
            body.journal.put(piece)
            known += len(body.replay())
            out += random_.randint(0, known - out) if random_.random() < 0.3 else 0
            body.settle(known - out)
            first_waiting = ends_at[out - 1] if out else 0
            assert body.journal.settled <= first_waiting
            assert body.journal.unsettled() == AUDIO[body.journal.settled : at]
            if random_.random() < 0.02:
                check_recovery(body.journal, frames, out)
        body.settle(0)
        assert len(body.journal.unsettled()) <= most + 2 * 420
        body.close()


def check_recovery(journal: SourceJournal, frames: list[Frame], out: int) -> None:
    """A fresh parser on the unsettled bytes (an encoder that stopped there): every frame which is not out, and is whole, is found."""
    sent = journal.received
    whole = sum(1 for end in itertools.accumulate(len(frame.data) for frame in frames) if end <= sent)
    parser = parser_for("mp3")
    found = b"".join(frame.data for frame in parser.feed(journal.unsettled()) + parser.flush())
    wanted = [frame.data for frame in frames[out:whole]]
    assert found.endswith((b"".join(wanted), b"".join(wanted[:-1])))  # the very last may lack a frame that confirms it


async def test_settled_follows_the_ring_over_a_connection() -> None:
    """Burst held: nothing is settled. Published: all but what waits in parser and chunker is."""
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(put())
        journal = encoder.connection._body.journal
        await encoder.send(SAMPLE[:30000])
        assert journal.settled == 0
        desk.pass_s(0.3)
        await encoder.send_split(SAMPLE[30000:], itertools.repeat(1000))
        assert journal.received == len(SAMPLE)
        unheard = AUDIO[desk.writer.head_pos :]
        assert unheard in journal.unsettled()
        assert len(journal.unsettled()) <= len(unheard) + 2 * 1000
        assert desk.feeds[0].chunker.frames_held < 19


@pytest.mark.parametrize("seed", range(4))
async def test_a_chunked_body_is_settled_by_its_raw_bytes(seed: int) -> None:
    """The journal holds what was sent, chunk sizes and all; a decoder in the state it had at `settled` gives the frames not yet heard."""
    random_ = random.Random(seed)
    raw = chunked(AUDIO, iter(lambda: random_.randint(1, 900), 0), finished=False)
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(put("Transfer-Encoding: chunked"))
        journal = encoder.connection._body.journal
        await encoder.send(raw[:5000])
        desk.pass_s(0.3)
        at = 5000
        while at < len(raw):
            size = random_.randint(1, 2500)
            await encoder.send(raw[at : at + size])
            at += size
            decoder = ChunkedDecoder()
            decoder.feed(raw[: journal.settled])
            payload = decoder.feed(journal.unsettled())
            sent = ChunkedDecoder().feed(raw[: min(at, len(raw))])
            assert payload.endswith(sent[desk.writer.head_pos :])


async def test_a_standbys_audio_is_dropped_for_good() -> None:
    """Its journal does not fill while it waits."""
    async with scene() as (desk, _):
        first, second = desk.connect(), desk.connect()
        await first.send(put() + SAMPLE[:5000])
        await second.send(put(agent="backup"))
        journal = second.connection._body.journal
        for _ in range(3):
            await second.send_split(SAMPLE, itertools.repeat(4000))
        assert len(journal.unsettled()) <= 4000 + 2 * 420


async def test_hours_through_one_journal() -> None:
    """Twice round the journal: positions go on, frames are exact."""
    run = b"".join(mpeg_run(250, kbps=320))
    async with scene() as (desk, _):
        encoder = desk.connect()
        await encoder.send(put())
        rounds = 2 * JOURNAL_BYTES // len(run) + 1
        for _ in range(rounds):
            await encoder.send_split(run, itertools.repeat(50_000))
            desk.pass_s(1)
        await ends(encoder, desk)
        assert desk.audio == run * rounds


async def test_no_memory_for_a_journal_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(name: str) -> SourceJournal:
        raise OSError(24, f"Too many open files for {name}")

    monkeypatch.setattr(SourceJournal, "create", none_left)
    await refused(put(), 503, "Too many open files")


async def test_one_read_is_bounded() -> None:
    """A source that sends at line speed cannot hold up the loop: 1 MiB a turn at most."""
    assert source_connection.READS_A_ROUND * 64 * 1024 <= 1 << 20
