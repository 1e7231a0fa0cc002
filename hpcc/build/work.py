"""Where a build works, and what builds that were killed have left behind.

<parent>/<prefix><random>/    held by flock on the file `lock` in it, as long as the build, or its %post, lives
  lock  0/ 1/ …                 the roots of the stages
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from hpcc.build.inside import Inside
from hpcc.build.unpack import remove_tree
from hpcc.errors import CacheError, place_hint
from hpcc.progress import Progress
from hpcc.records import NamedTuple


class Work(NamedTuple):
    """lock: a descriptor to be handed on to whatever works in the directory and may outlive this process."""

    path: str
    lock: int


@contextmanager
def work_directory(
    parent: str, prefix: str, inside: Inside, progress: Progress, *, keep: bool = False
) -> Iterator[Work]:
    """A new directory, removed afterwards, but kept where the block failed and `keep` is set.

    What dead builds have left beside it under the same prefix is removed first. CacheError.
    """
    reclaim(parent, prefix, inside)
    try:
        path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        lock = os.open(f"{path}/lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError as error:
        raise CacheError(f"cannot build in {parent}: {error.strerror}", hint=place_hint(error)) from None
    failed = True
    try:
        yield Work(path, lock)
        failed = False
    finally:
        os.close(lock)
        if failed and keep:
            os.unlink(f"{path}/lock")  # so that the next build leaves it alone
            progress.warning(f"{path} is kept, as --no-cleanup wants it")
        else:
            inside.call(remove_tree, path)


def reclaim(parent: str, prefix: str, inside: Inside) -> None:
    """Remove the directories of builds that were killed. What is not ours to remove stays."""
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        path = os.path.join(parent, name)
        if not name.startswith(prefix) or os.path.islink(path) or os.lstat(path).st_uid != os.getuid():
            continue
        try:
            lock = os.open(f"{path}/lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # being made, or kept on request: its lock was taken away
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            inside.call(remove_tree, path)
        except (OSError, CacheError):
            pass
        finally:
            os.close(lock)
