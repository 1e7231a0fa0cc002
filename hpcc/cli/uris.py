"""The images that a text names: a Snakefile, a script, a configuration, or a list of names."""

import re
import sys
from collections.abc import Iterator

from hpcc.errors import InvalidReference, UsageError
from hpcc.oci.reference import Reference
from hpcc.progress import Progress

# What may stand in a URI; and then what shows that a program puts it together: f"docker://lab/{tool}", "…:" + version
_URI = re.compile(r"""docker://([\w./:@\[\]-]*)(["']\s*[+%]|[{$%<*])?""", re.ASCII)
_STOPS = ".,:;-_/@"  # no URI ends with one of these; a sentence may
_ENDS = ("", " ", "\t", ")", ",", ";")


def read_references(path: str, progress: Progress) -> list[Reference]:
    """What a file names, or stdin for `-`: its docker:// URIs, wherever they stand; where it has none, a name a line.

    UsageError where it cannot be read, names nothing, or has a line that is no name. Warns of URIs that are not whole.
    """
    try:
        if path == "-":
            path, data = "stdin", sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="-f FILE, or -f - for stdin.") from None
    lines = data.decode("utf-8", "replace").splitlines()
    found = []
    if any("docker://" in line for line in lines):
        for number, line in enumerate(lines, 1):
            for text, whole in find_uris(line):
                if whole:
                    found.append(_parse(text, path, number))
                else:
                    progress.warning(f"{path}:{number}: {text}… is only a part; give the images that it stands for")
        return found
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise UsageError(f"{path} has no docker:// URI, and line {number} is no name", hint="One name a line.")
        found += [_parse(word, path, number) for word in words]
    if not found:
        raise UsageError(f"{path} names no image", hint="It should have docker:// URIs, or names, one a line.")
    return found


def find_uris(line: str) -> Iterator[tuple[str, bool]]:
    """The docker:// URIs in a line of any language, and whether each is whole or a part of an expression.

    A part is never guessed at: of `"docker://debian:" + version` nobody wants debian:latest.
    """
    for match in _URI.finditer(line):
        name, goes_on = match.groups()
        bare = name.rstrip(_STOPS)
        if "[" not in bare:
            bare = bare.rstrip("]" + _STOPS)  # [docker://debian]; the others belong to an address
        ended = line[match.end(1) :][:1] in _ENDS
        whole = bool(bare) and not goes_on and (ended or bare == name.rstrip("]"))
        if bare or goes_on or not ended:  # else prose about "docker://"
            yield f"docker://{bare if whole else name}", whole


def _parse(text: str, path: str, number: int) -> Reference:
    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise UsageError(f"{path}:{number}: {error.message}", hint=error.hint) from None
