"""An image at a path of the user's choice, as workflow engines have it pulled: `pull --name`.

    PREFIX/f9e4fa470459760186eca07024782c39.simg -> CACHE/sif-v1/<key>.sif

A link costs nothing, and all who have one run from the same file. The cache is told of it (cache/roots.py), so that
garbage collection spares the image as long as the link leads to it. Where not all who write to the directory can read
the cache, and where a filesystem has no links, the image is copied, by reflink where that is possible.
"""

import errno
import os
import stat

from hpcc.cache.layout import Cache
from hpcc.cache.mark import read_mark
from hpcc.cache.roots import register_root
from hpcc.copy import NO_LINKS, copy_image, new_link
from hpcc.errors import CacheError, HpccError, InvalidImage, Truncated, UsageError
from hpcc.local import LAUNCHER, Image
from hpcc.progress import Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc.sif import descriptor
from hpcc.sif.load import load
from hpcc.squashfs import superblock
from hpcc.squashfs.superblock import Superblock

FREE, GONE, BROKEN, IMAGE, OTHER = "free", "gone", "broken", "image", "other"
TRIES = 10  # in each of which somebody else would have to put something else there
_NOTHING = (errno.ENOENT, errno.ELOOP)
_PULLING = ".pulling."  # what Nextflow has pulled is NAME.pulling.<milliseconds>, which it then renames to NAME


class Place(NamedTuple):
    """What is at a path. why: what is wrong with it; reference: of an image that hpcc made.

    free: nothing; gone: a link to what is no more; broken: the beginning of an image; image: one that is whole, as
    far as its headers tell; other: anything else.
    """

    kind: str
    why: str = ""
    reference: str = ""


def look_at(path: str) -> Place:
    """What is at `path`, links followed. Never raises."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return Place(OTHER, "is no file")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NOTHING:
            return Place(GONE if os.path.islink(path) else FREE)
        return Place(OTHER, f"cannot be read: {error.strerror}")
    try:
        return _judge(fd, os.fstat(fd).st_size)
    except Truncated as error:
        return Place(BROKEN, error.message)
    except InvalidImage as error:
        return Place(OTHER, f"is no sound image: {error.message}")
    except OSError as error:
        return Place(OTHER, f"cannot be read: {error.strerror}")
    except HpccError:  # a version that hpcc does not read
        return Place(IMAGE)
    finally:
        os.close(fd)


def _judge(fd: int, size: int) -> Place:
    head = os.pread(fd, 64, 0)
    if not head:
        raise Truncated("it is empty")
    if head[32:41] == b"SIF_MAGIC":
        sif = load(lambda offset, length: os.pread(fd, length, offset), size)
        for each in sif.descriptors:
            if (partition := each.partition) and partition.fs == descriptor.FS_SQUASHFS:
                try:
                    Superblock.parse(os.pread(fd, superblock.SIZE, each.offset), each.size)
                except InvalidImage as error:  # as a crash leaves it: the header is there, the rest are zeros
                    raise Truncated(error.message) from None
        mark = read_mark(fd)
        return Place(IMAGE, reference=mark.reference if mark else "")
    at = len(LAUNCHER) if head.startswith(LAUNCHER) else 0
    if head[at : at + 4] == b"hsqs":
        Superblock.parse(os.pread(fd, superblock.SIZE, at), size - at)
        return Place(IMAGE)
    if size < 64 and LAUNCHER.startswith(head[: len(LAUNCHER)]):
        raise Truncated(f"{size} bytes are only how an image begins")
    return Place(OTHER, "is no image")


def refuse_taken(path: str, repository: str) -> None:
    """UsageError where an image of `repository` (registry/repository) cannot come to `path`, as far as is known yet:
    what is there is another image, or none.
    """
    place = look_at(path)
    if place.kind == OTHER or (place.kind == IMAGE and place.reference.partition("@")[0] != repository):
        raise _taken(path, place)


def place_image(image: Image, path: str, settings: Settings, progress: Progress, *, replace: bool, link: bool) -> None:
    """Have the image at `path`: by a link to the cached SIF, or without `link` a copy. Atomic, idempotent.

    The same image that is there already stays. A link to what is no more and a half-written image are replaced, and
    `progress` is told; another image, or anything else, only with `replace`: UsageError. CacheError where the
    directory cannot be written to.
    """
    for _ in range(TRIES):
        place = look_at(path)
        if not replace:
            if place.kind == OTHER or (place.kind == IMAGE and place.reference != image.reference):
                raise _taken(path, place)
            if place.kind == IMAGE:
                progress.info(f"{path} is there already, and is this image")
                _keep(image, path, settings, progress)
                return
        if place.kind == GONE:
            progress.warning(f"{path} is a link to an image that is gone; it is replaced")
        elif place.kind == BROKEN:
            progress.warning(f"{path} is half an image, which somebody's pull has left; it is replaced ({place.why})")
        try:
            _put(image, path, settings, progress, replace=replace or place.kind in (GONE, BROKEN), link=link)
            return
        except FileExistsError:
            continue  # somebody was quicker: perhaps by the same image
    raise CacheError(f"{path} is one thing now and another then", hint="Who else writes to it?")


def _put(image: Image, path: str, settings: Settings, progress: Progress, *, replace: bool, link: bool) -> None:
    """FileExistsError where without replace somebody else's is there by now."""
    if link:
        target = Cache(image.cache).path("sif-v1", os.path.basename(image.path))
        if _all_can_read(target, os.path.dirname(os.path.abspath(path))):
            _keep(image, path, settings, progress)  # first: it must not be cleaned away in between
            try:
                new_link(target, path, replace=replace)
                progress.info(f"{path} is a link to it in the cache")
                return
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
        else:
            progress.info(f"{path} is a copy: not all who write to its directory can read the cache")
    try:
        copy_image(image, path, replace=replace)
    except UsageError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None


def _keep(image: Image, path: str, settings: Settings, progress: Progress) -> None:
    """Tell the cache of the link. A library is not ours to write to, nor to clean."""
    if image.cache in settings.library_path:
        return
    base, found, stamp = path.rpartition(_PULLING)
    try:
        for each in (path, base) if found and stamp.isdecimal() else (path,):
            register_root(Cache(image.cache), each, image.key)
    except CacheError as error:
        progress.warning(f"`hpcc cache gc` may remove the image of {path}: {error.message}")


def _all_can_read(sif: str, directory: str) -> bool:
    """Whether all who may put an image into the directory can have the SIF read. Goes by modes: ACLs do not count."""
    try:
        status = os.stat(directory)
        if status.st_mode & stat.S_IWOTH:
            return False
        if not status.st_mode & stat.S_IWGRP or _is_own_group(status.st_gid):
            return True
        path, bit = sif, 4
        while _can(os.stat(path), bit, status.st_gid):
            if path == "/":
                return True
            path, bit = os.path.dirname(path), 1
    except OSError:
        pass  # whoever writes there next says what is wrong
    return False


def _can(status: os.stat_result, bit: int, gid: int) -> bool:
    return bool(status.st_mode & bit or (status.st_gid == gid and status.st_mode & bit << 3))


def _is_own_group(gid: int) -> bool:
    """Whether a group is this user's private one, as most systems give each user: nobody else is in it."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}


def _taken(path: str, place: Place) -> UsageError:
    what = f"is there already, and {place.why}" if place.why else "is there already, and is another image"
    return UsageError(f"{path} {what}", hint="Replace it with --force, or give another name.")
