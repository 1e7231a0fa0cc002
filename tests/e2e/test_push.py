"""hpcc push: into a real docker-registry, with an account and without; apptainer pulls it in interop/test_push.py."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import IntegrityError, RegistryError
from hpcc.oci.digest import Digest
from hpcc.progress import Part
from hpcc.registry import upload
from hpcc.registry.connections import Interrupted
from tests.support.docker_registry import ANN, DockerRegistry, write_htpasswd
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.real import need

Push = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def image(runs_as: Person, installed: Installation) -> Path:
    done = runs_as.run([installed.hpcc, "sif", "new", "image.sif"])
    assert done.returncode == 0, done.stderr
    done = runs_as.run(
        [installed.hpcc, "sif", "add", "--datatype", "7", "--groupid", "1", "image.sif", "-"], input="data " * 9999
    )
    assert done.returncode == 0, done.stderr
    return runs_as.home / "image.sif"


@pytest.fixture
def push(runs_as: Person, installed: Installation) -> Push:
    return lambda *argv, **options: runs_as.run([installed.hpcc, "push", "--no-https", *argv], **options)


def test_push(push: Push, image: Path, docker_registry: DockerRegistry) -> None:
    uri = f"oras://{docker_registry.host}/lab/tools:1.0"
    done = push(image, uri)
    assert done.returncode == 0 and f"Pushed {image} to {uri}" in done.stderr, done.stderr
    sif = Digest.of(image.read_bytes())
    raw = docker_registry._send(
        "GET", "/v2/lab/tools/manifests/1.0", accept="application/vnd.oci.image.manifest.v1+json"
    ).read()
    manifest = json.loads(raw)
    assert manifest["layers"] == [
        {
            "mediaType": "application/vnd.sylabs.sif.layer.v1.sif", "size": image.stat().st_size, "digest": str(sif),
            "annotations": {"org.opencontainers.image.title": "image.sif"},
        }
    ]  # fmt: skip
    assert manifest["config"]["mediaType"] == "application/vnd.sylabs.sif.config.v1+json"
    assert f"Its digest is {Digest.of(raw)}" in done.stderr
    assert docker_registry._send("GET", f"/v2/lab/tools/blobs/{sif}").read() == image.read_bytes()
    before = len(docker_registry.requests())
    again = push(image, f"oras://{docker_registry.host}/lab/tools:2.0")
    assert again.returncode == 0 and "which had it" in again.stderr, again.stderr
    methods = [method for method, _, _ in docker_registry.requests()[before:]]
    assert "PATCH" not in methods and "POST" not in methods and methods.count("PUT") == 1


def test_an_account(push: Push, image: Path, runs_as: Person, installed: Installation, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path, str(need("docker-registry")), htpasswd=write_htpasswd(tmp_path)) as registry:
        uri = f"oras://{registry.host}/lab/tools:1.0"
        done = push(image, uri)
        assert done.returncode == 255 and "unauthorized" in done.stderr and "Traceback" not in done.stderr, done.stderr
        wrong = {"HPCC_DOCKER_USERNAME": ANN[0], "HPCC_DOCKER_PASSWORD": "wrong-one"}
        done = push(image, uri, env=wrong)
        assert done.returncode == 255 and "wrong-one" not in done.stderr, done.stderr
        done = runs_as.run(
            [installed.hpcc, "registry", "login", "--no-https", "-u", ANN[0], "--password-stdin", registry.host],
            input=ANN[1],
        )
        assert done.returncode == 0, done.stderr
        done = push(image, uri)
        assert done.returncode == 0, done.stderr


def test_what_cannot_be_pushed(push: Push, image: Path, runs_as: Person) -> None:
    text = runs_as.home / "text"
    text.write_text("no SIF" * 99)
    for argv, said in (
        ((text, "oras://127.0.0.1:1/a:1"), "not a SIF"),
        (("missing.sif", "oras://127.0.0.1:1/a:1"), "No such file"),
        ((image, "docker://127.0.0.1:1/a:1"), "Give --oci"),
        (("--oci", image, "oras://127.0.0.1:1/a:1"), "Leave --oci away"),
        (("--oci", image, "docker://127.0.0.1:1/a/b:1"), "primary system partition"),
        ((image, "shub://a/b/c:1"), "does not know this place"),
        ((image, "library://a/b/c:1"), "primary system partition"),
        (("oras://127.0.0.1:1/a:1", image), "the SIF comes before the URI"),
        ((image, f"oras://127.0.0.1:1/a@sha256:{'0' * 64}"), "pushed to a tag"),
        ((image, "oras://127.0.0.1:1/UPPER:1"), "UPPER"),
    ):
        done = push(*argv)
        assert done.returncode == 255 and said in done.stderr and "Traceback" not in done.stderr, (argv, done.stderr)
    done = push(image, "oras://127.0.0.1:1/a/b:1", env={"HPCC_OFFLINE": "1"})
    assert done.returncode == 255 and "offline" in done.stderr
    done = push(image, "oras://127.0.0.1:1/a/b:1")
    assert done.returncode == 75 and "refuses connections" in done.stderr, done.stderr


# -- an upload that breaks off -----------------------------------------------------------------------------------------


class _Answer:
    def __init__(self, status: int, **headers: str) -> None:
        self.status_code, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        self.raw: Any = None

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _Registry:
    """Takes an upload; the PATCHes with these numbers break off, with half of their bytes taken."""

    def __init__(self, breaks: tuple[int, ...] = (), elsewhere: str = "") -> None:
        self.host, self.base, self.credentials = "r", "https://r", None
        self.taken, self.patches, self._breaks, self._elsewhere = bytearray(), 0, breaks, elsewhere
        self.finished = ""

    def use_login(self, repository: str) -> None:
        pass

    def ask(
        self, method: str, where: str, headers: dict[str, str], question: Any, *, data: bytes = b"", accept: Any
    ) -> Any:
        if method == "HEAD":
            return _Answer(404)
        if method == "POST":
            return _Answer(202, Location=self._elsewhere or "/u?state=1")
        if method == "GET":
            return _Answer(204, Range=f"0-{max(len(self.taken) - 1, 0)}", Location="https://r/u?state=2")
        if method == "PUT":
            self.finished = where
            return _Answer(201)
        self.patches += 1
        start, end = map(int, headers["Content-Range"].split("-"))
        assert start == len(self.taken) and end - start + 1 == len(data)
        if self.patches in self._breaks:
            self.taken += data[: len(data) // 2]
            raise Interrupted("it broke")
        self.taken += data
        return _Answer(202, Location=f"/u?state={self.patches}")


@pytest.mark.parametrize("breaks", [(), (1,), (2,), (1, 2, 3)])
def test_goes_on_where_it_broke(monkeypatch: pytest.MonkeyPatch, breaks: tuple[int, ...]) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1000)
    data, registry = os.urandom(3500), _Registry(breaks)
    digest = Digest.of(data)
    made: Any = registry
    assert upload.Upload(made, "a/b").blob(digest, len(data), lambda at, n: data[at : at + n], Part())
    assert registry.taken == data
    assert registry.finished.startswith("https://r/u?state=") and registry.finished.endswith(f"%3A{digest.hex}")


def test_gives_up_in_the_end_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 1000)
    data = os.urandom(3500)
    broken: Any = _Registry(tuple(range(1, 99)))
    with pytest.raises(Interrupted):
        upload.Upload(broken, "a/b").blob(Digest.of(data), len(data), lambda at, n: data[at : at + n], Part())
    away: Any = _Registry(elsewhere="https://evil.example/u")
    with pytest.raises(RegistryError, match=r"evil\.example"):
        upload.Upload(away, "a/b").blob(Digest.of(data), len(data), lambda at, n: data[at : at + n], Part())
    short: Any = _Registry()
    with pytest.raises(IntegrityError, match="cut short"):
        upload.Upload(short, "a/b").blob(Digest.of(data), 5000, lambda at, n: data[at : at + n], Part())
