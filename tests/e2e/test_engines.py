"""The command lines of workflow engines, word by word as these write them, through the stand-ins and a shell.

Where they come from: snakemake/deployment/singularity.py (`shellcmd`) of 9.27.1 and 8.30.0; Nextflow's
SingularityBuilder, ApptainerBuilder and BashWrapperBuilder of 2023 to 2025; cwltool's singularity.py and
singularity_utils.py of 3.3. Each row is a line for bash, and what must come of it.
"""

import os
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person


class Line(NamedTuple):
    """`line` has {img}, {sandbox}, {old} and {work}, the working directory. `out`: stdout; `file`: of {work}/out."""

    line: str
    out: str = ""
    file: str | None = None
    status: int = 0
    environ: tuple[tuple[str, str], ...] = ()


# A directory of a workflow in which everything is awkward, but for what the engines themselves cannot do: Snakemake
# quotes by repr(), and Nextflow does not quote `cd $NXF_TASK_WORKDIR`.
PLAIN, ODD = "work", "wörk dir (1) & $more"

# snakemake 9.27.1: {envvars} {binary} {"--quiet --silent"|""} exec --home {cwd!r} {args} {img} {shell} -c '{cmd}'
SNAKEMAKE_9 = {
    "a rule": Line(
        " apptainer  exec --home '{work}'  {img} bash -c 'set -euo pipefail;  pwd; echo \"it'\\''s $HOME\" > out'",
        "{work}\n",
        "it's {work}\n",
    ),
    "its environment": Line(
        " apptainer  exec --home '{work}'  {img} bash -c 'set -euo pipefail;  echo $OMP_NUM_THREADS $TMPDIR'",
        "4 /tmp/of the host\n",
        environ=(("OMP_NUM_THREADS", "4"), ("TMPDIR", "/tmp/of the host")),
    ),
    "a script": Line(
        " apptainer  exec --home '{work}'  --bind '{work}/site':'/mnt/snakemake_searchpaths/item_0' "
        "--bind '{work}/other':'/mnt/snakemake_searchpaths/item_1' --bind '{work}/cache' {img} bash -c "
        "'set -euo pipefail;  cat /mnt/snakemake_searchpaths/item_*/module.py \"$HOME\"/cache/module.py'",
        "site\nother\ncache\n",
    ),
    "a shadow rule": Line(
        " apptainer  exec --home '{work}' --cleanenv --env A=1,B=2 --pwd '{work}/site' --bind '{work}/cache' "
        "{img} bash -c 'set -euo pipefail;  pwd; echo $A$B${{OMP_NUM_THREADS:-}}; cat module.py'",
        "{work}/site\n12\nsite\n",
        environ=(("OMP_NUM_THREADS", "4"),),
    ),
    "conda in it": Line(
        "SINGULARITYENV_CONDA_PKGS_DIRS=/tmp/pkgs  apptainer --quiet --silent exec --home '{work}'  {img} sh -c "
        "'echo $CONDA_PKGS_DIRS; conda info --json'",
        "/tmp/pkgs\n",
        status=127,
    ),
    "it fails": Line(" apptainer  exec --home '{work}'  {img} bash -c 'set -euo pipefail;  false | true'", status=1),
    "it is killed": Line(" apptainer  exec --home '{work}'  {img} bash -c 'kill -9 $$'; exit $?", status=137),
}
# what users put into --apptainer-args; each between --home and the image
ARGUMENTS = (
    "-e", "--cleanenv", "-C --pwd {quoted_work}", "--containall", "-c", "--contain", "--writable-tmpfs", "--no-home",
    "-B {quoted_work}:/data -B /tmp", "--bind /etc:/mnt:ro,/usr:/mnt2", "-H {quoted_work}", "-W {quoted_work}/cache",
    "--cwd /own", "--workdir {quoted_work}/cache --contain", "--env A=1,B=2", "-ec", "--cleanenv=true", "--nv",
    "--rocm", "--fakeroot", "-f", "--no-mount tmp,cwd", "--pid", "-p --ipc", "--uts --hostname box", "--compat",
    "--no-eval",
    "--no-init", "--no-umask", "--no-privs", "--userns", "-u", "--scratch /scratch", "-S /s1 -S /s2", "--nvccli",
    "--mount type=bind,src=/etc,dst=/mnt", "--disable-cache", "--no-https", "--keep-privs", "-i -n", "--network none",
)  # fmt: skip

# snakemake 8.30.0: the same by the name of singularity, and no binds of its own but the search paths
SNAKEMAKE_8 = {
    name: line._replace(line=line.line.replace(" apptainer ", " singularity ")) for name, line in SNAKEMAKE_9.items()
}

# Nextflow: `env -` leaves PATH alone, so neither HOME nor any HPCC_ variable is there; stdin is a FIFO's or none
_NXF = (
    'set +u; env - PATH="$PATH" ${{TMP:+{0}ENV_TMP="$TMP"}} ${{TMPDIR:+{0}ENV_TMPDIR="$TMPDIR"}} '
    '${{NXF_TASK_WORKDIR:+{0}ENV_NXF_TASK_WORKDIR="$NXF_TASK_WORKDIR"}} '
)
_SINGULARITY, _APPTAINER = (_NXF.replace("{0}", name) for name in ("SINGULARITY", "APPTAINER"))
_TASK = (("NXF_TASK_WORKDIR", "{work}"), ("TMPDIR", "/tmp"))
_CONTAINER_ENV = 'nxf_container_env() {{ cat << EOF\nexport PATH="/nxf/bin:\\$PATH"\nexport FOO="bar"\nEOF\n}}\n'
NEXTFLOW = {
    "exec": Line(
        _CONTAINER_ENV + _SINGULARITY + 'singularity exec --no-home --pid -B {quoted_work} {img} /bin/bash -c "cd '
        '\\"$NXF_TASK_WORKDIR\\"; eval $(nxf_container_env); /bin/bash -ue {work}/.command.sh"',
        "{work}\n",
        "bar /tmp none\n",
        environ=(*_TASK, ("FROM_HOST", "no")),
    ),
    "by apptainer": Line(
        _CONTAINER_ENV + _APPTAINER + 'apptainer exec --no-home --pid -B "$NXF_TASK_WORKDIR" {img} /bin/bash -c '
        '"cd $NXF_TASK_WORKDIR; eval $(nxf_container_env); /bin/bash -ue {work}/.command.sh"',
        "{work}\n",
        "bar /tmp none\n",
        environ=(*_TASK, ("FROM_HOST", "no")),
    ),
    "the older one": Line(
        'set +u; env - PATH="$PATH" SINGULARITYENV_TMP="$TMP" SINGULARITYENV_TMPDIR="$TMPDIR" '
        'SINGULARITYENV_FOO="a \'b\'" singularity exec -B "$PWD" {img} '
        '/bin/bash -c "cd $PWD; echo $TMPDIR; echo \\$FOO"',
        "/tmp\na 'b'\n",
        environ=_TASK,
    ),
    "engine options": Line(
        _SINGULARITY + 'singularity -q -v exec --no-home --pid -B {quoted_work} {img} bash -c "id -u; exit 3"',
        "{uid}\n",
        status=3,
        environ=_TASK,
    ),
    "run": Line(
        _SINGULARITY
        + "singularity run --no-home --pid -B {quoted_work} {plain} /bin/bash -ue {quoted_work}/.command.sh",
        "{work}\n",
        " /tmp none\n",
        environ=_TASK,
    ),
    "inputs that are only read": Line(
        _SINGULARITY + "singularity exec --no-home --pid -B {quoted_work}/site:{quoted_work}/site:ro "
        '-B "$NXF_TASK_WORKDIR/cache" {img} sh -c \'cd "$NXF_TASK_WORKDIR"; cat site/module.py; '
        "touch site/x 2>/dev/null || touch cache/x && ls cache'",
        "site\nmodule.py\nx\n",
        environ=_TASK,
    ),
    "spaces": Line(
        _SINGULARITY
        + "singularity exec --no-home --pid -B {quoted_work}/data\\ file {img} cat {quoted_work}/data\\ file",
        "data\n",
        environ=_TASK,
    ),
    "a variable of the host": Line(
        'set +u; env - PATH="$PATH" '
        '${{CUDA_VISIBLE_DEVICES:+SINGULARITYENV_CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES"}} '
        'SINGULARITY_BIND="/etc:/bound" singularity exec --no-home {img} '
        'sh -c "echo \\$CUDA_VISIBLE_DEVICES; ls /bound/passwd"',
        "0,2\n/bound/passwd\n",
        environ=(("CUDA_VISIBLE_DEVICES", "0,2"),),
    ),
}

# cwltool: DockerCommandLineJob.append_volume writes --mount as a row of CSV
_CWL = (
    "SINGULARITYENV_TMPDIR=/tmp SINGULARITYENV_MINE='a b' singularity --quiet run --contain --ipc --cleanenv --no-eval "
    "{0} --home {{quoted_work}}:/SJbHPL --mount=type=bind,source={{quoted_work}}/cache,target=/tmp "
    "'--mount=type=bind,source={{work}}/data file,target=/var/lib/cwl/stg0f3c/data file,readonly' "
    "--mount=type=bind,source=/etc,target=/in,readonly --pwd /SJbHPL --net --network none {{plain}} /bin/sh -c "
)
_CWL_DOES = (
    "'pwd; echo $HOME $MINE $FROM_HOST; cat /var/lib/cwl/stg*/data*; touch /in/x 2>/dev/null || echo readonly; "
    "ls /tmp; echo done > out'"
)
_CWL_OUT = "/SJbHPL\n/SJbHPL a b\ndata\nreadonly\nmodule.py\n"
CWLTOOL = {
    "with --userns": Line(_CWL.format("--userns") + _CWL_DOES, _CWL_OUT, "done\n", environ=(("FROM_HOST", "1"),)),
    "with --pid": Line(_CWL.format("--pid") + _CWL_DOES, _CWL_OUT, "done\n"),
    "a comma in a path": Line(
        "singularity --quiet run --contain --no-eval --userns --home {quoted_work}:/home "
        "'--mount=type=bind,\"source={work}/a,b\",target=/var/lib/cwl/x,readonly' --pwd /home {plain} "
        "cat /var/lib/cwl/x",
        "comma\n",
    ),
    "does --userns work": Line(
        "singularity exec --userns {old} true 2>&1 | grep -o -e 'No valid /bin/sh' "
        "-e \"/bin/sh doesn't exist in container\" -e 'executable file not found in'",
        "executable file not found in\n",
    ),
    "a sandbox": Line("singularity inspect --json {sandbox} | grep -c attributes", "1\n"),
    "which version": Line("singularity --version | cut -d + -f 1", "apptainer version 1.4.5\n"),
}


@pytest.fixture
def shim(runs_as: Person, installed: Installation) -> Path:
    assert runs_as.run([installed.hpcc, "shim", "enable"]).returncode == 0
    return runs_as.home / ".local/share/hpcc/shim"


def prepare(person: Person, name: str) -> Path:
    work = person.home / name
    for directory in ("site", "other", "cache"):
        (work / directory).mkdir(parents=True)
        (work / directory / "module.py").write_text(f"{directory}\n")
    (work / "data file").write_text("data\n")
    (work / "a,b").write_text("comma\n")
    (work / ".command.sh").write_text('pwd\necho "${FOO-} $TMPDIR ${FROM_HOST-none}" > out\n')
    if person.uid != os.geteuid():
        for path in (work, *work.rglob("*")):
            os.chown(path, person.uid, person.gid)
    return work


def check(person: Person, shim: Path, work: Path, line: Line) -> None:
    """Run a line of the table in `work`, and see what came of it."""
    found = images()
    words = {
        "work": str(work), "quoted_work": shlex.quote(str(work)), "uid": str(person.uid), "img": str(found.main),
        "plain": str(found.plain), "sandbox": str(found.sandbox), "old": str(found.old),
    }  # fmt: skip
    environ = {name: value.format(**words) for name, value in line.environ}
    done = person.run(
        ["bash", "-c", line.line.format(**words)], env={"PATH": f"{shim}:{SYSTEM_PATH}", **environ}, cwd=work
    )
    assert (done.returncode, done.stdout) == (line.status, line.out.format(**words)), done.stderr
    if line.file is not None:
        assert (work / "out").read_text() == line.file.format(**words)


@pytest.mark.parametrize("name", SNAKEMAKE_9)
@pytest.mark.parametrize(("table", "place"), [(SNAKEMAKE_9, ODD), (SNAKEMAKE_8, ODD)], ids=["9", "8"])
def test_snakemake(runs_as: Person, shim: Path, table: dict[str, Line], place: str, name: str) -> None:
    check(runs_as, shim, prepare(runs_as, place), table[name])


def test_arguments_of_users(runs_as: Person, shim: Path) -> None:
    work = prepare(runs_as, ODD)
    for arguments in ARGUMENTS:
        line = f" apptainer  exec --home '{{work}}' {arguments} {{img}} bash -c 'exit 3'"
        check(runs_as, shim, work, Line(line, status=3))


@pytest.mark.parametrize("name", NEXTFLOW)
def test_nextflow(runs_as: Person, shim: Path, name: str) -> None:
    check(runs_as, shim, prepare(runs_as, PLAIN), NEXTFLOW[name])


@pytest.mark.parametrize("name", CWLTOOL)
@pytest.mark.parametrize("place", [PLAIN, ODD], ids=["plain", "odd"])
def test_cwltool(runs_as: Person, shim: Path, place: str, name: str) -> None:
    check(runs_as, shim, prepare(runs_as, place), CWLTOOL[name])
