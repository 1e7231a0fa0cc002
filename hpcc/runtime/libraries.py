"""Libraries of this host that a container can use: the loader's cache, other names of a file, the right machine."""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def loader_cache(text: str) -> list[tuple[str, str]]:
    """(name, path) of each line of `ldconfig -p`, in its order: ` libcuda.so.1 (libc6,x86-64) => /lib/libcuda.so.1`."""
    found = []
    for line in text.splitlines():
        left, arrow, path = line.strip().partition(" => ")
        name = left.partition(" (")[0]
        if arrow and name and "/" not in name and path.startswith("/"):
            found.append((name, path))
    return found


def is_for_this_machine(path: str) -> bool:
    """Whether the ELF file has the class, byte order and machine of our own interpreter (elf(5), Ehdr)."""
    return (ours := _machine("/proc/self/exe")) != b"" and _machine(path) == ours


def _machine(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            head = file.read(20)
    except OSError:
        return b""
    return head[4:6] + head[18:20] if head[:4] == b"\x7fELF" else b""


def names_of(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each library for this machine: its own name and those of the links beside it that lead to it, sorted.

    libcuda.so.550.54 also goes by libcuda.so.1: its soname, which ldconfig has linked on this host.
    """
    found = {path: {os.path.basename(path)} for path in paths if is_for_this_machine(path)}
    files: dict[str, dict[str, list[str]]] = {}  # directory -> real path -> paths
    for path in found:
        files.setdefault(os.path.dirname(path), {}).setdefault(os.path.realpath(path), []).append(path)
    for directory, wanted in files.items():
        stems = {os.path.basename(path).partition(".so")[0] for paths in wanted.values() for path in paths}
        try:
            links = [entry for entry in os.scandir(directory) if entry.is_symlink()]
        except OSError:
            continue
        for link in links:
            if link.name.partition(".so")[0] in stems:
                for path in wanted.get(os.path.realpath(link.path), ()):
                    found[path].add(link.name)
    return {path: tuple(sorted(names)) for path, names in found.items()}


def choose(cache: Iterable[tuple[str, str]], prefixes: tuple[str, ...], without: tuple[str, ...]) -> dict[str, str]:
    """{name: path} of those whose names begin so, for this machine; the loader takes the first, and so do we."""
    found: dict[str, str] = {}
    for name, path in cache:
        if (
            name.startswith(prefixes)
            and not name.startswith(without)
            and name not in found
            and is_for_this_machine(path)
        ):
            found[name] = path
    return found
