"""hpcc limits: how many pulls a registry still allows, by HEAD, which costs none."""

import json
import os
import time
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.terminal import terminal
from hpcc.errors import HpccError, RateLimited
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpcc.cache.layout import Cache
    from hpcc.cache.limits import Standing
    from hpcc.oci.reference import Reference
    from hpcc.settings import Settings

COMMAND = Command(
    "limits [OPTIONS] [REGISTRY|IMAGE…]",
    "Show how many pulls registries still allow, who is counted, and until when they are left alone. Asks by HEAD, "
    "which costs none. Without an argument: Docker Hub, and what the cache remembers of others.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("--offline",), "only what the cache remembers"),
        Option(("--no-https", "--nohttps"), "talk plain http to the registries"),
    ),
    "hpcc limits\nhpcc limits ghcr.io/lab/tools",
)
HUB_PROBE = "docker.io/ratelimitpreview/test"
"""The image that Docker Hub's documentation names for this question."""
ABOUT = (
    "A pull is a manifest that is fetched: one or two for each new image, none for what the cache has.\n"
    "hpcc registry login gives an account's quota; the setting `mirrors` names other places to pull from."
)


class Row(NamedTuple):
    """limit, left and window are None where the registry tells of no limit; times are seconds since the epoch."""

    registry: str
    who: str
    limit: int | None
    left: int | None
    window: int | None
    seen_at: float
    not_before: float | None
    said: str


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    load_site_packages()
    from hpcc.settings import Settings

    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    if arguments.positional and (arguments.offline or settings.offline):
        raise usage_error(COMMAND, "offline, only all that the cache remembers can be shown: name no registry")
    rows = collect(arguments.positional, settings, offline=arguments.offline, warn=terminal(arguments).warning)
    if arguments.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 0
    _show(rows)
    return 0


def collect(named: "Sequence[str]", settings: "Settings", *, offline: bool, warn: "Callable[[str], None]") -> list[Row]:
    """The registries that are named, by asking them; else what the cache remembers, and Docker Hub unless `offline`.

    HpccError where one that is named does not answer; of Docker Hub that is only told.
    """
    rows = [] if named else _remembered(settings)
    if offline or settings.offline:
        return rows
    for reference in [_probe(text) for text in named or ("docker.io",)]:
        try:
            fresh = _ask(reference, settings)
        except HpccError as error:
            if named:
                raise
            warn(error.message)
            continue
        known = {(row.registry, row.who) for row in fresh}
        rows = [*fresh, *(row for row in rows if (row.registry, row.who) not in known)]
    return rows


def _probe(text: str) -> "Reference":
    """The image to ask for: the user's own, or one that the registry is known to have."""
    from hpcc.oci.reference import DOCKER_HUB, Reference, canonical_registry

    bare = text.removeprefix("docker://").rstrip("/")
    if canonical_registry(bare) == DOCKER_HUB:
        return Reference.parse(HUB_PROBE)
    is_host = "/" not in bare and ("." in bare or ":" in bare or bare == "localhost")
    return Reference.parse(f"{bare}/hpcc/limits" if is_host else bare)


def _ask(reference: "Reference", settings: "Settings") -> list[Row]:
    """A row without an account, and one for the account where there is one. Noted in the cache as well."""
    from hpcc.cache.limits import read_standing, who_is, write_standing
    from hpcc.errors import AccessDenied, CacheError, ImageNotFound
    from hpcc.lookup import tiers
    from hpcc.sources.docker import connect_itself
    from hpcc.sources.standing import PATIENCE, standing_of

    shared, private = tiers(settings)[-2:]
    rows = []
    with connect_itself(reference, settings) as registry:
        login = registry.account
        accounts = ["", (login.username or "<token>")] if login else [""]
        for account in accounts:
            until, why = 0.0, ""
            try:
                registry.head(reference.repository, reference.tag_or_digest, anonymous=not account)
            except (AccessDenied, ImageNotFound):  # the headers of the answer are what counts
                pass
            except RateLimited as error:
                until, why = time.time() + (PATIENCE if error.wait is None else error.wait), error.words
            quota, tier = registry.quotas.get(account), private if account else shared
            before = read_standing(tier, reference.registry, who_is(account))
            if before and quota and not quota.remaining and not why:  # HEAD is answered, and nothing has come back
                until, why = before.not_before, before.why
            standing = standing_of(reference.registry, account, quota, until, why)
            try:
                write_standing(tier, standing)
            except CacheError:
                pass  # a read-only cache
            rows.append(_row(standing, who_is(account)))
    return rows


def _remembered(settings: "Settings") -> list[Row]:
    from hpcc.cache.limits import list_standings
    from hpcc.lookup import tiers

    def useful(cache: "Cache") -> list[Row]:
        found = list_standings(cache)
        return [_row(each, each.who) for each in found if each.limit >= 0 or each.not_before > time.time()]

    return [row for cache in tiers(settings)[-2:] if os.path.isdir(cache.root) for row in useful(cache)]


def _row(standing: "Standing", who: str) -> Row:
    known = standing.limit >= 0
    if who == "anonymous":
        who = f"anybody at {standing.source}" if standing.source else "anybody at this address"
    return Row(
        standing.registry,
        who,
        standing.limit if known else None,
        standing.remaining if known else None,
        (standing.window or None) if known else None,
        standing.seen_at,
        standing.not_before if standing.not_before > time.time() else None,
        standing.why,
    )


def told(row: Row) -> "tuple[tuple[Any, Any], str]":
    """((left, of), window) as people read them."""
    numbers: tuple[Any, Any] = (row.left, row.limit) if row.limit is not None else ("no", "limit")
    if row.limit is None and (row.not_before or row.who.startswith("host ")):
        numbers = ("?", "?")  # it could not be asked
    return numbers, f"{row.window / 3600:g} h" if row.window else ""


def _show(rows: list[Row]) -> None:
    from hpcc.registry.answers import clock

    if not rows:
        print("No limits are known. `hpcc limits REGISTRY` asks for them.")
        return
    width = max(16, *(len(row.registry) for row in rows))
    who = max(16, *(len(row.who) for row in rows))
    print(f"{'REGISTRY':<{width}}  {'WHO IS COUNTED':<{who}}  {'LEFT':>5} {'OF':>5}  WINDOW  AS OF")
    for row in rows:
        numbers, window = told(row)
        print(
            f"{row.registry:<{width}}  {row.who:<{who}}  {numbers[0]:>5} {numbers[1]:>5}  "
            f"{window:<6}  {clock(row.seen_at)}"
        )
        if row.not_before:
            print(f"  left alone until {clock(row.not_before)}: {row.said}")
    print(f"\n{ABOUT}")
