"""Which images a workflow needs, as Snakemake itself finds them: its parser, its graph of jobs, its names of files.

Snakemake's command line is run as for --conda-create-envs-only, with the last step, which pulls the images one after
another, replaced by one that looks at them. Of its inner parts that needs only what 8.0 to 9.27 have in common.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from hpcc.errors import HpccError
from hpcc.records import NamedTuple
from hpcc_snakemake.containers import SifPath
from hpcc_snakemake.snakemakes import parse_snakemake, with_options


class Container(NamedTuple):
    """An image of a workflow. uri: as its rules say it, docker://… or a file; path: where Snakemake looks for it;
    options: where they say it by image().
    """

    uri: str
    path: str
    rules: tuple[str, ...]
    options: tuple[str, ...] | None = None

    @property
    def is_file(self) -> bool:
        return "://" not in self.uri


class Containers(NamedTuple):
    """All of a workflow, sorted. later: rules that a checkpoint may bring in, and that are counted in;
    unknown: those whose image cannot be told before; problem: why all rules were taken, not only those needed.
    """

    images: tuple[Container, ...]
    prefix: str
    directory: str
    later: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    problem: str = ""


def find_containers(argv: Sequence[str]) -> Containers:
    """The images of the workflow that Snakemake would run with these arguments. HpccError where it cannot be read.

    Runs the Snakefile's code. SystemExit for a wrong command line.
    """
    from snakemake import cli
    from snakemake.api import DAGApi

    words = with_options(argv, ("--conda-create-envs-only",))
    parser, arguments = parse_snakemake(words)
    found: list[Containers] = []

    def look(api: Any) -> None:
        found.append(_look(api.workflow_api._workflow))

    said = io.StringIO()
    original = DAGApi.conda_create_envs
    DAGApi.conda_create_envs = look
    problem: BaseException | None = None
    ours, sys.argv = sys.argv, ["snakemake", *words]  # what a Snakefile that asks should see, image() among them
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.args_to_api(arguments, parser)
    except Exception as error:  # 9.27 may fail while it prints what is wrong with a Snakefile
        problem = error.__context__ or error
    finally:
        DAGApi.conda_create_envs, sys.argv = original, ours
    if not found:
        sys.stderr.write(said.getvalue())
        raise HpccError(
            "Snakemake could not read the workflow" + (f": {problem}" if problem else ""),
            hint="Does `snakemake --dry-run` with the same options?",
        )
    return found[0]


def _look(workflow: Any) -> Containers:
    """In the directory of the workflow, whose rules are read by now."""
    workflow._prepare_dag(
        forceall=workflow.dag_settings.forceall, ignore_incomplete=True, lock_warn_only=False, nolock=True
    )
    problem, jobs = "", []
    try:
        workflow._build_dag()
        jobs = list(workflow.dag.jobs)
    except Exception as error:  # a missing input file, as on the machine where images are packed for another one
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    rules: dict[tuple[str, str, tuple[str, ...] | None], set[str]] = {}
    for job in jobs:
        if job.container_img_url:
            rules.setdefault(_of_job(job, workflow.dag), set()).add(job.rule.name)
    known = {job.rule.name for job in jobs}
    later, unknown = set(), set()
    if problem or any(job.is_checkpoint for job in workflow.dag.needrun_jobs()):
        for rule in workflow.rules:
            if rule.name in known or not rule.container_img:
                continue
            static = _of_rule(rule, workflow.dag)
            if static is None:
                unknown.add(rule.name)
            else:
                later.add(rule.name)
                rules.setdefault(static, set()).add(rule.name)
    images = tuple(Container(uri, path, tuple(sorted(names)), options) for (uri, path, options), names in rules.items())
    prefix = os.path.abspath(str(workflow.persistence.container_img_path))
    return Containers(
        tuple(sorted(images, key=lambda each: (each.uri, each.path))),
        prefix,
        os.getcwd(),
        tuple(sorted(later)) if not problem else (),
        tuple(sorted(unknown)),
        problem,
    )


def _of_job(job: Any, dag: Any) -> tuple[str, str, tuple[str, ...] | None]:
    said = job.rule.container_img
    if isinstance(said, SifPath):
        return _of_image(said.resolve(job.wildcards))
    return _of_url(str(job.container_img_url), dag)


def _of_rule(rule: Any, dag: Any) -> tuple[str, str, tuple[str, ...] | None] | None:
    """What a rule says without a job: None where it says that by a function or with wildcards."""
    said = rule.container_img
    if isinstance(said, SifPath):
        return None if "{" in said.uri else _of_image(said)
    return None if callable(said) or "{" in str(said) else _of_url(str(said), dag)


def _of_image(said: SifPath) -> tuple[str, str, tuple[str, ...] | None]:
    return said.uri, os.path.abspath(str(said)), said.options


def _of_url(url: str, dag: Any) -> tuple[str, str, tuple[str, ...] | None]:
    from snakemake.deployment.singularity import Image

    image = Image(url, dag, False)
    path = os.path.abspath(str(image.path))
    return (path if image.is_local else url), path, None
