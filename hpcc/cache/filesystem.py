"""On which kind of filesystem a path lies: proc(5), /proc/[pid]/mountinfo.

36 35 98:0 /mnt1 /mnt/parent\\040dir rw,noatime master:1 - ext3 /dev/root rw,errors=continue
                 └──mount point────┘                       └type┘
"""

import os

LOCAL = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs")
)
"""Those of one kernel, whose locks all processes on the host see, and no other host can. By the name of anything else
nobody can know how its locks behave.
"""


def filesystem_of(path: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """The type of the filesystem of `path`, or of the nearest directory above it that is there; "" where that is not
    to be found out.
    """
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                before, _, after = line.partition(" - ")
                point = _unescape(before.split(" ")[4])
                if len(point) >= len(best) and f"{path}/".startswith(point.rstrip("/") + "/"):
                    best, kind = point, after.split(" ")[0]
    except (OSError, IndexError):
        return ""
    return kind


def is_local(path: str) -> bool:
    """Whether only this host can have the filesystem of `path` mounted."""
    return filesystem_of(path) in LOCAL


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
