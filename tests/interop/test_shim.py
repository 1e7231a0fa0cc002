"""hpcc's stand-in before the real Apptainer: what is handed on, and that each runs what the other has pulled."""

from pathlib import Path

import pytest

from tests.interop.conftest import Pulled
from tests.support.installation import Installation
from tests.support.peers import apptainer, peer_argv
from tests.support.people import SYSTEM_PATH, Person, myself


@pytest.fixture
def person(open_dir: Path) -> Person:
    """Root, who can enter the root filesystem that Apptainer is in."""
    (open_dir / "home").mkdir()
    return myself(open_dir / "home")


@pytest.fixture
def path(person: Person, installed: Installation) -> str:
    """PATH with the stand-in, and the real Apptainer behind it."""
    real = person.home / "real"
    real.mkdir()
    enter = " ".join(peer_argv(["apptainer"], person))
    (real / "apptainer").write_text(f'#!/bin/sh\nexec {enter} "$@"\n')
    (real / "apptainer").chmod(0o755)
    assert person.run([installed.hpcc, "shim", "enable", "--dir", person.home / "shim"]).returncode == 0
    return f"{person.home}/shim:{real}:{SYSTEM_PATH}"


def test_handed_on(person: Person, path: str, pulled: Pulled) -> None:
    def shim(*argv: object) -> str:
        done = person.run(["/bin/bash", "-c", '"$@"', "-", "apptainer", *map(str, argv)], env={"PATH": path})
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    real = apptainer(["capability", "avail", "CAP_CHOWN"], person).stdout
    assert "CAP_CHOWN" in real and shim("capability", "avail", "CAP_CHOWN") == real
    assert "Manage Apptainer plugins" in shim("plugin", "--help")
    assert shim("--version").partition("+")[0] == apptainer(["--version"], person).stdout.strip()
    assert shim("version").partition("+")[0] == apptainer(["version"], person).stdout.strip()
    shim("build", "--no-https", person.home / "built.sif", f"docker://{pulled.registry.host}/tests/plain:1.0")
    assert shim("exec", person.home / "built.sif", "words", "a b") == "[a b]\n"  # by hpcc


def test_status(person: Person, path: str, installed: Installation) -> None:
    done = person.run([installed.hpcc, "shim", "status", "--dir", person.home / "shim"], env={"PATH": path})
    assert done.returncode == 0 and done.stderr == ""
    assert f"behind it: {person.home}/real/apptainer, apptainer version 1.4." in done.stdout


def test_a_link_is_an_image_for_apptainer(plain_user: Person, installed: Installation, pulled: Pulled) -> None:
    """What `pull --name` leaves runs under Apptainer, which takes it for an image that is there."""
    uri = f"docker://{pulled.registry.host}/tests/plain:1.0"
    link = plain_user.home / "0123.simg"
    assert plain_user.run([installed.hpcc, "pull", "--no-https", "--name", link, uri]).returncode == 0
    assert link.is_symlink()
    assert apptainer(["exec", link, "words", "a b"], plain_user).stdout == "[a b]\n"
    done = apptainer(["pull", "--no-https", "--name", link.name, uri], plain_user, cwd=link.parent)
    assert done.returncode != 0 and "already exists" in done.stderr
    # and the other way round: half of what Apptainer pulled
    whole = pulled.theirs / "plain.sif"
    half = plain_user.home / "half.simg"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    done = plain_user.run([installed.hpcc, "pull", "--no-https", "--name", half, uri])
    assert done.returncode == 0 and "is half an image" in done.stderr, done.stderr
    done = plain_user.run([installed.hpcc, "pull", "--no-https", "--name", pulled.theirs / "plain.sif", uri])
    assert done.returncode == 255 and "is another image" in done.stderr
