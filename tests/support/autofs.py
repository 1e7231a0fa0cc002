"""An automounter, as small as the kernel lets it be: a directory whose entries are mounted when somebody asks for them.

Protocol 5 of autofs (linux/auto_fs.h): the kernel writes packets into a pipe and lets who asked wait for an ioctl.
"""

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_READY, _FAIL = 0x9360, 0x9361
_PACKET = struct.Struct("=iiIIQIIIII256s4x")  # version, type, token, dev, ino, uid, gid, pid, tgid, length, name
_MISSING = 3


class Automounter:
    """`directory` with an entry for each of `homes`, name -> directory that is bound there at the first use."""

    def __init__(self, directory: Path, homes: Mapping[str, Path]) -> None:
        self.directory, self.homes = directory, homes
        self.pid = 0

    def __enter__(self) -> "Automounter":
        # What the daemon mounts must reach the namespaces that were made before.
        subprocess.run(["mount", "--bind", self.directory, self.directory], check=True)
        subprocess.run(["mount", "--make-shared", self.directory], check=True)
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                _serve(self.directory, self.homes, told)
            except BaseException as error:
                sys.__stderr__.write(f"automounter: {error!r}\n")  # type: ignore[union-attr]
            finally:
                os._exit(1)
        os.close(told)
        with open(ready, "rb") as file:
            assert file.read(1) == b"+", "the automounter does not start"
        return self

    def mounted(self) -> set[str]:
        """Names of entries that somebody has asked for."""
        with open("/proc/self/mountinfo") as file:
            points = [Path(line.split()[4]) for line in file]
        return {path.name for path in points if path.parent == self.directory}

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for _ in range(2):  # the autofs, and the bind below it
            subprocess.run(["umount", "-l", self.directory], check=False)


def _serve(directory: Path, homes: Mapping[str, Path], told: int) -> None:
    read, write = os.pipe()
    options = f"fd={write},pgrp={os.getpgrp()},minproto=5,maxproto=5,indirect"
    from hpcc.runtime._kernel import mount

    mount("hpcc-test", str(directory), "autofs", 0, options)
    os.close(write)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.write(told, b"+")
    os.close(told)
    while packet := os.read(read, _PACKET.size):
        _, kind, token, *_, length, name = _PACKET.unpack(packet)
        entry = os.fsdecode(name[:length])
        if kind != _MISSING or entry not in homes:
            fcntl.ioctl(root, _FAIL, token)
            continue
        os.mkdir(directory / entry)
        subprocess.run(["mount", "--bind", homes[entry], directory / entry], check=True)
        fcntl.ioctl(root, _READY, token)
