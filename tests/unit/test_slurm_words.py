"""hpcc's options among Slurm's, and what is written into a batch script."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from hpcc.errors import UsageError
from hpcc_slurm.batch import container_words, start_words
from hpcc_slurm.job import parse_job
from hpcc_slurm.sbatch import COMMAND
from hpcc_slurm.script import Decided, interpreter, own_words, read_decided, slurm_values, with_decided
from hpcc_slurm.steps import COMMANDS
from hpcc_slurm.words import FLAGS, VALUES, Line, job_words, own_options, take_apart
from tests.support.real import need

PROGRAMS = ("sbatch", "srun", "salloc")
SHARED = {"--quiet", "--verbose", "--help", "--network"}  # which both have, and which are Slurm's


def apart(*words: str, program: str = "sbatch") -> Line:
    return take_apart(words, program, COMMAND.options)


class Real:
    """A real program of Slurm's, which wants a configuration even where it only reads options."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self._program, self._config = name, need(name), directory / "slurm.conf"
        self._config.write_text("ClusterName=x\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n")

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [self._program, *words], env={"SLURM_CONF": str(self._config)}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def takes_next(self, option: str) -> bool:
        """Whether the next word is the option's value. What it does not know ends it, before it does anything."""
        return "unrecognized option '--first'" not in self(option, "--first", "--second")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_option_of_ours_is_one_of_slurms(program: str, tmp_path: Path) -> None:
    """By the real program's own help; and our table knows which of its options have the next word as their value."""
    options = (COMMAND if program == "sbatch" else COMMANDS[program]).options
    ours = {name for option in options for name in option.names}
    assert all(name.startswith("--") for name in ours) and {"--image", "--compat", "--bind", "--nv"} < ours
    real = Real(program, tmp_path)
    theirs = re.findall(r"^ +(?:-(\w),? +|)--([a-z][\w-]*)", real("--help"), re.M)
    assert len(theirs) > 60
    assert not ours & {f"--{name}" for _, name in theirs} and not SHARED & ours
    for letter, name in theirs:
        if name in ("help", "usage", "version"):
            continue
        assert name in VALUES | FLAGS, name
        for word in (f"--{name}", *((f"-{letter}",) if letter else ())):
            rest = take_apart([word, "value", "script"], program, options).rest
            assert rest == (("script",) if real.takes_next(word) else ("value", "script")), word


def test_words_are_told_apart() -> None:
    line = apart(
        "--image", "docker://a", "-N", "2", "--compat", "-vQ", "-n4", "--time", "10", "--bind=/a:/b", "-J", "x y",
        "--array=0-9", "--part", "debug", "--exclusive", "--nv", "s.sh", "--compat", "-N",
    )  # fmt: skip
    assert line.ours == ("--image", "docker://a", "--compat", "--bind=/a:/b", "--nv")
    assert line.rest == ("s.sh", "--compat", "-N")
    assert line.theirs == (
        "-N", "2", "-vQ", "-n4", "--time", "10", "-J", "x y", "--array=0-9", "--partition", "debug", "--exclusive",
    )  # fmt: skip
    assert line.value("job-name") == "x y" and line.value("array") == "0-9" and line.value("exclusive") == ""
    assert line.value("dependency") is None
    assert job_words(line.ours, COMMAND) == ("--compat", "--bind=/a:/b", "--nv")


def test_beginnings_of_names() -> None:
    """As getopt takes them, but our names are never a beginning of Slurm's."""
    line = apart("--contain", "--depend", "afterok:1", "--wra", "echo", "--wrap=true")
    assert line.ours == ("--contain",) and line.value("dependency") == "afterok:1"
    assert line.theirs == ("--dependency", "afterok:1", "--wrap", "echo", "--wrap=true") and line.rest == ()
    assert apart("--brand-new=1", "--flag", "s.sh").rest == ("s.sh",)
    with pytest.raises(UsageError, match="--time needs a value"):
        apart("--time")
    assert apart("--image", "x", "--", "-odd.sh").rest == ("-odd.sh",)


def test_heterogeneous_jobs() -> None:
    line = apart("-n1", "-J", "a", ":", "-n", "2", "-J", "b", "--compat", "s.sh", ":", "x")
    assert line.theirs == ("-n1", "-J", "a", ":", "-n", "2", "-J", "b") and line.value("job-name") == "a"
    assert line.ours == ("--compat",) and line.rest == ("s.sh", ":", "x")


SCRIPT = """\
#!/usr/bin/env python3
# a comment
#SBATCH -J name --time=5 # why
#SBATCH --dependency=afterok:7

#HPCC image=docker://debian:12 compat
#HPCC\tbind="/a b:/c" --env=A=1  # why
#HPCCX nothing
print(1)
#HPCC nv
#SBATCH -J other
"""


def test_lines_of_a_script() -> None:
    assert own_words(SCRIPT) == ("--image=docker://debian:12", "--compat", "--bind=/a b:/c", "--env=A=1")
    assert slurm_values(SCRIPT) == {"job-name": "name", "time": "5", "dependency": "afterok:7"}
    assert slurm_values("#!/bin/sh\n#SBATCH -n 1 -J a\n#SBATCH hetjob\n#SBATCH -J b\n") == {"n": "1", "job-name": "a"}
    assert interpreter(SCRIPT) == ("/usr/bin/env", "python3")
    assert interpreter("#! /bin/awk -f -x \n") == ("/bin/awk", "-f -x")
    for bad in ("", "echo\n", "#!\n", "#!  \necho"):
        with pytest.raises(UsageError, match="does not look like a batch script"):
            interpreter(bad)
    with pytest.raises(UsageError, match="#HPCC"):
        own_words("#!/bin/sh\n#HPCC bind='/a\n")


DECIDED = Decided("/c/x.sif", "docker://ü", ("--compat", "--env", "A=\n'"), ("/usr/bin/env", "python3"), {"A": "1"})


def test_a_submitted_script_keeps_its_lines() -> None:
    made = with_decided(SCRIPT, ["/opt/hpcc/bin/hpcc"], DECIDED)
    assert made.split("\n")[1:] == SCRIPT.split("\n")[1:]
    first = made.split("\n")[0]
    assert first.startswith("#!/opt/hpcc/bin/hpcc slurm-batch {") and first.isascii()
    assert json.loads(first.partition("slurm-batch ")[2])["image"] == "/c/x.sif"
    assert read_decided(made) == (DECIDED, False)


@pytest.mark.parametrize("program", [["/opt/my hpcc/bin/hpcc"], [f"/{'x' * 130}/hpcc"], ["/py", "-P", "-m", "hpcc"]])
def test_a_line_of_sh_where_no_first_line_is_possible(program: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="first line"):
        with_decided(SCRIPT, program, DECIDED)
    script = '#!/bin/bash\n#SBATCH -n 1\n\necho "$HPCC_BATCH" $0 "$1"\n'
    made = with_decided(script, program, DECIDED._replace(run=("/bin/bash",)))
    assert (
        slurm_values(made) == {"n": "1"}
        and made.endswith(script.partition("\n\n")[2])
        and read_decided(made) == (DECIDED._replace(run=("/bin/bash",)), True)
    )
    path = tmp_path / "s"
    path.write_text(made)
    path.chmod(0o755)
    done = subprocess.run([path, "a b"], env={"HPCC_BATCH": "1"}, capture_output=True, text=True)  # as inside
    assert done.stdout == f" {path} a b\n"
    done = subprocess.run([path], env={}, capture_output=True, text=True)
    assert done.returncode in (126, 127) and program[0] in done.stderr


def test_no_script_of_ours() -> None:
    for bad in (
        "",
        SCRIPT,
        "#!/hpcc slurm-batch {}\n",
        '#!/hpcc slurm-batch {"version": 1}\n',
        "#!/h slurm-batch [1]\n",
    ):
        with pytest.raises(UsageError, match="no script that"):
            read_decided(bad)
    with pytest.raises(UsageError, match="version 2"):
        read_decided('#!/hpcc slurm-batch {"version": 2}\n')


def test_the_command_of_a_job() -> None:
    words = container_words("/sp:ool/s", ["a b"], DECIDED, {"HOME": "/home/a"}, "/data", has_guard=True)
    assert words == [
        "--job-env", "--bind", "/sp\\:ool/s:/sp\\:ool/s:ro", "--pwd", "/data", "--env", "HPCC_BATCH=1",
        *DECIDED.options, "--", "/c/x.sif", "/usr/bin/env", "python3", "/sp:ool/s", "a b",
    ]  # fmt: skip
    assert start_words([], {}, "/data") == [] == start_words(["--compat", "--pwd", "/x"], {}, "/data")
    assert start_words(["--contain"], {"HOME": "/home/a"}, "/home/a") == []


def test_options_that_hpcc_exec_has() -> None:
    names = {name for option in own_options() for name in option.names}
    assert {"--offline", "--platform", "--stage", "--job-env", "--fakeroot"} < names and "--dry-run" not in names


def test_a_job_as_scontrol_shows_it() -> None:
    line = (
        "JobId=9 ArrayJobId=7 ArrayTaskId=2 JobName=a b=c UserId=x(1) JobState=FAILED Reason=NonZeroExitCode "
        "ExitCode=0:9 NodeList=n1 BatchHost=n1 Command=/dev/stdin x WorkDir=/a b StdOut=/a b/slurm-7_2.out Power="
    )
    assert parse_job(line) == ("7_2", "FAILED", 137, "/a b/slurm-7_2.out", "n1")
    line = "JobId=5 HetJobId=4 HetJobOffset=1 JobState=PENDING ExitCode=0:0 NodeList=(null) StdOut=/o Power="
    assert parse_job(line) == ("4+1", "PENDING", 0, "/o", "")
    assert parse_job("") is None
