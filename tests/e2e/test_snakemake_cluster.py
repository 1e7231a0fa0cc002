"""Jobs of a workflow on the three nodes of a real Slurm, by the executors slurm and cluster-generic."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.slurm import NODES, SlurmCluster
from tests.support.workflow import Workflow, add

pytestmark = pytest.mark.root  # Slurm's daemons are root's; the workflow is a plain user's

JOBS = 4
WORKFLOW = """
rule all:
    input: expand("out/{n}", n=range(JOBS)), "shut"
rule one:
    output: "out/{n}"
    resources: mem_mb=3000, runtime=5
    container: "docker://REGISTRY/lab/a:1"
    shell: "(cat /version; echo $SLURMD_NODENAME; mktemp) > {output}; sleep 1"
rule shut:
    output: "shut"
    resources: mem_mb=100, runtime=5
    container: image("docker://REGISTRY/lab/a:1", compat=True)
    shell: "(cat /version; echo ${{SLURMD_NODENAME:-}}; touch /etc/x && echo writable) > {output}"
"""


@pytest.fixture(scope="module")
def engines() -> Installation:
    return installation.install(("snakemake",), "engines")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=2) as registry:
        add(registry, "a")
        yield registry


@pytest.mark.parametrize("executor", ["slurm", "cluster-generic"])
def test_jobs_ask_no_registry(
    slurm: SlurmCluster,
    plain_user: Person,
    engines: Installation,
    registry: FakeRegistry,
    open_dir: Path,
    executor: str,
) -> None:
    """Each of them finds the image that was there before the first was submitted. The cache is cold, the quota two."""
    (open_dir / "home").mkdir()
    person = plain_user.at(open_dir / "home")
    work = Workflow(person, engines, registry, person.home / "work")
    # The executor takes SLURM_CONF from its nested srun, which then looks for the site's own.
    srun = person.home / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={slurm.env["SLURM_CONF"]} exec /usr/bin/srun "$@"\n')
    srun.chmod(0o755)
    work.env |= slurm.env | {"PATH": f"{srun.parent}:{work.env['PATH']}"}
    scratch = person.home / "scratch"
    scratch.mkdir()
    person.at(scratch)
    work.write("from hpcc_snakemake import image\n" + WORKFLOW.replace("JOBS", str(JOBS)))
    common = (
        "--executor",
        executor,
        "--jobs",
        "6",
        "--latency-wait",
        "10",
        "--default-resources",
        f"tmpdir={str(scratch)!r}",
    )
    # without the environment: what is not in job scripts does not reach the jobs
    submit = "sbatch --parsable --export=NIL --mem={resources.mem_mb} --output=/dev/null"
    argv = {
        "slurm": (
            "--slurm-no-account",
            "--slurm-status-command",
            "squeue",
            "--seconds-between-status-checks",
            "1",
            "--slurm-init-seconds-before-status-checks",
            "1",
        ),
        "cluster-generic": ("--cluster-generic-submit-cmd", submit, "--seconds-between-status-checks", "1"),
    }[executor]
    done = work.run(*common, *argv, "--retries", "0", HPCC_STAGE="node" if executor == "slurm" else "shared")
    logs = "".join(path.read_text() for path in (work.directory / ".snakemake/slurm_logs").rglob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    lines = [work.text(f"out/{n}").splitlines() for n in range(JOBS)]
    assert {line[0] for line in lines} == {"a 1"} and {line[1] for line in lines} <= set(NODES)
    assert all(line[2].startswith(f"{scratch}/") for line in lines)
    version, node, writable = work.text("shut").splitlines()
    assert (version, writable) == ("a 1", "writable") and node in NODES  # job variables reach it, too
    assert registry.counts["manifest_get"] == 2, registry.requests
    copies = list((person.home / "node").glob("staged-v1/*"))
    assert bool(copies) == (executor == "slurm"), copies
