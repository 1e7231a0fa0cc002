"""What is known of the patience of registries: one process's 429 is everybody's who shares the cache.

    limits/<registry>/<who>/<uid>     one file per writer, JSON; readers take the newest of a trusted owner

who   anonymous         those who ask without an account, and are counted by their address
      account <name>    an account; only in the private tier, since its name is nobody else's business
      host <name>       this host, where the registry cannot be reached from it
"""

import json
import os
import socket
import time
from urllib.parse import quote

from hpcc.cache.layout import Cache
from hpcc.quickjson import loads
from hpcc.records import NamedTuple

MAX_SIZE = 4096
MAX_WHY = 500
LONGEST = 86400.0  # seconds for which a record may forbid a registry, whoever wrote it
SKEW = 60.0  # seconds by which another node's clock may run ahead


class Standing(NamedTuple):
    """How somebody stands with a registry. Times are seconds since the epoch.

    limit, remaining, window (seconds) and source are the registry's own, -1, -1, 0 and "" where it said nothing.
    Until `not_before` it is not asked; `why` is what it said then.
    """

    registry: str
    who: str
    limit: int
    remaining: int
    window: int
    source: str
    seen_at: float
    not_before: float
    why: str


def who_is(account: str) -> str:
    """How an account, "" for none, is named here."""
    return f"account {account}" if account else "anonymous"


def this_host() -> str:
    """How this host is named here."""
    return f"host {socket.gethostname()}"


def read_standing(cache: Cache, registry: str, who: str) -> Standing | None:
    """The newest trusted record, or None."""
    newest: Standing | None = None
    for data in cache.read_writers(cache.limit(registry, _file_name(who)), MAX_SIZE):
        found = _parse(data)
        if found and (found.registry, found.who) == (registry, who) and (not newest or found.seen_at > newest.seen_at):
            newest = found
    return newest


def write_standing(cache: Cache, standing: Standing) -> None:
    """Replace this user's record. Atomic. CacheError where the cache cannot be written to."""
    data = json.dumps(standing._replace(why=standing.why[:MAX_WHY])._asdict(), separators=(",", ":")).encode()
    directory = cache.limit(standing.registry, _file_name(standing.who))
    cache.write(os.path.join(directory, str(os.getuid())), data)


def list_standings(cache: Cache) -> list[Standing]:
    """All that the cache knows, by registry and who."""
    found = set()
    for directory, _, names in os.walk(cache.path("limits")):
        if any(name.isdigit() for name in names):
            for data in cache.read_writers(directory, MAX_SIZE):
                standing = _parse(data)
                if standing is not None:
                    found.add((standing.registry, standing.who))
    standings = [read_standing(cache, registry, who) for registry, who in sorted(found)]
    return [standing for standing in standings if standing is not None]


def _file_name(who: str) -> str:
    return quote(who, safe="", errors="surrogateescape")[:250]


def _parse(data: bytes) -> Standing | None:
    try:
        found = Standing(**loads(data))
        texts = (found.registry, found.who, found.source, found.why)
        numbers = (found.limit, found.remaining, found.window, found.seen_at, found.not_before)
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            return None
        if not all(isinstance(number, int | float) and -1 <= number < 1e15 for number in numbers):
            return None
        # A clock that ran ahead, or malice, must not forbid a registry for ever.
        if found.seen_at > time.time() + SKEW:
            return None
        return found._replace(not_before=min(found.not_before, found.seen_at + LONGEST))
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
