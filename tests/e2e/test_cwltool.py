"""The real cwltool with --singularity, over the stand-ins of `hpcc shim`. Its command lines: test_engines.py."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from hpcc.cli.demo_image import build_demo_layers
from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person

TOOL = """
cwlVersion: v1.2
class: CommandLineTool
requirements:
  DockerRequirement: {{dockerPull: "{image}"}}
  EnvVarRequirement: {{envDef: {{GREETING: "it's \\"me\\""}}}}
baseCommand: [bash, -c]
arguments:
  - position: 1
    valueFrom: |
      cat "$0" /etc/os-release; echo "$1"; echo "$GREETING $TMPDIR [$FROM_HOST]"
      pwd > where; touch "$0" 2>/dev/null || echo readonly
inputs:
  file: {{type: File, inputBinding: {{position: 2}}}}
  text: {{type: string, inputBinding: {{position: 3}}}}
outputs:
  said: {{type: stdout}}
  where: {{type: File, outputBinding: {{glob: where}}}}
stdout: said.txt
"""


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    demo = build_demo_layers()
    with FakeRegistry(quota=20) as registry:
        # cwltool runs an image, so an ENTRYPOINT would get the command line, as with Apptainer and Docker
        config = {**demo.config, "config": {"Env": demo.config["config"]["Env"]}}
        registry.add_image("library/demo", "1.0", demo.layers, config, index=True)
        yield registry


class Tool:
    """A CWL tool in a person's home, whose image is in the registry, and cwltool."""

    def __init__(self, person: Person, hpcc: Installation, registry: FakeRegistry) -> None:
        self.person, self.registry = person, registry
        self.shim, self.images = person.home / "shim", person.home / "images"
        assert person.run([hpcc.hpcc, "shim", "enable", "--dir", self.shim]).returncode == 0
        (person.home / "tool.cwl").write_text(TOOL.format(image=f"{registry.host}/library/demo:1.0"))
        (person.home / "a wörd, or two.txt").write_text("of the file\n")
        self.images.mkdir()
        person.at(self.images)
        self.cwltool = installation.install_tool("cwltool") / "cwltool"

    def __call__(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        env = {
            "PATH": f"{self.shim}:{SYSTEM_PATH}",
            "HPCC_INSECURE": self.registry.host,
            "CWL_SINGULARITY_CACHE": str(self.images),
            "FROM_HOST": "1",
        }
        words = [self.cwltool, "--singularity", "--relax-path-checks", "--outdir", "out", *argv, "tool.cwl"]
        return self.person.run([*words, "--file", "a wörd, or two.txt", "--text", "$x 'y' z"], env=env)


@pytest.fixture
def tool(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Tool:
    return Tool(runs_as, installed, registry)


def test_a_tool(tool: Tool) -> None:
    done = tool("--debug")
    assert done.returncode == 0, done.stderr
    said = (tool.person.home / "out/said.txt").read_text()
    assert said.startswith("of the file\n") and "ID=hpcc-demo\n" in said
    assert said.endswith("$x 'y' z\nit's \"me\" /tmp []\nreadonly\n")
    assert json.loads(done.stdout)["said"]["size"] == len(said.encode())
    assert "--userns" in done.stderr  # it has found out that namespaces work
    (image,) = tool.images.iterdir()
    assert image.is_symlink() and image.resolve().is_relative_to(tool.person.home / "cache/sif-v1")
    asked = list(tool.registry.requests)
    done = tool()
    assert done.returncode == 0 and "Already cached" in done.stderr, done.stderr
    assert tool.registry.requests == asked


def test_pulling_anew(tool: Tool) -> None:
    """`singularity pull --force --name PATH docker://…`, over what is there."""
    assert tool().returncode == 0
    done = tool("--force-docker-pull")
    assert done.returncode == 0, done.stderr
    assert len(list(tool.images.iterdir())) == 1


def test_a_failed_pull_says_why(tool: Tool) -> None:
    tool.registry.quota = 0
    done = tool()
    assert done.returncode != 0 and "refuses more requests for now (429)" in done.stderr
    assert list(tool.images.iterdir()) == []
