"""Which path on the listener port belongs to which stream: aliases must not take what others, or the server, answer."""

from __future__ import annotations

import re
from typing import Final

from appliance.config.convert import OWN_FILES, OWN_LIST, OWN_NAMES, PLAYLIST_ENDINGS
from appliance.config.model import Config
from appliance.config.problems import Problems, join, shown

ALIAS_PATTERN: Final = re.compile(r"[A-Za-z0-9._~@+-]+(?:/[A-Za-z0-9._~@+-]+)*")
ALIAS_MAX: Final = 200
"""Characters; a path that an old player's address field still holds."""
BELOW_A_STREAM: Final = frozenset({"ts", "export", "timeline.json", "programs.json"})
"""First names below /KEY/ that the server answers (INTERFACES)."""
ALIAS_ALLOWED: Final = 'a path like "stream" or "radio/live.mp3" (A-Z a-z 0-9 . _ ~ @ + - and /), not ending in .pls .m3u .m3u8 .json'


def plain_alias(alias: str) -> str:
    """An alias without its outer slashes: "/radio/live.mp3" and "radio/live.mp3" are one."""
    return alias.strip("/")


def check_aliases(config: Config, problems: Problems) -> None:
    """Each alias: its form, and that nobody else answers there."""
    owner: dict[str, str] = {}
    for key, stream in config.streams.items():
        path = join(join("streams", key), "aliases")
        for alias in stream.aliases:
            name = plain_alias(alias)
            if fault := _fault(name, config):
                problems.error(path, f"{shown(alias)} {fault}")
            elif name in owner:
                whose = "twice" if owner[name] == key else f"an alias of {owner[name]} too"
                problems.error(path, f"{shown(alias)} is {whose}; allowed: each path once")
            owner.setdefault(name, key)


def _fault(name: str, config: Config) -> str:
    first, _, rest = name.partition("/")
    dots = any(part in (".", "..") for part in name.split("/"))
    if len(name) > ALIAS_MAX or dots or not ALIAS_PATTERN.fullmatch(name) or name.lower().endswith(PLAYLIST_ENDINGS):
        return f"is no usable path; allowed: {ALIAS_ALLOWED}"
    if first in OWN_NAMES | OWN_FILES:
        return f"is a path of the server itself; allowed: {ALIAS_ALLOWED}, the first name none of {OWN_LIST}"
    if name in config.streams:
        return f"is stream {name} itself; allowed: another path"
    if first in config.streams and rest.split("/")[0] in BELOW_A_STREAM:
        return f"is a path of stream {first}; allowed: another path"
    return ""
