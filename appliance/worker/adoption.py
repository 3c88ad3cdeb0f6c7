"""Going on with the listeners of a worker that is gone, at the exact byte.

A listener's row says where it stood at a checkpoint and how many bytes had been written by then; TCP says how many were written in all.
What lies between is redone on paper: which bytes they were depends on the ring and the checkpoint alone (playhead.py). The connection's
old owner must be reaped before, so that the count stands still.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from appliance.channel.messages import Stand
from appliance.ring.listeners import KIND_ICY, KIND_RAW, ListenerTable
from appliance.system import sockets, tcp_info
from appliance.worker.listener import Crowd, Listener
from appliance.worker.playhead import NEVER, Playhead
from appliance.worker.stream import Stream

WALK_BYTES: Final = 1 << 20
"""A step of the walk: a listener that was level has a few kilobytes to go, one in a fast burst some hundred."""


class CannotGoOn(Exception):
    """Why a listener ends with its worker; for the log."""


def playhead_at(stand: Stand, stream: Stream, written: int) -> Playhead:
    """The playhead after `written` bytes on the connection in all. Raises CannotGoOn."""
    interval = stand.kept.interval
    head = Playhead(stand.pos, interval, b"", stand.total - (stand.pos - stand.start_pos))
    head.start_pos = stand.start_pos
    head.meta_at = stand.pos + stand.until_meta if interval else NEVER
    head.title = stand.title
    left = written - stand.total
    if left < 0:
        raise CannotGoOn("its response head was not sent yet")
    reader = stream.reader
    newest = reader.pos[stream.head & reader.mask]
    while left:
        if head.pos < reader.pos[reader.tail_seq & reader.mask]:
            raise CannotGoOn("the buffer has overtaken it")
        buffers, marks = head.gather(stream, min(newest, head.pos + WALK_BYTES))
        step = min(left, sum(len(part) for part in buffers))
        if not step:
            raise CannotGoOn(f"{left} more bytes were written than the buffer has")
        head.advance(step, marks)
        left -= step
    return head


def adopt(stand: Stand, fd: int, stream: Stream | None, crowd: Crowd, table: ListenerTable) -> Listener:
    """A listener on `fd` (owned from now on; closed on failure) that stands where it stood. Raises CannotGoOn."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise CannotGoOn(f"not a connection: {error}") from error
    try:
        if stream is None:
            raise CannotGoOn("its stream is no longer served")
        head = playhead_at(stand, stream, tcp_info.bytes_acked(sock) + sockets.unacknowledged_bytes(sock))
    except (CannotGoOn, OSError) as error:
        sock.close()
        raise CannotGoOn(str(error)) from error
    sock.setblocking(False)
    listener = Listener(sock, crowd, stream, head, stand.kept.peer, stand.kept.agent)
    listener.joined_us = stand.kept.joined_us
    listener.row = table.claim(stream.entry.index, KIND_ICY if stand.kept.interval else KIND_RAW, stand.start_pos)
    if listener.row >= 0:  # until the next one, the old checkpoint is as good: the walk from it is the same
        table.checkpoint(listener.row, stand.total, stand.pos, stand.until_meta, stand.title)
    return listener
