"""JSON documents that strangers wrote: read within bounds, each value checked before it is used.

Every function raises InvalidImage, naming `what` and the field, and nothing else.
"""

from __future__ import annotations

from hpcc.errors import InvalidImage
from hpcc.quickjson import loads
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


MAX_DOCUMENT = 4 << 20
"""Bytes of a manifest, index or config: what registries accept (distribution specification, "Pushing Manifests")."""


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """`data` as a JSON object."""
    if len(data) > MAX_DOCUMENT:
        raise InvalidImage(f"{what}: {len(data)} bytes, more than the {MAX_DOCUMENT} that one may have")
    try:
        value = loads(data)
    except ValueError:  # also bytes that are no UTF-8, and numbers of too many digits
        raise InvalidImage(
            f"{what}: not JSON, begins with {data[:40]!r}",
            hint="Does a registry answer there, or a proxy or login page?",
        ) from None
    if not isinstance(value, dict):
        raise InvalidImage(f"{what}: a JSON {type(value).__name__} where an object was expected")
    return value


def checked_text(value: object, what: str) -> str:
    """`value` as a string that a file name, an argument or a variable can hold: no NUL, encodable."""
    if not isinstance(value, str):
        raise InvalidImage(f"{what}: expected a string, found {_kind(value)}")
    if "\0" in value:
        raise InvalidImage(f"{what}: contains a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidImage(f"{what}: contains half of a surrogate pair") from None
    return value


def text(obj: dict[str, Any], key: str, what: str) -> str:
    """The string at `key`, "" where it is missing or null."""
    value = obj.get(key)
    return "" if value is None else checked_text(value, f"{what}: {key}")


def texts(obj: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    """The strings at `key`, None where it is missing or null."""
    value = obj.get(key)
    if value is None:
        return None
    if not isinstance(value, list):
        raise InvalidImage(f"{what}: {key}: expected a list, found {_kind(value)}")
    return tuple(checked_text(item, f"{what}: {key}") for item in value)


def pairs(obj: dict[str, Any], key: str, what: str) -> tuple[tuple[str, str], ...]:
    """The object of strings at `key` as pairs in order of their names; null values count as ""."""
    return tuple(
        (checked_text(name, f"{what}: {key}"), "" if value is None else checked_text(value, f"{what}: {key}: {name!r}"))
        for name, value in sorted(child(obj, key, what).items())
    )


def child(obj: dict[str, Any], key: str, what: str) -> dict[str, Any]:
    """The object at `key`, empty where it is missing or null."""
    value = obj.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidImage(f"{what}: {key}: expected an object, found {_kind(value)}")
    return value


def children(obj: dict[str, Any], key: str, what: str, most: int) -> tuple[dict[str, Any], ...]:
    """The list of at most `most` objects at `key`, empty where it is missing or null."""
    value = obj.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidImage(f"{what}: {key}: expected a list, found {_kind(value)}")
    if len(value) > most:
        raise InvalidImage(f"{what}: {key}: {len(value)} entries, more than {most}")
    for item in value:
        if not isinstance(item, dict):
            raise InvalidImage(f"{what}: {key}: expected objects, found {_kind(item)}")
    return tuple(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
