"""%files: from the host with all links followed, from a stage as things are there. In the process of inside.py."""

import errno
import glob
import os
import shutil
import stat
from collections.abc import Sequence
from hashlib import sha256

from hpcc.build.root import Root, remove
from hpcc.definition.model import Transfer
from hpcc.errors import UsageError

MOST_DEEP = 400  # each takes two descriptors, of which there may be 1024


def copy_files(transfers: Sequence[Transfer], target: str, stage: str = "", apps: str = "") -> None:
    """Copy into the root `target`: from the working directory, or from the root of a stage.

    apps: a directory of the target to which relative targets are relative. Raises UsageError for what is not there.
    """
    root, source = Root(target), Root(stage) if stage else None
    for transfer in transfers:
        to = transfer.target
        for path in _matches(transfer.source, source):
            place = to or (f"/{os.path.basename(path)}" if apps else os.path.abspath(path) if not source else path)
            if apps:
                place = f"{apps}/{place.lstrip('/')}"
            try:
                _copy_one(path, place, root, source)
            except OSError as error:
                raise UsageError(
                    f"%files {transfer.source} {to}: {error.strerror or error}",
                    hint="Something in the image is of another kind than what is copied there.",
                ) from None


def _matches(pattern: str, source: Root | None) -> list[str]:
    if source is None:
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        found = [path for path in found if os.path.exists(path)]
    else:
        found = _matches_inside(pattern, source)
    if not found:
        where = f"the stage has no {pattern}" if source else f"there is no {pattern} in {os.getcwd()}"
        raise UsageError(f"%files: {where}", hint="Paths are relative to the directory in which hpcc is called.")
    return found


def _matches_inside(pattern: str, source: Root) -> list[str]:
    """A pattern in its last component alone follows no link out of the root; others are looked up one by one."""
    import fnmatch

    found = ["/"]
    for part in pattern.strip("/").split("/"):
        if glob.has_magic(part):
            found = [
                f"{path.rstrip('/')}/{name}"
                for path in found
                for name in fnmatch.filter(source.names(path), part)
                if part.startswith(".") or not name.startswith(".")
            ]
        else:
            found = [f"{path.rstrip('/')}/{part}" for path in found]
    there = []
    for path in found:
        with source.found(path) as fd:
            if fd >= 0:
                there.append(path)
    return there


def _copy_one(path: str, place: str, root: Root, source: Root | None) -> None:
    name = os.path.basename(path.rstrip("/"))
    with root.found(place) as fd:
        into = fd >= 0 and stat.S_ISDIR(os.fstat(fd).st_mode)
    above, _, last = place.rstrip("/").rpartition("/")
    if into or place.endswith("/") or not last:
        above, last = place, name
    with root.directory(above) as target:
        if source is None:
            if not last:  # all of / to /
                raise UsageError("%files: / cannot be copied")
            _copy(None, path, target, last, follow=True)
            return
        with source.found(path) as fd:
            # By its descriptor, so that what is copied is what was resolved.
            _copy(None, f"/proc/self/fd/{fd}", target, last, follow=False, top=True)


def _copy(
    source: int | None,
    name: str,
    target: int,
    new: str,
    *,
    follow: bool,
    top: bool = False,
    above: tuple[tuple[int, int], ...] = (),
) -> None:
    """follow: links are; else files keep their owners. above: the directories that the source is in."""
    status = os.stat(name, dir_fd=source, follow_symlinks=follow or top)
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
    if kind == stat.S_IFDIR:
        itself = (status.st_dev, status.st_ino)
        if itself in above:
            raise OSError(errno.ELOOP, f"the link {name} leads to a directory that it is in")
        if len(above) > MOST_DEEP:
            raise OSError(errno.ELOOP, f"more than {MOST_DEEP} directories, one in the other")
        try:
            os.mkdir(new, 0o700, dir_fd=target)
            made = True
        except FileExistsError:
            made = False
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        below = os.open(new, flags | os.O_NOFOLLOW, dir_fd=target)
        here = os.open(name, flags | (0 if follow or top else os.O_NOFOLLOW), dir_fd=source)
        try:
            for entry in sorted(os.listdir(here)):
                _copy(here, entry, below, entry, follow=follow, above=(*above, itself))
            if made:
                _like(below, status, mode, keep=not follow)
        finally:
            os.close(below)
            os.close(here)
        return
    remove(target, new)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), new, dir_fd=target)
    elif kind == stat.S_IFREG:
        flags = os.O_RDONLY | os.O_CLOEXEC | (0 if follow or top else os.O_NOFOLLOW)
        with open(os.open(name, flags, dir_fd=source), "rb") as read:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            with open(fd, "wb") as write:
                shutil.copyfileobj(read, write, 1 << 20)
                write.flush()
                _like(fd, status, mode, keep=not follow)
    elif kind == stat.S_IFIFO:
        os.mkfifo(new, mode & 0o755, dir_fd=target)
    else:
        raise OSError(95, f"{name} is a device or a socket")


def _like(fd: int, status: os.stat_result, mode: int, *, keep: bool) -> None:
    if keep:
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except OSError:  # there is no id for it here
            pass
        os.fchmod(fd, mode)
        os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
    else:
        os.fchmod(fd, mode & 0o755)


def fingerprint(transfers: Sequence[Transfer]) -> str:
    """A digest of all that would be copied from the host: names, modes and bytes. UsageError, OSError."""
    seen = sha256()

    def take(path: str, depth: int = 0) -> None:
        status = os.stat(path)
        seen.update(f"{path}\0{status.st_mode & 0o7755:o}\0".encode("utf-8", "surrogateescape"))
        if stat.S_ISDIR(status.st_mode) and depth <= MOST_DEEP:
            for name in sorted(os.listdir(path)):
                take(os.path.join(path, name), depth + 1)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                while piece := file.read(1 << 20):
                    seen.update(piece)

    for transfer in transfers:
        for path in _matches(transfer.source, None):
            seen.update(os.fsencode(f"{transfer.target}\0"))
            take(path)
    return seen.hexdigest()
