"""The container's root: the image, with the mount points that it lacks, and writable where that is wanted.

<stage>/rootfs/            the image, read-only (rootfs.py)
<stage>/session/points/    what the image lacks of the mount points: a read-only layer over it
<stage>/session/upper/     what is written and discarded; else an overlay of the user's
<stage>/final/             all of it
"""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime import _kernel as kernel
from hpcc.runtime import plan
from hpcc.runtime.rootfs import RDONLY, Rootfs, Rung, bind, remount
from hpcc.runtime.stage import make_points

if TYPE_CHECKING:
    from hpcc.runtime.attach import Attached
    from hpcc.runtime.host import Host


class Place(NamedTuple):
    """Where a run is, and what it has: `owner` is (uid, gid) of the caller in its namespace."""

    image: Rootfs
    rung: Rung
    host: Host
    stage: str
    session: str
    owner: tuple[int, int]
    images: Attached | None


def lay(op: plan.Layer, place: Place) -> None:
    """Mount the root at <stage>/final. OSError, UsageError, InvalidImage.

    Where a daemon serves it, this process is in another mount namespace afterwards.
    """
    rootfs, final, session, images = f"{place.stage}/rootfs", f"{place.stage}/final", place.session, place.images
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    points = op.points if images is None else images.settle(op.points)
    made = make_points(root, f"{session}/points", points)
    below: list[str] = []
    kept = session
    if op.overlays:
        from hpcc.runtime.attach import prepare_layers

        below, kept = prepare_layers(op.overlays, images, kept)
    lower = ":".join([*([f"{session}/points"] if made else []), *below, rootfs])
    if op.writable == "image":
        _itself(root, points, place.image.path, final)
    elif op.writable and place.rung.layer == "copy":
        _copy(root, points, rootfs, f"{session}/upper", final)
    elif op.writable:
        if kept == session:
            os.chmod(f"{kept}/upper", os.stat(rootfs).st_mode & 0o1777)
        layers = f"lowerdir={lower},upperdir={kept}/upper,workdir={kept}/work"
        if place.rung.layer == "overlay":
            _kernel_overlay(layers, final, kernel.MS_NOSUID | kernel.MS_NODEV, place)
        else:
            _fuse_overlay(layers, final, place, readonly=False)
    elif not made and not below:
        bind(rootfs, final)
        remount(final, readonly=True)
    elif place.host.fuse_overlayfs and any(each.image and not each.whole for each in op.overlays):
        _fuse_overlay(f"lowerdir={lower}", final, place, readonly=True)
    elif place.host.overlay:
        _kernel_overlay(f"lowerdir={lower}", final, RDONLY, place)
    elif below:
        _fuse_overlay(f"lowerdir={lower}", final, place, readonly=True)
    else:
        from hpcc.runtime.underlay import build_underlay

        build_underlay(root, rootfs, f"{session}/points", f"{session}/under")
        bind(f"{session}/under", final)
        remount(final, readonly=True)
    os.close(root)


def _itself(root: int, points: tuple[plan.Point, ...], path: str, final: str) -> None:
    try:
        make_points(root, path, points)
    except OSError:
        pass  # what mounts there will say so
    bind(path, final)
    remount(final, readonly=False)


def _copy(root: int, points: tuple[plan.Point, ...], rootfs: str, upper: str, final: str) -> None:
    from hpcc.runtime.duplicate import copy_tree

    copy_tree(rootfs, upper)
    make_points(root, upper, points)
    bind(upper, final)
    remount(final, readonly=False)


def _kernel_overlay(layers: str, final: str, flags: int, place: Place) -> None:
    kernel.mount("overlay", final, "overlay", flags, layers if place.host.root else f"{layers},userxattr")


def _fuse_overlay(layers: str, final: str, place: Place, *, readonly: bool) -> None:
    from hpcc.runtime.fuse import start_daemon

    if not place.host.root and not place.rung.owners:
        layers += ",squash_to_uid={},squash_to_gid={}".format(*place.owner)
    if place.images is not None:
        layers += place.images.overlay_options()
    daemon = start_daemon([place.host.fuse_overlayfs, "-f", "-o", layers, "{fuse}"])
    kernel.unshare(kernel.CLONE_NEWNS)  # the daemon stays in the one with the lower layer
    daemon.mount(final, readonly=readonly)
