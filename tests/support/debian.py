"""Images of Debian packages without a registry, root or a chroot: what `RUN apt-get install` in a Containerfile gives.

    FROM debian:12-slim AS qc
    RUN apt-get update && apt-get install -y --no-install-recommends fastp && …

Files are put together as dpkg unpacks them, for the release and from the mirrors that this machine's apt knows. No
script of a package runs; the links that some of them would make stand below. One layer for the base, one for the rest.
"""

import atexit
import functools
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from isal import igzip

from tests.support.pulls import config_of
from tests.support.real import need

BASE = ("base-files", "bash", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "mawk", "sed")
_MOVED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")  # links into /usr, which debootstrap makes
_LEFT_OUT = ("usr/share/doc/", "usr/share/info/", "usr/share/locale/", "usr/share/man/")  # as the -slim images do
_ALTERNATIVES = {"usr/bin/awk": "mawk", "usr/bin/gnuplot": "gnuplot-nox"}
_FILES = {"etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n", "etc/group": b"root:x:0:\n"}

Image = tuple[list[bytes], dict[str, Any]]
"""Layers, and the config of an image of them."""


def stages(containerfile: Path) -> dict[str, list[str]]:
    """The packages that each stage of a Containerfile installs, by its name."""
    found = {}
    for stage in re.split(r"^FROM ", containerfile.read_text(), flags=re.MULTILINE)[1:]:
        name = re.match(r"\S+ AS (\S+)\n", stage)
        installed = re.search(r"--no-install-recommends ((?:[^&;\\]|\\\n)+)", stage)
        assert name and installed, f"{containerfile}: {stage}"
        found[name[1]] = installed[1].replace("\\\n", " ").split()
    return found


@functools.cache
def debian_image(*packages: str) -> Image:
    """The image with these packages over the base, made once for the session."""
    base = _fetch(*BASE)
    more = {name: path for name, path in _fetch(*BASE, *packages).items() if name not in base}
    layers = [_base_layer(), *([_layer(list(more.values()), base=False)] if more else [])]
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]}
    return layers, config_of(layers, config=config)


@functools.cache
def _base_layer() -> bytes:
    return _layer(list(_fetch(*BASE).values()), base=True)


# -- packages --------------------------------------------------------------------------------------------------------


@functools.cache
def _directory() -> Path:
    top = Path(tempfile.mkdtemp(prefix="hpcc-debian-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    for name in ("archives/partial", "none/partial", "lists/partial"):
        (top / name).mkdir(parents=True)
    (top / "status").touch()  # nothing is installed, so that all dependencies count
    return top


@functools.cache
def _fetch(*packages: str) -> dict[str, Path]:
    """The packages and all that they depend on, by file name: verified by apt, from its own lists, or new ones."""
    install = ["install", "-y", "--no-install-recommends", *packages]
    for lists in (_apts_lists, _new_lists):
        words = lists()
        listed = _apt(*words, "--print-uris", *install, archives="none")
        if listed is not None and _apt(*words, "--download-only", *install) is not None:
            names = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
            return {name: _directory() / "archives" / name for name in names}
    raise RuntimeError(f"apt-get cannot fetch {' '.join(packages)}; does `apt-get update` work?")


def _apts_lists() -> tuple[str, ...]:
    return ()


@functools.cache
def _new_lists() -> tuple[str, ...]:
    words = ("-o", f"Dir::State::lists={_directory() / 'lists'}")
    _apt(*words, "update")
    return words


def _apt(*argv: str, archives: str = "archives") -> str | None:
    """What apt-get says; None where it fails. Its complaints name this machine's mirrors, so they are nowhere shown."""
    top = _directory()
    options = ["-qq", "-o", f"Dir::State::status={top / 'status'}", "-o", f"Dir::Cache::archives={top / archives}"]
    options += ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    done = subprocess.run(
        [need("apt-get"), *options, *argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return done.stdout if done.returncode == 0 else None


# -- layers ----------------------------------------------------------------------------------------------------------


def _layer(packages: list[Path], *, base: bool) -> bytes:
    """A gzip-compressed tar of what the packages have, each path once."""
    buffer = io.BytesIO()
    seen: set[str] = set()
    with igzip.open(buffer, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:

        def add(name: str, kind: bytes, data: bytes = b"", link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), link
            info.mode = 0o644 if kind == tarfile.REGTYPE else 0o755
            tar.addfile(info, io.BytesIO(data))
            seen.add(name)

        if base:
            for name in _MOVED:
                add(name, tarfile.SYMTYPE, link=f"usr/{name}")
            for name in ("usr", "etc", *(f"usr/{name}" for name in _MOVED)):
                add(name, tarfile.DIRTYPE)
            for name, data in _FILES.items():
                add(name, tarfile.REGTYPE, data)
        for package in packages:
            _copy(package, tar, seen)
        for name, target in _ALTERNATIVES.items():
            if f"{name.rpartition('/')[0]}/{target}" in seen:
                add(name, tarfile.SYMTYPE, link=target)
    return buffer.getvalue()


def _copy(package: Path, tar: tarfile.TarFile, seen: set[str]) -> None:
    argv = [need("dpkg-deb"), "--fsys-tarfile", package]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as source,
    ):
        for info in source:
            info.name = _place(info.name)
            info.linkname = _place(info.linkname) if info.islnk() else info.linkname
            if info.name in seen or not info.name or f"{info.name}/".startswith(_LEFT_OUT):
                continue
            seen.add(info.name)
            tar.addfile(info, source.extractfile(info) if info.isreg() else None)
    if process.returncode:
        raise RuntimeError(f"{package} is no package that dpkg-deb can read")


def _place(name: str) -> str:
    """Where a path of a package lies: /bin is a link to /usr/bin, and so on."""
    name = name.removeprefix("./").rstrip("/")
    return f"usr/{name}" if name.partition("/")[0] in _MOVED else name
