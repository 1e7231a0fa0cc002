"""What of a site's bind paths is for this node: conditions tried, and what is wrong with them said."""

from __future__ import annotations

import os

from hpcc.errors import SettingsError, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.binds import parse_bind, split_binds
from hpcc.siterules import BindRule, Facts, unmet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcc.settings import Settings


class SiteBinds(NamedTuple):
    """Binds as --bind takes them, patterns of variables that pass, and (entry, why not) of those not for this node."""

    binds: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    left_out: tuple[tuple[BindRule, str], ...] = ()


def site_binds(settings: Settings, dev: str = "/dev") -> SiteBinds:
    """The setting bind_paths on this node. SettingsError names the file or variable, and the entry that is wrong."""
    if not settings.bind_paths:
        return SiteBinds()
    sources = [_sources(entry, settings) for entry in settings.bind_paths]
    rules = [(rule, sources[i]) for i, rule in enumerate(settings.bind_paths) if isinstance(rule, BindRule)]
    facts = _facts(rules, dev) if rules else None
    binds: list[str] = []
    env: list[str] = []
    left_out = []
    for i, entry in enumerate(settings.bind_paths):
        if isinstance(entry, str):
            binds.append(entry)
        elif facts is not None and (why := unmet(entry, facts, sources[i])):
            left_out.append((entry, why))
        else:
            binds += entry.bind
            env += entry.env
    return SiteBinds(tuple(binds), tuple(env), tuple(left_out))


def _sources(entry: str | BindRule, settings: Settings) -> tuple[str, ...]:
    texts = [entry] if isinstance(entry, str) else entry.bind
    try:
        return tuple(parse_bind(text, "/").source for item in texts for text in split_binds(item))
    except UsageError as error:
        raise SettingsError(
            f"{settings.origins['bind_paths']}, bind_paths: {error.message.removeprefix('--bind ')}", hint=error.hint
        ) from None


def _facts(rules: Sequence[tuple[BindRule, tuple[str, ...]]], dev: str) -> Facts:
    """What the conditions ask for, and no more."""
    paths = {path for rule, sources in rules for path in (sources if rule.exists is True else rule.exists or ())}
    gpus = set()
    if any(rule.gpu for rule, _ in rules):
        try:
            names = os.listdir(dev)
        except OSError:
            names = []
        gpus |= {"amd"} if "kfd" in names else set()
        gpus |= {"nvidia"} if any(name.startswith("nvidia") and name[6:].isdecimal() for name in names) else set()
    return Facts(os.uname().nodename, frozenset(gpus), frozenset(path for path in paths if os.path.exists(path)))
