"""Images that a site wants signed: by keys of this test in cosign's form, and by openssl as an independent judge."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from hpcc.cache.layout import Cache
from hpcc.cache.refs import Ref, read_ref, write_ref
from hpcc.errors import HpccError, ImageNotFound, IntegrityError, PolicyError, RegistryUnavailable, SettingsError
from hpcc.image import open_image
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_INDEX, OCI_MANIFEST
from hpcc.oci.reference import Reference
from hpcc.oci.signature import ANNOTATION, SIMPLE_SIGNING, TYPE, signature_tag
from hpcc.registry import transport
from hpcc.registry.fake import FakeRegistry, Faults
from hpcc.registry.upstream import Offline
from hpcc.settings import Settings
from hpcc.sources.docker import connect
from hpcc.sources.signatures import check_signed, is_signed_in_cache, needs_signature, read_keys
from tests.support.people import isolated
from tests.support.pulls import Told, config_of, noise, settings_of, tar_layer

NAME = "site/tool"
IMAGE, OTHER = Digest.of(b"image"), Digest.of(b"another image")
LAYERS = [tar_layer({"a": noise(30_000)})]
SHA256 = hashes.SHA256()

Signer = Callable[[bytes], bytes]

pytestmark = pytest.mark.usefixtures("hpcc_env")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.005)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


# -- cosign's part, by the test ----------------------------------------------------------------------------------


def key_pair(kind: str = "p256") -> tuple[Any, Signer]:
    """A new private key, and what signs by it as cosign does."""
    if kind in ("p256", "p384", "p521"):
        curve = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}[kind]
        elliptic = ec.generate_private_key(curve())
        return elliptic, lambda data: elliptic.sign(data, ec.ECDSA(SHA256))
    if kind == "ed25519":
        edwards = ed25519.Ed25519PrivateKey.generate()
        return edwards, edwards.sign
    private = rsa.generate_private_key(65537, 2048)
    if kind == "rsa":
        return private, lambda data: private.sign(data, padding.PKCS1v15(), SHA256)
    return private, lambda data: private.sign(data, padding.PSS(padding.MGF1(SHA256), 32), SHA256)


def write_public(private: Any, path: Path) -> str:
    """Its public key, as cosign.pub."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(private.public_key().public_bytes(serialization.Encoding.PEM, form))
    return str(path)


def claim(digest: Digest) -> bytes:
    image, identity = {"docker-manifest-digest": str(digest)}, {"docker-reference": f"quay.io/{NAME}"}
    return json.dumps({"critical": {"identity": identity, "image": image, "type": TYPE}, "optional": None}).encode()


def attach(registry: FakeRegistry, digest: Digest, *signatures: tuple[bytes, bytes]) -> Digest:
    """Serve these (payload, signature) at the digest's tag, instead of what was there; the manifest's digest."""
    layers = [
        {
            "mediaType": SIMPLE_SIGNING,
            **registry.add_blob(payload),
            "annotations": {ANNOTATION: base64.b64encode(signature).decode()},
        }
        for payload, signature in signatures
    ]
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", **registry.add_blob(b"{}")}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    return registry.add_manifest(NAME, signature_tag(digest), json.dumps(document).encode(), OCI_MANIFEST)


def sign(registry: FakeRegistry, digest: Digest, *signers: Signer) -> Digest:
    return attach(registry, digest, *((claim(digest), signer(claim(digest))) for signer in signers))


# -- hpcc's part -------------------------------------------------------------------------------------------------


class Site:
    """A site that wants all images of the registry signed by the key in cosign.pub."""

    def __init__(self, registry: FakeRegistry, home: Path) -> None:
        self.registry, self.home = registry, home
        self.private, self.signer = key_pair()
        self.key = write_public(self.private, home / "cosign.pub")
        self.reference = Reference.parse(f"{registry.host}/{NAME}:1")
        self.uri = str(self.reference)

    def settings(self, **more: str) -> Settings:
        own = {"HPCC_SIGNED": f"{self.registry.host}/*", "HPCC_SIGNATURE_KEYS": self.key}
        return settings_of(self.home, **{**own, **more})

    @property
    def shared(self) -> Cache:
        return Cache(self.settings().cache_dir)

    @property
    def private_tier(self) -> Cache:
        return Cache(self.settings().private_dir)

    def check(self, *digests: Digest, **more: str) -> None:
        settings = self.settings(**more)
        with connect(self.reference, settings) as upstream:
            check_signed(self.reference, digests or (IMAGE,), upstream, self.shared, (self.shared,), settings)

    def check_offline(self, *digests: Digest) -> None:
        nobody = Offline(self.reference.name, "--offline")
        check_signed(self.reference, digests or (IMAGE,), nobody, self.shared, (), self.settings())

    def in_cache(self, *digests: Digest, **more: str) -> bool:
        caches = (self.shared, self.private_tier)
        return is_signed_in_cache(self.reference, digests or (IMAGE,), caches, self.settings(**more))

    def open(self, **more: str) -> str:
        image = open_image(self.uri, self.settings(**more), progress=Told())
        os.close(image.rootfs.fd)
        return image.key


@pytest.fixture
def site(registry: FakeRegistry, hpcc_env: Path) -> Site:
    return Site(registry, hpcc_env)


def test_which_images(site: Site) -> None:
    settings = site.settings(HPCC_SIGNED="quay.io/site/*, docker.io")
    names = ["quay.io/site/tool", "quay.io/sites/x", "quay.io/other/tool", "docker.io/library/debian"]
    assert [needs_signature(name, settings) for name in names] == [True, False, False, True]
    assert not needs_signature("quay.io/site/tool", settings_of(site.home))
    assert needs_signature("any.example/x", site.settings(HPCC_SIGNED="*"))


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa", "rsa-pss"])
def test_signed(site: Site, kind: str) -> None:
    private, signer = key_pair(kind)
    write_public(private, site.home / "cosign.pub")
    manifest = sign(site.registry, IMAGE, signer)
    assert not site.in_cache()
    site.check()
    asked = len(site.registry.requests)
    assert site.registry.counts["manifest_head"] == site.registry.counts["manifest_get"] == 1
    assert site.in_cache()
    site.check()  # what the cache has will do
    site.check_offline()
    assert len(site.registry.requests) == asked
    ref = read_ref(site.shared, site.reference.name, signature_tag(IMAGE))
    assert ref is not None and ref.digest == str(manifest)


def test_either_digest_will_do(site: Site) -> None:
    sign(site.registry, IMAGE, site.signer)
    site.check(OTHER, IMAGE)
    assert site.in_cache(OTHER, IMAGE) and site.in_cache(IMAGE) and not site.in_cache(OTHER)


def test_one_key_of_several_and_one_signature_of_several(site: Site) -> None:
    second, signer = key_pair("ed25519")
    keys = f"{site.key}:{write_public(second, site.home / 'second.pub')}"
    sign(site.registry, IMAGE, key_pair()[1], signer, key_pair("rsa")[1])
    site.check(HPCC_SIGNATURE_KEYS=keys)
    assert site.in_cache(HPCC_SIGNATURE_KEYS=keys)
    assert not site.in_cache()  # the key is no longer trusted: what the cache has is of no use
    with pytest.raises(PolicyError):
        site.check()


def test_a_new_signer_is_found_though_the_cache_has_another_signature(site: Site) -> None:
    first, signer = key_pair()
    sign(site.registry, IMAGE, signer)
    site.check(HPCC_SIGNATURE_KEYS=write_public(first, site.home / "first.pub"))
    assert not site.in_cache()
    sign(site.registry, IMAGE, signer, site.signer)
    site.check()
    assert site.in_cache()


def refused(site: Site, says: str) -> PolicyError:
    """Neither now nor later, and nothing is noted."""
    with pytest.raises(PolicyError, match=says) as caught:
        site.check()
    assert not site.in_cache()
    assert read_ref(site.shared, site.reference.name, signature_tag(IMAGE)) is None
    return caught.value


def test_unsigned(site: Site) -> None:
    error = refused(site, "has no signature")
    for word in (str(site.reference), str(IMAGE), site.key, signature_tag(IMAGE), "signed = "):
        assert word in error.message
    assert f"cosign sign --key KEY {site.reference.name}@{IMAGE}" in error.hint


def test_by_another_key(site: Site) -> None:
    sign(site.registry, IMAGE, *(key_pair(kind)[1] for kind in ("p256", "p384", "ed25519", "rsa")))
    refused(site, r"none of these keys \(4 other signatures\)")


def test_replayed_from_another_image(site: Site) -> None:
    """The site's own key signed it, and somebody who can push has put it here."""
    attach(site.registry, IMAGE, (claim(OTHER), site.signer(claim(OTHER))))
    refused(site, f"another image, {OTHER}")


def test_a_signature_of_the_platform_is_none_of_the_index(site: Site) -> None:
    sign(site.registry, OTHER, site.signer)
    refused(site, "has no signature")


@pytest.mark.parametrize("how", ["other digest", "a byte more", "signature of the digest's text", "empty signature"])
def test_altered(site: Site, how: str) -> None:
    payload, signature = claim(IMAGE), site.signer(claim(IMAGE))
    if how == "other digest":
        payload, signature = claim(IMAGE), site.signer(claim(OTHER))
    elif how == "a byte more":
        payload += b" "
    elif how == "signature of the digest's text":
        signature = site.signer(str(IMAGE).encode())
    else:
        signature = b"\0"
    attach(site.registry, IMAGE, (payload, signature))
    refused(site, "none of these keys")


def test_altered_on_the_way(site: Site) -> None:
    sign(site.registry, IMAGE, site.signer)
    site.registry.faults = Faults(alter=-1, only="blobs")
    with pytest.raises(IntegrityError):
        site.check()
    assert not site.in_cache()


@pytest.mark.parametrize("kind", ["atomic container signature", TYPE])
def test_the_key_signed_something_else(site: Site, kind: str) -> None:
    """Of an image, but not as cosign; or with a condition that hpcc cannot keep."""
    document = json.loads(claim(IMAGE))
    document["critical"] |= {"type": kind, **({"not-after": "2020"} if kind == TYPE else {})}
    data = json.dumps(document).encode()
    attach(site.registry, IMAGE, (data, site.signer(data)))
    refused(site, "no signature that can be read")


def test_no_signature_at_the_tag(site: Site) -> None:
    site.registry.add_image(NAME, signature_tag(IMAGE), LAYERS, config_of(LAYERS))
    refused(site, "none of its 1 layers is a signature")
    site.registry.add_manifest(NAME, signature_tag(IMAGE), b'{"manifests": []}', OCI_INDEX)
    refused(site, "no signature that can be read")


def test_thousands_of_signatures(site: Site) -> None:
    attach(site.registry, IMAGE, *[(claim(IMAGE), site.signer(claim(IMAGE)))] * 3000)
    refused(site, "3000 entries, more than 100")
    assert site.registry.counts["blob_get"] == 0


def test_a_payload_that_is_not_there(site: Site) -> None:
    sign(site.registry, IMAGE, site.signer)
    del site.registry.blobs[str(Digest.of(claim(IMAGE)))]
    refused(site, "none of these keys")


def test_a_digest_that_no_tag_can_name(site: Site) -> None:
    long = Digest.of(b"image", "sha512")
    with pytest.raises(PolicyError, match="too long"):
        site.check(long)
    assert not site.in_cache(long)


def test_a_registry_that_does_not_answer(site: Site) -> None:
    sign(site.registry, IMAGE, site.signer)
    site.registry.faults = Faults(unavailable=-1)
    with pytest.raises(RegistryUnavailable):
        site.check()
    with pytest.raises(ImageNotFound, match=r"wants images of .* signed.*no registry is asked \(--offline\)"):
        site.check_offline()


def test_a_member_of_the_group_writes_what_he_likes(site: Site) -> None:
    """To the cache: a ref, a manifest or a payload. Each is looked at again, and makes nothing signed."""
    signer = key_pair()[1]
    manifest = sign(site.registry, IMAGE, signer)
    for digest in (manifest, Digest.of(claim(IMAGE))):
        data = site.registry.blobs.get(str(digest)) or site.registry.manifests[NAME, str(digest)][1]
        site.shared.write(site.shared.blob(digest.algorithm, digest.hex), data)
    tag = signature_tag(IMAGE)
    write_ref(site.shared, site.reference.name, tag, Ref(f"{site.reference.name}:{tag}", str(manifest), "", 0, 0.0))
    assert not site.in_cache()
    sign(site.registry, IMAGE, site.signer)
    site.check()
    assert site.in_cache()


@pytest.mark.parametrize("what", ["payload", "manifest", "ref"])
@pytest.mark.parametrize("how", ["altered", "gone"])
def test_damage_in_the_cache(site: Site, what: str, how: str) -> None:
    manifest = sign(site.registry, IMAGE, site.signer)
    site.check()
    payload = Digest.of(claim(IMAGE))
    path = {
        "payload": site.shared.blob(*payload),
        "manifest": site.shared.blob(*manifest),
        "ref": os.path.join(site.shared.tag(site.reference.name, signature_tag(IMAGE)), str(os.getuid())),
    }[what]
    os.unlink(path)
    if how == "altered":
        Path(path).write_bytes(b'{"verified": true}')
    assert not site.in_cache()
    site.check()
    assert site.in_cache()


def test_what_only_credentials_can_see_goes_into_the_private_cache(hpcc_env: Path) -> None:
    with FakeRegistry(username="ada", password="secret", private=[NAME]) as registry:
        site = Site(registry, hpcc_env)
        sign(registry, IMAGE, site.signer)
        login = {"HPCC_DOCKER_USERNAME": "ada", "HPCC_DOCKER_PASSWORD": "secret"}
        site.check(**login)
        assert site.in_cache()
        tag = signature_tag(IMAGE)
        assert read_ref(site.private_tier, site.reference.name, tag)
        assert not os.path.exists(site.shared.root)
        site.check(HPCC_SHARE=f"{registry.host}/*", **login, HPCC_PRIVATE_DIR=str(hpcc_env / "elsewhere"))
        assert read_ref(site.shared, site.reference.name, tag)


# -- openssl as judge --------------------------------------------------------------------------------------------

# Keys and signatures made by OpenSSL 3.0.19: `openssl genpkey`, `openssl pkey -pubout`, `openssl dgst -sha256 -sign`
# (pss: -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32; ed25519: openssl pkeyutl -sign -rawin).
VECTOR_IMAGE = Digest.of(b"hpcc test vector")
VECTOR = (
    '{"critical":{"identity":{"docker-reference":"quay.io/site/tool"},'
    f'"image":{{"docker-manifest-digest":"{VECTOR_IMAGE}"}},'
    '"type":"cosign container image signature"},"optional":null}'
).encode()
RSA = (
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA3Ftb2eNZOk1Jf47vaeT4VNTmjJb8TuLFPjHJtxBbjxfKoKDAhHRwX+5VYPvhQBilL4cS4A"
    "eqxRqsNAqnfcycfYjsjzVBG9rcQ5af1VFH1ir26h5k+2SJ+0bjJwiz11wPuagkYHMz/yUFxBPwAJ50ufN2AbAlFU9nfPQEGSP1ifj1ND/XWUs477ZQ"
    "onN9ets/mjKn7kZjjcF7pFBFu9ABXlF5/eGsYIvx1p7oQLkA+TbM8QznUVYeENr+VYxaXdM6uR/eSigcD8XHFAPrP/dTPg5CAlxSP8F9YB6Gv+G4n/"
    "1F4RimL4SUpSEQHrsupX6hQy7CJ3783aOKmU2wGqAp+wIDAQAB"
)
VECTORS = {
    "p256": (
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEY7nf+KpcZ6pWkVH5695e8T6KT6bq5PT5hCoTQcpA4Yu6CkoeHbuCRad0dgL3tKNR/CKNwUqRdy"
        "A9hw+ckn9VDg==",
        "MEYCIQDwMamTsDZjaRarIhPgdpkzN9nLJ57fNciFL2D2xEJOMAIhAIEPLXqBwxIzthADC8xh6+zBDZh6raelMk3uA2uc0eXn",
    ),
    "p384": (
        "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEH0LX8kqu4DVIgoL73G//9kZm2stQrVUF4dmQINTzr+FPPtTyDXy4B3TQ5vANaX7UFOyqW+5Q8nC12c"
        "+E+PPFESAGRtYLFjhZKkkw9lCMs46hOmy/fxqcNmXFlPb2vkLJ",
        "MGUCMQCbkAwmH71gf0IEwP4oHs2ZEpmb7BFp/CdxFaoj/ozAgmxjlxfCOX+3rM1dPuvYbIACMFX855OsDZ6wSHbErd5mrmhSJrm80BRUuqYcSM"
        "ZFTXRzBc8Uu19eVEqbwyJfW5F7cg==",
    ),
    "ed25519": (
        "MCowBQYDK2VwAyEANppceMo/SSN7gZfKhAqh3WsUn35qjJFOZ9wdBTdCQEc=",
        "Xsl2azgMDrEFvzhmPiqVM5Kze4ZAG57pnFNFfZslC4PbZiqoRDJoEByp50e55ZT/uzQYpODacM559T66DXqlDw==",
    ),
    "rsa": (
        RSA,
        "esrqcKuhHSOY2usPv5Ggy/zJTL5LH6c7ec/hiuQfg76TstW7gA9ApGYYqU/CYC3oWXFbbF+I0XXsMEn0TBo3IalJghmDHPzt8rjbqXsgqk6nx1"
        "Z1m3BVTh6/UUzQ80K+D9AYoHLRk4nieaNUcRSFOMNBkD/ecwFEXAIGUVw3YSJGFtCUOJQcpKPBPwrSCZStWFOMY/eujFBu3iU4dfH5mah38wuy"
        "edcsZFNR8rf6stm9iWJmm9FiarQUozk8VnEascVRuBEA44tKLqIqXXFwd/qCecUBSAp77DQhA8Xum+eoV8kwL4eQvMzD/NKehBTzP+PEvFx4IB"
        "0zZ3dom3sF4Q==",
    ),
    "rsa-pss": (
        RSA,
        "v0gNBVbiDjfD2EwYDG/G0F1ztatOUXVHcmxLT+wf87Alar5XoiUUVda8Y+B2wgqZLVIdrcAH7BBd5bq+tEWJcIMaOsZmlb8ETpuBlH0DvjPNjr"
        "/9h7/KtWtWUcRfTG8azsJzeuREFj8cAFG4ad/6cD7rRz0bCkVW0weei1XF7DdPt15YdXZezbdwIUN5rTgxxkCSxQiq9ZWfPQRBCnPeaexnNK5X"
        "TLEW0+GrFsYHNjUZJ5kERCYMThDXrDm8k1QaunWHSKi9rF5xhzJX3RHc8DwIbzxY/2WGjSwtcUPyY4tTbvUFvhgjsMBjyx3m18o0cG1OzV+3l/"
        "b3dLf0+o8HGg==",
    ),
}


@pytest.mark.parametrize("kind", VECTORS)
def test_signatures_by_openssl(site: Site, kind: str) -> None:
    public, signature = VECTORS[kind]
    Path(site.key).write_text(f"-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n")
    attach(site.registry, VECTOR_IMAGE, (VECTOR, base64.b64decode(signature)))
    site.check(VECTOR_IMAGE)
    spoilt = bytearray(base64.b64decode(signature))
    spoilt[-1] ^= 1
    attach(site.registry, IMAGE, (VECTOR, bytes(spoilt)))
    with pytest.raises(PolicyError, match="none of these keys"):
        site.check()


# -- keys --------------------------------------------------------------------------------------------------------


def test_no_keys(site: Site) -> None:
    with pytest.raises(SettingsError, match="signature_keys names no key"):
        site.in_cache(HPCC_SIGNATURE_KEYS="")
    with pytest.raises(SettingsError, match="signature_keys names no key"):
        site.check(HPCC_SIGNATURE_KEYS="")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("directory", "Is a directory"),
        (b"", "not one public key"),
        (b"ssh-ed25519 AAAA", "not one public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (b"x" * 100_000, "not one public key"),
        ("private", "no public key"),
        ("two", "not one public key"),
        ("short", "RSA key of 1024 bits"),
        ("koblitz", "curve secp256k1"),
        ("dsa", "neither an ECDSA"),
    ],
)
def test_keys_that_are_none(site: Site, content: bytes | str | None, says: str) -> None:
    path = Path(site.key)
    if content == "private":
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(site.private.private_bytes(serialization.Encoding.PEM, form, none))
    elif content == "two":
        path.write_bytes(path.read_bytes() * 2)
    elif content == "short":
        write_public(rsa.generate_private_key(65537, 1024), path)
    elif content == "koblitz":
        write_public(ec.generate_private_key(ec.SECP256K1()), path)
    elif content == "dsa":
        write_public(dsa.generate_private_key(2048), path)
    else:
        path.unlink()
        if content == "directory":
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as caught:
        site.check()
    assert site.key in caught.value.message
    with pytest.raises(SettingsError):
        site.in_cache()


def test_without_cryptography(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match="without cryptography") as caught:
        site.check()
    assert "hpcc[sign]" in caught.value.hint
    with pytest.raises(SettingsError):
        site.in_cache()


def test_a_locked_policy_has_locked_keys(site: Site) -> None:
    file = site.home / "site.toml"
    own = write_public(key_pair()[0], site.home / "own.pub")
    environ = {**isolated(site.home), "HPCC_SIGNED": "none.example", "HPCC_SIGNATURE_KEYS": own}
    lines = ['signed = ["quay.io/site/*"]', f'signature_keys = ["{site.key}"]']

    def settings(*locked: str) -> Settings:
        file.write_text("\n".join([*(set(lines) - set(locked)), "[locked]", *locked]))
        return Settings.from_environ(environ, site_file=str(file))

    both = settings(*lines)
    assert needs_signature(f"quay.io/{NAME}", both)
    assert [key.path for key in read_keys(both)] == [site.key]
    with pytest.raises(SettingsError, match="signature_keys is not"):
        read_keys(settings(lines[0]))


# -- a whole pull ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["index", "platform"])
def test_pull(site: Site, which: str) -> None:
    platform = site.registry.add_image(NAME, "1", LAYERS, config_of(LAYERS), index=True)
    top = Digest.of(site.registry.manifests[NAME, "1"][1])
    with pytest.raises(PolicyError, match=str(top)):
        site.open()
    assert not os.path.exists(site.shared.path("sif-v1"))
    sign(site.registry, top if which == "index" else platform, site.signer)
    key = site.open()
    asked = len(site.registry.requests)
    assert site.open() == site.open(HPCC_OFFLINE="1") == key
    assert len(site.registry.requests) == asked
    # Who signs is decided anew in each run, also of what the cache has had for long.
    other = write_public(key_pair()[0], site.home / "other.pub")
    with pytest.raises(PolicyError, match=r"other\.pub"):
        site.open(HPCC_SIGNATURE_KEYS=other)
    with pytest.raises(HpccError, match="no registry is asked"):
        site.open(HPCC_SIGNATURE_KEYS=other, HPCC_OFFLINE="1")


def test_an_image_from_before_the_policy(site: Site) -> None:
    digest = site.registry.add_image(NAME, "1", LAYERS, config_of(LAYERS))
    key = site.open(HPCC_SIGNED="")
    with pytest.raises(PolicyError):
        site.open()
    site.registry.faults = Faults(unavailable=-1)
    with pytest.raises(HpccError):
        site.open()
    site.registry.faults = Faults()
    sign(site.registry, digest, site.signer)
    blobs = site.registry.counts["blob_get"]
    assert site.open() == key
    assert site.registry.counts["blob_get"] == blobs + 1  # the payload, and no layer
