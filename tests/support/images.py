"""Images for the tests of the runtime, made offline from this machine's own files by hpcc's own converter.

    main        bash and coreutils of the demo's base layer, and a layer with everything that is awkward (below)
    rooted      the same, but each owner in it is 0
    distroless  one static binary, /busybox, and nothing else
    squashfs    the root filesystem of `main` as a plain squashfs file
    sandbox     a directory: busybox and its links, an env script and a runscript
    plain       `main` without ENTRYPOINT and CMD
    old         `distroless` as Singularity 2.4 wrote images: a line that runs it, and a squashfs right behind that

The awkward layer of `main`:

    /own/uid0 /own/gid8 /own/gid50     directories of 0:0 0755, 0:8 0775, 0:50 2775, each with files old, gone, moved
    /own/uid1000                       a directory of 1000:1000 0755
    /etc/resolv.conf                   a link to ../run/systemd/resolve/stub-resolv.conf, which is not there
    /hostile/abs /up /loop /proc       links to /etc, ../../../../../..., itself, /proc/self/root/proc/1/root
    /usr/bin/setuid-id                 a copy of id, mode 4755
    /usr/local/bin/no-shebang          a script without #!
    /private                           a file of 0:0 mode 0600
"""

import atexit
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.real import need

GREETING = 'hello world "quoted" $HOME'
IMAGE_PATH = "/opt/first:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONFIG = {
    "Env": [f"PATH={IMAGE_PATH}", f"GREETING={GREETING}", "EMPTY=", "SHARED=of the image", "odd.name=dotted"],
    "Entrypoint": ["/usr/local/bin/words", "entry point"],
    "Cmd": ["cmd", "with  two spaces"],
    "WorkingDir": "/own",
}
WORDS = "#!/bin/sh\nfor word; do printf '[%s]' \"$word\"; done\necho\n"
MTIME = 1735689600


class Images(NamedTuple):
    """Paths of images that every user may read."""

    main: Path
    rooted: Path
    distroless: Path
    squashfs: Path
    sandbox: Path
    plain: Path
    old: Path


@functools.cache
def images() -> Images:
    """All of them, made once for the session."""
    top = Path(tempfile.mkdtemp(prefix="hpcc-images-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    top.chmod(0o755)
    from hpcc.cli.demo_image import build_demo_layers

    base = build_demo_layers().layers[0]
    main = build_sif(top / "main.sif", [base, awkward_layer()], CONFIG)
    rooted = build_sif(top / "rooted.sif", [base, awkward_layer(squash=True)], CONFIG)
    distroless = build_sif(
        top / "distroless.sif", [layer({"busybox": _file(busybox(), 0o755)})], {"Entrypoint": ["/busybox", "echo"]}
    )
    plain = build_sif(top / "plain.sif", [base, awkward_layer()], {"Env": [f"PATH={IMAGE_PATH}"]})
    old = extract_squashfs(distroless, top / "old.simg")
    old.write_bytes(b"#!/usr/bin/env run-singularity\n" + old.read_bytes())
    sandbox = _sandbox(top / "sandbox")
    return Images(main, rooted, distroless, extract_squashfs(main, top / "main.sqfs"), sandbox, plain, old)


def busybox() -> bytes:
    return Path(need("busybox")).read_bytes()


Member = tuple[tarfile.TarInfo, bytes]


def _info(kind: bytes, mode: int, uid: int, gid: int, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.mode, info.uid, info.gid, info.linkname, info.mtime = kind, mode, uid, gid, target, MTIME
    return info


def _file(data: bytes | str, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Member:
    return _info(tarfile.REGTYPE, mode, uid, gid), data.encode() if isinstance(data, str) else data


def _directory(mode: int = 0o755, uid: int = 0, gid: int = 0) -> Member:
    return _info(tarfile.DIRTYPE, mode, uid, gid), b""


def _link(target: str) -> Member:
    return _info(tarfile.SYMTYPE, 0o777, 0, 0, target), b""


def layer(members: dict[str, Member]) -> bytes:
    """A gzip-compressed tar of these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, (info, data) in members.items():
            info.name, info.size = name, len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def awkward_layer(*, squash: bool = False) -> bytes:
    members: dict[str, Member] = {"own": _directory()}
    for name, mode, uid, gid in (("uid0", 0o755, 0, 0), ("gid8", 0o775, 0, 8), ("gid50", 0o2775, 0, 50),
                                 ("uid1000", 0o755, 1000, 1000)):  # fmt: skip
        members[f"own/{name}"] = _directory(mode, uid, gid)
        for file in ("old", "gone", "moved"):
            members[f"own/{name}/{file}"] = _file(f"{file} of {name}\n", 0o664, uid, gid)
    members |= {
        "etc/resolv.conf": _link("../run/systemd/resolve/stub-resolv.conf"),
        "hostile": _directory(),
        "hostile/abs": _link("/etc"),
        "hostile/up": _link("../../../../../../../var"),
        "hostile/loop": _link("loop"),
        "hostile/proc": _link("/proc/self/root/proc/1/root/etc"),
        "usr/bin/setuid-id": _file(Path(os.path.realpath("/usr/bin/id")).read_bytes(), 0o4755),
        "usr/bin/busybox": _file(busybox(), 0o755),
        "usr/local/bin/no-shebang": _file("echo no shebang: $1\n", 0o755),
        "usr/local/bin/not-executable": _file("echo never\n", 0o644),
        "usr/local/bin/lost-loader": _file("#!/no/such/interpreter\n", 0o755),
        "usr/local/bin/words": _file(WORDS, 0o755),
        "private": _file("only root\n", 0o600),
    }
    if squash:
        for info, _ in members.values():
            info.uid = info.gid = 0
    return layer(members)


def build_sif(path: Path, layers: list[bytes], config: dict[str, Any], *, mode: int = 0o755) -> Path:
    """The SIF of an image of gzip-compressed layers, as a pull makes it."""
    import gzip

    from hpcc.compressors import make_compressor
    from hpcc.convert import OpenPack, assemble, convert_layer
    from hpcc.oci.config import ImageConfig
    from hpcc.oci.digest import Digest
    from hpcc.origin import Origin

    diff_ids = [f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}" for data in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    document = {
        "created": "2025-01-01T00:00:00Z",
        "architecture": machine,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    raw = json.dumps(document).encode()
    compressor = make_compressor()
    origin = Origin(
        f"registry.example/tests/{path.stem}", f"sha256:{hashlib.sha256(raw).hexdigest()}", f"linux/{machine}",
        compressor.id,
    )  # fmt: skip
    files = []
    try:
        with ThreadPoolExecutor(2) as pool:
            packs = []
            for data, diff_id in zip(layers, diff_ids, strict=True):
                file = tempfile.TemporaryFile()
                files.append(file)
                pack = convert_layer(iter([data]), Digest.parse(diff_id), file, compressor, pool)
                file.flush()
                packs.append(OpenPack(pack, file.fileno()))
            with open(path, "w+b") as out:
                assemble(out.fileno(), packs, origin, ImageConfig.parse(raw), compressor, pool)
    finally:
        for file in files:
            file.close()
    path.chmod(mode)
    return path


def extract_squashfs(sif: Path, path: Path) -> Path:
    """The root filesystem of a SIF as a file of its own."""
    from hpcc.sif.load import load

    data = sif.read_bytes()
    primary = load(lambda offset, length: data[offset : offset + length], len(data)).primary()
    path.write_bytes(data[primary.offset : primary.offset + primary.size])
    path.chmod(0o644)
    return path


def _sandbox(top: Path) -> Path:
    for name in ("bin", "tmp", "etc", "dev", "proc", "sys", "var/tmp", ".singularity.d/env"):
        (top / name).mkdir(parents=True)
    (top / "bin/busybox").write_bytes(busybox())
    (top / "bin/busybox").chmod(0o755)
    subprocess.run([top / "bin/busybox", "--install", "-s", top / "bin"], check=True)
    for link in (top / "bin").iterdir():  # busybox links to its own path outside
        if link.is_symlink():
            link.unlink()
            link.symlink_to("busybox")
    (top / ".singularity.d/env/90-environment.sh").write_text('export FROM_SCRIPT="of $0"; export SHARED=script\n')
    (top / ".singularity.d/runscript").write_text('#!/bin/sh\necho runscript "$@" $FROM_SCRIPT\n')
    (top / ".singularity.d/runscript").chmod(0o755)
    return top


def copy_of(image: Path, directory: Path) -> Path:
    """A copy with an inode, and so with holders, of its own, which everybody may read."""
    path = directory / image.name
    shutil.copy(image, path)
    return path


def marked(mark: str) -> dict[int, str]:
    """pid -> command line of each process of this machine in whose environment `mark` stands.

    That of our FUSE server, which is a fork, begins with the name that it has given itself, `hpcc-squashfs`.
    """
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            if mark.encode() in environ:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                name = Path(f"/proc/{entry}/comm").read_text().strip()
                if command:  # a zombie has none
                    found[int(entry)] = f"{name} {command}" if name == "hpcc-squashfs" else command
        except OSError:
            continue
    return found
