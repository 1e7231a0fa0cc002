"""A SquashFS image with another tree over the same data blocks: files are added and left out, none is compressed anew.

```
before   head | data                      | tables
after    head | data | new fragment blocks | tables
```
"""

from collections.abc import Callable

from hpcc.errors import InvalidImage
from hpcc.fstree import DIRECTORY, REGULAR, Node
from hpcc.records import NamedTuple
from hpcc.squashfs.fragment import Fragment
from hpcc.squashfs.inode import NO_FRAGMENT, STORED, Inode, Placement
from hpcc.squashfs.reader import SquashFS
from hpcc.squashfs.writer import encode_tables


class Amended(NamedTuple):
    """head at 0, in place of the old image's; its bytes from there to data_end as they are; tail at data_end."""

    head: bytes
    data_end: int
    tail: bytes


def read_tree(image: SquashFS) -> Node:
    """All of the image, files with their Placement as `data`; a file of several names is one node. InvalidImage."""
    root = _node(image, image.root)
    directories = {b"": root}
    linked: dict[int, Node] = {}
    for path, inode in image.walk():
        above, _, name = path.rpartition(b"/")
        node = linked.get(inode.number) or _node(image, inode)
        if inode.kind == DIRECTORY:
            directories[path] = node
        elif inode.nlink > 1:
            linked[inode.number] = node
        children = directories[above].children
        assert children is not None
        children[name] = node
    return root


def _node(image: SquashFS, inode: Inode) -> Node:
    return Node(
        inode.kind,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.mtime,
        xattrs=inode.xattrs,
        target=inode.target,
        rdev=inode.rdev,
        data=image.placement(inode) if inode.kind == REGULAR else None,
    )


def amend(image: SquashFS, root: Node, compress: Callable[[bytes], bytes]) -> Amended:
    """What makes `image` an image of the tree `root`, as `read_tree` gave it and then was changed.

    `data` of a new file is its bytes, fewer than a block. `compress` is of the image's own format. Changes `root`.
    """
    head = image.superblock
    fragments, tail = list(image.fragments()), bytearray()
    for node in {id(node): node for _, node in root.walk()}.values():
        if node.kind != REGULAR or isinstance(node.data, Placement):
            continue
        data: bytes = node.data
        if len(data) >= head.block_size:
            raise InvalidImage(f"{len(data)} bytes are too many for a file that is added to an image")
        if not data:
            node.data = Placement(0)
            continue
        node.data = Placement(len(data), fragment=len(fragments), offset=0)
        packed = compress(data)
        word, packed = (len(packed), packed) if len(packed) < len(data) else (len(data) | STORED, data)
        fragments.append(Fragment(head.inode_table + len(tail), word))
        tail += packed
    assert len(fragments) < NO_FRAGMENT
    tables = encode_tables(
        root,
        fragments,
        data_end=head.inode_table + len(tail),
        compressor=head.compressor,
        compress=compress,
        block_size=head.block_size,
        mtime=head.mtime,
    )
    return Amended(tables.head, head.inode_table, bytes(tail) + tables.tables)
