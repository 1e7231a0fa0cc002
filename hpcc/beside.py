"""Options that stand beside an image, for those who can only name a file: the `container:` of a Snakemake rule.

    NAME.hpcc.sif     an image, or a link to one in a cache
    NAME.hpcc.json    {"version": 1, "options": ["--compat", "--bind", "/data:/data:ro"]}

Whoever runs NAME.hpcc.sif runs it as if these options of `hpcc exec` were typed before the others; any other image
costs its run nothing but a look at its name. They say what a container may do, so they are believed like an object of a
cache: by the owner of the opened file, and only where nobody else can write to it. An image of this name without them
is an error, since to leave out --contain unasked would be one.
"""

from __future__ import annotations

import errno
import os

from hpcc.cache.trust import Policy
from hpcc.errors import ImageNotFound, InvalidImage, PolicyError
from hpcc.quickjson import loads
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SUFFIX = ".hpcc.sif"
MAX_SIZE = 1 << 16
_BESIDE = ".hpcc.json"


def path_beside(image: str) -> str:
    """Where the options of NAME.hpcc.sif stand."""
    return image.removesuffix(SUFFIX) + _BESIDE


def write_options(image: str, options: Sequence[str]) -> None:
    """Put the options beside `image`, which may not be there yet. Atomic, idempotent. CacheError."""
    import json

    from hpcc.copy import new_file

    data = json.dumps({"version": 1, "options": list(options)}) + "\n"
    with new_file(path_beside(image), replace=True, mode=0o644) as file:
        os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & 0o755)  # whatever the umask, or it is not believed
        file.write(data.encode())


def read_options(
    image: str, trusted_users: tuple[str, ...] = (), trusted_groups: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """The options beside NAME.hpcc.sif. ImageNotFound where there are none; PolicyError where a stranger may have put
    them there; InvalidImage for what does not parse.
    """
    path = path_beside(image)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "it is a link") from None
        hint = f"An image with this name has its options in {path}. Make both again, or rename it."
        raise ImageNotFound(f"{path}: {error.strerror}", hint=hint) from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not Policy(os.path.dirname(path) or ".", trusted_users, trusted_groups).trusts(status):
            raise _refused(path, f"it belongs to user {status.st_uid}, or others can write to it")
        data = file.read(MAX_SIZE + 1)
    try:
        document = loads(data if len(data) <= MAX_SIZE else b"")
        version, options = document["version"], document["options"]
    except (ValueError, KeyError, TypeError, RecursionError):
        version, options = 1, None
    if version != 1:
        raise InvalidImage(f"{path} has version {str(version)[:20]!r}, and hpcc knows version 1")
    if not isinstance(options, list) or not all(isinstance(word, str) and word != "--" for word in options):
        raise InvalidImage(f"{path} does not have the options of an image", hint="Remove it, and have it made again.")
    return tuple(options)


def _refused(path: str, why: str) -> PolicyError:
    return PolicyError(
        f"{path} is not believed: {why}",
        hint="It says how an image is run. Remove it, or name its owner in the setting trusted_users.",
    )
