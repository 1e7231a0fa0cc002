"""Whether an image is signed by a key that the site trusts, where the site wants that: signed and signature_keys.

    digest  --tag sha256-<hex>.sig-->  signature manifest  -->  payload  --key-->  the digest, or not

The site's word counts for a digest, whatever name or registry it came by: that of the index or manifest that the
reference names, or that of the manifest for the platform. Signatures are kept in the cache beside the image, so that
they can be asked again without a network; that they were good once is noted nowhere. They are looked at in each run,
by the keys that the site has now. So a site that no longer trusts a signer takes the key out of signature_keys; to
remove a signature from a registry does not reach those who have it.

What is read is in hpcc.oci.signature. The scheme follows from the key, with SHA-256, as in cosign ("Cosign Signature
Specifications", "Signature Schemes", "Hashing Algorithms"): ECDSA on P-256, P-384 or P-521, Ed25519, and RSA by
PKCS #1 v1.5 or PSS. This is on the way of each run of such an image: what talks to registries is not imported here.
"""

from __future__ import annotations

import time

from hpcc.cache.blobs import read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.refs import Ref, read_ref, write_ref
from hpcc.errors import ImageNotFound, InvalidImage, PolicyError, SettingsError
from hpcc.oci.digest import Digest
from hpcc.oci.reference import covers
from hpcc.oci.signature import parse_payload, parse_signatures, signature_tag
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.registry.sink import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from hpcc.oci.manifest import Descriptor
    from hpcc.oci.reference import Reference
    from hpcc.registry.upstream import Upstream
from hpcc.settings import Settings

MAX_KEY = 64 << 10  # bytes of a file with a public key
LEAST_RSA = 2048  # bits; SP 800-131A, "Digital Signatures"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


class Key(NamedTuple):
    """A public key that the site trusts, and the file that it came from."""

    path: str
    public: Any


def needs_signature(name: str, settings: Settings) -> bool:
    """Whether the site wants images of this name (registry/repository) signed."""
    return any(covers(pattern, name) for pattern in settings.signed)


def is_signed_in_cache(
    reference: Reference, digests: Sequence[Digest], caches: tuple[Cache, ...], settings: Settings
) -> bool:
    """Whether one of the digests is signed by one of the site's keys, as far as these caches tell. Sends nothing.

    Whoever writes to a cache can add or spoil signatures there, but make none: each is verified here and now. Raises
    SettingsError as `read_keys`.
    """
    keys = read_keys(settings)
    return any(_is_signed_in_cache(reference, digest, caches, keys) for digest in dict.fromkeys(digests))


def check_signed(
    reference: Reference,
    digests: Sequence[Digest],
    upstream: Upstream,
    tier: Cache,
    readable: tuple[Cache, ...],
    settings: Settings,
) -> None:
    """PolicyError unless one of the digests is signed by one of the site's keys.

    Where what the caches have does not do, upstream is asked what each digest's tag names now; good signatures are
    kept in the tier. `readable` are the caches that an image of this tier may use. SettingsError as `read_keys`;
    ImageNotFound where nobody may be asked; RegistryError from a registry that does not answer; IntegrityError;
    CacheError.
    """
    keys = read_keys(settings)
    caches = (tier, *(cache for cache in readable if cache.root != tier.root))
    wanted = tuple(dict.fromkeys(digests))
    if any(_is_signed_in_cache(reference, digest, caches, keys) for digest in wanted):
        return
    reasons = []
    for digest in wanted:
        reason = _ask(reference, digest, upstream, caches, keys, settings)
        if not reason:
            return
        reasons.append(f"{digest} {reason}")
    raise PolicyError(
        f"{reference}: this site wants it signed (signed = {', '.join(settings.signed)}) by a key in "
        f"{' or '.join(key.path for key in keys)}. {'; '.join(reasons)}.",
        hint=f"Have it signed: cosign sign --key KEY {reference.name}@{wanted[0]}. cosign 3 wants --new-bundle-format="
        "false --use-signing-config=false too, since hpcc reads signatures at tags, no bundles. Or ask your "
        "administrator.",
    )


def _is_signed_in_cache(reference: Reference, digest: Digest, caches: tuple[Cache, ...], keys: Sequence[Key]) -> bool:
    tag = signature_tag(digest)
    for cache in caches if tag else ():
        ref = read_ref(cache, reference.name, tag)
        data = read_blob(caches, Digest.parse(ref.digest)) if ref else None
        if data is not None and not _judge(digest, data, lambda payload: read_blob(caches, payload.digest), keys):
            return True
    return False


def _ask(
    reference: Reference,
    digest: Digest,
    upstream: Upstream,
    caches: tuple[Cache, ...],
    keys: Sequence[Key],
    settings: Settings,
) -> str:
    """Why the digest does not count as signed by what upstream has now; "" where it does, with all that kept."""
    from hpcc.registry.upstream import Offline

    tag = signature_tag(digest)
    if not tag:
        return "has no signature, since it is too long for the tag at which one would be"
    try:
        found = upstream.resolve(tag)
        top = found.descriptor
        data = read_blob(caches, top.digest) or upstream.manifest(top.digest)
    except ImageNotFound as error:
        if isinstance(upstream, Offline):
            raise ImageNotFound(
                f"this site wants images of {reference.name} signed, and the cache has no signature of {digest} that "
                f"would do: {error.message}",
                hint=error.hint,
            ) from None
        return f"has no signature (no tag {tag})"
    tier = caches[0]
    if found.private and not any(covers(pattern, reference.name) for pattern in settings.share):
        tier = Cache(settings.private_dir, settings.trusted_users, settings.trusted_groups)
    fetched = {top.digest: data}

    def payload(descriptor: Descriptor) -> bytes | None:
        if descriptor.digest not in fetched:
            kept = read_blob(caches, descriptor.digest)
            try:
                fetched[descriptor.digest] = _fetch(upstream, descriptor) if kept is None else kept
            except ImageNotFound:
                return None
        return fetched[descriptor.digest]

    reason = _judge(digest, data, payload, keys)
    if reason:
        return reason
    for each, content in fetched.items():
        if read_blob((tier,), each) is None:
            tier.write(tier.blob(each.algorithm, each.hex), content)
    ref = Ref(f"{reference.name}:{tag}", str(top.digest), top.media_type, top.size, time.time())
    write_ref(tier, reference.name, tag, ref)
    return ""


def _fetch(upstream: Upstream, descriptor: Descriptor) -> bytes:
    sink = Memory()
    upstream.fetch(descriptor, sink)
    return bytes(sink.data)


def _judge(digest: Digest, manifest: bytes, payload: Callable[[Descriptor], bytes | None], keys: Sequence[Key]) -> str:
    """Why none of the signatures in a manifest is one of the digest by one of the keys; "" where one is.

    payload: the bytes of a payload, verified by its digest, or None where they cannot be had.
    """
    try:
        signatures = parse_signatures(manifest)
    except InvalidImage as error:
        return f"has no signature that can be read ({error.message})"
    reason = f"is signed by none of these keys ({len(signatures)} other signatures)"
    for each in signatures:
        data = payload(each.payload)
        if data is None or not any(_is_by(key, each.signature, data) for key in keys):
            continue
        try:
            signed = parse_payload(data).digest
        except InvalidImage as error:
            reason = f"has no signature that can be read ({error.message})"
            continue
        if signed == digest:
            return ""
        reason = f"has only a signature of another image, {signed}"  # put there by whoever can push, not by the signer
    return reason


# -- keys --------------------------------------------------------------------------------------------------------


def read_keys(settings: Settings) -> tuple[Key, ...]:
    """The site's public keys, at least one. SettingsError for a file that is missing or no public key that hpcc can
    use, for no files, for keys that anybody may replace though `signed` is locked, and without cryptography.
    """
    if not settings.signature_keys:
        raise SettingsError(
            f"{settings.origins['signed']}: images must be signed, and signature_keys names no key",
            hint='Set signature_keys to files with public keys, such as ["/etc/hpcc/cosign.pub"].',
        )
    locked = settings.origins["signed"].endswith(", locked")
    if locked and not settings.origins["signature_keys"].endswith(", locked"):
        raise SettingsError(
            "signed is locked, and signature_keys is not: each user could name a key of their own",
            hint="Put signature_keys into [locked] too.",
        )
    return tuple(_read_key(path) for path in settings.signature_keys)


def _read_key(path: str) -> Key:
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise SettingsError(
            "images must be signed here (the setting signed), and hpcc cannot verify that without cryptography",
            hint="Install it: pip install 'hpcc[sign]'.",
        ) from None
    hint = "signature_keys names files with one public key each in PEM, as cosign.pub from cosign generate-key-pair."
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_KEY + 1)
    except OSError as error:
        raise SettingsError(f"{path}: the public key cannot be read: {error.strerror}", hint=hint) from None
    if len(data) > MAX_KEY or data.count(b"-----BEGIN ") != 1:  # of several, all but the first would be passed over
        raise SettingsError(f"{path}: not one public key in PEM", hint=hint)
    try:
        public = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{path}: no public key in PEM", hint=hint) from None
    why = _unusable(public)
    if why:
        raise SettingsError(f"{path}: {why}", hint="Use a key from cosign generate-key-pair.")
    return Key(path, public)


def _unusable(public: Any) -> str:
    """Why hpcc does not verify by such a key; "" where it does."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(public, ec.EllipticCurvePublicKey):
        return "" if public.curve.name in CURVES else f"a key on the curve {public.curve.name}, not on {CURVES}"
    if isinstance(public, rsa.RSAPublicKey):
        return "" if public.key_size >= LEAST_RSA else f"an RSA key of {public.key_size} bits, fewer than {LEAST_RSA}"
    return "" if isinstance(public, ed25519.Ed25519PublicKey) else "neither an ECDSA, an Ed25519 nor an RSA key"


def _is_by(key: Key, signature: bytes, data: bytes) -> bool:
    """Whether the signature is one of these bytes by this key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
    from cryptography.hazmat.primitives.hashes import SHA256

    public, sha256 = key.public, SHA256()
    tries: tuple[tuple[Any, ...], ...]
    if isinstance(public, ec.EllipticCurvePublicKey):
        tries = ((ec.ECDSA(sha256),),)
    elif isinstance(public, ed25519.Ed25519PublicKey):
        tries = ((),)
    else:
        pss = padding.PSS(padding.MGF1(sha256), padding.PSS.AUTO)
        tries = ((padding.PKCS1v15(), sha256), (pss, sha256))
    for scheme in tries:
        try:
            public.verify(signature, data, *scheme)
            return True
        except InvalidSignature:
            continue
    return False
