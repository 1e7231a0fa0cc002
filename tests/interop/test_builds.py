"""The same definition files, built by hpcc and by Apptainer: each program says the same of both images."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Tool
from tests.support.peers import apptainer
from tests.support.people import Person

HEAD = "Bootstrap: localimage\nFrom: base.sif\n"
ENVIRONMENT = '%environment\n  export A=1\n  B=not-exported\n  export C="$A two"\n'
DEFINITIONS = {
    "nothing": HEAD,
    "comments": f"# first\n\n{HEAD}# between\n\n%runscript\n  # kept\n  echo run \"$@\" # and this\n",
    "environment": HEAD + ENVIRONMENT + "%runscript\n  echo \"$A|$B|$C|$FROM_BASE\"\n",
    "shebang": HEAD + "%runscript\n#!/bin/sh -e\n  echo \"shebang $*\"\n",
    "arguments": HEAD + "%runscript -e # words\n  echo \"$-\" | grep -c e; echo \"$#\" \"$1\"\n",
    "labels": HEAD + "%labels\n  Author me\n  # none\n  Long   many  spaces\n  Alone\n  Of.Base changed\n",
    "help": HEAD + "%help\n  Two\n\n    lines.\n",
    "test": HEAD + ENVIRONMENT + "%test\n  echo \"tested $A\"; test -f /base.txt\n",
    "post": HEAD + "%post\n  echo post >/post.txt\n  cd /opt\n  pwd >>/post.txt\n%runscript\n  cat /post.txt\n",
    "interpreter": HEAD + "%post -c /bin/busybox ash\n  echo $0 >/post.txt\n%runscript\n  cat /post.txt\n",
    "twice": HEAD + "%post\n  echo 1 >/p\n%labels\n  A 1\n%post\n  echo 2 >>/p\n%labels\n  B 2\n%runscript\n  cat /p\n",
    "files": HEAD + "%files\n  one.txt /opt/\n  one.txt /new/name\n  tree /opt\n  tree/* /flat/\n  \"a b\" \"/a b\"\n"
                    "%runscript\n  cd /; find opt flat new 'a b' | sort; cat /new/name '/a b' /opt/tree/link\n",
    "written": HEAD + "%post\n  echo 'export P=\"of post\"' >>$APPTAINER_ENVIRONMENT\n"
                      "  echo 'Post.Label x y' >>$SINGULARITY_LABELS\n%runscript\n  echo $P\n",
    "stages": f"{HEAD}Stage: one\n%post\n  mkdir -p /out/d; echo x >/out/d/f; ln -s d/f /out/l; ln -s /out/l /top\n"
              f"{HEAD}%files from one\n  /out /\n  /top /copied\n  /out/d/* /flat/\n"
              "%runscript\n  cd /; find out copied flat | sort; readlink out/l; cat copied\n",
    "templates": f"{HEAD}%arguments\n  WORD=default\n%runscript\n  echo {{{{ WORD }}}} {{{{WORD}}}}\n",
    "apps": HEAD + "%apprun foo\n  echo \"$SCIF_APPNAME $X\"\n%appenv foo\n  export X=1\n%applabels foo\n  L v\n"
                   "%apphelp foo\n  foo help\n%appinstall foo\n  echo hi >bin/hi\n%apprun bar\n  echo bar\n",
    "setup": HEAD + "%setup\n  echo s >$APPTAINER_ROOTFS/s\n  echo t >$SINGULARITY_ROOTFS/t\n%runscript\n  cat /s /t\n",
    "capitals": "BOOTSTRAP: localimage\nFROM: base.sif # why\n%RunScript\n  echo capital\n",
    "startscript": HEAD + "%startscript\n  echo started\n%runscript\n  echo only\n",
}  # fmt: skip
REFUSED = {
    "no section": HEAD + "%pots\n  true\n",
    "a script's %": HEAD + "%post\n  echo a\n  %d\n",
    "header": "Bootstrap: localimage\nForm: base.sif\n",
    "no colon": "Bootstrap: localimage\nFrom base.sif\n",
    "empty": "# nothing\n",
    "no bootstrap": "From: base.sif\n%post\n  true\n",
    "template": HEAD + "%runscript\n  echo {{ NONE }}\n",
    "no stage": HEAD + "%files from none\n  /a /b\n",
    "no file": HEAD + "%files\n  lost.txt\n",
    "post fails": HEAD + "%post\n  false\n",
    "test fails": HEAD + "%test\n  false\n",
    "no interpreter": HEAD + "%post -c\n  true\n",
    "app without a name": HEAD + "%apprun\n  true\n",
}


@pytest.fixture(scope="module")
def place(plain_user: Person, hpcc: Tool) -> Iterator[Person]:
    """The plain user, in a directory with base.sif and what %files copy."""
    top = Path(tempfile.mkdtemp(prefix="hpcc-builds-", dir="/var/tmp"))
    person = plain_user.at(top)
    (top / "one.txt").write_text("one\n")
    (top / "a b").write_text("a and b\n")
    (top / "tree/sub").mkdir(parents=True)
    (top / "tree/sub/x").write_text("x\n")
    (top / "tree/link").symlink_to("../one.txt")
    (top / "base.def").write_text(
        "Bootstrap: busybox\n%post\n  echo b >/base.txt; mkdir -p /opt\n%environment\n  export FROM_BASE=base\n"
        '%labels\n  Of.Base yes\n%runscript\n  echo base run "$@"\n'
    )
    try:
        done = hpcc(["build", "base.sif", "base.def"], person)
        assert done.returncode == 0, done.stderr
        yield person
    finally:
        shutil.rmtree(top, ignore_errors=True)


def attributes(image: str, person: Person) -> dict[str, Any]:
    done = apptainer(["inspect", "--json", "--all", image], person)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["data"]["attributes"]
    found["labels"] = {
        name: value for name, value in found["labels"].items() if not name.startswith("org.label-schema")
    }
    found["environment"] = {
        path: [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
        for path, text in found.get("environment", {}).items()
    }
    for each in (found, *found.get("apps", {}).values()):
        for key in ("runscript", "startscript", "test", "helpfile", "deffile"):
            if key in each:
                each[key] = [line.rstrip() for line in each[key].split("\n") if line.strip()]
    for app in found.get("apps", {}).values():
        app["environment"] = {
            path: [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
            for path, text in app.get("environment", {}).items()
        }
    # What stands above the first Bootstrap: Apptainer leaves out.
    found["deffile"] = [line for line in found["deffile"] if not line.startswith("#")]
    found.pop("startscript", None) if found.get("startscript") == ["#!/bin/sh"] else None
    return found


@pytest.mark.parametrize("name", DEFINITIONS)
def test_both_build_the_same(place: Person, hpcc: Tool, name: str) -> None:
    file, images = f"{name}.def", (f"{name}-ours.sif", f"{name}-theirs.sif")
    (place.home / file).write_text(DEFINITIONS[name])
    ours = hpcc(["build", images[0], file], place)
    assert ours.returncode == 0, ours.stderr
    theirs = apptainer(["build", "--fakeroot", images[1], file], place)
    assert theirs.returncode == 0, theirs.stderr
    said = [attributes(image, place) for image in images]
    assert said[0] == said[1]
    commands: list[list[str]] = [
        ["run", "IMAGE", "one", "t w"],
        ["exec", "IMAGE", "sh", "-c", "echo $A.$B.$C.$P.$FROM_BASE"],
    ]
    commands += [["run", "--app", app, "IMAGE"] for app in said[0].get("apps", {})]
    commands += [["test", "IMAGE"], ["run-help", "IMAGE"]]
    for command in commands:
        results = [
            (tool.__name__, image, done.returncode, done.stdout)
            for tool in (hpcc, apptainer)
            for image in images
            for done in [tool([image if word == "IMAGE" else word for word in command], place)]
        ]
        assert len({result[2:] for result in results}) == 1, results


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(place: Person, hpcc: Tool, name: str) -> None:
    (place.home / "refused.def").write_text(REFUSED[name])
    theirs = apptainer(["build", "--fakeroot", "refused-theirs.sif", "refused.def"], place)
    ours = hpcc(["build", "refused-ours.sif", "refused.def"], place)
    assert theirs.returncode == ours.returncode == 255, (theirs.stderr, ours.stderr)
    assert "FATAL" in ours.stderr and "Traceback" not in ours.stderr
    assert not (place.home / "refused-ours.sif").exists()
