"""ext3 images to be overlays of containers: a file of its own, or a partition of a SIF.

    upper/   what a container writes over its image      work/   what overlayfs needs beside it

Made by mke2fs, which fills it without being root; both directories are the caller's, or root's for --fakeroot.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

from hpcc.copy import changed_file, new_file
from hpcc.errors import CacheError, HpccError, RuntimeUnavailable, UsageError, place_hint
from hpcc.runtime.host import enter_user_namespace, find_program
from hpcc.settings import Settings
from hpcc.sif import edit
from hpcc.sif.create import Object
from hpcc.sif.descriptor import FS_EXT3, PART_OVERLAY, PARTITION, SIGNATURE, partition_extra
from hpcc.sif.load import Sif

LEAST = 64  # MiB, as Apptainer; a journal and the tables take about a tenth
_MIB = 1 << 20


class Wanted:
    """size: MiB. sparse: blocks that are not used yet take no room. directories: paths to make in the container's root.

    root: the overlay is --fakeroot's root's. UsageError for a size that is too small, or paths that lead out.
    """

    def __init__(self, size: int, *, sparse: bool = False, directories: Sequence[str] = (), root: bool = False) -> None:
        if size < LEAST:
            raise UsageError(f"--size {size}: an overlay has at least {LEAST} MiB")
        self.size, self.sparse, self.root = size * _MIB, sparse, root
        self.directories = [os.path.normpath(f"./{path}") for path in directories]
        for path, given in zip(self.directories, directories, strict=True):
            if path == ".." or path.startswith("../") or "\0" in path:
                raise UsageError(f"--create-dir {given}: this is no place in a container's root")


def create_image(path: str, wanted: Wanted, settings: Settings) -> None:
    """Make the file, mode 0600. Atomic. UsageError where there is one; CacheError, RuntimeUnavailable."""
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="Give another name, or remove it first.")
    program = _mke2fs(settings)
    with new_file(path, replace=False, mode=0o600) as file:
        _fill(file, wanted, program)


def add_partition(path: str, sif: Sif, wanted: Wanted, settings: Settings, *, now: int) -> None:
    """Add it to the SIF at `path`, which says `sif`. Atomic. UsageError where there is one, or signatures."""
    for each in sif.overlays():
        if each.partition is not None and each.partition.fs == FS_EXT3:
            raise UsageError(
                f"{path} has an overlay to write to already, object {each.id}",
                hint=f"`hpcc sif del {each.id} {path}` deletes it, and what is in it.",
            )
    if any(each.type == SIGNATURE for each in sif.descriptors):
        raise UsageError(
            f"{path} is signed, which an overlay that is written to would make void",
            hint="Use an overlay beside it: `hpcc overlay create FILE`, then --overlay FILE.",
        )
    program = _mke2fs(settings)
    partition = Object(PARTITION, "", 0, partition_extra(FS_EXT3, PART_OVERLAY, sif.header.arch))
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))) as content:
            _fill(content, wanted, program)
            with changed_file(path) as file:
                edit.add(file, partition, content, now=now)
    except HpccError:
        raise
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror}", hint=place_hint(error)) from None


def _mke2fs(settings: Settings) -> str:
    program = find_program("mke2fs", settings, ("/usr/sbin", "/sbin"))
    if not program:
        raise RuntimeUnavailable(
            "mke2fs, which makes ext3 images, is not on this host",
            hint="It is in the package e2fsprogs. An overlay may also be a directory: `mkdir DIR`, then --overlay DIR.",
        )
    return program


def _fill(file: BinaryIO, wanted: Wanted, program: str) -> None:
    """Make the filesystem in an empty file. Raises OSError where there is no room for it, and RuntimeUnavailable."""
    if wanted.sparse:
        os.truncate(file.fileno(), wanted.size)
    else:
        os.posix_fallocate(file.fileno(), 0, wanted.size)
    with tempfile.TemporaryDirectory(prefix="hpcc-overlay-") as content:
        for path in ("upper", "work", *(f"upper/{path}" for path in wanted.directories)):
            os.makedirs(f"{content}/{path}", 0o755, exist_ok=True)
        for place, names, _ in os.walk(content):
            for name in names:
                os.chmod(f"{place}/{name}", 0o755)  # noqa: S103 - as in any root filesystem, whatever the umask is
        os.chmod(content, 0o755)  # noqa: S103
        how = "root_owner=0:0" + ("" if wanted.sparse else ",nodiscard")  # which would make it sparse again
        argv = [program, "-q", "-F", "-t", "ext3", "-E", how, "-d", content]
        done = subprocess.run(
            [*argv, f"/proc/self/fd/{file.fileno()}"],
            pass_fds=(file.fileno(),),
            preexec_fn=_become_root if wanted.root and os.geteuid() != 0 else None,
            env={"LC_ALL": "C", "PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode:
        said = done.stderr.strip().replace(f"/proc/self/fd/{file.fileno()}", "it")
        raise RuntimeUnavailable(f"mke2fs cannot make the overlay: {said}", hint="It takes -d from e2fsprogs 1.43 on.")


def _become_root() -> None:
    """In the child: what is the caller's is then root's to mke2fs, and so in the image."""
    enter_user_namespace(0, 0)
