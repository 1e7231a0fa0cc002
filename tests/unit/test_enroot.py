"""URIs and files of enroot's, and trees of SquashFS images that are written again."""

import os
import subprocess
from pathlib import Path

import pytest

from hpcc.errors import InvalidReference, Unknown
from hpcc.fstree import DIRECTORY, REGULAR, SYMLINK, Node
from hpcc.local import open_local
from hpcc.runtime.environment import RunConfig
from hpcc.squashfs.amend import amend, read_tree
from hpcc.squashfs.reader import SquashFS, open_squashfs
from hpcc_slurm.enroot import enroot_files, parse_uri, write_enroot_image
from tests.support.images import images
from tests.support.real import need

HEX = "0" * 64


@pytest.mark.parametrize(
    ("text", "image", "user"),
    [
        ("docker://ubuntu:24.04", "docker://ubuntu:24.04", ""),
        ("ubuntu", "docker://ubuntu", ""),
        ("docker://nvcr.io#nvidia/cuda:12.4", "docker://nvcr.io/nvidia/cuda:12.4", ""),
        ("docker://$oauthtoken@nvcr.io#nvidia/cuda", "docker://nvcr.io/nvidia/cuda", "$oauthtoken"),
        ("docker://a@b@host:5000#x/y:1", "docker://host:5000/x/y:1", "a@b"),
        ("docker://me@lab/tool", "docker://lab/tool", "me"),
        ("docker://nvcr.io/nvidia/cuda:12.4", "docker://nvcr.io/nvidia/cuda:12.4", ""),
        (f"docker://ubuntu@sha256:{HEX}", f"docker://ubuntu@sha256:{HEX}", ""),
        (f"docker://me@lab/tool@sha256:{HEX}", f"docker://lab/tool@sha256:{HEX}", "me"),
        (f"docker://me@host#lab/tool:1@sha256:{HEX}", f"docker://host/lab/tool:1@sha256:{HEX}", "me"),
    ],
)
def test_uris(text: str, image: str, user: str) -> None:
    assert parse_uri(text) == (image, user)


def test_uris_that_name_nothing() -> None:
    for text in ("docker://#x", "docker://me@#x", "docker://host#"):
        with pytest.raises(InvalidReference):
            parse_uri(text)
    with pytest.raises(Unknown, match="dockerd://"):
        parse_uri("dockerd://ubuntu")


def run_script(files: dict[bytes, tuple[str, int]], tmp_path: Path, *words: str, local: str = "") -> str:
    """What /etc/rc prints, with /etc/rc.local as pyxis leaves it."""
    (tmp_path / "rc.local").write_text(local or files[b"rc.local"][0])
    script = files[b"rc"][0].replace("/etc/rc.local", str(tmp_path / "rc.local"))
    (tmp_path / "rc").write_text(script)
    return subprocess.run(["sh", tmp_path / "rc", *words], capture_output=True, text=True, check=True).stdout


def test_the_script_runs_entrypoint_and_command(tmp_path: Path) -> None:
    odd = 'it\'s $HOME `x`; "y"'
    files = enroot_files(RunConfig((), ("printf", "[%s]"), (odd, "b c"), directory=str(tmp_path)))
    assert run_script(files, tmp_path) == f"[{odd}][b c]"
    assert run_script(files, tmp_path, "one", "two 2") == "[one][two 2]"
    assert run_script(files, tmp_path, "echo", "a  b", local='exec "$@"\n') == "a  b\n"  # pyxis: no ENTRYPOINT
    bare = enroot_files(RunConfig(directory=str(tmp_path / "made here")))
    assert run_script(bare, tmp_path, "pwd") == f"{tmp_path}/made here\n"
    assert run_script(bare, tmp_path) == ""  # /bin/sh, at the end of stdin
    said = enroot_files(RunConfig(("A=1", "B=x y=z", "C=two\nlines", "=no", "D")))[b"environment"][0]
    assert said == "A=1\nB=x y=z\n"


def squashfs_of(path: Path) -> tuple[SquashFS, bytes]:
    data = path.read_bytes()
    return open_squashfs(lambda offset, size: data[offset : offset + size], len(data)), data


def listing(image: SquashFS) -> list[tuple[object, ...]]:
    return [
        (path, i.kind, i.mode, i.uid, i.gid, i.mtime, i.nlink if i.kind != DIRECTORY else 0, i.target, i.xattrs)
        + ((b"".join(image.read(i)),) if i.kind == REGULAR else ())
        for path, i in image.walk()
    ]


@pytest.mark.parametrize("compression", ["gzip", "zstd", "lz4", "xz"])
def test_the_same_tree_again(compression: str, tmp_path: Path) -> None:
    """Hard links, xattrs, sparse and large files, as mksquashfs makes them."""
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d/large").write_bytes(os.urandom(300_000) + bytes(200_000) + b"end")
    (top / "d/small").write_text("small")
    (top / "d/empty").write_text("")
    os.link(top / "d/small", top / "again")
    (top / "link").symlink_to("d/small")
    argv = [need("mksquashfs"), top, tmp_path / "a.sqfs", "-comp", compression, "-no-progress", "-quiet"]
    subprocess.run(argv, check=True)
    image, data = squashfs_of(tmp_path / "a.sqfs")
    root = read_tree(image)
    assert root.children is not None
    root.children[b"new"] = Node(REGULAR, 0o755, 3, 4, 5, data=b"new " * 500)
    root.children[b"void"] = Node(REGULAR, 0o600, data=b"")
    root.children[b"to"] = Node(SYMLINK, 0o777, target=b"new")
    del root.children[b"link"]
    from hpcc.compressors import make_compressor

    amended = amend(image, root, make_compressor(compression).compress)
    again = amended.head + data[len(amended.head) : amended.data_end] + amended.tail
    (tmp_path / "b.sqfs").write_bytes(again)
    then, _ = squashfs_of(tmp_path / "b.sqfs")
    old = {row[0]: row for row in listing(image)}
    new = {row[0]: row for row in listing(then)}
    assert new.pop(b"new")[-1] == b"new " * 500 and new.pop(b"void")[-1] == b"" and new.pop(b"to")[7] == b"new"
    del old[b"link"]
    assert new == old
    done = subprocess.run(
        [need("unsquashfs"), "-no-progress", "-d", tmp_path / "out", tmp_path / "b.sqfs"], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/d/large").read_bytes() == (top / "d/large").read_bytes()
    assert os.path.samefile(tmp_path / "out/again", tmp_path / "out/d/small")
    assert (tmp_path / "out/new").read_bytes() == b"new " * 500


def test_an_image_of_enroots(tmp_path: Path) -> None:
    """The image's own files are there, enroot's in place of its, and nothing goes through a link of the image's."""
    image = open_local(str(images().main))
    write_enroot_image(image, str(tmp_path / "x.sqsh"))
    new, _ = squashfs_of(tmp_path / "x.sqsh")
    found = {path: inode for path, inode in new.walk()}
    assert b"".join(new.read(found[b"etc/environment"])).decode().startswith("PATH=/opt/first:")
    assert b"printf" not in b"".join(new.read(found[b"etc/rc"])) and b"/usr/local/bin/words" in b"".join(
        new.read(found[b"etc/rc"])
    )
    assert found[b"etc/rc"].mode == 0o755 and found[b"etc/fstab"].size == 0
    assert found[b"own"].kind == DIRECTORY and found[b"usr/bin/setuid-id"].mode == 0o4755
    plain = tmp_path / "first.sqfs"
    plain.write_bytes(Path(image.path).read_bytes()[image.rootfs.offset : image.rootfs.offset + image.rootfs.size])
    old, _ = squashfs_of(plain)
    skipped = (b"etc/rc", b"etc/rc.local", b"etc/environment", b"etc/fstab", b"etc")
    assert [r for r in listing(new) if r[0] not in skipped] == [r for r in listing(old) if r[0] not in skipped]
