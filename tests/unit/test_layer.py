"""What members mean and how layers merge: each rule by hand. All together, against a naive merge: test_merge.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc import fstree
from hpcc.errors import InvalidImage
from hpcc.fstree import Node
from hpcc.oci import layer, tar
from hpcc.oci.layer import Entry
from tests.support.layers import directory, entries, file, hardlink, other, pax, symlink

XATTR = b"SCHILY.xattr."


def merged(*layers: list[Entry]) -> Node:
    return layer.merge(layers)


def names(root: Node) -> list[bytes]:
    return [path for path, _ in root.walk()][1:]


def at(root: Node, path: bytes) -> Node:
    return dict(root.walk())[path]


def content(root: Node, path: bytes) -> object:
    return at(root, path).data


# -- one layer -----------------------------------------------------------------------------------------------


def test_every_kind_and_attribute() -> None:
    root = merged(
        entries(
            directory(b"./d", mode=0o2750, uid=1, gid=2, mtime=3, extended={XATTR + b"user.d": b"x"}),
            file(b"./d/suid", b"data", mode=0o4755, uid=4, gid=5, mtime=6,
                 extended={XATTR + b"security.capability": b"\1\0\0\2" + bytes(16), XATTR + b"user.a": b""}),
            symlink(b"./d/link", b"../elsewhere", uid=7),
            other(b"dev/null", b"3", rdev=(1, 3), mode=0o666),
            other(b"dev/sda", b"4", rdev=(8, 0), mode=0o660, gid=6),
            other(b"dev/pipe", b"6", mode=0o600),
            hardlink(b"again", b"./d/suid"),
        )
    )  # fmt: skip
    assert names(root) == [b"again", b"d", b"d/link", b"d/suid", b"dev", b"dev/null", b"dev/pipe", b"dev/sda"]
    suid = at(root, b"d/suid")
    assert (suid.kind, suid.mode, suid.uid, suid.gid, suid.mtime, suid.data) == (
        fstree.REGULAR,
        0o4755,
        4,
        5,
        6,
        b"data",
    )
    assert suid.xattrs == ((b"security.capability", b"\1\0\0\2" + bytes(16)), (b"user.a", b""))
    assert at(root, b"again") is suid
    made = at(root, b"d")
    assert (made.kind, made.mode, made.uid, made.gid, made.mtime) == (fstree.DIRECTORY, 0o2750, 1, 2, 3)
    assert made.xattrs == ((b"user.d", b"x"),)
    link = at(root, b"d/link")
    assert (link.kind, link.mode, link.target, link.uid) == (fstree.SYMLINK, 0o777, b"../elsewhere", 7)
    assert (at(root, b"dev/null").kind, at(root, b"dev/null").rdev) == (fstree.CHAR, (1, 3))
    assert (at(root, b"dev/sda").kind, at(root, b"dev/sda").rdev) == (fstree.BLOCK, (8, 0))
    assert at(root, b"dev/pipe").kind == fstree.FIFO
    parent = at(root, b"dev")
    assert (parent.mode, parent.uid, parent.gid, parent.mtime) == (0o755, 0, 0, 0)


def test_the_root_has_attributes() -> None:
    root = merged(entries(directory(b".", mode=0o700, uid=3, mtime=9)))
    assert (root.mode, root.uid, root.mtime) == (0o700, 3, 9)
    assert layer.merge([]).mode == 0o755
    with pytest.raises(InvalidImage, match="root"):
        merged(entries(file(b"./", b"x")))


def test_names_that_are_not_utf_8() -> None:
    name = b"\xff\xfe caf\xe9 \n\x01"
    assert names(merged(entries(file(name, b"x"), file(b"x" * 255)))) == [b"x" * 255, name]


def test_duplicates_the_last_wins() -> None:
    root = merged(
        entries(
            file(b"a", b"1"),
            file(b"./a", b"2"),
            directory(b"b"),
            file(b"b/x"),
            file(b"b", b"3"),
            symlink(b"c", b"x"),
            directory(b"c"),
        )
    )
    assert names(root) == [b"a", b"b", b"c"]
    assert (content(root, b"a"), content(root, b"b"), at(root, b"c").kind) == (b"2", b"3", fstree.DIRECTORY)


def test_a_duplicate_leaves_hard_links_to_the_first() -> None:
    root = merged(entries(file(b"a", b"1"), hardlink(b"b", b"a"), file(b"a", b"2")))
    assert (content(root, b"a"), content(root, b"b")) == (b"2", b"1")


@pytest.mark.parametrize("name", [b"/etc/x", b"//etc///x", b"./etc/./x", b"a/../etc/x", b"/./etc/x/"])
def test_absolute_and_odd_names_stay_inside(name: bytes) -> None:
    assert names(merged(entries(file(name, b"x")))) == [b"etc", b"etc/x"]


@pytest.mark.parametrize("name", [b"..", b"../x", b"/../x", b"a/../../x", b"./..", b"../.wh.x"])
def test_outside(name: bytes) -> None:
    with pytest.raises(InvalidImage, match="outside"):
        entries(file(name, b"x"))
    with pytest.raises(InvalidImage, match="outside"):
        entries(hardlink(b"h", name))


@pytest.mark.parametrize("name", [b"x" * 256, b"d/" * 600 + b"x", b"/".join([b"y" * 200] * 30), b"a\0b"])
def test_impossible_names(name: bytes) -> None:
    with pytest.raises(InvalidImage):
        entries(pax({b"path": name}) + file(b"short"))
    with pytest.raises(InvalidImage):
        entries(pax({b"linkpath": name}) + hardlink(b"short", b"x"))


@pytest.mark.parametrize("target", [b"", b"x" * 4096])
def test_impossible_link_targets(target: bytes) -> None:
    with pytest.raises(InvalidImage, match="target"):
        entries(symlink(b"l", target))


def test_xattrs_of_overlays_and_unknown_prefixes_are_dropped() -> None:
    names = [b"trusted.overlay.opaque", b"user.overlay.x", b"system.posix_acl_access", b"foo", b"trusted.x", b"user.b"]
    item = entries(file(b"f", extended={XATTR + name: b"y" for name in names}))[0]
    assert item.xattrs == ((b"trusted.x", b"y"), (b"user.b", b"y"))


def test_a_file_with_members_below_it() -> None:
    with pytest.raises(InvalidImage, match="no directory"):
        merged(entries(file(b"a"), file(b"a/b")))
    with pytest.raises(InvalidImage, match="no directory"):
        merged(entries(file(b"a")), entries(file(b"a/b/c")))


# -- paths through symbolic links ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"usr/lib", b"usr/lib/x"), (b"/usr/lib", b"usr/lib/x"), (b"./usr/../usr/lib/", b"usr/lib/x"),
        (b"../../..", b"x"), (b"/", b"x"), (b"other", b"usr/x"), (b"/../../usr", b"usr/x"),
        (b"new/deep", b"new/deep/x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("together", [True, False])
def test_parents_that_are_links(target: bytes, path: bytes, together: bool) -> None:
    lower = entries(directory(b"usr/lib"), symlink(b"other", b"usr"), symlink(b"lib", target))
    upper = entries(file(b"lib/x", b"1"))
    root = merged(lower + upper) if together else merged(lower, upper)
    assert content(root, path) == b"1"
    assert at(root, b"lib").kind == fstree.SYMLINK


def test_a_link_upwards_from_deep_below() -> None:
    lower = entries(directory(b"a/b/c"), symlink(b"a/b/c/up", b"../d"), symlink(b"a/b/far", b"./../../x"))
    root = merged(lower, entries(file(b"a/b/c/up/f", b"1"), file(b"a/b/far/f", b"2")))
    assert (content(root, b"a/b/d/f"), content(root, b"x/f")) == (b"1", b"2")


def test_links_in_circles() -> None:
    lower = entries(symlink(b"a", b"b"), symlink(b"b", b"a"), symlink(b"self", b"self/x"))
    for name in (b"a/x", b"self/x"):
        with pytest.raises(InvalidImage):
            merged(lower, entries(file(name)))
        assert names(merged(lower, entries(file(b".wh." + name.replace(b"/", b"_")), file(name[:-1] + b".wh.x")))) == [
            b"a", b"b", b"self",
        ]  # fmt: skip


def test_long_chains_of_links_cost_little() -> None:
    """40 links, each with the longest target that a link can have: 80,000 steps for a member, but for a limit."""
    detours = [symlink(b"l%d" % index, b"./" * 2045 + b"l%d" % (index + 1)) for index in range(39)]
    lower = entries(*detours, directory(b"l39"), symlink(b"near", b"./" * 500 + b"l39"))
    with pytest.raises(InvalidImage, match="l0 has members below it but is no directory"):
        merged(lower, entries(file(b"l0/x")))
    assert content(merged(lower, entries(file(b"near/x", b"1"))), b"l39/x") == b"1"


def test_depth_has_a_limit_also_by_links() -> None:
    deep = b"/".join([b"d"] * 500)
    lower = entries(directory(deep), symlink(b"l", deep), symlink(b"d/m", deep[2:]))
    assert merged(lower, entries(file(b"l/e/e/e/x"))) is not None
    with pytest.raises(InvalidImage, match="deep"):
        merged(lower, entries(file(b"l/" + b"e/" * 20 + b"x")))


def test_whiteouts_go_through_links_of_lower_layers() -> None:
    lower = entries(file(b"real/x"), file(b"real/y"), symlink(b"link", b"real"))
    assert names(merged(lower, entries(file(b"link/.wh.x")))) == [b"link", b"real", b"real/y"]
    assert names(merged(lower, entries(file(b"link/.wh..wh..opq")))) == [b"link", b"real"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_a_directory_that_replaces_a_link_hides_nothing_behind_it(order: tuple[int, ...]) -> None:
    """overlayfs marks such a directory opaque, since something stood there."""
    lower = entries(file(b"real/x"), symlink(b"link", b"real"), symlink(b"real/again", b"../real"))
    parts = [directory(b"link"), file(b"link/.wh..wh..opq"), file(b"link/.wh.x")]
    root = merged(lower, entries(*[parts[index] for index in order]))
    assert names(root) == [b"link", b"real", b"real/again", b"real/x"]
    assert at(root, b"link").kind == fstree.DIRECTORY


# -- whiteouts -----------------------------------------------------------------------------------------------

LOWER = [
    directory(b"d", mode=0o700, uid=5),
    file(b"d/a", b"1"),
    file(b"d/b", b"2"),
    file(b"d/e/f", b"3"),
    file(b"top", b"4"),
]


def test_a_whiteout_hides_one_name() -> None:
    assert names(merged(entries(*LOWER), entries(file(b"d/.wh.a")))) == [b"d", b"d/b", b"d/e", b"d/e/f", b"top"]
    assert names(merged(entries(*LOWER), entries(file(b".wh.d")))) == [b"top"]
    assert names(merged(entries(*LOWER), entries(file(b"/./.wh.d/"), file(b"no/where/.wh.x"), file(b"top/.wh.x")))) == [
        b"top"
    ]


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_spare_their_own_layer(first: bool) -> None:
    hidden, new = file(b"d/.wh.a"), file(b"d/a", b"new")
    root = merged(entries(*LOWER), entries(*([hidden, new] if first else [new, hidden])))
    assert content(root, b"d/a") == b"new"
    hidden, new = file(b".wh.d"), file(b"d/new", b"new")
    root = merged(entries(*LOWER), entries(*([hidden, new] if first else [new, hidden])))
    assert names(root) == [b"d", b"d/new", b"top"]
    assert (at(root, b"d").mode, at(root, b"d").uid) == (0o755, 0)


@pytest.mark.parametrize("first", [True, False])
def test_opaque_directories(first: bool) -> None:
    opaque, new = file(b"d/.wh..wh..opq"), file(b"d/e/new", b"new")
    root = merged(entries(*LOWER), entries(*([opaque, new] if first else [new, opaque])))
    assert names(root) == [b"d", b"d/e", b"d/e/new", b"top"]
    assert (at(root, b"d").mode, at(root, b"d").uid) == (0o700, 5)  # hidden is what it has, not itself


def test_an_opaque_root() -> None:
    assert names(merged(entries(*LOWER), entries(file(b".wh..wh..opq"), file(b"x")))) == [b"x"]


def test_whiteouts_reach_no_upper_layer() -> None:
    assert content(merged(entries(*LOWER), entries(file(b".wh.top")), entries(file(b"top", b"5"))), b"top") == b"5"


@pytest.mark.parametrize("name", [b".wh.", b"d/.wh.", b".wh./", b".wh..", b"d/.wh..."])
def test_whiteouts_of_nothing(name: bytes) -> None:
    with pytest.raises(InvalidImage, match="whiteout"):
        entries(file(name))


def test_bookkeeping_of_aufs_is_dropped() -> None:
    assert names(merged(entries(*LOWER), entries(directory(b".wh..wh.plnk"), file(b".wh..wh.aufs"), file(b"x")))) == [
        b"d", b"d/a", b"d/b", b"d/e", b"d/e/f", b"top", b"x",
    ]  # fmt: skip


# -- a layer on another --------------------------------------------------------------------------------------


def test_a_directory_on_a_directory_replaces_attributes() -> None:
    root = merged(
        entries(directory(b"d", mode=0o700, uid=5, extended={XATTR + b"user.x": b"1"}), file(b"d/a", b"1")),
        entries(directory(b"d", mode=0o1777, gid=6, mtime=7)),
    )
    made = at(root, b"d")
    assert (made.mode, made.uid, made.gid, made.mtime, made.xattrs) == (0o1777, 0, 6, 7, ())
    assert content(root, b"d/a") == b"1"


def test_anything_else_replaces() -> None:
    lower = entries(*LOWER, symlink(b"l", b"d"))
    assert names(merged(lower, entries(file(b"d", b"x")))) == [b"d", b"l", b"top"]
    assert names(merged(lower, entries(symlink(b"d", b"top")))) == [b"d", b"l", b"top"]
    root = merged(lower, entries(directory(b"top"), file(b"top/x", b"y"), directory(b"l"), file(b"l/a", b"own")))
    assert (content(root, b"top/x"), content(root, b"l/a"), content(root, b"d/a")) == (b"y", b"own", b"1")


def test_hard_links_to_lower_layers() -> None:
    root = merged(entries(*LOWER), entries(hardlink(b"new", b"d/a"), hardlink(b"abs", b"/d/b", mode=0, uid=9)))
    assert at(root, b"new") is at(root, b"d/a")
    assert at(root, b"abs") is at(root, b"d/b") and at(root, b"abs").uid == 0
    root = merged(entries(*LOWER), entries(hardlink(b"new", b"d/a")), entries(file(b"d/.wh.a"), file(b"top", b"9")))
    assert content(root, b"new") == b"1"


def test_hard_links_through_links_and_to_links() -> None:
    lower = entries(*LOWER, symlink(b"l", b"d"))
    root = merged(lower, entries(hardlink(b"x", b"l/a"), hardlink(b"l/y", b"l")))
    assert at(root, b"x") is at(root, b"d/a")
    assert at(root, b"d/y") is at(root, b"l")


@pytest.mark.parametrize("target", [b"missing", b"d", b"d/missing", b"top/x", b"/", b"later"])
def test_hard_links_to_nothing(target: bytes) -> None:
    with pytest.raises(InvalidImage, match="hard link"):
        merged(entries(*LOWER), entries(hardlink(b"h", target), file(b"later")))


def test_merge_changes_no_entries() -> None:
    lower, upper = entries(*LOWER), entries(file(b"d/.wh.a"), directory(b"d", mode=0o711))
    before = [*lower], [*upper]
    assert names(merged(lower, upper)) == names(merged(lower, upper))
    assert (lower, upper) == before


# -- anything at all -----------------------------------------------------------------------------------------

names_of_any_kind = st.lists(
    st.sampled_from([b"", b".", b"..", b"a", b"l", b".wh.a", b".wh.", b".wh..wh..opq", b".wh..wh.x", b"\xff"]),
    max_size=5,
).map(b"/".join)
targets = st.lists(st.sampled_from([b"", b".", b"..", b"a", b"l", b"m"]), min_size=1, max_size=4).map(b"/".join)


@settings(max_examples=800, deadline=None)
@given(
    st.lists(st.lists(st.tuples(names_of_any_kind, st.sampled_from(list(b"0125")), targets), max_size=6), max_size=3)
)
def test_links_anywhere_raise_nothing_else_and_stay_inside(layers: list[list[tuple[bytes, int, bytes]]]) -> None:
    try:
        changes = []
        for members in layers:
            found = [
                layer.entry(tar.Member(name, bytes([kind]), 0o644, 0, 0, 0, 0, target, (0, 0), {}))
                for name, kind, target in members
            ]
            changes.append([item for item in found if item is not None])
        root = layer.merge(changes)
    except InvalidImage:
        return
    for path, node in root.walk():
        assert b".." not in path.split(b"/") and not path.startswith(b"/")
        assert (node.children is not None) == (node.kind == fstree.DIRECTORY)
