"""Images that garbage collection leaves alone because somebody said so.

    pins/<key>/<uid>     one file per writer, JSON: when, and a note

Whoever can write to the cache can pin, and no pin makes anything go away: so each counts, whoever owns it and whatever
is in it.
"""

import json
import os
import time

from hpcc.cache import walk
from hpcc.cache.layout import Cache
from hpcc.cache.mark import is_key
from hpcc.quickjson import loads
from hpcc.records import NamedTuple

MAX_SIZE = 4096
MAX_NOTE = 500


class Pin(NamedTuple):
    """Who pinned it, by the owner of the file; when, and the note, by what is in it: 0 and "" where that is damaged."""

    key: str
    uid: int
    time: float
    note: str


def pin(cache: Cache, key: str, note: str = "") -> None:
    """Keep the image. Replaces this user's own pin of it. Atomic. CacheError where the cache cannot be written to."""
    data = json.dumps({"time": time.time(), "note": note[:MAX_NOTE]}).encode()
    cache.write(cache.path("pins", key, str(os.getuid())), data)


def unpin(cache: Cache, key: str) -> bool:
    """Take this user's pin away; whether there was one. Others' stay. CacheError where it may not be removed."""
    return walk.remove_own(cache, f"pins/{key}")


def read_pins(cache: Cache) -> dict[str, tuple[Pin, ...]]:
    """All pins, by the key of the image, in the order of their owners' numbers."""
    found = {}
    for key in walk.names(cache, "pins"):
        if is_key(key) and (pins := pins_of(cache, key)):
            found[key] = pins
    return found


def pins_of(cache: Cache, key: str) -> tuple[Pin, ...]:
    """The pins of one image."""
    return tuple(sorted(_read(cache, key, *entry) for entry in walk.records(cache, f"pins/{key}")))


def _read(cache: Cache, key: str, path: str, status: os.stat_result) -> Pin:
    try:
        document = loads(walk.read(cache, path, MAX_SIZE) or b"")
        at, note = float(document["time"]), str(document["note"])
        if not 0 <= at < 1e15:
            at = 0.0
    except (ValueError, KeyError, TypeError, RecursionError):
        at, note = 0.0, ""
    return Pin(key, status.st_uid, at, "".join(each for each in note if each.isprintable())[:MAX_NOTE])
