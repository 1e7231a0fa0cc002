"""What hpcc pushes, `apptainer pull oras://` gets, bit for bit, and runs."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from hpcc.fstree import REGULAR
from hpcc.sif.load import load
from hpcc.squashfs.reader import open_squashfs
from tests.interop.conftest import Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person
from tests.support.real import need


def test_apptainer_pulls_what_hpcc_pushed(pulled: Pulled, hpcc: Tool, plain_user: Person, open_dir: Path) -> None:
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    image, uri = pulled.ours / "words.sif", f"oras://{pulled.registry.host}/tests/pushed:1"
    done = hpcc(["push", "--no-https", image, uri], person)
    assert done.returncode == 0, done.stderr
    theirs = apptainer(["pull", "--no-https", "got.sif", uri], person)
    assert theirs.returncode == 0, theirs.stderr
    assert (person.home / "got.sif").read_bytes() == image.read_bytes()
    again = apptainer(["push", "--no-https", image, f"{uri}2"], person)
    assert again.returncode == 0, again.stderr
    done = hpcc(["push", "--no-https", image, f"{uri}3"], person)
    assert "which had it" in done.stderr  # what Apptainer has sent is not sent again
    digests = {line.split()[-1] for line in done.stderr.splitlines() if "Its digest" in line}
    kind = "application/vnd.oci.image.manifest.v1+json"
    answer = pulled.registry._send("GET", "/v2/tests/pushed/manifests/12", accept=kind)
    assert {answer.headers["Docker-Content-Digest"]} == digests  # both write the same manifest


@pytest.mark.parametrize("name", ["words", "entry"])
def test_as_an_oci_image(name: str, pulled: Pulled, hpcc: Tool, plain_user: Person, open_dir: Path) -> None:
    """skopeo reads it, hpcc and Apptainer pull it, and every file is as it was; pushed twice it is the same."""
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    image, uri = pulled.ours / f"{name}.sif", f"docker://{pulled.registry.host}/flat/{name}:1"
    first = hpcc(["push", "--oci", "--no-https", image, uri], person)
    assert first.returncode == 0, first.stderr
    second = hpcc(["push", "--oci", "--no-https", image, uri], person)
    assert second.returncode == 0 and "which had it" in second.stderr, second.stderr
    assert first.stderr.split()[-1] == second.stderr.split()[-1]  # the digest
    skopeo = [need("skopeo"), "inspect", "--tls-verify=false", "--config", uri]
    said = json.loads(subprocess.run(skopeo, check=True, capture_output=True).stdout)
    before = json.loads(hpcc(["inspect", "--oci-config", image], person).stdout)
    assert said["config"] == before and said["os"] == "linux" and len(said["rootfs"]["diff_ids"]) == 1
    again = person.home / "again.sif"
    done = hpcc(["pull", "--no-https", again, uri], person)
    assert done.returncode == 0, done.stderr
    assert tree(again) == tree(image)
    theirs = apptainer(["run", "--no-https", uri, "x"], person)
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout == apptainer(["run", image, "x"], person).stdout


def test_an_image_that_apptainer_made(pulled: Pulled, hpcc: Tool, plain_user: Person, open_dir: Path) -> None:
    """Its runscript is what the OCI image runs."""
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    uri = f"docker://{pulled.registry.host}/flat/theirs:1"
    done = hpcc(["push", "--oci", "--no-https", pulled.theirs / "plain.sif", uri], person)
    assert done.returncode == 0, done.stderr
    ran, was = (
        hpcc(["run", *words, "words", "a  b"], person) for words in (["--no-https", uri], [pulled.theirs / "plain.sif"])
    )
    assert (ran.returncode, ran.stdout) == (was.returncode, was.stdout), ran.stderr
    assert ran.returncode == 0 and "a  b" in ran.stdout


def tree(path: Path) -> dict[bytes, tuple[object, ...]]:
    """What is in the SIF's root, but for /.singularity.d, which names the image: attributes and contents by path."""
    with open(path, "rb") as file:

        def read_at(offset: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, offset)

        part = load(read_at, path.stat().st_size).primary()
        squashfs = open_squashfs(lambda at, size: read_at(part.offset + at, size), part.size)
        return {
            name: (
                *(each.kind, each.mode, each.uid, each.gid, each.mtime, each.nlink if each.kind != 1 else 0),
                *(each.target, each.rdev, each.xattrs),
                hashlib.sha256(b"".join(squashfs.read(each))).hexdigest() if each.kind == REGULAR else "",
            )
            for name, each in squashfs.walk()
            if not name.startswith(b".singularity.d")
        }
