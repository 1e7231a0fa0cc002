"""Dask for tests: a client's environment, and an image with the same Dask, as `pip install distributed` makes one.

    base, python   of the demo's image: this machine's bash, coreutils, base interpreter and standard library
    dask           distributed and what it depends on, out of the client's environment, without hpcc; compiled, as pip
                   does it, and with those modules of the standard library compiled that a worker imports

An image is made once for the session, in some seconds.
"""

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from py_compile import PycInvalidationMode, compile
from typing import Any
from uuid import uuid4

from isal import igzip

from hpcc.cli.demo_image import build_demo_layers
from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.images import marked
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.pulls import config_of
from tests.support.real import need

FRAMES = ("pandas", "pyarrow")
"""For `more`: what data frames need."""

Image = tuple[list[bytes], dict[str, Any]]
"""Layers, and the config of an image of them, as FakeRegistry.add_image and DockerRegistry.push take them."""

_CONFIG = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["bash"]}
_LISTING = """
import importlib.metadata, json, re, sys, os
import distributed.cli.dask_spec, distributed.nanny, distributed.worker
import multiprocessing.spawn, multiprocessing.popen_spawn_posix
stdlib = os.path.dirname(os.__file__)
used = [m.__file__ for m in list(sys.modules.values()) if (getattr(m, "__file__", None) or "").startswith(stdlib)
        and m.__file__.endswith(".py") and "-packages" not in m.__file__]
files, todo, seen = {}, sys.argv[1:], set()
while todo:
    name = re.sub("[-_.]+", "-", todo.pop()).lower()
    try:
        found = None if name in seen else importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        continue  # of another platform or an extra
    seen.add(name)
    if found is not None:
        todo += [re.match("[A-Za-z0-9._-]+", each)[0] for each in found.requires or () if "extra ==" not in each]
        files |= {str(path): str(path.locate()) for path in found.files if not str(path).startswith("..")}
print(json.dumps([used, files, stdlib]))
"""
_LEFT_OUT = ("tests", "include", "benchmarks")


MARK = "DASK_HPCC_TEST_MARK"  # as it begins with DASK_, it is in a clean environment, too
_BEGIN = """\
import json, os, signal, subprocess, sys, time
from distributed import Client, LocalCluster
import hpcc, hpcc_dask
from hpcc_dask import HPCCCluster
SMALL = {"n_workers": 2, "nthreads": 1, "memory_limit": "400MB", "dashboard_address": ":0"}
ONE = {**SMALL, "n_workers": 1, "processes": True, "threads_per_worker": 1}
ONE.pop("nthreads")
IMAGE = sys.argv[1]

def say(**what):
    print("\\n" + json.dumps(what), flush=True)

def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to be"
        time.sleep(0.05)

def inside(_=None):
    return os.environ.get("HPCC_CONTAINER", "")

def main():
"""


def client() -> Installation:
    """hpcc with its extra `dask`, and what `Security.temporary()` needs."""
    return installation.install(("dask", "sign"))


@functools.cache
def dask_image(more: tuple[str, ...] = (), python: str = "") -> Image:
    """An image with Python and Dask, out of the environment of `python`, by default that of `client()`.

    more: distributions beside distributed and what it needs.
    """
    layer = _dask_layer(python or str(client().python), ("distributed", "dask", *more))
    return _image(*build_demo_layers().layers[:2], layer)


@functools.cache
def python_image() -> Image:
    """One with Python, and the system's libraries that Dask's compiled parts need, but without Dask."""
    layer = _dask_layer(str(client().python), ("distributed",), packages=False)
    return _image(*build_demo_layers().layers[:2], layer)


@functools.cache
def bare_image() -> Image:
    """One without Python."""
    return _image(build_demo_layers().layers[0])


def _image(*layers: bytes) -> Image:
    return list(layers), config_of(list(layers), config=_CONFIG)


def _dask_layer(python: str, distributions: tuple[str, ...], *, packages: bool = True) -> bytes:
    done = subprocess.run([python, "-c", _LISTING, *distributions], capture_output=True, text=True, check=True)
    used, files, stdlib = json.loads(done.stdout)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    ours = f"usr/{sys.platlibdir}/{version}"
    where = _packages(ours, version)
    buffer = io.BytesIO()
    with (
        igzip.open(buffer, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
        tempfile.TemporaryDirectory() as scratch,
    ):
        for name, path in sorted(files.items()) if packages else ():
            if not set(name.split("/")) & set(_LEFT_OUT):
                tar.add(path, f"{where}/{name}", recursive=False, filter=_of_root)
        for path in _system_libraries([path for path in files.values() if path.endswith(".so")]):
            tar.add(os.path.realpath(path), f"usr/lib/{path.partition('/lib/')[2]}", filter=_of_root)
        for number, path in enumerate(used):
            module = Path(path)
            pyc = f"{scratch}/{number}"
            compile(path, pyc, dfile=path, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
            inside = f"{ours}{str(module.parent)[len(stdlib) :]}/__pycache__"
            tar.add(pyc, f"{inside}/{module.stem}.{sys.implementation.cache_tag}.pyc", filter=_of_root)
    return buffer.getvalue()


def _system_libraries(modules: list[str]) -> list[str]:
    """What the dynamic loader has for them from this machine; wheels bring the rest in directories of their own."""
    listed = subprocess.run([need("ldd"), *modules], capture_output=True, text=True, check=True).stdout
    return sorted({path for path in re.findall(r"=> (\S+) \(0x", listed) if path.startswith(("/lib/", "/usr/lib/"))})


def _packages(stdlib: str, version: str) -> str:
    """Where the image's Python, the base one of this one, looks for packages."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    asked = subprocess.run([python, "-Ic", "import sys; print(*sys.path)"], capture_output=True, text=True, check=True)
    debian = any(path.endswith("/dist-packages") for path in asked.stdout.split())
    return f"usr/local/lib/{version}/dist-packages" if debian else f"{stdlib}/site-packages"


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mode = 0o755 if info.mode & 0o111 else 0o644
    return info


class Programs:
    """Python programs of a person's, with hpcc and Dask, and what they leave behind."""

    def __init__(self, person: Person, registry: FakeRegistry | None = None) -> None:
        self.person, self.mark = person, uuid4().hex
        self.registry = registry or FakeRegistry()
        self.env = {"HPCC_INSECURE": self.registry.host, "HPCC_HOLD_IDLE": "0", MARK: self.mark}

    def end(self) -> None:
        """Kill what is left of its programs."""
        for pid in marked(self.mark):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def uri(self, name: str = "dask") -> str:
        return f"docker://{self.registry.host}/lab/{name}:1"

    def argv(self, body: str, *args: str) -> list[str]:
        path = self.person.home / f"program-{uuid4().hex[:8]}.py"
        path.write_text(
            _BEGIN + textwrap.indent(textwrap.dedent(body), "    ") + '\nif __name__ == "__main__": main()\n'
        )
        path.chmod(0o644)
        return [str(client().python), str(path), *(args or (self.uri(),))]

    def run(self, body: str, *args: str, **env: str) -> dict[str, Any]:
        """What the program said; it has ended well, and nothing of it runs any more."""
        done = self.person.run(self.argv(body, *args), env={**self.env, **env}, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.nothing_is_left(), marked(self.mark)
        return self.said(done.stdout)

    def said(self, text: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for line in text.splitlines():
            if line.startswith("{"):
                found |= json.loads(line)
        return found

    def nothing_is_left(self, seconds: float = 10) -> bool:
        return wait_until(lambda: not marked(self.mark), seconds)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
