"""Apptainer and hpcc on the same archives and layouts, and SIFs that Apptainer pushes and pulls by oras."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.interop.conftest import LABELS, Pulled, Tool
from tests.support.archives import skopeo_copy
from tests.support.peers import apptainer
from tests.support.people import Person

# Not with a reference, nor a relative path behind //: Apptainer 1.4.5 takes both for parts of the path.
SOURCES = ("docker-archive:words.tar", "oci:layout", "oci-archive:oci.tar")


@pytest.fixture
def saved(pulled: Pulled, runs_as: Person) -> Path:
    """The image `words` in each form, in the person's home."""
    source = f"docker://{pulled.registry.host}/tests/words:1.0"
    for target in ("docker-archive:words.tar:lab/words:1.0", "oci:layout:1.0", "oci-archive:oci.tar:1.0"):
        skopeo_copy(source, target, runs_as.home)
    for path in runs_as.home.rglob("*"):
        os.chown(path, runs_as.uid, runs_as.gid, follow_symlinks=False)
    return runs_as.home


@pytest.mark.parametrize("uri", SOURCES)
def test_both_run_the_same(saved: Path, hpcc: Tool, runs_as: Person, uri: str) -> None:
    agent = uri.partition(":")[0]
    done = apptainer(["build", "theirs.sif", uri], runs_as)
    assert done.returncode == 0, done.stderr
    theirs = apptainer(["run", "theirs.sif", "one", "a b"], runs_as)
    ours = hpcc(["run", uri, "one", "a b"], runs_as)
    assert (ours.returncode, ours.stdout) == (0, "[entry point][one][a b]\n"), ours.stderr
    assert (theirs.returncode, theirs.stdout) == (0, ours.stdout), theirs.stderr
    assert hpcc(["pull", "ours.sif", uri], runs_as).returncode == 0
    labels = []
    for tool in (hpcc, apptainer):
        for name in ("ours.sif", "theirs.sif"):
            found = tool(["inspect", "--json", name], runs_as)
            labels.append(json.loads(found.stdout)["data"]["attributes"]["labels"])
            done = tool(["exec", name, "words", "x"], runs_as)
            assert (done.returncode, done.stdout) == (0, "[x]\n"), done.stderr
    for each in labels:
        assert {key: each[key] for key in LABELS} == LABELS
        assert each["org.label-schema.usage.singularity.deffile.bootstrap"] == agent


@pytest.mark.parametrize("uri", ["oci:layout", "oci-archive:oci.tar"])
def test_both_want_one_chosen_of_several(pulled: Pulled, hpcc: Tool, runs_as: Person, uri: str) -> None:
    for name in ("words", "plain"):
        skopeo_copy(f"docker://{pulled.registry.host}/tests/{name}:1.0", f"oci:layout:{name}", runs_as.home)
    with tarfile.open(runs_as.home / "oci.tar", "w") as tar:
        tar.add(runs_as.home / "layout", ".")
    for path in runs_as.home.rglob("*"):
        os.chown(path, runs_as.uid, runs_as.gid, follow_symlinks=False)
    for tool in (hpcc, apptainer):
        done = tool(["run", uri], runs_as)
        assert done.returncode == 255 and "more than one image in oci, choose an image" in done.stderr, done.stderr
    assert hpcc(["run", f"{uri}:plain"], runs_as).stdout == "[a b][*]\n"


def test_oras(pulled: Pulled, hpcc: Tool, runs_as: Person) -> None:
    """What Apptainer pushes hpcc has bit for bit, and runs."""
    name = f"oras://{pulled.registry.host}/tests/sif-of-{runs_as.uid}:1.0"
    done = apptainer(["push", "--no-https", pulled.theirs / "plain.sif", name], runs_as)
    assert done.returncode == 0, done.stderr
    done = hpcc(["pull", "--no-https", "got.sif", name], runs_as)
    assert done.returncode == 0, done.stderr
    assert (runs_as.home / "got.sif").read_bytes() == (pulled.theirs / "plain.sif").read_bytes()
    done = hpcc(["run", "--no-https", name], runs_as)
    assert (done.returncode, done.stdout) == (0, "[a b][*]\n"), done.stderr
    done = apptainer(["pull", "--no-https", "theirs.sif", name], runs_as)
    assert (
        done.returncode == 0 and (runs_as.home / "theirs.sif").read_bytes() == (runs_as.home / "got.sif").read_bytes()
    )
