"""Writing to stdout so that what it does not take is said once, and nothing is left for the interpreter's end."""

import os
import sys

from hpcc.errors import CacheError, place_hint


def write(data: bytes) -> None:
    """BrokenPipeError when nobody reads any more, CacheError for a full disk or a stdout that is closed."""
    if sys.stdout is None:  # descriptor 1 may be a file of ours by now
        raise CacheError("cannot write to stdout: it is closed", hint="Choose a place where you may write.")
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CacheError(f"cannot write to stdout: {error.strerror}", hint=place_hint(error)) from None


def write_lines(lines: list[str]) -> None:
    """What comes from a SIF may be anything; no terminal shall take it for commands."""
    text = "".join(f"{''.join(map(_printable, line))}\n" for line in lines)
    write(text.encode(sys.stdout.encoding if sys.stdout else "ascii", "backslashreplace"))


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
