"""The real Snakemake 9 and 8 over the stand-ins of `hpcc shim`: workflows, prefixes, and what is said of a failed pull.

Their command lines, word by word: test_engines.py; `pull --name`: test_pull_name.py.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.pulls import demo_registry

SNAKEFILE = """
IMAGE = config["image"]
rule all:
    input: "out/three.txt", "out/local.txt"
rule one:
    output: "out/one.txt"
    container: IMAGE
    shell: "(head -n 1 /etc/os-release; echo 'a \\"b\\"' \\"$FROM_HOST\\" $(id -u)) > {output}"
rule two:
    input: "out/one.txt"
    output: "out/two.txt"
    container: IMAGE
    shell: "tr a-z A-Z < {input} > {output}"
rule three:
    input: "out/two.txt"
    output: "out/three.txt"
    params: words=["x y", "z"]
    container: IMAGE
    script: "three.py"
rule local:
    output: "out/local.txt"
    container: None
    shell: "test ! -e /etc/hpcc-demo && head -n 1 /etc/os-release > {output}"
"""
SCRIPT = """
import sys
with open(snakemake.input[0]) as source, open(snakemake.output[0], "w") as sink:
    sink.write(source.read() + repr(snakemake.params.words) + open("/etc/os-release").readline())
"""


class Workflow:
    """A person's directory with a workflow, a Snakemake, and a registry that has its image."""

    def __init__(self, person: Person, hpcc: Installation, snakemake: Path, registry: FakeRegistry) -> None:
        self.person, self.hpcc, self.snakemake, self.registry = person, hpcc, snakemake, registry
        self.shim = person.home / "shim"
        self.image = f"docker://{registry.host}/library/demo:1.0"
        assert person.run([hpcc.hpcc, "shim", "enable", "--dir", self.shim]).returncode == 0
        self.fill(person.home)

    def fill(self, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        (directory / "Snakefile").write_text(SNAKEFILE)
        (directory / "three.py").write_text(SCRIPT)
        return self.person.at(directory).home

    def argv(self, *argv: str) -> list[str]:
        words = [str(self.snakemake), "--sdm", "apptainer", "--cores", "2", *argv]
        return [*words, "--config", f"image={self.image}"]

    def environ(self, **env: str) -> dict[str, str]:
        path = f"{self.shim}:{SYSTEM_PATH}"
        return {"PATH": path, "HPCC_INSECURE": self.registry.host, "FROM_HOST": "of the host", **env}

    def __call__(self, *argv: str, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
        return self.person.run(self.argv(*argv), env=self.environ(**env), cwd=cwd)

    def simg(self, directory: Path, image: str = "") -> Path:
        return directory / (hashlib.md5((image or self.image).encode()).hexdigest() + ".simg")


@pytest.fixture(scope="module")
def nine() -> Path:
    return installation.install(("snakemake",)).bin / "snakemake"


@pytest.fixture(scope="module")
def eight() -> Path:
    return installation.install_tool("snakemake-8") / "snakemake"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with demo_registry(quota=5) as registry:
        yield registry


@pytest.fixture
def workflow(runs_as: Person, installed: Installation, nine: Path, registry: FakeRegistry) -> Workflow:
    return Workflow(runs_as, installed, nine, registry)


@pytest.mark.parametrize("version", ["nine", "eight"])
def test_a_workflow(
    runs_as: Person, installed: Installation, registry: FakeRegistry, version: str, request: pytest.FixtureRequest
) -> None:
    """The newest of either; 8 calls `singularity`, and believes no version below 2.4.1 that says so of itself."""
    workflow = Workflow(runs_as, installed, request.getfixturevalue(version), registry)
    found = runs_as.run([workflow.snakemake, "--version"]).stdout
    assert found.startswith({"nine": "9.", "eight": "8."}[version])
    done = workflow()
    assert done.returncode == 0, done.stdout + done.stderr
    expected = f"ID=HPCC-DEMO\nA \"B\" OF THE HOST {runs_as.uid}\n['x y', 'z']ID=hpcc-demo\n"
    assert (runs_as.home / "out/three.txt").read_text() == expected
    assert (runs_as.home / "out/local.txt").read_text() == Path("/etc/os-release").read_text().splitlines()[0] + "\n"
    assert registry.counts["manifest_get"] <= 2
    (pulled,) = (runs_as.home / ".snakemake/singularity").iterdir()
    assert pulled == workflow.simg(pulled.parent) and pulled.is_symlink()
    assert pulled.resolve().is_relative_to(runs_as.home / "cache/sif-v1")


def test_spaces_quotes_and_utf8(workflow: Workflow) -> None:
    """In the workflow's directory, and so in all that Snakemake binds. It does not quote the image's path, though."""
    work = workflow.fill(workflow.person.home / "a wörk (dir) & $more")
    done = workflow("--apptainer-prefix", str(workflow.person.home / "prefix"), cwd=work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ID=HPCC-DEMO" in (work / "out/three.txt").read_text()


def test_arguments_of_users(workflow: Workflow) -> None:
    done = workflow("--apptainer-args", "--cleanenv --env FROM_HOST=given,B=2 -B /etc:/mnt/etc:ro --writable-tmpfs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GIVEN" in (workflow.person.home / "out/three.txt").read_text()


def test_prefetch_into_a_prefix(workflow: Workflow) -> None:
    """`--conda-create-envs-only` pulls all images and exits: `pull --name <md5>.simg` with cwd = the prefix."""
    prefix = workflow.person.home / "prefix"
    done = workflow("--conda-create-envs-only", "--apptainer-prefix", str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(prefix.iterdir()) == [workflow.simg(prefix)] and workflow.simg(prefix).stat().st_size > 1 << 20
    asked = list(workflow.registry.requests)
    done = workflow("--apptainer-prefix", str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    assert workflow.registry.requests == asked and (workflow.person.home / "out/three.txt").exists()


def test_two_workflows_with_one_prefix(workflow: Workflow) -> None:
    """At once, each in its own directory: one pull, and both succeed. Neither Snakemake waits for the other."""
    prefix = workflow.person.home / "prefix"
    places = [workflow.fill(workflow.person.home / name) for name in ("one", "two")]
    argv = workflow.argv("--apptainer-prefix", str(prefix))
    running = [
        workflow.person.popen(
            argv, env=workflow.environ(), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for place in places
    ]
    for process, place in zip(running, places, strict=True):
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        assert (place / "out/three.txt").exists()
    assert workflow.registry.counts["manifest_get"] <= 2
    assert list(prefix.iterdir()) == [workflow.simg(prefix)]


def test_an_image_that_the_cache_has_lost(workflow: Workflow) -> None:
    """A link that leads nowhere is no file for Snakemake, which pulls again."""
    assert workflow().returncode == 0
    (path,) = (workflow.person.home / ".snakemake/singularity").iterdir()
    path.resolve().unlink()
    assert path.is_symlink() and not path.exists()
    done = workflow("--forceall")
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.resolve().exists()


def test_cleaning_a_prefix_spares_the_cache(workflow: Workflow) -> None:
    """`--container-cleanup-images` deletes each *.simg that this workflow does not need: links, no images."""
    prefix = workflow.person.home / "prefix"
    assert workflow("--apptainer-prefix", str(prefix)).returncode == 0
    path = workflow.simg(prefix)
    target = path.resolve()
    other = workflow.simg(prefix, "docker://of/another:workflow")
    other.symlink_to(target)
    done = workflow("--apptainer-prefix", str(prefix), "--container-cleanup-images")
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.exists() and not os.path.lexists(other) and target.exists()


class Fault(NamedTuple):
    """What the registry does, and what must stand on Snakemake's terminal."""

    name: str
    said: tuple[str, ...]


FAULTS = (
    Fault("rate limit", ("refuses more requests for now (429)", "Three ways out: log in", "use a mirror")),
    Fault("login", ("unauthorized", "hpcc registry login")),
    Fault("typo", ("there is no image", "Is the name spelled right")),
    Fault("no network", ("cannot reach 127.0.0.1:1", "is there a network")),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("version", ["nine", "eight"])
def test_a_failed_pull_says_why(
    runs_as: Person, installed: Installation, registry: FakeRegistry, version: str, fault: Fault,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """The cause stands on Snakemake's terminal, and no file is left: with one it would execute that the next time."""
    workflow = Workflow(runs_as, installed, request.getfixturevalue(version), registry)
    if fault.name == "rate limit":
        registry.quota = 0
    elif fault.name == "login":
        registry.private = ("library/demo",)
        registry.username, registry.password = "me", "secret"
    elif fault.name == "typo":
        workflow.image = workflow.image.replace("1.0", "l.0")
    else:
        workflow.image = "docker://127.0.0.1:1/library/demo:1.0"
    done = workflow()
    said = done.stdout + done.stderr
    assert done.returncode != 0 and f"Failed to pull singularity image from {workflow.image}" in said
    for words in fault.said:
        assert words in said, said
    assert "secret" not in said and "Traceback" not in said.partition("Failed to pull")[2]
    assert list((runs_as.home / ".snakemake/singularity").iterdir()) == []
    if (fault.name, version) == ("login", "nine"):
        registry.private = ()
        done = workflow()
        assert done.returncode == 0, done.stdout + done.stderr


def test_half_an_image_of_somebody_elses_pull(workflow: Workflow) -> None:
    """An apptainer that was killed has left it. Snakemake, which looks for the name alone, executes it: then the job's
    own words say what to do, and once the file is gone, all is well.
    """
    prefix = workflow.person.home / "prefix"
    prefix.mkdir()
    workflow.person.at(prefix)
    path = workflow.simg(prefix)
    path.write_bytes(images().main.read_bytes()[:100_000])
    done = workflow("--apptainer-prefix", str(prefix))
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "damaged or cut short" in said and "Remove it" in said and str(path) in said
    path.unlink()
    done = workflow("--apptainer-prefix", str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
