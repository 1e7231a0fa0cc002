"""hpcc kernel run: what kernel.json names. It becomes `hpcc exec`.

hpcc kernel run CONNECTION_FILE [OPTIONS of hpcc exec] IMAGE COMMAND… {connection-file}

The connection file is bound at its own path, wherever it lies: VS Code has it in $XDG_RUNTIME_DIR. It alone, not its
directory: in that are the keys of the user's other kernels, which a contained one need not have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NoReturn

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.run import COMMANDS, with_variables
from hpcc.errors import HpccError
from hpcc.invoke import program
from hpcc_jupyter.kernelspec import INSIDE

COMMAND = Command(
    "kernel run CONNECTION_FILE [OPTIONS] IMAGE COMMAND…",
    "What kernel.json names: the kernel itself. The connection file is bound into the container; its path takes the "
    "place of {connection-file} in the command. The options are those of `hpcc exec`.",
    (Option(("--fetch",), "only have the image: pull it where the cache has it not"),),
    "hpcc kernel run kernel.json docker://jupyter/scipy-notebook \\\n"
    "    python -m ipykernel_launcher -f {connection-file}",
    stops=True,
)
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE")  # of the host's Python
_SCRATCH = "/var/lib/hpcc-kernel"  # in the container, where the home directory is not there


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) < 2:
        raise usage_error(COMMAND, "kernel run needs a connection file, an image and a command")
    path, *words = arguments.positional
    if arguments.fetch:
        return _fetch(words)
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise HpccError(f"{path}: there is no such connection file", hint="Jupyter makes it; it starts this command.")
    become(path, words, os.environ)


def become(path: str, words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Go on as `hpcc exec`, with the connection file of this path."""
    command, variables = exec_command(path, words, environ)
    argv = [*program(), *command]
    os.execve(argv[0], argv, variables)


def exec_command(path: str, words: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """`exec …`, and its environment. Pure."""
    parsed = parse(COMMANDS["exec"], words)
    arguments = with_variables(parsed, environ)
    if len(parsed.positional) < 2:
        raise usage_error(COMMAND, "kernel run needs an image and a command behind the connection file")
    image, *payload = parsed.positional
    options = list(words[: len(words) - len(parsed.positional)])
    if options and options[-1] == "--":
        options.pop()
    mount = path.replace('"', '""')
    own = ["--mount", f'type=bind,"source={mount}","destination={mount}"']
    variables = {name: value for name, value in environ.items() if name not in _FOREIGN}
    # Where it is process 1's child, ipykernel would take its parent's end for granted; and who starts a kernel in a
    # clean environment means these to come through.
    parent = "1" if has_pids(arguments) else environ.get("JPY_PARENT_PID", "")
    for name, value in (("JPY_PARENT_PID", parent), ("JPY_SESSION_NAME", environ.get("JPY_SESSION_NAME", ""))):
        if value:
            variables[f"HPCCENV_{name}"] = value
    if arguments.no_home or any("home" in item.split(",") for item in arguments.no_mount):
        own += ["--scratch", _SCRATCH]
        for name, directory in (("IPYTHONDIR", "ipython"), ("MPLCONFIGDIR", "matplotlib")):
            variables.setdefault(f"HPCCENV_{name}", f"{_SCRATCH}/{directory}")
    command = [word.replace(INSIDE, path) for word in payload]
    return ["exec", *own, *options, "--", image, *command], variables


def has_pids(arguments: Arguments) -> bool:
    """Whether the container has a PID namespace of its own."""
    return bool(arguments.pid or arguments.containall or arguments.compat)


def _fetch(words: Sequence[str]) -> int:
    from hpcc.cli.source import source_settings, wanted_image

    arguments = parse(COMMANDS["exec"], words)
    image = wanted_image(arguments.positional[0], source_settings(arguments, arguments.positional[0]), arguments)
    if image.rootfs.fd >= 0:
        os.close(image.rootfs.fd)
    return 0
