"""Images of archives and layouts by the command line: run, exec, shell, pull, inspect, instances, and errors."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_pull import CONFIG, LAYERS
from tests.support.archives import new_save, tar_of
from tests.support.installation import Installation
from tests.support.people import Person

TAG = "lab/tools:1.4"
URIS = ("docker-archive:save.tar", f"docker-archive://save.tar:{TAG}", "oci:layout", "oci-archive:save.tar")


class Hpcc:
    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self._installed = person, installed

    def __call__(self, *argv: object, **options: Any) -> Any:
        return self.person.run([self._installed.hpcc, *map(str, argv)], **options)

    def path(self, name: str) -> Path:
        return self.person.home / name


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation) -> Hpcc:
    files = new_save(LAYERS, CONFIG, [TAG])
    (runs_as.home / "save.tar").write_bytes(tar_of(files))
    for name, data in files.items():
        path = runs_as.home / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in runs_as.home.rglob("*"):
        os.chown(path, runs_as.uid, runs_as.gid)
    return Hpcc(runs_as, installed)


@pytest.mark.parametrize("uri", URIS)
def test_run_exec_shell_inspect(hpcc: Hpcc, uri: str) -> None:
    for argv, said in (
        (["run", uri, "you"], "says you\n"),
        (["exec", uri, "cat", "/etc/greeting"], "hello from the image\n"),
        (["exec", "--disable-cache", uri, "cat", "/etc/greeting"], "hello from the image\n"),
    ):
        done = hpcc(*argv)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    done = hpcc("shell", uri, input="cat /etc/greeting\n")
    assert "hello from the image" in done.stdout, done.stderr
    labels = json.loads(hpcc("inspect", "--json", uri).stdout)["data"]["attributes"]["labels"]
    agent = uri.partition(":")[0]
    assert labels["org.label-schema.usage.singularity.deffile.bootstrap"] == agent
    assert labels["org.label-schema.usage.singularity.deffile.from"].startswith("sha256:")
    assert hpcc("inspect", "--deffile", uri).stdout.startswith(f"bootstrap: {agent}\nfrom: sha256:")


def test_instance(hpcc: Hpcc) -> None:
    started = hpcc("instance", "start", "docker-archive:save.tar", "one")
    try:
        assert started.returncode == 0, started.stderr
        assert hpcc("exec", "instance://one", "cat", "/etc/greeting").stdout == "hello from the image\n"
    finally:
        assert hpcc("instance", "stop", "one").returncode == 0


def test_pull(hpcc: Hpcc) -> None:
    """Named as Apptainer names it; the second time from the cache; the file is what the cache has."""
    for uri, name in (
        ("docker-archive:save.tar", "save.sif"),
        (f"docker-archive:save.tar:{TAG}", "save_tools_1.4.sif"),
        ("oci:layout", "layout.sif"),
    ):
        done = hpcc("pull", uri)
        assert done.returncode == 0, done.stderr
        assert hpcc.path(name).stat().st_mode & 0o777 == 0o755
        assert hpcc("exec", hpcc.path(name), "cat", "/etc/greeting").stdout == "hello from the image\n"
    again = hpcc("pull", "--force", "oci:layout")
    assert again.returncode == 0 and "Using cached SIF image" in again.stderr
    refused = hpcc("pull", "oci:layout")
    assert refused.returncode == 255 and "is there already" in refused.stderr
    assert hpcc("pull", "--name", "linked.sif", "oci:layout").returncode == 0
    assert hpcc.path("linked.sif").is_symlink()


def test_what_goes_wrong(hpcc: Hpcc) -> None:
    hpcc.path("half.tar").write_bytes(hpcc.path("save.tar").read_bytes()[:100_000])
    for argv, words in (
        (["exec", "docker-archive:half.tar", "true"], "half.tar: the archive ends in the middle"),
        (["exec", "oci:nothing", "true"], "nothing: No such file or directory"),
        (["pull", "--format", "oci", "oci:layout"], "--format oci is for docker://"),
        (["pull", "oci:layout", "x.sif"], "the file's name comes before the URI"),
        (["exec", "docker-archive://", "true"], "names no image"),
    ):
        done = hpcc(*argv)
        assert done.returncode == 255 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
