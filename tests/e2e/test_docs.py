"""Each command of README, tutorial and how-to pages is run, as a plain user, in the order of the page, by one bash.

    ```sh        commands; each must end with 0
    ```console   `$ ` commands, `> ` goes on with one; each must end with 0, and what is shown below it, if anything,
                 is what it says, with … for anything

Registries are one fake, which answers as whatever host it is asked for: by a proxy and plain http. Before a block that
cannot be run here stands `<!-- not run: why -->`; NOT_RUN counts them, and their command lines must parse all the same.
"""

import gzip
import hashlib
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from hpcc.cli.demo_image import build_demo_layers
from hpcc.cli.pages import Page, page_of
from hpcc.registry.fake import FakeRegistry
from tests.support import installation
from tests.support.people import SYSTEM_PATH, Person
from tests.support.pulls import ARCHITECTURE

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/tutorial.md",
    *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs/howto").glob("*.md"))),
)
NOT_RUN = {
    "README.md": 1,
    "docs/tutorial.md": 2,
    "docs/howto/build.md": 1,
    "docs/howto/containers.md": 3,
    "docs/howto/dask.md": 1,
    "docs/howto/gpus.md": 1,
    "docs/howto/group-cache.md": 2,
    "docs/howto/moving.md": 1,
    "docs/howto/mpi.md": 1,
    "docs/howto/notebooks.md": 1,
    "docs/howto/private-registries.md": 1,
    "docs/howto/push.md": 2,
    "docs/howto/signing.md": 1,
    "docs/howto/slurm-administrators.md": 2,
    "docs/howto/sources.md": 1,
    "docs/howto/workflows.md": 2,
    "docs/howto/writes.md": 1,
}
"""Blocks of each page that are not run; `pytest -rP -k counted` names them, with the reason."""
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?```(?P<kind>sh|bash|console)\n(?P<body>.*?)^```$", re.M | re.S
)
_IMAGE = re.compile(
    r"docker://(?:(?:docker|quay|ghcr|nvcr|registry)\.(?:io|example)/)?([a-z0-9./_-]+?)(?::([\w.-]+))?(?=[\s'\"`;|&)]|$)"
)
_SLURM = re.compile(r"\b(srun|sbatch|salloc|hpcc slurm|slurm:)")


class Unit(NamedTuple):
    """A command of a page; `shown` is what the page says that it prints, None for nothing said."""

    line: int
    command: str
    shown: str | None


class Block(NamedTuple):
    page: str
    line: int
    why: str  # it is not run; "" where it is
    units: tuple[Unit, ...]


@cache
def blocks(page: str) -> tuple[Block, ...]:
    text = (ROOT / page).read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("body")) + 1
        units = _shown(match["body"], line) if match["kind"] == "console" else _plain(match["body"], line)
        found.append(Block(page, line, match["why"] or "", tuple(units)))
    return tuple(found)


def _plain(body: str, line: int) -> Iterator[Unit]:
    command = ""
    for number, text in enumerate(body.splitlines(), line):
        command += f"{text}\n"
        if text.strip() and _is_whole(command):
            yield Unit(number, command, None)
            command = ""
    assert not command.strip(), f"line {line}: no whole command: {command}"


def _shown(body: str, line: int) -> Iterator[Unit]:
    for part in re.finditer(r"^\$ (.*\n(?:^> ?.*\n)*)((?:^(?!\$ ).*\n)*)", body, re.M):
        number = line + body.count("\n", 0, part.start())
        yield Unit(number, re.sub(r"^> ?", "", part[1], flags=re.M), part[2] or None)


def _is_whole(command: str) -> bool:
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
    return done.returncode == 0 and not done.stderr and not command.endswith("\\\n")


# -- what the commands find ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[FakeRegistry]:
    """A registry that has each image which a command names, with Python and a shell in it."""
    layers = build_demo_layers().layers[:2]
    ids = [f"sha256:{hashlib.sha256(gzip.decompress(each)).hexdigest()}" for each in layers]
    with FakeRegistry(quota=1000, username="$oauthtoken", password="a-key") as registry:
        wanted = {("ratelimitpreview/test", "latest"), ("library/debian", "12")}
        for page in PAGES:
            for match in _IMAGE.finditer((ROOT / page).read_text()):
                wanted.add((match[1] if "/" in match[1] else f"library/{match[1]}", match[2] or "latest"))
        for name, tag in wanted:
            command = ["python3"] if "python" in name else ["bash"]
            config = {"architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": command},
                      "rootfs": {"type": "layers", "diff_ids": ids}}  # fmt: skip
            registry.add_image(name, tag, layers, config)
        yield registry


def settle(person: Person, directory: Path) -> None:
    """What the pages take for granted in the directory where one works: scripts, a workflow, some data."""
    (directory / "workflow").mkdir(parents=True)
    snakefile = (
        'rule all:\n    output: "all.txt"\n    container: "docker://debian:12"\n    shell: "echo done > {output}"\n'
    )
    for name in ("Snakefile", "workflow/Snakefile"):
        (directory / name).write_text(snakefile)
    (directory / "train.sh").write_text("#!/bin/sh\necho train $SLURM_ARRAY_TASK_ID\n")
    (directory / "train.sh").chmod(0o755)
    (directory / "tools.def").write_text("Bootstrap: docker\nFrom: debian:12\n%post\n    echo done >/done\n")
    (directory / "sbom.json").write_text("{}")
    (directory / "ngc-key").write_text("a-key")
    for path in (directory, *directory.rglob("*")):
        person.at(path)


@pytest.mark.parametrize("page", PAGES)
def test_page(
    page: str, plain_user: Person, world: FakeRegistry, open_dir: Path, request: pytest.FixtureRequest
) -> None:
    units = [unit for block in blocks(page) if not block.why for unit in block.units]
    if not units:
        return  # a page without commands, or all of them counted below
    text = "".join(unit.command for unit in units)
    installed = installation.install(("snakemake",) if "snakemake" in text else ("compress",))
    (open_dir / "home").mkdir(mode=0o700)
    person = plain_user.at(open_dir / "home")
    directory = person.home / "work"
    settle(person, directory)
    config = person.home / ".config/hpcc"
    config.mkdir(parents=True)
    (config / "config.toml").write_text("nohttps = true\n")
    for path in (config.parent, config):
        person.at(path)
    env = {"PATH": f"{installed.bin}:{SYSTEM_PATH}", "HPCC_HOLD_IDLE": "3"}
    env |= dict.fromkeys(("http_proxy", "HTTP_PROXY"), world.url) | dict.fromkeys(
        ("no_proxy", "NO_PROXY"), "none.example"
    )
    if _SLURM.search(text):
        env |= request.getfixturevalue("slurm").env | {"PATH": env["PATH"]}
    given = person.run([installed.hpcc, "pull", "image.sif", "docker://debian:12"], env=env, cwd=directory)
    assert given.returncode == 0, given.stderr
    shutil.copy(directory / "image.sif", directory / "tools.sif")
    person.at(directory / "tools.sif")
    notes = open_dir / "notes"
    notes.mkdir()
    person.at(notes)
    script = []
    for number, unit in enumerate(units):
        (notes / f"{number}.sh").write_text(unit.command)
        script.append(f". {notes}/{number}.sh >{notes}/{number}.out 2>&1 </dev/null; echo $? >{notes}/{number}.status")
    done = person.run(["bash", "-c", "\n".join(script)], env=env, cwd=directory, timeout=200)
    wrong = [said for number, unit in enumerate(units) if (said := _wrong(page, unit, notes, number))]
    assert not wrong, "\n\n".join([*wrong, done.stdout, done.stderr])


def _wrong(page: str, unit: Unit, notes: Path, number: int) -> str:
    where = f"{page}:{unit.line}: {unit.command.strip()}"
    status = notes / f"{number}.status"
    if not status.exists():
        return f"{where}\n    was never reached"
    out = (notes / f"{number}.out").read_text(errors="replace")
    if status.read_text().strip() != "0":
        return f"{where}\n    ended with {status.read_text().strip()}: {out[-800:]}"
    if unit.shown is not None and not _looks_like(out, unit.shown):
        return f"{where}\n    said: {out[-800:]}\n    and not: {unit.shown}"
    return ""


def _looks_like(said: str, shown: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("…"))
    return re.fullmatch(pattern, said.strip(), re.S) is not None


# -- what cannot be run here -----------------------------------------------------------------------------------


def test_what_is_not_run_is_counted() -> None:
    left = [block for page in PAGES for block in blocks(page) if block.why]
    for block in left:
        print(f"{block.page}:{block.line}: {block.why}")
        assert len(block.why.split()) > 3, f"{block.page}:{block.line} does not say why it is not run"
    assert Counter(block.page for block in left) == NOT_RUN


@pytest.mark.parametrize("page", PAGES)
def test_each_command_line_parses(page: str) -> None:
    for block in blocks(page):
        for unit in block.units:
            for words in _commands(unit.command):
                assert not (said := _unknown(words)), f"{page}:{unit.line}: {said}"


def _commands(text: str) -> Iterator[list[str]]:
    """The words behind each `hpcc` in a command of a shell."""
    lexer = shlex.shlex(text.replace("$(", " ( ").replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] | None = None
    before = ""
    for word in lexer:
        if word and set(word) <= set("();<>|&\n"):
            if words is not None:
                yield words
            words = None
        elif word == "hpcc" and words is None and before != "dask":  # `dask hpcc …` is a command of Dask's
            words = []
        elif words is not None:
            words.append(word)
        before = word
    if words is not None:
        yield words


@cache
def _page(*words: str) -> Page | None:
    return page_of(words)


def _unknown(words: list[str]) -> str:
    """What is wrong with the words; "" for nothing."""
    rest = [word for word in words if word not in ("--quiet", "--debug", "--verbose")]
    page = _page()
    assert page is not None
    while page.subcommands and rest and not rest[0].startswith("-"):
        below = _page(*page.words, rest[0])
        if below is None or rest[0] not in dict(page.subcommands):
            return f"no such command: {page.name} {rest[0]}"
        page, rest = below, rest[1:]
    if page.words[:1] == ("slurm",) or "SNAKEMAKE-ARGUMENTS" in page.usage or not page.options:
        return ""  # options of others are among them
    names = {name: option.value for option in page.options for name in option.names}
    while rest:
        word = rest.pop(0)
        if word == "--" or (not word.startswith("-") and "[ARG…]" in page.usage):
            return ""
        name = word.partition("=")[0] if word.startswith("--") else word[:2]
        if word.startswith("-") and word != "-":
            if name not in names:
                return f"{page.name} has no option {word}"
            if names[name] and "=" not in word and word == name:
                if not rest:
                    return f"{page.name} {word} needs a value"
                rest.pop(0)
    return ""
