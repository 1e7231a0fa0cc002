"""hpcc sif by the command line: what it shows, and that no change leaves a SIF half written."""

import fcntl
import json
import os
import signal
import struct
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from hpcc.sif import descriptor as d
from hpcc.sif.create import DATA_OFFSET
from hpcc.sif.load import Sif, load
from tests.support.installation import Installation
from tests.support.people import Person

PARTITION = ("--datatype", "4", "--parttype", "1", "--partfs", "1", "--partarch", "2")
SIGNATURE = ("--datatype", "5", "--signhash", "1", "--signentity", "AB" * 20)


class Tool:
    """`hpcc sif` as one person, in their home."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.hpcc, self.home = person, installed.hpcc, person.home

    def __call__(self, *argv: object, **options: Any) -> CompletedProcess[Any]:
        return self.person.run([self.hpcc, "sif", *map(str, argv)], **options)

    def ok(self, *argv: object, **options: Any) -> str:
        done = self(*argv, **options)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def shell(self, line: str, *argv: object) -> CompletedProcess[Any]:
        return self.person.run(["/bin/sh", "-c", line, self.hpcc, *map(str, argv)])

    def file(self, name: str, data: bytes) -> Path:
        path = self.home / name
        path.write_bytes(data)
        os.chown(path, self.person.uid, self.person.gid)
        return path

    def image(self) -> Path:
        """A SIF with a definition file, two partitions, and a signature of their group."""
        self.ok("new", "image.sif")
        for content, options in (
            ("bootstrap: docker\n", ("--datatype", 1, "--filename", "Def.FILE", "--groupid", 1)),
            ("system", (*PARTITION, "--groupid", 1)),
            ("primary", (*PARTITION[:3], "2", *PARTITION[4:], "--groupid", 1)),
            ("signature", (*SIGNATURE, "--link", d.GROUP | 1)),
        ):
            done = self("add", *options, "image.sif", "-", input=content)
            assert done.returncode == 0, done.stderr
        return self.home / "image.sif"


@pytest.fixture
def sif(runs_as: Person, installed: Installation) -> Tool:
    return Tool(runs_as, installed)


@pytest.fixture
def user_sif(plain_user: Person, installed: Installation, open_dir: Path) -> Tool:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return Tool(plain_user.at(home), installed)


def loaded(path: Path) -> Sif:
    data = path.read_bytes()
    return load(lambda offset, length: data[offset : offset + length], len(data))


def check_failure(done: CompletedProcess[Any], said: str) -> None:
    assert done.returncode == 255 and done.stderr.startswith("FATAL: "), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr, done.stderr


# -- showing -----------------------------------------------------------------------------------------------------------


def test_list_header_and_info(sif: Tool) -> None:
    sif.image()
    assert sif.ok("list", "image.sif").splitlines()[3:] == [
        f"1    |1       |NONE    |{DATA_OFFSET}-{DATA_OFFSET + 18}               |Def.FILE",
        "2    |1       |NONE    |32768-32774               |FS (Squashfs/System/amd64)",
        "3    |1       |NONE    |36864-36871               |FS (Squashfs/*System/amd64)",
        "4    |NONE    |1   (G) |36871-36880               |Signature (SHA-256)",
    ]
    assert "Primary Architecture: amd64\nDescriptors Free:     44\n" in sif.ok("header", "image.sif")
    assert sif.ok("info", 1, "image.sif").endswith("  Size:       18\n  Name:       Def.FILE\n")
    assert sif.ok("dump", 1, "image.sif") == "bootstrap: docker\n"


def test_json(sif: Tool) -> None:
    image = sif.image()
    rows = json.loads(sif.ok("list", "--json", image))
    assert rows[3] == json.loads(sif.ok("info", "--json", 4, image)) == {
        "data_type": "Signature", "id": 4, "group_id": None, "linked_id": None, "linked_group_id": 1, "offset": 36871,
        "size": 9, "created_at": None, "modified_at": None, "name": None, "hash_type": "SHA-256", "entity": "AB" * 20,
    }  # fmt: skip
    head = json.loads(sif.ok("header", "--json", image))
    assert head["primary_architecture"] == "amd64" and head["data_size"] == 36880 - DATA_OFFSET
    assert head["id"] is head["created_at"] is head["launch_script"] is None


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_what_comes_from_a_file_is_no_command_to_a_terminal(sif: Tool, form: tuple[str, ...]) -> None:
    name, launch = b"\x1b]0;x\x07\x9b31m\xff\x7f\n\xe2\x80\xae", b"#!\x1b[2Jx\n"
    image = sif.image()
    data = bytearray(image.read_bytes())
    data[: len(launch)] = launch
    data[4096 + 73 : 4096 + 73 + len(name)] = name
    struct.pack_into("<qq", data, 4096 + 41, 2**63 - 1, -(2**63))
    struct.pack_into("<qq", data, 64, 2**63 - 1, -(2**63))
    sif.file("image.sif", bytes(data))
    for argv in (["list"], ["header"], ["info", "1"]):
        done = sif(*argv[:1], *form, *argv[1:], image, text=False)
        assert done.returncode == 0, done.stderr
        text = done.stdout.decode().replace("\n", "")
        assert text.isprintable()
        assert not form or json.loads(done.stdout)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["list"], "one SIF file"),
        (["list", "a", "b"], "one SIF file"),
        (["list", "no-such.sif"], "no-such.sif: No such file or directory"),
        (["list", "."], "a directory, not a SIF"),
        (["list", "/dev/null"], "no regular file"),
        (["header", "text"], "text: not a SIF"),
        (["header", "docker://debian"], "hpcc pull docker://debian"),
        (["info", "image.sif", "1"], "comes before the file"),
        (["info", "0", "image.sif"], "no id"),
        (["info", "9" * 5000, "image.sif"], "no id"),
        (["info", "9", "image.sif"], "image.sif: the SIF has no object 9\nHINT:    It has 1, 2, 3, 4."),
        (["dump", "9", "image.sif"], "no object 9"),
        (["dump", "1"], "needs the id"),
        (["del", "9", "image.sif"], "no object 9"),
        (["setprim", "1", "image.sif"], "object 1 is no partition"),
        (["setprim", "9", "image.sif"], "no object 9"),
        (["new"], "name of a file"),
        (["new", "image.sif"], "is there already"),
        (["new", "no/such/directory.sif"], "No such file or directory"),
        (["new", "--force", "."], "cannot write"),
        (["add", "image.sif", "text"], "--datatype"),
        (["add", "--datatype", "7", "image.sif"], "the file to add"),
        (["add", "--datatype", "12", "image.sif", "text"], "11-OCI.Blob"),
        (["add", "--datatype", "7", "image.sif", "no-such"], "no-such: No such file"),
        (["add", "--datatype", "7", "image.sif", "."], "Is a directory"),
        (["add", "--datatype", "7", "text", "text"], "text: not a SIF"),
        (["add", "--datatype", "4", "image.sif", "text"], "--datatype 4 needs --partfs"),
        (["add", *PARTITION[:3], "2", *PARTITION[4:], "image.sif", "text"], "primary system partition already"),
        (["add", *SIGNATURE[:4], "image.sif", "text"], "--signentity"),
        (["add", *SIGNATURE[:4], "--signentity", "zz", "image.sif", "text"], "--signentity"),
        (["add", "--datatype", "9", "--sbomformat", "x", "image.sif", "text"], "cyclonedx-json"),
        (["add", "--datatype", "7", "--filename", "n" * 129, "image.sif", "text"], "129 bytes"),
        (["add", "--datatype", "7", "--alignment", "1" * 99, "image.sif", "text"], "--alignment"),
        (["add", "--datatype", "7", "--link", "0", "image.sif", "text"], "--link"),
        (["add", "--datatype", "7", "--groupid", "0x10000000", "image.sif", "text"], "--groupid"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes(user_sif: Tool, argv: list[str], said: str) -> None:
    image = user_sif.image()
    before = image.read_bytes()
    user_sif.file("text", b"no SIF at all")
    check_failure(user_sif(*argv), said)
    assert image.read_bytes() == before
    assert sorted(path.name for path in user_sif.home.iterdir() if "sif" in path.name) == ["image.sif"]


@pytest.mark.parametrize("command", ["list image.sif", "list --json image.sif", "header image.sif", "dump 3 image.sif"])
def test_a_stdout_that_takes_nothing(user_sif: Tool, command: str) -> None:
    user_sif.image()
    done = user_sif.shell(f'"$0" sif {command} >/dev/full')
    check_failure(done, "cannot write to stdout: No space left on device")
    assert done.stderr.count("FATAL") == 1
    check_failure(user_sif.shell(f'"$0" sif {command} >&-'), "stdout: it is closed")
    assert user_sif.shell(f'"$0" sif {command} | true').stderr == ""


def test_damaged_sifs(user_sif: Tool) -> None:
    data = user_sif.image().read_bytes()
    for end in (0, 100, 128, 5000, len(data) - 1):
        user_sif.file("cut.sif", data[:end])
        for argv in (["list"], ["header"], ["info", "1"], ["dump", "1"], ["del", "1"], ["setprim", "2"]):
            check_failure(user_sif(*argv, "cut.sif"), "cut.sif: ")
        assert (user_sif.home / "cut.sif").read_bytes() == data[:end]


# -- changes -----------------------------------------------------------------------------------------------------------


def test_add_del_setprim(sif: Tool) -> None:
    image = sif.image()
    before = image.read_bytes()
    assert sif.ok("setprim", 3, image) == "" and image.read_bytes() == before
    done = sif("setprim", 2, image)
    assert "The signature in object 4 does not hold any more" in done.stderr and loaded(image).primary().id == 2
    assert sif("--silent", "setprim", 3, image).stderr == "" and image.read_bytes() == before
    done = sif("add", "--datatype", 7, "--groupid", 2, image, "-", input="secret")
    assert "Nobody has signed group 2" in done.stderr
    assert sif.ok("del", 5, image) == "" and image.read_bytes().endswith(b"secret")
    assert "in no group" in sif("add", "--datatype", 7, image, "-", input="x").stderr
    assert image.read_bytes().endswith(b"xecret")
    sif.ok("del", "--compact", 5, image)
    assert image.read_bytes() == before
    assert "object 4 does not hold" in sif("del", "--zero", 1, image).stderr
    assert b"bootstrap" not in image.read_bytes()


def test_the_same_commands_make_the_same_bytes(sif: Tool) -> None:
    first = sif.image().read_bytes()
    time.sleep(1.1)
    (sif.home / "image.sif").unlink()
    assert sif.image().read_bytes() == first


def test_mode_owner_links_and_attributes_stay(user_sif: Tool) -> None:
    image = user_sif.image()
    image.chmod(0o640)
    os.setxattr(image, "user.note", b"mine")
    link, other = user_sif.home / "link.sif", user_sif.home / "other.sif"
    link.symlink_to("image.sif")
    os.link(image, other)
    before, opened = image.read_bytes(), image.open("rb")
    assert user_sif("add", "--datatype", 7, link, "-", input="x").returncode == 0
    assert link.is_symlink() and loaded(image).descriptors[-1].size == 1
    assert image.stat().st_mode & 0o7777 == 0o640 and os.getxattr(image, "user.note") == b"mine"
    assert (image.stat().st_uid, image.stat().st_gid) == (user_sif.person.uid, user_sif.person.gid)
    with opened:
        assert other.read_bytes() == opened.read() == before  # who runs from it keeps it


@pytest.mark.root
def test_root_changes_a_users_file_and_it_stays_theirs(
    plain_user: Person, installed: Installation, open_dir: Path
) -> None:
    home = open_dir / "home"
    home.mkdir(mode=0o755)
    image = Tool(plain_user.at(home), installed).image()
    root = Tool(Person("root", 0, 0, home), installed)
    assert root("add", "--datatype", 7, image, "-", input="x").returncode == 0
    assert (image.stat().st_uid, image.stat().st_gid) == (plain_user.uid, plain_user.gid)


def test_what_is_not_ours_to_write(user_sif: Tool) -> None:
    image = user_sif.image()
    image.chmod(0o444)
    check_failure(user_sif("del", 1, image), f"cannot change {image}: Permission denied")
    image.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(image, 0, 0)
        check_failure(user_sif("del", 1, image), "Permission denied")
        image.chmod(0o666)
        check_failure(user_sif("del", 1, image), "belongs to user 0")
        os.chown(image, user_sif.person.uid, user_sif.person.gid)
    user_sif.home.chmod(0o555)
    check_failure(user_sif("del", 1, image), "its directory takes no new files")
    check_failure(user_sif("new", "other.sif"), "Permission denied")
    user_sif.home.chmod(0o700)
    assert len(loaded(image).descriptors) == 4


@pytest.mark.root
def test_a_full_disk(plain_user: Person, installed: Installation, open_dir: Path) -> None:
    small = open_dir / "small"
    small.mkdir()
    tool = Tool(plain_user.at(small), installed)
    words = f"mount -t tmpfs -o size=100k,mode=777 tmpfs {small} && cd {small} && "
    words += f"{tool.hpcc} sif new a.sif && head -c 60000 /dev/zero > big; cp a.sif before; "
    words += f"{tool.hpcc} sif add --datatype 7 a.sif big; echo $?; cmp a.sif before; ls -A"
    done = Person("root", 0, 0, open_dir).run(["unshare", "-m", "sh", "-c", words])
    assert done.stdout.split() == ["255", "a.sif", "before", "big"], done.stderr
    assert "a.sif: No space left on device" in done.stderr


def test_changes_at_once(user_sif: Tool) -> None:
    user_sif.ok("new", "image.sif")
    line = 'for i in 1 2 3 4 5 6 7 8 9; do (printf $i | "$0" sif add --datatype 7 image.sif -) & done; wait'
    done = user_sif.shell(line)
    assert done.stderr == ""
    dumped = [user_sif.ok("dump", id, "image.sif") for id in range(1, 10)]
    assert sorted(dumped) == [str(number) for number in range(1, 10)]


def test_a_change_by_somebody_who_does_not_lock(user_sif: Tool) -> None:
    image = user_sif.image()
    user_sif.person.run(["mkfifo", "slow"])
    running = user_sif.person.popen(
        [user_sif.hpcc, "sif", "add", "--datatype", "7", "image.sif", "slow"], stderr=-1, text=True
    )
    with open(user_sif.home / "slow", "wb") as slow:
        wait_for_the_copy(user_sif.home)
        os.utime(image, ns=(1, 1))
        slow.write(b"x")
    _, said = running.communicate(timeout=60)
    assert running.returncode == 75 and "changed by somebody else meanwhile" in said
    assert len(loaded(image).descriptors) == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle(user_sif: Tool, number: int) -> None:
    image = user_sif.image()
    before = image.read_bytes()
    user_sif.person.run(["mkfifo", "slow"])
    running = user_sif.person.popen([user_sif.hpcc, "sif", "add", "--datatype", "7", "image.sif", "slow"], stderr=-1)
    with open(user_sif.home / "slow", "wb") as slow:
        temporary = wait_for_the_copy(user_sif.home)
        running.send_signal(number)
        running.communicate(timeout=60)
        slow.close()
    assert image.read_bytes() == before
    assert temporary.exists() == (number == signal.SIGKILL)
    user_sif.ok("del", "--compact", 4, image)  # and no lock is left
    assert len(loaded(image).descriptors) == 3


def wait_for_the_copy(home: Path) -> Path:
    """The changed copy, once the change itself has begun."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in home.glob(".image.sif.*"):
            if path.stat().st_size >= DATA_OFFSET and path.stat().st_mode & 0o777 == 0o755:
                return path
        time.sleep(0.01)
    raise AssertionError("no copy was made")


def test_a_change_waits_for_the_lock(user_sif: Tool) -> None:
    image = user_sif.image()
    with open(image, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        running = user_sif.person.popen([user_sif.hpcc, "sif", "del", "4", image])
        time.sleep(0.5)
        assert running.poll() is None and len(loaded(image).descriptors) == 4
    assert running.wait(timeout=60) == 0 and len(loaded(image).descriptors) == 3
