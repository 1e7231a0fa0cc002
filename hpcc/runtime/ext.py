"""ext3 and ext4 images by fuse2fs: mounted without fusermount, whichever libfuse it has, and closed before we return.

A fuse2fs with libfuse 2, as that of Debian 12, does not take a mount that is there already (fuse.py); it calls mount(2)
itself. So it does that in a mount namespace beside ours, from where the kernel propagates the mount:

    ours     images/ (shared tmpfs)  <----  theirs     images/
               1/                             1/  mounted by fuse2fs: it appears in both
    then: ours made private, and unmounted in theirs. So it is in ours alone, and fuse2fs, which lives in theirs, ends
    when the last process of ours has; also after kill -9.

What was written is in the file when fuse2fs has ended; then the lock goes, too. A pipe that it alone holds tells when.
"""

from __future__ import annotations

import os
import select

from hpcc.errors import RuntimeUnavailable
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.fuse import close_all_but

if TYPE_CHECKING:
    from typing import NoReturn

    from hpcc.runtime.images import Opened

_MOST_WORDS = 4096  # bytes that fuse2fs may say of why it does not mount
_USUAL = ("Mounting read-only", "Writing to the journal", "does not support using the journal")


class ExtImages:
    """The mounted ext images of one run, below `directory`, a tmpfs that holds nothing else than images."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._written: list[int] = []  # pipes that close when an image is

    @property
    def written(self) -> bool:
        """Whether one may be written to by this run, so that somebody is to wait for it."""
        return bool(self._written)

    def mount(self, image: Opened, target: str) -> None:
        """Mount it at `target`, a directory in ours. RuntimeUnavailable, with fuse2fs's words, where that cannot be.

        Closes the image's descriptor, so that with fuse2fs the lock ends.
        """
        kernel.mount("", self._directory, "", kernel.MS_SHARED)
        with open("/proc/self/mountinfo", "rb") as mounts:
            alive, theirs = os.pipe()
            said, says = os.pipe()
            wait, gate = os.pipe()
            helper = os.fork()
            if helper == 0:
                os.close(gate)
                _help(image, target, wait, theirs, says)
            for fd in (theirs, says, wait, image.fd):
                os.close(fd)
            words = _await_mount(mounts.fileno(), alive, said, target)
        os.close(said)
        if words is None:
            kernel.mount("", self._directory, "", kernel.MS_PRIVATE | kernel.MS_REC)
            os.write(gate, b"g")
        os.close(gate)
        os.waitpid(helper, 0)
        if words is not None:
            os.close(alive)
            raise _refused(image, words)
        if image.readonly:
            os.close(alive)
        else:
            self._written.append(alive)

    def close(self) -> None:
        """Wait until all that was written is in the files: until nobody has a mount of them any more."""
        for pipe in self._written:
            os.read(pipe, 1)
            os.close(pipe)
        self._written = []

    def forget(self) -> None:
        """In a child: closing them is the parent's."""
        for pipe in self._written:
            os.close(pipe)
        self._written = []


def _help(image: Opened, target: str, wait: int, alive: int, says: int) -> NoReturn:
    """Start fuse2fs in a mount namespace beside ours, and unmount there what ours has."""
    try:
        os.setsid()
        kernel.unshare(kernel.CLONE_NEWNS)
        daemon = os.fork()
        if daemon == 0:
            _become(image, target, alive, says)
        os.close(alive)
        os.close(says)
        if os.read(wait, 1) != b"g":  # whoever was to have the mount is gone
            os.kill(daemon, 15)
        kernel.unmount(target)
    finally:
        os._exit(0)


def _become(image: Opened, target: str, alive: int, says: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(says, 1)
    os.dup2(says, 2)
    close_all_but((0, 1, 2, alive, image.fd))
    os.chdir("/")
    for fd in (alive, image.fd):
        os.set_inheritable(fd, True)
    # As Apptainer does: who may what in it is not asked here, since all of it is the caller's.
    options = "allow_other,fakeroot" + (",ro,norecovery" if image.readonly else "")
    if image.filesystem.offset:
        options += f",offset={image.filesystem.offset}"
    if os.geteuid() != 0:
        kernel.keep_a_capability(kernel.CAP_SYS_ADMIN)  # to mount
    try:
        os.execv(image.program, [image.program, "-f", "-o", options, f"/proc/self/fd/{image.fd}", target])
    except OSError as error:
        os.write(2, f"{image.program}: {error.strerror}".encode())
        os._exit(127)


def _await_mount(mounts: int, alive: int, said: int, target: str) -> bytes | None:
    """None once there is a mount at `target`; what fuse2fs said where it ended before. mounts: our mountinfo, open."""
    poll = select.poll()
    poll.register(mounts, select.POLLPRI)  # proc(5): the mounts of our namespace are not what they were
    poll.register(alive, select.POLLHUP)
    poll.register(said, select.POLLIN)
    words, name = b"", os.fsencode(os.path.realpath(target))
    for special in b"\\ \t\n":
        name = name.replace(bytes([special]), b"\\%03o" % special)
    while True:
        ready = dict(poll.poll())
        if said in ready:
            more = os.read(said, 4096)
            words = (words + more)[:_MOST_WORDS]
            if not more:
                poll.unregister(said)
        # Whatever woke us: of each change poll tells once. Not by stat, which waits for fuse2fs, which may wait for us.
        if b" %s " % name in _whole(mounts):
            return None
        if alive in ready and said not in ready:
            return words


def _whole(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return b"".join(iter(lambda: os.read(file, 1 << 16), b""))


def _refused(image: Opened, words: bytes) -> RuntimeUnavailable:
    text = words.decode("utf-8", "replace").replace("\0", "")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not any(each in line for each in _USUAL)]
    said = "; ".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    said = said.replace(f"/proc/self/fd/{image.fd}", image.path) or "it ended without a word"
    return RuntimeUnavailable(
        f"{image.path}: fuse2fs does not mount it: {said}",
        hint=f"`e2fsck -f {image.path}` says whether the image is damaged; `hpcc doctor` whether FUSE works here.",
    )
