"""--backend apptainer: the site's own Apptainer runs what hpcc has pulled, where user namespaces are off, say."""

from __future__ import annotations

import os

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command
from hpcc.cli.behind import environment_behind, real_apptainer
from hpcc.cli.source import SOURCE_OPTIONS
from hpcc.errors import RuntimeUnavailable, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.environment import is_of_job
from hpcc.runtime.sitebinds import site_binds
from hpcc.siterules import matches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpcc.settings import Settings

_OURS = frozenset(("no_hold", "dry_run", "job_env", "backend", *(option.key for option in SOURCE_OPTIONS)))


def hand_over(
    name: str, command: Command, arguments: Arguments, image: str, rest: Sequence[str], settings: Settings
) -> int:
    """Become Apptainer. RuntimeUnavailable where there is none; UsageError for what it does not know."""
    program = real_apptainer(settings.environ)
    if not program:
        raise RuntimeUnavailable(
            "--backend apptainer: there is no apptainer or singularity on PATH",
            hint="`module load apptainer`, perhaps; hpcc's own stand-in (`hpcc shim`) does not count.",
        )
    if settings.disable_cache and not os.path.exists(image):
        raise UsageError("--disable-cache and --backend apptainer exclude each other", hint="Pull the image first.")
    if not (arguments.quiet or arguments.silent):
        say("INFO", f"{program} runs {image}")
    site = site_binds(settings)
    argv = command_line(program, name, command, arguments, image, rest, site.binds)
    environ = environment_behind(settings.environ, program)
    os.execve(program, argv, variables(environ, job=arguments.job_env, passed=site.env))


def command_line(
    program: str,
    name: str,
    command: Command,
    arguments: Arguments,
    image: str,
    rest: Sequence[str],
    binds: Sequence[str] = (),
) -> list[str]:
    """Apptainer's argv: the options have its names. Pure. UsageError for what it does not have."""
    argv = [program, *(["--quiet"] if arguments.quiet else []), name]
    for bind in binds:
        argv += ["--bind", bind]
    for option in command.options:
        value = arguments.options[option.key]
        if option.key in _OURS or not value:
            continue
        if option.key == "device":
            raise UsageError("--device is for hpcc's own runtime", hint="Apptainer has --nv and --rocm.")
        if option.key == "mpi":
            raise UsageError("--mpi is for hpcc's own runtime", hint="With --bind and --env Apptainer does the same.")
        flag = "--" + option.key.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            argv += [flag] if each is True else [flag, str(each)]
    return [*argv, image, *rest]


def variables(environ: Mapping[str, str], *, job: bool, passed: Sequence[str] = ()) -> dict[str, str]:
    """The environment for it: HPCCENV_X as APPTAINERENV_X; what `passed` matches, and with `job` is_of_job. Pure."""
    found = dict(environ)
    for name, value in environ.items():
        if any(matches(pattern, name) for pattern in passed):
            found[f"APPTAINERENV_{name}"] = value
    if job:
        found |= {f"APPTAINERENV_{name}": value for name, value in environ.items() if is_of_job(name)}
    for name, value in environ.items():
        if name.startswith("HPCCENV_"):
            found["APPTAINERENV_" + name.removeprefix("HPCCENV_")] = value
    return found
