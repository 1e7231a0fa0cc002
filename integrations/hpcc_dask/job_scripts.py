"""Jobs of dask-jobqueue whose workers run in an image: the text of their scripts.

    #!/usr/bin/env bash
    #SBATCH …                                      as dask-jobqueue writes them
    export HPCCENV_NAME='a value'
    …                                              job_script_prologue, as it is
    exec /…/hpcc exec --job-env … -- /…/IMAGE.sif python3 -m distributed.cli.dask_worker tcp://… …

exec: the queue's signals reach the worker itself, and no shell between the two dies without it.

Dask-jobqueue puts words together with nothing but blanks, so they are quoted here. What the job's shell is to expand
all the same is a variable or a ~ at the beginning of a path, as in local_directory="$TMPDIR/dask".
"""

from __future__ import annotations

import copy
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dask.config

from hpcc.errors import UsageError
from hpcc_dask.command import Container, python_words, quoted, variables
from hpcc_dask.images import explained
from hpcc_dask.queues import HTCondorJob, LSFJob, OARJob, PBSJob, SGEJob, SLURMJob
from hpcc_dask.walltime import lifetime_words, seconds

_EXPANDED = re.compile(r"(~|\$\w+|\$\{\w+\})(?=/|$)")
_PLAIN = re.compile(r"[\w.,:=+@%/-]*")  # what a directive line carries without quotes
_TLS = {"ca_file": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}


class JobImage:
    """The image of a cluster's jobs, which is pinned before the first of them: path is "" until then."""

    def __init__(self, uri: str, container: Container) -> None:
        self.uri, self.container, self.path = uri, container, ""


class InImage:
    """Beside a Job class of dask-jobqueue, before it: its worker runs in `image`.

    lifetime: Dask's text or seconds; "auto": below the walltime; None or False: none. The rest as dask-jobqueue has it.
    """

    forms = "ss"  # of a walltime: walltime.seconds
    _job_script_prologue: list[str]

    def __init__(
        self, scheduler: Any = None, name: Any = None, *, image: JobImage, lifetime: Any = "auto", **kwargs: Any
    ) -> None:
        config = kwargs.get("config_name") or type(self).default_config_name()  # type: ignore[attr-defined]

        def value(key: str) -> Any:
            given = kwargs.get(key)
            return dask.config.get(f"jobqueue.{config}.{key.replace('_', '-')}", None) if given is None else given

        for key in ("job_name", "log_directory"):
            _require_plain(key, value("name" if key == "job_name" and kwargs.get(key) is None else key))
        _require_plain("name", name)
        container, local = image.container, value("local_directory")
        if local:
            kwargs["local_directory"] = shell_word(os.fspath(local))
            if not _EXPANDED.match(os.fspath(local)):
                container = container._replace(writable=(*container.writable, os.fspath(local)))
        if kwargs.get("security"):
            files, kwargs["security"] = _quoted_security(kwargs["security"])
            fixed = tuple(f"{quoted(each)}:{quoted(each)}:ro" for each in files if not _EXPANDED.match(each))
            if container.contain or container.compat:
                container = container._replace(binds=(*container.binds, *fixed))
        extra = [*_words(value("worker_extra_args") or ())]
        if lifetime and "--lifetime" not in extra:
            extra += self._lifetime(lifetime, value("walltime"))
        kwargs["worker_extra_args"] = [shlex.quote(word) for word in extra]
        kwargs["job_script_prologue"] = [*_exports(variables(container)), *(value("job_script_prologue") or ())]
        kwargs["python"] = "exec " + shlex.join(python_words(container, image.path or f"<{image.uri}>"))
        super().__init__(scheduler=scheduler, name=name, **kwargs)  # type: ignore[call-arg]

    def _lifetime(self, lifetime: Any, walltime: Any) -> list[str]:
        if lifetime != "auto":
            return ["--lifetime", str(lifetime)]
        try:
            limit = seconds(walltime, self.forms) if walltime else None
        except UsageError as error:
            raise explained(error) from None
        return [] if limit is None else lifetime_words(limit)

    @contextmanager
    def job_file(self) -> Iterator[str]:
        """The script as a file that others cannot read: variables may be secrets."""
        with tempfile.NamedTemporaryFile("w", suffix=".sh", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self.job_script())  # type: ignore[attr-defined]
            file.flush()
            yield file.name


class SLURM(InImage, SLURMJob):
    forms = "mm"


class PBS(InImage, PBSJob):
    forms = "sm"


class LSF(InImage, LSFJob):
    forms = "mh"


class SGE(InImage, SGEJob):
    forms = "sm"


class OAR(InImage, OARJob):
    forms = "hh"


class HTCondor(InImage, HTCondorJob):
    def job_script(self) -> str:
        """HTCondor has macros, $(NAME), in what it passes on; this is how a $ is written there."""
        script = str(super().job_script())
        head, mark, arguments = script.partition('\nArguments = "')
        line, end, rest = arguments.partition("\n")
        return head + mark + line.replace("$", "$(DOLLAR)") + end + rest


def shell_word(path: str) -> str:
    """A path for a shell: a ~ or a variable at its beginning is expanded, nothing else."""
    found = _EXPANDED.match(path)
    if not found:
        return shlex.quote(path)
    rest = path[found.end() :]
    begin = found[1] if found[1] == "~" else f'"{found[1]}"'
    return begin + (f"/{shlex.quote(rest[1:])}" if rest[1:] else rest)


def _words(given: Sequence[str]) -> Iterator[str]:
    """Options of Dask's worker: `--name value` in one string, as its documentation has it, is two words."""
    if isinstance(given, str):
        raise explained(UsageError(f"worker_extra_args={given!r}: a list of strings is wanted"))
    for word in map(str, given):
        option, blank, value = word.partition(" ")
        yield from (option, value) if blank and word.startswith("-") and "=" not in option else (word,)


def _exports(values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        if "\n" in value or "\r" in value:
            raise explained(
                UsageError(
                    f"env: {name.removeprefix('HPCCENV_')} has more than one line, which not every job script can have",
                    hint="Put it into a file, and bind that.",
                )
            )
        yield f"export {name}={shlex.quote(value)}"


def _quoted_security(security: Any) -> tuple[list[str], Any]:
    """The files that a worker reads, and a copy of Dask's Security with those as words for a shell."""
    config, made, files = security.get_tls_config_for_role("worker"), copy.copy(security), []
    for key, attribute in _TLS.items():
        if config.get(key):
            files.append(config[key])
            setattr(made, attribute, shell_word(config[key]))
    return files, made


def _require_plain(name: str, value: Any) -> None:
    if value is not None and not _PLAIN.fullmatch(str(value)):
        raise explained(
            UsageError(
                f"{name}={str(value)!r}: it stands in directives of the job's script, which know no quotes",
                hint="Letters, digits and . _ - / , : = + @ % are good.",
            )
        )
