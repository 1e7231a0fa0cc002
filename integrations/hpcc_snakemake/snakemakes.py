"""The Snakemake that is installed beside hpcc: its command line, read by its own parser with profiles and all."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from hpcc.errors import UsageError


def parse_snakemake(argv: Sequence[str]) -> tuple[Any, Any]:
    """Snakemake's parser, and what it makes of `argv`. Its own complaints go to stderr, with its exit status
    (SystemExit), as its --help and --version. UsageError for what it says by an exception.
    """
    from snakemake import cli

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # which profiles it uses, which it says when it runs
            parser, arguments = cli.parse_args(list(argv))
    except SystemExit:
        sys.stderr.write(said.getvalue())
        raise
    except Exception as error:  # its own are of several kinds; one that cannot read a profile is ConfigArgParse's
        raise UsageError(f"snakemake: {error}", hint="`snakemake --help` lists its options.") from error
    return parser, arguments


def uses_containers(methods: Iterable[Any] | None) -> bool:
    """Whether apptainer is among software deployment methods."""
    return any(method.name == "APPTAINER" for method in methods or ())


def with_options(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Snakemake's command line with more options, which come last, so that they count."""
    at = argv.index("--") if "--" in argv else len(argv)
    return [*argv[:at], *options, *argv[at:]]


def command() -> list[str]:
    """The argv that begins its command line: its script beside the interpreter; else without taking a file of the
    working directory for the package (-P).
    """
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "snakemake")
    return [beside] if os.access(beside, os.X_OK) else [os.path.abspath(sys.executable), "-P", "-m", "snakemake"]
