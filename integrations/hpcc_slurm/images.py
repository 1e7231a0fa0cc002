"""An image where a job is submitted: pulled and converted there, or by a job of its own that the other one waits for.

    <data>/hpcc/slurm/debian_12-<digest>.sif    where a job of its own puts it: a link to the cache, which spares it
    <data>/hpcc/slurm/debian_12-<digest>.log    what that job said

<data> is $XDG_DATA_HOME or ~/.local/share, which the nodes must have, too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hpcc import resolve
from hpcc.cli.arguments import Arguments
from hpcc.cli.source import chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, HpccError, UsageError, place_hint
from hpcc.image import note_use, open_image
from hpcc.invoke import program
from hpcc.oci.reference import Reference
from hpcc.settings import Settings

_CACHE = ("cache_dir", "private_dir", "library_path", "trusted_users", "trusted_groups")
_ASKED = ("account", "clusters", "reservation")  # of the job that waits, which the one that pulls needs as well
_PATIENCE = 60.0  # seconds that sbatch may take


class Pull(NamedTuple):
    """A job that pulls: its script, and the words of sbatch that submit it."""

    words: tuple[str, ...]
    script: str


class Ready(NamedTuple):
    """An image for jobs: a path that stays the same. pull: what must run first, if anything."""

    path: str
    pull: Pull | None = None


def make_ready(uri: str, arguments: Arguments, theirs: Mapping[str, str]) -> Ready:
    """Have the image, by a pull if need be; with --dry-run only say where it is or would be.

    theirs: options of Slurm that the job has. Raises HpccError, as `hpcc pull` does, where it cannot be had.
    """
    settings = source_settings(arguments, uri)
    if settings.disable_cache:
        raise UsageError("a job cannot run from a cache that is disabled", hint="`hpcc pull` makes a file of its own.")
    if arguments.options.get("pull_on") and uri.startswith("docker://"):
        return _by_a_job(uri, settings, arguments, theirs)
    try:
        return Ready(_opened(uri, settings.replace(offline=True) if arguments.dry_run else settings, arguments))
    except HpccError:
        if not (arguments.dry_run and uri.startswith("docker://")):
            raise
        return Ready(f"(what {uri} is when it is submitted)")


def _opened(uri: str, settings: Settings, arguments: Arguments) -> str:
    image = open_image(uri, settings, arch=chosen_platform(arguments), progress=terminal(arguments))
    if image.rootfs.fd >= 0:
        os.close(image.rootfs.fd)
    if not arguments.dry_run:
        note_use(image)  # so that it is there for a while, however long the job waits
    return image.path


def _by_a_job(uri: str, settings: Settings, arguments: Arguments, theirs: Mapping[str, str]) -> Ready:
    """By its digest, which is looked up here; without a job where the cache has it by now."""
    if arguments.docker_login:
        raise UsageError("--docker-login asks at a terminal, which a job has not", hint="`hpcc registry login` first.")
    pinned = resolve(uri, settings=settings, progress=terminal(arguments))
    try:
        return Ready(_opened(pinned, settings.replace(offline=True), arguments))
    except HpccError:
        pass
    platform, reference = chosen_platform(arguments) or "", Reference.parse(pinned)
    digest = reference.digest.hex[:16] if reference.digest else ""
    name = f"{reference._replace(digest=None).file_name.removesuffix('.sif').rstrip('_')}-{digest}"
    if platform:
        name += f"-{platform.replace('/', '-')}"
    path = os.path.join(_directory(settings.environ, make=not arguments.dry_run), name)
    words = [*program(), "pull", "--name", f"{path}.sif"]
    words += [*(("--platform", platform) if platform else ()), *(("--no-https",) if arguments.no_https else ()), pinned]
    options = [f"--partition={arguments.pull_on}", "--job-name=hpcc-pull", f"--output={path.replace('%', '%%')}.log"]
    options += [f"--{name}={theirs[name]}" for name in _ASKED if theirs.get(name)]
    return Ready(f"{path}.sif", Pull(tuple(options), f"#!/bin/sh\nexec {shlex.join(words)}\n"))


def _directory(environ: Mapping[str, str], *, make: bool) -> str:
    """CacheError where it cannot be made."""
    home = environ.get("HOME") or os.path.expanduser("~")
    path = os.path.join(environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "hpcc/slurm")
    try:
        if make:
            os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise CacheError(f"cannot make {path}: {error.strerror}", hint=place_hint(error)) from None
    return path


def submit_pull(pull: Pull, environ: Mapping[str, str]) -> str:
    """The id of the job that pulls. HpccError with sbatch's own words where it is not taken."""
    ours = {name: value for name, value in environ.items() if not name.startswith("SBATCH_")}
    ours |= {name: environ[name] for name in ("SBATCH_ACCOUNT", "SBATCH_CLUSTERS") if name in environ}
    return run_sbatch(pull.words, pull.script, ours)


def run_sbatch(words: Sequence[str], script: str, environ: Mapping[str, str]) -> str:
    """`sbatch --parsable words` with the script: ID, or ID;CLUSTER. HpccError."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *words], input=script.encode("utf-8", "surrogateescape"), capture_output=True,
            timeout=_PATIENCE, env=dict(environ),
        )  # fmt: skip
    except FileNotFoundError:
        raise no_slurm("sbatch") from None
    except subprocess.TimeoutExpired:
        raise HpccError(
            f"sbatch has not answered within {_PATIENCE:.0f} s", hint="`squeue --me` shows whether the job was taken."
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().replace("\n", "; ")
        raise HpccError(f"Slurm has not taken the job: {said}", hint="Nothing was queued.")
    return done.stdout.decode().strip()


def require(name: str) -> None:
    """HpccError where one of Slurm's programs is missing: to be known before anything is pulled."""
    if shutil.which(name) is None:
        raise no_slurm(name)


def no_slurm(name: str) -> HpccError:
    return HpccError(f"{name} is not on PATH", hint="Slurm's programs are needed: `module load slurm`, perhaps.")


def cache_variables(settings: Settings) -> dict[str, str]:
    """Variables that say where the cache is, where the caller's do: a job may be submitted without any."""
    names = {settings.origins.get(name, "") for name in _CACHE}
    return {name: settings.environ[name] for name in sorted(names) if name in settings.environ}
