"""Debian's dockerd, a real one, for a session: as root, with nothing of this machine's Docker."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import daemons
from tests.support.real import need


class DockerDaemon:
    """A running daemon. Its socket is root's alone until `open_to_all`."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket_path
        self.host = f"unix://{socket_path}"

    def load(self, archive: bytes) -> None:
        """What `docker load` does."""
        status, said = self.request("POST", "/images/load", archive)
        assert status == 200 and b"error" not in said, said

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = _Unix(str(self.socket))
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/x-tar"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def open_to_all(self) -> None:
        self.socket.chmod(0o666)

    def close_to_all(self) -> None:
        self.socket.chmod(0o600)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(120)
        self.sock.connect(self._path)


@contextlib.contextmanager
def docker_daemon() -> Iterator[DockerDaemon]:
    """It needs no network, no cgroup and no overlay: it only keeps images."""
    program = need("dockerd")
    with daemons.state_directory("hpcc-dockerd-") as directory:
        path, log = directory / "docker.sock", directory / "log"
        argv: list[Any] = [
            program, "--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none",
            "-H", f"unix://{path}", "--data-root", directory / "data", "--exec-root", directory / "run",
            "--pidfile", directory / "pid",
        ]  # fmt: skip
        process = daemons.start(argv, log)
        running = DockerDaemon(path)

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return running.request("GET", "/_ping")[0] == 200
            return False

        try:
            assert daemons.wait_until(answers, 60, [process]), daemons.tail(log)
            yield running
        finally:
            daemons.stop([process])
