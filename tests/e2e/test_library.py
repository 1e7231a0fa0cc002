"""hpcc push, search and delete at a library, and its token: stored where pull and push find it, and shown nowhere."""

import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import installation
from tests.support.installation import Installation
from tests.support.layers import convert
from tests.support.people import Person
from tests.support.pulls import ARCHITECTURE, noise, tar_layer
from tests.support.terminal import on_terminal
from tests.support.webserver import FakeLibrary

SIF = convert([tar_layer({"etc/b": b"of a SIF", "a": noise(100_000, 7)})])
TOKEN = "eyJhbGciOi.secret-token"
URI = "library://lab/group/tools:1.4"
Hpcc = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def library() -> Iterator[FakeLibrary]:
    with FakeLibrary() as server:
        yield server


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, library: FakeLibrary) -> Hpcc:
    def run(*argv: object, env: dict[str, str] | None = None, **options: Any) -> "subprocess.CompletedProcess[str]":
        env = {"HPCC_LIBRARY_URL": library.url, **(env or {})}
        done: subprocess.CompletedProcess[str] = runs_as.run([installed.hpcc, *map(str, argv)], env=env, **options)
        assert "Traceback" not in done.stderr and TOKEN not in done.stdout + done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def image(runs_as: Person) -> Path:
    path = runs_as.home / "image.sif"
    path.write_bytes(SIF)
    os.chown(path, runs_as.uid, runs_as.gid)
    return path


def fails(done: "subprocess.CompletedProcess[str]", *said: str, status: int = 255) -> None:
    assert done.returncode == status and all(each in done.stderr for each in said), done.stderr


# -- push --------------------------------------------------------------------------------------------------------------


def test_push_and_pull(hpcc: Hpcc, image: Path, library: FakeLibrary, runs_as: Person) -> None:
    fails(hpcc("push", image, URI), "no signatures found", "-U pushes it without")
    assert not library.changes
    done = hpcc("push", "-U", "-D", "for tests", image, f"{URI},latest")
    assert done.returncode == 0 and "Pushed" in done.stderr and "Pushing" not in done.stdout, done.stderr
    assert library.images == {("lab/group/tools", tag, ARCHITECTURE): SIF for tag in ("1.4", "latest")}
    assert any(document.get("description") == "for tests" for _, _, document in library.changes)
    again = hpcc("push", "-U", image, "library://lab/group/tools")
    assert again.returncode == 0 and "it had it" in again.stderr, again.stderr
    assert [path for method, path, _ in library.changes if method == "PUT"].count("/v2/imagefile/id-3/_complete") == 1
    done = hpcc("pull", "again.sif", URI)
    assert done.returncode == 0 and (runs_as.home / "again.sif").read_bytes() == SIF, done.stderr
    there = f"library://{library.host}/lab/group/tools:3"
    env = {"HPCC_LIBRARY_URL": "http://127.0.0.1:1", "HPCC_LIBRARY_TOKEN": TOKEN}
    for argv in (("push", "-U", image), ("pull", "third.sif"), ("delete", "-F")):
        done = hpcc(argv[0], "--no-https", *argv[1:], there, env=env)
        assert done.returncode == 0, done.stderr
    assert (runs_as.home / "third.sif").read_bytes() == SIF and set(library.authorisations) == {""}
    quiet = hpcc("--quiet", "push", "-U", image, URI)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_signed_sif_needs_no_option(runs_as: Person, image: Path, library: FakeLibrary) -> None:
    program = installation.install(("sign",)).hpcc
    for argv, text in (
        (["key", "newpair", "-N", "ann", "-E", "ann@example.org", "-b", "2048"], "passphrase\n"),
        (["sign", image], "passphrase\n"),
        (["push", "--library", library.url, image, URI], ""),
    ):
        done = runs_as.run([program, *argv], input=text)
        assert done.returncode == 0, done.stderr
    assert library.images["lab/group/tools", "1.4", ARCHITECTURE] == image.read_bytes() != SIF


def test_what_cannot_be_pushed(hpcc: Hpcc, image: Path, runs_as: Person) -> None:
    assert hpcc("sif", "new", "empty.sif").returncode == 0
    (runs_as.home / "text").write_text("no SIF" * 99)
    for argv, said in (
        ((image, "library://lab/tools:1"), "no whole name"),
        ((image, "library://tools"), "no whole name"),
        ((image, "library://a/b/c/d:1"), "no whole name"),
        ((image, "library://a/b/c:1,"), "no name in a library"),
        ((image, "library://a/b/../c:1"), "no whole name"),
        ((image, f"library://a/b/c@sha256:{'0' * 64}"), "no whole name"),
        ((image, f"library://a/b/c:sha256.{'0' * 64}"), "pushed to a tag"),
        (("--oci", image, URI), "Leave --oci away"),
        ((URI, image), "the SIF comes before the URI"),
        (("empty.sif", URI), "no primary system partition"),
        (("text", URI), "not a SIF"),
        (("missing.sif", URI), "No such file"),
        (("--library", "ftp://x", image, URI), "library"),
    ):
        fails(hpcc("push", "-U", *argv), said)
    fails(hpcc("push", "-U", image, URI, env={"HPCC_OFFLINE": "1"}), "pushes nothing")
    fails(hpcc("push", "-U", "--library", "http://127.0.0.1:1", image, URI), "refuses connections", status=75)


# -- the token ---------------------------------------------------------------------------------------------------------


def store(runs_as: Person) -> Path:
    return runs_as.home / ".config/hpcc/library-tokens"


@pytest.mark.parametrize("way", ["stdin", "file", "terminal"])
def test_login_push_logout(
    hpcc: Hpcc, image: Path, library: FakeLibrary, runs_as: Person, installed: Installation, way: str
) -> None:
    library.token = TOKEN
    fails(hpcc("push", "-U", image, URI), "Unauthorized", "hpcc registry login")
    if way == "terminal":
        argv = [str(installed.hpcc), "registry", "login"]
        status, shown = on_terminal(
            runs_as, argv, [(b"Enter token:", f"{TOKEN}\n".encode())], env={"HPCC_LIBRARY_URL": library.url}
        )
        assert status == 0 and TOKEN.encode() not in shown, shown
    elif way == "file":
        (runs_as.home / "token").write_text(f"{TOKEN}\n")
        assert hpcc("remote", "login", "--tokenfile", "token").returncode == 0
    else:
        done = hpcc("registry", "login", "--password-stdin", input=f"{TOKEN}\n")
        assert done.returncode == 0 and f"Token of {library.url} stored in {store(runs_as)}" in done.stderr
    status = store(runs_as).stat()
    assert stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == runs_as.uid
    assert hpcc("push", "-U", image, URI).returncode == 0
    assert hpcc("pull", "again.sif", URI).returncode == 0
    listed = hpcc("registry", "list")
    assert library.url in listed.stdout and str(store(runs_as)) in listed.stdout
    rows = json.loads(hpcc("registry", "list", "--json").stdout)
    assert [(row["registry"], row["own"]) for row in rows] == [(library.url, True)]
    assert "Logout succeeded" in hpcc("registry", "logout").stderr
    assert TOKEN not in store(runs_as).read_text()
    assert "no token" in hpcc("registry", "logout").stderr
    fails(hpcc("delete", "--force", URI), "Unauthorized")


def test_a_token_goes_to_its_own_library_alone(hpcc: Hpcc, image: Path, library: FakeLibrary) -> None:
    assert hpcc("registry", "login", "--password-stdin", input=TOKEN).returncode == 0
    with FakeLibrary() as other:
        assert hpcc("push", "-U", image, URI, env={"HPCC_LIBRARY_URL": other.url}).returncode == 0
        assert other.changes and set(other.authorisations) == {""}
    assert hpcc("push", "-U", image, URI).returncode == 0
    assert set(library.authorisations) == {"", f"Bearer {TOKEN}"}  # "": what went to the signed address


def test_what_is_no_token(hpcc: Hpcc, library: FakeLibrary, runs_as: Person) -> None:
    library.token = TOKEN
    (runs_as.home / "two").write_text("two words\n")
    (runs_as.home / "none").write_bytes(b"\n")
    (runs_as.home / "bytes").write_bytes(b"\xff\xfe")
    for argv, said in (
        (["--tokenfile", "none"], "has no token"),
        (["--tokenfile", "bytes"], "has no token"),
        (["--tokenfile", "missing"], "No such file"),
        (["--tokenfile", "none", "quay.io"], "quay.io is a registry"),
        (["--username", "ann"], "login --username ann docker.io"),
        (["--tokenfile", "none", "--password-stdin"], "Usage: hpcc registry login"),
        ([], "stdin is no terminal"),
    ):
        fails(hpcc("registry", "login", *argv), said)
    fails(hpcc("registry", "login", "--password-stdin", input="wrong-token"), "Unauthorized")
    fails(hpcc("registry", "login", "--password-stdin", input=TOKEN, env={"HPCC_OFFLINE": "1"}), "offline")
    assert not store(runs_as).exists()
    library.token = ""
    fails(hpcc("registry", "login", "--tokenfile", "two"), "one word")
    assert not store(runs_as).exists()
    done = hpcc("registry", "login", "--password-stdin", input=TOKEN, env={"APPTAINER_LIBRARY_TOKEN": "another"})
    assert "APPTAINER_LIBRARY_TOKEN is set, and comes before" in done.stderr, done.stderr
    store(runs_as).write_text("nonsense\n")
    fails(hpcc("search", "tools"), "do not parse")


# -- search and delete -------------------------------------------------------------------------------------------------


def found(name: str, **more: Any) -> dict[str, Any]:
    known = {"entityName": "lab", "collectionName": "group", "containerName": name, "arch": "amd64", "size": 12_345_678}
    return {**known, "tags": ["1.4", "latest"], "hash": "sha256.12", "signed": True, **more}


def test_search(hpcc: Hpcc, library: FakeLibrary) -> None:
    long = "a-name-that-is-longer-than-what-there-is-room-for"
    strange = {"tags": 5, "size": "x", "signed": "x", "arch": None, "hash": "\x1b[31m"}
    library.found = {"image": [found("tools"), found(long, signed=False), found("odd", **strange)]}
    done = hpcc("search", "--arch", "x86_64,arm64", "--signed", "tools")
    assert done.returncode == 0 and "3 images for amd64,arm64" in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["library://lab/group/tools:1.4", "amd64", "12.3", "MB", "yes"]
    assert lines[2] == f"{'':<{len('library://lab/group/tools')}}:latest"
    assert lines[3] == f"library://lab/group/{long}:1.4" and lines[4].split() == ["amd64", "12.3", "MB", "no"]
    assert "\x1b" not in done.stdout and [line for line in lines if len(line) > 80] == []
    assert library.asked[-1][0] == "/v1/search?value=tools&arch=amd64%2Carm64&signed=true"
    rows = json.loads(hpcc("search", "--json", "tools").stdout)
    assert rows[0]["image"] == "library://lab/group/tools" and rows[0]["tags"] == ["1.4", "latest"]
    assert rows[2]["size"] is None and library.asked[-1][0] == f"/v1/search?value=tools&arch={ARCHITECTURE}"
    library.found = {}
    done = hpcc("search", "nothing")
    assert (done.returncode, done.stdout) == (0, "") and "0 images" in done.stderr
    fails(hpcc("search", "ab"), "at least 3 characters")
    fails(hpcc("search", "docker://debian"), "Docker images are not searched")
    fails(hpcc("search"), "Usage: hpcc search")
    fails(hpcc("search", "tools", env={"HPCC_OFFLINE": "1"}), "asks no library")


def test_delete(hpcc: Hpcc, library: FakeLibrary, runs_as: Person, installed: Installation) -> None:
    for arch in (ARCHITECTURE, "riscv64"):
        library.images["lab/group/tools", "1.4", arch] = SIF
    fails(hpcc("delete", URI), "stdin is no terminal", "--force")
    argv = [str(installed.hpcc), "delete", URI]
    env = {"HPCC_LIBRARY_URL": library.url}
    for answer, left in (("", 2), ("n", 2), ("y", 1)):
        status, shown = on_terminal(runs_as, argv, [(b"[N/y]", f"{answer}\n".encode())], env=env)
        assert status == 0 and len(library.images) == left, shown
    fails(hpcc("delete", "-F", URI), f"no image {URI} for {ARCHITECTURE}")
    assert hpcc("delete", "-F", "-A", "riscv64", URI).returncode == 0 and not library.images
    fails(hpcc("delete", "docker://debian:12"), "of libraries alone")
    fails(hpcc("delete", "-F", "library://tools"), "no whole name")
    fails(hpcc("delete", "-F", "library://a/b/c:1,2"), "one image")
