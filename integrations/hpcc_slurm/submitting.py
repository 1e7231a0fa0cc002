"""Jobs from Python: what `hpcc slurm sbatch` does, without becoming sbatch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hpcc.errors import UsageError
from hpcc.invoke import option_words
from hpcc.settings import Settings
from hpcc_slurm.images import require, run_sbatch
from hpcc_slurm.job import Job
from hpcc_slurm.sbatch import COMMAND, prepare, submission_words
from hpcc_slurm.words import FLAGS, VALUES, take_apart


def submit(
    script: str | os.PathLike[str] | None = None,
    *args: str,
    wrap: str | None = None,
    sbatch: Mapping[str, Any] | Sequence[str] = (),
    settings: Settings | None = None,
    **options: Any,
) -> Job:
    """Submit a batch script, or the shell command `wrap`, that runs in an image, which is pulled first.

    sbatch: its options, as {"array": "0-9", "exclusive": True} or as words. The others are those of `hpcc slurm sbatch`
    with underscores: image="docker://…", compat=True, bind=["/data"], pull_on="PARTITION". Raises HpccError; then
    nothing was queued.
    """
    if (script is None) == (wrap is None):
        raise UsageError("either a script is submitted or a command, by wrap=")
    known = {option.key for option in COMMAND.options} - {"dry_run"}
    for name in options:
        if name not in known:
            hint = "Options of sbatch go into sbatch={…}." if name.replace("_", "-") in VALUES | FLAGS else ""
            raise UsageError(f"hpcc slurm sbatch has no option --{name.replace('_', '-')}", hint=hint)
    theirs = option_words(sbatch) if isinstance(sbatch, Mapping) else list(sbatch)
    words = [*option_words(options), *theirs, *((f"--wrap={wrap}",) if wrap is not None else ())]
    if script is not None:
        words += ["--", os.fspath(script), *args]
    line = take_apart(words, "sbatch", COMMAND.options)
    if wrap is None and line.rest[:1] != (os.fspath(script or ""),):
        raise UsageError(f"sbatch={sbatch!r} has words that are no options: {' '.join(line.rest)}")
    if line.value("wait") is not None:
        raise UsageError("submit() does not wait for a job's end", hint="job.wait() does.")
    require("sbatch")
    environ = {**os.environ} if settings is None else {**settings.environ}
    environ.pop("SBATCH_WAIT", None)
    _, made = prepare([], line, settings or Settings.from_environ())
    job_id, _, cluster = run_sbatch(submission_words(made, environ), made.script, environ).partition(";")
    name = next((word.removeprefix("--job-name=") for word in made.words if word.startswith("--job-name=")), "")
    return Job(job_id, cluster=cluster, name=name)
