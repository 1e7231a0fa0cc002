"""From a plan to a payload: find out what the host can do, enter the image's root, launch.

<node dir>/                 0700; HPCC_NODE_DIR
  host-v1-<fingerprint>       what was probed (host.py)
  stage/                      mount point, empty outside of namespaces
  held/<key>                  holders (hold.py)
  unpacked-v1/                copies of images (unpack.py), a node store (store.py)
"""

from __future__ import annotations

import errno
import os
import stat

from hpcc.errors import CacheError, RuntimeUnavailable, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import _kernel as kernel
from hpcc.runtime import hold, plan
from hpcc.runtime.accounts import Entry, find_account
from hpcc.runtime.host import Host, known_host, may_mount_proc, why_not
from hpcc.runtime.launch import Launcher
from hpcc.runtime.rootfs import Rootfs, Rung, choose_rung, mount_rootfs
from hpcc.runtime.spec import Caller
from hpcc.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcc.runtime.images import Opened


def caller(settings: Settings) -> Caller:
    """Who calls, from where."""
    uid, gid = os.getuid(), os.getgid()
    account = find_account(uid, (gid, *os.getgroups()), lambda: node_directory(settings))
    entry = account.entry or Entry(settings.environ.get("USER") or f"user{uid}", gid, "", "", "/bin/sh")
    home = entry.home if entry.home.startswith("/") else settings.environ.get("HOME") or "/"
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = "/"
    umask = os.umask(0o022)
    os.umask(umask)
    return Caller(
        uid, gid, entry.name, home, cwd, umask, settings.environ, entry.gid, entry.gecos, entry.shell, account.groups
    )


def node_directory(settings: Settings, *parts: str) -> str:
    """The user's directory on this node, or one in it, made where missing. CacheError where somebody else has it."""
    _make_directory(settings.node_dir)
    status = os.lstat(settings.node_dir)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CacheError(
            f"{settings.node_dir} is not a directory that only you can use",
            hint="Somebody may have put it there for you to fall into. Remove it, or name another in HPCC_NODE_DIR.",
        )
    path = os.path.join(settings.node_dir, *parts)
    if parts:
        _make_directory(path)
    return path


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise CacheError(
            f"cannot make {path}: {error.strerror}", hint="Name a directory on this node's disk in HPCC_NODE_DIR."
        ) from None


def can_mount(settings: Settings) -> bool:
    """Whether containers of ours can be here at all; false also where that was not found out."""
    try:
        return known_host(settings, node_directory(settings)).mounts
    except (CacheError, OSError):
        return False


def fit(ops: tuple[plan.Op, ...], settings: Settings, *, as_user: bool) -> tuple[tuple[plan.Op, ...], str]:
    """The plan without what this host cannot give and nobody asked for by name; and a warning, "" for none."""
    implied = {kind for op in ops if isinstance(op, plan.Unshare) for kind in op.implied}
    if "pid" not in implied or plan.Mount("proc", "/proc") not in ops:
        return ops, ""
    directory = node_directory(settings, "stage")
    host = known_host(settings, settings.node_dir, as_user=as_user)
    if host.root or not host.mounts or may_mount_proc(host.root, directory):
        return ops, ""
    return plan.without_processes(ops), (
        "no PID namespace: parts of this host's /proc are hidden, as in most containers, so that a new one cannot be "
        "mounted. The payload sees the processes of its caller."
    )


def start(
    ops: tuple[plan.Op, ...],
    image: Rootfs,
    settings: Settings,
    *,
    keep_mounted: bool,
    as_user: bool = False,
    share: bool = True,
    make_launcher: Callable[..., Launcher] = Launcher,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Run a plan on an image. Returns only in a process that stayed beside the payload: the payload's status.

    keep_mounted: use, and leave, a holder for the image's mount. as_user: real root goes the way of users. share: have
    the namespaces of the other ranks of a step on this node.
    make_launcher: for who does more than run it. tell: as for Launcher.
    """
    # Whoever starts us with SIGCHLD ignored would have the kernel take our children's statuses away.
    import _signal  # type: ignore[import-not-found]  # unlike signal, it makes no enums

    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    (layer,) = [op for op in ops if isinstance(op, plan.Layer)]
    if layer.writable == "image" and image.kind != "directory":
        raise UsageError(
            f"--writable: {image.path} is a file that is only read",
            hint="It takes a directory, or a SIF with an overlay partition (`hpcc overlay create`). --writable-tmpfs "
            "discards what is written, --overlay keeps it.",
        )
    _touch(ops)
    writable = layer.writable in ("tmpfs", "overlay") or bool(layer.overlays)
    opened: tuple[Opened, ...] = ()
    if mounts := [op for op in ops if isinstance(op, plan.MountImage)]:
        from hpcc.runtime.images import open_images

        opened = open_images(mounts, settings)
    stage = node_directory(settings, "stage")
    as_root = any(isinstance(op, plan.DropPrivileges) and op.fakeroot for op in ops)
    host = known_host(settings, settings.node_dir, as_user=as_user or as_root)
    if not host.mounts:
        raise why_not(host)
    fakeroot, uid, gid = "", os.getuid(), os.getgid()
    if as_root:
        fakeroot, uid, gid = _become_root(settings), 0, 0
        keep_mounted = False
    # The kernel's overlay wants more of what it writes to than fuse2fs can do (RENAME_WHITEOUT), and so does not know
    # how fuse-overlayfs notes in such an image what was deleted.
    in_ext = [each.readonly for each in layer.overlays if each.image and not each.whole]
    way = "fuse-overlayfs" if in_ext and (host.fuse_overlayfs or not all(in_ext)) else settings.writable
    rung = choose_rung(
        host,
        image,
        writable=writable,
        rootfs=settings.rootfs,
        layer=way,
        fakeroot=fakeroot,
        kept=bool(layer.overlays),
    )
    if in_ext and way == "fuse-overlayfs":
        rung = rung._replace(layer=way)
    unpacked = ""
    if rung.root == "unpacked":
        from hpcc.runtime.store import Limits
        from hpcc.runtime.unpack import unpacked_copy

        limits = Limits(settings.node_days, settings.node_size)
        in_memory = settings.origins["node_dir"] != "default"
        unpacked = unpacked_copy(image, node_directory(settings, "unpacked-v1"), limits, in_memory=in_memory)

    launcher = make_launcher(image, rung, host, stage, uid, gid, tell)
    launcher.take(opened)
    held = _held(ops, image, host, settings, share=share)

    def enter(*, entered: bool = bool(fakeroot)) -> None:
        mount_rootfs(image, rung, host, stage, unpacked, entered=entered)

    if not (
        keep_mounted
        and (rung.root in ("fuse", "squashfuse") or held.step)
        and settings.hold_idle > 0
        and _join(image, rung, host, settings, held, launcher, enter)
    ):
        try:
            enter()
        except OSError as error:
            raise RuntimeUnavailable(
                f"cannot mount {image.path} ({rung.root}): {error.strerror}",
                hint="`hpcc doctor` tells what this host can do"
                + ("." if rung.root == "unpacked" else "; HPCC_ROOTFS=unpacked needs no mount of the image."),
            ) from None
    return launcher.run(ops)


def is_served(settings: Settings) -> bool:
    """Whether the image of the container beside which `start` stayed still has its server, or never needed one."""
    try:
        os.statvfs(os.path.join(settings.node_dir, "stage", "rootfs"))
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def _touch(ops: tuple[plan.Op, ...]) -> None:
    """Have what is bound mounted, where an automounter does that: it may not know who asks from a namespace of ours.

    Only with the slash at the end a directory that nobody has used yet is mounted (fstatat(2), AT_NO_AUTOMOUNT).
    """
    for op in ops:
        if isinstance(op, plan.BindMount) and not op.device and not op.source.startswith(("/etc/", "/proc", "/sys")):
            try:
                os.stat(f"{op.source}/")
            except OSError:
                pass  # a file, or nothing: what binds it says so


def _become_root(settings: Settings) -> str:
    """Enter a user namespace as its root: "ids", with ids for others as well, or "alone"."""
    from hpcc.runtime.subids import enter_as_root, find_subids

    try:
        return "ids" if enter_as_root(find_subids(caller(settings).user, os.getuid(), settings)) else "alone"
    except OSError as error:
        raise RuntimeUnavailable(
            f"--fakeroot: cannot become root in a user namespace: {error.strerror}", hint="`hpcc doctor` tells more."
        ) from None


def _held(ops: tuple[plan.Op, ...], image: Rootfs, host: Host, settings: Settings, *, share: bool) -> hold.Held:
    """What a holder of this run is for.

    Root has no user namespace to share, so its ranks do so only where they would have namespaces of their own, and not
    where they could look through process 1 at the host, by privileges that they keep.
    """
    kept = any(isinstance(op, plan.DropPrivileges) and op.kept for op in ops)
    in_step = "SLURM_STEP_ID" in settings.environ or "PMIX_NAMESPACE" in settings.environ
    if not share or not in_step or (host.root and kept):
        return hold.Held(image.path, settings.hold_idle)
    from hpcc.runtime.step import step_of

    step = step_of(settings.environ)
    own = (kind for op in ops if isinstance(op, plan.Unshare) for kind in op.kinds)
    kinds = tuple(sorted(kind for kind in own if kind in ("pid", "ipc"))[::-1]) if step else ()
    return hold.Held(image.path, settings.hold_idle, step if kinds or not host.root else "", kinds, host.root)


def _join(
    image: Rootfs,
    rung: Rung,
    host: Host,
    settings: Settings,
    held: hold.Held,
    launcher: Launcher,
    enter: Callable[..., None],
) -> bool:
    """Enter the held root of the image, started where there is none; False where that did not work out."""
    path = os.path.join(node_directory(settings, "held"), _holder_key(image, rung, host, settings, held))
    hold.touch(path)
    try:
        first = hold.join(path, user_namespace=not host.root)
        if first is None and hold.start(path, held, enter, (image.fd,) if image.fd >= 0 else ()):
            first = hold.join(path, user_namespace=not host.root)
    except OSError:  # in its user namespace, which does as well as one of our own, but not with its mounts
        try:
            enter(entered=True)
        except OSError as error:
            raise RuntimeUnavailable(
                f"cannot mount {image.path} ({rung.root}): {error.strerror}", hint="--no-hold joins nothing."
            ) from None
        return True
    if first is None:
        return False
    if first >= 0:
        launcher.share(first)
    kernel.unshare(kernel.CLONE_NEWNS)
    stage = os.path.join(settings.node_dir, "stage")
    if not _answers(f"{stage}/rootfs"):
        hold.dismiss(path)
        kernel.unmount(stage)
        enter(entered=True)
    return True


def _answers(directory: str) -> bool:
    """Whether the filesystem has its daemon; one that was killed, for want of memory, leaves the mount behind."""
    try:
        os.statvfs(directory)  # which the kernel always asks the daemon for
    except OSError:
        return False
    return True


def _holder_key(image: Rootfs, rung: Rung, host: Host, settings: Settings, held: hold.Held) -> str:
    """A name for what a holder holds: the image, how it is mounted, for which job, in which namespaces and mounts."""
    import zlib

    environ = settings.environ
    job = held.step or environ.get("SLURM_JOB_ID") or environ.get("XDG_SESSION_ID") or str(os.getsid(0))
    job += "." + environ.get("SLURM_STEP_ID", "")  # with a step Slurm may end all that began in it, and so its holder
    namespaces = "".join(os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt"))
    with open("/proc/self/mountinfo", "rb") as file:
        mounts = file.read()
    how = (*map(str, rung[:3]), str(host.root), *held.kinds)
    text = "\0".join((image.identity or image.path, *how, job, namespaces)).encode() + mounts
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}{zlib.crc32(text[::-1]):08x}"
