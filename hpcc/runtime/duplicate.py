"""A copy of a root filesystem in memory: how one is made writable where there is neither overlay nor FUSE.

It lies on a tmpfs of the run's own mount namespace, so that it goes with the run, whatever ends that.
"""

import errno
import os
import shutil
import stat

from hpcc.errors import RuntimeUnavailable

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGE = 1 << 20  # bytes from which it pays to look for room first
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def copy_tree(source: str, target: str) -> None:
    """Copy what is in the directory `source` into `target`, which exists: modes, times and hard links too.

    Owners and devices with real root's rights only. What cannot be read becomes an empty file or directory that nobody
    may read either. RuntimeUnavailable where memory runs out.
    """
    root = os.geteuid() == 0
    links: dict[tuple[int, int], str] = {}
    todo, made = [(source, target)], [(target, os.stat(source))]
    try:
        while todo:
            here, there = todo.pop()
            for entry in _entries(here):
                path, status = os.path.join(there, entry.name), entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(path, 0o700)
                    todo.append((entry.path, path))
                    made.append((path, status))
                elif (status.st_dev, status.st_ino) in links:
                    os.link(links[status.st_dev, status.st_ino], path, follow_symlinks=False)
                elif status.st_size > _LARGE and stat.S_ISREG(status.st_mode) and status.st_size > _room(target):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), entry.path)
                elif _copy(entry.path, path, status):
                    _set_attributes(path, status, root=root)
                    if status.st_nlink > 1:
                        links[status.st_dev, status.st_ino] = path
        for path, status in reversed(made):
            _set_attributes(path, status, root=root)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        raise RuntimeUnavailable(
            "the image does not fit into memory, where it was to be made writable",
            hint="fuse-overlayfs or the kernel's overlay needs no copy; `hpcc doctor` tells more. "
            "--overlay and --bind write to a disk.",
        ) from None


def _room(target: str) -> int:
    """Bytes that a file there may have: what the tmpfs takes, and what the machine has."""
    filesystem = os.statvfs(target)
    room = filesystem.f_bavail * filesystem.f_frsize
    with open("/proc/meminfo", encoding="ascii") as file:
        available = [int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")]
    return min(room, *available) if available else room


def _entries(directory: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except PermissionError:
        return []


def _copy(source: str, target: str, status: os.stat_result) -> bool:
    """Whether there is something at `target` now."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        with open(os.open(target, _WRITE, 0o600), "wb", buffering=0) as out:
            try:
                with open(os.open(source, _READ), "rb", buffering=0) as file:
                    shutil.copyfileobj(file, out, 1 << 20)
            except PermissionError:
                os.fchmod(out.fileno(), 0)
                return False
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    elif kind == stat.S_IFIFO:
        os.mkfifo(target)
    else:  # a socket is of use to nobody, and no device works in a container's root
        return False
    return True


def _set_attributes(path: str, status: os.stat_result, *, root: bool) -> None:
    if root:
        try:
            os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
        except OSError:
            pass  # an owner whom this user namespace does not have
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
