"""--env-file: the variables that a shell script sets, as Apptainer reads such a file."""

import os
import subprocess

from hpcc.errors import UsageError

_SCRIPT = 'set -a; . "$1" >&2 || exit; set +a; env -0'
_OURS = frozenset(("PWD", "OLDPWD", "SHLVL", "_"))


def read_env_file(path: str) -> list[tuple[str, str]]:
    """What the file sets, exported or not; it may use the variables that there are. Run by sh, so it is the user's own.

    UsageError where it cannot be read, or fails.
    """
    if not os.path.isfile(path):
        raise UsageError(f"--env-file {path}: there is no such file", hint="One NAME=VALUE a line, as in a shell.")
    name = path if "/" in path else f"./{path}"  # sh looks for others on PATH
    done = subprocess.run(["sh", "-c", _SCRIPT, "sh", name], stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UsageError(f"--env-file {path}: {said[-1] if said else 'it failed'}", hint="It is read by /bin/sh.")
    found = [os.fsdecode(item).partition("=")[::2] for item in done.stdout.split(b"\0") if item]
    return [(key, value) for key, value in found if key not in _OURS and os.environ.get(key) != value]
