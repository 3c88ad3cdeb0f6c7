"""StreamMachine 0.7.1's JSON in our terms: camelCase, old names and units, `null` and `false` for "not set".

Read from its source (tag 0.7.1: index.coffee's Defaults, master/stream.coffee's and source_mount.coffee's DefaultOptions, alerts, logger,
redis, analytics, rewind/dump_restore). What has no counterpart is dropped with a warning. A key that neither of us knows stays, to become
an error with a suggestion. This applies to JSON only: TOML has but one spelling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from msgspec import structs

from appliance.config import kinds, suggest
from appliance.config.convert import BOOLS, Said, Tree
from appliance.config.layers import BEHIND_PROXY
from appliance.config.model import LOG_INTERVAL_MAX_S, Config, Settings
from appliance.config.problems import Problems, join, shown

PRIVATE_RANGES: Final = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
)
"""What `behind_proxy = true` means: loopback, RFC 1918, RFC 3927, RFC 6598, RFC 4193, RFC 4291 2.5.6."""

_ADMIN_USERS: Final = "admin users are kept in state_dir; make them with `streammachine user add`"
_ONE_MACHINE: Final = "ignored: every server here takes sources and serves listeners itself"
NO_COUNTERPART: Final = {
    "handoff_type": "ignored: `streammachine reload` hands off without a runner",
    "master": _ONE_MACHINE,
    "slave": _ONE_MACHINE,
    "session": "ignored: no cookies are set",
    "users": f"ignored: {_ADMIN_USERS}",
    "enable-heapdump": "ignored: a tool of Node.js",
    "heapdump-interval": "ignored: a tool of Node.js",
}
STREAM_NO_COUNTERPART: Final = {
    "log_minutes": "ignored: listening is counted for every stream",
    "stream_key": "ignored: it is read from the audio",
    "hls": "ignored: `hls` is set once, for all streams",
    "tz": "ignored: use timezone",
}
_LEVELS: Final = {
    **dict.fromkeys(("debug", "silly"), "debug"),
    **dict.fromkeys(("minute", "interaction", "request", "info", "event"), "info"),
    **{"alert": "warning", "error": "error"},
}
"""Winston levels of 0.7.1 -> ours."""


def translate(tree: Tree, problems: Problems) -> Tree:
    """A JSON file's tree in our names and units."""
    tree = _spelt(tree, Config)
    _drop(tree, "", NO_COUNTERPART, problems)
    _mode(tree, problems)
    _rename(tree, "cluster", "workers")
    _rewind_dump(tree, problems)
    _log(tree, problems)
    _email(tree, problems)
    _milliseconds(tree, "", problems)
    _streams(tree, problems)
    _one_root(tree, problems)
    for key, source in _tables(tree, "sources"):
        _source(source, key, problems)
    return _said(tree, Config)


def replace_behind_proxy(tree: Tree, problems: Problems) -> None:
    """`behind_proxy = true`, from any layer, becomes `trusted_proxies` unless that is said too."""
    given = tree.pop(BEHIND_PROXY, None)
    if isinstance(given, Said):
        given = BOOLS.get(given.text.strip().lower(), given.text)
    if given is None or given is False:
        return
    if given is not True:
        problems.error(BEHIND_PROXY, f"{shown(given)} is not allowed; allowed: true or false (better: trusted_proxies)")
    elif tree.get("trusted_proxies"):
        problems.warn(BEHIND_PROXY, "ignored beside trusted_proxies")
    else:
        tree["trusted_proxies"] = list(PRIVATE_RANGES)
        problems.warn(BEHIND_PROXY, "every private address is now trusted to name the listener's; say trusted_proxies instead")


def _spelt(tree: Tree, table: type[Settings]) -> Tree:
    """Known keys in snake_case; without null, and without false where false cannot be a value."""
    known = {field.encode_name: field.type for field in structs.fields(table)}
    found: Tree = {}
    for name, value in tree.items():
        snake = suggest.snake_case(name)
        name = snake if snake in known and snake not in tree else name
        if value is None:
            continue
        annotation = known.get(name)
        if value is False and annotation is not None and kinds.bare(annotation)[0] is not bool:
            if name == "cors":
                found[name] = {"enabled": False}
            continue
        found[name] = _spelt_value(value, annotation)
    return found


def _spelt_value(value: Any, annotation: Any) -> Any:
    inner, entry, item = kinds.table_of(annotation), kinds.entry_of(annotation), kinds.item_of(annotation)
    if isinstance(value, dict) and inner:
        return _spelt(value, inner)
    if isinstance(value, dict) and entry:
        return {key: _spelt(one, entry) if isinstance(one, dict) else one for key, one in value.items() if one is not None}
    if isinstance(value, list) and item:
        return [_spelt(one, item) if isinstance(one, dict) else one for one in value]
    return value


def _said(tree: Tree, table: type[Settings]) -> Tree:
    """Numbers written as text ("3600") as 0.7.1 took them."""
    for field in structs.fields(table):
        value = tree.get(field.encode_name)
        inner, entry = kinds.table_of(field.type), kinds.entry_of(field.type)
        if isinstance(value, dict) and inner:
            _said(value, inner)
        elif isinstance(value, dict) and entry:
            for one in value.values():
                if isinstance(one, dict):
                    _said(one, entry)
        elif isinstance(value, str) and kinds.bare(field.type)[0] in (int, float):
            tree[field.encode_name] = Said(value)
    return tree


def _drop(tree: Tree, path: str, reasons: dict[str, str], problems: Problems) -> None:
    for name, reason in reasons.items():
        if tree.pop(name, False) is not False:
            problems.warn(join(path, name), reason)


def _mode(tree: Tree, problems: Problems) -> None:
    mode = tree.pop("mode", "standalone")
    if mode != "standalone":
        problems.warn("mode", f"{shown(mode)} {_ONE_MACHINE}")


def _rename(tree: Tree, old: str, new: str) -> None:
    if old in tree and new not in tree:
        tree[new] = tree.pop(old)


def _rewind_dump(tree: Tree, problems: Problems) -> None:
    dump = tree.get("rewind_dump")
    if not isinstance(dump, dict):
        return
    folder, every_s = dump.get("dir"), dump.get("frequency")
    if isinstance(folder, str) and not folder.startswith("/"):
        dump["dir"] = str(Path.cwd() / folder)
        problems.warn("rewind_dump.dir", f"{shown(folder)} is taken from the working directory: {dump['dir']}")
    if isinstance(every_s, int | float) and every_s < 0:
        dump["frequency"] = 0


def _log(tree: Tree, problems: Problems) -> None:
    log = tree.get("log")
    if not isinstance(log, dict):
        return
    stdout = log.pop("stdout", None)
    if isinstance(stdout, dict) and (level := _LEVELS.get(str(stdout.get("level")))):
        log.setdefault("level", level)
    for name in ("json", "w3c", "campfire"):
        if isinstance(log.get(name), dict):
            del log[name]
            problems.warn(f"log.{name}", "ignored: logs go to stderr, where systemd's journal keeps them; for JSON say log.json = true")


def _email(tree: Tree, problems: Problems) -> None:
    """nodemailer's options as ours."""
    alerts = tree.get("alerts")
    email = alerts.get("email") if isinstance(alerts, dict) else None
    if not isinstance(email, dict):
        return
    kind, mailer, options = email.pop("mailer_type", "SMTP"), email.pop("mailer_options", {}), email.pop("email_options", {})
    for name in ("from", "to"):
        if isinstance(options, dict) and name in options:
            email.setdefault(name, options[name])
    if str(kind).upper() != "SMTP" or not isinstance(mailer, dict):
        problems.warn("alerts.email.mailer_type", f"{shown(kind)} ignored: mail is sent by SMTP to alerts.email.host")
        return
    auth = mailer.get("auth", {})
    auth = auth if isinstance(auth, dict) else {}
    given = {"host": mailer.get("host"), "port": mailer.get("port"), "user": auth.get("user"), "password": auth.get("pass")}
    for name, value in given.items():
        if value is not None:
            email.setdefault(name, value)


def _milliseconds(table: Tree, path: str, problems: Problems) -> None:
    """`log_interval` was in milliseconds; no interval in seconds is as large as those."""
    given = table.get("log_interval")
    number = _number(given)
    if LOG_INTERVAL_MAX_S < number < float("inf"):
        table["log_interval"] = number / 1000
        problems.warn(join(path, "log_interval"), f"{given} is taken as milliseconds; it is in seconds now")


def _streams(tree: Tree, problems: Problems) -> None:
    """Top-level `preroll` and `transcoder` are the default of every stream, as they were."""
    shared = {name: tree.pop(name) for name in ("preroll", "transcoder") if tree.get(name)}
    for name in ("preroll", "transcoder"):
        tree.pop(name, None)
    for key, stream in _tables(tree, "streams"):
        path = join("streams", key)
        _own_key(stream, key, path, problems)
        _drop(stream, path, STREAM_NO_COUNTERPART, problems)
        _milliseconds(stream, path, problems)
        for name, value in shared.items():
            stream.setdefault(name, value)


def _one_root(tree: Tree, problems: Problems) -> None:
    """Of several `root_route` streams the last one had `/` (0.7.1's own transcoding.json has two)."""
    roots = [(key, stream) for key, stream in _tables(tree, "streams") if stream.get("root_route") is True]
    for key, stream in roots[:-1]:
        stream["root_route"] = False
        problems.warn(join(join("streams", key), "root_route"), f"ignored: {roots[-1][0]} has it too and comes later")


def _source(source: Tree, key: str, problems: Problems) -> None:
    _own_key(source, key, join("sources", key), problems)
    _rename(source, "source_password", "password")
    source.pop("source_password", None)


def _own_key(table: Tree, key: str, path: str, problems: Problems) -> None:
    given = table.pop("key", key)
    if given != key:
        problems.warn(join(path, "key"), f"{shown(given)} ignored: the name is {shown(key)}, as it was in StreamMachine")


def _number(given: Any) -> float:
    """A number, also one written as text; 0 for anything else."""
    try:
        return 0.0 if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _tables(tree: Tree, name: str) -> list[tuple[str, Tree]]:
    tables = tree.get(name)
    return [(key, one) for key, one in tables.items() if isinstance(one, dict)] if isinstance(tables, dict) else []
