"""Bind sources within a squashfs, an ext3, and a SIF: image-src= and id=."""

import shutil
from pathlib import Path

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.e2e.test_run_images import home  # noqa: F401
from tests.support.filesystems import edit_ext, given, is_clean, make_ext, make_squashfs
from tests.support.images import Images


def test_binds_from_a_squashfs(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = make_squashfs(
        home / "a:b, c.sqfs", {"data/file": "content\n", "data/sub/x": "x\n", "top": "t\n"}, hpcc.person
    )
    name = str(path).replace(":", "\\:").replace(",", "\\,")
    assert hpcc.out(image.main, "cat /mnt/data/file /mnt/top", "-B", f"{name}:/mnt:image-src=/") == "content\nt\n"
    assert hpcc.out(image.main, "cat /made/here/file; ls /made/here", "-B", f"{name}:/made/here:image-src=/data") == (
        "content\nfile\nsub\n"
    )
    # a file on a file, one the image has and one it has not
    flags = ("-B", f"{name}:/etc/motd:image-src=/data/file,{name}:/new/one:image-src=top")
    assert hpcc.out(image.main, "cat /etc/motd /new/one", *flags) == "content\nt\n"
    spec = f'type=bind,"source={path}",dst=/mnt,image-src=/data/sub'
    assert hpcc.out(image.main, "cat /mnt/x", "--mount", spec) == "x\n"
    done = hpcc.sh(image.main, "echo x > /mnt/data/file", "-B", f"{name}:/mnt:image-src=/")
    assert done.returncode != 0 and "ead-only" in done.stderr
    for mode in ("--contain", "--containall", "--compat"):
        assert hpcc.out(image.main, "cat /mnt/top", mode, "-B", f"{name}:/mnt:image-src=/") == "t\n"
    # below another mount
    assert hpcc.out(image.main, "cat /tmp/deep/down/top", "-c", "-B", f"{name}:/tmp/deep/down:image-src=/") == "t\n"


def test_binds_from_an_ext3(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = make_ext(home / "e.img", {"data/file": "content\n", "top": "t\n"}, hpcc.person)
    assert hpcc.out(
        image.main, "cat /mnt/file; echo n > /mnt/new; cat /mnt/new", "-B", f"{path}:/mnt:image-src=/data"
    ) == ("content\nn\n")
    assert is_clean(path)
    spec = f"type=bind,source={path},destination=/mnt,image-src=/data,ro"
    for flags in (
        ("-B", f"{path}:/mnt:image-src=/data,ro"),
        ("-B", f"{path}:/mnt:ro,image-src=/data"),
        ("--mount", spec),
    ):
        done = hpcc.sh(image.main, "cat /mnt/new; echo x > /mnt/x", *flags)
        assert done.returncode != 0 and done.stdout == "n\n" and "ead-only" in done.stderr
    # one image twice is mounted once
    flags = ("-B", f"{path}:/one:image-src=/data,ro", "-B", f"{path}:/two:image-src=/")
    done = hpcc.sh(image.main, "echo two > /two/data/new; cat /one/new; echo x > /one/x", *flags)
    assert done.returncode != 0 and done.stdout == "two\n" and "ead-only" in done.stderr
    assert is_clean(path)


def test_binds_from_a_sif(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    sif = given(Path(shutil.copy(image.main, home / "data.sif")), hpcc.person, 0o755)
    done = hpcc("exec", "-B", f"{sif}:/mnt:image-src=/", image.main, "true")
    assert done.returncode == 255 and "no data partition" in done.stderr and "id=N" in done.stderr
    add = ("sif", "add", "--datatype", "4", "--parttype", "3", "--partarch", "2", "--groupid", "1")
    squashfs = make_squashfs(home / "s.sqfs", {"which": "squashfs\n"}, hpcc.person)
    ext = make_ext(home / "e.img", {"which": "ext3\n"}, hpcc.person)
    assert hpcc(*add, "--partfs", "1", sif, squashfs).returncode == 0
    assert hpcc(*add, "--partfs", "2", sif, ext).returncode == 0
    assert hpcc.out(image.main, "cat /mnt/which", "-B", f"{sif}:/mnt:image-src=/") == "squashfs\n"
    assert hpcc.out(image.main, "cat /mnt/which", "-B", f"{sif}:/mnt:id=6") == "squashfs\n"
    assert hpcc.out(image.main, "cat /mnt/which; echo n > /mnt/n", "-B", f"{sif}:/mnt:image-src=/,id=7") == "ext3\n"
    assert hpcc.out(image.main, "cat /mnt/n", "-B", f"{sif}:/mnt:id=7,ro") == "n\n"
    assert "os-release" in hpcc.out(image.main, "ls /mnt", "-B", f"{sif}:/mnt:image-src=/etc,id=5")  # the root, too
    assert hpcc.out(sif, "cat /mnt/which", "-B", f"{sif}:/mnt:id=7") == "ext3\n"
    for number in (1, 99):
        done = hpcc("exec", "-B", f"{sif}:/mnt:id={number}", image.main, "true")
        assert done.returncode == 255 and "no partition" in done.stderr and "sif list" in done.stderr


def test_paths_in_an_image_stay_in_it(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    files = {"inside/etc/hosts": "of the image\n", "etc/hosts": "of the image\n", "abs": "-> /etc/hosts",
             "up": "-> ../../../../etc", "loop": "-> loop", "lost": "-> /no/such"}  # fmt: skip
    for path in (make_squashfs(home / "s.sqfs", files, hpcc.person), make_ext(home / "e.img", files, hpcc.person)):
        assert hpcc.out(image.main, "cat /f", "-B", f"{path}:/f:image-src=/abs") == "of the image\n"
        assert hpcc.out(image.main, "cat /d/hosts", "-B", f"{path}:/d:image-src=/up") == "of the image\n"
        assert hpcc.out(image.main, "cat /d/hosts", "-B", f"{path}:/d:image-src=/../../etc") == "of the image\n"
        for inside in ("/loop", "/lost", "/nothing", "/etc/hosts/x"):
            done = hpcc("exec", "-B", f"{path}:/d:image-src={inside}", image.main, "true")
            assert done.returncode == 255 and inside in done.stderr and str(path) in done.stderr, done.stderr


def test_no_setuid_and_no_devices_from_an_image(hpcc: Hpcc, image: Images, home: Path) -> None:  # noqa: F811
    path = make_ext(home / "e.img", {"upper/.k": "", "work/.k": ""}, hpcc.person)
    edit_ext(path, "cd upper", "mknod null c 1 3", "set_inode_field null mode 020666",
             f"write {shutil.which('id')} id", "set_inode_field id mode 0104755")  # fmt: skip
    for flags, at in ((("-B", f"{path}:/mnt:image-src=/upper"), "/mnt"), (("--overlay", f"{path}:ro"), "")):
        options = hpcc.out(image.main, f"grep ' {at or '/'} ' /proc/self/mounts | tail -n 1", *flags).split()[3]
        assert {"nosuid", "nodev"} <= set(options.split(","))
        done = hpcc.sh(image.main, f"stat -c '%F %a' {at}/null {at}/id; echo x > {at}/null", *flags)
        assert done.stdout == "character special file 666\nregular file 4755\n", done
        assert done.returncode != 0 and "ermission denied" in done.stderr, done
