"""What the annotation of a key says: a table, a table of tables, a list of tables, or a value and its bounds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta, structs
from msgspec.structs import FieldInfo

from appliance.config.model import Settings
from appliance.config.secret import PrivateUrl, Secret


def every_key(table: type[Settings], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(path, field) of each key of `table`, tables before what is in them; KEY stands for the names of streams and sources."""
    for field in structs.fields(table):
        full = f"{path}{field.encode_name}"
        yield full, field
        inner, entry = table_of(field.type) or item_of(field.type), entry_of(field.type)
        if inner:
            yield from every_key(inner, f"{full}.")
        if entry:
            yield from every_key(entry, f"{full}.KEY.")


def bare(annotation: Any) -> tuple[Any, Meta | None, bool]:
    """(type without Annotated and None, its bounds, whether None is allowed)."""
    optional = False
    if get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
        optional = True
        rest = [one for one in get_args(annotation) if one is not type(None)]
        annotation = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007  (built at run time)
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        return inner, next((one for one in extras if isinstance(one, Meta)), None), optional
    return annotation, None, optional


def table_of(annotation: Any) -> type[Settings] | None:
    """The struct, when the key is a table."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def entry_of(annotation: Any) -> type[Settings] | None:
    """The struct of each entry, when the key is a table of tables (`streams`, `sources`)."""
    return table_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def item_of(annotation: Any) -> type[Settings] | None:
    """The struct of each item, when the key is a list of tables (`programs`)."""
    return table_of(get_args(annotation)[0]) if get_origin(annotation) is tuple else None


def is_list(annotation: Any) -> bool:
    """Whether the key is a list, or may be one."""
    kind = bare(annotation)[0]
    return get_origin(kind) is tuple or _is_text_or_list(kind)


def is_text(annotation: Any) -> bool:
    """Whether the key's value is text: what an environment variable says is taken as it is."""
    kind = bare(annotation)[0]
    if get_origin(kind) is Literal or _is_text_or_list(kind):
        return True
    return isinstance(kind, type) and issubclass(kind, str | Path | Secret)


def is_secret(annotation: Any) -> bool:
    """Whether the key's value must never be shown or come from a command line; PrivateUrl only when it has a password."""
    return bare(annotation)[0] is Secret


def allowed(annotation: Any) -> str:
    """What may stand at a key, in words: "a whole number from 1 to 604800"."""
    kind, meta, _ = bare(annotation)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{one}"' for one in get_args(kind))
    if _is_text_or_list(kind):
        return "text or a list of texts"
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        items = "tables" if table_of(inner) else "texts" if inner is str else f"these: {allowed(inner)}"
        return f"a list of {items}"
    if get_origin(kind) is dict or table_of(kind):
        return "a table"
    words = {int: "a whole number", float: "a number", bool: "true or false", Secret: "text", Path: "an absolute path", PrivateUrl: "a URL"}
    return words.get(kind, "text") + _bounds(meta)


def _bounds(meta: Meta | None) -> str:
    if meta is None:
        return ""
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    if meta.max_length is not None:
        return f" of {meta.min_length or 0} to {meta.max_length} characters"
    return ""


def _is_text_or_list(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and str in get_args(kind)
