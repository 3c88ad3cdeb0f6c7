"""The supervisor's outer life, where no process is needed to see it."""

from __future__ import annotations

import socket

from appliance.config.model import Config
from appliance.supervisor.handing_over import Command
from appliance.supervisor.main import Ending, Ports, Roles, Server, Start
from appliance.supervisor.station import Station
from appliance.system.activation import Inherited
from appliance.system.processes import FdArgument


def worker(channel: FdArgument, log_level: str, log_json: bool) -> None:
    """Never started here."""


async def control(station: Station, ports: Ports, sock: socket.socket, started_at: float) -> Ending:
    """Never started here."""
    raise AssertionError


async def test_a_reload_while_it_starts_is_refused_and_harmless() -> None:
    """SIGHUP may come at any time: before there is anything to hand over it gets a plain answer."""
    server = Server(Config(), Roles(worker, "none", control, "none"), Start(Command([], {}, "/")), Inherited())
    assert await server._reload() == "the server is still starting"
