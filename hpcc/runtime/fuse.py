"""FUSE filesystems without waiting and without fusermount: of a program, or of a function of ours.

The descriptor of /dev/fuse is opened in our user namespace, the daemon is forked before the mount namespace is made,
so that it does not keep that alive, and it waits on a pipe until mount(2) was called with the descriptor. The kernel
queues what comes before the daemon is ready. When the last process of the mount namespace is gone, the kernel drops
the mount, and with it the daemon: also after kill -9.

    libfuse 3.3 and newer take /dev/fd/N as a mount point that is mounted already.
"""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel

if TYPE_CHECKING:
    from collections.abc import Callable


class Daemon(NamedTuple):
    """A daemon that waits to be let go, and the /dev/fuse descriptor to mount with."""

    fd: int
    gate: int

    def mount(self, target: str, *, readonly: bool) -> None:
        """Mount at `target` and let the daemon go. Once."""
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | (kernel.MS_RDONLY if readonly else 0)
        options = (
            f"fd={self.fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,default_permissions"
        )
        try:
            kernel.mount("hpcc", target, "fuse", flags, options)
            os.write(self.gate, b"g")
        finally:
            os.close(self.gate)
            os.close(self.fd)


def start_daemon(argv: list[str], keep: tuple[int, ...] = ()) -> Daemon:
    """Fork a daemon that will execute `argv`; "{fuse}" in it stands for its mount point. `keep` stays open in it.

    Call it in the user namespace and outside the mount namespace that the mount will be in. Raises OSError.
    """

    def execute(fuse: int) -> None:
        for fd in (fuse, *keep):
            os.set_inheritable(fd, True)
        if os.geteuid() != 0:  # who is root, of a namespace or for real, keeps all of them
            kernel.keep_a_capability()
        os.execv(argv[0], [arg.replace("{fuse}", f"/dev/fd/{fuse}") for arg in argv])

    return _start(execute, keep)


def start_server(serve: Callable[[int], None], keep: tuple[int, ...] = ()) -> Daemon:
    """The same for a function that answers on the /dev/fuse descriptor; it must have imported all that it uses."""

    def run(fuse: int) -> None:
        with open("/proc/self/comm", "w", encoding="ascii") as file:
            file.write("hpcc-squashfs")
        kernel.limit_capabilities(kernel.A_CAPABILITY)
        serve(fuse)

    return _start(run, keep)


def _start(run: Callable[[int], None], keep: tuple[int, ...]) -> Daemon:
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    wait, gate = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _become(run, fuse, wait, keep)
        finally:
            os._exit(127)
    os.close(wait)
    os.waitpid(child, 0)
    return Daemon(fuse, gate)


def _become(run: Callable[[int], None], fuse: int, wait: int, keep: tuple[int, ...]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    close_all_but((0, 1, 2, fuse, wait, *keep))
    os.chdir("/")
    if os.read(wait, 1) != b"g":
        return  # whoever was to mount us is gone
    os.close(wait)
    run(fuse)


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every other descriptor, so that a daemon holds nobody's pipes or files."""
    last = 0
    for fd in sorted({*keep}):
        if fd > last:  # os.closerange closes everything where the range is empty
            os.closerange(last, fd)
        last = fd + 1
    os.closerange(last, os.sysconf("SC_OPEN_MAX"))
