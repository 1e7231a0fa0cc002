"""Mount points that an image lacks, without overlay: a tree of directories on a tmpfs, into which all else is bound.

image   etc/ passwd        points   etc/ new/       under   etc/ passwd -> bind of the image's
        usr/ …                                              etc/ new/
                                                            usr/ -> bind of the image's
"""

import os
import stat

from hpcc.runtime.rootfs import bind


def build_underlay(root: int, image: str, points: str, under: str) -> None:
    """Make in `under` the union of the image (`root`, a descriptor of `image`) and the tree `points`.

    Only directories that `points` has are made anew; everything else is one bind each. Links are made again.
    """
    todo = [""]
    while todo:
        relative = todo.pop()
        here, there = os.path.join(under, relative), os.path.join(image, relative)
        ours = {entry.name: entry.is_dir(follow_symlinks=False) for entry in os.scandir(os.path.join(points, relative))}
        theirs = _entries(there)
        for name, mode in theirs.items():
            source, target = os.path.join(there, name), os.path.join(here, name)
            if stat.S_ISLNK(mode):
                os.symlink(os.readlink(source), target)
            elif stat.S_ISDIR(mode):
                os.mkdir(target)
                if ours.get(name):
                    os.chmod(target, stat.S_IMODE(mode) & 0o1777 | 0o700)
                else:
                    bind(source, target)
            else:
                _make_file(target)
                bind(source, target)
        for name, is_directory in ours.items():
            target = os.path.join(here, name)
            if is_directory:
                todo.append(os.path.join(relative, name))
                if name not in theirs:
                    os.mkdir(target)
            elif name not in theirs:
                _make_file(target)


def _entries(path: str) -> dict[str, int]:
    """Names and modes of a directory of the image; empty where it has no such directory."""
    try:
        return {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in os.scandir(path)}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _make_file(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
