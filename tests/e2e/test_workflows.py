"""The examples in workflows/, by the real Snakemake and as their READMEs say, with images of Debian's packages."""

import base64
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.debian import debian_image, stages
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def hpcc() -> Installation:
    return installation.install(("snakemake",))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


class Workflow:
    """A person's copy of a workflow, whose images are in the registry as the Containerfile says."""

    def __init__(self, name: str, person: Person, hpcc: Installation, registry: FakeRegistry) -> None:
        self.person, self.hpcc, self.registry = person, hpcc, registry
        self.directory = Path(shutil.copytree(WORKFLOWS / name, person.home / name))
        for path in (self.directory, *self.directory.rglob("*")):
            person.at(path)
        for containerfile in self.directory.rglob("Containerfile"):
            for stage, packages in stages(containerfile).items():
                registry.add_image(f"lab/{name}/{stage}", "2", *debian_image(*packages))
        registry.add_image("lab/debian", "12", *debian_image())
        self.config = ["--config", f"registry=docker://{registry.host}/lab/{name}", "tag=2"]
        self.one_image = ["--config", f"image=docker://{registry.host}/lab/debian:12"]

    def run(self, *argv: str, path: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        """A command of hpcc or Snakemake in the workflow's directory, which must end well."""
        words = [str(self.hpcc.bin / argv[0]), *argv[1:]]
        environ = {"PATH": f"{path}{SYSTEM_PATH}", "HPCC_INSECURE": self.registry.host, **env}
        done = self.person.run(words, env=environ, cwd=self.directory)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def shim(self) -> str:
        """The beginning of a PATH with the stand-ins."""
        self.run("hpcc", "shim", "enable", "--dir", str(self.person.home / "shim"))
        return f"{self.person.home}/shim:"

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


def test_quickstart(runs_as: Person, hpcc: Installation, registry: FakeRegistry) -> None:
    workflow = Workflow("quickstart", runs_as, hpcc, registry)
    workflow.run("hpcc", "snakemake", "run", "--", "--cores", "2", *workflow.one_image)
    texts = "".join(workflow.read(f"texts/{name}.txt").lower() for name in ("sea", "wood"))
    words = Counter(re.findall("[a-z]+", texts))
    expected = [f"{n} {word}" for word, n in sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:10]]
    assert workflow.read("results/words.txt").splitlines() == expected
    shutil.rmtree(workflow.directory / "results")
    asked = list(registry.requests)
    assert any("/blobs/" in path for _, path in asked)  # it ran in the image, and so it was pulled
    workflow.run("snakemake", "--cores", "2", *workflow.one_image, path=workflow.shim())
    assert workflow.read("results/words.txt").splitlines() == expected and registry.requests == asked


def test_rnaseq_mini(plain_user: Person, open_dir: Path, hpcc: Installation, registry: FakeRegistry) -> None:
    workflow = Workflow("rnaseq-mini", plain_user.at(open_dir), hpcc, registry)
    workflow.run("snakemake", "--cores", "2", *workflow.config, path=workflow.shim())
    rows = [line.split("\t") for line in workflow.read("results/fold_changes.tsv").splitlines()[1:]]
    changes = {gene: float(change) for gene, _, _, change in rows}
    assert len(changes) == 9
    designed = {"gene2": 2.0, "gene5": 2.0, "gene7": -2.0}  # scripts/reads.awk
    assert all(abs(change - designed.get(gene, 0)) < 0.5 for gene, change in changes.items()), changes
    kept = [line.split("\t") for line in workflow.read("results/qc.tsv").splitlines()[1:]]
    assert [row[0] for row in kept] == ["control_1", "control_2", "treated_1", "treated_2"]
    assert all(int(row[1]) == 4000 and 3600 < int(row[2]) < 4000 and float(row[3]) > 0.9 for row in kept), kept
    picture = (workflow.directory / "results/expression.png").read_bytes()
    assert picture.startswith(PNG) and len(picture) > 5000
    workflow.run("snakemake", "--report", "report.html", *workflow.config)
    report = workflow.read("report.html")
    found = [base64.b64decode(each) for each in re.findall(r"expression\.png;base64,([A-Za-z0-9+/=]+)", report)]
    assert picture in found and "counted by featureCounts" in report
    layers = {path for method, path in registry.requests if method == "GET" and "/blobs/" in path}
    assert len(layers) == len({path.rpartition("/")[2] for path in layers})


def test_gpu(runs_as: Person, hpcc: Installation, registry: FakeRegistry) -> None:
    """With a GPU it is named; on a host without one that is a warning, and the job goes on."""
    workflow = Workflow("gpu", runs_as, hpcc, registry)
    done = workflow.run("snakemake", "--cores", "2", *workflow.one_image, path=workflow.shim())
    summary = workflow.read("results/summary.txt")
    if Path("/dev/nvidia0").exists():
        assert re.match(r"[1-9]\d* GPUs\n.+", summary), summary
        return
    assert summary == "0 GPUs\n"
    assert "WARNING: Could not find any nv files on this host!" in done.stderr
    assert "this rule would go on with the CPU" in done.stderr


def test_airgap(plain_user: Person, open_dir: Path, hpcc: Installation, registry: FakeRegistry) -> None:
    """A bundle is made here, unpacked there, with another cache, and the workflow runs with nobody to ask."""
    for name in ("here", "there"):
        (open_dir / name).mkdir()
    here = Workflow("airgap", plain_user.at(open_dir / "here"), hpcc, registry)
    listed = here.run("hpcc", "snakemake", "prefetch", "--list", *here.config).stdout
    assert all(f"{registry.host}/lab/airgap/{name}:2" in listed for name in ("debian", "seqtk")), listed
    here.run("hpcc", "snakemake", "prefetch", "--bundle", "images.tar", *here.config)
    there = Workflow("airgap", plain_user.at(open_dir / "there"), hpcc, registry)
    shutil.copy(here.directory / "images.tar", there.directory)
    asked = list(registry.requests)
    there.run("hpcc", "snakemake", "prefetch", "--from-bundle", "images.tar", *there.config)
    there.run("hpcc", "snakemake", "run", "--offline", "--", "--cores", "2", *there.config)
    name = Path("/etc/os-release").read_text().partition("\n")[0]
    assert there.read("results/all.txt") == f"debian\n{name}\nseqtk\n{name}\n/usr/bin/seqtk\n"
    assert registry.requests == asked
