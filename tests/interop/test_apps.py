"""SCIF apps of an image that Apptainer has built, without root: the same command lines by it and by hpcc."""

import json
from pathlib import Path

import pytest

from tests.interop.conftest import Pulled, Tool
from tests.interop.test_side_by_side import observed
from tests.support.peers import apptainer
from tests.support.people import Person

DEFINITION = """
Bootstrap: localimage
From: {base}

%environment
    GLOBAL=of-the-image
    export GLOBAL

%runscript
    echo image "$@"

%apprun foo
    echo "foo runs: $FOO_SET $GLOBAL" "$@"
    exit 3

%appenv foo
    FOO_SET="set by foo"
    export FOO_SET

%applabels foo
    VERSION 1.0

%appinstall foo
    mkdir -p bin lib
    printf '#!/bin/sh\\necho tool of $SCIF_APPNAME\\n' > bin/footool
    chmod 755 bin/footool

%apphelp foo
    The help of foo

%appinstall bar
    touch here
"""
VARIABLES = "env | grep -e ^SCIF -e APPNAME=. -e FOO -e GLOBAL | sort; echo $PATH; echo $LD_LIBRARY_PATH"
LINES = {
    "run": ["run", "--app", "foo", "{image}", "a b", "$HOME", ""],
    "run-without-app": ["run", "{image}", "a"],
    "exec-tool": ["exec", "--app", "foo", "{image}", "footool"],
    "exec-variables": ["exec", "--app", "foo", "{image}", "sh", "-c", VARIABLES],
    "exec-variables-without-app": ["exec", "{image}", "sh", "-c", VARIABLES],
    "exec-other": ["exec", "--app", "bar", "{image}", "sh", "-c", VARIABLES],
    "exec-clean": ["exec", "--cleanenv", "--app", "foo", "{image}", "sh", "-c", VARIABLES],
    "exec-compat": ["exec", "--compat", "--app", "foo", "{image}", "sh", "-c", VARIABLES],
    "exec-env": ["exec", "--app", "foo", "--env", "FOO_SET=mine,PATH=/bin:/usr/bin", "{image}", "sh", "-c", VARIABLES],
    "exec-cwd": ["exec", "--app", "foo", "{image}", "pwd"],
    "list-apps": ["inspect", "--list-apps", "{image}"],
    "inspect": ["inspect", "--app", "foo", "{image}"],
    "inspect-runscript": ["inspect", "--app", "foo", "--runscript", "{image}"],
    "inspect-environment": ["inspect", "--app", "foo", "--environment", "{image}"],
    "inspect-nothing": ["inspect", "--app", "bar", "--runscript", "{image}"],
}


@pytest.fixture(scope="module")
def image(pulled: Pulled, plain_user: Person) -> Path:
    """Built by the unprivileged user; everybody may read it."""
    definition, made = plain_user.home / "apps.def", plain_user.home / "apps.sif"
    definition.write_text(DEFINITION.format(base=pulled.ours / "plain.sif"))
    definition.chmod(0o644)
    done = apptainer(["build", "--force", made, definition], plain_user)
    assert done.returncode == 0, done.stderr
    path = pulled.theirs / "apps.sif"
    path.write_bytes(made.read_bytes())
    return path


@pytest.mark.parametrize("line", LINES)
def test_the_same(image: Path, hpcc: Tool, runs_as: Person, line: str) -> None:
    argv = [word.format(image=image) if word == "{image}" else word for word in LINES[line]]
    ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
    assert theirs.returncode in (0, 3), theirs.stderr
    assert observed(ours) == observed(theirs), ours.stderr + theirs.stderr


def test_a_shell(image: Path, hpcc: Tool, runs_as: Person) -> None:
    for tool in (hpcc, apptainer):
        done = tool(["shell", "--app", "foo", image], runs_as, input="echo $FOO_SET; footool; exit 5\n")
        assert (done.returncode, done.stdout) == (5, "set by foo\ntool of foo\n"), done.stderr


@pytest.mark.parametrize("flags", [[], ["--labels", "--runscript", "--environment"]], ids=str)
def test_json(image: Path, hpcc: Tool, runs_as: Person, flags: list[str]) -> None:
    for argv in (["inspect", "--json", "--app", "foo", *flags, image], ["inspect", "--json", "--list-apps", image]):
        ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
        assert json.loads(ours.stdout) == json.loads(theirs.stdout)


def test_known_differences(image: Path, hpcc: Tool, runs_as: Person) -> None:
    """An app that is not there: Apptainer's scripts end with 1, hpcc with 255, as for whatever is not in an image; and
    of inspect with its name Apptainer shows nothing, and succeeds."""
    for argv in (
        ["run", "--app", "nope", image],
        ["exec", "--app", "nope", image, "true"],
        ["run", "--app", "bar", image],
    ):
        ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
        assert (ours.returncode, theirs.returncode) == (255, 1) and ours.stdout == ""
    ours, theirs = (
        hpcc(["inspect", "--app", "nope", image], runs_as),
        apptainer(["inspect", "--app", "nope", image], runs_as),
    )
    assert (ours.returncode, theirs.returncode, theirs.stdout) == (255, 0, "")
