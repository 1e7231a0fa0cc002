"""Many runs: a hundred in a row, a hundred at once, and what one of them asks of the kernel."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.e2e.test_run_hold import Held, held, held_for  # noqa: F401
from tests.support.images import marked
from tests.support.real import need

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the processes in another's namespace")

# Of a warm run of a SIF, from the exec of bin/hpcc to that of the payload; what it took when this was written, and a
# tenth. Each is a round trip where hpcc or the image lies on a shared filesystem.
BUDGET = {"open": 200, "stat": 330}
CALLS = {
    "open": ("open", "openat"),
    "stat": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat", "readlink"),
}


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    """kB"""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@held_for("held", [30.0], indirect=True)
@pytest.mark.parametrize("flags", [(), ("--containall",)], ids=["default", "containall"])
def test_a_hundred_in_a_row_leave_what_one_leaves(held: Held, flags: tuple[str, ...]) -> None:  # noqa: F811
    argv = [held.hpcc, "exec", *flags, held.image, "true"]
    for _ in range(5):
        assert held.person.run(argv, env=held.env).returncode == 0
    (holder,) = held.holders()
    daemons = held.daemons()
    before = (descriptors(holder), len(marked(held.mark)))
    memory = sum(map(resident, [holder, *daemons]))
    mounts = Path("/proc/self/mountinfo").read_text().count("\n")
    script = f"for i in $(seq 100); do '{held.hpcc}' exec {' '.join(flags)} '{held.image}' true || exit 1; done"
    done = held.person.run(["sh", "-c", script], env=held.env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert held.holders() == [holder] and held.daemons() == daemons
    assert (descriptors(holder), len(marked(held.mark))) == before
    assert sum(map(resident, [holder, *daemons])) < memory + 2000
    assert Path("/proc/self/mountinfo").read_text().count("\n") == mounts
    assert sorted(path.name for path in (held.directory.parent / "stage").iterdir()) == []


@held_for("held", [3.0], indirect=True)
def test_a_hundred_at_once(held: Held) -> None:  # noqa: F811
    """All of them begin cold; each gives its own answer, and in the end nothing is left."""
    processes = [held.popen("sh", "-c", f"echo {number}; exit {number % 7}") for number in range(100)]
    for number, process in enumerate(processes):
        out, _ = process.communicate(timeout=120)
        assert (process.returncode, out) == (number % 7, f"{number}\n")
    deadline = time.monotonic() + 30
    while marked(held.mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(held.mark) == {}


@held_for("held", [30.0], indirect=True)
def test_what_a_warm_run_asks_of_the_kernel(held: Held, tmp_path: Path) -> None:  # noqa: F811
    for _ in range(2):
        assert held.run("true").returncode == 0
    trace = held.person.home / "trace"
    names = ",".join(name for names in CALLS.values() for name in names)
    argv = [
        need("strace"),
        "-f",
        "-o",
        trace,
        "-e",
        f"trace=execve,{names}",
        held.hpcc,
        "exec",
        held.image,
        "/bin/true",
    ]
    done = held.person.run(argv, env=held.env)
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    ours = lines[: max(at for at, line in enumerate(lines) if 'execve("/bin/true"' in line)]
    by_path = [line for line in ours if "AT_EMPTY_PATH" not in line]  # an fstat asks nobody
    calls = [match[1] for line in by_path if (match := re.match(r"\d+\s+(\w+)\(", line))]
    found = {kind: sum(call in names for call in calls) for kind, names in CALLS.items()}
    assert all(0 < found[kind] <= BUDGET[kind] for kind in BUDGET), found
