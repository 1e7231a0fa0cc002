"""Thousands of random stacks of layers: layer.merge against a merge that is too simple to be wrong."""

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from hpcc import fstree
from hpcc.errors import InvalidImage
from hpcc.oci import layer, tar
from tests.support.layers import read_tar
from tests.support.stacks import SOAK, Change, Invalid, as_tar, merge, stacks, valid_stacks

KINDS = {
    "directory": fstree.DIRECTORY, "file": fstree.REGULAR, "symlink": fstree.SYMLINK, "block": fstree.BLOCK,
    "char": fstree.CHAR, "fifo": fstree.FIFO,
}  # fmt: skip


def read(changes: list[Change]) -> list[layer.Entry]:
    found = [(layer.entry(member), member, data) for member, data in read_tar(as_tar(changes))]
    return [
        item._replace(data=data) if member.type == tar.REGULAR else item
        for item, member, data in found
        if item is not None
    ]


@settings(max_examples=50_000 if SOAK else 1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(stacks, valid_stacks, valid_stacks))
def test_a_naive_merge_agrees(stack: list[list[Change]]) -> None:
    try:
        expected = merge(stack)
    except Invalid as error:
        expected, why = None, error
    try:
        found = dict(layer.merge(read(changes) for changes in stack).walk())
    except InvalidImage as error:
        assert expected is None, f"refused: {error}"
        event("refused")
        return
    assert expected is not None, f"taken, though {why}"
    event("merged")
    assert {
        path: (node.kind, (node.mode, node.uid, node.gid, node.mtime, node.xattrs), node.target, node.rdev, node.data)
        for path, node in found.items()
    } == {
        path: (KINDS[i.kind], i.attributes, i.target, i.rdev, i.data if i.kind == "file" else None)
        for path, i in expected.items()
    }
    for one in expected:
        for two in expected:
            assert (found[one] is found[two]) == (expected[one] is expected[two]), (one, two)
