"""What tests of pulling share: small images, a storage that stalls, other users, and what a cache holds."""

import gzip
import hashlib
import io
import os
import pickle
import random
import tarfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

from hpcc.cli.demo_image import build_demo_layers
from hpcc.image import Image, open_image
from hpcc.progress import Part, Progress
from hpcc.registry.fake import FakeRegistry
from hpcc.settings import Settings
from tests.support.people import Person, isolated
from tests.support.webserver import QuietServer

T = TypeVar("T")
NAME = "group/tools"  # of the image that the fixture `fake` serves
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


@contextmanager
def demo_registry(*, quota: int) -> Iterator[FakeRegistry]:
    """A registry with the image library/demo:1.0 of `hpcc demo`, that allows so many manifest GETs."""
    demo = build_demo_layers()
    with FakeRegistry(quota=quota) as registry:
        registry.add_image("library/demo", "1.0", demo.layers, demo.config, index=True)
        yield registry


def tar_layer(files: Mapping[str, bytes]) -> bytes:
    """A gzip-compressed tar of these files; the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def config_of(layers: list[bytes], **more: Any) -> dict[str, Any]:
    """The config of an image of these layers for this machine."""
    diff_ids = [f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}" for layer in layers]
    base = {"architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": ["/a"]}}
    return {**base, "rootfs": {"type": "layers", "diff_ids": diff_ids}, **more}


def settings_of(home: Path, **more: str) -> Settings:
    """Settings as from an environment with everything below `home`, plain http, and a minute's patience."""
    environ = {**isolated(home), "HPCC_NOHTTPS": "1", "HPCC_KEEP_BLOBS": "1", "HPCC_KEEP_PACKS": "1",
               "HPCC_LOCK_WAIT": "60", **more}  # fmt: skip
    return Settings.from_environ(environ, site_file="/nonexistent")


LAYERS = [tar_layer({"a": noise(300_000), "etc/b": b"lower"}), tar_layer({"etc/b": b"upper", "c": noise(2_500_000, 1)})]
DIGESTS = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in LAYERS]


def uri_of(registry: FakeRegistry, tag: str = "1") -> str:
    """The image that the fixture `fake` serves, or another tag of its repository."""
    return f"docker://{registry.host}/{NAME}:{tag}"


def pull(registry: FakeRegistry, home: Path, *, told: "Told | None" = None, tag: str = "1", **environ: str) -> Image:
    """`uri_of` through open_image, with settings_of(home, **environ); its file is closed again."""
    image = open_image(uri_of(registry, tag), settings_of(home, **environ), progress=told or Told())
    os.close(image.rootfs.fd)
    return image


class Told(Progress):
    """What a user would have been told. Of parts that have a name: `done`, their bytes; `parts`, the name and last word
    of each that ended.
    """

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.parts: list[tuple[str, str]] = []
        self.done = 0

    def part(self, name: str, total: int) -> Part:
        return _ToldPart(self, name)

    def info(self, text: str) -> None:
        self.infos.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


class _ToldPart(Part):
    def __init__(self, told: Told, name: str) -> None:
        self._told, self._name = told, name

    def advance(self, amount: int) -> None:
        self._told.done += amount if self._name else 0

    def finish(self, said: str = "") -> None:
        self._told.parts.append((self._name, said))


def files_below(top: Path) -> dict[str, bytes]:
    """Relative path -> content of each file; locks, and notes of how registries answer, excepted."""
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in sorted(top.rglob("*"))
        if path.is_file() and not {"locks", "limits"} & set(path.relative_to(top).parts)
    }


class StallingStorage:
    """Where a registry's redirects lead: sends half of each blob, then waits for `go`. Keeps the headers."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.go, self.stalled = threading.Event(), threading.Event()
        self.headers: list[dict[str, str]] = []
        storage = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                storage.headers.append(dict(self.headers))
                data = blobs[self.path.rpartition("/")[2]]
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                total, data = len(data), data[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                self.end_headers()
                half = len(data) // 2
                try:
                    self.wfile.write(data[:half])
                    self.wfile.flush()
                    storage.stalled.set()
                    storage.go.wait(120)
                    self.wfile.write(data[half:])
                except OSError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "StallingStorage":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


def call_as(person: Person, function: Callable[[], T]) -> T:
    """`function()` in a child that is this person; its result, or its exception, comes back pickled."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(source)
            os.initgroups(person.name, person.gid)
            os.setresgid(person.gid, person.gid, person.gid)
            os.setresuid(person.uid, person.uid, person.uid)
            os.environ.update(isolated(person.home))
            try:
                answer: tuple[bool, Any] = (True, function())
            except Exception as error:
                traceback.print_exc()
                answer = (False, error)
            with open(sink, "wb") as file:
                pickle.dump(answer, file)
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    with open(source, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value  # type: ignore[no-any-return]
