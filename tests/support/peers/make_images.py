#!/usr/bin/env python3
"""Realistic images for the benchmarks, made from Debian packages and PyPI wheels without any container registry.

    make_images.py DIR MIRROR      DIR/images, an OCI layout; works in DIR/build; needs root, a mount namespace

    tag               layers                                 size (gzip, unpacked)
    busybox-latest    busybox                                1 MB, 2 MB
    debian-bookworm   debian                                 48 MB, 120 MB
    scipy-latest      debian, python, science, clean         167 MB, 500 MB
    scipy-v2          those of scipy-latest, and more        2 MB above them

`clean` is whiteouts, an opaque directory, a user of the image's own and links; `more` is random bytes. A layer is the
upper directory of an overlay over those below it, written as a tar: the kernel's whiteouts become `.wh.` entries.
The files change with the packages of the day, so benchmarks compare programs on one set, never two sets.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

CREATED = "2025-01-01T00:00:00Z"
MEDIA = "application/vnd.oci.image."
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SITE = "usr/local/lib/python3.11/dist-packages"
SCIENCE = {
    "Env": [SEARCH_PATH, "LANG=C.UTF-8", "OMP_NUM_THREADS=1", 'GREETING=hello world "quoted" $HOME'],
    "Entrypoint": ["python3"],
    "Cmd": ["--version"],
    "WorkingDir": "/work",
    "User": "runner",
    "Labels": {"org.opencontainers.image.title": "scipy", "desc": 'a "quoted" label'},
}


def call(*argv: object) -> None:
    print("+", *argv, flush=True)
    subprocess.run([str(word) for word in argv], check=True, stdin=subprocess.DEVNULL)


# -- the root directories, lowest first ------------------------------------------------------------------------


def fill_busybox(root: Path, mirror: str) -> None:
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    listed = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True)
    for applet in set(listed.stdout.split()) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")


def fill_debian(root: Path, mirror: str) -> None:
    call("debootstrap", "--variant=minbase", "bookworm", root, mirror)
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    call("chroot", root, "apt-get", "clean")


def fill_python(root: Path, mirror: str) -> None:
    kept = (root / "etc/resolv.conf").read_bytes() if (root / "etc/resolv.conf").exists() else b""
    for name in ("resolv.conf", "hosts"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    for setting in Path("/etc/apt/apt.conf.d").glob("*proxy*"):
        shutil.copy(setting, root / "etc/apt/apt.conf.d")
    (root / "etc/apt/sources.list").write_text(f"deb {mirror} bookworm main\n")
    call("chroot", root, "apt-get", "-o", "Acquire::Check-Valid-Until=false", "update", "-qq")
    call("chroot", root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "python3", "python3-pip")
    call("chroot", root, "apt-get", "clean")
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "etc/resolv.conf").write_bytes(kept)


def fill_science(root: Path, mirror: str) -> None:
    wanted = ("--only-binary=:all:", "--python-version", "3.11", "--target", root / SITE, "numpy", "scipy", "pandas")
    call(sys.executable, "-I", "-m", "pip", "install", "-q", "--no-cache-dir", *wanted)


def fill_clean(root: Path, mirror: str) -> None:
    shutil.rmtree(root / SITE / "pandas/tests")
    shutil.rmtree(root / SITE / "numpy/f2py/tests")
    shutil.rmtree(root / "usr/share/doc")  # removed and made again: an opaque directory
    (root / "usr/share/doc").mkdir()
    (root / "usr/share/doc/README").write_text("stripped\n")
    (root / "opt/app").mkdir(parents=True)
    (root / "opt/app/hello.py").write_text('print("hello from app")\n')
    (root / "work").mkdir()
    (root / "work/link.py").symlink_to("../opt/app/hello.py")
    os.chown(root / "work", 1234, 1234)
    with open(root / "etc/passwd", "a") as passwd:
        passwd.write("runner:x:1234:1234:runner:/work:/bin/bash\n")


def fill_more(root: Path, mirror: str) -> None:
    (root / "opt/app/VERSION").write_text("v2\n")
    (root / "opt/app/data.bin").write_bytes(os.urandom(2 << 20))


@contextlib.contextmanager
def overlay(build: Path, upper: Path, lowers: list[Path]) -> Iterator[Path]:
    """The merged root whose changes land in `upper`, with /proc in it for package scripts."""
    merged, scratch = build / "merged", build / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    for directory in (upper, merged, scratch):
        directory.mkdir(parents=True, exist_ok=True)
    below = ":".join(str(lower) for lower in reversed(lowers))
    call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={below},upperdir={upper},workdir={scratch}", merged)
    try:
        call("mount", "-t", "proc", "proc", merged / "proc")
        try:
            yield merged
        finally:
            call("umount", merged / "proc")
    finally:
        call("umount", merged)


# -- the OCI layout ----------------------------------------------------------------------------------------------


class Layout:
    def __init__(self, directory: Path) -> None:
        self._directory, self._blobs = directory, directory / "blobs/sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._manifests: list[dict[str, object]] = []

    def _put(self, data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": MEDIA + kind, "digest": f"sha256:{digest}", "size": len(data)}

    def add_layer(self, upper: Path, plain: Path) -> tuple[str, dict[str, object]]:
        """(diff id, descriptor) of the layer that a directory is."""
        with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as tar:
            for name in sorted(os.listdir(upper)):
                add_entry(tar, upper / name, name)
        with open(plain, "rb") as file:
            diff_id = hashlib.file_digest(file, "sha256").hexdigest()
        packed = subprocess.run(["pigz", "-6", "-n", "-c", plain], check=True, stdout=subprocess.PIPE).stdout
        plain.unlink()
        return f"sha256:{diff_id}", self._put(packed, "layer.v1.tar+gzip")

    def add_image(self, tag: str, layers: list[tuple[str, dict[str, object]]], config: dict[str, object]) -> None:
        document = {
            "created": CREATED,
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
            "history": [{"created": CREATED, "created_by": "make_images"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MEDIA + "manifest.v1+json",
            "config": self._put(json.dumps(document).encode(), "config.v1+json"),
            "layers": [descriptor for _, descriptor in layers],
        }
        entry = self._put(json.dumps(manifest).encode(), "manifest.v1+json")
        entry["platform"] = {"architecture": "amd64", "os": "linux"}
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self._manifests.append(entry)

    def finish(self) -> None:
        """Write index.json last: a layout that has one is complete."""
        (self._directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        index = self._directory / "index.json.part"
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": self._manifests}))
        index.rename(self._directory / "index.json")


def add_entry(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file of an overlay's upper directory, or what a layer has instead, and all below it."""
    status = path.lstat()
    if stat.S_ISSOCK(status.st_mode):
        return
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        head, _, tail = name.rpartition("/")
        tar.addfile(tarfile.TarInfo(f"{head}/.wh.{tail}".lstrip("/")))
        return
    info = tar.gettarinfo(path, name)
    info.mtime = int(status.st_mtime)
    if not info.isreg():
        tar.addfile(info)
    else:
        with open(path, "rb") as file:
            tar.addfile(info, file)
    if info.isdir():
        if is_opaque(path):
            tar.addfile(tarfile.TarInfo(f"{name}/.wh..wh..opq"))
        for entry in sorted(os.listdir(path)):
            add_entry(tar, path / entry, f"{name}/{entry}")


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def main(base: Path, mirror: str) -> None:
    build, layout = base / "build", Layout(base / "images")
    shutil.rmtree(build, ignore_errors=True)
    fillers = (fill_busybox, fill_debian, fill_python, fill_science, fill_clean, fill_more)
    layers, lowers = [], []
    for fill in fillers:
        upper = build / fill.__name__.removeprefix("fill_")
        if fill in (fill_busybox, fill_debian):
            upper.mkdir(parents=True)
            fill(upper, mirror)
        else:
            with overlay(build, upper, lowers) as merged:
                fill(merged, mirror)
        if fill is not fill_busybox:
            lowers.append(upper)
        layers.append(layout.add_layer(upper, build / "layer.tar"))
    layout.add_image("busybox-latest", layers[:1], {"Env": [SEARCH_PATH], "Cmd": ["sh"]})
    layout.add_image("debian-bookworm", layers[1:2], {"Env": [SEARCH_PATH, "DEBIAN_RELEASE=bookworm"], "Cmd": ["bash"]})
    layout.add_image("scipy-latest", layers[1:5], SCIENCE)
    layout.add_image("scipy-v2", layers[1:6], SCIENCE)
    layout.finish()
    shutil.rmtree(build)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
