"""What --bind, --mount and --overlay say of images, what lies in a file, and the plan that comes of it."""

import os
import struct
from pathlib import Path

import pytest

from hpcc.errors import InvalidImage, LockTimeout, RuntimeUnavailable, UnsupportedImage, UsageError
from hpcc.runtime import images, plan
from hpcc.runtime.binds import Bind, Overlay, parse_bind, parse_mount, parse_overlay, split_binds
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.images import find_bound, find_overlays, lock, open_images
from hpcc.runtime.plan import BindMount, MountImage, Upper, plan_container
from hpcc.runtime.spec import Caller, Options, container_spec
from hpcc.settings import Settings


def ext(path: Path, blocks: int = 64, *, state: int = 1, features: int = 0x2) -> Path:
    """A file with an ext superblock that says so; nothing else is in it."""
    data = bytearray(blocks << 10)
    struct.pack_into("<I", data, 1024 + 4, blocks)
    struct.pack_into("<HH", data, 1024 + 56, 0xEF53, state)
    struct.pack_into("<I", data, 1024 + 96, features)
    path.write_bytes(data)
    return path


def squashfs(path: Path, used: int = 4096) -> Path:
    path.write_bytes((b"hsqs" + bytes(36) + struct.pack("<Q", used)).ljust(4096, b"\0"))
    return path


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", ["a", "b"]),
        ("a:/b:ro,c", ["a:/b:ro", "c"]),
        ("a:/b:ro,id=1,image-src=/x,c:/d:image-src=/", ["a:/b:ro,id=1,image-src=/x", "c:/d:image-src=/"]),
        ("a,ro", ["a", "ro"]),
        ("a:/b,ro", ["a:/b", "ro"]),
        ("a:/b:id=1,id=c", ["a:/b:id=1,id=c"]),
        ("a\\:b,ro", ["a\\:b", "ro"]),
        ("a:/b:image-src=/x\\,y,ro", ["a:/b:image-src=/x\\,y,ro"]),
    ],
)
def test_split(text: str, expected: list[str]) -> None:
    assert split_binds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s.img:/x:image-src=/", Bind("/", "/x", image="/w/s.img")),
        ("/s.img:/x/../y:image-src=a//b/,ro", Bind("/a/b", "/y", True, image="/s.img")),
        ("s.img:/x:ro,id=7", Bind("/", "/x", True, image="/w/s.img", id=7)),
        ("s\\:1.img:/x:id=7,image-src=/a\\,b\\:c,rw", Bind("/a,b:c", "/x", image="/w/s:1.img", id=7)),
        ("s.img:/x:image-src=/../../etc", Bind("/etc", "/x", image="/w/s.img")),
        ("/d:/x:ro", Bind("/d", "/x", True)),
    ],
)
def test_bind(text: str, expected: Bind) -> None:
    assert parse_bind(text, "/w") == expected


@pytest.mark.parametrize(
    "text",
    ["s.img::image-src=/", "s.img:x:image-src=/", "s.img:/x:id=", "s.img:/x:id=-1", "s.img:/x:id=x", "s:/x:bogus",
     "s:/x:ro,rw", "s:/x:id=1,id=2", "s:/x:id=99999999999", "s:/x:ro=1", ":/x:id=1", "s:/x:id=1:ro", "s:/x:"],
)  # fmt: skip
def test_binds_that_do_not_parse(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bind(text, "/w")
    assert caught.value.hint and "--bind" in caught.value.message


def test_mount() -> None:
    bound = Bind("/a,b", "/x", True, image="/w/s.img", id=3)
    assert parse_mount('source=s.img,dst=/x,id=3,ro,"image-src=/a,b"', "/w") == bound
    assert parse_mount("src=/s,dst=/x", "/w") == Bind("/s", "/x")
    for text in ("image-src=/,dst=/x", "source=s,dst=/x,id=one", "source=s,dst=/x,image-src"):
        with pytest.raises(UsageError):
            parse_mount(text, "/w")


def test_overlay() -> None:
    assert parse_overlay("o.img", "/w") == Overlay("/w/o.img", False)
    assert parse_overlay("/a:b/o.img:ro", "/w") == Overlay("/a:b/o.img", True)
    assert parse_overlay("o:rw", "/w") == Overlay("/w/o", False) and parse_overlay("o:x", "/w").path == "/w/o:x"


# -- files -------------------------------------------------------------------------------------------------------------


def test_kinds(tmp_path: Path) -> None:
    ext(tmp_path / "e"), squashfs(tmp_path / "s"), (tmp_path / "d").mkdir()
    found, warnings = find_overlays(["e:ro", "s", "d"], str(tmp_path))
    assert found == (
        Overlay(f"{tmp_path}/e", True, "ext"), Overlay(f"{tmp_path}/s", True, "squashfs"),
        Overlay(f"{tmp_path}/d", False),
    )  # fmt: skip
    assert len(warnings) == 1 and "--overlay s" in warnings[0]
    assert find_overlays(["e", "s:ro"], str(tmp_path)) == (
        (Overlay(f"{tmp_path}/e", False, "ext"), Overlay(f"{tmp_path}/s", True, "squashfs")), []
    )  # fmt: skip
    bound = find_bound([Bind("/", "/x", image=f"{tmp_path}/{name}") for name in "es"])
    assert [(each.kind, each.readonly) for each in bound] == [("ext", False), ("squashfs", True)]
    for texts in (["e", "d"], ["d", "e"]):
        with pytest.raises(UsageError, match="both be written"):
            find_overlays(texts, str(tmp_path))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no filesystem"), (b"hsqs", "no filesystem"), (b"\0" * 1100, "no filesystem"),
        (b"x" * 9000, "no filesystem"), (b"hsqs" + b"\xff" * 200, "cut short"), (b"\xff" * 4096, "no filesystem"),
        (bytes(32) + b"SIF_MAGIC\0" + b"\xff" * 4000, "/f: SIF of version"),
        (bytes(32) + b"SIF_MAGIC\x0001\0" + b"\xff" * 4000, "/f: "),
    ],
)  # fmt: skip
def test_what_is_no_image(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "f").write_bytes(data)
    for look in (
        lambda: find_overlays(["f"], str(tmp_path)),
        lambda: find_bound([Bind("/", "/x", image=f"{tmp_path}/f")]),
    ):
        with pytest.raises((InvalidImage, UnsupportedImage), match=said):
            look()


def test_an_ext_that_is_cut_short(tmp_path: Path) -> None:
    path = ext(tmp_path / "e", 64)
    os.truncate(path, (64 << 10) - 1)
    with pytest.raises(InvalidImage, match="cut short: its ext has 65536 bytes, of which 65535"):
        find_overlays(["e"], str(tmp_path))
    data = bytearray(ext(path, 64).read_bytes())
    struct.pack_into("<I", data, 1024 + 24, 0xFFFFFFFF)  # an absurd block size
    path.write_bytes(data)
    with pytest.raises(InvalidImage, match="cut short"):
        find_overlays(["e"], str(tmp_path))
    data = bytearray(ext(path, 64, features=0x80).read_bytes())
    struct.pack_into("<I", data, 1024 + 336, 1)  # 2**32 blocks more
    path.write_bytes(data)
    with pytest.raises(InvalidImage, match="cut short"):
        find_overlays(["e"], str(tmp_path))


# -- locks -------------------------------------------------------------------------------------------------------------


def test_locks_are_of_the_open_file_and_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(1000))
    one, other = (os.open(path, os.O_RDWR) for _ in range(2))
    copy = os.dup(one)
    try:
        assert lock(one, 100, 100, writes=True) and lock(one, 100, 100, writes=True)
        assert not lock(other, 150, 10, writes=False) and not lock(other, 0, 0, writes=False)
        assert lock(other, 200, 100, writes=True)
        os.close(one)
        assert not lock(other, 150, 10, writes=True)  # as long as anybody has it open
        os.close(copy)
        assert lock(other, 150, 10, writes=True)
    finally:
        os.close(other)


def test_images_that_are_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ext(tmp_path / "e")
    program = tmp_path / "bin" / "fuse2fs"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    settings = Settings.from_environ()
    reads, writes = (MountImage(1, str(path), "ext", readonly) for readonly in (True, False))
    (first,) = open_images([reads], settings)
    (second,) = open_images([reads], settings)
    assert first.readonly and first.program == str(program) and first.filesystem.size == 64 << 10
    with pytest.raises(LockTimeout, match="another process uses it"):
        open_images([writes], settings)
    os.close(first.fd)
    os.close(second.fd)
    (third,) = open_images([writes], settings)
    with pytest.raises(LockTimeout, match="another process writes to it"):
        open_images([reads], settings)
    os.close(third.fd)
    squashfs(path)
    with pytest.raises(InvalidImage, match="changed"):
        open_images([reads], settings)


def test_an_image_that_was_not_closed_is_not_written_to_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By e2fsck, whose status says what came of it: 0 and 1 are well."""
    calls, program = tmp_path / "calls", tmp_path / "program"
    present: set[str] = set()
    monkeypatch.setattr(images, "find_program", lambda name, *_: str(program) if name in present else "")
    settings = Settings.from_environ()
    for state, features, readonly, there, status, said in (
        (1, 0x2, False, {"fuse2fs", "e2fsck"}, 9, ""), (0, 0x2, True, {"fuse2fs", "e2fsck"}, 9, ""),
        (0, 0x2, False, {"fuse2fs", "e2fsck"}, 0, "called"), (1, 0x6, False, {"fuse2fs", "e2fsck"}, 1, "called"),
        (3, 0x2, False, {"fuse2fs", "e2fsck"}, 4, "does not mend"), (0, 0x2, False, {"fuse2fs"}, 0, "e2fsprogs"),
        (1, 0x2, True, set(), 0, "package fuse2fs"),
    ):  # fmt: skip
        present.clear()
        present |= there
        calls.unlink(missing_ok=True)
        program.write_text(f'#!/bin/sh\necho "$@" >{calls}\nexit {status}\n')
        program.chmod(0o755)
        op = MountImage(1, str(ext(tmp_path / "e", state=state, features=features)), "ext", readonly)
        if said not in ("", "called"):
            with pytest.raises((InvalidImage, RuntimeUnavailable)) as caught:
                open_images([op], settings)
            assert said in caught.value.message + caught.value.hint and op.path in caught.value.message
            continue
        (opened,) = open_images([op], settings)
        os.close(opened.fd)
        assert calls.exists() == (said == "called")
        assert said == "" or calls.read_text().startswith("-p /proc/self/fd/")


# -- plans -------------------------------------------------------------------------------------------------------------


def make(binds: tuple[Bind, ...] = (), **options: object) -> tuple[plan.Op, ...]:
    caller = Caller(1000, 1000, "alice", "/home/alice", "/srv", 0o022, {})
    spec = container_spec("i", "/i.sif", RunConfig(), Options(**options), "exec", ("true",), caller)  # type: ignore[arg-type]
    return plan_container(spec._replace(binds=(*spec.binds, *binds)))


def kinds(ops: tuple[plan.Op, ...]) -> list[str]:
    return [type(op).__name__ for op in ops]


def test_images_are_mounted_first_and_once() -> None:
    overlays = (Overlay("/d", True), Overlay("/s", True, "squashfs"), Overlay("/e", False, "ext", 4))
    binds = (
        Bind("/a", "/x", True, image="/e", id=4, kind="ext"), Bind("/b", "/y", True, image="/q", kind="squashfs"),
        Bind("/c", "/z", True, image="/q", kind="squashfs"),
    )  # fmt: skip
    ops = make(binds, overlays=overlays)
    assert kinds(ops)[:5] == ["MountImage", "MountImage", "MountImage", "Layer", "StayBeside"]
    assert ops[:3] == (
        MountImage(1, "/s", "squashfs", True), MountImage(2, "/e", "ext", False, 4),
        MountImage(3, "/q", "squashfs", True),
    )  # fmt: skip
    layer = ops[3]
    assert isinstance(layer, plan.Layer) and layer.writable == "overlay"
    assert layer.overlays == (Upper("/d", True), Upper("/s", True, 1, True), Upper("/e", False, 2))
    assert [op for op in ops if isinstance(op, BindMount) and op.image] == [
        BindMount("/a", "/x", True, image=2), BindMount("/b", "/y", True, image=3), BindMount("/c", "/z", True, image=3)
    ]  # fmt: skip
    assert plan.Point("/y", None, "/b", 3) in layer.points


def test_one_stays_beside_where_an_image_is_written_to() -> None:
    written = (Overlay("/e", False, "ext"),)
    assert "StayBeside" in kinds(make(overlays=written)) and "StayBeside" in kinds(make(overlays=written, ipc=True))
    assert "StayBeside" not in kinds(make(overlays=written, pid=True))  # who has a PID namespace does so anyway
    assert "StayBeside" in kinds(make((Bind("/", "/x", image="/e", kind="ext"),)))
    for overlays in ((), (Overlay("/e", True, "ext"),), (Overlay("/s", True, "squashfs"),), (Overlay("/d", False),)):
        assert "StayBeside" not in kinds(make(overlays=overlays))


def test_a_path_in_an_image_is_no_path_of_the_host() -> None:
    """The working directory of the caller is bound all the same, and is where the container starts."""
    ops = make(binds=(Bind("/srv", "/srv", image="/e", kind="ext", readonly=True),), contain=True)
    assert plan.ChangeDirectory(("/home/alice", "/")) in ops


def test_what_is_written_to() -> None:
    both = (Overlay("/d", True), Overlay("/e", False, "ext"))
    for options, writable in (
        ({"overlays": both}, "overlay"), ({"overlays": both, "compat": True}, "overlay"),
        ({"overlays": both[:1]}, ""), ({"overlays": both[:1], "compat": True}, "tmpfs"), ({"writable": True}, "image"),
        ({"overlays": both[:1], "writable_tmpfs": True}, "tmpfs"), ({"overlays": both, "writable": True}, "overlay"),
    ):  # fmt: skip
        (layer,) = [op for op in make(**options) if isinstance(op, plan.Layer)]  # type: ignore[arg-type]
        assert layer.writable == writable, options
    for options in ({"overlays": both, "writable_tmpfs": True}, {"writable": True, "writable_tmpfs": True}):
        with pytest.raises(UsageError, match="exclude"):
            make(**options)  # type: ignore[arg-type]
