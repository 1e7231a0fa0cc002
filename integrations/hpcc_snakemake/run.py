"""hpcc snakemake run: Snakemake itself, which finds hpcc's stand-ins where it looks for Apptainer.

This process becomes Snakemake. What it sets, jobs inherit, on the nodes of a cluster, too:

    PATH            first the stand-ins, in a directory of this hpcc's own in the home directory
    HPCC_RUN_ID     one for all jobs: what a tag means is looked up once
    HPCC_PROJECT    the workflow's directory, whose hpcc.lock counts for what is pulled into a prefix elsewhere
    HPCC_JOB_ENV    job variables and $TMPDIR reach containers that are shut off, too
    HPCC_NV, _ROCM  auto: GPUs for jobs that were given some
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse
from hpcc.cli.shim import enable, is_current
from hpcc.errors import CacheError, UsageError, place_hint
from hpcc.invoke import program
from hpcc.runtime.binds import parse_bind, split_binds
from hpcc.settings import Settings
from hpcc_snakemake.containers import DEFAULT_PREFIX
from hpcc_snakemake.snakemakes import command, parse_snakemake, uses_containers, with_options

COMMAND = Command(
    "snakemake run [OPTIONS] [-- SNAKEMAKE-ARGUMENTS]",
    "Run Snakemake with hpcc in Apptainer's place: sets PATH, adds --sdm apptainer unless a method is given, and has "
    "all jobs take the same image for a tag. Without a Slurm job or the like around it, it is what you type on the "
    "login node.",
    (
        Option(("--compat",), "each container as Docker has it: see hpcc exec --help"),
        Option(("-c", "--contain"), "each with an empty /tmp and a minimal /dev"),
        Option(("-e", "--cleanenv"), "each without the host's variables, but for the job's"),
        Option(("-B", "--bind"), "bind a host path into each", "SRC[:DEST[:ro]]", many=True),
        Option(("--no-gpu",), "no --nv and --rocm for jobs that were given GPUs"),
        Option(("--offline",), "pull nothing: only what the cache has"),
        Option(("--frozen",), "only images whose digest is given, or stands in hpcc.lock"),
        Option(("--print",), "print the command and the variables, and do not run it"),
    ),
    "hpcc snakemake run -- --cores 4\nhpcc snakemake run --compat -- --profile slurm all",
)
_SAFE = re.compile(r"[\w@%+=:,./-]*")  # what Snakemake need not quote, for it does not


def main(argv: list[str]) -> int:
    at = argv.index("--") if "--" in argv else len(argv)
    arguments = parse(COMMAND, argv[:at])
    rest = argv[at + 1 :]
    if arguments.positional:
        text = shlex.join(arguments.positional)
        raise UsageError(f"{text}: what is Snakemake's follows --", hint=f"hpcc snakemake run -- {text}")
    parsed = parse_snakemake(rest)[1]
    settings = Settings.from_environ()
    directory = os.path.abspath(parsed.directory or ".")
    methods = set(parsed.software_deployment_method)
    if methods and not uses_containers(methods) and not parsed.use_apptainer:
        inform(arguments, "a software deployment method other than apptainer is given, so container: does not count")
    shim = stand_ins(settings.environ)
    variables = environment(arguments, settings, directory, shim)
    words = [*command(), *with_options(rest, _options(arguments, parsed, directory, {**settings.environ, **variables}))]
    if arguments.print:
        for name, value in variables.items():
            print(f"{name}={shlex.quote(value)}")
        print(shlex.join(words))
        return 0
    os.execve(words[0], words, {**os.environ, **variables})


def environment(arguments: Arguments, settings: Settings, directory: str, shim: str) -> dict[str, str]:
    """What is set beside the caller's own environment."""
    environ = settings.environ
    found = {
        "PATH": f"{shim}:{environ.get('PATH', os.defpath)}",
        "HPCC_RUN_ID": f"snakemake {int(time.time())} {secrets.token_hex(8)}",
        "HPCC_PROJECT": directory,
        "HPCC_JOB_ENV": "1",
    }
    found |= {name: environ[name] for name in list(found)[1:] if environ.get(name)}
    for kind in ("nv", "rocm"):
        if arguments.no_gpu or settings.origins[kind] == "default":
            found[f"HPCC_{kind.upper()}"] = "0" if arguments.no_gpu else "auto"
    given = {"COMPAT": arguments.compat, "CONTAIN": arguments.contain, "CLEANENV": arguments.cleanenv,
             "OFFLINE": arguments.offline, "FROZEN": arguments.frozen}  # fmt: skip
    return found | {f"HPCC_{name}": "1" for name, is_given in given.items() if is_given}


def stand_ins(environ: Mapping[str, str]) -> str:
    """The directory of this hpcc's own stand-ins: jobs on other nodes use it, and it is not taken away at the end.
    CacheError where it cannot be made.
    """
    home = environ.get("HOME") or os.path.expanduser("~")
    data = environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share")
    which = sha256("\0".join(program()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    path = os.path.join(data, "hpcc/snakemake", which)
    if ":" in path:
        raise UsageError(f"{path} cannot stand in PATH", hint="Set XDG_DATA_HOME to a directory without a colon.")
    if not is_current(path):  # else nothing is written: many may start at once
        enable(path)
    return path


def _options(arguments: Arguments, parsed: Any, directory: str, environ: Mapping[str, str]) -> list[str]:
    """What Snakemake gets beside what it was given. `environ`: of its process."""
    options = []
    if not (parsed.software_deployment_method or parsed.use_apptainer or parsed.use_conda or parsed.use_envmodules):
        options += ["--sdm", "apptainer"]
    prefix = _prefix(parsed, directory, environ)
    if prefix:
        options.append(f"--apptainer-prefix={prefix}")
    binds = [bind for each in arguments.bind for bind in split_binds(each)]
    for bind in binds:
        parse_bind(bind, "/")
    if parsed.shadow_prefix:  # shadow directories are made in it, and jobs start in theirs
        binds.append(os.path.abspath(os.path.join(directory, str(parsed.shadow_prefix))))
    if binds:
        words = [parsed.apptainer_args, *(f"--bind {shlex.quote(bind)}" for bind in binds)]
        options.append(f"--apptainer-args={' '.join(filter(None, words))}")
    if parsed.executor == "cluster-generic":  # whose submit command may not pass the environment on: it goes with jobs
        own = ("PATH", *(name for name in environ if _travels(name)))
        options += ["--envvars", *sorted({*parsed.envvars, *own})]
    return options


def _travels(name: str) -> bool:
    """Whether a variable belongs into job scripts, which others may read."""
    return name.startswith("HPCC_") and not name.endswith(("_PASSWORD", "_USERNAME"))


def _prefix(parsed: Any, directory: str, environ: Mapping[str, str]) -> str:
    """A prefix whose name Snakemake can use, where the one that it would use has characters that it does not quote: a
    link to that in the home directory. "" where nothing is to be done.
    """
    given = str(parsed.apptainer_prefix or environ.get("APPTAINER_CACHEDIR") or "")
    wanted = os.path.expanduser(os.path.expandvars(given)) if given else DEFAULT_PREFIX
    wanted = os.path.abspath(os.path.join(directory, wanted))
    if _SAFE.fullmatch(wanted):
        return ""
    base = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    seen = sha256(wanted.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = os.path.join(base, "hpcc-snakemake", seen)
    if not _SAFE.fullmatch(path):
        raise UsageError(
            f"the prefix {wanted!r} has characters that Snakemake does not quote, and so has {path!r}",
            hint="Give one without spaces and quotes: hpcc snakemake run -- --apptainer-prefix DIR …",
        )
    _link(path, wanted)
    return path


def _link(path: str, target: str) -> None:
    """A link at `path`. Atomic, idempotent. CacheError."""
    try:
        os.makedirs(target, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path) and os.readlink(path) == target:
            return
        temporary = f"{path}.{secrets.token_hex(6)}"
        os.symlink(target, temporary)
        os.rename(temporary, path)
    except OSError as error:
        raise CacheError(f"cannot make {error.filename}: {error.strerror}", hint=place_hint(error)) from None
