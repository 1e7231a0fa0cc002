"""Signatures and keys both ways: what hpcc signs Apptainer verifies, and the reverse, also by the other's keys."""

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.interop.conftest import Pulled
from tests.support import installation
from tests.support.peers import apptainer
from tests.support.people import Person


@pytest.fixture
def person(plain_user: Person, open_dir: Path) -> Person:
    (open_dir / "home").mkdir(mode=0o700)
    return plain_user.at(open_dir / "home")


def test_each_accepts_the_others_signatures(pulled: Pulled, person: Person) -> None:
    hpcc = installation.install(("sign",)).hpcc
    made = apptainer(
        ["key", "newpair", "-N", "Theirs", "-E", "t@example.org", "-C", "", "-P", "pw", "-b", "2048", "--push=false"],
        person,
    )
    assert made.returncode == 0, made.stderr
    ours = person.run([hpcc, "key", "newpair", "-N", "Ours", "-E", "o@example.org", "-b", "2048"], input="pw\n")
    assert ours.returncode == 0, ours.stderr
    users = apptainer(["key", "list", "--secret"], person).stdout
    assert "Theirs" in users and "Ours" in users and users.count("Fingerprint") == 2
    image = person.home / "image.sif"
    for index in ("0", "1"):
        for signs, verifies in ((hpcc, "apptainer"), ("apptainer", hpcc)):
            shutil.copy(pulled.theirs / "words.sif", image)
            os.chown(image, person.uid, person.gid)
            words = ["sign", "--keyidx", index, image]
            signed = (
                person.run([hpcc, *words], input="pw\n") if signs == hpcc else apptainer(words, person, input="pw\n")
            )
            assert signed.returncode == 0, signed.stderr
            checked = {
                "hpcc": person.run([hpcc, "verify", "-l", image]),
                "apptainer": apptainer(["verify", "-l", image], person),
            }
            assert {name: done.returncode for name, done in checked.items()} == {"hpcc": 0, "apptainer": 0}, verifies
            assert checked["hpcc"].stdout.split() == checked["apptainer"].stdout.split()
            both = [person.run([hpcc, "verify", "-jl", image]), apptainer(["verify", "-jl", image], person)]
            assert both[0].stdout.replace("<", "\\u003c").replace(">", "\\u003e").strip() == both[1].stdout.strip()
    data = bytearray(image.read_bytes())
    data[-5000] ^= 1
    image.write_bytes(data)
    for done in (person.run([hpcc, "verify", "-l", image]), apptainer(["verify", "-l", image], person)):
        assert done.returncode == 255 and "Failed to verify container" in done.stderr


def test_keys_in_pem(pulled: Pulled, person: Person) -> None:
    hpcc = installation.install(("sign",)).hpcc
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    (person.home / "private.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (person.home / "public.pem").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    image = person.home / "image.sif"
    for ours in (True, False):
        shutil.copy(pulled.ours / "plain.sif", image)
        os.chown(image, person.uid, person.gid)
        words = ["sign", "--key", "private.pem", image]
        done = person.run([hpcc, *words]) if ours else apptainer(words, person)
        assert done.returncode == 0, done.stderr
        words = ["verify", "--key", "public.pem", image]
        found = person.run([hpcc, *words]), apptainer(words, person)
        assert [each.returncode for each in found] == [0, 0], found
        assert found[0].stdout.split() == found[1].stdout.split()
