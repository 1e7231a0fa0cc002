"""hpcc overlay create: ext3 images, as files and in SIFs."""

import shutil
import stat
from pathlib import Path

from tests.e2e.test_run import Hpcc, hpcc  # noqa: F401
from tests.e2e.test_run_images import home, overlay, writable_sif  # noqa: F401
from tests.support.filesystems import edit_ext, given, is_clean
from tests.support.images import images


def test_create(hpcc: Hpcc, home: Path) -> None:  # noqa: F811
    path = overlay(hpcc)
    status = path.stat()
    assert status.st_size == 64 << 20 and stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == hpcc.person.uid
    assert status.st_blocks * 512 >= 64 << 20 and is_clean(path)
    listed = edit_ext(path, "ls -l /")
    assert all(f"{name}\n" in listed for name in ("upper", "work"))
    sparse = overlay(hpcc, "s.img", "--sparse", "-s", "128", "--create-dir", "/data/in,opt//x/", "--create-dir", "y")
    assert sparse.stat().st_size == 128 << 20 and sparse.stat().st_blocks * 512 < 32 << 20
    for name in ("upper/data/in", "upper/opt/x", "upper/y"):
        assert f"User:  {' ' * (4 - len(str(hpcc.person.uid)))}{hpcc.person.uid}" in edit_ext(sparse, f"stat {name}")
    root = overlay(hpcc, "r.img", "-f")
    assert "User:     0   Group:     0" in edit_ext(root, "stat upper")


def test_create_refuses(hpcc: Hpcc, home: Path) -> None:  # noqa: F811
    path = overlay(hpcc)
    before = path.read_bytes()
    for flags, said in (
        ((path,), "there already"), (("--size", "63", "x.img"), "64 MiB"), (("--size", "-1", "x.img"), "MiB"),
        (("--size", "1G", "x.img"), "MiB"), (("--create-dir", "../../x", "x.img"), "../../x"), ((), "Usage"),
        (("a.img", "b.img"), "Usage"), (("/no/such/x.img",), "No such"), (("--bogus", "x.img"), "--bogus"),
        ((home,), "there already"), (("--size", "999999999", "x.img"), "x.img"),
    ):  # fmt: skip
        done = hpcc("overlay", "create", *flags)
        assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, (flags, done.stderr)
    assert path.read_bytes() == before and not list(home.glob(".x.img*")) and not (home / "x.img").exists()


def test_create_in_a_sif(hpcc: Hpcc, home: Path) -> None:  # noqa: F811
    sif = writable_sif(hpcc)
    before = sif.read_bytes()
    done = hpcc("overlay", "create", sif)
    assert done.returncode == 255 and "already" in done.stderr and "sif del 6" in done.stderr
    assert sif.read_bytes() == before and sif.stat().st_mode & 0o777 == 0o755
    assert "Filesystem Type:  Ext3" in hpcc("sif", "info", "6", sif).stdout
    assert hpcc("sif", "del", "6", sif).returncode == 0
    assert hpcc("overlay", "create", sif).returncode == 0
    assert [path.name for path in home.iterdir() if path.name.startswith(".w")] == []
    signed = given(Path(shutil.copy(images().main, home / "signed.sif")), hpcc.person, 0o755)
    done = hpcc(
        "sif",
        "add",
        "--datatype",
        "5",
        "--signhash",
        "1",
        "--signentity",
        "0" * 40,
        "--link",
        "5",
        signed,
        "/etc/hosts",
    )
    assert done.returncode == 0, done.stderr
    done = hpcc("overlay", "create", signed)
    assert done.returncode == 255 and "signed" in done.stderr and "--overlay FILE" in done.stderr
