"""hpcc kernel list and remove."""

from __future__ import annotations

import json
import os

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import UsageError
from hpcc_jupyter.places import Kernel, data_directories, find_kernels, remove_kernel

_PREFIX = Option(("--prefix",), "below PREFIX/share/jupyter, beside where Jupyter looks", "PREFIX")
LIST = Command(
    "kernel list [OPTIONS]",
    "Show the kernels that hpcc has made, in the order in which Jupyter looks for them.",
    (_PREFIX, Option(("-j", "--json"), "as JSON")),
    "hpcc kernel list",
)
REMOVE = Command(
    "kernel remove [OPTIONS] NAME…",
    "Take kernels away that hpcc has made; others are left alone. Images stay in the cache.",
    (_PREFIX,),
    "hpcc kernel remove python-3.12",
)


def list_kernels(argv: list[str]) -> int:
    arguments = parse(LIST, argv)
    if arguments.positional:
        raise usage_error(LIST, f"list takes no argument: {arguments.positional[0]}")
    rows = _ours(arguments.prefix)
    if arguments.json:
        print(json.dumps([_document(kernel) for kernel in rows], indent=1))
        return 0
    if not rows:
        print("No kernel of hpcc's. `hpcc kernel install IMAGE` makes one.")
        return 0
    width = max(8, *(len(kernel.name) for kernel in rows))
    for kernel in rows:
        document = _document(kernel)
        print(f"{kernel.name:<{width}}  {document['display_name']}\n{'':<{width}}  {document['image']}")
        print(f"{'':<{width}}  {kernel.directory}")
    return 0


def remove(argv: list[str]) -> int:
    arguments = parse(REMOVE, argv)
    if not arguments.positional:
        raise usage_error(REMOVE, "kernel remove needs a name")
    kernels = [find_own(name, arguments.prefix) for name in arguments.positional]
    for kernel in kernels:
        remove_kernel(kernel)
        inform(arguments, f"Removed {kernel.directory}")
    return 0


def find_own(name: str, prefix: str | None = None) -> Kernel:
    """The kernel of hpcc's by that name. UsageError."""
    found = next((kernel for kernel in find_kernels(_places(prefix)) if kernel.name == name.lower()), None)
    if found is None:
        has = ", ".join(kernel.name for kernel in _ours(prefix)) or "none"
        raise UsageError(f"there is no kernel {name!r}", hint=f"Of hpcc's there are: {has}.")
    if found.ours is None:
        raise UsageError(f"{found.directory} was not made by hpcc", hint="`jupyter kernelspec remove` removes any.")
    return found


def _places(prefix: str | None) -> tuple[str, ...]:
    more = (os.path.join(os.path.abspath(prefix), "share/jupyter"),) if prefix else ()
    return (*more, *data_directories(os.environ))


def _ours(prefix: str | None) -> list[Kernel]:
    return [kernel for kernel in find_kernels(_places(prefix)) if kernel.ours is not None]


def _document(kernel: Kernel) -> dict[str, object]:
    ours = kernel.ours or {}
    return {
        "name": kernel.name,
        "display_name": str(kernel.spec.get("display_name", "")),
        "language": str(kernel.spec.get("language", "")),
        "image": str(ours.get("image", "")),
        "digest": str(ours.get("digest", "")),
        "directory": kernel.directory,
    }
