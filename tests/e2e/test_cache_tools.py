"""hpcc cache verify, stats, export, import and adopt by the command line, as root and as a plain user."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller, check_failure
from tests.support.installation import Installation
from tests.support.people import Person

ELSEWHERE = "elsewhere"  # another cluster's cache, without a network


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        yield registry


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Puller:
    return Puller(runs_as, installed, registry)


def elsewhere(hpcc: Puller) -> dict[str, str]:
    top = hpcc.path(ELSEWHERE)
    return {"HPCC_CACHE_DIR": f"{top}/cache", "HPCC_PRIVATE_DIR": f"{top}/private", "HPCC_OFFLINE": "1"}


def fill(hpcc: Puller) -> None:
    done = hpcc("exec", hpcc.uri, "cat", "/etc/greeting")
    assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr


def test_export_import_run(hpcc: Puller, registry: FakeRegistry) -> None:
    """Carried to a cluster without a network, the image runs there, from the same bytes."""
    check_failure(hpcc("cache", "export", "x.tar", hpcc.uri), 255, "--pull")
    done = hpcc("cache", "export", "--pull", "x.tar", hpcc.uri)
    assert done.returncode == 0 and "1 image(s), 5 blobs" in done.stderr, done.stderr
    check_failure(hpcc("cache", "export", "x.tar", hpcc.uri), 255, "--force")
    fill(hpcc)
    registry.requests.clear()
    done = hpcc("cache", "export", "y.tar", hpcc.uri)
    assert done.returncode == 0 and registry.requests == []
    assert hpcc.path("x.tar").read_bytes() == hpcc.path("y.tar").read_bytes()
    done = hpcc("cache", "import", "--convert", "now", "x.tar", env=elsewhere(hpcc))
    assert done.returncode == 0 and f"Imported {hpcc.uri}" in done.stderr, done.stderr
    (there,) = hpcc.path(ELSEWHERE).glob("cache/sif-v1/*.sif")
    assert there.read_bytes() == (hpcc.cache / "sif-v1" / there.name).read_bytes()
    done = hpcc("exec", hpcc.uri, "cat", "/etc/greeting", env=elsewhere(hpcc))
    assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
    assert registry.requests == []


def test_import_refuses(hpcc: Puller) -> None:
    hpcc.path("text.tar").write_text("no archive\n" * 100)
    check_failure(hpcc("cache", "import", "text.tar"), 255, "text.tar(.|\\n)*OCI archive")
    check_failure(hpcc("cache", "import", "nothing.tar"), 255, "nothing.tar")
    check_failure(hpcc("cache", "import"), 255, "one file")
    check_failure(hpcc("cache", "import", "--convert", "soon", "x.tar"), 255, "now, later")
    check_failure(hpcc("cache", "export", "x.tar"), 255, "images")
    check_failure(hpcc("cache", "export", hpcc.uri), 255, "images")


def test_verify(hpcc: Puller) -> None:
    fill(hpcc)
    done = hpcc("cache", "verify")
    assert done.returncode == 0 and "all good" in done.stdout, done
    (sif,) = (hpcc.cache / "sif-v1").iterdir()
    data = bytearray(sif.read_bytes())
    data[100_000] ^= 1
    sif.chmod(0o644)
    sif.write_bytes(data)
    sif.chmod(0o444)
    done = hpcc("cache", "verify", "--json", hpcc.uri)
    document = json.loads(done.stdout)
    (row,) = document["findings"]
    assert done.returncode == 1 and row["kind"] == "sif" and row["repaired"] is False
    assert os.path.join(row["cache"], row["path"]) == str(sif) and row["owner"] == hpcc.person.uid
    done = hpcc("cache", "verify")
    assert done.returncode == 1 and str(sif) in done.stdout and f"belongs to {hpcc.person.name}" in done.stdout
    assert sif.exists() and "--repair" in done.stderr
    done = hpcc("cache", "verify", "--repair")
    assert done.returncode == 1 and "Repaired: 1 of 1." in done.stdout and not sif.exists()
    assert hpcc("cache", "verify").returncode == 0
    fill(hpcc)
    assert sif.exists() and hpcc("cache", "verify").returncode == 0
    check_failure(hpcc("cache", "verify", "docker://no.example/such:1"), 255, "do not know it")


def test_stats(hpcc: Puller) -> None:
    done = hpcc("cache", "stats")
    assert done.returncode == 0 and "No image." in done.stdout, done
    fill(hpcc)
    done = hpcc("cache", "stats", "--plot", "cache.svg")
    assert done.returncode == 0 and hpcc.uri.removeprefix("docker://") in done.stdout, done
    assert hpcc.path("cache.svg").read_text().startswith("<svg")
    document = json.loads(hpcc("cache", "stats", "--json").stdout)
    assert document["images"][0]["users"] == 1 and document["hours"] == 1 and document["tags"] == 1
    check_failure(hpcc("cache", "stats", "--plot", "cache.pdf"), 255, "SVG and PNG")
    check_failure(hpcc("cache", "stats", "--plot", "cache.png"), 255, r"hpcc\[plot\]")  # is not installed there
    assert not hpcc.path("cache.png").exists() and not hpcc.path("cache.pdf").exists()


def test_adopt(hpcc: Puller, registry: FakeRegistry) -> None:
    """Apptainer's layers are not fetched again; and Snakemake's image becomes a link that runs."""
    apptainer = {"HPCC_CACHE_DIR": f"{hpcc.path('a')}/c", "HPCC_PRIVATE_DIR": f"{hpcc.path('a')}/p"}
    done = hpcc("pull", "--format", "oci", "blob", hpcc.uri, env=apptainer)
    assert done.returncode == 0, done.stderr
    done = hpcc("cache", "adopt", "--apptainer-cache", hpcc.person.home)
    assert done.returncode == 0 and "Adopted 4 blob(s)" in done.stderr, done.stderr
    registry.counts.clear()
    fill(hpcc)
    assert not registry.counts["blob_get"]
    prefix = hpcc.path("prefix")
    hpcc.person.run(["mkdir", str(prefix)])
    name = prefix / (hashlib.md5(hpcc.uri.encode()).hexdigest() + ".simg")
    hpcc.person.run(["cp", "/bin/true", str(name)])
    workflow = hpcc.path("Snakefile")
    workflow.write_text(f'rule all:\n    container: "{hpcc.uri}"\n')
    done = hpcc("cache", "adopt", "--snakemake-prefix", prefix)
    assert done.returncode == 0 and "add --yes" in done.stdout and not name.is_symlink(), done
    done = hpcc("cache", "adopt", "--snakemake-prefix", prefix, "-f", workflow, "--yes")
    assert done.returncode == 0 and f"linked  {name}" in done.stdout, done
    assert Path(os.readlink(name)).parent == hpcc.cache / "sif-v1" and Path(f"{name}.bak").exists()
    done = hpcc("exec", name, "cat", "/etc/greeting")
    assert (done.returncode, done.stdout) == (0, "hello from the image\n"), done.stderr
    check_failure(hpcc("cache", "adopt", "--apptainer-cache", prefix), 255, "no OCI layout")


def test_help(hpcc: Puller) -> None:
    for command in ("verify", "stats", "export", "import", "adopt"):
        done = hpcc("cache", command, "--help")
        assert done.returncode == 0 and "Example:" in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith("  hpcc"))
