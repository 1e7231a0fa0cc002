"""Apptainer as judge of the SIFs that hpcc pulled, and hpcc as reader of what Apptainer made."""

import json
import os
import stat
from pathlib import Path

import pytest

from hpcc.fstree import DIRECTORY, SYMLINK
from hpcc.sif.load import load
from hpcc.squashfs.reader import open_squashfs
from tests.interop.conftest import LABELS, Pulled, Tool
from tests.support.images import GREETING, IMAGE_PATH
from tests.support.peers import apptainer, run_peer
from tests.support.people import Person, myself
from tests.support.real import need

RUNS = {
    ("words",): "[entry point][cmd][with  two spaces]\n",
    ("words", "one", "a b", "*"): "[entry point][one][a b][*]\n",
    ("plain",): "[a b][*]\n",
    ("plain", "words", "c  d"): "[c  d]\n",
    ("entry",): "[$HOME][two  spaces]\n",
    ("entry", "last"): "[$HOME][two  spaces][last]\n",
    ("nothing", "words", "x"): "[x]\n",
}
PULLED_BY = pytest.mark.parametrize("by", ["ours", "theirs"])
READERS = pytest.mark.parametrize("reader", ["hpcc", "apptainer"])


@pytest.fixture
def tool(reader: str, hpcc: Tool) -> Tool:
    return {"hpcc": hpcc, "apptainer": apptainer}[reader]


def image(pulled: Pulled, by: str, name: str) -> Path:
    return Path(getattr(pulled, by)) / f"{name}.sif"


@READERS
@PULLED_BY
@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_run(pulled: Pulled, tool: Tool, runs_as: Person, by: str, words: tuple[str, ...]) -> None:
    done = tool(["run", image(pulled, by, words[0]), *words[1:]], runs_as)
    assert (done.returncode, done.stdout) == (0, RUNS[words]), done.stderr


@pytest.mark.parametrize("compression", ["gzip:1", "gzip:9", "zstd", "lz4", "xz"])
def test_each_compression(pulled: Pulled, hpcc: Tool, runs_as: Person, compression: str) -> None:
    """Read by whatever mounts images in each program: the kernel as root, squashfuse as a user."""
    uri, path = f"docker://{pulled.registry.host}/tests/plain:1.0", runs_as.home / f"{compression}.sif"
    made = hpcc(["pull", "--no-https", "--compression", compression, path, uri], runs_as)
    assert made.returncode == 0, made.stderr
    for each in (hpcc, apptainer):
        done = each(["run", path], runs_as)
        assert (done.returncode, done.stdout) == (0, RUNS["plain",]), done.stderr
        argv = ["sh", "-c", "sha256sum $(command -v words bash)"]
        done = each(["exec", path, *argv], runs_as)
        wanted = each(["exec", image(pulled, "theirs", "plain"), *argv], runs_as)
        assert done.returncode == 0 and done.stdout == wanted.stdout != "", done.stderr


@READERS
def test_arguments_of_our_images_are_never_evaluated(pulled: Pulled, tool: Tool, runs_as: Person) -> None:
    done = tool(["run", image(pulled, "ours", "words"), "$HOME", "`id`", '"', "\\"], runs_as)
    assert (done.returncode, done.stdout) == (0, '[entry point][$HOME][`id`]["][\\]\n'), done.stderr


@READERS
@pytest.mark.parametrize("mode", [(), ("--cleanenv",), ("--containall",), ("--compat",)], ids=str)
def test_environment_is_exact(pulled: Pulled, tool: Tool, runs_as: Person, mode: tuple[str, ...]) -> None:
    """Apptainer's own SIFs give `hello world \\"quoted\\" \\/root` here."""
    script = 'printf "%s\\0" "$GREETING" "$PATH" "$SHARED" "${EMPTY-unset}"'
    done = tool(["exec", *mode, image(pulled, "ours", "words"), "sh", "-c", script], runs_as)
    assert done.stdout.split("\0")[:-1] == [GREETING, IMAGE_PATH, "of the image", ""], done.stderr


@READERS
@PULLED_BY
def test_variables_for_the_container_win(pulled: Pulled, tool: Tool, runs_as: Person, by: str) -> None:
    argv = ["exec", image(pulled, by, "plain"), "sh", "-c", 'echo "$SHARED" "$MINE" "$PATH"']
    assert tool(argv, runs_as, env={"MINE": "mine"}).stdout == f"of the image mine {IMAGE_PATH}\n"
    env = {"APPTAINERENV_SHARED": "by prefix", "APPTAINERENV_PREPEND_PATH": "/before", "SINGULARITYENV_MINE": "old"}
    done = tool(argv, runs_as, env=env)
    assert done.stdout == f"by prefix old /before:{IMAGE_PATH}\n", done.stderr
    done = tool(argv, runs_as, env={"APPTAINERENV_APPEND_PATH": "/a b'c"})
    assert done.stdout == f"of the image  {IMAGE_PATH}:/a b'c\n", done.stderr
    done = tool([*argv[:1], "--env", "SHARED=option,MINE=a b", *argv[1:]], runs_as, env={"SHARED": "x"})
    assert done.stdout == f"option a b {IMAGE_PATH}\n", done.stderr


@READERS
@PULLED_BY
def test_inspect_json(pulled: Pulled, tool: Tool, runs_as: Person, by: str) -> None:
    done = tool(["inspect", "--json", image(pulled, by, "words")], runs_as)
    found = json.loads(done.stdout)
    assert found["type"] == "container"
    labels = found["data"]["attributes"]["labels"]
    assert {key: labels[key] for key in LABELS} == LABELS
    assert labels["org.label-schema.schema-version"] == "1.0"
    assert labels["org.label-schema.usage.singularity.deffile.bootstrap"] == "docker"
    assert labels["org.label-schema.usage.singularity.deffile.from"].startswith(f"{pulled.registry.host}/tests/words")
    assert labels["org.label-schema.build-arch"] in ("amd64", "arm64")


@PULLED_BY
@pytest.mark.parametrize("part", ["--labels", "--deffile", "--runscript", "--environment", "-l", "-d", "-r", "-e"])
def test_inspect_says_the_same_as_apptainers(
    pulled: Pulled, hpcc: Tool, plain_user: Person, by: str, part: str
) -> None:
    path = image(pulled, by, "words")
    ours, theirs = hpcc(["inspect", part, path], plain_user), apptainer(["inspect", part, path], plain_user)
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
    # Apptainer ends each part with one more empty line
    assert [line for line in ours.stdout.splitlines() if line] == [line for line in theirs.stdout.splitlines() if line]
    ours = hpcc(["inspect", "--json", part, path], plain_user)
    theirs = apptainer(["inspect", "--json", part, path], plain_user)
    assert json.loads(ours.stdout) == json.loads(theirs.stdout)


def test_inspect_of_a_sandbox(pulled: Pulled, hpcc: Tool, runs_as: Person) -> None:
    for part in ("--labels", "--runscript", "--environment"):
        argv = ["inspect", "--json", part, pulled.sandboxes / "words"]
        ours, theirs = (json.loads(tool(argv, runs_as).stdout)["data"]["attributes"] for tool in (hpcc, apptainer))
        for found in (ours, theirs):
            if "runscript" in found:
                found["runscript"] = found["runscript"].rstrip("\n")  # Apptainer leaves the last one out
            for name, text in found.get("environment", {}).items():
                found["environment"][name] = text.rstrip("\n")
        assert ours == theirs, part


def test_the_oci_config_of_both(pulled: Pulled, hpcc: Tool, plain_user: Person) -> None:
    for name in ("words", "plain", "entry", "nothing"):
        by = {
            by: json.loads(hpcc(["inspect", "--oci-config", image(pulled, by, name)], plain_user).stdout)
            for by in ("ours", "theirs")
        }
        for key in ("Env", "Entrypoint", "Cmd", "WorkingDir", "Labels"):
            assert (by["ours"].get(key) or None) == (by["theirs"].get(key) or None), (name, key)


def test_no_signature_is_what_verify_finds_wrong(pulled: Pulled, runs_as: Person) -> None:
    """A SIF that Apptainer could not read, or whose descriptors were wrong, would fail in another way."""
    done = apptainer(["verify", image(pulled, "ours", "words")], runs_as)
    assert done.returncode == 255
    assert "signature not found for object group 1" in done.stderr


def test_signing_and_the_integrity_of_what_was_signed(pulled: Pulled, open_dir: Path, plain_user: Person) -> None:
    """Adding a signature rewrites header and descriptors: Apptainer must agree with ours on every byte of them."""
    home = open_dir / "home"
    home.mkdir(mode=0o700)
    person = plain_user.at(home)
    path = home / "signed.sif"
    path.write_bytes(image(pulled, "ours", "words").read_bytes())
    person.at(home) if os.geteuid() == 0 else None
    os.chown(path, person.uid, person.gid)
    whose = ["--name", "t", "--email", "t@example.org", "--password", ""]
    made = apptainer(["key", "newpair", *whose, "--push=false"], person)
    assert made.returncode == 0, made.stderr
    signed = apptainer(["sign", "--keyidx", "0", path], person)
    assert signed.returncode == 0, signed.stderr
    verified = apptainer(["verify", "--local", path], person)
    assert verified.returncode == 0, verified.stderr
    done = apptainer(["run", path, "still"], person)
    assert done.stdout == "[entry point][still]\n", done.stderr


def test_sif_list(pulled: Pulled, plain_user: Person) -> None:
    def kinds(by: str) -> list[str]:
        done = apptainer(["sif", "list", image(pulled, by, "words")], plain_user)
        assert done.returncode == 0, done.stderr
        return [line.rpartition("|")[2].strip() for line in done.stdout.splitlines() if line[:1].isdigit()]

    theirs = kinds("theirs")
    assert theirs == ["Def.FILE", "JSON.Generic", "JSON.Generic", f"FS (Squashfs/*System/{_machine()})"]
    assert kinds("ours") == [*theirs[:3], "JSON.Generic", theirs[3]]  # and our own hpcc.json


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


# -- the tree ----------------------------------------------------------------------------------------------------

_LETTERS = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK}


def _seen_by_apptainer(path: Path, person: Person) -> tuple[dict[str, tuple[object, ...]], set[str]]:
    """path -> (type letter, mode, uid, gid, size, target), and where Apptainer mounted something of its own."""
    script = (
        "find / -xdev -printf '%p\\t%y\\t%m\\t%U\\t%G\\t%s\\t%T@\\t%l\\n'; echo ==; cut -d' ' -f5 /proc/self/mountinfo"
    )
    done = apptainer(["exec", "--writable-tmpfs", "--contain", path, "sh", "-c", script], person)
    assert done.returncode == 0, done.stderr
    listing, _, mounts = done.stdout.partition("==\n")
    found = {}
    for line in listing.splitlines():
        name, kind, mode, uid, gid, size, mtime, target = line.split("\t")
        length = int(size) if kind == "f" else 0
        found[name] = (kind, int(mode, 8), int(uid), int(gid), length, int(float(mtime)), target)
    return found, set(mounts.split())


def _seen_by_us(path: Path) -> dict[str, tuple[object, ...]]:
    data = path.read_bytes()
    primary = load(lambda at, size: data[at : at + size], len(data)).primary()
    squashfs = open_squashfs(lambda at, size: data[primary.offset + at : primary.offset + at + size], primary.size)
    found = {}
    for name, inode in [(b"", squashfs.root), *squashfs.walk()]:
        kind = "d" if inode.kind == DIRECTORY else "l" if inode.kind == SYMLINK else "f"
        size = inode.size if kind == "f" else 0
        found["/" + os.fsdecode(name)] = (
            kind, inode.mode, inode.uid, inode.gid, size, inode.mtime, os.fsdecode(inode.target),
        )  # fmt: skip
    return found


@pytest.mark.root
@PULLED_BY
def test_apptainer_sees_the_tree_that_our_reader_sees(pulled: Pulled, open_dir: Path, by: str) -> None:
    path = image(pulled, by, "words")
    theirs, mounts = _seen_by_apptainer(path, myself(open_dir))
    ours = _seen_by_us(path)
    # what it mounts lies over the image's own, and a directory in which it makes a mount point has a new time
    touched = {mount.rpartition("/")[0] or "/" for mount in mounts} | mounts
    assert {name for name in theirs if name not in mounts} == {name for name in ours if name not in mounts}
    common = ours.keys() - touched
    differing = {name: (ours[name], theirs[name]) for name in common if ours[name] != theirs[name]}
    assert not differing
    assert len(ours) > 150


def test_unsquashfs_of_both_debians(pulled: Pulled) -> None:
    """Debian 12's tool and sid's list our root filesystem alike, byte for byte."""
    path = image(pulled, "ours", "words")
    data = path.read_bytes()
    offset = load(lambda at, size: data[at : at + size], len(data)).primary().offset
    me = myself(path.parent)
    argv = ["-o", str(offset), "-lln", path]
    old, new = me.run([need("unsquashfs"), *argv]), run_peer(["unsquashfs", *argv], me)
    assert old.returncode == new.returncode == 0, old.stderr + new.stderr
    assert old.stdout == new.stdout and len(new.stdout.splitlines()) > 150
