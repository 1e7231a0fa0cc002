"""What umoci unpacks as root, and what our SquashFS of the same layers holds: the same, but for DIFFERENCES."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, reject, settings

from hpcc.errors import InvalidImage
from hpcc.fstree import REGULAR
from tests.support.layers import (
    SPARSE,
    archive,
    convert,
    directory,
    file,
    hardlink,
    header,
    long_name,
    other,
    pax,
    sparse,
    squashfs_of,
    symlink,
)  # fmt: skip
from tests.support.real import need
from tests.support.squash import Tree, of_directory, of_image, opened
from tests.support.stacks import SOAK, Change, Invalid, Paths, as_tar, clean, follow, join, merge, stacks

pytestmark = pytest.mark.root
OURS = {b".singularity.d", b".exec", b".run", b".shell", b".test", b"environment", b"singularity"}


class LeadsOut(Exception):
    """Umoci 0.4.7 follows some stacks of links out of its root: seen in random ones, as files in /."""


class Found(NamedTuple):
    """A tree, and which of its paths are names of one inode."""

    tree: Tree
    links: set[frozenset[bytes]]


def unpacked(blobs: Sequence[bytes], top: Path) -> Found:
    """By umoci; AssertionError where it fails, LeadsOut where an image led it out of `top`."""
    layout(blobs, top / "image")
    alone = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && mount -o remount,bind,rw "$0" && exec "$@"'
    argv = [need("umoci"), "raw", "unpack", "--image", f"{top}/image:it", top / "root"]
    done = subprocess.run(["unshare", "--mount", "sh", "-c", alone, top, *argv], capture_output=True, text=True)
    if "read-only file system" in done.stderr:
        raise LeadsOut(done.stderr)
    assert done.returncode == 0, done.stderr
    root = os.fsencode(top / "root")
    tree = of_directory(root)
    inodes: dict[int, set[bytes]] = {}
    for path in tree:
        inodes.setdefault(os.lstat(os.path.join(root, path)).st_ino, set()).add(path)
    return Found(tree, {frozenset(paths) for paths in inodes.values()})


def layout(blobs: Sequence[bytes], path: Path) -> None:
    """An OCI layout of an image `it` of these layers, plain or gzip."""
    (path / "blobs/sha256").mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layers, diff_ids = [], []
    for blob in blobs:
        packed = blob[:2] == b"\x1f\x8b"
        plain = gzip.decompress(blob) if packed else blob
        diff_ids.append(f"sha256:{hashlib.sha256(plain).hexdigest()}")
        layers.append(put(blob, "layer.v1.tar" + ("+gzip" if packed else "")))
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "config": put(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def converted(blobs: Sequence[bytes]) -> Found:
    """By us, without what each SIF has for Apptainer."""
    image = squashfs_of(convert(blobs))
    found, tree = opened(image), of_image(image)
    inodes: dict[int, set[bytes]] = {}
    for path, inode in [(b"", found.root), *found.walk()]:
        if path.split(b"/")[0] not in OURS:
            inodes.setdefault(inode.number, set()).add(path)
    return Found({path: each for path, each in tree.items() if path.split(b"/")[0] not in OURS},
                 {frozenset(paths) for paths in inodes.values()})  # fmt: skip


def compare(blobs: Sequence[bytes], top: Path) -> None:
    """The same paths, kinds, modes, owners, mtimes, links, devices, targets, content, xattrs and hard links."""
    theirs, ours = unpacked(blobs, top), converted(blobs)
    assert ours.tree == theirs.tree
    assert ours.links == theirs.links


@pytest.fixture
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="umoci-", dir="/var/tmp"))  # a filesystem with all xattrs, no tmpfs
    yield path
    shutil.rmtree(path)


# -- each rule by hand ---------------------------------------------------------------------------------------

XATTR = b"SCHILY.xattr."
CAPABILITY = b"\1\0\0\2" + b"\0\x20\0\0" + bytes(12)  # cap_net_raw=ep
ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff")
ROOT = directory(b".", mtime=1)
LOWER = [
    ROOT, directory(b"d", mode=0o2750, uid=5, mtime=2, extended={XATTR + b"user.x": b"1"}), directory(b"d/e", mtime=3),
    file(b"d/a", b"1", mtime=4), file(b"d/b", b"2", mtime=4), file(b"d/e/f", b"3", mtime=4), file(b"top", b"4"),
    symlink(b"l", b"d/e", mtime=5), symlink(b"abs", b"/d", mtime=5), symlink(b"out", b"../../..", mtime=5),
]  # fmt: skip
STACKS: dict[str, list[list[bytes]]] = {
    "every kind": [[
        ROOT, directory(b"dev", mode=0o1777, gid=7, mtime=8, extended={XATTR + b"trusted.d": b"\0\xff"}),
        other(b"dev/null", b"3", rdev=(1, 3), mode=0o666, mtime=1), other(b"dev/loop0", b"4", rdev=(7, 0), mode=0o660),
        other(b"dev/disk", b"4", rdev=(259, 70000), gid=6), other(b"dev/pipe", b"6", mode=0o622, uid=9, mtime=3),
        symlink(b"link", b"a/b/../c", uid=3, gid=4, mtime=5), symlink(b"long", b"t" * 300),
        file(b"suid", b"x", mode=0o4755, uid=1000, gid=50, mtime=6), file(b"sgid", b"", mode=0o2711, gid=8),
        hardlink(b"twin", b"suid", mode=0, uid=77, mtime=99), hardlink(b"dev/zero", b"/dev/null"),
        hardlink(b"link2", b"link"), file(b"zero", bytes(300_000)), file(b"large", bytes(range(256)) * 2000),
    ]],
    "attributes": [[
        ROOT, file(b"ping", b"x", mode=0o755, extended={XATTR + b"security.capability": CAPABILITY}),
        file(b"f", extended={XATTR + b"user.bin": bytes(range(256)), b"comment": b"x"}),
        file(b"n", extended={XATTR + "user.ünï".encode(): b"v", XATTR + b"trusted.\xff": b"1"}),
        symlink(b"l", b"f", extended={XATTR + b"trusted.l": b"1", XATTR + b"security.l": b"2"}),
        other(b"p", b"6", extended={XATTR + b"trusted.p": b"1"}),
    ]],
    "names": [[
        ROOT, directory(b"./p" + b"p" * 90, mtime=1), file(b"./p" + b"p" * 90 + b"/" + b"n" * 200, b"pax"),
        long_name(b"g" * 250) + file(b"g", b"gnu"), long_name(b"t" * 300, b"K") + symlink(b"gl", b"t"),
        header(b"name", b"0", magic=b"ustar\x0000", patches={345: b"p" * 91}), file(b"\xff\xfe caf\xe9 \n\x01"),
        file("ünï".encode()), file(b"/absolute"), file(b"./././/dots"), file(b"p" * 91 + b"/../up"), file(b" "),
        pax({b"path": b"renamed", b"mtime": b"1714979289.98765", b"uid": b"70000", b"gid": b"3000000"}) + file(b"x"),
        header(b"old", magic=b""), header(b"olddir/", b"\0", mode=0o755, magic=b""),
        header(b"big-owner", patches={108: b"\x80\0\0\0\x10\0\0\0", 136: b"\x80" + b"\0" * 7 + b"\x7f\xff\xff\xff"}),
    ]],
    "whiteouts": [LOWER, [file(b"d/.wh.a"), file(b".wh.top"), file(b"l/.wh.f"), file(b"no/.wh.x"), file(b"d/a/.wh.x")]],
    "a whiteout of a directory": [LOWER, [file(b".wh.d")], [directory(b"d", mtime=7), file(b"d/new", b"5")]],
    "a whiteout after its name": [LOWER, [file(b"d/a", b"new"), file(b"d/.wh.a"), file(b"top"), file(b".wh.top")]],
    "an opaque directory": [LOWER, [file(b"d/.wh..wh..opq"), file(b"d/new", b"5"), directory(b"d/e"), file(b"d/e/g")]],
    "opaque at the end": [LOWER, [directory(b"d", mtime=8), file(b"d/new", b"5"), file(b"d/.wh..wh..opq")]],
    "opaque before its directory": [LOWER, [file(b"d/.wh..wh..opq"), directory(b"d", mode=0o711, mtime=8)]],
    "an opaque root": [LOWER, [file(b".wh..wh..opq"), file(b"x")]],
    "an opaque link": [LOWER, [file(b"abs/.wh..wh..opq")]],
    "whiteouts spare upper layers": [LOWER, [file(b".wh.top")], [file(b"top", b"5")]],
    "directory on directory": [LOWER, [directory(b"d", mode=0o1777, gid=6, mtime=7)], [directory(b"./", mode=0o711)]],
    "file on directory": [LOWER, [file(b"d", b"x", mtime=9)]],
    "directory on file": [LOWER, [directory(b"top", mtime=9), file(b"top/x", b"y")]],
    "directory on link": [LOWER, [directory(b"l", mtime=9), file(b"l/f", b"own"), file(b"l/.wh..wh..opq")]],
    "link on directory": [LOWER, [symlink(b"d", b"top", mtime=9)]],
    "kinds on kinds": [LOWER, [other(b"d/a", b"6"), symlink(b"d/b", b"a"), other(b"top", b"3", rdev=(1, 5))]],
    "hard links to a lower layer": [LOWER, [hardlink(b"h", b"d/a"), hardlink(b"d/e/h", b"/l/f")], [file(b"d/.wh.a")]],
    "links that are parted": [LOWER, [hardlink(b"h", b"top"), hardlink(b"i", b"h")], [file(b"h", b"other")]],
    "through links": [LOWER, [file(b"l/x", b"1"), file(b"abs/y", b"2"), file(b"out/z", b"3"), directory(b"abs/e/s")]],
    "links made by the same layer": [[ROOT, directory(b"a", mtime=1), symlink(b"b", b"a"), file(b"b/c/../x", b"1")]],
    "duplicates": [[ROOT, file(b"a", b"1"), file(b"./a", b"2"), directory(b"b"), file(b"b/x"), file(b"b", b"3"),
                    directory(b"c", mode=0o700), symlink(b"c", b"x"), directory(b"c", mode=0o711, mtime=2)]],
    "a duplicate leaves a hard link": [[ROOT, file(b"a", b"1"), hardlink(b"b", b"a"), file(b"a", b"2")]],
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_each_rule(name: str, scratch: Path) -> None:
    compare([archive(*members) for members in STACKS[name]], scratch)


@pytest.mark.parametrize("version", SPARSE[1:])
def test_sparse_files(version: str, scratch: Path) -> None:
    pieces = [(index * 70_000, 700) for index in range(30)]
    stored = b"".join(bytes([65 + index]) * 700 for index in range(30))
    compare([archive(ROOT, sparse(version, pieces, stored, 3_000_000), file(b"after", b"x"))], scratch)


def test_many_gzip_members(scratch: Path) -> None:
    plain = archive(*LOWER)
    compare([b"".join(gzip.compress(plain[at : at + 700]) for at in range(0, len(plain), 700))], scratch)


# -- where they differ ---------------------------------------------------------------------------------------


class Differs(NamedTuple):
    """A stack that they read in two ways.

    `theirs` and `ours`: how the error begins, or for each path that is not the same in both its fields, {} where it is
    missing. NOW is the mtime of what was just made.
    """

    layers: list[list[bytes]]
    theirs: str | dict[bytes, dict[str, object]]
    ours: str | dict[bytes, dict[str, object]]


FIELDS = ("kind", "mode", "uid", "gid", "mtime", "names", "rdev", "target", "data", "xattrs")
NOW = object()
DIFFERENCES = {
    # No layer says when they were made. We take 1970, so that the same layers give the same bytes; umoci the clock.
    "implied parents": Differs(
        [[ROOT, directory(b"d", mtime=5), file(b"d/new/er/x", b"1")]],
        {b"d": {"mtime": NOW}, b"d/new": {"mtime": NOW}, b"d/new/er": {"mtime": NOW, "mode": 0o755}},
        {b"d": {"mtime": 5}, b"d/new": {"mtime": 0}, b"d/new/er": {"mtime": 0, "mode": 0o755}},
    ),
    # "Whiteout files MUST only apply to resources in lower/parent layers", wherever they stand: d goes, with all that
    # it had, and what the layer itself has in it stays. umoci leaves what it has touched, with the lower attributes.
    "a whiteout after what is below it": Differs(
        [LOWER, [file(b"d/new"), file(b".wh.d")]],
        {b"d": {"mode": 0o2750, "uid": 5, "mtime": NOW, "xattrs": ((b"user.x", b"1"),)}},
        {b"d": {"mode": 0o755, "uid": 0, "mtime": 0, "xattrs": ()}},
    ),
    "opaque after what is below it": Differs(
        [[*LOWER, directory(b"d/e", mode=0o700)], [file(b"d/e/new"), file(b"d/.wh..wh..opq")]],
        {b"d/e": {"mtime": NOW, "mode": 0o700}}, {b"d/e": {"mtime": 0, "mode": 0o755}},
    ),
    # The link is no parent of the whiteout but what the directory replaces; overlayfs marks it opaque.
    "a whiteout before the directory that replaces a link": Differs(
        [LOWER, [file(b"l/.wh.f"), directory(b"l")]],
        {b"d/e/f": {}}, {b"d/e/f": {"data": b"3"}},
    ),
    "a whiteout through a link of its own layer": Differs(
        [LOWER, [symlink(b"m", b"d"), file(b"m/.wh.a")]],
        {b"d/a": {}}, {b"d/a": {"data": b"1"}},
    ),
    # Nothing is there to hide.
    "a whiteout below links in circles": Differs(
        [[ROOT, symlink(b"c", b"c/c")], [file(b"c/.wh.x")]], "too many levels of symbolic links", {},
    ),
    # The old file gets a second name before the first goes; umoci removes first.
    "a hard link in place of its target's directory": Differs(
        [LOWER, [hardlink(b"d", b"d/a")]],
        "link: no such file", {b"d": {"data": b"1", "kind": REGULAR}},
    ),
    "a hard link in place of a link that leads to its target": Differs(
        [LOWER, [hardlink(b"l", b"l/f")]],
        "link: no such file", {b"l": {"data": b"3", "kind": REGULAR}},
    ),
    "a hard link to a name that a whiteout hides": Differs(
        [LOWER, [hardlink(b"h", b"top"), file(b".wh.top")]],
        {b"h": {"data": b"4"}, b"top": {}}, "hard link h to top, which is not in the image",
    ),
    "names that lead outside": Differs(
        [[ROOT, file(b"../../up", b"x")]], {b"up": {"data": b"x"}}, "member ../../up points outside the image",
    ),
    # No specification knows it. umoci takes the directory away, and then fails since it is gone.
    "a bare whiteout": Differs([LOWER, [file(b"d/.wh.")]], "restore parent", "member d/.wh. is a whiteout of nothing"),
    # What aufs kept for itself; umoci takes it for a whiteout of `.wh.aufs` and of `.wh.plnk`.
    "names of aufs": Differs([[ROOT, file(b".wh..wh.aufs"), directory(b".wh..wh.orph")]], {}, {}),
    # POSIX.1 lets an empty value delete a record, and Go's library does; to us an attribute without value is one.
    "an empty attribute": Differs(
        [[ROOT, file(b"f", extended={XATTR + b"user.empty": b""})]],
        {b"f": {"xattrs": ()}}, {b"f": {"xattrs": ((b"user.empty", b""),)}},
    ),
    # SquashFS holds user., trusted. and security. alone.
    "access control lists": Differs(
        [[ROOT, file(b"f", mode=0o640, extended={XATTR + b"system.posix_acl_access": ACL})]],
        {b"f": {"xattrs": ((b"system.posix_acl_access", ACL),)}}, {b"f": {"xattrs": ()}},
    ),
    # SquashFS counts seconds from 1970 to 2106.
    "times outside": Differs(
        [[ROOT, file(b"old", extended={b"mtime": b"-5"}), file(b"new", extended={b"mtime": b"5000000000"})]],
        {b"old": {"mtime": -5}, b"new": {"mtime": 5_000_000_000}}, {b"old": {"mtime": 0}, b"new": {"mtime": 2**32 - 1}},
    ),
    "an old sparse file": Differs(
        [[ROOT, sparse("old", [(0, 3)], b"abc", 6)]], "unknown typeflag", {b"s": {"data": b"abc\0\0\0"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences(name: str, scratch: Path) -> None:
    """Each is there, and is the only one."""
    layers, *expected = DIFFERENCES[name]
    blobs = [archive(*members) for members in layers]
    begin = int(time.time())
    trees: list[Tree] = []
    for read, wanted in zip((lambda: unpacked(blobs, scratch), lambda: converted(blobs)), expected, strict=True):
        if isinstance(wanted, str):
            with pytest.raises((AssertionError, InvalidImage), match=wanted):
                read()
            continue
        tree = read().tree
        trees.append(tree)
        for path, fields in wanted.items():
            found = dict(zip(FIELDS, tree.pop(path), strict=True)) if fields else tree.get(path, {})
            if fields.get("mtime") is NOW:
                fields = {**fields, "mtime": found["mtime"]}
                assert begin <= found["mtime"] <= time.time()
            assert {field: found[field] for field in fields} == fields and (fields or not found), path
            tree.pop(path, None)
    assert len(trees) < 2 or trees[0] == trees[1]


# -- at random -----------------------------------------------------------------------------------------------


def orderly(stack: list[list[Change]]) -> list[list[Change]]:
    """The stack without what umoci is known to read in another way: see DIFFERENCES."""
    good: list[list[Change]] = []
    for changes in stack:
        lower = merge(good)
        good.append([] if good else [Change(b"./", "directory", 0o755, mtime=9)])
        for change in sorted(changes, key=lambda each: not each.is_whiteout):
            before, path = merge(good), real(lower, change.name)
            replaces_a_link = change.kind == "directory" and path in lower and lower[path].kind == "symlink"
            if replaces_a_link and any(each.is_whiteout for each in good[-1]):
                continue
            if change.kind == "hardlink" and hides_its_target(before, change):
                continue
            try:
                after = merge([*good[:-1], [*good[-1], change]])
            except Invalid:
                continue
            implied = [Change(path, "directory", 0o755, mtime=9) for path in after if after[path].attributes[3] == 0]
            good[-1] += [*implied, change]
    return good


def hides_its_target(tree: Paths, link: Change) -> bool:
    """Whether the target cannot be reached any more once what stands under the link's name is gone."""
    path = real(tree, link.name)
    if path is None:
        return False
    rest = {name: node for name, node in tree.items() if name != path and not name.startswith(path + b"/")}
    return real(rest, link.target) not in rest


def real(tree: Paths, name: bytes) -> bytes | None:
    """Where `name` lies, links above it followed."""
    directory, _, last = clean(name).rpartition(b"/")
    found = follow(tree, directory, make=False)
    return None if found is None else join(found, last)


@settings(max_examples=2000 if SOAK else 250, deadline=None, suppress_health_check=list(HealthCheck))
@given(stacks.map(orderly))
def test_random_stacks(stack: list[list[Change]]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        try:
            compare([as_tar(changes) for changes in stack], Path(scratch))
        except AssertionError as error:
            # It refuses a whiteout below links in circles, which to us hides nothing.
            if "too many levels of symbolic links" not in str(error):
                raise
            reject()
        except LeadsOut:
            reject()
