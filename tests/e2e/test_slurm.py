"""`hpcc slurm` and `srun hpcc exec` on a real Slurm of three nodes, as jobs' users see them."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.support.daemons import wait_until
from tests.support.images import images, marked
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.pulls import demo_registry
from tests.support.slurm import NODES, SlurmCluster

pytestmark = pytest.mark.root

MARK = "HPCC_TEST_MARK"


class Hpcc:
    """The commands of one person on the cluster; `mark` is in the environment of all that they start."""

    def __init__(self, slurm: SlurmCluster, person: Person, installed: Installation, registry: FakeRegistry) -> None:
        self.slurm, self.person, self.installed, self.registry = slurm, person, installed, registry
        self.image = f"docker://{registry.host}/library/demo:1.0"
        self.mark = f"{person.home}/{time.monotonic_ns()}"
        self.env = {
            "PATH": f"{installed.bin}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host, MARK: self.mark,
            "HPCC_HOLD_IDLE": "1",
        }  # fmt: skip

    def __call__(self, *argv: str | os.PathLike[str], **options: Any) -> Any:
        env = {**self.env, **options.pop("env", {})}
        return self.slurm.run([self.installed.hpcc, "slurm", *argv], self.person, env=env, **options)

    def script(self, text: str, name: str = "job.sh") -> Path:
        path = self.person.home / name
        path.write_text(text)
        os.chown(path, self.person.uid, self.person.gid)
        return path

    def directory(self, name: str) -> Path:
        path = self.person.home / name
        path.mkdir()
        os.chown(path, self.person.uid, self.person.gid)
        return path

    def read(self, name: str) -> str:
        return (self.person.home / name).read_text()

    def submit(self, *argv: str | os.PathLike[str], **options: Any) -> str:
        done = self("sbatch", "--parsable", *argv, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout.strip())

    def nothing_is_left(self, seconds: float = 15) -> bool:
        return wait_until(lambda: not marked(f"{MARK}={self.mark}"), seconds)


@pytest.fixture(scope="module")
def sif() -> Path:
    return images().main


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with demo_registry(quota=2) as registry:
        yield registry


@pytest.fixture
def hpcc(slurm: SlurmCluster, runs_as: Person, installed: Installation, registry: FakeRegistry) -> Hpcc:
    return Hpcc(slurm, runs_as, installed, registry)


@pytest.fixture
def user(
    slurm: SlurmCluster, plain_user: Person, installed: Installation, registry: FakeRegistry, open_dir: Path
) -> Hpcc:
    """The unprivileged one alone, for what does not depend on who it is."""
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return Hpcc(slurm, plain_user.at(home), installed, registry)


# -- sbatch ------------------------------------------------------------------------------------------------------------


def test_a_script_runs_in_its_image(hpcc: Hpcc) -> None:
    """One pull on the submit host; the script keeps its name, arguments, line numbers, output and code."""
    script = hpcc.script(
        "#!/bin/bash -u\n#SBATCH --output=out-%j.txt\n#HPCC compat\n"
        'echo "$# [$1] [$2] $(basename "$0") $LINENO $SLURM_JOB_NAME $-"; . /etc/os-release; echo $ID $(id -u)\n'
        'echo "${HPCC_OFFLINE-}${SECRET-}" $PWD; cat data; exit 7\n'
    )
    work = hpcc.directory("work")
    (work / "data").write_text("data\n")
    done = hpcc(
        "sbatch", "--wait", "--parsable", "--image", hpcc.image, "--bind", "/etc:/mnt", "--chdir",
        work, "--time", "5", script, "a b", "c", env={"SECRET": "leaked"},
    )  # fmt: skip
    assert done.returncode == 7, [path.read_text() for path in work.iterdir()]
    said = hpcc.read(f"work/out-{done.stdout.strip()}.txt").splitlines()
    assert re.fullmatch(r"2 \[a b\] \[c\] slurm_script 4 job\.sh \w*u\w*", said[0]), said
    assert said[1:] == [f"hpcc-demo {hpcc.person.uid}", f" {work}", "data"]
    assert hpcc.registry.counts["manifest_get"] <= 2


def test_another_interpreter_and_no_compat(user: Hpcc, sif: Path) -> None:
    """By default the container sees what the host has; the interpreter is the image's."""
    script = user.script("#!/usr/bin/busybox sh\n#HPCC image=/nowhere.sif\necho $0 $MARK2 $PWD; exec false\n", "x.bb")
    done = user("sbatch", "--wait", "--parsable", "--image", sif, "-o", "o", script, env={"MARK2": "host's"})
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(rf"\S+/slurm_script host's {user.person.home}\n", user.read("o"))
    assert user.slurm.jobs(done.stdout.strip())[0].fields["JobName"] == "x.bb"


def test_wrap_export_none_and_names(user: Hpcc, sif: Path) -> None:
    words = ["sbatch", "--wait", "--parsable", "--image", sif, "-o", "o", "--export=NONE", "-J", "mine"]
    done = user(*words, "--wrap", "echo $0 $HPCC_TEST_MARK; exit 3")
    assert done.returncode == 3, done.stderr
    assert "leaked" not in user.read("o") and user.read("o").endswith("slurm_script\n")
    assert user.slurm.jobs(done.stdout.strip())[0].fields["JobName"] == "mine"
    script = user.script("#!/bin/sh\n#SBATCH --job-name=of-script\n:\n")
    job = user.submit("--image", sif, "-o", "o", script)
    assert user.slurm.jobs(job)[0].fields["JobName"] == "of-script"


def test_without_slurm(user: Hpcc) -> None:
    """Said before anything is pulled."""
    bin_ = user.directory("bin")
    os.symlink("/bin/sh", bin_ / "sh")
    env = {**user.env, "PATH": str(bin_)}
    for words in (
        ["slurm", "sbatch", "--image", user.image, "--wrap", "true"],
        ["slurm", "srun", "--image", user.image, "id"],
        ["slurm", "salloc", "--image", user.image],
        ["pull", "--on", "slurm:x", user.image],
    ):
        done = user.person.run([user.installed.hpcc, *words], env=env)
        assert done.returncode == 255 and "is not on PATH" in done.stderr and user.registry.requests == [], done.stderr


def test_a_script_on_standard_input(user: Hpcc, sif: Path) -> None:
    done = user("sbatch", "--wait", "--image", sif, "-o", "o", input="#!/bin/sh\necho $SLURM_JOB_NAME; exit 4\n")
    assert done.returncode == 4 and user.read("o") == "sbatch\n", done.stderr


def test_a_path_with_blanks(user: Hpcc, sif: Path) -> None:
    """hpcc's own, which no first line can name: sh starts it then."""
    os.symlink(user.installed.venv, user.person.home / "a b")
    script = user.script('#!/bin/bash\n#SBATCH -o o\necho "${BASH_VERSION%%.*}" "$HPCC_BATCH" $GREETING "$@"; exit 8\n')
    code = f"""
import sys, hpcc_slurm
sys.executable = {str(user.person.home / "a b/bin/python")!r}
print(hpcc_slurm.submit({str(script)!r}, "x  y", image={str(sif)!r}, compat=True).wait(timeout=60))
"""
    done = user.slurm.run([user.installed.python, "-c", code], user.person, env=user.env)
    assert done.stdout == "8\n", done.stderr
    assert user.read("o") == '5  hello world "quoted" $HOME x  y\n'


def test_what_cannot_be_had_is_not_queued(user: Hpcc) -> None:
    script = user.script("#!/bin/sh\n:\n")
    for argv, code, said in (
        (("--image", f"docker://{user.registry.host}/library/none:1", script), 255, "none"),
        (("--image", "/nowhere.sif", script), 255, "nowhere.sif"),
        (("--image", "docker://127.0.0.1:9/x", script), 75, "127.0.0.1:9"),
        ((script,), 255, "no image is given"),
        (("--image", user.image), 255, "batch script"),
        (("--image", user.image, "--bind", "/a:b", script), 255, "/a:b"),
        (("--image", user.image, user.script("echo\n", "bad.sh")), 255, "batch script"),
        (("--image", user.image, "missing.sh"), 255, "missing.sh"),
        (("--image", user.image, user.script("#!/bin/sh\n#HPCC frob\n", "frob.sh")), 255, "frob"),
    ):
        done = user("sbatch", *argv)
        assert done.returncode == code and said in done.stderr and "FATAL" in done.stderr, (argv, done.stderr)
        assert "Traceback" not in done.stderr
    assert user.slurm.run(["squeue", "--noheader"]).stdout == ""
    user.registry.faults = Faults(unavailable=-1)
    assert user("sbatch", "--image", user.image, script).returncode == 75
    assert user.slurm.run(["squeue", "--noheader"]).stdout == ""


def test_an_image_that_is_gone_when_the_job_runs(user: Hpcc, sif: Path) -> None:
    image = user.person.home / "own.sif"
    image.write_bytes(sif.read_bytes())
    image.chmod(0o644)
    job = user.submit("--image", image, "--hold", "-o", "o", "--wrap", "echo never")
    image.unlink()
    user.slurm.run(["scontrol", "release", job], user.person)
    assert user.slurm.wait_job(job).code == 255
    assert f"{image}, which {image} was" in user.read("o") and f"scontrol requeue {job}" in user.read("o")


def test_dry_run(user: Hpcc) -> None:
    script = user.script("#!/bin/bash\n#HPCC nv\necho x\n")
    done = user("sbatch", "--dry-run", "--image", user.image, "-n", "2", script, "a b")
    assert done.returncode == 0 and user.registry.requests == [], done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith(f"#!{user.installed.hpcc} slurm-batch {{") and user.image in first and '"--nv"' in first
    assert rest == ["#HPCC nv", "echo x", "# sbatch --job-name=job.sh -n 2 /dev/stdin 'a b'"]
    assert user.slurm.run(["squeue", "--noheader"]).stdout == ""


def test_an_array_asks_no_registry(user: Hpcc) -> None:
    """A hundred tasks on three nodes, a cold cache, and two requests that count: one pull, and silence after that."""
    job = user.submit(
        "--image", user.image, "--compat", "--array=0-99", "--output=%a.txt", "--wrap",
        ". /etc/os-release; echo $SLURM_ARRAY_TASK_ID $ID $SLURMD_NODENAME",
    )  # fmt: skip
    before = list(user.registry.requests)
    assert user.registry.counts["manifest_get"] <= 2
    assert user.slurm.wait_job(job, 120).code == 0
    assert {each.code for each in user.slurm.jobs(job)} == {0} and len(user.slurm.jobs(job)) == 100
    said = [user.read(f"{task}.txt").split() for task in range(100)]
    assert [words[:2] for words in said] == [[str(task), "hpcc-demo"] for task in range(100)]
    assert {words[2] for words in said} == set(NODES)
    assert user.registry.requests == before
    assert user.nothing_is_left()


def test_a_heterogeneous_job(user: Hpcc, sif: Path) -> None:
    job = user.submit("--image", sif, "-o", "o-%j", "-n1", ":", "-n2", "--wrap", "echo $SLURM_HET_SIZE $SLURM_NTASKS")
    assert user.slurm.wait_job(job).code == 0
    assert user.read(f"o-{job}") == "2 1\n"


# -- pulls elsewhere ---------------------------------------------------------------------------------------------------


def test_pull_on(user: Hpcc) -> None:
    """A job of its own pulls, by the digest that was looked up here; once it is in the cache no other one does."""
    words = ["--image", user.image, "--pull-on", "debug", "-o", "o-%j", "--wrap", ". /etc/os-release; echo $ID"]
    job = user.submit(*words)
    assert [path for method, path in user.registry.requests if method == "GET" and "/manifests/1.0" in path] == []
    (pulling,) = re.findall(r"afterok:(\d+)", user.slurm.jobs(job)[0].fields["Dependency"]) or [str(int(job) - 1)]
    assert user.slurm.wait_job(pulling).code == 0, list(user.person.home.rglob("*.log"))
    assert user.slurm.wait_job(job).code == 0 and user.read(f"o-{job}") == "hpcc-demo\n"
    again = user.submit(*words)
    assert int(again) == int(job) + 1 and user.slurm.jobs(again)[0].fields["Dependency"] == "(null)"


def test_pull_on_that_fails_cancels_the_job(user: Hpcc) -> None:
    user.registry.blobs.clear()
    job = user.submit(
        "--image", user.image, "--pull-on", "debug", "-d", "afterany:1", "--wrap", "echo never", "-o", "never"
    )
    ended = user.slurm.wait_job(job)
    assert ended.state == "CANCELLED" and not (user.person.home / "never").exists()
    (log,) = user.person.home.rglob("hpcc/slurm/*.log")
    assert "FATAL" in log.read_text()


def test_pull_on_for_a_job_that_slurm_refuses(user: Hpcc) -> None:
    done = user("sbatch", "--image", user.image, "--pull-on", "debug", "-p", "nowhere", "--wrap", "true")
    assert done.returncode == 255 and "nowhere" not in done.stdout and "partition" in done.stderr
    done = user("sbatch", "--image", user.image, "--pull-on", "debug", "-d", "afterok:1?afterok:2", "--wrap", "true")
    assert done.returncode == 255 and "--dependency" in done.stderr
    assert user.slurm.run(["squeue", "--noheader"]).stdout == ""


def test_pull_runs_in_a_job(hpcc: Hpcc) -> None:
    argv = [hpcc.installed.hpcc, "pull", "--on", "slurm:debug", "x.sif", hpcc.image]
    done = hpcc.slurm.run(argv, hpcc.person, env=hpcc.env)
    assert done.returncode == 0, done.stderr
    assert (hpcc.person.home / "x.sif").is_file()
    done = hpcc.slurm.run(argv, hpcc.person, env=hpcc.env)
    assert done.returncode == 255 and "x.sif is there already" in done.stderr
    for where, said in (("slurm:nowhere", "partition"), ("slurm", "partition"), ("lsf:x", "no executor 'lsf'")):
        argv[3] = where
        done = hpcc.slurm.run(argv, hpcc.person, env=hpcc.env)
        assert done.returncode not in (0, 75) and said in done.stderr, done.stderr


# -- srun and salloc ---------------------------------------------------------------------------------------------------


def test_a_step(hpcc: Hpcc) -> None:
    """A container for each task; the largest code. A second step asks nobody."""
    script = ". /etc/os-release; echo $SLURM_PROCID $SLURMD_NODENAME $ID $PWD; exit $SLURM_PROCID"
    work = hpcc.directory("work")
    done = hpcc("srun", "--image", hpcc.image, "-N3", "--compat", "sh", "-c", script, cwd=work)
    assert done.returncode == 2, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"{n} {node} hpcc-demo {work}" for n, node in enumerate(NODES)]
    before = list(hpcc.registry.requests)
    done = hpcc("srun", "--image", hpcc.image, "-n1", "cat", ":", "--image", hpcc.image, "-n1", "false", input="")
    assert done.returncode == 1 and hpcc.registry.requests == before, done.stderr
    for argv, said in (((), "no command"), (("--multi-prog", "x"), "multi-prog"), (("--bcast=/x", "x"), "bcast")):
        done = hpcc("srun", "--image", hpcc.image, *argv)
        assert done.returncode == 255 and said in done.stderr


def test_an_allocation(user: Hpcc, sif: Path) -> None:
    """Its command runs here, as without hpcc, and steps in it have the image."""
    step = f"{user.installed.hpcc} slurm srun --env B=2 sh -c 'echo $A$B $SLURM_PROCID $GREETING'"
    done = user("salloc", "--image", sif, "--compat", "--env", "A=1", "-N2", "sh", "-c", f"echo $GREETING; {step}")
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "" and sorted(others) == [f'12 {n} hello world "quoted" $HOME' for n in (0, 1)]
    done = user("srun", "true")
    assert done.returncode == 255 and "no image is given" in done.stderr


def test_by_hand(user: Hpcc, sif: Path) -> None:
    """`srun hpcc exec` as people write it: descriptors and directories of PMI2 and PMIx, $TMPDIR, leaked GPUs."""
    local = user.directory("local")
    env = {**user.env, "TMPDIR": str(local), "HPCC_NV": "auto", "CUDA_VISIBLE_DEVICES": "0"}
    for options in ((), ("--compat", "--job-env"), ("--contain", "--job-env")):
        step = ["srun", "-N1", "-n2", "--export=ALL"]
        argv = [user.installed.hpcc, "exec", *options, sif, "bash", "-c"]
        done = user.slurm.run(
            [*step, "--mpi=pmi2", *argv, "[ -S /dev/fd/$PMI_FD ] && echo $PMI_RANK"], user.person, env=env
        )
        assert sorted(done.stdout.split()) == ["0", "1"], done.stderr
        script = "ls -d $PMIX_SERVER_TMPDIR/* >/dev/null && echo x >$TMPDIR/$PMIX_RANK && echo $PMIX_RANK"
        done = user.slurm.run([*step, "--mpi=pmix", *argv, script], user.person, env=env)
        assert sorted(done.stdout.split()) == ["0", "1"], done.stderr
        assert {path.name for path in local.iterdir()} == {"0", "1"}
        for path in local.iterdir():
            path.unlink()


# -- signals and ends --------------------------------------------------------------------------------------------------

TRAPS = "trap 'echo got $?; exit 5' USR1; trap 'echo term; exit 6' TERM; echo up; while :; do sleep 0.1; done"


@pytest.mark.parametrize("mode", ["--compat", "--contain"])
def test_a_signal_reaches_a_trap_inside(user: Hpcc, sif: Path, mode: str) -> None:
    job = user.submit("--image", sif, mode, "-o", "o", "--wrap", TRAPS)
    assert wait_until(lambda: "up" in user.read("o") if (user.person.home / "o").exists() else False, 20)
    user.slurm.run(["scancel", "--batch", "--signal=USR1", job], user.person)
    ended = user.slurm.wait_job(job)
    assert (ended.state, ended.code) == ("FAILED", 5) and "got" in user.read("o")
    assert user.nothing_is_left()


def test_the_end_of_time(user: Hpcc, sif: Path) -> None:
    """--signal comes before it; and at the end TERM, and KILL for a payload that ignores that. Slurm looks each half
    minute, so for both at once.
    """
    warned = user.submit("--image", sif, "--compat", "-o", "warned", "-t1", "--signal=B:USR1@58", "--wrap", TRAPS)
    work = "trap '' TERM; sleep 600 & echo up; while :; do sleep 0.1; done"
    over = user.submit("--image", sif, "--compat", "-o", "o", "-t1", "--wrap", work)
    assert wait_until(lambda: "up" in user.read("o") if (user.person.home / "o").exists() else False, 20)
    user.slurm.run(["scontrol", "update", f"JobId={over}", "EndTime=now"])
    assert user.slurm.wait_job(warned, 90).code == 5 and "got" in user.read("warned")
    assert user.slurm.wait_job(over, 90).state == "TIMEOUT"
    assert user.nothing_is_left(), marked(f"{MARK}={user.mark}")


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.15, 0.3, 0.6, 1.5])
def test_scancel_at_any_moment(user: Hpcc, sif: Path, wait: float) -> None:
    """Nothing of the job is left, a payload that ignores TERM included, and no job hangs in CG."""
    image = user.person.home / "own.sif"
    image.write_bytes(sif.read_bytes())  # so that its mount is not one of other tests
    image.chmod(0o644)
    work = "trap '' TERM; sleep 600 & sleep 600; sleep 600"

    def cancel() -> bool:
        return bool(user.slurm.run(["scancel", f"--user={user.person.name}"], user.person).returncode == 0)

    job = user.submit("--image", image, "--compat", "--array=0-2", "--wrap", work)
    step = user.person.popen(
        ["srun", "-N3", user.installed.hpcc, "exec", image, "sleep", "600"], env={**user.slurm.env, **user.env}
    )
    time.sleep(wait)
    try:  # again and again, since at first srun may not have a job yet
        assert wait_until(lambda: cancel() and step.poll() is not None, 30) and step.returncode != 0
    finally:
        step.kill()
    assert user.slurm.wait_job(job, 30).state == "CANCELLED"
    assert wait_until(lambda: not user.slurm.run(["squeue", "--noheader"]).stdout, 10), "a job hangs"
    assert user.nothing_is_left(), marked(f"{MARK}={user.mark}")


def test_codes_and_signals_of_the_payload(user: Hpcc, sif: Path) -> None:
    for script, code in (("exit 9", 9), ("kill -9 $$", 137), ("kill -TERM $$", 143)):
        done = user("srun", "--image", sif, "sh", "-c", script)
        assert done.returncode == code, (script, done.returncode, done.stderr)
    for script, code, number in (("exit 9", 9, 0), ("kill -9 $$", 0, 9)):
        done = user("sbatch", "--wait", "--parsable", "--image", sif, "-o", "o", "--wrap", script)
        ended = user.slurm.jobs(done.stdout.strip())[0]
        plain = user.slurm.run(["sbatch", "--wait", "-o", "o", "--wrap", script], user.person)
        assert (ended.code, ended.signal) == (code, number) and done.returncode == plain.returncode != 0


def test_a_killed_slurmd(user: Hpcc, sif: Path) -> None:
    """Its jobs' steps live on without it, as Slurm means it, and leave nothing at their end."""
    with SlurmCluster() as slurm:
        own = Hpcc(slurm, user.person, user.installed, user.registry)
        job = own.submit("--image", sif, "--compat", "-w", "n1", "-o", "o", "--wrap", "echo up; sleep 3; echo done")
        assert wait_until(lambda: (own.person.home / "o").exists() and "up" in own.read("o"), 20)
        for path in slurm.directory.glob("run/slurmd.n1.pid"):
            os.kill(int(path.read_text()), signal.SIGKILL)
        assert wait_until(lambda: "done" in own.read("o"), 20), job
        assert own.nothing_is_left()
        slurm.run(["scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=killed"])  # or Slurm waits for it


# -- from Python -------------------------------------------------------------------------------------------------------


def test_from_python(hpcc: Hpcc) -> None:
    code = f"""
import hpcc, hpcc_slurm
job = hpcc_slurm.submit(wrap="echo out $SLURM_ARRAY_TASK_ID; exit $SLURM_ARRAY_TASK_ID", image={hpcc.image!r},
                        compat=True, sbatch={{"array": "0-1", "output": "%A_%a.txt"}})
print(job.id.isdecimal(), job.wait(timeout=60), job.state(), job.logs().split())
print(sorted((task.id.partition("_")[2], task.state, task.code) for task in job.tasks()))
print(job._repr_html_().count("<tr>"), job.cancel(), job)
script = hpcc_slurm.submit("s.py", "a b", image={hpcc.image!r}, sbatch=["--job-name", "mine"])
script.cancel()
print(script.wait(timeout=60), script.state())
slow = hpcc_slurm.submit(wrap="sleep 60", image={hpcc.image!r})
try:
    slow.wait(timeout=1)
except TimeoutError as error:
    slow.cancel()
    print("late", slow.wait(timeout=60), slow.state())
for call in (lambda: hpcc_slurm.submit(wrap="true", image="/nowhere"), lambda: hpcc_slurm.Job("999999").state(),
             lambda: hpcc_slurm.submit(wrap="true", image={hpcc.image!r}, sbatch={{"partition": "nowhere"}}),
             lambda: hpcc_slurm.submit("s.py", image={hpcc.image!r}, nonsense=True)):
    try:
        call()
    except hpcc.HpccError as error:
        print(type(error).__name__, error.message.splitlines()[0][:60])
"""
    hpcc.script("#!/bin/sh\nsleep 30\n", "s.py")
    done = hpcc.slurm.run([hpcc.installed.python, "-c", code], hpcc.person, env=hpcc.env, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "True 1 FAILED ['out', '0', 'out', '1']"
    assert said[1] == "[('0', 'COMPLETED', 0), ('1', 'FAILED', 1)]"
    assert said[2].startswith("3 None <hpcc_slurm.Job ")
    assert re.fullmatch(r"\d+ CANCELLED", said[3]) and not said[3].startswith("0 ")
    assert re.fullmatch(r"late [1-9]\d* CANCELLED", said[4])
    assert [line.split()[0] for line in said[5:]] == ["ImageNotFound", "HpccError", "HpccError", "UsageError"]
    assert "999999" in said[6] and "partitio" in said[7]
