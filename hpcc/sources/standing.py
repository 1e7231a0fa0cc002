"""How we stand with a registry: looked up before it is asked, and noted after, so that all who share the cache know.

A registry that refuses (429) is left alone until it said, or for some minutes; one that cannot be reached from this
host, for one.
"""

import time

from hpcc.cache.layout import Cache
from hpcc.cache.limits import Standing, list_standings, read_standing, this_host, who_is, write_standing
from hpcc.errors import CacheError, HpccError, RateLimited, RegistryUnavailable
from hpcc.oci.reference import canonical_registry
from hpcc.registry.answers import clock, describe_quota, ways_out
from hpcc.registry.connections import Unreachable
from hpcc.registry.limits import RateLimit
from hpcc.registry.upstream import Upstream

REST = 60.0  # seconds for which a registry that cannot be reached is not asked again
PATIENCE = 300.0  # the same for one that refuses and names no time; asking for its quota by HEAD costs nothing then


def refuse_early(upstream: Upstream, shared: Cache, private: Cache) -> None:
    """Raise what the registry would answer, where that is known: RateLimited, RegistryUnavailable.

    A mirror that cannot be reached is passed over.
    """
    if not upstream.hosts:
        return
    now = time.time()
    for host in upstream.hosts:
        for tier in (shared, private):
            standing = read_standing(tier, canonical_registry(host), this_host())
            if standing is not None and standing.not_before > now:
                upstream.unreachable[host] = RegistryUnavailable(
                    f"{standing.why}, as of {now - standing.seen_at:.0f} s ago",
                    hint=f"This host asks again from {clock(standing.not_before)} on, or at once with --pull always.",
                )
    if all(host in upstream.unreachable for host in upstream.hosts):
        raise upstream.unreachable[upstream.hosts[-1]]
    if len(upstream.hosts) > 1:
        return  # a mirror has a quota of its own
    registry = canonical_registry(upstream.hosts[0])
    for standing in (read_standing(shared, registry, who_is("")), *_of_accounts(private, registry, now)):
        if standing is not None and standing.not_before > now and standing.who == who_is(upstream.account):
            raise _refused(standing, upstream.account, now)


def _of_accounts(private: Cache, registry: str, now: float) -> list[Standing]:
    """What forbids the user's accounts. Mostly nothing: then no helper is asked which account it would be."""
    return [each for each in list_standings(private) if each.registry == registry and each.not_before > now]


def _refused(standing: Standing, account: str, now: float) -> RateLimited:
    quota, registry = quota_of(standing), standing.registry
    return RateLimited(
        f"{registry} refused more requests at {clock(standing.seen_at)} (429): {standing.why}. "
        f"Whoever uses this cache leaves it alone until {clock(standing.not_before)}." + describe_quota(quota, account),
        hint=ways_out(registry, account, None if quota else standing.not_before - now, quota),
        account=account,
        wait=standing.not_before - now,
        words=standing.why,
        remembered=True,
    )


def note_standing(upstream: Upstream, shared: Cache, private: Cache, error: HpccError | None) -> None:
    """Keep what the registry said of its quota, and what `error` says of its patience. Never fails a pull.

    What concerns an account, or somebody who has one, stands in the private tier.
    """
    if not upstream.hosts:
        return
    registry, now = canonical_registry(upstream.hosts[-1]), time.time()
    refused = error.account if isinstance(error, RateLimited) and not error.remembered else None
    try:
        for account in {*upstream.quotas, *([] if refused is None else [refused])}:
            until, why = 0.0, ""
            if isinstance(error, RateLimited) and account == refused:
                until, why = now + (PATIENCE if error.wait is None else error.wait), error.words
            standing = standing_of(registry, account, upstream.quotas.get(account), until, why)
            write_standing(private if account else shared, standing)
        for host, met in upstream.unreachable.items():
            if isinstance(met, Unreachable):  # and not what stands there already
                name = canonical_registry(host)
                standing = Standing(name, this_host(), -1, -1, 0, "", now, now + REST, met.message)
                write_standing(private if upstream.has_login else shared, standing)
    except CacheError:
        pass  # a read-only cache


def standing_of(
    registry: str, account: str, quota: RateLimit | None, not_before: float = 0.0, why: str = ""
) -> Standing:
    """What there is to note now of an account, "" for none."""
    known = (quota.limit, quota.remaining, quota.window, quota.source) if quota else (-1, -1, 0, "")
    return Standing(registry, who_is(account), *known, time.time(), not_before, why)


def quota_of(standing: Standing) -> RateLimit | None:
    """The quota that a standing tells of, if any."""
    if standing.limit < 0:
        return None
    return RateLimit(standing.limit, standing.remaining, standing.window, standing.source)
