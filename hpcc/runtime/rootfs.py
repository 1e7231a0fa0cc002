"""The root filesystem of an image, mounted: a ladder, and the first rung that this host can stand on.

    kernel      a loop device; real root only, and only for images that hpcc made and a trusted owner owns
    fuse        FUSE, served by ourselves (serve.py); its files belong to the caller
    squashfuse  FUSE, for what we cannot decompress; files belong to the caller where it can say so (0.5 and newer)
    unpacked    a copy on this node's disk, made once for all of a user's jobs
    directory   an image that is a directory already

What is mounted where, in a mount namespace of our own; the stage is a directory of the node directory:

    <stage>/            tmpfs
      rootfs/             the image, read-only
      session/  final/    of each run (launch.py)
"""

from __future__ import annotations

import errno
import os

from hpcc.errors import InvalidImage, RuntimeUnavailable
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel
from hpcc.runtime.fuse import Daemon, start_daemon, start_server
from hpcc.runtime.host import Host, enter_user_namespace, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

GZIP, LZO, LZ4 = 1, 3, 5  # as hpcc.squashfs.compression has them, which a warm run does not import
RDONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
_INSTALL = "Install squashfuse and fuse-overlayfs (packages of every distribution), or see `hpcc doctor`."


class Rootfs(NamedTuple):
    """An image's root filesystem as it lies on disk.

    kind: "squashfs", in the file `fd` from `offset` on, `size` bytes; or "directory", at `path`.
    identity names it on this host: the same identity, the same content. `owners`: the ids in it, where known.
    trusted: made by hpcc and owned by somebody whom the cache's policy trusts. compressor: its id in the superblock.
    """

    kind: str
    path: str
    fd: int = -1
    offset: int = 0
    size: int = 0
    identity: str = ""
    owners: tuple[int, ...] | None = None
    trusted: bool = False
    compressor: int = GZIP


class Rung(NamedTuple):
    """How the image is mounted, and how a writable layer over it is made ("" where none is asked for)."""

    root: str  # kernel | fuse | squashfuse | unpacked | directory
    squash: bool  # its files appear as the caller's
    as_root: bool  # in a namespace where the caller is 0, and the payload in one nested in it
    layer: str  # "" | overlay | fuse-overlayfs | copy
    fakeroot: bool = False  # in a namespace where the caller is 0, and the payload stays there
    owners: bool = False  # and where other owners have ids as well


def choose_rung(
    host: Host,
    image: Rootfs,
    *,
    writable: bool,
    rootfs: str = "auto",
    layer: str = "auto",
    fakeroot: str = "",
    kept: bool = False,
) -> Rung:
    """The first rung of each ladder that works here. Pure. RuntimeUnavailable says what is missing.

    `rootfs` and `layer` force a rung (settings rootfs and writable). fakeroot: "" for none; "ids", with ids for other
    owners than root; "alone", without. kept: with layers that lie on a disk, as by --overlay, so that no copy will do.
    """
    if fakeroot:
        plain = choose_rung(host, image, writable=writable, rootfs=rootfs, layer=layer, kept=kept)
        return _fakeroot(plain, host, fakeroot)
    if not host.mounts:
        raise why_not(host)
    roots = _roots(host, image)
    if image.kind == "squashfs" and layer == "unpacked":
        rootfs = "unpacked"
    if rootfs != "auto" and image.kind == "squashfs":
        if rootfs not in roots:
            raise RuntimeUnavailable(f"this host cannot mount {image.path} as {rootfs}", hint=_INSTALL)
        roots = [rootfs]
    if not writable:
        return Rung(roots[0], _squashes(host, roots[0]), False, "")
    for root in roots:
        rung = _writable(host, image, root, layer)
        if rung is not None:
            return rung
    if layer in ("auto", "copy") and roots[-1] in ("unpacked", "directory") and not kept:
        return Rung(roots[-1], True, False, "copy")
    raise RuntimeUnavailable(f"this host has no way to {_what(image, kept)} ({layer})", hint=_INSTALL)


def _what(image: Rootfs, kept: bool) -> str:
    return f"put an --overlay over {image.path}" if kept else f"make {image.path} writable"


def _fakeroot(rung: Rung, host: Host, kind: str) -> Rung:
    """The same rung in a namespace where the caller is root: files keep their owners, where those have ids there."""
    squash = kind == "alone" and (rung.root == "fuse" or (rung.root == "squashfuse" and host.squash))
    # Without ids, and where the mount cannot help, owners are unknown to the kernel, which then copies nothing up.
    layer = "overlay" if rung.layer not in ("", "copy") and host.overlay and (kind == "ids" or squash) else rung.layer
    return rung._replace(squash=squash, as_root=False, layer=layer, fakeroot=True, owners=kind == "ids")


def _roots(host: Host, image: Rootfs) -> list[str]:
    if image.kind == "directory":
        return ["directory"]
    kernel_too = ["kernel"] if host.root and host.loop and image.trusted else []
    return [*kernel_too, *_servers(host, image), "unpacked"]


def _servers(host: Host, image: Rootfs) -> list[str]:
    """What can serve it over FUSE, the better one first: ours is quicker, and has the caller's ids; lz4 is an extra."""
    found = ["fuse"] if host.fuse and image.compressor != LZO else []
    if host.squashfuse:
        found.insert(0 if image.compressor == LZ4 else len(found), "squashfuse")
    return found


def _squashes(host: Host, root: str) -> bool:
    """Whether each file of the mounted image belongs to the caller, or to ids that the caller's namespace has."""
    if host.root:
        return True
    return root in ("fuse", "unpacked", "directory") or (root == "squashfuse" and host.squash)


def _writable(host: Host, image: Rootfs, root: str, layer: str) -> Rung | None:
    squash = _squashes(host, root)
    if layer in ("auto", "overlay", "unpacked") and host.overlay and squash:
        return Rung(root, squash, False, "overlay")
    if layer in ("auto", "fuse-overlayfs") and host.fuse_overlayfs:
        return Rung(root, squash, False, "fuse-overlayfs")
    if layer in ("auto", "nested") and host.overlay and not host.root and image.owners == (0,):
        return Rung(root, False, True, "overlay")
    return None


def mount_rootfs(
    image: Rootfs, rung: Rung, host: Host, stage: str, unpacked: str = "", *, entered: bool = False
) -> None:
    """Enter namespaces of our own and mount the image at <stage>/rootfs, read-only. OSError where the host refuses.

    `unpacked` is the copy for that rung. entered: the user namespace is the right one already.
    This process cannot go back; call it where that is meant.
    """
    uid, gid = (0, 0) if rung.fakeroot else (os.geteuid(), os.getegid())
    if not host.root and not entered:
        enter_user_namespace(*((0, 0) if rung.as_root else (uid, gid)))
    daemon: Daemon | None = None
    if rung.root in ("fuse", "squashfuse"):
        daemon = start_squashfs(host, image, (uid, gid) if rung.squash and not host.root else None, by=rung.root)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
    target = f"{stage}/rootfs"
    os.mkdir(target)
    os.mkdir(f"{stage}/final")
    os.mkdir(f"{stage}/session")
    if daemon is not None:
        daemon.mount(target, readonly=True)
    elif rung.root == "kernel":
        from hpcc.runtime.loop import mount_loop

        mount_loop(image.fd, image.offset, image.size, target)
    else:
        if unpacked:
            from hpcc.runtime.store import note_use

            note_use(unpacked)
        bind(unpacked or image.path, target)
        remount(target, readonly=True)


def start_squashfs(
    host: Host, image: Rootfs, owner: tuple[int, int] | None, *, by: str = "", is_layer: bool = False
) -> Daemon:
    """Have a daemon wait that serves the squashfs of an open file. `owner`: whose its files shall seem.

    by: fuse or squashfuse, else the better one. is_layer: of an overlay, which it may tell what is opaque.
    Raises OSError; InvalidImage, UnsupportedImage; RuntimeUnavailable where nothing can serve it.
    """
    if not by:
        servers = _servers(host, image)
        if not servers:
            raise RuntimeUnavailable(f"this host has nothing to mount {image.path} with", hint=_INSTALL)
        by = servers[0]
    if by == "fuse":
        return start_server(_own_server(image, owner, is_layer=is_layer), (image.fd,))
    options = f"offset={image.offset}"
    if owner is not None and host.squash:
        options += f",uid={owner[0]},gid={owner[1]}"
    argv = [host.squashfuse, "-f", "-o", options, f"/proc/self/fd/{image.fd}", "{fuse}"]
    return start_daemon(argv, (image.fd,))


def _own_server(image: Rootfs, owner: tuple[int, int] | None, *, is_layer: bool) -> Callable[[int], None]:
    """What is imported here is not imported in the daemon."""
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    from hpcc.runtime.serve import Server, serve
    from hpcc.squashfs.reader import open_squashfs

    try:
        opened = open_squashfs(lambda at, length: os.pread(image.fd, length, image.offset + at), image.size)
    except InvalidImage as error:
        raise type(error)(f"{image.path}: {error.message}", hint=error.hint) from None
    server = Server(opened, owner, is_layer=is_layer)
    return lambda fd: serve(fd, server)


def bind(source: str, target: str) -> None:
    """Bind `source`, with what is mounted below it (the kernel does not let a user leave that out)."""
    kernel.mount(source, target, "", kernel.MS_BIND | kernel.MS_REC)


def remount(target: str, *, readonly: bool, device: bool = False) -> None:
    """Set nosuid, nodev unless `device`, and ro, on the mount at `target` and on all below it; OSError where not."""
    attributes = kernel.MOUNT_ATTR_NOSUID | (0 if device else kernel.MOUNT_ATTR_NODEV)
    try:
        kernel.set_mount_attributes(target, attributes | (kernel.MOUNT_ATTR_RDONLY if readonly else 0))
        return
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # before Linux 5.12; behind an older seccomp filter
            raise
    top = os.path.realpath(target)
    _remount_one(target, readonly=readonly, device=device)
    for path in _mounts_below(top):
        try:
            _remount_one(path, readonly=readonly, device=device)
        except OSError:
            if readonly:  # what is asked for must hold; nosuid and nodev the kernel has locked for users already
                raise


def _mounts_below(top: str) -> list[str]:
    """Mount points below a path (proc(5), mountinfo: field 5, with octal escapes)."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            path = os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1"))
            if path.startswith(top.rstrip("/") + "/"):
                found.append(path)
    return found


def _remount_one(target: str, *, readonly: bool, device: bool) -> None:
    """By mount(2), keeping the flags that the kernel has locked."""
    flags = kernel.MS_NOSUID | (0 if device else kernel.MS_NODEV) | (kernel.MS_RDONLY if readonly else 0)
    locked = os.statvfs(target).f_flag
    for here, there in _FLAGS:
        if locked & here:
            flags |= there
    kernel.mount("", target, "", kernel.MS_REMOUNT | kernel.MS_BIND | flags)


_FLAGS = (
    (os.ST_RDONLY, kernel.MS_RDONLY),
    (os.ST_NOSUID, kernel.MS_NOSUID),
    (os.ST_NODEV, kernel.MS_NODEV),
    (os.ST_NOEXEC, kernel.MS_NOEXEC),
    (os.ST_NOATIME, kernel.MS_NOATIME),
    (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
    (os.ST_RELATIME, kernel.MS_RELATIME),
)
