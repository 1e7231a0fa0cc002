"""Other hosts, played by a seccomp filter: system calls that an older kernel, or a stricter one, answers with an error.

    Deny     by number, or by a flag among its arguments: the filter alone answers
    Since    all calls from a number on, as a kernel that does not have them yet
    Watch    by what stands in the caller's memory, a path or a filesystem's name, which a filter cannot read: the call
             waits (SECCOMP_RET_USER_NOTIF) until a thread of the test has looked, and decided

A filter stays with all children. Root needs no no_new_privs for it, so that set-user-id programs, newuidmap above all,
work below it as ever. Numbers and layouts: linux/seccomp.h, linux/filter.h, asm/unistd.h.
"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.support.people import Person

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS = {
    "x86_64": {
        "clone": 56, "unshare": 272, "mount": 165, "setns": 308, "openat": 257, "setxattr": 188, "fsetxattr": 190,
        "pivot_root": 155, "fsopen": 430, "clone3": 435, "open_tree": 428, "mount_setattr": 442, "pidfd_open": 434,
        "umount2": 166, "stat": 4, "newfstatat": 262, "statx": 332,
    },
    "aarch64": {
        "clone": 220, "unshare": 97, "mount": 40, "setns": 268, "openat": 56, "setxattr": 5, "fsetxattr": 7,
        "pivot_root": 41, "fsopen": 430, "clone3": 435, "open_tree": 428, "mount_setattr": 442, "pidfd_open": 434,
        "umount2": 39, "newfstatat": 79, "statx": 291,
    },
}  # fmt: skip
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _NOTIFY = 0x7FFF0000, 0x00050000, 0x7FC00000
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000


class Deny(NamedTuple):
    """The call ends with `error`; with a mask, only where argument `at` has a bit of it."""

    call: str
    error: int
    at: int = 0
    mask: int = 0


class Since(NamedTuple):
    """Each call from this number on ends with `error`."""

    number: int
    error: int


class Watch(NamedTuple):
    """The call waits for `decide`, which gives the error to end with, or 0 to let it go on."""

    call: str
    decide: "Callable[[Request], int]"


Rule = Deny | Since | Watch


class Request:
    """A call that waits: its arguments, and what they point to."""

    def __init__(self, pid: int, arguments: tuple[int, ...]) -> None:
        self.pid, self.arguments = pid, arguments

    def text(self, at: int) -> str:
        """The string that argument `at` points to; "" for a null pointer."""
        address, found = self.arguments[at], b""
        if not address:
            return ""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            while b"\0" not in found and len(found) < 4096:
                found += os.pread(memory.fileno(), 256 - (address + len(found)) % 256, address + len(found))
        return os.fsdecode(found.partition(b"\0")[0])

    def replace(self, at: int, text: str) -> None:
        """Put another string of the same length where argument `at` points to."""
        assert len(os.fsencode(text)) == len(os.fsencode(self.text(at)))
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), os.fsencode(text), self.arguments[at])

    def is_in_namespace(self) -> bool:
        """Whether the caller is in another user namespace than this process."""
        return os.readlink(f"/proc/{self.pid}/ns/user") != os.readlink("/proc/self/ns/user")


def unavailable() -> str | None:
    """Why no host can be played here; None where it can."""
    if platform.machine() not in _ARCH:
        return f"no numbers of system calls for {platform.machine()} in tests/support/seccomp.py"
    if tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (5, 8):
        return "a filter that asks, and says when nobody is left to ask, needs Linux 5.8"
    return None


def run(
    rules: Sequence[Rule], person: Person, argv: Sequence[str | os.PathLike[str]], **options: Any
) -> "subprocess.CompletedProcess[Any]":
    """`person.run` on a host with these rules. What outlives the command is not watched any more: its calls fail."""
    machine = platform.machine()
    program, asks = _program(rules, machine), any(isinstance(rule, Watch) for rule in rules)
    ours, theirs = socket.socketpair()

    def install() -> None:
        listener = _install(program, machine, asks)
        if asks:
            socket.send_fds(theirs, [b"!"], [listener])
            os.close(listener)

    decide = {_CALLS[machine][rule.call]: rule.decide for rule in rules if isinstance(rule, Watch)}
    watcher = threading.Thread(target=_watch, args=(ours, decide), daemon=True)
    watcher.start() if asks else None
    try:
        return person.run(argv, preexec_fn=install, **options)
    finally:
        theirs.close()
        watcher.join(20) if asks else None
        ours.close()


def _install(program: bytes, machine: str, asks: bool) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    done = int(libc.syscall(_SYS_SECCOMP[machine], _SET_MODE_FILTER, _NEW_LISTENER if asks else 0, header))
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "seccomp")
    return done


def _program(rules: Sequence[Rule], machine: str) -> bytes:
    """Classic BPF over struct seccomp_data: nr at 0, arch at 4, arguments of 8 bytes from 16 on."""
    calls = _CALLS[machine]
    code = [(_LD, 0, 0, 4), (_JEQ, 1, 0, _ARCH[machine]), (_RET, 0, 0, _ALLOW), (_LD, 0, 0, 0)]
    for rule in rules:
        if isinstance(rule, Since):
            code += [(_JGE, 0, 1, rule.number), (_RET, 0, 0, _ERRNO | rule.error)]
        elif isinstance(rule, Watch):
            code += [(_JEQ, 0, 1, calls[rule.call]), (_RET, 0, 0, _NOTIFY)]
        elif not rule.mask:
            code += [(_JEQ, 0, 1, calls[rule.call]), (_RET, 0, 0, _ERRNO | rule.error)]
        else:
            code += [
                (_JEQ, 0, 4, calls[rule.call]),
                (_LD, 0, 0, 16 + 8 * rule.at),  # the lower half, on machines that have it first
                (_JSET, 0, 1, rule.mask),
                (_RET, 0, 0, _ERRNO | rule.error),
                (_LD, 0, 0, 0),
            ]
    return b"".join(struct.pack("HBBI", *each) for each in [*code, (_RET, 0, 0, _ALLOW)])


def _watch(ours: socket.socket, decide: dict[int, Callable[[Request], int]]) -> None:
    """Answer until the command has ended, which closes the other end of `ours`."""
    try:
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    except OSError:
        return
    if not fds:
        return
    (listener,) = fds
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(ours, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if not ready.get(listener, 0) & select.POLLIN:
            break
        asked = bytearray(80)
        try:
            fcntl.ioctl(listener, _RECEIVE, asked)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # who asked was killed
                continue
            break
        number, pid, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", asked)
        try:
            answer = decide[call](Request(pid, tuple(arguments)))
        except OSError:
            answer = 0  # it has gone meanwhile
        reply = struct.pack("QqiI", number, 0, -answer, 0 if answer else _CONTINUE)
        try:
            fcntl.ioctl(listener, _SEND, reply)
        except OSError:
            continue
    os.close(listener)
