"""The ladder of root filesystems: the first rung that a host can stand on, or an error that says what is missing."""

import pytest

from hpcc.errors import RuntimeUnavailable
from hpcc.runtime.host import Host, why_not
from hpcc.runtime.rootfs import LZ4, LZO, Rootfs, Rung, choose_rung

USER = Host(False, True, True, True, "/usr/bin/squashfuse_ll", True, True, "/usr/bin/fuse-overlayfs", False)
OLD = USER._replace(squash=False)  # Debian 12: no -o uid=
ROOT = USER._replace(root=True, loop=True)
NEITHER = USER._replace(squashfuse="", squash=False, fuse_overlayfs="")  # neither program
BARE = USER._replace(fuse=False, squashfuse="", squash=False, fuse_overlayfs="")
IMAGE = Rootfs("squashfs", "/i.sif", 3, 4096, 1 << 20, "id", (0, 8))
ROOTED = IMAGE._replace(owners=(0,))
TRUSTED = IMAGE._replace(trusted=True)
SANDBOX = Rootfs("directory", "/sandbox")


@pytest.mark.parametrize(
    ("host", "image", "rung"),
    [
        (USER, IMAGE, Rung("fuse", True, False, "")),
        (NEITHER, IMAGE, Rung("fuse", True, False, "")),
        (ROOT, IMAGE, Rung("fuse", True, False, "")),
        (ROOT, TRUSTED, Rung("kernel", True, False, "")),
        (USER, TRUSTED, Rung("fuse", True, False, "")),
        (USER, IMAGE._replace(compressor=LZ4), Rung("squashfuse", True, False, "")),
        (OLD, IMAGE._replace(compressor=LZO), Rung("squashfuse", False, False, "")),
        (ROOT, TRUSTED._replace(compressor=LZ4), Rung("kernel", True, False, "")),
        (NEITHER, IMAGE._replace(compressor=LZ4), Rung("fuse", True, False, "")),
        (NEITHER, IMAGE._replace(compressor=LZO), Rung("unpacked", True, False, "")),
        (BARE, IMAGE, Rung("unpacked", True, False, "")),
        (USER, SANDBOX, Rung("directory", True, False, "")),
    ],
)
def test_read_only(host: Host, image: Rootfs, rung: Rung) -> None:
    assert choose_rung(host, image, writable=False) == rung


@pytest.mark.parametrize(
    ("host", "image", "rung"),
    [
        (USER, IMAGE, Rung("fuse", True, False, "overlay")),
        (NEITHER, IMAGE, Rung("fuse", True, False, "overlay")),
        (USER._replace(overlay=False), IMAGE, Rung("fuse", True, False, "fuse-overlayfs")),
        (ROOT, TRUSTED, Rung("kernel", True, False, "overlay")),
        (BARE, IMAGE, Rung("unpacked", True, False, "overlay")),
        (USER, SANDBOX, Rung("directory", True, False, "overlay")),
        (BARE._replace(overlay=False), IMAGE, Rung("unpacked", True, False, "copy")),
        (BARE._replace(overlay=False), SANDBOX, Rung("directory", True, False, "copy")),
        (ROOT._replace(overlay=False, fuse_overlayfs=""), TRUSTED, Rung("unpacked", True, False, "copy")),
    ],
)
def test_writable(host: Host, image: Rootfs, rung: Rung) -> None:
    assert choose_rung(host, image, writable=True) == rung


@pytest.mark.parametrize(
    ("host", "image", "rung"),
    [
        (USER, IMAGE, Rung("squashfuse", True, False, "overlay")),
        (OLD, IMAGE, Rung("squashfuse", False, False, "fuse-overlayfs")),
        (OLD, ROOTED, Rung("squashfuse", False, False, "fuse-overlayfs")),
        (OLD._replace(fuse_overlayfs=""), ROOTED, Rung("squashfuse", False, True, "overlay")),
    ],
)
def test_writable_over_squashfuse(host: Host, image: Rootfs, rung: Rung) -> None:
    assert choose_rung(host, image, writable=True, rootfs="squashfuse") == rung


def test_writable_over_what_squashfuse_alone_reads() -> None:
    host = OLD._replace(fuse_overlayfs="")
    for image in (IMAGE, IMAGE._replace(owners=None)):
        rung = choose_rung(host, image._replace(compressor=LZO), writable=True)
        assert rung == Rung("unpacked", True, False, "overlay")


@pytest.mark.parametrize("kind", ["ids", "alone"])
def test_fakeroot(kind: str) -> None:
    rung = choose_rung(USER, IMAGE, writable=True, fakeroot=kind)
    assert rung == Rung("fuse", kind == "alone", False, "overlay", True, kind == "ids")


def test_forced() -> None:
    assert choose_rung(USER, IMAGE, writable=False, rootfs="unpacked").root == "unpacked"
    assert choose_rung(USER, IMAGE, writable=True, layer="fuse-overlayfs").layer == "fuse-overlayfs"
    assert choose_rung(USER, IMAGE, writable=True, layer="unpacked") == Rung("unpacked", True, False, "overlay")
    assert choose_rung(OLD, ROOTED, writable=True, rootfs="squashfuse", layer="nested").as_root
    assert choose_rung(USER, SANDBOX, writable=False, rootfs="unpacked").root == "directory"
    for fakeroot in ("", "ids", "alone"):
        assert choose_rung(USER, IMAGE, writable=True, layer="copy", fakeroot=fakeroot).layer == "copy"


@pytest.mark.parametrize(
    ("host", "image", "options"),
    [
        (USER, IMAGE, {"rootfs": "kernel"}),
        (ROOT, IMAGE, {"rootfs": "kernel"}),  # not one that just lies around, also for root
        (BARE, IMAGE, {"rootfs": "squashfuse"}),
        (BARE, IMAGE, {"rootfs": "fuse"}),
        (USER, IMAGE._replace(compressor=LZO), {"rootfs": "fuse"}),
        (OLD, IMAGE, {"layer": "nested"}),
        (ROOT, ROOTED, {"layer": "nested"}),
        (OLD, IMAGE, {"layer": "overlay", "rootfs": "squashfuse"}),
        (BARE._replace(overlay=False), IMAGE, {"kept": True}),  # a copy in memory would keep nothing
        (BARE._replace(overlay=False), IMAGE, {"layer": "overlay"}),
        (USER, IMAGE, {"layer": "copy", "rootfs": "squashfuse"}),
    ],
)
def test_impossible(host: Host, image: Rootfs, options: dict[str, object]) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        choose_rung(host, image, writable=True, **options)
    assert caught.value.hint and "/i.sif" in caught.value.message


def test_hosts_that_run_nothing() -> None:
    nothing = USER._replace(mounts=False, user_namespaces=False)
    with pytest.raises(RuntimeUnavailable, match="no user namespaces") as caught:
        choose_rung(nothing, IMAGE, writable=False)
    assert "user.max_user_namespaces" in caught.value.hint
    assert "AppArmor" in why_not(USER._replace(mounts=False)).hint
    assert "denies mounts" in why_not(USER._replace(mounts=False)).message
