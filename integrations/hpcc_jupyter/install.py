"""hpcc kernel install: an image as a kernel of Jupyter's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

import hpcc
from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.run import COMMANDS
from hpcc.cli.source import SOURCE_OPTIONS, wanted_image
from hpcc.cli.source import source_settings as settings_for
from hpcc.errors import HpccError, UsageError
from hpcc.invoke import program
from hpcc.local import Image
from hpcc.runtime.binds import parse_bind, split_binds
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages
from hpcc_jupyter.bring import bring_ipykernel
from hpcc_jupyter.inside import Python, ask_python, check_brought, irkernel, kernelspecs, prefixes
from hpcc_jupyter.kernelspec import BROUGHT, Inside, Wanted, make_kernelspec, with_ipykernel
from hpcc_jupyter.places import check_name, user_data, write_kernel

_OWN = (
    Option(("--name",), "what the kernel's directory is called; by default as the image", "NAME"),
    Option(("--display-name",), "what Jupyter shows", "TEXT"),
    Option(("--user",), "for yourself, which is the default"),
    Option(("--prefix",), "below PREFIX/share/jupyter", "PREFIX"),
    Option(("--sys-prefix",), "below the prefix of hpcc's own environment"),
    Option(("--kernel",), "of the kernels that the image has, this one", "NAME"),
    Option(("--python",), "a Python kernel, of this interpreter in the image", "COMMAND"),
    Option(("--with-ipykernel",), "bring ipykernel along though the image has it; what it lacks is brought anyway"),
    Option(("--provisioner",), "have hpcc's provisioner pull the image; the server's environment needs hpcc"),
)
_TAKEN = {name for option in (*_OWN, *SOURCE_OPTIONS) for name in option.names} | {"--dry-run", "--no-eval"}
_FIRST = ("--nv", "--rocm", "--bind", "--env", "--compat", "--contain", "--containall", "--cleanenv")
_OF_EXEC = sorted(
    (option for option in COMMANDS["exec"].options if not _TAKEN & set(option.names)),
    key=lambda option: next((at for at, name in enumerate(_FIRST) if name in option.names), len(_FIRST)),
)
COMMAND = Command(
    "kernel install [OPTIONS] IMAGE",
    "Make an image a kernel of Jupyter's: with ipykernel, IRkernel, or whatever kernel the image has. Its digest is "
    "pinned. Options of `hpcc exec` are kept for each start of the kernel.",
    (*_OWN, *_OF_EXEC, *SOURCE_OPTIONS),
    "hpcc kernel install docker://python:3.12\n"
    "hpcc kernel install --nv --display-name 'Torch 2' docker://pytorch/pytorch\n"
    "hpcc kernel install --compat --bind ~/work docker://jupyter/r-notebook",
)
_PATHS = frozenset(("apply_cgroups", "env_file", "home", "overlay", "workdir"))  # options whose value is a path
_CACHES = (
    "HPCC_CACHE_DIR", "HPCC_PRIVATE_DIR", "HPCC_LIBRARY_PATH", "HPCC_TRUSTED_USERS", "HPCC_TRUSTED_GROUPS",
    "APPTAINER_CACHEDIR", "SINGULARITY_CACHEDIR",
)  # fmt: skip


def main(argv: list[str]) -> int:
    load_site_packages()
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "kernel install needs one image")
    (uri,) = arguments.positional
    place = _place(arguments)
    options = _kept(argv)
    settings = settings_for(arguments, uri)
    if settings.disable_cache:
        raise UsageError("a kernel cannot run from a cache that is disabled", hint="`hpcc pull` makes a file of it.")
    image = wanted_image(uri, settings, arguments)
    try:
        inside = _choose(image, arguments)
        pinned, digest = _pinned(uri, image, settings)
        short = _short(uri)
        title = f"{inside.title or inside.language} in {short}"
        wanted = Wanted(pinned, digest, options, arguments.display_name or title, provisioner=arguments.provisioner)
        name = check_name(arguments.name or re.sub(r"[^a-z0-9._-]+", "-", short.lower()).strip("-"))
        caches = {variable: os.environ[variable] for variable in _CACHES if os.environ.get(variable)}
        spec = make_kernelspec(program(), wanted, inside, caches)
        directory = write_kernel(place, name, spec, {})
    finally:
        if image.rootfs.fd >= 0:
            os.close(image.rootfs.fd)
    inform(arguments, f"Kernel {name}: {spec['display_name']}, in {directory}")
    return 0


def _place(arguments: Arguments) -> str:
    given = [bool(arguments.user), arguments.prefix is not None, bool(arguments.sys_prefix)]
    if sum(given) > 1:
        raise usage_error(COMMAND, "--user, --prefix and --sys-prefix exclude each other")
    if arguments.prefix is not None:
        return os.path.join(os.path.abspath(arguments.prefix), "share/jupyter")
    return os.path.join(sys.prefix, "share/jupyter") if arguments.sys_prefix else user_data(os.environ)


def _kept(argv: list[str]) -> tuple[str, ...]:
    """Of the command line what `hpcc exec` is given at each start; paths of the host as absolute ones. UsageError."""
    from hpcc.cli.run import runtime_options

    table = {name: option for option in COMMAND.options for name in option.names}
    ours = {name for option in _OF_EXEC for name in option.names}
    found: list[str] = []
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        if not word.startswith("--") and len(word) > 2 and word.startswith("-"):  # -ce, -Bvalue
            name, value = word[:2], word[2:].removeprefix("=")
            equals = "=" if name in table and table[name].value else ""
            if not equals:
                queue.insert(0, f"-{word[2:]}")
        option = table.get(name)
        if option is None:
            continue
        if option.value and not equals:
            value = queue.pop(0)
        if name in ours:
            value = _absolute(option.key, value)
            found += [name, value] if option.value else [word if word.startswith("--") else name]
    runtime_options(parse(COMMANDS["exec"], found))
    return tuple(found)


def _absolute(key: str, value: str) -> str:
    """A kernel starts in the notebook's directory, not in this one."""
    if key == "bind":
        for text in split_binds(value):
            parse_bind(text, "/")
        return ",".join(
            text if text.startswith("/") else f"{_quoted(os.getcwd())}/{text}" for text in split_binds(value)
        )
    return os.path.join(os.getcwd(), value) if key in _PATHS and not value.startswith("/") else value


def _quoted(path: str) -> str:
    """A path as --bind reads it."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _short(uri: str) -> str:
    """debian:12 of docker://…/debian:12@sha256:…, tools of /images/tools.sif."""
    if uri.startswith("docker://"):
        return uri.partition("@")[0].rstrip("/").rpartition("/")[2]
    return os.path.basename(os.path.abspath(uri)).removesuffix(".sif")


def _pinned(uri: str, image: Image, settings: Settings) -> tuple[str, str]:
    """What kernel.json runs, and the digest of it, "" where nobody knows one."""
    if uri.startswith("docker://"):
        pinned = hpcc.resolve(uri, settings=settings)
        return pinned, pinned.rpartition("@")[2]
    return os.path.abspath(uri), image.reference.rpartition("@")[2]


def _choose(image: Image, arguments: Arguments) -> Inside:
    """The kernel of the image that is meant. HpccError says what it has not."""
    if arguments.python and arguments.kernel:
        raise usage_error(COMMAND, "--python and --kernel exclude each other")
    python = _python(image, arguments.python)
    if arguments.python or arguments.with_ipykernel:
        return _python_kernel(python, image, arguments, os.environ)
    where = prefixes(image, (python.prefix,) if python else ())
    found = kernelspecs(image, where, python.major if python else 0)
    if arguments.kernel:
        if arguments.kernel not in found:
            has = f"It has {', '.join(sorted(found))}." if found else "It has none."
            raise UsageError(f"{image.name} has no kernel {arguments.kernel!r}", hint=has)
        return found[arguments.kernel]
    own = [name for name in found if name != "python3"]
    if len(own) > 1:
        raise UsageError(
            f"{image.name} has several kernels: {', '.join(sorted(found))}", hint="Choose one by --kernel NAME."
        )
    if own or "python3" in found:
        return found[own[0] if own else "python3"]
    if (r := irkernel(image, where)) is not None:
        return r
    return _python_kernel(python, image, arguments, os.environ)


def _python(image: Image, named: str | None) -> Python | None:
    if named:
        found = ask_python(image, named)
        if found is None:
            raise UsageError(f"{image.name} has no {named}", hint="--python takes a command or a path in the image.")
        return found
    return ask_python(image, "python3") or ask_python(image, "python")


def _python_kernel(python: Python | None, image: Image, arguments: Arguments, environ: Mapping[str, str]) -> Inside:
    if python is None:
        raise HpccError(
            f"{image.name} has nothing that hpcc can make a kernel of: no kernelspec, no R with IRkernel, no python3",
            hint="Name an interpreter in it with --python, or use an image with one.",
        )
    title = f"Python {python.version}"
    if python.ipykernel and not arguments.with_ipykernel:
        return with_ipykernel(python.command, title, major=python.major)
    brought, version = bring_ipykernel(python, environ)
    inform(arguments, f"ipykernel {version} is brought along, from {brought}")
    major = python._replace(ipykernel=version).major
    bind = f"{_quoted(brought)}:{BROUGHT}:ro"
    check_brought(image, python, bind)
    return with_ipykernel(python.command, title, major=major, bind=bind)
