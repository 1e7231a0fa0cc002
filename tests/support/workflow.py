"""Workflows of a person's, which `hpcc snakemake` runs with images of the fake registry."""

import gzip
import hashlib
import subprocess
import tarfile
from pathlib import Path

from hpcc.cli.demo_image import build_demo_layers
from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry
from tests.support.images import layer
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.pulls import ARCHITECTURE

TOOLS = ("a", "b", "part", "split")
"""Images lab/NAME:1 of the fixture `lab`."""


def add(registry: FakeRegistry, name: str, version: str = "1", *, python: bool = False) -> str:
    """An image lab/NAME:1 whose /version tells of it; its digest."""
    info = tarfile.TarInfo("version")
    data = f"{name} {version}\n".encode()
    info.size = len(data)
    layers = [*build_demo_layers().layers[: 2 if python else 1], layer({"version": (info, data)})]
    ids = [f"sha256:{hashlib.sha256(gzip.decompress(each)).hexdigest()}" for each in layers]
    config = {"architecture": ARCHITECTURE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    registry.add_image(f"lab/{name}", "1", layers, config, index=True)
    return str(Digest.of(registry.manifests[f"lab/{name}", "1"][1]))


class Workflow:
    """A workflow in a directory of a person's, and hpcc for it."""

    def __init__(self, person: Person, installed: Installation, registry: FakeRegistry, directory: Path) -> None:
        self.person, self.installed, self.registry, self.directory = person, installed, registry, directory
        directory.mkdir(parents=True, exist_ok=True)
        person.at(directory)
        self.env = {"HPCC_INSECURE": registry.host, "PATH": f"{installed.bin}:{SYSTEM_PATH}"}

    def write(self, snakefile: str, name: str = "Snakefile") -> None:
        (self.directory / name).write_text(snakefile.replace("REGISTRY", self.registry.host))

    def run(self, *argv: str, own: tuple[str, ...] = (), **env: str) -> "subprocess.CompletedProcess[str]":
        words = [self.installed.hpcc, "snakemake", "run", *own, "--", "--cores", "2", *argv]
        return self.person.run(words, env={**self.env, **env}, cwd=self.directory, timeout=180)

    def prefetch(self, *argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
        words = [self.installed.hpcc, "snakemake", "prefetch", *argv]
        return self.person.run(words, env={**self.env, **env}, cwd=self.directory)

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()
