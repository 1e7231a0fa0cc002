"""hpcc shim: `apptainer` and `singularity` for programs that call them by name: Snakemake, Nextflow, cwltool, scripts.

    DIR/apptainer, DIR/singularity    sh scripts: --version is answered at once, all else is hpcc's

A script finds hpcc by an absolute path, so that a job with another PATH finds it too. What hpcc does not know goes on
to the real Apptainer behind it (hpcc.cli.behind).
"""

import os
import secrets
from collections.abc import Mapping
from typing import Any

from hpcc.cli import LIKE, STAND_IN, like_version, say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.behind import MARK, NAMES, is_stand_in, on_path, real_apptainer
from hpcc.errors import CacheError, UsageError, place_hint
from hpcc.invoke import program

COMMAND = Command(
    "shim enable|disable|status|env [--dir DIR] [--json]",
    "Stand in for apptainer and singularity where programs call them by name. What hpcc does not know is handed on to "
    "the real Apptainer, the next one on PATH.",
    (
        Option(("--dir",), "where the stand-ins lie; default: $XDG_DATA_HOME/hpcc/shim", "DIR"),
        Option(("-j", "--json"), "of status: as JSON"),
    ),
    'hpcc shim enable\neval "$(hpcc shim env)"\nsnakemake --sdm apptainer --cores 4',
)
_PATIENCE = 20.0  # seconds for the real Apptainer to say its version: perhaps from a filesystem that sleeps


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    actions = {"enable": _enable, "disable": _disable, "status": _status, "env": _env}
    if len(arguments.positional) != 1 or arguments.positional[0] not in actions:
        raise usage_error(COMMAND, "shim needs one of enable, disable, status, env")
    if arguments.json and arguments.positional[0] != "status":
        raise usage_error(COMMAND, "--json is for status")
    return actions[arguments.positional[0]](arguments, os.path.abspath(arguments.dir or _default_directory()))


def _enable(arguments: Arguments, directory: str) -> int:
    enable(directory)
    print(f"{directory} now has {' and '.join(NAMES)}.")
    ahead = next((path for each in NAMES for path in _ahead(each, directory)), "")
    if ahead or not _is_on_path(directory):
        option = f" --dir {_quote(arguments.dir)}" if arguments.dir else ""
        print(f"{ahead} comes before it on PATH." if ahead else "It is not on PATH.")
        print(f'Put it first, here and in ~/.bashrc or your job scripts: eval "$(hpcc shim env{option})"')
    return 0


def _disable(arguments: Arguments, directory: str) -> int:
    removed = disable(directory)
    print(f"Removed {' and '.join(removed)} from {directory}." if removed else f"{directory} had no stand-in.")
    return 0


def _env(arguments: Arguments, directory: str) -> int:
    if not is_enabled(directory):
        raise UsageError(f"there is no stand-in in {directory}", hint="First: hpcc shim enable")
    if ":" in directory or "\n" in directory:
        raise UsageError(f"{directory!r} cannot stand in PATH", hint="Choose a directory without a colon in its name.")
    if os.environ.get("PATH", "").split(":")[0] != directory:
        print(f'PATH={_quote(directory)}${{PATH:+":$PATH"}}; export PATH')
    return 0


def _status(arguments: Arguments, directory: str) -> int:
    found = status(directory, os.environ)
    if arguments.json:
        import json

        print(json.dumps(found, indent=1))
        return 0 if found["enabled"] else 1
    print(f"{directory}: {'enabled' if found['enabled'] else 'not enabled'}")
    for name in NAMES:
        first = found["first"][name]
        whose = f" (hpcc's, {first['runs'] or 'of no hpcc that is there'})" if first and first["stand_in"] else ""
        print(f"{name} on PATH: {first['path'] if first else 'none'}{whose}")
    behind = found["behind"]
    print(f"behind it: {behind['path'] + ', ' + (behind['version'] or 'which does not run') if behind else 'none'}")
    print(f"versions: hpcc {found['hpcc']}, which answers as {found['answers']}")
    if found["enabled"] and not all(found["first"][name] and found["first"][name]["stand_in"] for name in NAMES):
        say("WARNING", 'programs do not find the stand-ins: eval "$(hpcc shim env)"')
    return 0 if found["enabled"] else 1


def status(directory: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """enabled: whether the directory has both; first: what is first on PATH; behind: the real one, None where none is.

    Asks the real one for its version, by running it.
    """
    from hpcc.version import __version__

    first: dict[str, Any] = {}
    for name in NAMES:
        path = next(on_path(name, environ), None)
        ours = path is not None and is_stand_in(path)
        first[name] = path and {"path": path, "stand_in": ours, "runs": _runs(path) if ours else None}
    real = real_apptainer(environ)
    return {
        "directory": directory,
        "enabled": is_enabled(directory),
        "first": first,
        "behind": {"path": real, "version": _version_of(real)} if real else None,
        "hpcc": __version__,
        "answers": like_version("--version"),
    }


def enable(directory: str) -> None:
    """Put the stand-ins into `directory`. Idempotent; each file is replaced whole. UsageError for a file of others."""
    paths = {name: os.path.join(directory, name) for name in NAMES}
    for path in paths.values():
        if os.path.lexists(path) and not is_stand_in(path):
            raise UsageError(f"{path} is there and is not hpcc's", hint="Give another --dir.")
    try:
        os.makedirs(directory, exist_ok=True)
        for path in paths.values():
            temporary = f"{path}.{secrets.token_hex(6)}"
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
                with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(script())
                os.rename(temporary, path)
            finally:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
    except OSError as error:
        raise CacheError(f"cannot write to {directory}: {error.strerror}", hint="Give another --dir.") from None


def disable(directory: str) -> list[str]:
    """Take them out again; the names that were there. Idempotent."""
    removed = [name for name in NAMES if is_stand_in(os.path.join(directory, name))]
    try:
        for name in removed:
            os.unlink(os.path.join(directory, name))
    except OSError as error:
        raise CacheError(f"cannot write to {directory}: {error.strerror}", hint=place_hint(error)) from None
    return removed


def is_enabled(directory: str) -> bool:
    return all(is_stand_in(os.path.join(directory, name)) for name in NAMES)


def is_current(directory: str) -> bool:
    """Whether both are there, and just what this hpcc would put there."""
    try:
        for name in NAMES:
            with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                if file.read() != script():
                    return False
    except OSError:
        return False
    return True


def script() -> str:
    """A stand-in. Programs ask for the version all the time, Snakemake once per image and job, so sh answers that."""
    command = [_quote(word) for word in program()]
    return f"""#!/bin/sh
{MARK} for Apptainer {LIKE}: `hpcc shim`
for word; do
    case $word in
        --version) echo '{like_version("--version")}'; exit ;;
        -*) ;;
        *) break ;;
    esac
done
[ -x {command[0]} ] || {{
    printf '%s\\n' 'FATAL:   the hpcc of this stand-in is gone: '{command[0]} >&2
    printf '%s\\n' "HINT:    Have another hpcc make it again, by 'hpcc shim enable', or remove $0" >&2
    exit 255
}}
exec {" ".join(command)} {STAND_IN} "$@"
"""


def _runs(path: str) -> str | None:
    """Which hpcc a stand-in executes; None where that is not there."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            (line,) = [line for line in file if line.startswith("exec ")]
        import shlex

        command = shlex.split(line)[1]
    except (OSError, ValueError, IndexError):
        return None
    return command if os.access(command, os.X_OK) else None


def _version_of(path: str) -> str | None:
    """What a program answers to --version, on one line; None where it fails."""
    import subprocess

    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return "".join(each for each in done.stdout.decode(errors="replace").strip()[:200] if each.isprintable())


def _ahead(name: str, directory: str) -> list[str]:
    """The programs of that name that PATH has before the directory's; all of them where it has not that."""
    found: list[str] = []
    for path in on_path(name, os.environ):
        if os.path.dirname(path) == directory:
            return found
        found.append(path)
    return found


def _is_on_path(directory: str) -> bool:
    return directory in os.environ.get("PATH", "").split(":")


def _default_directory() -> str:
    home = os.environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "hpcc/shim")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
