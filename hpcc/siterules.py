"""Entries of bind_paths with conditions, as a site writes them. Pure.

bind_paths = [
  "/scratch",
  {bind = "/opt/cray:/opt/cray:ro", host = "nid*", exists = "/dev/cxi0", env = ["CRAY_*", "MPICH_*"]},
  {bind = ["/opt/rocm:/opt/rocm:ro"], exists = true, gpu = "amd"},
]

bind     paths as --bind takes them
host     patterns, of which one is the node's name, with its domain or without
exists   paths that must all be there; true: the sources of `bind`
gpu      true, "nvidia", "amd": such a GPU is there; false: none is
env      patterns of variables that reach a clean environment too, as under --compat
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

GPUS = ("nvidia", "amd")


class BindRule(NamedTuple):
    """One entry. `gpu`: "" for no condition, "any", "none", or a vendor; `exists`: True for the binds' sources."""

    bind: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    exists: tuple[str, ...] | bool = ()
    gpu: str = ""
    env: tuple[str, ...] = ()


def parse_rule(value: Mapping[str, Any]) -> BindRule:
    """The entry that a table of TOML is. ValueError says which of its keys is wrong, and what it should hold."""
    if unknown := sorted(set(value) - set(BindRule._fields)):
        raise ValueError(f"no key {unknown[0]!r}, but {', '.join(BindRule._fields)}")
    exists = value.get("exists", ())
    rule = BindRule(
        _texts(value, "bind"),
        _texts(value, "host"),
        exists if isinstance(exists, bool) else _texts(value, "exists"),
        _gpu(value.get("gpu", "")),
        _texts(value, "env"),
    )
    if not rule.bind and not rule.env:
        raise ValueError("a bind or an env in each entry with conditions")
    if rule.exists is False:
        raise ValueError("exists: a path, a list of paths, or true")
    if isinstance(rule.exists, tuple) and not all(path.startswith("/") for path in rule.exists):
        raise ValueError("exists: absolute paths")
    return rule


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    items = value.get(key, ())
    items = [items] if isinstance(items, str) else items
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) and item for item in items):
        raise ValueError(f"{key}: a string or a list of strings")
    return tuple(items)


def _gpu(value: object) -> str:
    if isinstance(value, bool):
        return "any" if value else "none"
    if value not in ("", *GPUS):
        raise ValueError(f"gpu: true, false, {' or '.join(GPUS)}")
    return str(value)


class Facts(NamedTuple):
    """What a node says of itself: its name, its GPUs' vendors, and which of the paths that rules name it has."""

    name: str
    gpus: frozenset[str]
    paths: frozenset[str]


def unmet(rule: BindRule, facts: Facts, sources: tuple[str, ...]) -> str:
    """The first condition that does not hold, in a few words; "" where all do. `sources`: of the rule's binds. Pure."""
    names = {facts.name, facts.name.partition(".")[0]}
    if rule.host and not any(matches(pattern, name) for pattern in rule.host for name in names):
        return f"{facts.name} is no {' or '.join(rule.host)}"
    for path in sources if rule.exists is True else rule.exists or ():
        if path not in facts.paths:
            return f"{path} does not exist"
    if rule.gpu == "none" and facts.gpus:
        return "a GPU is there"
    if rule.gpu not in ("", "none") and not (facts.gpus if rule.gpu == "any" else rule.gpu in facts.gpus):
        return "no GPU is there" if rule.gpu == "any" else f"no GPU of {rule.gpu} is there"
    return ""


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of *, ?, [abc], [a-c] and [!a] is the whole text. Not fnmatch, whose `re` costs a run 4 ms."""
    at, start, back = 0, -1, 0
    here = 0
    while here < len(text):
        width = _one(pattern, at, text[here])
        if width:
            at, here = at + width, here + 1
        elif pattern[at : at + 1] == "*":
            start, back = at, here
            at += 1
        elif start >= 0:
            at, back = start + 1, back + 1
            here = back
        else:
            return False
    return not pattern[at:].strip("*")


def _one(pattern: str, at: int, character: str) -> int:
    """How much of the pattern this one character uses up; 0 where it does not fit."""
    if pattern[at : at + 1] == "[" and (end := pattern.find("]", at + 2 + (pattern[at + 1 : at + 2] == "!"))) > 0:
        inside = pattern[at + 1 : end]
        negated = inside.startswith("!")
        inside, found, i = inside[negated:], False, 0
        while i < len(inside):
            if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
                found, i = found or inside[i] <= character <= inside[i + 2], i + 3
            else:
                found, i = found or inside[i] == character, i + 1
        return end + 1 - at if found != negated else 0
    return 1 if pattern[at : at + 1] in (character, "?") and pattern[at : at + 1] != "*" else 0
