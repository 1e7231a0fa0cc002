"""The image of `hpcc demo`: a small Linux made from this machine's own files.

Three layers, each a gzip-compressed tar, merged usr as on every current distribution:

    base     bin -> usr/bin and its like, /etc, /tmp, bash, sh, coreutils, the libraries that they need, /etc/motd
    python   the base interpreter of the running one as /usr/bin/python3.X, its standard library, libraries
    app      /opt/app with a hard link, a symbolic link and the command `hello`; a whiteout of /etc/motd

What a program needs is what the dynamic loader says that it would load (`LOADER --list FILE`, which runs none
of the program). Files that cannot be read are left out, so this works as a plain user. Everything belongs to
root and has one fixed time, so the same machine gives the same bytes.
"""

import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import sysconfig
import tarfile

from hpcc.errors import RuntimeUnavailable
from hpcc.records import NamedTuple

_CREATED = "2025-01-01T00:00:00Z"
_MTIME = 1735689600

_TOOLS = """
bash sh basename cat chmod chown comm cp cut date dd df dirname du echo env expr false fold head hostname id join ln
ls md5sum mkdir mktemp mv nl nproc od paste printf pwd readlink realpath rm rmdir seq sha256sum sleep sort split stat
stty tac tail tee test [ timeout touch tr true tty uname uniq wc whoami yes find grep sed xargs
"""

_LEFT_OUT = """
__pycache__ dist-packages ensurepip idlelib lib2to3 pydoc_data site-packages test tests tkinter turtledemo
sitecustomize.py usercustomize.py turtle.py
"""  # names in the standard library
_LEFT_OUT_PREFIXES = "config- _test _ctypes_test xxlimited _tkinter _gdbm _dbm nis. ossaudiodev"

_DIRECTORIES = "usr usr/bin usr/lib usr/sbin dev etc home mnt opt proc run srv sys var"

_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nmail:x:8:\nstaff:x:50:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/os-release": 'ID=hpcc-demo\nNAME="hpcc demo"\nPRETTY_NAME="hpcc demo image"\nVERSION_ID=1\n',
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/motd": "The lowest layer has this file, the uppermost deletes it.\n",
}

_HELLO = """\
import os, sys
print(f"hello from Python {sys.version.split()[0]} in the hpcc demo image; GREETING is {os.environ.get('GREETING')!r}")
"""


class DemoImage(NamedTuple):
    """layers: gzip-compressed tars, lowest first; config: the OCI image configuration that goes with them."""

    layers: tuple[bytes, ...]
    config: dict[str, object]


def build_demo_layers() -> DemoImage:
    """Build the image from the running system's files; about a second, 60 MB of them.

    RuntimeUnavailable where this machine has no bash, no dynamic loader or no standard library to take.
    """
    programs = _find_programs()
    interpreter = _find_interpreter()
    stdlib, modules = _find_standard_library()
    loader = _program_loader(interpreter) or _program_loader(programs["bash"])
    if not loader:
        raise RuntimeUnavailable(
            f"{interpreter} names no dynamic loader, so the libraries that it needs cannot be found",
            hint="run hpcc demo with the Python of a glibc or musl distribution",
        )
    libraries = _find_libraries(loader, [*programs.values(), loader])
    more = _find_libraries(loader, [interpreter, *modules])
    names = _library_names({**libraries, **more}, loader)
    base = _base_layer(programs, {names[path]: path for path in libraries})
    taken = {names[path] for path in libraries}
    python = _python_layer(interpreter, stdlib, {names[p]: p for p in more if names[p] not in taken})
    plain = (base, python, _app_layer())
    return DemoImage(tuple(_gzip(layer) for layer in plain), _config(plain))


# -- what to take from this machine ------------------------------------------------------------------------


def _find_programs() -> dict[str, str]:
    """Name -> resolved path of each tool that this machine has and this user may read."""
    found = {}
    for name in _TOOLS.split():
        for directory in ("/usr/bin", "/bin"):
            path = os.path.realpath(f"{directory}/{name}")
            if os.path.isfile(path) and os.access(path, os.R_OK):
                found[name] = path
                break
    missing = sorted({"bash", "sh", "cat", "ls"} - found.keys())
    if missing:
        raise RuntimeUnavailable(
            f"{', '.join(missing)}: not readable in /usr/bin or /bin, and the demo image is made of them",
            hint="install bash and coreutils",
        )
    return found


def _find_interpreter() -> str:
    """The real executable below any virtual environment, shim or symbolic link."""
    path = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    if not os.access(path, os.R_OK):
        raise RuntimeUnavailable(f"{path}, the Python that runs, cannot be read", hint="run hpcc with another Python")
    return path


def _find_standard_library() -> tuple[str, list[str]]:
    """The directory of the standard library, and its extension modules."""
    stdlib = sysconfig.get_path("stdlib")
    if not os.path.isfile(f"{stdlib}/os.py"):
        raise RuntimeUnavailable(
            f"this Python has no standard library as files in {stdlib}", hint="run hpcc with another Python"
        )
    dynload = f"{stdlib}/lib-dynload"
    names = sorted(os.listdir(dynload)) if os.path.isdir(dynload) else []
    return stdlib, [f"{dynload}/{n}" for n in names if n.endswith(".so") and not _left_out(n)]


def _left_out(name: str) -> bool:
    """What an image does well without: tests, desktop toolkits, the build's own files, other people's packages."""
    return name in _LEFT_OUT.split() or name.startswith(tuple(_LEFT_OUT_PREFIXES.split()))


def _program_loader(path: str) -> str:
    """The dynamic loader that an ELF file asks for (PT_INTERP), or "" where it asks for none.

    ELF64: 64-byte header, e_phoff at 32, e_phentsize and e_phnum at 54; a program header is
    p_type u32, p_flags u32, p_offset u64, p_vaddr u64, p_paddr u64, p_filesz u64, …
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
            return ""
        offset, (size, count) = struct.unpack_from("<Q", head, 32)[0], struct.unpack_from("<HH", head, 54)
        for index in range(count):
            file.seek(offset + index * size)
            header = file.read(40)
            if len(header) == 40 and struct.unpack_from("<I", header)[0] == 3:
                file.seek(struct.unpack_from("<Q", header, 8)[0])
                return file.read(struct.unpack_from("<Q", header, 32)[0]).rstrip(b"\0").decode("ascii", "replace")
    return ""


def _find_libraries(loader: str, files: list[str]) -> dict[str, str]:
    """Path -> name of each shared library that the loader would load for these files.

    One line of the loader is `NAME => PATH (0xADDRESS)` or `PATH (0xADDRESS)`; a library that is
    missing (`=> not found`) is missing on this machine too, and a static file prints nothing of use.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LD_") or k == "LD_LIBRARY_PATH"}
    found: dict[str, str] = {}
    for path in dict.fromkeys(files):
        asked = subprocess.run([loader, "--list", path], capture_output=True, env=environment, check=False)
        for line in asked.stdout.decode("utf-8", "surrogateescape").splitlines():
            name, _, rest = line.strip().partition(" => ")
            library = (rest or name).rpartition(" (0x")[0]
            if library.startswith("/") and os.path.isfile(library):
                found.setdefault(library, os.path.basename(name.split(" (0x")[0]))
    return found


def _library_names(libraries: dict[str, str], loader: str) -> dict[str, str]:
    """Path on this machine -> name in the image, where the image's loader looks without ld.so.cache.

    A library beside libc, or in another of the loader's built-in directories, stays there; one from
    elsewhere (a Python built in a home directory) goes beside libc.
    """
    libc = next((path for path in libraries if os.path.basename(path).startswith("libc.")), loader)
    beside = os.path.dirname(_merged(libc))
    names = {}
    for path, name in libraries.items():
        inside = _merged(path)
        names[path] = inside if os.path.dirname(inside) in (beside, "usr/lib", "usr/lib64") else f"{beside}/{name}"
    names[loader] = _merged(loader)
    return names


def _merged(path: str) -> str:
    """An absolute path as a name in a merged-usr image: /lib/x -> usr/lib/x."""
    name = os.path.normpath(path).lstrip("/")
    return name if name.startswith("usr/") else f"usr/{name}"


# -- the layers ------------------------------------------------------------------------------------------------


class _Layer:
    """A tar in memory; parents of a name are added before it, each path once."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._names: set[str] = set()
        self._copied: dict[str, str] = {}

    def _add(self, name: str, kind: bytes, mode: int, *, target: str = "", data: bytes = b"") -> None:
        parent = os.path.dirname(name)
        if parent:
            self.directory(parent)
        self._names.add(name)
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.linkname, info.size = kind, mode, _MTIME, target, len(data)
        info.uname = info.gname = "root"
        self._tar.addfile(info, io.BytesIO(data))

    def directory(self, name: str, mode: int = 0o755) -> None:
        if name not in self._names:
            self._add(name, tarfile.DIRTYPE, mode)

    def text(self, name: str, text: str, mode: int = 0o644) -> None:
        self._add(name, tarfile.REGTYPE, mode, data=text.encode())

    def symlink(self, name: str, target: str) -> None:
        if name not in self._names:
            self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def hardlink(self, name: str, target: str) -> None:
        self._add(name, tarfile.LNKTYPE, 0o755, target=target)

    def copy(self, name: str, path: str) -> None:
        """Add this machine's file, a hard link where it is there under another name, nothing if unreadable."""
        real = os.path.realpath(path)
        if name in self._names:
            return
        if real in self._copied:
            self.hardlink(name, self._copied[real])
            return
        try:
            with open(real, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    return
                data = file.read()
        except OSError:
            return
        self._copied[real] = name
        self._add(name, tarfile.REGTYPE, 0o755 if mode & 0o111 else 0o644, data=data)

    def finish(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def _base_layer(programs: dict[str, str], libraries: dict[str, str]) -> bytes:
    layer = _Layer()
    for name in _DIRECTORIES.split():
        layer.directory(name)
    for name in ("bin", "lib", "sbin"):
        layer.symlink(name, f"usr/{name}")
    if any(name.startswith("usr/lib64/") for name in libraries):
        layer.symlink("lib64", "usr/lib64")
    layer.directory("root", 0o700)
    layer.directory("tmp", 0o1777)
    layer.directory("var/tmp", 0o1777)
    for name, text in _ETC.items():
        layer.text(name, text)
    for name, path in sorted(libraries.items()):
        layer.copy(name, path)
    for name, path in sorted(programs.items()):
        layer.copy(f"usr/bin/{name}", path)
    return layer.finish()


def _python_layer(interpreter: str, stdlib: str, libraries: dict[str, str]) -> bytes:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    layer = _Layer()
    layer.copy(f"usr/bin/{version}", interpreter)
    layer.symlink("usr/bin/python3", version)
    layer.symlink("usr/bin/python", "python3")
    for name, path in sorted(libraries.items()):
        layer.copy(name, path)
    home = f"usr/{sys.platlibdir}/{version}"
    for directory, subdirectories, files in os.walk(stdlib):
        subdirectories[:] = sorted(d for d in subdirectories if not _left_out(d))
        inside = home + directory[len(stdlib) :]
        layer.directory(inside)
        for file in sorted(files):
            if not _left_out(file) and not file.endswith(".pyc"):
                layer.copy(f"{inside}/{file}", f"{directory}/{file}")
    return layer.finish()


def _app_layer() -> bytes:
    layer = _Layer()
    layer.text("etc/.wh.motd", "", 0)
    layer.text("opt/app/hello.py", _HELLO)
    layer.text("usr/local/bin/hello", '#!/bin/sh\nexec python3 /opt/app/hello.py "$@"\n', 0o755)
    layer.hardlink("usr/local/bin/greet", "usr/local/bin/hello")
    layer.symlink("opt/app/latest.py", "hello.py")
    return layer.finish()


def _gzip(data: bytes) -> bytes:
    """A gzip member without name and time, quickly: the demo is about what comes after."""
    try:
        from isal import isal_zlib
    except ImportError:
        import gzip

        return gzip.compress(data, compresslevel=1, mtime=0)
    packed: bytes = isal_zlib.compress(data, level=1, wbits=31)
    return packed


def _config(layers: tuple[bytes, ...]) -> dict[str, object]:
    machine = os.uname().machine
    return {
        "created": _CREATED,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine),
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                'GREETING=hello world "quoted" $HOME',
                "PYTHONDONTWRITEBYTECODE=1",
            ],
            "Entrypoint": ["hello"],
            "Cmd": ["world"],
            "WorkingDir": "/opt/app",
            "Labels": {"org.opencontainers.image.title": "hpcc demo", "about": 'a "quoted" label'},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
        "history": [{"created": _CREATED, "created_by": f"hpcc demo: {name}"} for name in ("base", "python", "app")],
    }
