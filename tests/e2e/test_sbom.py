"""hpcc inspect --sbom of an image from a registry, and of a SIF that has an SBOM."""

import json
import tarfile
from collections.abc import Iterator

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.support.images import layer
from tests.support.installation import Installation
from tests.support.people import Person

STATUS = b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\n\n"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


def test_inspect_sbom(registry: FakeRegistry, runs_as: Person, installed: Installation) -> None:
    import gzip
    import hashlib

    data = layer(
        {
            "var/lib/dpkg/status": (tarfile.TarInfo(), STATUS),
            "usr/lib/python3/dist-packages/Some_Thing-1.dist-info/METADATA": (
                tarfile.TarInfo(), b"Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0\n\nVersion: 9\n",
            ),
            "var/lib/rpm/rpmdb.sqlite": (tarfile.TarInfo(), b"SQLite format 3"),
        }
    )  # fmt: skip
    diff_id = f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}"
    config = {
        "architecture": "amd64", "os": "linux", "config": {}, "created": "2025-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }  # fmt: skip
    registry.add_image("lab/tools", "1", [data], config)
    uri = f"docker://{registry.host}/lab/tools:1"
    done = runs_as.run([installed.hpcc, "pull", "--no-https", "--platform", "linux/amd64", "image.sif", uri])
    assert done.returncode == 0, done.stderr
    done = runs_as.run([installed.hpcc, "inspect", "--sbom", "image.sif"])
    assert done.returncode == 0 and "/var/lib/rpm/rpmdb.sqlite is a database of rpm" in done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert said["name"].startswith(f"{registry.host}/lab/tools@sha256:")
    assert said["creationInfo"]["created"] == "2025-01-01T00:00:00Z"
    assert [(each["name"], each["versionInfo"]) for each in said["packages"][1:]] == [
        ("bash", "5.2"), ("some-thing", "1.0"),
    ]  # fmt: skip

    words = ["sif", "add", "--datatype", "9", "--sbomformat", "spdx-json", "--groupid", "1", "image.sif", "-"]
    assert runs_as.run([installed.hpcc, *words], input='{"its": "own"}\n').returncode == 0
    done = runs_as.run([installed.hpcc, "inspect", "--sbom", "image.sif"])
    assert (done.returncode, done.stdout) == (0, '{"its": "own"}\n'), done.stderr
