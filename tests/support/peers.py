"""The peers, Apptainer above all, run in the Debian root that tests/support/peers/setup.sh makes."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.docker_registry import DockerRegistry
from tests.support.people import Person

PEERS = Path(os.environ.get("HPCC_PEERS", "/opt/hpcc-peers"))
_ENTER = Path(__file__).resolve().parent / "peers" / "enter.sh"
_CAP_SYS_RESOURCE = 24


def missing() -> str | None:
    """Why Apptainer cannot be run here; None where it can."""
    if os.geteuid() != 0:
        return "the Debian root with Apptainer is entered as root only"
    if not os.access(PEERS / "sid/usr/bin/apptainer", os.X_OK):
        return f"no Apptainer in {PEERS}: run tests/support/peers/setup.sh apptainer"
    return None


def run_peer(
    argv: Sequence[str | os.PathLike[str]],
    person: Person,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
    **options: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run any program of the Debian root as `person`, in the environment that `person.run` would give it."""
    options.setdefault("stdin", subprocess.DEVNULL) if "input" not in options else None
    return subprocess.run(
        peer_argv(argv, person),
        env={**person.environ(env), "HPCC_PEERS": str(PEERS)},
        cwd=cwd or person.home,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def peer_argv(argv: Sequence[str | os.PathLike[str]], person: Person) -> list[str]:
    """The command line, to be run by this process, that runs `argv` in the Debian root as `person`."""
    ids = [] if person.uid == 0 else ["-u", f"{person.uid}:{person.gid}"]
    return [str(_ENTER), *ids, *(os.fspath(word) for word in argv)]


def apptainer(
    argv: Sequence[str | os.PathLike[str]], person: Person, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run `apptainer argv…` as `person`; options as for `run_peer`.

    The person's caches and temporary files are below their home. Apptainer as root asks for all
    capabilities, and fails on machines that lack one: there it is told to do without.
    """
    words = [os.fspath(word) for word in argv]
    if person.uid == 0 and words[:1] in (["exec"], ["run"], ["shell"], ["test"]) and not _have_sys_resource():
        words[1:1] = ["--drop-caps", "CAP_SYS_RESOURCE"]
    return run_peer(["apptainer", *words], person, **options)


def _have_sys_resource() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def push_image(tag: str, registry: DockerRegistry, name: str) -> str:
    """Push busybox-latest, debian-bookworm, scipy-latest or scipy-v2 of setup.sh's step `images`; its digest."""
    images = PEERS / "images"
    for entry in json.loads((images / "index.json").read_text())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == tag:
            manifest = _blob(images, entry["digest"])
            document = json.loads(manifest)
            for part in [document["config"], *document["layers"]]:
                registry.push_blob(name.partition(":")[0], _blob(images, part["digest"]))
            repository, _, version = name.partition(":")
            return registry.push_manifest(repository, version or "latest", manifest, entry["mediaType"])
    raise LookupError(f"no image {tag} in {images}")


def _blob(images: Path, digest: str) -> bytes:
    return (images / "blobs" / digest.replace(":", "/")).read_bytes()
