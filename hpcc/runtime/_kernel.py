"""The system calls that Python 3.11 does not have. The only module with ctypes.

Each function raises OSError with the kernel's errno; callers say what that means to a user.
"""

import ctypes
import errno
import os

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWIPC = 0x00020000, 0x10000000, 0x20000000, 0x08000000
CLONE_NEWUTS, CLONE_NEWNET = 0x04000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 1024, 2048, 4096, 16384, 1 << 18, 1 << 19
MS_UNBINDABLE, MS_SHARED, MS_RELATIME = 1 << 17, 1 << 20, 1 << 21

MNT_DETACH = 2

MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
_SYS_MOUNT_SETATTR = 442  # on each architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 24, 36, 38, 47
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 4, 22, 2
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 27, 28, 4
_PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN = 21
_CAP_MKNOD = 27  # worth nothing in a user namespace
A_CAPABILITY = 1 << _CAP_MKNOD
"""A mask of one, a harmless one.

A payload of the same user and namespace, which has none, can then not trace us, nor reach our root in /proc.
"""
LAST_CAPABILITY = 63

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "riscv64": 41, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: object = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def exchange(one: str, other: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: two paths of one filesystem change places, at once. Also EINVAL, ENOSYS."""
    if not hasattr(_libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), 2), one)


def unshare(flags: int) -> None:
    """unshare(2)"""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """setns(2)"""
    _check(_libc.setns(fd, kind))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); the OSError names the target."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            os.fsencode(kind) or None,
            ctypes.c_ulong(flags),
            os.fsencode(data) or None,
        ),
        target,
    )


def set_mount_attributes(target: str, attributes: int) -> None:
    """mount_setattr(2), Linux 5.12: set these on the mount at `target` and on each below it, and clear none."""
    wanted = (ctypes.c_uint64 * 4)(attributes)
    path = os.fsencode(target)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, wanted, ctypes.sizeof(wanted)), target)


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)"""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2), which glibc has no function for."""
    number = _SYS_PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root's number on {os.uname().machine} is not known")
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), new_root)


def set_hostname(name: str) -> None:
    """sethostname(2)"""
    data = os.fsencode(name)
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), name)


def set_no_new_privs() -> None:
    """prctl(2): neither this process nor what it executes gains privileges from set-user-id programs again."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def set_parent_death_signal(number: int) -> None:
    """prctl(2): the signal that this process gets when its parent's thread dies."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def forbid_tracing() -> None:
    """prctl(2): until it executes another program, nobody without privileges looks into this process (ptrace(2))."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def adopt_orphans() -> None:
    """prctl(2): descendants of this process that lose their parent become its children, as if it were process 1."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def keep_a_capability(capability: int = _CAP_MKNOD) -> None:
    """Keep one, A_CAPABILITY unless told, through exec. In a user namespace, with capabilities."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(header, data))
    data[2] |= 1 << capability  # effective, permitted, inheritable of the lower 32; then the upper 32
    _check(_libc.capset(header, data))
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def limit_capabilities(kept: int) -> None:
    """Leave only those in the mask `kept` in any of the five sets, and these in all of them, so that exec keeps them.

    Of those kept, one that this process does not have is left out.
    """
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the lower 32; then the upper 32
    _check(_libc.capget(header, data))
    kept &= data[1] | data[4] << 32
    for capability in range(LAST_CAPABILITY + 1):
        if not kept >> capability & 1 and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # EINVAL after the last one that this kernel knows; EPERM where there is nothing to drop it with
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, low, high, high, high)))
    for capability in range(kept.bit_length()):
        if kept >> capability & 1:
            _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def set_ids(uid: int, gids: tuple[int, ...]) -> None:
    """Become this user, with the first of `gids` as group and the others beside it, and keep all capabilities."""
    bits = _libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_SECUREBITS, bits | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
    os.setgroups(gids[1:])
    os.setresgid(gids[0], gids[0], gids[0])
    os.setresuid(uid, uid, uid)
    _check(_libc.prctl(_PR_SET_SECUREBITS, bits, 0, 0, 0))


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("codes", ctypes.c_char_p))


def set_seccomp(program: bytes) -> None:
    """Filter the system calls of this process from now on: seccomp(2). EACCES: it can still gain privileges."""
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)), 0, 0))
