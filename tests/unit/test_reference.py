"""References: what people write, in one canonical form; and digests, which end them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import HpccError, IntegrityError, InvalidReference
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.reference import Reference, api_host, canonical_registry

HEX = "0123456789abcdef" * 4
SHA = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "canonical", "file_name"),
    [
        ("docker://debian", "docker.io/library/debian:latest", "debian_latest.sif"),
        ("debian:12", "docker.io/library/debian:12", "debian_12.sif"),
        ("docker://biocontainers/samtools:1.9--h91753b0_8", "docker.io/biocontainers/samtools:1.9--h91753b0_8", None),
        ("docker.io/debian", "docker.io/library/debian:latest", None),
        ("index.docker.io/debian", "docker.io/library/debian:latest", None),
        ("docker://registry-1.docker.io/library/debian:12", "docker.io/library/debian:12", None),
        ("Docker.IO/debian", "docker.io/library/debian:latest", None),
        ("localhost/a:1", "localhost/a:1", "a_1.sif"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", "b_latest.sif"),
        ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a:1", None),
        ("[::1]:5000/a", "[::1]:5000/a:latest", None),
        ("[2001:DB8:0::1]/a", "[2001:db8::1]/a:latest", None),
        ("nvcr.io/nvidia/pytorch:24.01-py3", "nvcr.io/nvidia/pytorch:24.01-py3", "pytorch_24.01-py3.sif"),
        ("host:05000/a", "host:5000/a:latest", None),
        (f"debian@{SHA}", f"docker.io/library/debian@{SHA}", f"debian_sha256.{HEX}.sif"),
        (f"debian:12@{SHA}", f"docker.io/library/debian@{SHA}", f"debian_sha256.{HEX}.sif"),
        (f"quay.io/a/b@sha512:{HEX}{HEX}", f"quay.io/a/b@sha512:{HEX}{HEX}", None),
        ("localhost:5000", "docker.io/library/localhost:5000", None),  # as Docker: no slash, so no host
        ("a/b__c.d-_-".replace("-_-", "--e"), "docker.io/a/b__c.d--e:latest", None),
    ],
)
def test_parses(text: str, canonical: str, file_name: str | None) -> None:
    reference = Reference.parse(text)
    assert reference.canonical == canonical
    assert Reference.parse(str(reference)) == reference
    assert str(reference).startswith("docker://")
    if file_name:
        assert reference.file_name == file_name


def test_tag_beside_digest_is_kept() -> None:
    reference = Reference.parse(f"debian:12@{SHA}")
    assert (reference.tag, str(reference.digest), reference.tag_or_digest) == ("12", SHA, SHA)
    assert str(reference) == f"docker://docker.io/library/debian:12@{SHA}"
    assert Reference.parse(f"debian@{SHA}").tag is None


def test_api_host() -> None:
    assert Reference.parse("debian").api_host == "registry-1.docker.io"
    assert Reference.parse("quay.io/a").api_host == "quay.io"
    assert api_host("docker.io") == api_host("index.docker.io") == "registry-1.docker.io"
    assert canonical_registry("Registry-1.Docker.io") == "docker.io"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("docker://Debian", "upper case 'D'"),
        ("quay.io/Group/name", "upper case 'G'"),
        ("MyUser/image", "upper case 'M'"),
        ("docker://", "names no repository"),
        ("", "names no repository"),
        ("oras://quay.io/a", "not a docker://"),
        ("a//b", "empty"),
        ("quay.io/", "empty"),
        ("/a", "empty"),
        ("a b", "' ' cannot"),
        ("a\nb", "cannot"),
        ("-a", "begin and end"),
        ("a..b", "may stand between"),
        ("a___b", "may stand between"),
        ("a:", "is no tag"),
        ("a:-b", "is no tag"),
        ("a:" + "b" * 129, "is no tag"),
        ("a:b@", "is no digest"),
        ("a@sha256:12", "64 digits"),
        (f"a@sha256:{HEX.upper()}", "64 digits"),
        (f"a@md5:{HEX}", "is no digest"),
        ("host:0/a", "is no host"),
        ("host:65536/a", "is no host"),
        ("host:x/a", "is no host"),
        ("ho_st.de/a", "is no host"),
        ("[::1/a", "is no host"),
        ("[::g]/a", "is no host"),
        ("[fe80::1%eth0]/a", "is no host"),
        ("a.-b.de/a", "is no host"),
        (HEX, "image id"),
        ("a" * 256, "longer than 255"),
        ("a" * 2000, "too long"),
        ("дебиан", "cannot stand"),
    ],
)
def test_refuses(text: str, says: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert says in caught.value.message


_part = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,2}", fullmatch=True).filter(lambda part: len(part) < 30)
_host = st.sampled_from(
    ["", "localhost/", "quay.io/", "h:5000/", "[::1]:443/", "10.0.0.1/", "a.b.example:1/", "docker.io/"]
)
_tag = st.one_of(st.just(""), st.from_regex(r"\A:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z"))
_digest = st.one_of(st.just(""), st.binary(max_size=8).map(lambda data: f"@{Digest.of(data)}"))


@settings(deadline=None)  # other work on the machine must not count
@given(_host, st.lists(_part, min_size=1, max_size=4), _tag, _digest)
def test_round_trip(host: str, parts: list[str], tag: str, digest: str) -> None:
    text = f"{host}{'/'.join(parts)}{tag}{digest}"
    if parts[0] == "localhost" or ("." in parts[0] and len(parts) > 1 and not host):
        return  # read as a host
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.canonical).canonical == reference.canonical
    assert reference.repository.endswith("/".join(parts))
    assert "/" not in reference.file_name


@settings(deadline=None)  # other work on the machine must not count
@given(st.text(alphabet=st.sampled_from("aZ0.:/@-_[]%é\n sha256docker"), max_size=60))
def test_anything_parses_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference


def test_digest() -> None:
    assert str(Digest.of(b"")) == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Digest.parse(str(Digest.of(b"x", "sha512"))) == Digest.of(b"x", "sha512")
    for text in ("", "sha256", "sha256:", ":" + HEX, "SHA256:" + HEX, SHA + "0", SHA[:-1] + "g", SHA[:-1] + "\n"):
        with pytest.raises(InvalidReference):
            Digest.parse(text)


@settings(deadline=None)  # other work on the machine must not count
@given(st.lists(st.binary(max_size=50), max_size=5))
def test_verifier_accepts(chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    verifier = Verifier(Digest.of(data), len(data))
    for chunk in chunks:
        verifier.update(chunk)
    verifier.finish()
    assert verifier.seen == len(data)


def test_verifier_refuses() -> None:
    verifier = Verifier(Digest.of(b"abc"), 3, "the layer")
    verifier.update(b"ab")
    with pytest.raises(IntegrityError, match="the layer: expected 3 bytes, found 2"):
        verifier.finish()
    with pytest.raises(IntegrityError, match="expected 3 bytes, found at least 4"):
        verifier.update(b"cd")
    verifier = Verifier(Digest.of(b"abc"), 3)
    verifier.update(b"abd")
    with pytest.raises(IntegrityError, match=f"expected digest {Digest.of(b'abc')}, found {Digest.of(b'abd')}"):
        verifier.finish()
    assert issubclass(IntegrityError, HpccError)
