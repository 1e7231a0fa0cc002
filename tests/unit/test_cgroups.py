"""Which cgroup may be divided: from mountinfo, from a tree of directories that plays version 2, as its owner sees it.

What a real kernel makes of it stands in tests/e2e/test_limits.py.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcc.errors import RuntimeUnavailable
from hpcc.runtime import cgroups
from hpcc.runtime.cgroups import Group, Place, Tree, find_place, members, read_tree, sweep
from hpcc.runtime.limits import Setting
from tests.support.people import Person

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
MEMORY = frozenset(("memory",))


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "directories"),
    [
        (UNIFIED, "0::/\n", ["/sys/fs/cgroup"]),
        (UNIFIED, "0::/a/b\n", ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        (HYBRID, "4:memory:/job\n0::/job\n", ["/sys/fs/cgroup/unified/job", "/sys/fs/cgroup/unified"]),
        ("1 1 0:1 /pod/x /cg rw - cgroup2 c rw\n", "0::/pod/x/y\n", ["/cg/y", "/cg"]),
        ("1 1 0:1 /pod/x /cg rw - cgroup2 c rw\n", "0::/pod/x\n", ["/cg"]),
        ("1 1 0:1 /pod/x /cg rw - cgroup2 c rw\n", "0::/pod/xy\n", []),  # mounted, but not our part of it
        ("1 1 0:1 /pod /cg rw - cgroup2 c rw\n" + UNIFIED, "0::/a\n", ["/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        ("1 1 0:1 / /c\\040g rw shared:1 - cgroup2 c rw\n", "0::/a\n", ["/c g/a", "/c g"]),
        (UNIFIED, "0::/../outside\n", []),  # of a namespace
        (UNIFIED, "4:memory:/job\n", []),
        (HYBRID.rpartition("41 ")[0], "4:memory:/job\n0::/job\n", []),
        ("", "", []),
    ],
)
def test_read_tree(mountinfo: str, cgroup: str, directories: list[str]) -> None:
    assert list(read_tree(mountinfo, cgroup).directories) == directories


def test_version_1_is_refused_with_the_reason() -> None:
    found = find_place(read_tree(HYBRID, "4:memory:/job\n0::/job\n"), MEMORY, 1, managed=False)
    assert found == "this host has memory in cgroups of version 1, which hpcc does not use"
    found = find_place(read_tree(HYBRID.rpartition("41 ")[0], "4:memory:/job\n"), MEMORY, 1, managed=False)
    assert isinstance(found, str) and "version 1" in found


# -- a tree of directories ---------------------------------------------------------------------------------------------


class Played:
    """Cgroups as directories. A person owns those that were delegated, and asks in a process of their own."""

    def __init__(self, top: Path, person: Person) -> None:
        self.top, self.person = top, person
        self.make("", has="cpu memory pids", top=True)

    def make(
        self, path: str, *, has: str = "", gives: str = "", processes: str = "", own: bool = False, top: bool = False
    ) -> Path:
        directory = self.top / path
        directory.mkdir(exist_ok=True)
        files = {"cgroup.controllers": has, "cgroup.subtree_control": gives, "cgroup.procs": processes}
        for name, text in (files if top else {**files, "cgroup.type": "domain"}).items():
            (directory / name).write_text(text + "\n")
        for each in (directory, *directory.iterdir()) if own else ():
            os.chown(each, self.person.uid, self.person.gid)
        return directory

    def tree(self, path: str) -> Tree:
        return read_tree(f"1 1 0:1 / {self.top} rw - cgroup2 c rw\n", f"0::/{path}\n")

    def place(self, path: str, *, needed: frozenset[str] = MEMORY, managed: bool = False, ready: bool = False) -> str:
        """What the person finds, as a text: the place below the top and what is to be done, or why there is none."""

        def find() -> str:
            found = find_place(self.tree(path), needed, 7, managed=managed, ready=ready)
            if isinstance(found, Place):
                where = os.path.relpath(found.path, self.top)
                return " ".join((where, *(f"+{name}" for name in found.enable), *(["alone"] if found.alone else [])))
            return f"no: {found}"

        return as_person(self.person, find)


def as_person(person: Person, call: Callable[[], str]) -> str:
    """What `call` returns in a child process of that person."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() != person.uid:
                os.setgroups([])
                os.setresgid(person.gid, person.gid, person.gid)
                os.setresuid(person.uid, person.uid, person.uid)
            os.write(write, call().encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        text = file.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def played(runs_as: Person, open_dir: Path) -> Iterator[Played]:
    yield Played(open_dir / "cgroup", runs_as)


ROOT_ONLY = "is not yours to divide"


def test_a_parent_that_gives_what_is_needed(played: Played) -> None:
    played.make("app", has="memory pids", gives="memory", own=True)
    played.make("app/scope", has="memory", processes="5\n7", own=True)
    assert played.place("app/scope") == "app"
    assert played.place("app/scope", managed=True) == "app"  # nothing is changed in it
    assert played.place("app/scope", ready=True) == "app"


def test_a_parent_that_could_give_it(played: Played) -> None:
    """Enabled, unless systemd would disable it again."""
    played.make("app", has="memory pids", own=True)
    played.make("app/scope", processes="5\n7", own=True)
    assert played.place("app/scope") == "app +memory"
    assert played.place("app/scope", needed=frozenset(("memory", "pids"))) == "app +memory +pids"
    refused = played.place("app/scope", managed=True)
    if played.person.uid:
        assert refused.startswith("no: ")
    assert played.place("app/scope", ready=True) != "app +memory"


def test_a_scope_of_our_own_is_divided_after_we_have_stepped_aside(played: Played) -> None:
    played.make("app", has="memory", gives="memory", own=True)
    played.make("app/scope", has="memory", processes="7", own=True)
    assert played.place("app/scope") == "app/scope +memory alone"
    assert played.place("app/scope", managed=True) == "app/scope +memory alone"
    played.make("app/scope", has="memory", gives="memory", own=True)  # now it gives it, and holds nobody
    played.make("app/scope/hpcc-beside", has="memory", processes="7", own=True)
    assert played.place("app/scope/hpcc-beside", ready=True) == "app/scope"


def test_who_else_is_there_is_not_moved(played: Played) -> None:
    played.make("", has="memory")
    played.make("scope", has="memory", processes="7\n8", own=True)
    assert "has other processes than hpcc's" in played.place("scope", managed=True)


def test_of_others(played: Played) -> None:
    played.make("", has="memory")
    played.make("scope", has="memory", processes="7")
    if played.person.uid == 0:
        assert played.place("scope") == "scope +memory alone"
    else:
        assert played.place("scope") == f"no: the cgroup /scope {ROOT_ONLY}"


def test_a_procs_file_of_others_is_no_delegation(played: Played) -> None:
    played.make("", has="memory")
    played.make("scope", has="memory", processes="7", own=True)
    os.chown(played.top / "scope/cgroup.procs", 0, 0)
    assert played.person.uid == 0 or ROOT_ONLY in played.place("scope")


def test_controllers_that_were_not_given(played: Played) -> None:
    played.make("", has="cpu memory")
    played.make("scope", has="memory", processes="7", own=True)
    found = played.place("scope", needed=frozenset(("cpu", "cpuset")))
    assert found.startswith("no: the cgroup /scope has not been given cpu and cpuset")


@pytest.mark.parametrize(
    ("file", "text", "stays"),
    [("memory.max", "1000000", True), ("memory.max", "max", False), ("cpu.max", "50000 100000", True),
     ("cpu.max", "max 100000", False), ("cpuset.cpus", "0-1", True), ("cpuset.cpus", "", False),
     ("pids.max", "500", False)],
)  # fmt: skip
def test_a_limit_is_never_left(played: Played, file: str, text: str, stays: bool) -> None:
    played.make("app", has="memory", gives="memory", own=True)
    (played.make("app/scope", processes="5\n7", own=True) / file).write_text(text + "\n")
    if stays:
        assert f"limit of its own ({file})" in played.place("app/scope")
    else:
        assert played.place("app/scope") == "app"


def test_the_top_may_have_processes(played: Played) -> None:
    played.make("", has="memory", gives="memory", processes="1\n7", own=True, top=True)
    (played.top / "cgroup.type").unlink(missing_ok=True)
    assert played.place("") == "."


# -- what is made, and removed -----------------------------------------------------------------------------------------


def test_members() -> None:
    assert members("0-2,7") == {0, 1, 2, 7} and members("") == frozenset() == members("\n")


def test_sweep_takes_only_what_dead_ones_left(tmp_path: Path) -> None:
    dead = 2**22 + 5  # above the largest pid
    for name in (f"hpcc-{dead}-0", f"hpcc-{dead}-1", f"hpcc-{os.getpid()}-0", "hpcc-beside", "other", "hpcc-x"):
        (tmp_path / name).mkdir()
    (tmp_path / f"hpcc-{dead}-0" / "inner").mkdir()  # the payload may have divided it
    sweep(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"hpcc-{os.getpid()}-0", "hpcc-beside", "other", "hpcc-x"}


def test_a_value_that_is_not_taken_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("cgroup.subtree_control", "memory"), ("cgroup.controllers", "memory"), ("cgroup.procs", "")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "tree_of", lambda: Tree("/", (str(tmp_path),), frozenset()))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeUnavailable, match=r"--memory: .*memory\.max: No such file"):
        Group((Setting("memory.max", "1"),), "--memory")  # a directory has no such file
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_hit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group.__new__(Group)
    group.path, group._memory = str(tmp_path), 50 << 20
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n")
    (tmp_path / "pids.events").write_text("max 1\n")
    monkeypatch.setattr(cgroups, "_PATIENCE", 0)
    told: list[str] = []
    group.end(told.append)
    assert told == [
        "the limit of 50 MiB of memory was hit, and the kernel killed 2 processes",
        "the limit of processes was hit, 1 time",
    ]
