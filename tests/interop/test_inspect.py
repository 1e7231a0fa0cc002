"""inspect of SIFs that Apptainer built from definition files, and of those that each pulled: the same text."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person

DEFINITION = """Bootstrap: localimage
From: {base}

%help
    Some <help> & more
    in two lines
%test
    exit 0
%runscript
    echo "running $@"
%startscript
    echo start
%environment
    export FOO=bar
%labels
    Author somebody
%apphelp one
    help of one
%apprun one
    exec echo one
%applabels one
    L one
%appenv one
    export ONE=1
%apptest one
    exit 0
%appinstall two
    echo two
%apprun two
    exec echo two
"""
FLAGS = (
    "", "-l", "-d", "-r", "-s", "-t", "-e", "-H", "--labels --deffile", "-r -t", "-l -d -r -s -t -e -H", "-j", "-jl",
    "-j --test --startscript --helpfile", "-jdre", "--all", "--list-apps", "--list-apps --json",
)  # fmt: skip
OF_APP = ("", "-l", "-r", "-e", "-t", "-H", "-s", "-j", "-jr", "-jetH", "--all", "-d")


@pytest.fixture(scope="module")
def built(pulled: Pulled, plain_user: Person) -> Iterator[Path]:
    home = plain_user.home / "inspect"
    home.mkdir()
    os.chown(home, plain_user.uid, plain_user.gid)
    definition = home / "image.def"
    definition.write_text(DEFINITION.format(base=pulled.theirs / "plain.sif"))
    done = apptainer(["build", home / "image.sif", definition], plain_user)
    assert done.returncode == 0, done.stderr
    yield home / "image.sif"


@pytest.mark.parametrize("image", ["built", "ours/words", "theirs/words", "theirs/nothing"])
def test_inspect(image: str, built: Path, pulled: Pulled, hpcc: Tool, plain_user: Person) -> None:
    path = built if image == "built" else pulled.ours.parent / f"{image}.sif"
    cases = [flags.split() for flags in FLAGS]
    if image == "built":
        cases += [["--app", "one", *flags.split()] for flags in OF_APP]
        cases += [["--app", "two", *flags.split()] for flags in OF_APP]
    for flags in cases:
        ours, theirs = (tool(["inspect", *flags, path], plain_user) for tool in (hpcc, apptainer))
        assert theirs.returncode == 0, theirs.stderr
        assert (ours.returncode, ours.stdout) == (0, theirs.stdout), (flags, ours.stderr)


def test_of_files_alone(built: Path, hpcc: Tool, plain_user: Person) -> None:
    """A sandbox has no metadata beside its files, and says the same."""
    sandbox = built.parent / "sandbox"
    done = apptainer(["build", "--sandbox", sandbox, built], plain_user)
    assert done.returncode == 0, done.stderr
    for flag in ("--test", "--startscript", "--helpfile", "--runscript", "--deffile"):
        ours, theirs = (tool(["inspect", flag, sandbox], plain_user) for tool in (hpcc, apptainer))
        assert ours.returncode == theirs.returncode == 0, (ours.stderr, theirs.stderr)
        assert ours.stdout.strip() == theirs.stdout.strip(), flag
