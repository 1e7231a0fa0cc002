"""hpcc sif and apptainer sif with the same arguments on two copies of a SIF: the same bytes, output and failures.

Apptainer writes a random id and the clock into new SIFs, and the clock into those that have one; all else is compared.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcc.sif import descriptor as d
from tests.conftest import SHARED_DATA
from tests.interop.conftest import Completed, Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person

IMAGES = SHARED_DATA / "sif"


def partition(fs: int, part: int, arch: int) -> list[str]:
    return ["--datatype", "4", "--partfs", str(fs), "--parttype", str(part), "--partarch", str(arch)]


ENTITY = ["--signentity", "433FE984155206BD962725E20E8713472A879943"]
STEPS: list[list[str]] = [
    ["add", "--datatype", "1", "--filename", "Def.FILE", "IMAGE", "five"],
    ["add", "--datatype", "2", "--groupid", "1", "IMAGE", "five"],
    ["add", "--datatype", "3", "--filename", "", "IMAGE", "empty"],
    ["add", *partition(1, 2, 2), "--groupid", "1", "--filename", "ünï cödé", "IMAGE", "page"],
    ["add", *partition(2, 1, 4), "--groupid", "0x2", "--alignment", "0", "IMAGE", "five"],
    ["add", *partition(5, 3, 12), "--alignment", "65536", "IMAGE", "page"],
    ["add", *partition(6, 4, 11), "--alignment", "-5", "IMAGE", "five"],
    ["add", "--datatype", "5", "--signhash", "3", *ENTITY, "--link", "4", "IMAGE", "five"],
    ["add", "--datatype", "5", "--signhash", "5", *ENTITY, "--link", str(d.GROUP | 1), "IMAGE", "five"],
    ["add", "--datatype", "6", "--alignment", "77", "IMAGE", "page"],
    ["add", "--datatype", "0x7", "--alignment", "4096", "--link", "1", "IMAGE", "five"],
    ["add", "--datatype", "8", "IMAGE", "five"],
    ["add", "--datatype", "9", "--sbomformat", "github", "IMAGE", "five"],
    ["add", "--datatype", "9", "--sbomformat", "syft-json", "IMAGE", "five"],
    ["add", "--datatype", "10", "--partfs", "7", "IMAGE", "page"],
    ["add", "--datatype", "11", "IMAGE", "five"],
    ["setprim", "5", "IMAGE"],
    ["setprim", "5", "IMAGE"],
    ["del", "2", "IMAGE"],
    ["add", "--datatype", "7", "IMAGE", "page"],  # in the slot that is free now
    ["del", "5", "IMAGE"],  # the primary partition
    ["setprim", "4", "IMAGE"],
    ["del", "2", "IMAGE"],  # the last in the file
    ["del", "16", "IMAGE"],
    ["add", "--datatype", "7", "IMAGE", "five"],  # over its bytes
]
MISTAKES: list[list[str]] = [
    ["list", "no-such.sif"], ["list", "five"], ["list", "."], ["list"], ["header", "five"], ["info", "9", "IMAGE"],
    ["info", "x", "IMAGE"], ["info", "IMAGE", "1"], ["dump", "0", "IMAGE"], ["dump", "9", "IMAGE"], ["dump", "1"],
    ["del", "9", "IMAGE"], ["setprim", "9", "IMAGE"], ["setprim", "1", "IMAGE"], ["new"], ["new", "no/such.sif"],
    ["add", "IMAGE", "five"], ["add", "--datatype", "12", "IMAGE", "five"], ["add", "--datatype", "7", "IMAGE", "none"],
    ["add", "--datatype", "4", "IMAGE", "five"], ["add", *partition(1, 2, 2), "IMAGE", "five"],
    ["add", *partition(1, 1, 99), "IMAGE", "five"], ["add", "--datatype", "5", "IMAGE", "five"],
    ["add", "--datatype", "5", "--signhash", "6", *ENTITY, "IMAGE", "five"],
    ["add", "--datatype", "5", "--signhash", "1", "--signentity", "AB", "IMAGE", "five"],
    ["add", "--datatype", "9", "IMAGE", "five"], ["add", "--datatype", "9", "--sbomformat", "x", "IMAGE", "five"],
    ["add", "--datatype", "7", "--link", "0", "IMAGE", "five"],
    ["add", "--datatype", "7", "--filename", "n" * 129, "IMAGE", "five"],
]  # fmt: skip


class Pair:
    """Two copies of a SIF, one for each tool."""

    def __init__(self, hpcc: Tool, person: Person) -> None:
        self.hpcc, self.person, self.home = hpcc, person, person.home
        self.ours, self.theirs = person.home / "ours.sif", person.home / "theirs.sif"
        for name, data in (("five", b"hello"), ("page", bytes(range(256)) * 20), ("empty", b"")):
            (person.home / name).write_bytes(data)

    def start(self, image: Path) -> None:
        for copy in (self.ours, self.theirs):
            shutil.copyfile(image, copy)
            shutil.chown(copy, self.person.uid, self.person.gid)

    def run(self, tool: Tool, argv: Sequence[str], image: Path, **options: Any) -> Completed:
        return tool(["sif", *(str(image) if word == "IMAGE" else word for word in argv)], self.person, **options)

    def both(self, argv: Sequence[str]) -> tuple[Completed, Completed]:
        return self.run(self.hpcc, argv, self.ours), self.run(apptainer, argv, self.theirs)

    def check_same_bytes(self, *, clock: bool) -> None:
        """Equal files; `clock`: but for times and ids."""
        ours, theirs = bytearray(self.ours.read_bytes()), bytearray(self.theirs.read_bytes())
        for data in (ours, theirs) if clock else ():
            data[48:80] = bytes(32)
            for at in range(4096, 4096 + 48 * d.SIZE, d.SIZE):
                data[at + 41 : at + 57] = bytes(16)
        assert len(ours) == len(theirs)
        assert [at for at in range(len(ours)) if ours[at] != theirs[at]] == []

    def check_same_words(self) -> None:
        """Both tools show the same, of both files."""
        for image in (self.ours, self.theirs):
            listed = self.run(self.hpcc, ["list", "IMAGE"], image).stdout
            ids = [line.split()[0] for line in listed.splitlines()[3:]]
            for argv in (["list"], ["header"], *(["info", id] for id in ids)):
                ours = self.run(self.hpcc, [*argv, "IMAGE"], image)
                theirs = self.run(apptainer, [*argv, "IMAGE"], image)
                assert (ours.stdout, ours.returncode) == (theirs.stdout, 0), (ours.stderr, theirs.stderr)
            for id in ids:
                argv = ["dump", id, "IMAGE"]
                ours, theirs = (
                    self.run(tool, argv, image, errors="surrogateescape") for tool in (self.hpcc, apptainer)
                )
                assert (ours.stdout, ours.returncode) == (theirs.stdout, 0), (ours.stderr, theirs.stderr)


@pytest.fixture
def pair(hpcc: Tool, plain_user: Person, open_dir: Path) -> Pair:
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    return Pair(hpcc, plain_user.at(home))


def test_new(pair: Pair) -> None:
    for argv in (["new", "IMAGE"], ["list", "IMAGE"]):
        ours, theirs = pair.both(argv)
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout) == (0, ours.stdout), ours.stderr
    assert pair.ours.stat().st_mode == pair.theirs.stat().st_mode
    pair.check_same_bytes(clock=True)


@pytest.mark.parametrize("by", ["hpcc", "apptainer"])
def test_every_change(pair: Pair, by: str) -> None:
    """From a SIF of ours, which has no clock, everything is equal."""
    start = pair.home / "start.sif"
    made = pair.run({"hpcc": pair.hpcc, "apptainer": apptainer}[by], ["new", "IMAGE"], start)
    assert made.returncode == 0, made.stderr
    pair.start(start)
    for number, step in enumerate(STEPS):
        ours, theirs = pair.both(step)
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout) == (0, ""), (ours, theirs)
        pair.check_same_bytes(clock=by == "apptainer")
        if number in (15, len(STEPS) - 1):
            pair.check_same_words()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", ["one-group", "one-group-signed-dsse", "one-group-signed-legacy", "one-group-signed-pgp"]
)
def test_the_reference_librarys_images(pair: Pair, name: str) -> None:
    pair.start(IMAGES / "images" / f"{name}.sif")
    pair.check_same_words()
    for step in (["setprim", "1", "IMAGE"], ["add", *partition(3, 3, 1), "IMAGE", "five"], ["del", "1", "IMAGE"]):
        ours, theirs = pair.both(step)
        assert (ours.returncode, theirs.returncode) == (0, 0), (ours.stderr, theirs.stderr)
        pair.check_same_bytes(clock=name.endswith("legacy"))
    pair.check_same_words()


@pytest.mark.parametrize("by", ["ours", "theirs"])
def test_pulled_images(pair: Pair, pulled: Pulled, by: str) -> None:
    """What either has pulled is shown alike, and runs in both once either has changed it."""
    pair.start(getattr(pulled, by) / "words.sif")
    pair.check_same_words()
    ours, theirs = pair.both(["add", "--datatype", "7", "--groupid", "1", "IMAGE", "page"])
    assert (ours.returncode, theirs.returncode) == (0, 0), (ours.stderr, theirs.stderr)
    pair.check_same_bytes(clock=by == "theirs")
    for image in (pair.ours, pair.theirs):
        for tool in (pair.hpcc, apptainer):
            done = tool(["exec", image, "echo", "runs"], pair.person)
            assert done.stdout == "runs\n", done.stderr


def test_mistakes(pair: Pair) -> None:
    start = pair.home / "start.sif"
    for argv in (
        ["new", "IMAGE"],
        ["add", "--datatype", "1", "IMAGE", "five"],
        ["add", *partition(1, 2, 2), "IMAGE", "five"],
    ):
        assert pair.run(pair.hpcc, argv, start).returncode == 0
    pair.start(start)
    for argv in MISTAKES:
        ours, theirs = pair.both(argv)
        assert ours.returncode == 255 and theirs.returncode, argv
        assert ours.stderr.startswith("FATAL:") and ours.stdout == "", argv
    assert pair.ours.read_bytes() == start.read_bytes()  # Apptainer's has bytes of what it refused


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("change", "whole", "group"),
    [
        (["add", "--datatype", "7", "--groupid", "1", "IMAGE", "five"], False, False),
        (["add", "--datatype", "7", "IMAGE", "five"], False, False),
        (["add", "--datatype", "7", "--groupid", "2", "IMAGE", "five"], False, True),
        (["add", "--datatype", "5", "--signhash", "1", *ENTITY, "IMAGE", "five"], True, True),
        (["del", "1", "IMAGE"], False, False),
        (["del", "2", "IMAGE"], False, False),
        (["setprim", "1", "IMAGE"], False, False),
        (["setprim", "2", "IMAGE"], True, True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_warning_where_apptainer_verifies_no_more(pair: Pair, change: list[str], whole: bool, group: bool) -> None:
    pair.start(IMAGES / "images" / "one-group-signed-pgp.sif")
    shutil.copyfile(IMAGES / "keys" / "public.asc", pair.home / "public.asc")
    assert apptainer(["key", "import", "public.asc"], pair.person, env=keys(pair)).returncode == 0
    assert apptainer(["verify", pair.ours], pair.person, env=keys(pair)).returncode == 0
    done = pair.run(pair.hpcc, change, pair.ours)
    assert done.returncode == 0 and ("WARNING" not in done.stderr) == whole
    assert (apptainer(["verify", pair.ours], pair.person, env=keys(pair)).returncode == 0) == whole
    assert (apptainer(["verify", "-g", "1", pair.ours], pair.person, env=keys(pair)).returncode == 0) == group


def keys(pair: Pair) -> dict[str, str]:
    return {"APPTAINER_KEYSPATH": str(pair.home / "keys")}
