"""Help texts, and what is read from them: each command of hpcc and of its integrations."""

from itertools import takewhile

import pytest

from hpcc.cli.arguments import Command, Option, help_text
from hpcc.cli.completion import answer_of
from hpcc.cli.pages import Entry, Page, all_pages, read_page

PAGES = {page.name: page for page in all_pages()}


def test_all_are_there() -> None:
    for name in (
        "hpcc exec",
        "hpcc cache gc",
        "hpcc sif setprim",
        "hpcc slurm sbatch",
        "hpcc snakemake run",
        "hpcc module",
    ):
        assert name in PAGES
    assert len(PAGES) > 70


@pytest.mark.parametrize("name", PAGES)
def test_has_an_example_in_80_columns(name: str) -> None:
    page = PAGES[name]
    assert page.example, f"`{name} --help` has no example"
    assert page.usage and page.summary
    assert [line for line in page.text.splitlines() if len(line) > 80] == []


def test_what_is_written_is_read() -> None:
    options = (
        Option(("-x", "--exact"), "a flag"),
        Option(
            ("--a-name-that-is-long", "--other"), "its text goes on and on, until it needs more than one line", "A B"
        ),
        Option(("--pull",), "with a value", "WHEN[:N]", many=True),
    )
    command = Command("do [OPTIONS] IMAGE", "What it does, in a sentence.", options, "hpcc do x\nhpcc do y")
    page = read_page(("do",), help_text(command))
    assert page[:3] == (("do",), command.usage, command.summary) and page.example == command.example
    assert page.options[:3] == tuple(Entry(option.names, option.value, option.help) for option in options)
    assert page.options[-1] == Entry(("-h", "--help"), "", "this text")


def page(usage: str, *options: Entry) -> Page:
    words = tuple(takewhile(lambda word: word.isalpha() and word.islower(), usage.split()))
    return Page(words, usage, "", options, (), "", "")


def test_what_may_stand_where() -> None:
    pull = Entry(("--pull",), "WHEN", "when: missing, newer (default), always, never")
    options = (Entry(("-B", "--bind"), "SRC[:DEST]", ""), Entry(("--nv",), "", ""), pull)
    run = page("exec [OPTIONS] IMAGE COMMAND [ARG…]", *options)
    assert answer_of(run, [], "").images and answer_of(run, ["--nv"], "x").kind == "files"
    assert answer_of(run, ["--bind"], "").kind == "files" and not answer_of(run, ["--bind"], "").images
    assert [word for word, _ in answer_of(run, [], "-").words] == ["-B", "--bind", "--nv", "--pull"]
    assert [word for word, _ in answer_of(run, ["--pull"], "").words] == ["missing", "newer", "always", "never"]
    assert answer_of(run, [], "--pull=n").words == answer_of(run, ["--pull"], "").words
    behind = answer_of(run, ["--bind", "/a", "image.sif", "ls", "--pull"], "-")
    assert behind.kind == "files" and not behind.words  # all of that is the payload's
    shim = page("shim enable|disable [--dir DIR]", Entry(("--dir",), "DIR", ""))
    assert [word for word, _ in answer_of(shim, [], "").words] == ["enable", "disable"]
    assert answer_of(shim, ["--dir"], "").kind == "dirs" and answer_of(shim, ["enable"], "").words == ()
    assert answer_of(page("sif info [--json] ID FILE"), ["1"], "").kind == "files"
    assert any(word == "ttl" for word, _ in answer_of(page("config [--json] [NAME]"), [], "").words)
