"""What the filesystem of two nodes in tests.support.sharedfs does; other tests build on it.

Everything here is a fact about MooseFS and about the shims, not about hpcc.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.people import Person
from tests.support.real import need
from tests.support.sharedfs import SHIMS, Node, SharedFs

PYTHON = [sys.executable, "-I", "-S", "-c"]


@pytest.fixture
def both(shared_fs: SharedFs) -> Iterator[tuple[Path, Path]]:
    """A new directory as each of the two nodes sees it; its name was never used before, see `SharedFs`."""
    first, second = (node.mount for node in shared_fs.nodes)
    path = Path(tempfile.mkdtemp(dir=first))
    path.chmod(0o755)
    yield path, second / path.name
    shutil.rmtree(path)


def on(node: Node, script: str, *argv: str | os.PathLike[str]) -> "subprocess.Popen[str]":
    """A Python script on a node; the caller ends it with `finish`."""
    words = node.argv([*PYTHON, script, *argv])
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def say(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def finish(process: "subprocess.Popen[str]", timeout: float = 60) -> str:
    """Its output, once its standard input is closed; it must end well."""
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0
    return output


# -- the two nodes -----------------------------------------------------------------------------------------------


@pytest.mark.root
def test_nodes_have_names_and_the_network_of_this_machine(shared_fs: SharedFs, plain_user: Person) -> None:
    says = "import os, socket; print(socket.gethostname(), os.getuid(), os.readlink('/proc/self/ns/net'), os.getppid())"
    here = os.readlink("/proc/self/ns/net")
    for node in shared_fs.nodes:
        assert finish(on(node, says)).split() == [node.name, "0", here, str(os.getpid())]
        done = node.person(plain_user).run([*PYTHON, says])
        assert done.stdout.split()[:3] == [node.name, str(plain_user.uid), here], done.stderr
    assert [node.name for node in shared_fs.nodes] == ["node1", "node2"]
    assert os.uname().nodename not in ("node1", "node2")


@pytest.mark.root
def test_a_person_of_a_node_stays_there(shared_fs: SharedFs, plain_user: Person) -> None:
    moved = shared_fs.nodes[1].person(plain_user).at(plain_user.home)
    assert moved.run(["cat", "/proc/sys/kernel/hostname"]).stdout == "node2\n"


@pytest.mark.root
def test_each_node_sees_the_files_of_the_other(both: tuple[Path, Path], plain_user: Person) -> None:
    first, second = both
    for number in range(20):
        (first / "file").write_text(str(number))
        assert (second / "file").read_text() == str(number)
        (second / "file").unlink()
        assert not (first / "file").exists()
    os.chown(second, plain_user.uid, plain_user.gid)
    assert plain_user.run(["sh", "-c", 'umask 027; mkdir -m 2770 "$0/d"; echo x >"$0/d/f"', str(first)]).returncode == 0
    found = (second / "d/f").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (plain_user.uid, plain_user.gid, 0o640)


_REPLACE = """
import os, sys
for number in range(int(sys.argv[2])):
    with open(f"{sys.argv[1]}/new", "w") as file:
        file.write(f"{number}\\n" * 3000)
    os.replace(f"{sys.argv[1]}/new", f"{sys.argv[1]}/file")
"""


@pytest.mark.root
def test_rename_shows_the_old_or_the_new(shared_fs: SharedFs, both: tuple[Path, Path]) -> None:
    first, second = both
    (first / "file").write_text("start\n" * 3000)
    writer = on(shared_fs.nodes[0], _REPLACE, first, "60")
    seen = set()
    while writer.poll() is None:
        lines = (second / "file").read_text().splitlines()  # FileNotFoundError if it were not atomic
        assert len(lines) == 3000 and len(set(lines)) == 1
        seen.add(lines[0])
    finish(writer)
    assert (second / "file").read_text() == "59\n" * 3000
    assert len(seen) > 2  # the two did meet


_RACE = """
import os, socket, sys
os.chdir(sys.argv[1])
me, won = socket.gethostname(), []
open(me, "x").close()
attempt = {
    "create": lambda name: os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)),
    "mkdir": lambda name: os.mkdir(name),
    "link": lambda name: os.link(me, name),
    "take away": lambda name: os.rename(name, f"{name}.{me}"),
}[sys.argv[2]]
sys.stdin.readline()
for number in range(100):
    try:
        attempt(str(number))
        won.append(number)
    except (FileExistsError, FileNotFoundError):
        pass
print(*won)
"""


@pytest.mark.root
@pytest.mark.parametrize("how", ["create", "mkdir", "link", "take away"])
def test_of_two_nodes_that_race_one_wins(shared_fs: SharedFs, both: tuple[Path, Path], how: str) -> None:
    if how == "take away":
        for number in range(100):
            (both[0] / str(number)).touch()
    racers = [on(node, _RACE, path, how) for node, path in zip(shared_fs.nodes, both, strict=True)]
    for racer in racers:
        say(racer, "go")
    won = [{int(number) for number in finish(racer).split()} for racer in racers]
    assert len(won[0]) + len(won[1]) == 100
    assert won[0] | won[1] == set(range(100))
    if how == "link":
        assert (both[1] / "node1").stat().st_nlink == 1 + len(won[0])


@pytest.mark.root
def test_a_link_is_counted(both: tuple[Path, Path]) -> None:
    first, second = both
    (first / "mine").touch()
    os.link(first / "mine", first / "lock")
    assert (first / "mine").stat().st_nlink == 2
    assert (second / "lock").stat().st_nlink == 2
    with pytest.raises(FileExistsError):
        os.link(second / "mine", second / "lock")


# -- locks between nodes -----------------------------------------------------------------------------------------

_HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""
_TRY = """
import fcntl, sys
try:
    getattr(fcntl, sys.argv[2])(open(sys.argv[1], "r+b"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("busy")
else:
    print("free")
"""


def is_free(node: Node, path: Path, how: str) -> bool:
    return finish(on(node, _TRY, path, how)) == "free\n"


@pytest.mark.root
@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_locks_hold_on_both_nodes(shared_fs: SharedFs, both: tuple[Path, Path], how: str) -> None:
    first, second = shared_fs.nodes
    (both[0] / "lock").touch()
    for ends in ("by itself", "killed"):
        holder = on(first, _HOLD, both[0] / "lock", how)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert not is_free(second, both[1] / "lock", how)
        assert not is_free(first, both[0] / "lock", how)
        waiter = on(second, _HOLD, both[1] / "lock", how)  # waits in the kernel
        if ends == "killed":
            holder.kill()
            holder.communicate(timeout=60)
        else:
            finish(holder)
        assert waiter.stdout is not None and waiter.stdout.readline() == "held\n"
        assert not is_free(first, both[0] / "lock", how)
        finish(waiter)
        assert is_free(first, both[0] / "lock", how)


@pytest.mark.root
@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_local_locks_hold_on_one_node(shared_fs: SharedFs, both: tuple[Path, Path], how: str) -> None:
    first, second = shared_fs.nodes
    (both[0] / "lock").touch()
    holder = on(first, _HOLD, first.local_locks / both[0].name / "lock", how)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert not is_free(first, first.local_locks / both[0].name / "lock", how)
    assert is_free(second, second.local_locks / both[0].name / "lock", how)
    assert is_free(second, both[1] / "lock", how)
    finish(holder)


# -- starting and stopping ---------------------------------------------------------------------------------------

_START = """
import sys
from tests.support.real import need
from tests.support.sharedfs import SharedFs
with SharedFs() as fs:
    print(fs.nodes[0].mount.parent, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.root
def test_what_a_killed_session_left_is_removed() -> None:
    need("mfsmaster")
    root = Path(__file__).resolve().parents[2]
    argv = [sys.executable, "-c", _START]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    killed = subprocess.Popen(argv, **pipes)
    assert killed.stdout is not None
    left = killed.stdout.readline().strip()
    assert os.path.ismount(f"{left}/node2")
    killed.kill()
    killed.communicate(timeout=60)
    assert os.path.isdir(left)
    after = subprocess.Popen(argv, **pipes)
    assert after.stdout is not None
    mine = after.stdout.readline().strip()
    assert not os.path.exists(left) and left not in Path("/proc/self/mountinfo").read_text()
    finish(after)
    assert not os.path.exists(mine) and mine not in Path("/proc/self/mountinfo").read_text()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:
            continue
        assert mine.encode() not in line and left.encode() not in line


# -- shims -------------------------------------------------------------------------------------------------------

_EACH_LOCK = """
import errno, fcntl, os, struct, sys
file = open(sys.argv[1], "r+b")
words = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
attempts = [
    lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
    lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
    lambda: fcntl.fcntl(file, fcntl.F_OFD_SETLK, words),
    lambda: os.lockf(file.fileno(), os.F_TLOCK, 0),
]
if len(sys.argv) > 2:  # what would wait without a shim
    attempts += [
        lambda: fcntl.flock(file, fcntl.LOCK_EX),
        lambda: fcntl.lockf(file, fcntl.LOCK_EX),
        lambda: fcntl.fcntl(file, fcntl.F_OFD_SETLKW, words),
        lambda: os.lockf(file.fileno(), os.F_LOCK, 0),
    ]
for attempt in attempts:
    try:
        attempt()
    except OSError as error:
        print(errno.errorcode[error.errno])
    else:
        print("got")
fcntl.fcntl(file, fcntl.F_GETFD)  # all else goes through
assert fcntl.fcntl(os.dup(file.fileno()), fcntl.F_DUPFD, 100) >= 100
"""


@pytest.fixture
def locked_file(tmp_path: Path) -> Iterator[Path]:
    """A file that this process holds both kinds of locks on."""
    path = tmp_path / "locked"
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield path


def outcomes(path: Path, env: dict[str, str], *more: str) -> list[str]:
    done = subprocess.run(
        [*PYTHON, _EACH_LOCK, path, *more], env={**os.environ, **env},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(("name", "result"), [("flock-noop", "got"), ("flock-enosys", "ENOSYS")])
def test_shims_make_locks_misbehave(
    shim: Callable[[str], Path], locked_file: Path, tmp_path: Path, name: str, result: str
) -> None:
    assert name in SHIMS
    env = {"LD_PRELOAD": str(shim(name))}
    assert outcomes(locked_file, {}) == ["EAGAIN"] * 4
    assert outcomes(locked_file, env, "and wait") == [result] * 8
    assert outcomes(locked_file, {**env, "FLOCK_SHIM_UNDER": str(tmp_path)}, "and wait") == [result] * 8
    assert outcomes(locked_file, {**env, "FLOCK_SHIM_UNDER": f"{tmp_path}/lock"}) == ["EAGAIN"] * 4


@pytest.mark.root
def test_shims_serve_every_user(shim: Callable[[str], Path], open_dir: Path, plain_user: Person) -> None:
    (open_dir / "lock").touch(mode=0o666)
    (open_dir / "lock").chmod(0o666)
    done = plain_user.run([*PYTHON, _TRY, open_dir / "lock", "flock"], env={"LD_PRELOAD": str(shim("flock-enosys"))})
    assert "Function not implemented" in done.stderr
