"""--memory, --cpus and their like, under a real kernel with cgroups of version 2 (tests/support/uml.py), as root and as
a plain user whose cgroup was delegated, by hand and by a real systemd; and on this machine, where it has version 1.

The scripts of SCRIPTS run one after the other, in one kernel; each leaves its status and output, and each test looks at
those of one script. The tree that they see:

    <uid>/               not delegated; gives memory, pids and cpu
      app/                 delegated, with these; gives them on, `idle` excepted
        shared/              where a shell runs hpcc
        alone/               where hpcc runs by itself
        tight/               as `shared`, with a limit of its own
      idle/                delegated as well, but it gives nothing on yet
        shared/
      none/                not delegated
"""

import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.test_run import Hpcc, hpcc  # noqa: F401
from tests.support import people
from tests.support.images import Images, images
from tests.support.installation import Installation
from tests.support.uml import run_in_uml

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, since only root's kernel sees others' files")

GO = "cd /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)"
OWN = f"cat /proc/self/cgroup; {GO}"
EAT = "dd if=/dev/zero of=/dev/null bs=200M count=1"
LEFT = "find $CG -name 'hpcc-*' -type d"

# name -> (cgroup, script). $H is hpcc, $I an image, $CG the person's cgroup
SCRIPTS = {
    "files": ("app/shared", f"""
        $H exec --memory 50M --memory-swap 60M --memory-reservation 10M --pids-limit 20 --cpus 0.5 --cpu-shares 512 \\
            $I sh -c '{OWN}; cat memory.max memory.swap.max memory.low pids.max cpu.max cpu.weight; exit 3'
        echo $?; {LEFT}"""),
    "place": ("app/shared", f"$H exec --memory 50M $I sh -c '{OWN}'"),
    "oom": ("app/shared", f"$H exec --memory 50M $I {EAT}; echo $?"),
    "oom-within": ("app/shared", f"$H exec --memory 50M $I sh -c '{EAT}; echo after $?; exit 4'; echo $?"),
    "no-oom": ("app/shared", f"$H exec --memory 500M $I {EAT}; echo $?"),
    "pids": ("app/shared", """
        $H exec --pids-limit 3 $I sh -c 'sleep 1 & sleep 1 & sleep 1 & sleep 1 & wait'; echo $?; sleep 1.5"""),
    **{f"mode{flags}": ("app/shared", f"""
        $H exec {flags} --memory 50M $I sh -c '{OWN}; {EAT}; echo $?; exit 9'; echo $?; {LEFT}""")
       for flags in ("--pid", "--containall", "--pid --no-init", "--userns", "--fakeroot", "--ipc --uts")},
    "streams": ("app/shared", "echo in | $H exec --memory 50M $I sh -c 'cat; echo err >&2'"),
    "signal": ("app/shared", """
        $H exec --memory 50M $I sh -c 'trap "echo got; exit 5" TERM; echo on >&2; while :; do sleep 0.1; done' \\
            2>signal &
        while [ ! -s signal ]; do sleep 0.1; done; kill $!; wait $!; echo $?"""),
    "killed": ("app/shared", f"""
        $H exec --memory 50M $I sh -c 'echo on; exec sleep 100' >ready & hpcc=$!
        while [ ! -s ready ]; do sleep 0.1; done
        cat $({LEFT})/cgroup.procs | wc -l; kill -9 $hpcc; sleep 1
        cat $({LEFT})/cgroup.procs | wc -l; {LEFT} | wc -l
        $H exec --memory 50M $I true; {LEFT} | wc -l"""),
    "survivor": ("app/shared", f"""
        $H exec --memory 50M $I sh -c 'sleep 3 >/dev/null 2>&1 &'; {LEFT} | wc -l; sleep 3
        $H exec --memory 50M $I true; {LEFT} | wc -l"""),
    "twenty": ("app/shared", f"""
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do $H exec --memory 50M $I true || echo no; done
        {LEFT} | wc -l"""),
    "at-once": ("app/shared", f"""
        for i in 1 2 3 4 5; do $H exec --memory 5${{i}}M $I sh -c '{GO}; cat memory.max' & done; wait
        {LEFT} | wc -l"""),
    "file": ("app/shared", f"""
        printf '[memory]\\nlimit = 52428800\\n[pids]\\nlimit = 7\\n[unified]\\n"memory.high" = "40M"\\n' >limits.toml
        $H exec --apply-cgroups limits.toml $I sh -c '{GO}; cat memory.max pids.max memory.high'"""),
    "unknown-file": ("app/shared", f"""
        printf '[unified]\\n"memory.nope" = "1"\\n' >limits.toml
        $H exec --apply-cgroups limits.toml $I true; echo $?; {LEFT} | wc -l"""),
    "not-given": ("app/shared", "$H exec --cpuset-cpus 0 $I true; echo $?"),
    "tight": ("app/tight", f"$H exec --memory 50M $I true; echo $?; {LEFT} | wc -l"),
    "instance": ("app/shared", f"""
        $H instance start --memory 60M $I web; $H exec instance://web sh -c '{GO}; cat memory.max; pwd'
        $H exec instance://web {EAT} 2>/dev/null; echo $?
        $H instance stats --json web | grep -e source -e '"limit"'; $H instance stop web; {LEFT} | wc -l"""),
    "instance-oom": ("app/shared", f"""
        $H instance run --memory 50M $I eater sh; sleep 1; $H instance stop eater 2>/dev/null
        {LEFT} | wc -l"""),
    "idle": ("idle/shared", f"$H exec --memory 50M $I sh -c '{GO}; cat memory.max'; {LEFT} | wc -l"),
    "alone": ("app/alone", f"exec $H exec --memory 50M --cpus 0.5 $I sh -c '{OWN}; cat memory.max cpu.max'"),
    "alone-left": ("app/shared", "ls $CG/app/alone | grep hpcc; cat $CG/app/alone/hpcc-beside/cgroup.procs"),
    "not-ours": ("none", "$H exec --memory 50M $I true; echo $?"),
    "no-limit": ("none", "$H exec --memory -1 --pids-limit -1 $I cat /proc/self/cgroup"),
}  # fmt: skip
_TREE = """
top={top}
mkdir $top $top/none $top/app $top/app/shared $top/app/alone $top/app/tight $top/idle $top/idle/shared
for d in $top $top/app; do echo '+memory +pids +cpu' >$d/cgroup.subtree_control; done
for d in $top/app $top/app/shared $top/app/alone $top/app/tight $top/idle $top/idle/shared; do
    chown {uid}:{gid} $d $d/cgroup.procs $d/cgroup.subtree_control $d/cgroup.threads
done
echo 300M >$top/app/tight/memory.max
"""
_STEP = """
mkdir -p {home}; chown {uid}:{gid} {home}
sh -c 'echo $$ >$0/cgroup.procs && cd $1 && shift && exec "$@"' {group} {home} \\
    {command} >/mnt/{name}.out 2>/mnt/{name}.err
echo $? >/mnt/{name}.status
"""


class Seen(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def quoted(name: str) -> str:
    return name.replace(" ", "_")


def step(name: str, group: str, script: str, person: people.Person, installed: Installation, top: str) -> str:
    """A line of shell that runs a script as a person, in a cgroup."""
    home = f"/run/{person.name}"
    variables = {
        "H": installed.hpcc, "I": images().sandbox, "CG": top, "HOME": home, "HPCC_NODE_DIR": f"{home}/node",
        "PATH": people.SYSTEM_PATH, "USER": person.name, "XDG_STATE_HOME": f"{home}/state",
        "XDG_RUNTIME_DIR": f"/run/user/{person.uid}",
    }  # fmt: skip
    words = ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), "sh", "-c", script]
    if person.uid:
        words = ["setpriv", f"--reuid={person.uid}", f"--regid={person.gid}", "--clear-groups", *words]
    text = _STEP.format(
        group=group, home=home, uid=person.uid, gid=person.gid, command=shlex.join(words), name=quoted(name)
    )
    return f"sh -c {shlex.quote(text)}"


def seen(results: Path, name: str) -> Seen:
    read = {kind: (results / f"{quoted(name)}.{kind}").read_text(errors="replace") for kind in ("status", "out", "err")}
    return Seen(int(read["status"]), read["out"], read["err"])


@pytest.fixture(scope="module")
def everything(installed: Installation, plain_user: people.Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all SCRIPTS by both persons, each in a kernel of their own."""
    images()
    results = tmp_path_factory.mktemp("uml")

    def run(person: people.Person) -> None:
        top = f"/sys/fs/cgroup/{person.uid}"
        lines = ["echo '+memory +pids +cpu' >/sys/fs/cgroup/cgroup.subtree_control"]
        lines.append(_TREE.format(top=top, uid=person.uid, gid=person.gid))
        for name, (group, script) in SCRIPTS.items():
            lines.append(step(name, f"{top}/{group}", script, person, installed, top))
        run_in_uml("\n".join(lines), results / person.name)

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(run, person) for person in (people.myself(Path("/root")), plain_user)]:
            each.result()
    return results


@pytest.fixture(params=["root", "user"])
def person(request: pytest.FixtureRequest, plain_user: people.Person) -> people.Person:
    return people.myself(Path("/root")) if request.param == "root" else plain_user


@pytest.fixture
def results(everything: Path, person: people.Person) -> "Results":
    return Results(everything, person)


class Results(NamedTuple):
    directory: Path
    person: people.Person

    def __call__(self, name: str) -> Seen:
        return seen(self.directory / self.person.name, name)

    @property
    def top(self) -> str:
        return f"/{self.person.uid}"


HIT = "WARNING: the limit of 50 MiB of memory was hit, and the kernel killed 1 process\n"


def test_each_option_is_a_file(results: Results) -> None:
    group, *values = results("files").lines
    assert group.startswith(f"0::{results.top}/app/hpcc-")
    assert values == ["52428800", "10485760", "10485760", "20", "50000 100000", "59", "3"], results("files").err


def test_memory_that_is_too_much_is_told(results: Results) -> None:
    assert results("oom") == (0, "137\n", HIT)
    assert results("oom-within").out == "after 137\n4\n" and results("oom-within").err.endswith(HIT)
    assert results("no-oom").out == "0\n" and "WARNING" not in results("no-oom").err


def test_processes_that_are_too_many_are_told(results: Results) -> None:
    assert "can't fork" in results("pids").err and "the limit of processes was hit, 1 time\n" in results("pids").err
    assert results("pids").out == "2\n"


@pytest.mark.parametrize("mode", [name for name in SCRIPTS if name.startswith("mode")])
def test_each_mode(results: Results, mode: str) -> None:
    group, *rest = results(mode).lines
    assert group.startswith(f"0::{results.top}/app/hpcc-") and rest == ["137", "9"], results(mode).err
    assert results(mode).err.endswith(HIT)


def test_streams_and_signals_are_the_payloads(results: Results) -> None:
    assert results("streams") == (0, "in\n", "err\n")
    assert results("signal").lines == ["got", "5"]


def test_the_payload_dies_with_hpcc_and_the_next_run_tidies_up(results: Results) -> None:
    assert results("killed").out.split() == ["1", "0", "1", "0"], results("killed").err


def test_what_survives_the_payload_keeps_its_limits(results: Results) -> None:
    assert results("survivor").out.split() == ["1", "0"]


def test_nothing_grows(results: Results) -> None:
    assert results("twenty") == (0, "0\n", "")
    assert sorted(results("at-once").lines) == sorted(["0", *(str(size << 20) for size in range(51, 56))])


def test_a_file_of_apptainers(results: Results) -> None:
    assert results("file").lines == ["52428800", "7", "41943040"], results("file").err
    refused = results("unknown-file")
    assert refused.out.split() == ["255", "0"] and "memory.nope: No such file" in refused.err


def test_where_it_cannot_be(results: Results) -> None:
    for name, said in (("not-given", "has not been given cpuset"), ("tight", "limit of its own (memory.max)")):
        assert results(name).lines[0] == "255" and said in results(name).err, results(name)
    assert "Delegate=cpu cpuset io memory pids" in results("not-given").err
    assert results("tight").lines[1] == "0"
    if results.person.uid:
        assert results("not-ours").out == "255\n" and "is not yours to divide" in results("not-ours").err
        assert "systemd-run" in results("not-ours").err
    assert results("no-limit").out == f"0::{results.top}/none\n"


def test_instances(results: Results) -> None:
    lines = results("instance").lines
    assert lines[0] == str(60 << 20) and lines[2] == "137", results("instance")
    assert lines[3:] == ['\t"source": "cgroup",', f'\t\t\t"limit": {60 << 20}', '\t\t"limit": 0', "0"]
    assert results("instance-oom").lines[-1] == "0"


def test_places_that_give_nothing_yet_are_made_to(results: Results) -> None:
    assert results("idle").lines == ["52428800", "0"], results("idle").err


def test_where_nobody_else_is_hpcc_steps_aside(results: Results) -> None:
    group, *values = results("alone").lines
    assert group.startswith(f"0::{results.top}/app/alone/hpcc-") and values == ["52428800", "50000 100000"]
    assert results("alone-left").lines == ["hpcc-beside"]


# -- a real systemd ----------------------------------------------------------------------------------------------------

SESSION = {
    "scope": f"cat /proc/self/cgroup; $H exec --memory 50M $I sh -c 'pwd; {OWN}; cat memory.max; env | grep INVOC'",
    "scope-again": f"cd /usr; echo in | $H exec --pids-limit 9 $I sh -c 'cat; {GO}; cat pids.max'; echo $?",
    "scope-oom": f"$H exec --memory 50M $I {EAT}; echo $?",
    "scope-instance": f"""
        $H instance start --memory 60M $I web; $H exec instance://web sh -c '{OWN}; cat memory.max'
        $H instance stop web""",
    "scope-gone": "sleep 1; systemctl --user list-units --type scope --no-legend --no-pager | grep -c hpcc",
    "no-bus": "unset XDG_RUNTIME_DIR; $H exec --memory 50M $I true; echo $?",
}
_LOGIN = """
mkdir -p /run/user/{uid}; chown {uid}:{gid} /run/user/{uid}; chmod 700 /run/user/{uid}
systemctl start dbus.socket dbus.service
systemctl start user@{uid}.service
"""


@pytest.fixture(scope="module")
def session(
    installed: Installation, plain_user: people.Person, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The results of SESSION, as the plain user in the scope of a login session, and once in a batch job's."""
    uid, gid = plain_user.uid, plain_user.gid
    lines = [_LOGIN.format(uid=uid, gid=gid)]
    for number, (name, script) in enumerate(SESSION.items()):
        unit = f"session-{number}.scope"
        text = step(name, f"/sys/fs/cgroup/user.slice/user-{uid}.slice/{unit}", script, plain_user, installed, "")
        lines.append(f"systemd-run --quiet --scope --slice=user-{uid}.slice --unit={unit} {text}")
    job = step("job", "/sys/fs/cgroup/system.slice/slurmstepd.scope", "$H exec --memory 50M $I true; echo $?",
               plain_user, installed, "")  # fmt: skip
    lines.append(f"systemd-run --quiet --scope --slice=system.slice --unit=slurmstepd.scope {job}")
    results = tmp_path_factory.mktemp("systemd")
    run_in_uml("\n".join(lines), results, systemd=True)
    yield results


def test_systemd_gives_a_scope(session: Path, plain_user: people.Person) -> None:
    slice = f"0::/user.slice/user-{plain_user.uid}.slice"
    before, cwd, group, memory = seen(session, "scope").lines
    assert before == f"{slice}/session-0.scope"
    assert group.startswith(f"{slice}/user@{plain_user.uid}.service/app.slice/hpcc-")
    assert group.count("/hpcc-") == 2 and ".scope/hpcc-" in group
    assert (memory, cwd) == ("52428800", f"/run/{plain_user.name}")
    assert seen(session, "scope-again") == (0, "in\n9\n0\n", "")
    assert seen(session, "scope-oom").out == "137\n" and seen(session, "scope-oom").err.endswith(HIT)
    assert seen(session, "scope-gone").out == "0\n"


def test_a_command_joins_the_limits_of_an_instance(session: Path) -> None:
    done = seen(session, "scope-instance")
    assert ".scope/hpcc-" in done.lines[0] and done.lines[1] == str(60 << 20), done.err


def test_without_a_way_to_systemd_it_says_so(session: Path) -> None:
    done = seen(session, "no-bus")
    assert done.out == "255\n" and "is not yours to divide; systemd-run: " in done.err


def test_a_batch_job_is_never_left(session: Path) -> None:
    done = seen(session, "job")
    assert done.out == "255\n" and "slurmstepd.scope is not yours to divide\n" in done.err and "srun --mem" in done.err


# -- this machine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def image() -> Images:
    return images()


def test_version_1_is_refused_with_the_reason(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    if not any(" - cgroup cgroup " in line and "memory" in line for line in Path("/proc/self/mountinfo").open()):
        pytest.skip("this machine has no cgroups of version 1")
    done = hpcc("exec", "--memory", "1G", image.main, "true")
    assert done.returncode == 255 and "--memory: this host has memory in cgroups of version 1" in done.stderr
    assert "systemd.unified_cgroup_hierarchy=1" in done.stderr and "srun --mem" in done.stderr
    assert hpcc("exec", "--memory", "-1", image.main, "true").returncode == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--memory", "abc"), "--memory abc"), (("--cpus", "0"), "--cpus 0"), (("--pids-limit", "-2"), "--pids-limit"),
     (("--memory", "1G", "--memory-swap", "1M"), "--memory-swap"), (("--blkio-weight", "5"), "--blkio-weight"),
     (("--cpuset-cpus", "x"), "--cpuset-cpus"), (("--cpu-shares", "x"), "--cpu-shares"),
     (("--apply-cgroups", "/nope"), "/nope: No such file"), (("--apply-cgroups", "/etc/passwd"), "--apply-cgroups"),
     (("--apply-cgroups", "x", "--memory", "1G"), "exclude"), (("--blkio-weight-device", "/dev/null:10"), "block"),
     (("--blkio-weight-device", "/dev/nope:10"), "No such file"), (("--blkio-weight-device", "x"), "DEVICE")],
    ids=str,
)  # fmt: skip
def test_bad_values(hpcc: Hpcc, image: Images, flags: tuple[str, ...], said: str) -> None:  # noqa: F811
    done = hpcc("exec", *flags, image.main, "true")
    assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_dry_run_and_variables(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    done = hpcc("exec", "--dry-run", "--memory", "1G", image.main, "true", env={"APPTAINER_PIDS_LIMIT": "9"})
    assert "\nLimit memory.max='1073741824', pids.max='9'\n" in done.stdout
    assert "\nLimit" not in hpcc("exec", "--dry-run", image.main, "true").stdout
