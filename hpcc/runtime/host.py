"""What this host can do, found out by doing it, and remembered for this boot.

Some systems let a process make a user namespace and then deny it all mounts (AppArmor), some limit the number of
namespaces to zero, some have a squashfuse without owners. So each fact is tried in a child of its own. What came out is
kept in the node directory until the next boot, or until a program that it depends on changes.
"""

from __future__ import annotations

import errno
import os

from hpcc.errors import RuntimeUnavailable
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


APPTAINER_LIBEXEC = (
    "/usr/libexec/apptainer/bin",
    "/usr/local/libexec/apptainer/bin",
    "/opt/apptainer/libexec/apptainer/bin",
)


_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # linux/proc_ns.h, PROC_USER_INIT_INO
_HARMLESS = "/proc/sys/fs/binfmt_misc"  # on each host with systemd; what lies there hides nothing


class Host(NamedTuple):
    """The facts. Programs are paths, or "" where there is none that works."""

    root: bool  # real root, who mounts without a user namespace, unless asked to go the way of users
    user_namespaces: bool
    mounts: bool  # a namespace of ours may mount
    fuse: bool  # also FUSE
    squashfuse: str
    squash: bool  # squashfuse has -o uid=,gid= (0.5 and newer)
    overlay: bool  # the kernel's overlay, with a tmpfs that keeps its attributes
    fuse_overlayfs: str
    loop: bool  # the kernel mounts squashfs from a loop device


def enter_user_namespace(inside_uid: int, inside_gid: int) -> None:
    """A user namespace in which the caller is `inside_uid`. Raises OSError where the host does not allow it."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside_uid} {uid} 1"),
        ("gid_map", f"{inside_gid} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def find_program(name: str, settings: Settings, more: tuple[str, ...] = ()) -> str:
    """The program's path on PATH or in `more`, or ""."""
    for directory in (*settings.environ.get("PATH", os.defpath).split(":"), *more):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.access(path, os.X_OK):
            return path
    return ""


def find_programs(settings: Settings) -> tuple[str, str]:
    """(squashfuse_ll, fuse-overlayfs): the paths, or "" where there is none."""
    squashfuse = settings.squashfuse or find_program("squashfuse_ll", settings, APPTAINER_LIBEXEC)
    return squashfuse, find_program("fuse-overlayfs", settings, APPTAINER_LIBEXEC)


def known_host(settings: Settings, directory: str, *, as_user: bool = False) -> Host:
    """The facts for this boot: remembered in `directory`, else probed and remembered."""
    squashfuse, overlayfs = find_programs(settings)
    as_user = as_user and os.geteuid() == 0  # others cannot go another way
    name = os.path.join(directory, f"host-v1-{_fingerprint(squashfuse, overlayfs)}{'-user' * as_user}")
    try:
        with open(name, encoding="utf-8") as file:
            remembered = file.read().split("\n")
        return Host(*(value == "1" if value in ("0", "1") else value for value in remembered))  # type: ignore[arg-type]
    except (OSError, TypeError):
        pass
    host = probe(squashfuse, overlayfs, directory, as_user=as_user)
    if not host.mounts:
        return host  # perhaps only for now: the limit of namespaces may be taken up by others
    temporary = f"{name}.{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("\n".join(str(int(value)) if isinstance(value, bool) else value for value in host))
        os.rename(temporary, name)
    except OSError:
        pass  # a directory that is full, or only read: it is found out again the next time
    return host


def _fingerprint(*programs: str) -> str:
    """Boot, caller, kernel knobs and programs, in a few hex digits."""
    import zlib

    parts = [str(os.getuid())]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/sys/user/max_user_namespaces", "/proc/self/attr/current"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                parts.append(file.read())
        except OSError:
            parts.append("")
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            parts += [line for line in file if line.startswith(("CapEff", "CapBnd", "Seccomp_filters"))]
    except OSError:
        pass
    for path in (*programs, "/dev/fuse", "/proc/self/ns/user"):
        try:
            status = os.stat(path)
            parts.append(f"{path} {status.st_ino} {status.st_mtime_ns if path in programs else 0} {status.st_mode}")
        except OSError:
            parts.append(path)
    text = "\n".join(parts).encode()
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}"


def probe(squashfuse: str, overlayfs: str, directory: str, *, as_user: bool = False) -> Host:
    """Try everything. Takes some tens of milliseconds; leaves nothing behind. as_user: root goes the way of users."""
    root = not as_user and _is_real_root() and in_child(lambda: kernel.unshare(kernel.CLONE_NEWNS))
    user_namespaces = in_child(lambda: enter_user_namespace(os.getuid(), os.getgid()))
    mounts = in_child(lambda: _try_tmpfs(root, directory))
    fuse = mounts and in_child(lambda: _try_fuse(root, directory))
    return Host(
        root=root,
        user_namespaces=user_namespaces,
        mounts=mounts,
        fuse=fuse,
        squashfuse=squashfuse if fuse else "",
        # By 0 it means "as they are", so that root of a user namespace has no use of it.
        squash=bool(squashfuse and fuse)
        and (root or os.geteuid() != 0)
        and b"uid=" in program_help(squashfuse, "--help"),
        overlay=mounts and in_child(lambda: _try_overlay(root, directory)),
        fuse_overlayfs=overlayfs if fuse else "",
        loop=root and os.path.exists("/dev/loop-control") and _knows_squashfs(),
    )


def _is_real_root() -> bool:
    """Whether we are root, and not that of a user namespace, for whom the kernel does no more than for users."""
    try:
        return os.geteuid() == 0 and os.stat("/proc/self/ns/user").st_ino == _FIRST_USER_NAMESPACE
    except OSError:
        return False


def in_child(attempt: Callable[[], object]) -> bool:
    """Whether `attempt` raises no OSError, in a child process, so that the caller's namespaces stay as they are."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            attempt()
            status = 0
        except OSError:
            pass
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


def _try_tmpfs(root: bool, directory: str) -> None:
    if not root:
        enter_user_namespace(os.getuid(), os.getgid())
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("tmpfs", directory, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV)


def _try_fuse(root: bool, directory: str) -> None:
    _try_tmpfs(root, directory)
    os.mkdir(f"{directory}/fuse")
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other,default_permissions"
    kernel.mount("hpcc", f"{directory}/fuse", "fuse", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _try_overlay(root: bool, directory: str) -> None:
    _try_tmpfs(root, directory)
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{directory}/{name}")
    os.setxattr(f"{directory}/upper", "trusted.hpcc" if root else "user.hpcc", b"y")
    layers = f"lowerdir={directory}/lower,upperdir={directory}/upper,workdir={directory}/work"
    kernel.mount("overlay", f"{directory}/merged", "overlay", 0, layers if root else layers + ",userxattr")
    os.mkdir(f"{directory}/merged/new")


def may_mount_proc(root: bool, directory: str) -> bool:
    """Whether a PID namespace of ours can have its /proc: not where parts of ours lie under other mounts.

    As in most containers: else a user could look at what was hidden from him. Tried where something lies there.
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        points = [line.split(" ", 5)[4] for line in file]
    if "/proc" in points and not any(path.startswith("/proc/") and path != _HARMLESS for path in points):
        return True
    return in_child(lambda: _try_proc(root, directory))


def _try_proc(root: bool, directory: str) -> None:
    _try_tmpfs(root, directory)
    os.mkdir(f"{directory}/proc")
    kernel.unshare(kernel.CLONE_NEWPID)
    if not in_child(lambda: kernel.mount("proc", f"{directory}/proc", "proc")):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def may_join(root: bool) -> bool:
    """Whether setns enters namespaces that another process of ours has made."""
    return in_child(lambda: _try_join(root))


def _try_join(root: bool) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWNS) if root else enter_user_namespace(os.getuid(), os.getgid())
            os.write(told, b"+")
            os.kill(os.getpid(), 19)  # SIGSTOP; who waits for us kills us
        finally:
            os._exit(1)
    os.close(told)
    try:
        os.read(ready, 1)
        fd = os.open(f"/proc/{pid}/ns/{'mnt' if root else 'user'}", os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(fd, 0)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _knows_squashfs() -> bool:
    try:
        with open("/proc/filesystems", encoding="ascii") as file:
            return any(line.split()[-1] == "squashfs" for line in file)
    except OSError:
        return False


def program_help(program: str, option: str) -> bytes:
    """What the program prints of itself when it gets this one option."""
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_DUP2, write, 2)]
    try:
        pid = os.posix_spawn(program, [program, option], {"LC_ALL": "C"}, file_actions=actions)
    except OSError:
        os.close(write)
        os.close(read)
        return b""
    os.close(write)
    with open(read, "rb") as file:
        text = file.read(1 << 16)
    os.waitpid(pid, 0)
    return text


def why_not(host: Host) -> RuntimeUnavailable:
    """The error for a host on which no container can run, with what an administrator can do."""
    from hpcc.runtime.obstacles import obstacles, read_knobs

    found = obstacles(read_knobs())
    if host.user_namespaces or host.root:
        message = f"this host {'' if host.root else 'gives user namespaces but '}denies mounts in namespaces of our own"
        likely = "A security module does so, AppArmor on Ubuntu 24.04 above all."
    else:
        message = "this host gives no user namespaces to users, and hpcc needs one to mount an image"
        likely = (
            "The administrator can set user.max_user_namespaces above 0 (RHEL), kernel.unprivileged_userns_clone=1 "
            "(Debian), or allow hpcc in AppArmor (Ubuntu 24.04)."
        )
    if found:
        likely = f"Likely because {found[0].what}. An administrator can change that: {found[0].remedy}."
    return RuntimeUnavailable(message, hint=f"{likely} `hpcc doctor` shows what was tried.")
