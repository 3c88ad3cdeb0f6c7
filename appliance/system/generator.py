"""The systemd generator (systemd.generator(7)): the ports of the configuration become the ListenStream= lines of our .socket units.

So ports are said in one place. systemd runs it at boot and at every `systemctl daemon-reload`, waits for it, and has no network, no log and
perhaps no /var by then. It reads six keys of one file and writes one drop-in per unit. When one of them cannot be used, all have their
defaults, and the reason is said (journal or kernel log, and in the drop-in: `systemctl cat streammachine.socket`); exit code 1 then makes
systemd name the generator as well. It never stops a boot: whatever happens, the shipped units with the default ports stay.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance.config import convert, files, legacy
from appliance.config.load import find_path
from appliance.config.model import Config
from appliance.config.problems import Problems, one_line

TIME_LIMIT_S: Final = 10
"""A configuration on a disk that does not answer: SIGALRM ends us, and the boot goes on."""
KEYS: Final = frozenset({"port", "source_port", "api_port", "bind", "api_bind", "workers"})
DROP_IN: Final = "50-streammachine-ports.conf"
"""Before an admin's own override.conf."""
JOURNAL: Final = "/run/systemd/journal/socket"
KERNEL_LOG: Final = "/dev/kmsg"
NAME: Final = "streammachine-generator"
SERVICE: Final = "streammachine.service"
ERROR: Final = 3
"""LOG_ERR."""
_SCOPE: Final = re.compile(r"[A-Za-z0-9._-]{1,15}")


class Unit(NamedTuple):
    """A .socket unit: `streams` are its ListenStream= values; none: the port is 0, any free one, which only the server can choose."""

    name: str
    streams: list[str]


def read(path: Path) -> tuple[Config, list[str]]:
    """The six keys of the configuration; or the default ports and addresses, and the reasons."""
    problems = Problems()
    tree: convert.Tree = {}
    if path.exists() and not path.is_file():  # a FIFO would be waited for
        problems.error(str(path), "is no file")
    else:
        tree, is_json = files.read_tree(path, problems)
        tree = legacy.translate(tree, Problems()) if is_json else tree
    config = convert.build(Config, {key: value for key, value in tree.items() if key in KEYS}, "", problems)
    for key in ("bind", "api_bind"):
        if not _is_address(getattr(config, key)):
            problems.error(key, f"{getattr(config, key)} is no IP address")
    ports = [port for port in (config.port, config.source_port, config.api_port) if port]
    if len(set(ports)) < len(ports):
        problems.error("port", "source_port, api_port: two are the same")
    reasons = [str(error) for error in problems.errors]
    return (Config(workers=config.workers) if reasons else config), reasons


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text or bool(_SCOPE.fullmatch(text.partition("%")[2]))


def units(config: Config, cores: int) -> list[Unit]:
    """Every .socket unit: a listening slot for each worker, one socket for sources, one for the admin port."""
    listener = _streams(config.bind, config.port) * (config.workers or cores)
    source, api = _streams(config.bind, config.source_port), _streams(config.api_bind, config.api_port)
    return [Unit("streammachine.socket", listener), Unit("streammachine-source.socket", source), Unit("streammachine-api.socket", api)]


def _streams(host: str, port: int) -> list[str]:
    """ListenStream= values; a bare port is dual stack, or IPv4 alone where there is no IPv6 (systemd.socket(5)): our "::"."""
    if port == 0:
        return []
    if host == "::":
        return [str(port)]
    return [f"[{host}]:{port}".replace("%", "%%") if ":" in host else f"{host}:{port}"]


def write(folder: Path, found: Sequence[Unit], source: Path, reasons: Sequence[str]) -> None:
    """One drop-in per unit into `folder`, the generator's first argument; a unit without a port is masked. Raises OSError."""
    head = [f"# Written by {NAME} from {one_line(str(source))}, anew at every `systemctl daemon-reload`."]
    head += [f"# DEFAULT PORTS, because of {one_line(reason)}" for reason in reasons]
    for unit in found:
        if not unit.streams:
            (folder / unit.name).symlink_to(os.devnull)
            continue
        lines = [*head, "[Socket]", "ListenStream=", *(f"ListenStream={stream}" for stream in unit.streams)]
        path = folder / f"{unit.name}.d" / DROP_IN
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def tell(message: str) -> None:
    """Say it where it is found: in the journal, as of our service; before there is a journal in the kernel's log."""
    text = one_line(message)
    with contextlib.suppress(OSError):
        print(f"{NAME}: {text}", file=sys.stderr)  # noqa: T201 - there is no log
    fields = {"MESSAGE": text, "PRIORITY": str(ERROR), "SYSLOG_IDENTIFIER": NAME, "OBJECT_SYSTEMD_UNIT": SERVICE}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.settimeout(1)
            journal.connect(JOURNAL)
            journal.send("".join(f"{name}={value}\n" for name, value in fields.items()).encode(errors="replace"))
    except OSError:
        with contextlib.suppress(OSError), Path(KERNEL_LOG).open("w") as log:
            log.write(f"<{ERROR}>{NAME}: {text}\n")


def run(folder: Path, environ: Mapping[str, str], cores: int) -> int:
    """Write the units into `folder`. Returns the exit code: 0, or 1 when something had to be said."""
    path = find_path(None, environ)
    try:
        config, reasons = read(path)
        write(folder, units(config, cores), path, reasons)
    except Exception as error:  # noqa: BLE001 - a boot must not depend on us
        tell(f"cannot write the .socket units, so they have the default ports: {type(error).__name__}: {error}")
        return 1
    for reason in reasons:
        tell(f"the .socket units have the default ports, because of {reason}")
    return 1 if reasons else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: the arguments are systemd's three folders (normal, early, late), of which the first is used."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments:
        tell(f"usage: {NAME} FOLDER [EARLY LATE]; systemd runs it")
        return 2
    signal.alarm(TIME_LIMIT_S)
    return run(Path(arguments[0]), os.environ, os.cpu_count() or 1)
