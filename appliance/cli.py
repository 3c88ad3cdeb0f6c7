"""The `streammachine` command: arguments to a role, and nothing else. The only place that picks one.

Each role loads only its own modules, inside its function: `serve` must not cost the memory of the clients, nor a client that of the server.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import appliance

if TYPE_CHECKING:
    from appliance.config.load import Loaded
    from appliance.supervisor.main import Ports, Roles
    from appliance.supervisor.station import Station

EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.role(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output is gone (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="streammachine", description="A live-radio server with hours of rewind in shared memory.")
    parser.add_argument("--version", action="version", version=f"streammachine {appliance.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server in the foreground")
    _config_arguments(serve)
    outlive = "under systemd with KillMode=process: workers and sources outlive this process"
    serve.add_argument("--fd-store", action="store_true", help=outlive)
    serve.add_argument("--takeover-fd", type=int, default=-1, help=argparse.SUPPRESS)  # from the generation before
    serve.add_argument("--parent-fd", type=int, default=-1, help=argparse.SUPPRESS)  # to the first parent
    serve.set_defaults(role=_serve)

    reload = commands.add_parser("reload", help="hand off to the code and config now on disk; exit 0 only when the new process serves")
    _config_arguments(reload)
    reload.set_defaults(role=_reload)

    demo = commands.add_parser("demo", help="no config, no encoder: a demo stream and a page to hear it on")
    demo.add_argument("--port", type=int, help="listener port (default: 8001, or a free one if that is taken)")
    demo.set_defaults(role=_demo)

    check = commands.add_parser("check", help="validate the configuration; exit 0, or 1 with every error")
    _config_arguments(check)
    check.set_defaults(role=_check)

    source = commands.add_parser("source", help="send MP3 or AAC files in real time, looped: a test encoder")
    source.add_argument("files", nargs="+", metavar="FILE")
    source.add_argument("--to", required=True, metavar="URL", help="http://source:PASSWORD@HOST:PORT/MOUNT")
    source.add_argument("--title", help="title to send once connected")
    source.set_defaults(role=_source)

    listen = commands.add_parser("listen", help="a test player: titles, bitrate, longest gap, frame errors")
    listen.add_argument("url", metavar="URL")
    listen.add_argument("--seconds", type=float, help="stop after this long (default: until interrupted)")
    listen.add_argument("--icy", action="store_true", help="ask for titles (Icy-MetaData: 1)")
    listen.set_defaults(role=_listen)
    return parser


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    default = "$STREAMMACHINE_CONFIG, else /etc/streammachine/streammachine.toml"
    parser.add_argument("--config", metavar="PATH", help=f"TOML or JSON (default: {default})")
    parser.add_argument("--set", action="append", default=[], metavar="a.b.c=VALUE", help="override one key; may be repeated")


def _check(arguments: argparse.Namespace) -> int:
    from appliance.config import check

    return check.run(arguments.config, arguments.set, os.environ, sys.stdout)


def _source(arguments: argparse.Namespace) -> int:
    from appliance.clients import encoder

    return encoder.run(arguments.files, arguments.to, arguments.title)


def _listen(arguments: argparse.Namespace) -> int:
    from appliance.clients import player

    return player.run(arguments.url, arguments.seconds, arguments.icy)


def _reload(arguments: argparse.Namespace) -> int:
    from appliance.clients import reload

    return reload.run(_runtime_dir(arguments), sys.stdout, sys.stderr)


def _runtime_dir(arguments: argparse.Namespace) -> Path:
    """Where the running server is found; a configuration with errors elsewhere still says it, so that the server can say them."""
    from appliance.config.load import find_path, runtime_dir_of

    return runtime_dir_of(find_path(arguments.config, os.environ), os.environ, arguments.set)


def _load(arguments: argparse.Namespace) -> Loaded | str:
    """The configuration, or all its errors, a line each."""
    from appliance.config.load import ConfigInvalid, find_path, load

    try:
        return load(find_path(arguments.config, os.environ), os.environ, arguments.set)
    except ConfigInvalid as error:
        return "\n".join(str(one) for one in error.errors)


def _serve(arguments: argparse.Namespace) -> int:
    environment, parent_fd = dict(os.environ), arguments.parent_fd
    if arguments.takeover_fd < 0 and "NOTIFY_SOCKET" not in os.environ:
        from appliance.system import first_parent

        parent_fd = first_parent.split()
    loaded = _load(arguments)
    if isinstance(loaded, str):
        print(loaded, file=sys.stderr)  # noqa: T201 - before there is a log
        if arguments.takeover_fd >= 0:
            from appliance.supervisor import taking_over

            taking_over.refuse(arguments.takeover_fd, loaded.replace("\n", "; "))
        return 1
    import structlog

    from appliance.supervisor import main as supervisor
    from appliance.supervisor.handing_over import Command
    from appliance.system import logs

    logs.configure(loaded.config.log.level, loaded.config.log.json)
    for warning in loaded.warnings:
        structlog.get_logger().warning("configuration", warning=warning)
    command = Command(_own_command(parent_fd), environment, str(Path.cwd()), (parent_fd,) if parent_fd >= 0 else ())
    start = supervisor.Start(command, arguments.takeover_fd, parent_fd, arguments.fd_store)
    return supervisor.run(loaded.config, _roles(demo=False), start)


def _own_command(parent_fd: int) -> list[str]:
    """How this process was started, without what only concerned this generation."""
    words, found = iter(sys.orig_argv[1:]), [sys.executable]
    for word in words:
        if word in {"--takeover-fd", "--parent-fd"}:
            next(words, None)
        else:
            found.append(word)
    return [*found, "--parent-fd", str(parent_fd)]


def _demo(arguments: argparse.Namespace) -> int:
    from appliance.clients import demo
    from appliance.supervisor import main as supervisor
    from appliance.supervisor.handing_over import Command
    from appliance.system import logs

    logs.configure("warning", False)
    config, feed = demo.prepare(arguments.port)
    roles = _roles(demo=True)._replace(on_ready=feed)
    try:
        return supervisor.run(config, roles, supervisor.Start(Command([sys.executable, "-c", "exit(1)"], {}, "/")))
    finally:
        shutil.rmtree(config.runtime_dir, ignore_errors=True)  # made by this process, for itself


def _roles(*, demo: bool) -> Roles:
    """The worker's code and the admin side, for the supervisor, which imports neither."""
    from appliance.supervisor.main import Roles
    from appliance.worker import main as worker

    async def start_control(
        station: Station, ports: Ports, api_socket: socket.socket, started_at: float
    ) -> Callable[[], Awaitable[None]]:
        from appliance.control.app import make_app, serve_on
        from appliance.supervisor.status import StationView

        runner = await serve_on(make_app(StationView(station, ports, started_at), demo=demo), api_socket)
        return runner.cleanup

    return Roles(worker.run, worker.__name__, start_control, "appliance.control.app")
