"""The commands that an image has on its PATH, read from its squashfs; nothing of it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpcc.errors import HpccError, UsageError
from hpcc.fstree import DIRECTORY, REGULAR
from hpcc.local import Image
from hpcc.runtime.environment import DEFAULT_PATH
from hpcc.squashfs.reader import SquashFS, open_squashfs

SYSTEM = frozenset(("/bin", "/sbin", "/usr/bin", "/usr/sbin"))
"""Where a distribution has its own: a module of all of these would hide the host's ls."""
_LETTERS = str.maketrans("_-+.", "aaaa")


def commands_of(image: Image) -> dict[str, str]:
    """{name: path in the image} of its commands, as its PATH finds them. UsageError for a directory."""
    squashfs = _open(image)
    found: dict[str, str] = {}
    for directory in search_path(image):
        try:
            inode = squashfs.lookup(os.fsencode(directory))
            names = [name for name, _ in squashfs.children(inode)] if inode and inode.kind == DIRECTORY else []
        except HpccError as error:
            raise type(error)(f"{image.name}: {error.message}", hint=error.hint) from None
        for name in names:
            text = os.fsdecode(name)
            if text not in found and _is_command(squashfs, f"{directory}/{text}"):
                found[text] = f"{directory}/{text}"
    return found


def search_path(image: Image) -> list[str]:
    """The directories of the image's PATH, absolute ones alone, each once."""
    path = next((item[5:] for item in image.config.env if item.startswith("PATH=")), DEFAULT_PATH)
    return list(dict.fromkeys(each.rstrip("/") for each in path.split(":") if each.startswith("/") and each != "/"))


def own_commands(image: Image, found: dict[str, str]) -> list[str]:
    """Those that an image is made for: outside of the distribution's directories, and its ENTRYPOINT's or CMD's own.

    Names that a shell or a modulefile would have trouble with are left out; so is the shell that most images name.
    """
    own = {name for name, path in found.items() if os.path.dirname(path) not in SYSTEM}
    for words in (image.config.entrypoint[:1], image.config.cmd[:1]):
        own |= {word.rpartition("/")[2] for word in words}
    return sorted(name for name in own & set(found) if name not in ("sh", "bash") and is_plain(name))


def is_plain(name: str) -> bool:
    """Whether a name is of letters, digits and _ . + -, and looks like neither an option nor a hidden file."""
    return name.isascii() and name[:1] not in ("", "-", ".", "+") and name.translate(_LETTERS).isalnum()


def check_commands(image: Image, names: Sequence[str]) -> None:
    """UsageError for a command that the image does not have, by name or path; a directory is not asked."""
    if image.rootfs.kind != "squashfs":
        return
    squashfs, found = _open(image), None
    for name in names:
        if name.startswith("/"):
            there = _is_command(squashfs, name)
        else:
            found = commands_of(image) if found is None else found
            there = name in found
        if not there:
            raise UsageError(f"{image.name} has no command {name}", hint="`hpcc module --list IMAGE` shows all.")


def _open(image: Image) -> SquashFS:
    source = image.rootfs
    if source.kind != "squashfs":
        raise UsageError(
            f"{image.name} is a directory, which hpcc does not search", hint="Name them: --commands python3,pip."
        )
    return open_squashfs(lambda offset, size: os.pread(source.fd, size, source.offset + offset), source.size)


def _is_command(squashfs: SquashFS, path: str) -> bool:
    try:
        inode = squashfs.lookup(os.fsencode(path))
    except HpccError:
        return False
    return inode is not None and inode.kind == REGULAR and inode.mode & 0o111 != 0
