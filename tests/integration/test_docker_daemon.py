"""docker-daemon: with a real dockerd, and with daemons that lie."""

import json
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    InvalidImage,
    RegistryError,
    RegistryUnavailable,
    SettingsError,
    UsageError,
)
from hpcc.image import open_image
from tests.support.archives import new_save, old_save, tar_of
from tests.support.docker_daemon import DockerDaemon, docker_daemon
from tests.support.people import Person
from tests.support.pulls import LAYERS, Told, call_as, config_of, files_below, settings_of

TAG = "lab/tools:1.4"
CONFIG = config_of(LAYERS, config={"Cmd": ["/a"]})


@pytest.fixture(scope="module")
def running() -> Iterator[DockerDaemon]:
    if os.geteuid() != 0:
        pytest.skip("needs root, who runs Docker's daemon")
    with docker_daemon() as daemon:
        daemon.load(tar_of(old_save(LAYERS, CONFIG, [TAG, "debian:12"])))
        yield daemon


def open_as(person: Person, home: Path, uri: str, **environ: str) -> tuple[str, str, bytes, list[tuple[str, str]]]:
    """What an image says of itself, and the SIF; in a process of the person's."""

    def work() -> tuple[str, str, bytes, list[tuple[str, str]]]:
        told = Told()
        image = open_image(uri, settings_of(home, **environ), progress=told)
        with open(image.rootfs.fd, "rb") as file:
            return image.reference, image.path, file.read(), told.parts

    return call_as(person, work)


@pytest.mark.root
def test_an_image_of_the_daemon(running: DockerDaemon, runs_as: Person) -> None:
    """Its id names it; the second use asks for the id alone; by any name it is the same."""
    running.open_to_all()
    try:
        reference, path, sif, parts = open_as(runs_as, runs_as.home, f"docker-daemon:{TAG}", DOCKER_HOST=running.host)
        image_id = json.loads(running.request("GET", f"/images/{TAG}/json")[1])["Id"]
        assert reference == f"docker-daemon@{image_id}" and any("from Docker" in name for name, _ in parts)
        for name in (TAG, f"//{TAG}", "debian:12", "docker.io/library/debian:12", image_id):
            again = open_as(runs_as, runs_as.home, f"docker-daemon:{name}", DOCKER_HOST=running.host)
            assert again == (reference, path, sif, []), name
    finally:
        running.close_to_all()
    archive = runs_as.home / "x.tar"
    archive.write_bytes(running.request("GET", f"/images/{TAG}/get")[1])
    archive.chmod(0o644)
    reference, *_, parts = open_as(runs_as, runs_as.home, f"docker-archive:{archive}")
    assert reference == f"docker-archive@{image_id}"
    assert [said for _, said in parts] == ["converted before"] * 2  # the packs are shared
    assert os.listdir(runs_as.home / "cache/tmp") == []


@pytest.mark.root
def test_the_socket_is_not_for_everybody(running: DockerDaemon, plain_user: Person, tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="permission denied") as raised:
        open_as(plain_user, plain_user.home, f"docker-daemon:{TAG}", DOCKER_HOST=running.host)
    assert "docker group" in raised.value.hint and "sudo" in raised.value.hint


@pytest.mark.root
def test_what_the_daemon_has_not(running: DockerDaemon, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="has no lab/tools:2: no such image"):
        open_image("docker-daemon:lab/tools:2", settings_of(tmp_path, DOCKER_HOST=running.host))


@pytest.mark.parametrize("name", ["tools", "lab/tools", "host:5000/tools", "//tools"])
def test_the_tag_is_required(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="has no tag, and it needs one"):
        open_image(f"docker-daemon:{name}", settings_of(tmp_path))


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("unix:///nowhere/docker.sock", RegistryError, "cannot be reached: No such file"),
        ("ssh://me@there", SettingsError, "none that hpcc can talk to"),
        ("unix://", SettingsError, "none that hpcc can talk to"),
        ("tcp://127.0.0.1:1", RegistryError, "cannot be reached: Connection refused"),
        ("tcp://127.0.0.1:99999999", SettingsError, "no usable port"),
        ("tcp://[::1", SettingsError, "none that hpcc can talk to"),
    ],
)
def test_daemons_that_are_not_there(tmp_path: Path, host: str, kind: type[HpccError], words: str) -> None:
    with pytest.raises(kind, match=words) as raised:
        open_image("docker-daemon:a:1", settings_of(tmp_path, DOCKER_HOST=host))
    assert raised.value.hint or "port" in words
    if kind is RegistryError:
        assert "docker group" in raised.value.hint and "sudo" in raised.value.hint


def test_offline_asks_no_other_host(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="hpcc is offline"):
        open_image("docker-daemon:a:1", settings_of(tmp_path, DOCKER_HOST="tcp://127.0.0.1:1", HPCC_OFFLINE="1"))


class Liar:
    """A daemon that answers each question with the next of these bytes, and hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> "Liar":
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)


def answer(body: bytes, length: int | None = None, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {length or len(body)}\r\n\r\n".encode() + body


SAYS = answer(json.dumps({"Id": "sha256:" + "ab" * 32, "Size": 100}).encode())
SAVED = tar_of(new_save(LAYERS, CONFIG, [TAG]))
LIES = {
    "no JSON": ([answer(b"<html>")], RegistryError, "does not answer as Docker's daemon would"),
    "no HTTP": ([b"220 ftp\r\n"], RegistryUnavailable, "the connection broke"),
    "an error": ([answer(b'{"message": "a\\u001b[1m\\nb"}', status="500 x")], RegistryError, "answers 500: a"),
    "forbidden": ([answer(b'{"message": "no"}', status="403 x")], AccessDenied, "no"),
    "a proxy": ([SAYS, answer(b"<html>" * 200)], InvalidImage, "it is no tar archive"),
    "half": ([SAYS, answer(SAVED[:500_000], len(SAVED))], RegistryUnavailable, "the connection broke"),
    "cut tar": ([SAYS, answer(SAVED[:500_000])], InvalidImage, "ends in the middle"),
}


@pytest.mark.parametrize("name", LIES)
def test_daemons_that_lie(tmp_path: Path, name: str) -> None:
    answers, kind, words = LIES[name]
    with Liar(*answers) as liar, pytest.raises(kind, match=words) as raised:
        open_image("docker-daemon:a:1", settings_of(tmp_path, DOCKER_HOST=liar.host))
    assert "\x1b" not in raised.value.message
    left = files_below(tmp_path / "cache") if (tmp_path / "cache").exists() else {}
    assert not [path for path in left if path.startswith(("sif", "tmp"))]


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """200 MB through a process that may have 120 MB more than it has now."""
    layer = tar_of({"zeros": bytes(200 << 20)})
    import gzip

    packed = gzip.compress(layer, 1)
    saved = tar_of(new_save([packed], config_of([packed]), [TAG]))
    with Liar(SAYS, answer(saved)) as liar:

        def work() -> str:
            with open("/proc/self/statm") as file:
                now = int(file.read().split()[1]) * resource.getpagesize()
            image = open_image("docker-daemon:a:1", settings_of(tmp_path, DOCKER_HOST=liar.host))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            return f"{image.reference} {max(0, peak - now)}"

        from tests.support.people import myself

        reference, grown = call_as(myself(tmp_path), work).split()
    assert reference.startswith("docker-daemon@sha256:") and int(grown) < 120 << 20
