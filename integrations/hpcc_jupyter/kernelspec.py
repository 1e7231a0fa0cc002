"""kernel.json of a kernel in an image. Pure.

    hpcc kernel run {connection_file} [OPTIONS of hpcc exec] IMAGE COMMAND… {connection-file} …

Jupyter puts the path where it says {connection_file}, which some frontends do once, and only in a word of its own. So
it stands there once, before the image, and what the kernel itself is given is written {connection-file}: `run` puts
the path there, and binds the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, NamedTuple

from hpcc.version import __version__
from hpcc_jupyter.places import OURS

JUPYTERS, INSIDE = "{connection_file}", "{connection-file}"
BROUGHT = "/opt/hpcc-ipykernel"
"""Where an ipykernel that the image lacks is bound."""
PATH = f"import sys; sys.path[:] = [*filter(None, sys.path), {BROUGHT!r}]; "
"""Behind the image's own packages, so that those are what a notebook imports. Not the working directory, whose modules
would stand before the standard library's while ipykernel starts; it puts that back itself."""
_START = f"{PATH}from ipykernel import kernelapp; kernelapp.launch_new_instance()"


class Inside(NamedTuple):
    """How a kernel is started in an image. argv has INSIDE in it; env is the kernel's own."""

    language: str
    title: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    interrupts_by_message: bool = False
    metadata: tuple[tuple[str, Any], ...] = ()
    binds: tuple[str, ...] = ()  # as --bind reads them


class Wanted(NamedTuple):
    """What the command line says. image: as it is run; options: of `hpcc exec`."""

    image: str
    digest: str
    options: tuple[str, ...] = ()
    display_name: str = ""
    provisioner: bool = False


def with_ipykernel(python: str, title: str, *, major: int, bind: str = "") -> Inside:
    """A Python kernel; `bind` brings an ipykernel to BROUGHT."""
    start = ("-c", _START) if bind else ("-m", "ipykernel_launcher")
    return Inside(
        "python",
        title,
        (python, *start, "-f", INSIDE),
        (("PYTHONNOUSERSITE", "1"),),
        # It does so from 6 on. A signal, by itself, does not always come through to a kernel in a PID namespace.
        interrupts_by_message=major >= 6,
        metadata=(("debugger", True),) if major >= 6 else (),
        binds=(bind,) if bind else (),
    )


def with_irkernel(title: str) -> Inside:
    return Inside("R", title, ("R", "--slave", "-e", "IRkernel::main()", "--args", INSIDE))


def from_kernelspec(spec: Mapping[str, Any], directory: str, *, ipykernel: int = 0) -> Inside | None:
    """The kernel of a kernel.json in an image, which lies in `directory` there; None where that is none that starts.

    ipykernel: the major version of the one that it starts, if it is one.
    """
    argv, env, metadata = spec.get("argv"), spec.get("env"), spec.get("metadata")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        return None
    words = tuple(word.replace(JUPYTERS, INSIDE).replace("{resource_dir}", directory) for word in argv)
    if not any(INSIDE in word for word in words):
        return None
    pairs = env.items() if isinstance(env, dict) else ()
    variables = {name: value for name, value in pairs if name.isidentifier() and _is_plain(value)}
    language = spec.get("language")
    if ipykernel:
        variables.setdefault("PYTHONNOUSERSITE", "1")
    title = spec.get("display_name")
    by_message = spec.get("interrupt_mode") == "message" or ipykernel >= 6
    kept = {"debugger": True} if isinstance(metadata, dict) and metadata.get("debugger") is True else {}
    return Inside(
        language if isinstance(language, str) else "",
        title if isinstance(title, str) else "",
        words,
        tuple(sorted(variables.items())),
        by_message,
        tuple(kept.items()),
    )


def _is_plain(value: Any) -> bool:
    """Not one in which Jupyter puts variables of its server, `${NAME}`: an image is told none that it asks for."""
    return isinstance(value, str) and "\0" not in value and not Template(value).get_identifiers()


def make_kernelspec(
    program: Sequence[str], wanted: Wanted, inside: Inside, environ: Mapping[str, str]
) -> dict[str, Any]:
    """The document. environ: variables of hpcc's own that the server need not have, as where the cache is."""
    binds = [word for bind in inside.binds for word in ("--bind", bind)]
    command = (*wanted.options, *binds, "--", wanted.image, *inside.argv)
    metadata = {
        **dict(inside.metadata),
        OURS: {"image": wanted.image, "digest": wanted.digest, "version": __version__},
    }
    if wanted.provisioner:
        metadata["kernel_provisioner"] = {"provisioner_name": "hpcc-provisioner"}
    return {
        "argv": [*program, "kernel", "run", JUPYTERS, *command],
        "display_name": wanted.display_name or inside.title,
        "language": inside.language,
        "interrupt_mode": "message" if inside.interrupts_by_message else "signal",
        "env": {**environ, **{f"HPCCENV_{name}": value.replace("$", "$$") for name, value in inside.env}},
        "metadata": metadata,
    }
