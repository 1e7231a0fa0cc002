"""What a tag pointed to when somebody last looked.

    refs/<registry>/<repository>/_tags/<tag>/<uid>     one file per writer, JSON; readers take the newest of a
                                                       trusted owner

Each embeds the name under which it stands, so a hard link to another tag's ref is refused.
"""

import os

from hpcc.cache.layout import Cache
from hpcc.oci.digest import Digest
from hpcc.quickjson import loads
from hpcc.records import NamedTuple

MAX_SIZE = 4096


class Ref(NamedTuple):
    """`digest` of the index or manifest that the tag named at `checked_at`, seconds since the epoch."""

    name: str  # registry/repository:tag
    digest: str
    media_type: str
    size: int
    checked_at: float


def read_ref(cache: Cache, name: str, tag: str) -> Ref | None:
    """The newest trusted ref, or None. A clock that runs ahead makes no ref newer than all others for ever."""
    import time

    now = time.time()
    directory = cache.tag(name, tag)
    newest: Ref | None = None
    try:
        names = os.listdir(directory)
    except OSError:
        return None
    for uid in names:
        data = cache.read(os.path.join(directory, uid), MAX_SIZE) if uid.isdigit() else None
        ref = _parse(data, f"{name}:{tag}") if data else None
        if ref and (newest is None or abs(now - ref.checked_at) < abs(now - newest.checked_at)):
            newest = ref
    return newest


def write_ref(cache: Cache, name: str, tag: str, ref: Ref) -> None:
    """Replace this user's ref of the tag. Atomic."""
    import json

    data = json.dumps(ref._asdict(), separators=(",", ":")).encode()
    cache.write(os.path.join(cache.tag(name, tag), str(os.getuid())), data)


def _parse(data: bytes, name: str) -> Ref | None:
    try:
        ref = Ref(**loads(data))
        valid = ref.name == name and str(Digest.parse(ref.digest)) and isinstance(ref.media_type, str)
        return ref if valid and ref.checked_at >= 0 and ref.size >= 0 else None
    except (ValueError, TypeError, AttributeError):
        return None
