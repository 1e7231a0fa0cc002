"""hpcc slurm stage-here: on a node, have its own copy of an image; `hpcc slurm prestage` runs it there.

It prints one line of JSON, so that who started it on many nodes can tell what happened on each.
"""

from __future__ import annotations

import json
import os
import stat
import time

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import CacheError, IntegrityError, UsageError
from hpcc.image import open_image
from hpcc.runtime.enter import node_directory
from hpcc.runtime.store import Limits, obtain
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages
from hpcc.staging import staged

COMMAND = Command(
    "slurm stage-here [OPTIONS] IMAGE",
    "Have a copy of an image on this node; `hpcc slurm prestage` calls it there.",
    (
        Option(("--adopt",), "a copy that was brought to this node; it is removed in any case", "FILE"),
        Option(("--sha256",), "of that file", "HEX"),
    ),
    "hpcc slurm stage-here /cache/sif-v1/….sif",
)
_STEP = 4 << 20


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1 or (arguments.adopt is None) != (arguments.sha256 is None):
        raise usage_error(COMMAND, "one image, and --adopt and --sha256 together")
    begun = time.monotonic()
    load_site_packages()
    settings = Settings.from_environ().replace(stage="node")
    try:
        path, made = stage_here(arguments.positional[0], settings, arguments.adopt, arguments.sha256)
    finally:
        if arguments.adopt:
            _remove(arguments.adopt)
    said = {
        "node": os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        "state": "copied" if made else "there",
        "path": path,
        "bytes": os.stat(path).st_size,
        "seconds": round(time.monotonic() - begun, 2),
    }
    print(json.dumps(said), flush=True)
    return 0


def stage_here(uri: str, settings: Settings, adopt: str | None, sha256: str | None) -> tuple[str, bool]:
    """(the copy's path, whether it was made now). Once, whoever else does it. UsageError for what stays where it is."""
    image = open_image(uri, settings)
    if image.rootfs.kind != "squashfs":
        raise UsageError(f"{uri} is a directory, which stays where it is")
    name, made = image.key or image.rootfs.identity, False
    directory = node_directory(settings, "staged-v1")
    made = not os.path.lexists(os.path.join(directory, name))
    if adopt is None or sha256 is None:
        return staged(image, settings).path, made
    limits, brought, wanted = Limits(settings.node_days, settings.node_size), adopt, sha256
    return obtain(directory, name, lambda target: take(brought, wanted, target), limits, 0, "adopt the image"), made


def take(path: str, sha256: str, target: str) -> None:
    """Give a file of one's own the name `target`, after its bytes were compared. IntegrityError, CacheError."""
    from hashlib import sha256 as hasher

    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise CacheError(f"{path} is not a file of yours", hint="Somebody else may have put it there.")
        digest, at = hasher(), 0
        while data := os.pread(fd, _STEP, at):
            digest.update(data)
            at += len(data)
        if digest.hexdigest() != sha256:
            raise IntegrityError(f"{path} is not what was sent", hint="Run it again; the node's disk may be failing.")
        try:
            os.rename(path, target)
            if not os.path.samestat(os.stat(target, follow_symlinks=False), status):
                raise IntegrityError(f"{path} was replaced while it was read")
            os.chmod(target, 0o600)
        except OSError:  # another filesystem
            _copy(fd, target)
    finally:
        os.close(fd)


def _copy(source: int, target: str) -> None:
    at, size = 0, os.fstat(source).st_size
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while at < size:
            done = os.sendfile(fd, source, at, size - at)
            if not done:
                raise IntegrityError("the image became shorter while it was copied")
            at += done
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    try:
        if os.lstat(path).st_uid == os.getuid():
            os.unlink(path)
    except OSError:
        pass
