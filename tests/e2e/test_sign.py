"""Keys, signatures on SIFs and what verify says of them; gpg judges the keys, Apptainer (interop/test_sign.py) both."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support import installation
from tests.support.keys import FakeKeyserver
from tests.support.people import Person
from tests.support.real import need

KEYS = ".apptainer/keys"


class Tool:
    def __init__(self, person: Person) -> None:
        self.person, self.home = person, person.home
        self.hpcc = installation.install(("sign",)).hpcc

    def __call__(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        return self.person.run([self.hpcc, *map(str, argv)], **options)

    def ok(self, *argv: object, **options: Any) -> str:
        done = self(*argv, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def fails(self, said: str, *argv: object, **options: Any) -> None:
        done = self(*argv, **options)
        assert done.returncode == 255 and "FATAL: " in done.stderr, done.stderr
        assert said in done.stderr and "Traceback" not in done.stderr and "Stack" not in done.stderr, done.stderr

    def file(self, name: str, data: bytes) -> Path:
        path = self.home / name
        path.write_bytes(data)
        os.chown(path, self.person.uid, self.person.gid)
        return path

    def sif(self, name: str = "image.sif") -> Path:
        """A SIF with two groups of objects."""
        self.ok("sif", "new", name)
        for content, group in (("a definition", 1), ("some data", 1), ("more of it", 2)):
            self.ok("sif", "add", "--datatype", 7, "--groupid", group, name, "-", input=content)
        return self.home / name

    def key(self, name: str = "Ann", passphrase: str = "") -> str:
        self.ok("key", "newpair", "-N", name, "-E", f"{name}@example.org", "-b", 2048, input=f"{passphrase}\n")
        return str(json.loads(self.ok("key", "list", "--json"))[-1]["fingerprint"])


@pytest.fixture
def tool(runs_as: Person) -> Tool:
    return Tool(runs_as)


@pytest.fixture
def user_tool(plain_user: Person, open_dir: Path) -> Tool:
    (open_dir / "home").mkdir(mode=0o700)
    return Tool(plain_user.at(open_dir / "home"))


def test_sign_and_verify(tool: Tool) -> None:
    image = tool.sif()
    tool.fails("no signatures found", "verify", image)
    tool.fails("no private keys", "sign", image)
    fingerprint = tool.key(passphrase="correct horse")
    for name in ("pgp-public", "pgp-secret"):
        assert (tool.home / KEYS / name).stat().st_mode & 0o777 == 0o600
    assert (tool.home / KEYS).stat().st_mode & 0o777 == 0o700
    tool.fails("Is the passphrase right?", "sign", image, input="wrong\n")
    tool.ok("sign", image, input="correct horse\n")
    assert tool.ok("sif", "list", image).count("Signature (SHA-512)") == 2
    assert tool.ok("verify", image).splitlines() == [
        line
        for group in ("1   |1       |NONE    |Generic/Raw\n2   |1       |NONE    |Generic/Raw",
                      "3   |2       |NONE    |Generic/Raw")
        for line in (
            "[LOCAL]            Signing entity: Ann <Ann@example.org>",
            f"[LOCAL]            Fingerprint: {fingerprint}",
            "Objects verified:", "ID  |GROUP   |LINK    |TYPE", "-" * 48, *group.splitlines(),
        )
    ]  # fmt: skip
    found = json.loads(tool.ok("verify", "--json", image))
    assert found["Signatures"] == 2 and len(found["SignerKeys"]) == 3
    assert found["SignerKeys"][0]["Signer"] == {
        "Partition": "Generic/Raw", "Name": "Ann <Ann@example.org>", "Fingerprint": fingerprint.lower(),
        "KeyLocal": True, "KeyCheck": True, "DataCheck": True,
    }  # fmt: skip


def test_what_was_changed_after_signing_does_not_verify(user_tool: Tool) -> None:
    tool, image = user_tool, user_tool.sif()
    tool.key()
    tool.ok("sign", image, stdin=subprocess.DEVNULL)
    whole = image.read_bytes()
    places = {
        "data object integrity compromised: 2": whole.index(b"some data"),
        "data object descriptor integrity compromised: 1": 4096 + 201,  # its extra
        "header integrity compromised": 48,  # the uuid
        "is not one of these bytes": whole.index(b'"objectDigest":"sha256:') + 30,
    }
    for said, at in places.items():
        tool.file("changed.sif", whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        tool.fails(said, "verify", "--local", "changed.sif")
    for at in range(4096 + 3 * 585 + 205, 4096 + 3 * 585 + 225, 7):  # the fingerprint in the signature's descriptor
        tool.file("changed.sif", whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        tool.fails("fingerprint in descriptor does not correspond", "verify", "--local", "changed.sif")
    tool.ok("sif", "add", "--datatype", 7, "--groupid", 1, image, "-", input="one more")
    tool.fails("object not signed", "verify", "--local", image)
    tool.file("less.sif", whole)
    tool.ok("sif", "del", 2, "less.sif")
    tool.fails("signed object not found", "verify", "--local", "less.sif")
    tool.file("alone.sif", whole)
    tool.ok("sif", "add", "--datatype", 7, "alone.sif", "-", input="of no group")
    tool.fails("is in no group", "verify", "--local", "alone.sif")


def test_one_group_and_one_object(user_tool: Tool) -> None:
    tool, image = user_tool, user_tool.sif()
    tool.key()
    tool.ok("sign", "--group-id", 2, image, stdin=subprocess.DEVNULL)
    tool.fails("signature not found for object group 1", "verify", "-l", image)
    tool.ok("verify", "-l", "-g", 2, image)
    tool.ok("verify", "-l", "--sif-id", 3, image)
    other = tool.sif("other.sif")
    tool.ok("sign", "-i", 2, other, stdin=subprocess.DEVNULL)
    tool.ok("verify", "-l", "-i", 2, other)
    tool.fails("object 1: object not signed", "verify", "-l", "-i", 1, other)
    tool.fails("object 1: object not signed", "verify", "-l", "-g", 1, other)
    tool.fails("exclude each other", "verify", "-g", 1, "-i", 1, other)
    tool.fails("no group 9", "sign", "-g", 9, other, stdin=subprocess.DEVNULL)
    tool.fails("no object 9", "sign", "-i", 9, other, stdin=subprocess.DEVNULL)


def test_a_key_that_nobody_has_has_expired_or_is_revoked(user_tool: Tool) -> None:
    import pysequoia
    from pysequoia.packet import PacketPile

    tool, image = user_tool, user_tool.sif()
    fingerprint = tool.key()
    tool.ok("sign", image, stdin=subprocess.DEVNULL)
    keyring = tool.home / KEYS
    secret = pysequoia.Tsk.from_bytes((keyring / "pgp-secret").read_bytes())
    public = secret.extract_certificate()

    first, *rest = PacketPile.from_bytes(bytes(public))
    revocation = list(PacketPile.from_bytes(bytes(public.revoke(secret.certifier()))))
    revoked = bytes(pysequoia.Cert.from_packets([first, *revocation, *rest]))
    (keyring / "pgp-public").write_bytes(revoked)
    tool.fails(f"the key {fingerprint} (Ann <Ann@example.org>) is revoked", "verify", "-l", image)
    assert "Trouble:           it is revoked" in tool.ok("key", "list")

    from datetime import UTC, datetime, timedelta

    over = public.set_expiration(datetime.now(UTC) + timedelta(seconds=2), secret.certifier())
    (keyring / "pgp-public").write_bytes(bytes(over))
    import time

    time.sleep(2.5)
    tool.fails("has expired on", "verify", "-l", image)

    tool.ok("key", "remove", fingerprint)
    tool.fails("signature made by unknown entity", "verify", "-l", image)
    (keyring / "pgp-public").write_bytes(b"\xff\xff no keys")
    tool.fails("no OpenPGP keys can be read there", "verify", "-l", image)


def test_keys_go_out_and_in(user_tool: Tool, plain_user: Person, open_dir: Path) -> None:
    tool = user_tool
    fingerprint = tool.key("Bob", passphrase="pw")
    tool.ok("key", "export", "--armor", "bob.asc")
    tool.ok("key", "export", "--armor", "--secret", "bob.secret.asc")
    assert (tool.home / "bob.secret.asc").stat().st_mode & 0o777 == 0o600
    tool.fails("is there already", "key", "export", "bob.asc")
    gpg = need("gpg")
    home = tool.file("x", b"").parent / "gnupg"
    home.mkdir(mode=0o700)
    os.chown(home, tool.person.uid, tool.person.gid)
    words = [gpg, "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "pw"]
    done = tool.person.run([*words, "--import", "bob.secret.asc"])
    assert done.returncode == 0 and "secret keys imported: 1" in done.stderr, done.stderr
    signed = tool.person.run([*words, "--clearsign"], input="text\n")
    assert signed.returncode == 0 and "BEGIN PGP SIGNATURE" in signed.stdout, signed.stderr
    tool.person.run(["gpgconf", "--homedir", home, "--kill", "all"])

    other = [*("--keysdir", tool.home / "other")]
    tool.ok("key", "import", *other, "bob.secret.asc")
    assert "already in the keyring" in tool("key", "import", *other, "bob.secret.asc").stderr
    image = tool.sif()
    tool.ok("sign", *other, image, input="pw\n")
    tool.ok("verify", "-l", *other, image)
    tool.fails("no public key", "key", "remove", *other, "0" * 40)
    tool.ok("key", "remove", "--both", *other, fingerprint)
    assert tool.ok("key", "list", *other).count("Fingerprint") == 0
    tool.fails("can be read by everybody", "key", "newpair", "--password=x", "-N", "a", "-E", "b")
    tool.fails("no OpenPGP keys", "key", "import", tool.file("junk", b"junk"))


def test_a_key_server(user_tool: Tool) -> None:
    tool, image = user_tool, user_tool.sif()
    fingerprint, other = tool.key(), tool.key("Eve")
    tool.ok("sign", "--keyidx", 0, image, stdin=subprocess.DEVNULL)
    tool.fails("which of your 2 keys?", "sign", image, stdin=subprocess.DEVNULL)
    with FakeKeyserver() as server:
        tool.ok("key", "push", "--url", server.url, fingerprint)
        tool.ok("key", "push", "--url", server.url, other)
        server.keys = {
            fingerprint: ("Ann <Ann@example.org>", server.added[0]),
            other: ("Eve <Eve@example.org>", server.added[1]),
        }
        tool.ok("key", "remove", fingerprint)
        tool.fails("unknown entity", "verify", "--local", image)
        assert not [path for path in server.requests if "lookup" in path]
        out = tool.ok("verify", "--url", server.url, image)
        assert "[REMOTE]           Signing entity: Ann <Ann@example.org>" in out
        assert (
            json.loads(tool.ok("verify", "--json", "--url", server.url, image))["SignerKeys"][0]["Signer"]["KeyLocal"]
            is False
        )
        assert f"{fingerprint}  Ann <Ann@example.org>" in tool.ok("key", "search", "--url", server.url, "ann")
        assert "Showing 0 results" in tool("key", "search", "--url", server.url, "nobody").stderr
        server.wrong = server.added[1]
        tool.fails("sends another one", "key", "pull", "--url", server.url, fingerprint)
        tool.fails("unknown entity", "verify", "--url", server.url, image)
        server.wrong = ""
        tool.ok("key", "pull", "--url", server.url, fingerprint)
        tool.fails("has no key", "key", "pull", "--url", server.url, "1" * 40)
        tool.fails("offline", "key", "pull", "--url", server.url, fingerprint, env={"HPCC_OFFLINE": "1"})
    tool.ok("verify", "--local", image)


@pytest.mark.parametrize("kind", ["p256", "ed25519", "rsa"])
def test_keys_in_pem(user_tool: Tool, kind: str) -> None:
    tool, image = user_tool, user_tool.sif()
    private: Any = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }[kind]()
    encryption = serialization.BestAvailableEncryption(b"pw") if kind == "p256" else serialization.NoEncryption()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = tool.file("private.pem", private.private_bytes(pem, form, encryption))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public = tool.file("public.pem", private.public_key().public_bytes(pem, spki))
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    other = tool.file("other.pem", stranger.public_bytes(pem, spki))
    if kind == "p256":
        tool.fails("passphrase", "sign", "--key", key, image, input="wrong\n")
    tool.ok("sign", "--key", key, image, input="pw\n")
    assert "Signing entity" not in tool.ok("verify", "--key", public, image)
    tool.fails("not signed by this key", "verify", "--key", other, image)
    tool.fails("no public key", "verify", "--key", key, image)
    tool.fails("it is by a key in PEM", "verify", "--local", image)
    whole = image.read_bytes()
    at = whole.index(b"some data")
    tool.file("changed.sif", whole[:at] + b"S" + whole[at + 1 :])
    tool.fails("data object integrity compromised: 2", "verify", "--key", public, "changed.sif")


def test_without_the_library(user_tool: Tool) -> None:
    """Of an installation without the extra: which one to install."""
    tool, image = user_tool, user_tool.sif()
    tool.key()
    unsigned = tool.sif("unsigned.sif")
    tool.ok("sign", image, stdin=subprocess.DEVNULL)
    tool.hpcc = installation.install(("compress",)).hpcc
    for command in (["sign", image], ["verify", image], ["key", "list"]):
        tool.fails("pip install 'hpcc[sign]'", *command)
    tool.fails("no signatures found", "verify", unsigned)


def test_what_is_no_sif(user_tool: Tool) -> None:
    tool = user_tool
    tool.fails("No such file", "verify", "missing.sif")
    tool.fails("not a SIF", "sign", tool.file("text", b"x" * 300))
    tool.ok("sif", "new", "empty.sif")
    tool.fails("no group of objects", "verify", "--local", "empty.sif")
