"""Images of archives and layouts by the command line: run, exec, shell, pull, inspect, instances, and errors."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_cli import HEAVY
from tests.e2e.test_pull import CONFIG, LAYERS
from tests.support.archives import new_save, tar_of
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import ARCHITECTURE
from tests.support.webserver import FakeLibrary

TAG = "lab/tools:1.4"
URIS = ("docker-archive:save.tar", f"docker-archive://save.tar:{TAG}", "oci:layout", "oci-archive:save.tar")


class Hpcc:
    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.installed = person, installed

    def __call__(self, *argv: object, **options: Any) -> Any:
        return self.person.run([self.installed.hpcc, *map(str, argv)], **options)

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


# -- from the network ----------------------------------------------------------------------------------------------


@pytest.fixture
def library() -> Iterator[FakeLibrary]:
    with FakeLibrary() as server:
        yield server


def test_pull_from_http_and_library(hpcc: Hpcc, library: FakeLibrary) -> None:
    assert hpcc("pull", "made.sif", "docker-archive:save.tar").returncode == 0
    sif, archive = hpcc.path("made.sif").read_bytes(), hpcc.path("save.tar").read_bytes()
    library.files["/lab/tools.sif"], library.files["/lab/tools.tar"] = sif, archive
    library.images["lab/group/tools", "1.4", ARCHITECTURE] = sif
    env = {"HPCC_LIBRARY_URL": library.url}
    for argv, name, data in (
        ([f"{library.url}/lab/tools.sif"], "tools.sif", sif),
        (["other.sif", f"{library.url}/lab/tools.tar"], "other.sif", sif),
        (["--format", "raw", f"{library.url}/lab/tools.tar"], "tools.tar", archive),
        (["library://lab/group/tools:1.4"], "tools_1.4.sif", sif),
        (["--disable-cache", "once.sif", f"{library.url}/lab/tools.sif"], "once.sif", sif),
    ):
        done = hpcc("pull", *argv, env=env)
        assert done.returncode == 0, done.stderr
        assert hpcc.path(name).read_bytes() == data, name
    for uri in (f"{library.url}/lab/tools.sif", f"{library.url}/lab/tools.tar", "library:lab/group/tools:1.4"):
        before = len(library.asked)
        done = hpcc("exec", uri, "cat", "/etc/greeting", env=env)
        assert (done.returncode, done.stdout, len(library.asked)) == (0, "hello from the image\n", before), done.stderr
    again = hpcc("pull", "--force", f"{library.url}/lab/tools.sif")
    assert again.returncode == 0 and "Using cached SIF image" in again.stderr
    for argv, words in (
        (["exec", f"{library.url}/lab/none.sif", "true"], "there is no"),
        (["pull", "--format", "raw", "oci:layout"], "--format raw keeps what http:// and https:// give"),
        (["exec", "shub://a/b", "true"], "Singularity Hub was closed"),
        (["exec", "docker-daemon:tools", "true"], "has no tag, and it needs one"),
        (["exec", "ftp://a/b", "true"], "hpcc does not know the source ftp://"),
    ):
        done = hpcc(*argv, env=env)
        assert done.returncode == 255 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_second_use_imports_nothing_that_asks(hpcc: Hpcc, library: FakeLibrary) -> None:
    """The cached image of each kind without requests, ssl, tarfile and their like, as of docker://."""
    assert hpcc("pull", "made.sif", "docker-archive:save.tar").returncode == 0
    library.files["/tools.sif"] = hpcc.path("made.sif").read_bytes()
    for uri in ("docker-archive:save.tar", "oci:layout", "oci-archive:save.tar", f"{library.url}/tools.sif"):
        assert hpcc("exec", uri, "true").returncode == 0
        (site,) = hpcc.installed.venv.glob("lib/python3*/site-packages")
        words = [hpcc.installed.python, "-X", "importtime", "-I", "-S", site / "hpcc/__main__.py", "exec", uri, "true"]
        done = hpcc.person.run(words, env={"HPCC_SITE_PACKAGES": str(site)})
        named = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.M))
        assert done.returncode == 0 and "hpcc.obtaining" in named, done.stderr[-2000:]
        by_url = {"re", "typing", "urllib"} if "://" in uri else set()
        assert sorted(named & HEAVY - by_url) == [], uri
