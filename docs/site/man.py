"""Man pages: hpcc.1, hpcc-run.1, hpcc-cache-gc.1 … of what `--help` says, in man(7).

python docs/site/man.py DIR
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "integrations")]

from hpcc.cli.pages import Page, all_pages  # noqa: E402
from hpcc.version import __version__  # noqa: E402

_STATUS = ("0", "done"), ("75", "the same command may succeed later, as where a registry's quota is spent"), (
    "255", "hpcc itself failed"), ("any other", "of run, exec and shell: the payload's own")  # fmt: skip


def man_page(page: Page, known: set[str]) -> str:
    """`known`: the names of all pages, of which those that belong together name each other."""
    name = page.name.replace(" ", "-")
    about = dict(page.subcommands)
    lines = [
        f'.TH {name.upper()} 1 "" "hpcc {__version__}" "hpcc"',
        ".SH NAME", f"{_text(name)} \\- {_text(_sentence(page))}",
        ".SH SYNOPSIS", ".B hpcc", _text(page.usage), ".SH DESCRIPTION", _text(page.summary),
    ]  # fmt: skip
    if page.subcommands:
        lines.append(".SH COMMANDS")
        for word, summary in about.items():
            lines += [".TP", f".B {_text(word)}", _text(summary)]
    if page.options:
        lines.append(".SH OPTIONS")
        for option in page.options:
            names = ", ".join(f"\\fB{_text(each)}\\fR" for each in option.names)
            lines += [".TP", names + (f" \\fI{_text(option.value)}\\fR" if option.value else ""), _text(option.help)]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUS:
        lines += [".TP", f".B {status}", meaning]
    lines += [".SH EXAMPLES", ".nf", *(_text(line) for line in page.example.splitlines()), ".fi", ".SH SEE ALSO"]
    above = {" ".join(("hpcc", *page.words[:-1]))} if page.words else set()
    below = {f"{page.name} {word}" for word in about}
    related = sorted((above | below) & known)
    lines += [f".BR {_text(each.replace(' ', '-'))} (1){',' if each != related[-1] else ''}" for each in related]
    return "\n".join(lines) + "\n"


def _sentence(page: Page) -> str:
    first = page.summary.partition(". ")[0].partition(": ")[0].rstrip(".:")
    return first[:1].lower() + first[1:]


def _text(text: str) -> str:
    """Escaped: backslashes, hyphens that are to be copied, and what would be a request at the beginning of a line."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def write(directory: Path) -> list[Path]:
    """Write all pages; their paths."""
    pages = list(all_pages())
    known = {page.name for page in pages}
    directory.mkdir(parents=True, exist_ok=True)
    found = []
    for page in pages:
        found.append(directory / f"{page.name.replace(' ', '-')}.1")
        found[-1].write_text(man_page(page, known))
    return found


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} man pages in {sys.argv[1]}")
