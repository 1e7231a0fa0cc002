"""A cluster's filesystem in small, and locks that misbehave.

`SharedFs` runs MooseFS, a real distributed filesystem: a master, a chunkserver, and for each of two nodes a client of
its own. MooseFS refuses 127.0.0.1; so its daemons live in a network namespace of their own, where it has an address
that nobody else can reach. What runs on a node stays in this machine's network and among its processes, and only has
another host name:

    node1: host name node1, clients mounted at DIR/node1 and DIR/node1-local ──┐
    node2: host name node2, clients mounted at DIR/node2 and DIR/node2-local ──┴── the same files
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support import daemons
from tests.support.people import Person
from tests.support.real import need

SHIMS = {"flock-noop": (), "flock-enosys": ("-DENOSYS_ALWAYS",)}
_SOURCE = Path(__file__).parent / "shims" / "flock.c"
_ADDRESS = "10.77.0.1"  # in the namespace's own lo
_UP = 30.0  # seconds until it must serve


class Node(NamedTuple):
    """One of the two machines that share the filesystem."""

    name: str  # what socket.gethostname() says there
    mount: Path  # locks taken here hold on both nodes
    local_locks: Path  # the same files; locks taken here hold on this node alone (Lustre's localflock, NFS' local_lock)

    def argv(self, argv: Sequence[str | os.PathLike[str]], person: Person | None = None) -> list[str]:
        """The command line, to be run by root, that runs `argv` on this node, as `person` or as root."""
        words = person.argv(argv) if person else [os.fspath(word) for word in argv]
        name_it = 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"'
        return ["unshare", "--uts", "--", "sh", "-c", name_it, self.name, *words]

    def person(self, person: Person) -> Person:
        """The same person, whose commands run on this node."""
        node = self

        class OnNode(Person):
            __slots__ = ()

            def argv(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
                return node.argv(super().argv(argv))

        return OnNode(*person)


class SharedFs:
    """The running filesystem, empty at first; needs root, use it as a context manager. It is up in about two seconds.

    Its top directory is root's. Names that one node changes are seen on the other at once, with two exceptions, each
    for a second: fstat of a file that was open before, and what a directory holds that was removed and made again.
    """

    nodes: tuple[Node, Node]

    def __enter__(self) -> "SharedFs":
        master, chunks, client = need("mfsmaster"), need("mfschunkserver"), need("mfsmount")
        need("ip")
        with ExitStack() as stack:
            self._directory = stack.enter_context(daemons.state_directory("hpcc-sharedfs-"))
            self._running: list[subprocess.Popen[bytes]] = []
            stack.callback(self._stop)
            self._start_servers(master, chunks)
            self.nodes = (self._mount(client, "node1"), self._mount(client, "node2"))
            self._wait_for_room()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _stop(self) -> None:
        daemons.unmount_below(self._directory)
        daemons.stop(self._running[::-1])

    def _start_servers(self, master: str, chunks: str) -> None:
        for name in ("meta", "spool", "chunks"):
            (self._directory / name).mkdir(mode=0o700)
        (self._directory / "meta/metadata.mfs").write_bytes(b"MFSM NEW")
        exports = self._write("exports.cfg", "* / rw,alldirs,maproot=0:0\n")
        disks = self._write("disks.cfg", f"{self._directory}/chunks\n")
        common = "WORKING_USER = root\nWORKING_GROUP = root\nNICE_LEVEL = 0\nDISABLE_OOM_KILLER = 0\n"
        listen = "".join(f"{who}_LISTEN_HOST = {_ADDRESS}\n" for who in ("MATOML", "MATOCS", "MATOCL", "CSSERV"))
        config = self._write(
            "master.cfg",
            f"{common}{listen}DATA_PATH = {self._directory}/meta\nEXPORTS_FILENAME = {exports}\n",
        )
        # The master makes the namespace, and keeps it as long as it runs.
        script = f'ip link set lo up && ip address add {_ADDRESS}/32 dev lo && exec "$@"'
        self._start(["unshare", "--net", "--", "sh", "-c", script, "sh", master, "-f", "-c", config, "start"])
        self._wait_for_port(9420)
        self._wait_for_port(9421)
        config = self._write(
            "chunks.cfg",
            f"{common}{listen}DATA_PATH = {self._directory}/spool\nHDD_CONF_FILENAME = {disks}\n"
            f"MASTER_HOST = {_ADDRESS}\nHDD_LEAVE_SPACE_DEFAULT = 16MiB\n",
        )
        self._start([*self._inside(), chunks, "-f", "-c", config, "start"])
        self._wait_for_port(9422)

    def _mount(self, client: str, name: str) -> Node:
        node = Node(name, self._directory / name, self._directory / f"{name}-local")
        for path, more in ((node.mount, ""), (node.local_locks, ",mfsnobsdlocks,mfsnoposixlocks")):
            path.mkdir()
            options = f"mfsmaster={_ADDRESS},mfscfgfile=/dev/null,mfsnice=0,mfsallowoomkiller{more}"
            self._start([*self._inside(), client, path, "-f", "-o", options])
            if not daemons.wait_until(
                lambda at=str(path): at in daemons.mounts_below(self._directory), _UP, self._running
            ):
                raise RuntimeError(self._why("MooseFS could not be mounted"))
        return node

    def _wait_for_room(self) -> None:
        """Until the chunkserver takes data; writing waits for it. In another process, which can be killed."""
        probe = self.nodes[0].mount / ".probe"
        argv = ["sh", "-c", 'echo up >"$0" && rm "$0" && chmod 755 "${0%/*}"', str(probe)]
        try:
            subprocess.run(argv, check=True, capture_output=True, timeout=_UP)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(self._why(f"MooseFS takes no data ({error})")) from None

    def _start(self, argv: Sequence[str | os.PathLike[str]]) -> None:
        self._running.append(daemons.start(argv, self._directory / "log"))

    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._running[0].pid}/ns/net", "--"]

    def _wait_for_port(self, port: int) -> None:
        address = "".join(f"{int(part):02X}" for part in reversed(_ADDRESS.split(".")))
        table = Path(f"/proc/{self._running[0].pid}/net/tcp")
        entry = f": {address}:{port:04X} 00000000:0000 0A "  # 0A: listens
        if not daemons.wait_until(lambda: entry in daemons.tail(table, 1 << 20), _UP, self._running):
            raise RuntimeError(self._why(f"MooseFS does not listen on port {port}"))

    def _write(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text)
        return path

    def _why(self, what: str) -> str:
        return f"{what}:\n{daemons.tail(self._directory / 'log')}"


def compile_shim(name: str, directory: Path) -> Path:
    """The library, in `directory`, that LD_PRELOAD makes file locks misbehave with; `name` is one of SHIMS.

    What it does, and FLOCK_SHIM_UNDER: tests/support/shims/flock.c.
    """
    library = directory / f"{name}.so"
    if not library.exists():
        argv = [need("cc"), "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *SHIMS[name]]
        subprocess.run([*argv, "-o", library, _SOURCE], check=True, timeout=60)
    return library
