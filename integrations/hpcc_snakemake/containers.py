"""Images with options of their own, for the `container:` of a rule, which can only name a file.

    PREFIX/debian_12-<hash of URI and options>.hpcc.sif -> CACHE/sif-v1/<key>.sif
    PREFIX/debian_12-<hash of URI and options>.hpcc.json   the options, which hpcc's stand-in finds (hpcc.beside)

The Snakefile is read by each job again, on its node, and for dry runs, graphs and reports. So `image` itself pulls
nothing: what it returns is a path, and something that Snakemake 9 calls when it has made out which jobs there are.
Only then, in a run that executes them in containers, is the image pulled where it is missing. Snakemake 8 calls
nothing: there the image is pulled at once, if the command line says that jobs are going to be executed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from hpcc.beside import SUFFIX, path_beside, write_options
from hpcc.errors import CacheError, HpccError, UsageError, place_hint
from hpcc.progress import Progress
from hpcc_snakemake.options import option_words
from hpcc_snakemake.snakemakes import parse_snakemake, uses_containers

DEFAULT_PREFIX = ".snakemake/singularity"


def image(
    uri: str,
    *,
    compat: bool = False,
    contain: bool = False,
    containall: bool = False,
    cleanenv: bool = False,
    nv: bool = False,
    rocm: bool = False,
    binds: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
) -> SifPath:
    """The path of the local SIF of a docker:// URI, which hpcc runs with these options of `hpcc exec`.

    `uri` may have wildcards of the rule. binds: as for --bind; args: any other options, as words. Outside of Snakemake
    the image is pulled at once. Raises UsageError; HpccError.
    """
    if not uri.startswith("docker://"):
        raise UsageError(f"image({uri!r}): it takes docker:// URIs", hint="A file needs no image() around it.")
    flags = {
        "compat": compat, "contain": contain, "containall": containall, "cleanenv": cleanenv, "nv": nv, "rocm": rocm,
    }  # fmt: skip
    made = SifPath(uri, option_words(flags, binds, env or {}, args))
    if current_workflow() is not None and _calls_containers():
        return made
    if "{" in uri:
        raise UsageError(f"image({uri!r}): wildcards need Snakemake 9", hint="Name each image in a rule of its own.")
    if current_workflow() is None or _is_going_to_execute():
        made.fetch(str(made))
    return made


class SifPath(str):
    """The path, relative to the workflow's directory where the prefix is in it: Snakemake does not quote it.

    uri: the image; options: words for `hpcc exec`. Called with the wildcards of a job: the path for that job.
    """

    __slots__ = ("options", "uri")

    uri: str
    options: tuple[str, ...]

    def __new__(cls, uri: str, options: tuple[str, ...]) -> SifPath:
        made = super().__new__(cls, _path(uri, options))
        made.uri, made.options = uri, options
        return made

    def __call__(self, wildcards: Any) -> str:
        wanted = self.resolve(wildcards)
        if _executes_containers(current_workflow()):
            try:
                wanted.fetch(str(wanted))
            except HpccError as error:
                from snakemake.exceptions import WorkflowError

                raise WorkflowError(f"{error.message}\n{error.hint}".strip()) from None
        return str(wanted)

    def resolve(self, wildcards: Any) -> SifPath:
        """The same with the wildcards filled in."""
        if "{" not in self.uri:
            return self
        from snakemake.io import apply_wildcards

        return SifPath(str(apply_wildcards(self.uri, wildcards)), self.options)

    def fetch(self, path: str) -> None:
        """Have the image at `path`, with its options beside it; nothing is asked for where it is there. HpccError."""
        from hpcc.placing import IMAGE, look_at

        if look_at(path).kind == IMAGE and os.path.exists(path_beside(path)):
            return
        from hpcc.image import open_image
        from hpcc.placing import place_image
        from hpcc.settings import Settings

        self.prepare(path)
        settings, progress = Settings.from_environ(), _Lines(self.uri)
        opened = open_image(self.uri, settings, progress=progress)
        try:
            place_image(opened, path, settings, progress, replace=False, link=True)
        finally:
            os.close(opened.rootfs.fd)

    def prepare(self, path: str) -> None:
        """Have the options beside where the image is going to be. CacheError."""
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        except OSError as error:
            raise CacheError(f"cannot make {error.filename}: {error.strerror}", hint=place_hint(error)) from None
        write_options(path, self.options)


class _Lines(Progress):
    """Little, since the terminal is Snakemake's."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def stage(self, name: str, total: int = 0) -> None:
        sys.stderr.write(f"hpcc: {self._uri}: {name}\n")

    def warning(self, text: str) -> None:
        sys.stderr.write(f"hpcc: {self._uri}: {text}\n")


def _path(uri: str, options: tuple[str, ...]) -> str:
    seen = sha256("\0".join((uri, *options)).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", uri.rpartition("/")[2].partition("@")[0]).strip("._-")
    return os.path.join(_prefix(current_workflow()), f"{name or 'image'}-{seen}{SUFFIX}")


def _prefix(workflow: Any) -> str:
    settings = getattr(workflow, "deployment_settings", None)
    prefix = str(getattr(settings, "apptainer_prefix", None) or os.environ.get("APPTAINER_CACHEDIR") or DEFAULT_PREFIX)
    if re.search(r"[^\w@%+=:,./~-]", prefix):
        raise UsageError(
            f"the prefix {prefix!r} has characters that Snakemake does not quote",
            hint="Give another --apptainer-prefix, or none.",
        )
    return prefix


def current_workflow() -> Any:
    """Snakemake's workflow that is read or run in this process; None where there is none."""
    return getattr(sys.modules.get("snakemake.workflow"), "workflow", None)


def _executes_containers(workflow: Any) -> bool:
    """Whether jobs are executed in containers: no dry run, no graph, no report."""
    if workflow is None or workflow.executor_plugin is None or workflow.dryrun or workflow.touch:
        return False
    return uses_containers(workflow.deployment_settings.deployment_method)


def _calls_containers() -> bool:
    """Whether this Snakemake calls what stands in `container:`, as 9 does."""
    from snakemake.rules import Rule

    return hasattr(Rule, "expand_container_img")


_NO_EXECUTION = (
    "dryrun", "touch", "lint", "list_rules", "list_target_rules", "print_compilation", "containerize", "report",
    "generate_unit_tests", "dag", "rulegraph", "filegraph", "d3dag", "unlock", "cleanup_metadata",
    "conda_cleanup_envs", "conda_create_envs_only", "list_conda_envs", "cleanup_shadow", "container_cleanup_images",
    "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "summary", "detailed_summary",
    "archive", "delete_all_output", "delete_temp_output",
)  # fmt: skip


def _is_going_to_execute() -> bool:
    """By the command line, where Snakemake itself has not come to that yet."""
    try:
        arguments = parse_snakemake(sys.argv[1:])[1]
    except (HpccError, SystemExit):
        return True  # Snakemake was started by a program, not by its command line
    if not (arguments.use_apptainer or uses_containers(arguments.software_deployment_method)):
        return False
    return not any(getattr(arguments, name, None) for name in _NO_EXECUTION)
