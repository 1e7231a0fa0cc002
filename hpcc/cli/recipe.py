"""hpcc recipe: a Dockerfile as a definition file."""

import os
import sys

from hpcc.cli import say
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.errors import InvalidDefinition, UsageError
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "recipe [OPTIONS] DOCKERFILE [OUT]",
    "Translate a Dockerfile into a definition file, to stdout or into OUT. What has no counterpart is said.",
    (Option(("-F", "--force"), "replace OUT if it is there"),),
    "hpcc recipe Dockerfile tools.def\nhpcc build tools.sif tools.def",
)
MOST = 16 << 20


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if not 1 <= len(arguments.positional) <= 2:
        raise usage_error(COMMAND, "recipe needs a Dockerfile")
    path, *out = arguments.positional
    load_site_packages()
    from hpcc.definition.recipe import translate

    try:
        with open(path, "rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MOST or b"\0" in data:
        raise InvalidDefinition(f"{path} is no Dockerfile", hint="It is text, of FROM, RUN and their like.")
    directory = os.path.dirname(path)
    recipe = translate(
        data.decode("utf-8", "surrogateescape"), path, lambda each: os.path.isdir(os.path.join(directory, each))
    )
    for warning in recipe.warnings if not (arguments.quiet or arguments.silent) else ():
        say("WARNING", warning)
    text = recipe.text.encode("utf-8", "surrogateescape")
    if not out:
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        return 0
    from hpcc.copy import new_file

    with new_file(out[0], replace=arguments.force, mode=0o644) as file:
        file.write(text)
    return 0
