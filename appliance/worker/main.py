"""The worker process: from the zygote's fork to its end. Imports nothing of the admin side (tests/rules)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Final

import structlog
import uvloop

from appliance.channel.framing import ChannelClosed
from appliance.system import logs, processes
from appliance.worker.worker import Worker

TERM_DRAIN_S: Final = 5.0
"""A worker that is told to end by a signal sends what is due for so long, as for its supervisor's Stop."""


def run(channel: processes.FdArgument, log_level: str, log_json: bool) -> None:
    """Process target. `channel` carries our end of the SOCK_SEQPACKET connection to the supervisor."""
    processes.leave_zygote()
    processes.least_rights()
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    logs.configure(log_level, log_json)
    sock = socket.socket(fileno=channel.take())
    code = 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(sock))
        code = 0
    except ChannelClosed:
        code = 0  # the supervisor was gone before this worker could say hello
    except Exception:  # noqa: BLE001 - the last thing this process says
        structlog.get_logger().exception("the worker failed")
    finally:
        os._exit(code)


async def _serve(sock: socket.socket) -> None:
    ended = asyncio.Event()
    worker = Worker(sock, ended)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop, TERM_DRAIN_S)
    await ended.wait()
