"""hpcc lock by the command line: what is written, what the registry is asked, and that runs take what is locked."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.oci.digest import Digest
from hpcc.registry.fake import FakeRegistry, Faults
from tests.support.images import busybox, layer
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of


def _member(kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.mode, info.linkname = kind, mode, target
    return info


def _base() -> bytes:
    directory = (_member(tarfile.DIRTYPE, 0o755), b"")
    members = {"bin": directory, "bin/busybox": (_member(tarfile.REGTYPE, 0o755), busybox())}
    members["bin/cat"] = (_member(tarfile.SYMTYPE, 0o777, "busybox"), b"")
    members |= dict.fromkeys(("etc", "tmp", "proc", "dev", "sys", "root", "var", "var/tmp"), directory)
    return layer(members)


BASE = _base()


class Site:
    """hpcc as one person, in a directory of theirs, and a registry with two images."""

    def __init__(self, person: Person, installed: Installation, registry: FakeRegistry) -> None:
        self.person, self.installed, self.registry = person, installed, registry
        self.work = self.directory(person.home / "project")
        self.tools, self.other = f"{registry.host}/lab/tools:1.4", f"{registry.host}/lab/other:latest"

    def directory(self, path: Path) -> Path:
        path.mkdir(parents=True)
        self.person.at(path) if os.geteuid() == 0 else None
        return path

    def __call__(
        self, *argv: object, env: dict[str, str] | None = None, cwd: Path | None = None, **options: Any
    ) -> Any:
        words = [self.installed.hpcc, *map(str, argv)]
        env = {"HPCC_INSECURE": self.registry.host, **(env or {})}
        return self.person.run(words, env=env, cwd=cwd or self.work, **options)

    def push(self, name: str, greeting: str) -> Digest:
        """Have the tag name a new image, whose /etc/greeting says this; what the tag names, an index."""
        greets = layer({"etc/greeting": (_member(tarfile.REGTYPE, 0o644), greeting.encode())})
        repository, _, tag = name.partition("/")[2].partition(":")
        layers = [BASE, greets]
        self.registry.add_image(repository, tag, layers, config_of(layers, config={"Env": ["PATH=/bin"]}), index=True)
        return Digest.of(self.registry.manifests[repository, tag][1])

    def locked(self, path: Path | None = None) -> dict[str, str]:
        """Name -> digest as the command shows it."""
        argv = ["lock", "--json", *(["--lock-file", path] if path else [])]
        done = self(*argv)
        assert done.returncode == 0, done.stderr
        return {row["image"]: row["digest"] for row in json.loads(done.stdout)["images"]}

    @property
    def file(self) -> Path:
        return self.work / "hpcc.lock"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry(quota=100) as registry:
        yield registry


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Site:
    return Site(runs_as, installed, registry)


def check_failure(done: Any, status: int, *parts: str) -> None:
    assert done.returncode == status, done.stderr
    assert "FATAL:" in done.stderr and "HINT:" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


def words(done: Any) -> list[list[str]]:
    """The words of each line of stdout."""
    return [line.split() for line in done.stdout.splitlines()]


# -- writing -----------------------------------------------------------------------------------------------------


def test_lock_move_outdated_update_remove(hpcc: Site) -> None:
    one, other = hpcc.push(hpcc.tools, "one"), hpcc.push(hpcc.other, "other")
    done = hpcc("lock", f"docker://{hpcc.tools}", f"docker://{hpcc.registry.host}/lab/other")
    assert done.returncode == 0, done.stderr
    assert words(done) == [
        ["added", hpcc.other, other.hex[:12]],
        ["added", hpcc.tools, one.hex[:12]],
        ["hpcc.lock:", "2", "added"],
    ]
    first = hpcc.file.read_text()
    assert first.splitlines()[-2:] == [f'"{hpcc.other}" = "{other}"', f'"{hpcc.tools}" = "{one}"']
    assert hpcc.file.stat().st_mode & 0o777 == 0o644 and hpcc.file.stat().st_uid == hpcc.person.uid

    two = hpcc.push(hpcc.tools, "two")
    asked = len(hpcc.registry.requests)
    done = hpcc("lock", f"docker://{hpcc.tools}")  # what is locked stays, and nobody is asked
    assert done.returncode == 0 and words(done)[0] == ["unchanged", hpcc.tools, one.hex[:12]]
    assert len(hpcc.registry.requests) == asked and hpcc.file.read_text() == first

    done = hpcc("lock", "--outdated")
    assert done.returncode == 1, done.stderr
    assert words(done) == [
        ["IMAGE", "LOCKED", "NOW"], [hpcc.tools, one.hex[:12], two.hex[:12]],
    ]  # fmt: skip
    assert hpcc("lock", "--outdated", hpcc.other).returncode == 0
    done = hpcc("lock", "--outdated", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["images"] == [
        {"image": hpcc.other, "locked": str(other), "now": str(other), "outdated": False},
        {"image": hpcc.tools, "locked": str(one), "now": str(two), "outdated": True},
    ]
    assert hpcc.file.read_text() == first

    done = hpcc("lock", "--update", f"docker://{hpcc.other}")
    assert done.returncode == 0 and hpcc.file.read_text() == first
    done = hpcc("lock", "--update")
    assert done.returncode == 0, done.stderr
    assert words(done)[:2] == [
        ["unchanged", hpcc.other, other.hex[:12]],
        ["moved", hpcc.tools, one.hex[:12], "->", two.hex[:12]],
    ]
    assert hpcc.locked() == {hpcc.tools: str(two), hpcc.other: str(other)}
    done = hpcc("lock", "--outdated")
    assert done.returncode == 0 and "no tag of 2 has moved" in done.stdout

    done = hpcc("lock", "--remove", hpcc.other, "--json")
    assert json.loads(done.stdout)["images"] == [
        {"image": hpcc.other, "change": "removed", "was": str(other), "now": None}
    ]
    assert hpcc.locked() == {hpcc.tools: str(two)}
    assert hpcc.registry.counts["manifest_get"] == 0
    assert not [path for method, path in hpcc.registry.requests if method == "GET" and "/manifests/" in path]


def test_show(hpcc: Site) -> None:
    done = hpcc("lock")
    assert done.returncode == 0 and "holds no image" in done.stdout and not hpcc.file.exists()
    digest = hpcc.push(hpcc.tools, "one")
    assert hpcc("--quiet", "lock", f"docker://{hpcc.tools}").stdout == ""
    done = hpcc("lock", cwd=hpcc.directory(hpcc.work / "deep/er"))  # the file above is shown, and written to
    assert words(done) == [
        ["IMAGE", "DIGEST"], [hpcc.tools, digest.hex[:12]],
    ]  # fmt: skip
    hpcc.push(hpcc.other, "other")
    assert hpcc("lock", f"docker://{hpcc.other}", cwd=hpcc.work / "deep/er").returncode == 0
    assert len(hpcc.locked()) == 2 and not (hpcc.work / "deep/er/hpcc.lock").exists()


def test_another_file(hpcc: Site) -> None:
    digest = hpcc.push(hpcc.tools, "one")
    path = hpcc.work / "site.lock"
    assert hpcc("lock", "--lock-file", path, f"docker://{hpcc.tools}").returncode == 0
    assert hpcc.locked(path) == {hpcc.tools: str(digest)} and not hpcc.file.exists()
    done = hpcc("lock", "--lock-file", hpcc.work / "no/such", f"docker://{hpcc.tools}")
    check_failure(done, 255, "no/such", "--lock-file")


SNAKEFILE = """
configfile: "config.yaml"

rule one:
    output: "a"
    container: "docker://{tools}"
    shell: "echo > {{output}}"

rule two:
    output: "b"
    container: 'docker://{other}'  # or docker://{tools}
    shell: "echo > {{output}}"

rule three:
    container: f"docker://{{config[registry]}}/tools"

rule four:
    container: "docker://{pinned}"
"""


def test_images_of_a_snakefile(hpcc: Site) -> None:
    one, other = hpcc.push(hpcc.tools, "one"), hpcc.push(hpcc.other, "other")
    pinned = f"{hpcc.tools.partition(':1.4')[0]}@{one}"
    (hpcc.work / "Snakefile").write_text(SNAKEFILE.format(tools=hpcc.tools, other=hpcc.other, pinned=pinned))
    done = hpcc("lock", "-f", "Snakefile")
    assert done.returncode == 0, done.stderr
    assert "WARNING: Snakefile:15: docker://… is only a part" in done.stderr
    assert "names its digest itself" in done.stderr
    assert hpcc.locked() == {hpcc.tools: str(one), hpcc.other: str(other)}
    assert hpcc.registry.counts["manifest_get"] == 0


def test_a_list_of_names(hpcc: Site) -> None:
    one, other = hpcc.push(hpcc.tools, "one"), hpcc.push(hpcc.other, "other")
    names = f"# ours\n{hpcc.tools}\n\n  {hpcc.other}  # too\n"
    assert hpcc("lock", "-f", "-", input=names).returncode == 0
    assert hpcc.locked() == {hpcc.tools: str(one), hpcc.other: str(other)}
    check_failure(hpcc("lock", "-f", "-", input="rule all:\n  input: 1\n"), 255, "line 1 is no name")
    check_failure(hpcc("lock", "-f", "-", input="# nothing\n"), 255, "names no image")
    check_failure(hpcc("lock", "-f", "-", input="Debian:12\n"), 255, "stdin:1:", "upper case")
    check_failure(hpcc("lock", "-f", "no-such-file"), 255, "no-such-file")


# -- what goes wrong -----------------------------------------------------------------------------------------------


def test_all_or_nothing(hpcc: Site) -> None:
    hpcc.push(hpcc.tools, "one"), hpcc.push(hpcc.other, "other")
    missing = f"docker://{hpcc.registry.host}/lab/missing:1"
    check_failure(hpcc("lock", f"docker://{hpcc.tools}", missing), 255, "lab/missing")
    assert not hpcc.file.exists()
    assert hpcc("lock", f"docker://{hpcc.tools}").returncode == 0
    before = hpcc.file.read_bytes()
    hpcc.push(hpcc.tools, "two")
    check_failure(hpcc("lock", "--update", f"docker://{hpcc.tools}", f"docker://{hpcc.other}", missing), 255, "missing")
    hpcc.registry.faults = Faults(unavailable=-1)
    check_failure(hpcc("lock", "--update"), 75)
    check_failure(hpcc("lock", "--outdated"), 75)
    assert hpcc.file.read_bytes() == before
    assert os.listdir(hpcc.work) == ["hpcc.lock"]


def test_offline(hpcc: Site) -> None:
    hpcc.push(hpcc.tools, "one")
    offline = {"HPCC_OFFLINE": "1"}
    check_failure(hpcc("lock", f"docker://{hpcc.tools}", env=offline), 255, "lab/tools:1.4", "HPCC_OFFLINE")
    assert not hpcc.registry.requests and not hpcc.file.exists()
    assert hpcc("lock", f"docker://{hpcc.tools}").returncode == 0
    for argv in ([], [f"docker://{hpcc.tools}"], ["--remove", hpcc.tools]):  # these ask nobody
        assert hpcc("lock", *argv, env=offline).returncode == 0


def test_an_image_that_is_gone_is_outdated(hpcc: Site) -> None:
    hpcc.push(hpcc.tools, "one"), hpcc.push(hpcc.other, "other")
    assert hpcc("lock", f"docker://{hpcc.tools}", f"docker://{hpcc.other}").returncode == 0
    del hpcc.registry.manifests["lab/tools", "1.4"]
    done = hpcc("lock", "--outdated")
    assert done.returncode == 1 and "not found" in done.stdout and hpcc.other not in done.stdout


def test_wrong_command_lines(hpcc: Site) -> None:
    for argv, parts in (
        (["debian:12"], ["debian:12 is no URI", "docker://debian:12"]),
        (["./image.sif"], ["./image.sif is no URI"]),
        (["oras://a/b"], ["oras://"]),
        (["--update", "--outdated"], ["only one"]),
        (["--remove"], ["no image"]),
        (["--remove", "docker://debian:12"], ["debian:12 is not in hpcc.lock"]),
        (["--outdated", "docker://debian:12"], ["debian:12 is not in hpcc.lock"]),
        (["docker://Debian:12"], ["upper case"]),
    ):
        check_failure(hpcc("lock", *argv), 255, *parts)
    assert not hpcc.registry.requests and not hpcc.file.exists()
    hpcc.file.write_text("<<<<<<< HEAD\n")
    for argv in ([], ["--outdated"], [f"docker://{hpcc.tools}"]):
        check_failure(hpcc("lock", *argv), 255, "hpcc.lock is no TOML")
    assert hpcc.file.read_text() == "<<<<<<< HEAD\n"


# -- what runs -----------------------------------------------------------------------------------------------------

GREETING = ("cat", "/etc/greeting")


def test_runs_take_what_is_locked(hpcc: Site) -> None:
    """exec, run and pull, in the directory or below it, cold and warm; elsewhere the tag is what it is."""
    hpcc.push(hpcc.tools, "one")
    uri = f"docker://{hpcc.tools}"
    assert hpcc("lock", uri).returncode == 0
    hpcc.push(hpcc.tools, "two")
    below = hpcc.directory(hpcc.work / "below")
    for _ in range(2):
        for where, said in ((hpcc.work, "one"), (below, "one"), (hpcc.person.home, "two")):
            done = hpcc("exec", uri, *GREETING, cwd=where)
            assert (done.returncode, done.stdout) == (0, said), done.stderr
    assert hpcc("pull", "it.sif", uri).returncode == 0
    assert hpcc("exec", "it.sif", *GREETING).stdout == "one"
    asked = list(hpcc.registry.requests)
    assert hpcc("exec", uri, *GREETING, env={"HPCC_TTL": "0"}).stdout == "one"  # no tag, so nothing grows old
    assert hpcc.registry.requests == asked
    assert hpcc("lock", "--update").returncode == 0
    assert hpcc("exec", uri, *GREETING).stdout == "two"


def test_frozen(hpcc: Site) -> None:
    digest = hpcc.push(hpcc.tools, "one")
    hpcc.push(hpcc.other, "other")
    frozen = {"HPCC_FROZEN": "1"}
    uri, other = f"docker://{hpcc.tools}", f"docker://{hpcc.other}"
    check_failure(hpcc("exec", uri, *GREETING, env=frozen), 255, "lab/tools:1.4", f"hpcc lock docker://{hpcc.tools}")
    assert not hpcc.registry.requests
    assert hpcc("lock", uri, env=frozen).returncode == 0  # which is how one gets there
    assert hpcc("exec", uri, *GREETING, env=frozen).stdout == "one"
    assert hpcc("exec", "--frozen", uri, *GREETING).stdout == "one"
    pinned = f"docker://{hpcc.tools.partition(':1.4')[0]}@{digest}"
    assert hpcc("exec", pinned, *GREETING, env=frozen).stdout == "one"
    assert hpcc("exec", other, *GREETING).stdout == "other"  # and now it is in the cache
    for argv in (["exec", other, *GREETING], ["pull", "x.sif", other]):
        check_failure(hpcc(*argv, env=frozen), 255, "lab/other", "hpcc.lock")
    check_failure(hpcc("exec", "--frozen", other, *GREETING), 255, "lab/other", "hpcc.lock")
    assert hpcc("pull", "it.sif", uri, env=frozen).returncode == 0
    assert hpcc("exec", "it.sif", *GREETING, env=frozen).stdout == "one"  # a file is what it is


def test_a_damaged_lock_stops_a_run(hpcc: Site) -> None:
    hpcc.push(hpcc.tools, "one")
    hpcc.file.write_text("version = 1\n[images]\n'debian:12' = 'sha256:12'\n")
    check_failure(hpcc("exec", f"docker://{hpcc.tools}", *GREETING), 255, "hpcc.lock", "'debian:12'")
    assert not hpcc.registry.requests


@pytest.mark.root
def test_a_strangers_lock_is_passed_over(hpcc: Site) -> None:
    if hpcc.person.uid == 0:
        os.chown(hpcc.work, 4242, 4242)
    hpcc.work.chmod(0o1777)
    hpcc.push(hpcc.tools, "one")
    hpcc.file.write_text("rubbish")
    os.chown(hpcc.file, 4243, 4243)
    done = hpcc("exec", f"docker://{hpcc.tools}", *GREETING)
    assert (done.returncode, done.stdout) == (0, "one"), done.stderr
    check_failure(hpcc("lock", f"docker://{hpcc.tools}"), 255, "hpcc.lock is not believed", "4243")
    assert hpcc.file.read_text() == "rubbish"
