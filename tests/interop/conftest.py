"""The same images as hpcc and as Apptainer pulled them, from one real registry.

words      bash, coreutils and everything awkward of tests/support/images.py; ENTRYPOINT and CMD, labels, odd ENV
plain      the same files; CMD alone, and the ENV that each program gets right
entry      the same files; ENTRYPOINT alone
nothing    the same files; neither
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest

from tests.support import people
from tests.support.docker_registry import DockerRegistry
from tests.support.images import CONFIG, IMAGE_PATH, awkward_layer, layer
from tests.support.installation import Installation
from tests.support.peers import apptainer, run_peer
from tests.support.people import Person
from tests.support.real import need

LABELS = {"org.opencontainers.image.title": "words", "desc": 'a "quoted" label', "EMPTY": ""}
_CONFIGS: dict[str, dict[str, Any]] = {
    "words": {**CONFIG, "Labels": LABELS},
    "plain": {"Env": [f"PATH={IMAGE_PATH}", "SHARED=of the image", "EMPTY="], "Cmd": ["words", "a b", "*"]},
    "entry": {"Env": [f"PATH={IMAGE_PATH}"], "Entrypoint": ["words", "$HOME", "two  spaces"], "Labels": {"one": "1"}},
    "nothing": {"Env": [f"PATH={IMAGE_PATH}"]},
}


Words = Sequence[str | os.PathLike[str]]
Completed = subprocess.CompletedProcess[str]


class Tool(Protocol):
    """Runs a command line of Apptainer's kind as a person; options as for `Person.run`."""

    def __call__(self, argv: Words, person: Person, **options: Any) -> Completed: ...


class Pulled(NamedTuple):
    """Images by name: `NAME.sif` in `ours` and `theirs`, by whom they were pulled; `words`, `plain` in `sandboxes`."""

    registry: DockerRegistry
    ours: Path
    theirs: Path
    sandboxes: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def hpcc(installed: Installation) -> Tool:
    """hpcc as installed, with this machine's squashfuse and fuse-overlayfs."""

    def run(argv: Words, person: Person, **options: Any) -> Completed:
        return person.run([installed.hpcc, *argv], **options)

    return run


@pytest.fixture(scope="session")
def hpcc_in_sid(installed: Installation) -> Tool:
    """The same hpcc by the Python of the Debian sid root: squashfuse 0.5, which gives files to the caller."""
    (main,) = installed.venv.glob("lib/python3*/site-packages/hpcc/__main__.py")

    def run(argv: Words, person: Person, **options: Any) -> Completed:
        return run_peer(["python3", "-I", "-S", "-B", main, *argv], person, **options)

    return run


@pytest.fixture(scope="session")
def pulled(installed: Installation) -> Iterator[Pulled]:
    top = Path(tempfile.mkdtemp(prefix="hpcc-interop-", dir="/var/tmp"))
    top.chmod(0o755)
    for name in ("ours", "theirs", "sandboxes", "registry", "home"):
        (top / name).mkdir()
        (top / name).chmod(0o755)
    me = people.myself(top / "home")
    try:
        with DockerRegistry(top / "registry", need("docker-registry")) as registry:
            _push(registry)
            made = Pulled(registry, top / "ours", top / "theirs", top / "sandboxes")
            for name in _CONFIGS:
                uri = f"docker://{registry.host}/tests/{name}:1.0"
                ours = me.run([installed.hpcc, "pull", "--no-https", made.ours / f"{name}.sif", uri])
                assert ours.returncode == 0, ours.stderr
                theirs = apptainer(["pull", "--no-https", made.theirs / f"{name}.sif", uri], me)
                assert theirs.returncode == 0, theirs.stderr
            for name in ("words", "plain"):
                uri = f"docker://{registry.host}/tests/{name}:1.0"
                sandbox = apptainer(["build", "--no-https", "--sandbox", made.sandboxes / name, uri], me)
                assert sandbox.returncode == 0, sandbox.stderr
            yield made
    finally:
        shutil.rmtree(top, ignore_errors=True)


def _push(registry: DockerRegistry) -> None:
    import gzip
    import hashlib

    from hpcc.cli.demo_image import build_demo_layers

    # Apptainer cannot convert an image whose /etc/resolv.conf leads nowhere
    mended = layer({"etc/resolv.conf": (tarfile.TarInfo(), b"# of the image\n")})
    layers = [build_demo_layers().layers[0], awkward_layer(), mended]
    diff_ids = [f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}" for data in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    for name, config in _CONFIGS.items():
        document = {
            "created": "2025-01-01T00:00:00Z",
            "architecture": machine,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        registry.push(f"tests/{name}", "1.0", layers, document)
