"""hpcc shim: `apptainer` and `singularity` for programs that call them by name, such as Snakemake.

    DIR/apptainer, DIR/singularity    sh scripts: --version is answered at once, all else is hpcc's

A script finds hpcc by an absolute path, so that a job with another PATH finds it too. It never calls itself.
"""

import os
from collections.abc import Iterator, Mapping

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import CacheError, UsageError
from hpcc.invoke import program
from hpcc.version import __version__

COMMAND = Command(
    "shim enable|disable|status|env [--dir DIR]",
    "Stand in for apptainer and singularity where programs call them by name.",
    (Option(("--dir",), "where the stand-ins lie; default: $XDG_DATA_HOME/hpcc/shim", "DIR"),),
    'hpcc shim enable\neval "$(hpcc shim env)"\nsnakemake --sdm apptainer --cores 4',
)
NAMES = ("apptainer", "singularity")
MARK = "# a stand-in by hpcc"
LIKE = "1.4.5"  # the Apptainer whose command line hpcc follows


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1 or arguments.positional[0] not in ("enable", "disable", "status", "env"):
        raise usage_error(COMMAND, "shim needs one of enable, disable, status, env")
    directory = os.path.abspath(arguments.dir or _default_directory())
    action = arguments.positional[0]
    if action == "enable":
        enable(directory)
        print(f"{directory} now has {' and '.join(NAMES)}.")
        print(f'Put it first on PATH: eval "$(hpcc shim env{f" --dir {directory}" if arguments.dir else ""})"')
    elif action == "disable":
        removed = disable(directory)
        print(f"Removed {' and '.join(removed)} from {directory}." if removed else f"{directory} had no stand-in.")
    elif action == "env":
        if not is_enabled(directory):
            raise UsageError(f"there is no stand-in in {directory}", hint="First: hpcc shim enable")
        print(f"PATH='{directory}':\"$PATH\"; export PATH")
    else:
        first = {name: next(_on_path(name, os.environ), "") for name in NAMES}
        print(f"{directory}: {'enabled' if is_enabled(directory) else 'not enabled'}")
        for name, path in first.items():
            print(f"{name} on PATH: {path or 'none'}{' (hpcc)' if path and _is_ours(path) else ''}")
        return 0 if is_enabled(directory) else 1
    return 0


def enable(directory: str) -> None:
    """Put the stand-ins into `directory`. Idempotent; each file is replaced whole. Files of others are left alone."""
    try:
        os.makedirs(directory, exist_ok=True)
        for name in NAMES:
            path = os.path.join(directory, name)
            if os.path.lexists(path) and not _is_ours(path):
                raise UsageError(f"{path} is there and is not hpcc's", hint="Give another --dir.")
            temporary = f"{path}.{os.getpid()}"
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(script(name))
            os.chmod(temporary, 0o755)
            os.rename(temporary, path)
    except OSError as error:
        raise CacheError(f"cannot write to {directory}: {error.strerror}", hint="Give another --dir.") from None


def disable(directory: str) -> list[str]:
    """Take them out again; the names that were there. Idempotent."""
    removed = [name for name in NAMES if _is_ours(os.path.join(directory, name))]
    for name in removed:
        os.unlink(os.path.join(directory, name))
    return removed


def is_enabled(directory: str) -> bool:
    return all(_is_ours(os.path.join(directory, name)) for name in NAMES)


def script(name: str) -> str:
    """The stand-in for `name`. Snakemake asks for the version once per image and job, so sh answers that."""
    version = ".".join(__version__.split(".")[:2])
    return f"""#!/bin/sh
{MARK}
case $1 in
    --version|version) echo '{name} version {LIKE}+hpcc{version}'; exit 0 ;;
esac
exec {" ".join(map(_quote, program()))} "$@"
"""


def real_apptainer(environ: Mapping[str, str]) -> str:
    """The first apptainer, else singularity, on PATH that is no stand-in of hpcc's; "" for none."""
    return next((path for name in NAMES for path in _on_path(name, environ) if not _is_ours(path)), "")


def _on_path(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Each program of that name, the first one first."""
    for directory in environ.get("PATH", "").split(":"):
        path = os.path.join(directory, name)
        if directory.startswith("/") and os.access(path, os.X_OK):
            yield path


def _is_ours(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return MARK.encode() in file.read(256)
    except OSError:
        return False


def _default_directory() -> str:
    home = os.environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "hpcc/shim")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
