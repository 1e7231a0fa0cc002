"""What a workflow says of an image, as options of `hpcc exec`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcc.cli.arguments import parse
from hpcc.cli.run import COMMANDS
from hpcc.errors import UsageError
from hpcc.runtime.binds import parse_bind, split_binds


def option_words(
    flags: Mapping[str, bool], binds: Sequence[str], env: Mapping[str, str], args: Sequence[str]
) -> tuple[str, ...]:
    """`flags` by the options' names with underscores; sorted, so that the same options are the same words.

    UsageError for what `hpcc exec` would not take, said where the workflow is written and not where it runs.
    """
    words = [f"--{name.replace('_', '-')}" for name, given in sorted(flags.items()) if given]
    for bind in [binds] if isinstance(binds, str) else binds:
        for text in split_binds(bind):
            parse_bind(text, "/")
        words += ["--bind", bind]
    for name, value in sorted(env.items()):
        words += ["--env", _pair(name, str(value))]
    if isinstance(args, str):
        raise UsageError(f"args must be a list of options, not {args!r}", hint='args=["--no-home"]')
    words += args
    if "--" in words or "--help" in words or parse(COMMANDS["exec"], words).positional:
        raise UsageError(f"args {list(args)!r}: these are not all options", hint='As in args=["--no-home", "--pid"]')
    return tuple(words)


def _pair(name: str, value: str) -> str:
    if not name.isidentifier():
        raise UsageError(f"env: {name!r} is no name of a variable")
    for part in value.split(",")[1:]:  # of --env A=1,B=2 hpcc and Apptainer make two
        if part.partition("=")[0].isidentifier() and "=" in part:
            raise UsageError(f"env: the value of {name} looks like two variables: {value!r}", hint="Use a file: args.")
    return f"{name}={value}"
