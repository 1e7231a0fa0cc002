"""What `--help` says of each command, taken apart: for completion, man pages and the reference on the site.

The text that users read is the one source, so that an integration's command is in all of them without doing anything.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout

from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Entry(NamedTuple):
    """An option: all its names, the name of its value ("" of a flag), what it does."""

    names: tuple[str, ...]
    value: str
    help: str


class Page(NamedTuple):
    """A command's help. `words`: its name, ("cache", "gc"), () of hpcc itself. subcommands: (name, what it does)."""

    words: tuple[str, ...]
    usage: str
    summary: str
    options: tuple[Entry, ...]
    subcommands: tuple[tuple[str, str], ...]
    example: str
    text: str

    @property
    def name(self) -> str:
        return " ".join(("hpcc", *self.words))


_OPTION = re.compile(r"  (-[^\s,]+(?:, -[^\s,]+)*)(?: (\S.*?))?(?: {2,}(\S.*))?$")
_SUBCOMMAND = re.compile(r"  ([a-z][\w-]*) +(\S.*)$")


def read_page(words: Sequence[str], text: str) -> Page:
    """Take a help text apart, in the form of `arguments.help_text`, of `group.dispatch` or of `hpcc --help`. Pure."""
    usage, summary, example = "", [], []
    options: list[Entry] = []
    subcommands: list[tuple[str, str]] = []
    section = "summary"
    for line in text.splitlines():
        if line.startswith("Usage: "):
            usage = line.removeprefix("Usage: ").removeprefix("hpcc ")
        elif line.startswith("Of integrations: "):
            subcommands += [(name, "of an integration") for name in line.partition(": ")[2].split(", ")]
        elif line == "Options:":
            section = "options"
        elif line.endswith("Example:"):
            section = "example"
        elif section == "example":
            example.append(line.removeprefix("  "))
        elif section == "options" and line.startswith(" " * 28) and options:
            options[-1] = options[-1]._replace(help=f"{options[-1].help} {line.strip()}".strip())
        elif section == "options" and (found := _OPTION.match(line)):
            options.append(Entry(tuple(found[1].split(", ")), found[2] or "", found[3] or ""))
        elif section == "summary" and (found := _SUBCOMMAND.match(line)):
            subcommands.append((found[1], found[2]))
        elif section == "summary" and line:
            summary.append(re.sub(r" ?Subcommands:$|^Commands:$", "", line))
    about = " ".join(line for line in summary if line)
    return Page(tuple(words), usage, about, tuple(options), tuple(subcommands), "\n".join(example).strip(), text)


def page_of(words: Sequence[str]) -> Page | None:
    """The page of a command; None of one that is not there, or whose integration needs what is not installed."""
    from hpcc.cli import main

    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            status = main([*words, "--help"])
    except SystemExit as ended:
        status = 0 if ended.code in (0, None) else 1
    return read_page(words, out.getvalue()) if status == 0 else None


def all_pages(words: tuple[str, ...] = ()) -> Iterator[Page]:
    """This command's page, then those of all below it."""
    page = page_of(words)
    if page is not None:
        yield page
        for name, _ in page.subcommands:
            yield from all_pages((*words, name))
