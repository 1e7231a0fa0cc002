"""Run hpcc's command line from Python: a container needs a process of its own, since its start cannot be undone."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hpcc.errors import UsageError

_SUBPROCESS = frozenset(
    ("stdin", "stdout", "stderr", "input", "capture_output", "text", "encoding", "errors", "check", "cwd", "timeout",
     "pass_fds", "close_fds", "start_new_session", "bufsize")
)  # fmt: skip


def program() -> list[str]:
    """The argv that begins a command line of this very hpcc: the quick bin/hpcc beside the interpreter, where it is.

    Of a zip (packaging/zipapp) it is that file. Else the interpreter, which is not to take an `hpcc` in the working
    directory for the package (-P).
    """
    if archive := getattr(globals().get("__loader__"), "archive", ""):
        return [os.path.abspath(archive)]
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "hpcc")
    return [beside] if os.access(beside, os.X_OK) else [os.path.abspath(sys.executable), "-P", "-m", "hpcc"]


def command_line(command: str, image: str, args: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The argv that runs `image`. Options: True is a flag, False and None are left out, lists repeat, dicts are K=V."""
    return [*program(), command, *option_words(options), image, *args]


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Options by their names with underscores, as words of a command line."""
    argv: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            argv.append(flag)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                argv += [flag, f"{key}={item}"]
        elif isinstance(value, list | tuple):
            for item in value:
                argv += [flag, str(item)]
        elif value is not None and value is not False:
            argv += [flag, str(value)]
    return argv


def run_image(
    command: str, image: str, args: Sequence[str], options: Mapping[str, Any]
) -> "subprocess.CompletedProcess[Any]":
    """subprocess.run of `hpcc <command> image args`; what subprocess.run knows of `options` goes there.

    `env` is the container's, each value exactly: it travels as HPCCENV_ variables, since --env splits at commas.
    """
    if isinstance(args, str):
        raise UsageError(f"args must be a list of strings, not {args!r}", hint='image.run(["ls", "-l"])')
    ours = {name: value for name, value in options.items() if name not in _SUBPROCESS}
    theirs = {name: value for name, value in options.items() if name in _SUBPROCESS}
    variables = ours.pop("env") if isinstance(ours.get("env"), Mapping) else {}
    environment = {**os.environ, **{f"HPCCENV_{name}": str(value) for name, value in variables.items()}}
    return subprocess.run(command_line(command, image, args, ours), env=environment, **theirs)
