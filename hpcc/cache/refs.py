"""What a tag pointed to when somebody last looked.

    refs/<registry>/<repository>/_tags/<tag>/<uid>     one file per writer, JSON; readers take the newest of a
                                                       trusted owner
    runs/<run>/<hash of the tag>                       what it means in a job or workflow run, until that ends;
                                                       in the private tier

Each embeds the name under which it stands, so a hard link to another tag's ref is refused.
"""

import os

from hpcc.cache.layout import Cache
from hpcc.oci.digest import Digest
from hpcc.quickjson import loads
from hpcc.records import NamedTuple

MAX_SIZE = 4096
RUN_AGE = 30 * 86400.0  # seconds; no run is expected to last longer


class Ref(NamedTuple):
    """`digest` of the index or manifest that the tag named at `checked_at`, seconds since the epoch."""

    name: str  # registry/repository:tag
    digest: str
    media_type: str
    size: int
    checked_at: float


class Known(NamedTuple):
    """What a reference is known to name, the cache that says so, and how many seconds ago that was found out, None for
    a digest, which always was so.
    """

    digest: Digest
    cache: Cache
    age: float | None = None


def read_ref(cache: Cache, name: str, tag: str) -> Ref | None:
    """The newest trusted ref, or None. A clock that runs ahead makes no ref newer than all others for ever."""
    import time

    now = time.time()
    newest: Ref | None = None
    for data in cache.read_writers(cache.tag(name, tag), MAX_SIZE):
        ref = parse_ref(data, f"{name}:{tag}")
        if ref and (newest is None or abs(now - ref.checked_at) < abs(now - newest.checked_at)):
            newest = ref
    return newest


def write_ref(cache: Cache, name: str, tag: str, ref: Ref) -> None:
    """Replace this user's ref of the tag. Atomic."""
    cache.write(os.path.join(cache.tag(name, tag), str(os.getuid())), _dump(ref))


def tag_names(cache: Cache, most: int = 1000) -> list[str]:
    """registry/repository:tag of all tags that were looked up here, sorted. Only to be shown: no ref is read."""
    found: list[str] = []
    top = cache.path("refs")
    for directory, names, _ in os.walk(top):
        if os.path.basename(directory) == "_tags":
            found += [f"{os.path.relpath(os.path.dirname(directory), top)}:{tag}" for tag in names]
            names.clear()
        if len(found) >= most:
            break
    return sorted(found[:most])


def read_run_ref(cache: Cache, run: str, name: str, tag: str) -> Ref | None:
    """What the tag means in this run of this user's, or None where it was not used there yet."""
    data = cache.read(os.path.join(cache.run(run), _hash(f"{name}:{tag}")), MAX_SIZE)
    return parse_ref(data, f"{name}:{tag}") if data else None


def write_run_ref(cache: Cache, run: str, ref: Ref) -> None:
    """Keep what a tag means for the rest of the run, unless that is known. Atomic. Only in a cache of the user's own:
    what is old here is removed. Forgets runs of more than a month ago.
    """
    directory = cache.run(run)
    if not os.path.isdir(directory):
        _forget_old_runs(os.path.dirname(directory))
    cache.make_directory(os.path.relpath(directory, cache.root))
    with cache.temporary() as file:
        file.write(_dump(ref))
        file.flush()
        try:
            os.link(file.name, os.path.join(directory, _hash(ref.name)))  # the first one counts
        except FileExistsError:
            pass


def _forget_old_runs(directory: str) -> None:
    import shutil
    import time
    from itertools import islice

    try:
        with os.scandir(directory) as entries:
            old = [
                e.path for e in islice(entries, 1000) if time.time() - e.stat(follow_symlinks=False).st_mtime > RUN_AGE
            ]
    except OSError:
        return
    for path in old[:50]:
        shutil.rmtree(path, ignore_errors=True)


def _hash(text: str) -> str:
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:40]


def _dump(ref: Ref) -> bytes:
    import json

    return json.dumps(ref._asdict(), separators=(",", ":")).encode()


def parse_ref(data: bytes, name: str) -> Ref | None:
    """The ref of the tag `name`, registry/repository:tag; None for what is none, or another tag's."""
    try:
        ref = Ref(**loads(data))
        valid = ref.name == name and str(Digest.parse(ref.digest)) and isinstance(ref.media_type, str)
        return ref if valid and 0 <= ref.checked_at < 1e15 and ref.size >= 0 else None
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
