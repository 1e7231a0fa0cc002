"""Images as overlays and bind sources by hpcc and by Apptainer: the same command lines, images of one for the other.

Root's Apptainer mounts them by the kernel, hpcc never does. What was deleted is where the two differ: see
docs/explanation/how-it-works.md.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.conftest import Completed, Pulled, Tool
from tests.interop.test_side_by_side import observed
from tests.support.filesystems import edit_ext, given, is_clean, make_ext, make_squashfs
from tests.support.peers import apptainer, peer_argv
from tests.support.people import Person

BOTH = pytest.mark.parametrize("maker", ["hpcc", "apptainer"])
BUSY = {"hpcc": 75, "apptainer": 255}

WRITE = """echo new > /etc/new; mkdir -p /opt/a/b; echo deep > /opt/a/b/c; mv /etc/new /etc/newer; ln -s newer /etc/soft
    chmod 640 /etc/newer; echo more >> /own/uid0/old; ls /opt/a/b; cat /own/uid0/old"""
READ = "cat /etc/newer /etc/soft /opt/a/b/c /own/uid0/old; stat -c %a /etc/newer; ls /opt; echo x > /etc/x || echo no"


@pytest.fixture
def tools(hpcc: Tool) -> dict[str, Tool]:
    return {"hpcc": hpcc, "apptainer": apptainer}


@pytest.fixture
def overlay(tools: dict[str, Tool], runs_as: Person) -> Callable[..., Path]:
    """`overlay(maker, name, *flags)` makes one."""

    def make(maker: str, name: str, *flags: str) -> Path:
        done = tools[maker](["overlay", "create", *flags, runs_as.home / name], runs_as)
        assert done.returncode == 0, done.stderr
        return runs_as.home / name

    return make


def quiet(argv: list[object]) -> list[str]:
    return [str(word) for word in argv]


@BOTH
def test_an_overlay_of_either_for_both(
    pulled: Pulled, tools: dict[str, Tool], runs_as: Person, overlay: Callable[..., Path], maker: str
) -> None:
    """Made by one; written to by each of them, and read by the other."""
    image = pulled.ours / "plain.sif"
    said = {}
    for writer, reader in (("hpcc", "apptainer"), ("apptainer", "hpcc")):
        path = overlay(maker, f"{writer}.img")
        argv = quiet(["exec", "--overlay", path, image, "sh", "-c", WRITE])
        said[writer] = observed(tools[writer](argv, runs_as))
        assert said[writer][0] == 0 and is_clean(path)
        argv = quiet(["exec", "--overlay", f"{path}:ro", image, "sh", "-c", READ])
        assert (read := observed(tools[reader](argv, runs_as))) == observed(tools[writer](argv, runs_as))
        assert read[1].startswith("new\nnew\ndeep\nold of uid0\nmore\n640\n") and read[1].endswith("no\n")
        argv = quiet(["exec", "--overlay", path, image, "sh", "-c", "echo again >> /etc/newer; cat /etc/newer"])
        assert observed(tools[reader](argv, runs_as)) == (0, "new\nagain\n") and is_clean(path)
    assert said["hpcc"] == said["apptainer"]


def test_created_alike(tools: dict[str, Tool], runs_as: Person, overlay: Callable[..., Path]) -> None:
    for flags in (
        (),
        ("--sparse", "--size", "80"),
        ("--fakeroot",),
        ("--create-dir", "/data/in,opt", "--create-dir", "y"),
    ):
        ours, theirs = (overlay(maker, f"{maker}{'-'.join(flags).replace('/', '_')}.img", *flags) for maker in tools)
        assert ours.stat().st_size == theirs.stat().st_size and ours.stat().st_mode == theirs.stat().st_mode
        for command in ("features", "ls -l upper", "ls -l work", "ls -l upper/data"):
            one, other = (_without_times(edit_ext(path, command)) for path in (ours, theirs))
            assert one == other, (flags, command)


def _without_times(text: str) -> list[list[str]]:
    """Mode, links, owner and name of what `ls -l` of debugfs shows; other text as words."""
    rows = [line.split() for line in text.splitlines()]
    return [[*row[1:5], row[-1]] if len(row) > 7 else row for row in rows]


def test_create_fails_alike(tools: dict[str, Tool], runs_as: Person, pulled: Pulled) -> None:
    """Mistakes of the command line end with 1 there."""
    (runs_as.home / "there.img").write_text("something\n")
    given(runs_as.home / "there.img", runs_as)
    sif = given(Path(shutil.copy(pulled.ours / "plain.sif", runs_as.home / "has.sif")), runs_as, 0o755)
    assert tools["hpcc"](["overlay", "create", sif], runs_as).returncode == 0
    for argv, status in (
        (["there.img"], 255), (["--size", "63", "new.img"], 255), (["/no/such/new.img"], 255), (["has.sif"], 255),
        (["--create-dir", "/../../x", "new.img"], 255), (["--size", "x", "new.img"], 1), ([], 1),
        (["a.img", "b.img"], 1),
    ):  # fmt: skip
        ours, theirs = (tool(["overlay", "create", *argv], runs_as) for tool in tools.values())
        assert (ours.returncode, theirs.returncode) == (255, status), (argv, ours.stderr, theirs.stderr)


CASES = {
    "squashfs": ["--overlay", "one.sqfs"],
    "squashfs-ro": ["--overlay", "one.sqfs:ro"],
    "squashfs-two": ["--overlay", "one.sqfs", "--overlay", "two.sqfs"],
    "squashfs-two-by-comma": ["--overlay", "two.sqfs,one.sqfs"],
    "squashfs-tmpfs": ["--overlay", "one.sqfs:ro", "--writable-tmpfs"],
    "ext": ["--overlay", "ext.img"],
    "ext-ro": ["--overlay", "ext.img:ro"],
    "ext-tmpfs": ["--overlay", "ext.img:ro", "--writable-tmpfs"],
    "ext-below": ["--overlay", "ext.img:ro", "--overlay", "one.sqfs"],
    "ext-above": ["--overlay", "one.sqfs", "--overlay", "ext.img:ro"],
    "ext-written-first": ["--overlay", "ext.img", "--overlay", "one.sqfs"],
    "ext-written-last": ["--overlay", "one.sqfs", "--overlay", "ext.img"],
    "directory-above": ["--overlay", "one.sqfs", "--overlay", "dir:ro"],
    "directory-below": ["--overlay", "dir:ro", "--overlay", "one.sqfs"],
    "directory-and-ext": ["--overlay", "dir:ro", "--overlay", "ext.img"],
    "contained": ["--containall", "--overlay", "ext.img"],
    "two-writable": ["--overlay", "ext.img", "--overlay", "dir"],
    "two-ext": ["--overlay", "ext.img", "--overlay", "more.img"],
    "ext-and-tmpfs": ["--overlay", "ext.img", "--writable-tmpfs"],
    "writable-and-overlay": ["--writable", "--overlay", "ext.img"],
    "missing": ["--overlay", "missing.img"],
    "empty": ["--overlay", "empty.img"],
    "text": ["--overlay", "text.img"],
    "cut": ["--overlay", "cut.img"],
    "device": ["--overlay", "/dev/null"],
    "bind-squashfs": ["-B", "one.sqfs:/mnt:image-src=/srv"],
    "bind-file": ["-B", "one.sqfs:/mnt:image-src=/srv/which"],
    "bind-ext": ["-B", "ext.img:/mnt:image-src=/upper/srv"],
    "bind-ext-ro": ["-B", "ext.img:/mnt:image-src=/upper/srv,ro"],
    "bind-id": ["-B", "ext.img:/mnt:id=1"],
    "bind-two": ["-B", "one.sqfs:/mnt:image-src=/srv,ext.img:/opt:image-src=/upper/srv,ro"],
    "bind-made": ["-B", "one.sqfs:/new/place:image-src=/srv"],
    "bind-mount": ["--mount", "type=bind,source=one.sqfs,destination=/mnt,image-src=/srv"],
    "bind-mount-ro": ["--mount", "type=bind,source=ext.img,destination=/mnt,image-src=/upper/srv,ro"],
    "bind-missing": ["-B", "missing.img:/mnt:image-src=/"],
    "bind-lost": ["-B", "one.sqfs:/mnt:image-src=/lost"],
    "bind-directory": ["-B", "dir:/mnt:image-src=/"],
    "bind-text": ["-B", "text.img:/mnt:image-src=/"],
    "bind-no-destination": ["-B", "one.sqfs::image-src=/"],
    "bind-bad-id": ["-B", "one.sqfs:/mnt:id=x"],
    "bind-data": ["-B", "data.sif:/mnt:image-src=/"],
    "bind-data-id": ["-B", "data.sif:/mnt:image-src=/,id=6"],
    "bind-data-no-partition": ["-B", "data.sif:/mnt:image-src=/,id=1"],
    "bind-data-no-object": ["-B", "data.sif:/mnt:image-src=/,id=77"],
    "bind-sif-without": ["-B", "plain.sif:/mnt:image-src=/"],
}
SCRIPT = """for f in /srv/which /mnt/which /opt/which /new/place/which /mnt; do cat $f 2>/dev/null; done
    for d in /srv /mnt /opt /new/place; do ls $d 2>/dev/null | grep -v lost; done
    for d in /srv /mnt /opt /etc; do (echo x > $d/w) 2>/dev/null && echo writes $d; done; cat /etc/w 2>/dev/null; :"""


def lay_out(person: Person, pulled: Pulled, hpcc: Tool) -> None:
    """The files of CASES, new in the person's home."""
    home = person.home
    for each in home.iterdir():
        if each.name.endswith((".sqfs", ".img", ".tree", ".sif")) or each.name == "dir":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    make_squashfs(home / "one.sqfs", {"srv/which": "one\n", "srv/one": ""}, person)
    make_squashfs(home / "two.sqfs", {"srv/which": "two\n", "srv/two": ""}, person)
    for name in ("ext", "more"):
        files = {"upper/srv/which": f"{name}\n", f"upper/srv/{name}": "", "work/.k": ""}
        make_ext(home / f"{name}.img", files, person)
    for name, content in (("upper/srv/which", "dir\n"), ("work/.k", "")):
        (home / "dir" / name).parent.mkdir(parents=True)
        (home / "dir" / name).write_text(content)
    for path in (home / "dir", *(home / "dir").rglob("*")):
        os.chown(path, person.uid, person.gid)
    for name, data in (("empty", b""), ("text", b"no image\n" * 500), ("cut", (home / "ext.img").read_bytes()[:9000])):
        (home / f"{name}.img").write_bytes(data)
        given(home / f"{name}.img", person)
    for name in ("data", "plain"):
        given(Path(shutil.copy(pulled.ours / "plain.sif", home / f"{name}.sif")), person, 0o755)
    add = ["sif", "add", "--datatype", "4", "--parttype", "3", "--partfs", "1", "--partarch", "2", "--groupid", "1"]
    done = hpcc([*add, "data.sif", "one.sqfs"], person)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_same_command_lines(pulled: Pulled, tools: dict[str, Tool], runs_as: Person, case: str) -> None:
    seen: dict[str, tuple[int, str]] = {}
    wrong: list[str] = []
    for name, tool in tools.items():
        lay_out(runs_as, pulled, tools["hpcc"])
        done: Completed = tool(["exec", *CASES[case], pulled.ours / "plain.sif", "sh", "-c", SCRIPT], runs_as)
        seen[name] = observed(done)
        wrong.append(done.stderr)
    assert seen["hpcc"] == seen["apptainer"], wrong


@BOTH
def test_writable_sifs(pulled: Pulled, tools: dict[str, Tool], runs_as: Person, maker: str) -> None:
    """A partition that either has added; both write to it, and read it."""
    sif = given(Path(shutil.copy(pulled.theirs / "plain.sif", runs_as.home / "w.sif")), runs_as, 0o755)
    done = tools[maker](["overlay", "create", sif], runs_as)
    assert done.returncode == 0, done.stderr
    for number, name in enumerate(("hpcc", "apptainer", "hpcc")):
        argv = ["exec", "--writable", sif, "sh", "-c", f"echo {number} >> /etc/who; cat /etc/who"]
        expected = "".join(f"{each}\n" for each in range(number + 1))
        assert observed(tools[name](argv, runs_as)) == (0, expected)
        for reader in tools.values():
            argv = ["exec", sif, "sh", "-c", "cat /etc/who; echo x > /etc/x || echo no"]
            assert observed(reader(argv, runs_as)) == (0, f"{expected}no\n")
    for name, tool in tools.items():
        assert tool(["exec", "--writable", pulled.ours / "words.sif", "true"], runs_as).returncode == 255, name


@pytest.mark.parametrize("mode", ["--writable", "--overlay"])
@pytest.mark.parametrize("holder", ["hpcc", "apptainer"])
def test_each_refuses_what_the_other_uses(
    pulled: Pulled, installed, tools: dict[str, Tool], runs_as: Person, holder: str, mode: str
) -> None:
    if mode == "--writable":
        image = given(Path(shutil.copy(pulled.ours / "plain.sif", runs_as.home / "w.sif")), runs_as, 0o755)
        assert tools["hpcc"](["overlay", "create", image], runs_as).returncode == 0
        writes, reads = ["exec", "--writable", str(image)], ["exec", str(image)]
    else:
        path = runs_as.home / "o.img"
        assert tools["hpcc"](["overlay", "create", path], runs_as).returncode == 0
        image = pulled.ours / "plain.sif"
        writes, reads = ["exec", "--overlay", str(path), str(image)], ["exec", "--overlay", f"{path}:ro", str(image)]
    for held, statuses in ((writes, {"reads": None, "writes": None}), (reads, {"reads": 0, "writes": None})):
        words = [*held, "sh", "-c", "echo ready; read go"]
        if holder == "apptainer" and runs_as.uid == 0:
            words[1:1] = ["--drop-caps", "CAP_SYS_RESOURCE"]
        argv = [installed.hpcc, *words] if holder == "hpcc" else peer_argv(["apptainer", *words], runs_as)
        environment = runs_as.environ() | {"HPCC_PEERS": os.environ.get("HPCC_PEERS", "/opt/hpcc-peers")}
        command = runs_as.argv(argv) if holder == "hpcc" else argv
        with subprocess.Popen(
            command, env=environment, cwd=runs_as.home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            try:
                for name, tool in tools.items():
                    for how, base in (("reads", reads), ("writes", writes)):
                        wanted = BUSY[name] if statuses[how] is None else statuses[how]
                        done = tool([*base, "true"], runs_as)
                        assert done.returncode == wanted, (holder, held, name, how, done.stderr)
            finally:
                process.communicate("go\n", timeout=60)


def test_what_was_deleted_stays_deleted(pulled: Pulled, tools: dict[str, Tool], plain_user: Person) -> None:
    """The difference: who reads Apptainer's own overlay by Apptainer finds the file again."""
    path, image = plain_user.home / "d.img", pulled.ours / "plain.sif"
    path.unlink(missing_ok=True)
    assert tools["apptainer"](["overlay", "create", path], plain_user).returncode == 0
    done = tools["apptainer"](["exec", "--overlay", path, image, "rm", "/own/uid0/gone"], plain_user)
    assert done.returncode == 0, done.stderr
    argv = ["exec", "--overlay", f"{path}:ro", image, "ls", "/own/uid0"]
    assert observed(tools["hpcc"](argv, plain_user)) == (0, "moved\nold\n")
    assert observed(tools["apptainer"](argv, plain_user)) == (0, "gone\nmoved\nold\n")


@pytest.mark.parametrize("maker", ["hpcc", "apptainer"])
def test_newer_programs(pulled: Pulled, hpcc_in_sid: Tool, tools: dict[str, Tool], runs_as: Person, maker: str) -> None:
    """fuse2fs with libfuse 3, squashfuse 0.5, a newer fuse-overlayfs."""
    image, flags = pulled.ours / "plain.sif", (["new.img"], ["new.img:ro"], ["one.sqfs", "--overlay", "new.img"])
    seen: dict[str, list[tuple[int, str]]] = {}
    for name, tool in (("hpcc", hpcc_in_sid), ("apptainer", apptainer)):
        lay_out(runs_as, pulled, tools["hpcc"])
        path = runs_as.home / "new.img"
        assert tools[maker](["overlay", "create", path], runs_as).returncode == 0
        seen[name] = [
            observed(tool(["exec", "--overlay", *each, image, "sh", "-c", SCRIPT], runs_as)) for each in flags
        ]
        assert is_clean(path)
        argv = ["exec", "-B", "one.sqfs:/mnt:image-src=/srv,ext.img:/opt:image-src=/upper/srv", image, "sh", "-c"]
        seen[name].append(observed(tool([*argv, f"{SCRIPT}; id -u; stat -c %u /mnt /opt"], runs_as)))
    assert seen["hpcc"] == seen["apptainer"]
