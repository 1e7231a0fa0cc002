"""hpcc slurm oci-run: what oci.conf calls for each task of `srun --container`; it becomes `hpcc exec`.

    --env-file FILE -- IMAGE COMMAND …    Slurm 23.02 and newer; FILE has NAME=VALUE, each with a NUL behind it
    --bundle DIR                          before: DIR/config.json (OCI's runtime-spec), as Slurm wrote it for the task

Slurm starts it in a directory of its spool. A batch script lies there, too, and is bound into the container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import InvalidImage
from hpcc.invoke import program
from hpcc.local import MAX_JSON

COMMAND = Command(
    "slurm oci-run [OPTIONS] --bundle DIR | -- IMAGE COMMAND [ARG…]",
    "Run a task of `srun --container`: oci.conf calls it, see `hpcc slurm oci-conf`.",
    (
        Option(("--env-file",), "the environment, as Slurm's CreateEnvFile=null writes it", "FILE"),
        Option(("--bundle",), "a directory with config.json, which says what to run in which rootfs", "DIR"),
        Option(("--with",), "an option of hpcc exec", "OPTION", many=True),
    ),
    "hpcc slurm oci-run -- image.sif hostname",
    stops=True,
)
_STARTUP = "/tmp/slurm/startup"  # what Slurm calls a batch script in a bundle's container


class Task(NamedTuple):
    """What is to run: in which image, with which options of `hpcc exec`."""

    image: str
    words: tuple[str, ...]
    options: tuple[str, ...]
    environ: Mapping[str, str]


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if (arguments.bundle is None) == (len(arguments.positional) < 2):
        raise usage_error(COMMAND, "either --bundle, or an image and a command")
    if arguments.bundle is not None:
        task = from_bundle(_read_config(arguments.bundle), arguments.bundle)
    else:
        environ = read_environment(arguments.env_file) if arguments.env_file else {}
        task = from_words(arguments.positional, environ or dict(os.environ))
    _change_directory(task.environ)
    argv = [*program(), "exec", "--job-env", *arguments.options["with"], *task.options, "--", task.image, *task.words]
    os.execve(argv[0], argv, dict(task.environ))


def from_words(words: Sequence[str], environ: Mapping[str, str]) -> Task:
    """Of the form with an image and a command. Pure."""
    image, *command = words
    script = command[0]
    # Slurm hands a batch script over as the file in its spool, which no mode of ours brings along.
    binds = _bind(script, script, readonly=True) if script.endswith("/slurm_script") and script[0] == "/" else ()
    return Task(image, tuple(command), binds, environ)


def from_bundle(config: Mapping[str, Any], bundle: str) -> Task:
    """Of a config.json. Raises InvalidImage for what is none. Pure."""
    process, root = config.get("process"), config.get("root")
    args = process.get("args") if isinstance(process, dict) else None
    path = root.get("path") if isinstance(root, dict) else None
    env = (process.get("env") or []) if isinstance(process, dict) else None
    if not (_are_texts(args) and args and _are_texts(env) and isinstance(path, str) and path):
        raise InvalidImage(f"{bundle}/config.json says neither what to run nor in which root")
    assert isinstance(process, dict) and args is not None and env is not None
    environ = dict(item.split("=", 1) for item in env if "=" in item and item[0] != "=")
    words = list(args)
    options: list[str] = []
    mounts = config.get("mounts")
    for mount in mounts if isinstance(mounts, list) else []:
        source, target = (mount.get(name) if isinstance(mount, dict) else None for name in ("source", "destination"))
        kinds = mount.get("options") if isinstance(mount, dict) else None
        if not (isinstance(source, str) and isinstance(target, str) and _are_texts(kinds)):
            continue
        assert kinds is not None
        if target == _STARTUP:
            words = [source if word == _STARTUP else word for word in words]
            options += _bind(source, source, readonly=True)
        elif not target.startswith("/tmp/slurm/") and {"bind", "rbind"} & set(kinds):  # those are streams, open already
            options += _bind(source, target, readonly="ro" in kinds)
    directory = process.get("cwd")
    if isinstance(directory, str) and directory not in ("", "/"):
        options.append(f"--pwd={directory}")
    return Task(os.path.join(bundle, path), tuple(words), tuple(options), environ)


def _bind(source: str, target: str, *, readonly: bool) -> tuple[str, ...]:
    def quoted(path: str) -> str:
        return path.replace(":", "\\:").replace(",", "\\,")

    return (f"--bind={quoted(source)}:{quoted(target)}{':ro' if readonly else ''}",)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)


def read_environment(path: str) -> dict[str, str]:
    """NAME=VALUE, each with a NUL behind it; empty where there is no such file."""
    try:
        with open(path, "rb") as file:
            items = os.fsdecode(file.read()).split("\0")
    except OSError:
        return {}
    return dict(item.split("=", 1) for item in items if "=" in item and item[0] != "=")


def _read_config(bundle: str) -> Mapping[str, Any]:
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            config = json.loads(file.read(MAX_JSON))
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror}", hint="`hpcc slurm bundle IMAGE DIR` makes one.") from None
    except ValueError as error:
        raise InvalidImage(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise InvalidImage(f"{path} is no object")
    return config


def _change_directory(environ: Mapping[str, str]) -> None:
    """Out of Slurm's spool, to where the user was."""
    for name in ("PWD", "SLURM_SUBMIT_DIR", "HOME"):
        try:
            os.chdir(environ.get(name) or "/no/such/directory")
            return
        except OSError:
            continue
    os.chdir("/")
