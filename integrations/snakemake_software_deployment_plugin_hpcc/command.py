"""The line for bash that runs a job's command in an image. Pure.

    HPCCENV_NAME='value' HPCCENV_TOKEN="$TOKEN" /…/bin/hpcc exec --mount … IMAGE bash -c 'command'

Variables travel as HPCCENV_NAME, since `--env` splits its values at commas. One that Snakemake passes on stands there
by its name alone: its value may be a secret.
"""

import csv
import io
import os
import shlex
from collections.abc import Mapping, Sequence

from hpcc import HpccError, command_line

_LOGIN = ("-l", "--login")


def shell_line(
    image: str,
    shell: Sequence[str],
    cmd: str,
    *,
    options: Mapping[str, object],
    args: Sequence[str] = (),
    env: Sequence[tuple[str, str]] = (),
    passed: Sequence[str] = (),
) -> str:
    """bash runs this line from any directory and with any PATH. `shell`: words before `cmd`, its `-c` among them.

    options: see hpcc.command_line; args: more words of that kind, as they are. env: variables in the image; passed:
    names of the host's. HpccError for a name that no shell can set.
    """
    words = [word for word in shell[1:] if word not in _LOGIN]  # a profile would set PATH anew
    behind = [*args, image, os.path.basename(shell[0]), *words, cmd]
    line = command_line("exec", behind[0], behind[1:], options)
    assignments = [f"HPCCENV_{_name(name)}={shlex.quote(value)}" for name, value in env]
    assignments += [f'HPCCENV_{_name(name)}="${name}"' for name in passed]
    return " ".join([*assignments, shlex.join(line)])


def mount(path: str) -> str:
    """--mount's words for a path that is the same in the image: a row of CSV, so that it may have any character."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(["type=bind", f"source={path}", f"destination={path}"])
    return row.getvalue()


def bind(text: str) -> str:
    """--bind's words for one SRC[:DEST[:ro]]: a comma in it belongs to a path."""
    parts = text.split("\\")
    return "\\".join([parts[0].replace(",", "\\,"), *(part[:1] + part[1:].replace(",", "\\,") for part in parts[1:])])


def _name(name: str) -> str:
    if not (name.isidentifier() and name.isascii()):
        raise HpccError(f"{name!r} is no name of a variable", hint="Letters, digits and _, no digit first.")
    return name
