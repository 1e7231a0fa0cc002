"""Why an image was fetched, or would be: the way of a run through the caches, step by step, without taking it.

name -> tag -> index -> manifest -> SIF, and the layers that a new SIF would need
"""

import os
import time

from hpcc.cache.blobs import read_blob
from hpcc.cache.layout import Cache
from hpcc.cache.limits import Standing, list_standings, this_host
from hpcc.cache.refs import read_ref, read_run_ref
from hpcc.compressors import converter_id
from hpcc.convert import pack_name
from hpcc.errors import HpccError
from hpcc.lookup import Wanted, choose_cached, find_cached, known_digests, open_cached, origin_of, run_of, tiers
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Manifest, parse_manifest
from hpcc.oci.reference import Reference, canonical_registry
from hpcc.records import NamedTuple
from hpcc.registry.answers import clock
from hpcc.settings import Settings


class Step(NamedTuple):
    """One thing that was looked at. good: the cache has it, or it does not stand in the way."""

    what: str
    good: bool
    said: str


class Explanation(NamedTuple):
    """The steps in their order, and in one sentence what a run would do now."""

    steps: tuple[Step, ...]
    verdict: str


def explain(wanted: Wanted, settings: Settings) -> Explanation:
    """What the caches know of the image. Sends nothing, changes nothing but what a look-up does. Raises HpccError."""
    caches = tiers(settings)
    reference = wanted.reference
    steps = [_name(wanted), *_tag_steps(reference, caches, settings)]
    digest = next((known.digest for known in known_digests(reference, caches, settings)), reference.digest)
    stale = next((known.digest for known in known_digests(reference, caches, settings, stale=True)), None)
    chosen = _chosen(caches, digest or stale, wanted)
    if digest or stale:
        steps.append(_manifest_step(chosen, digest or stale))
    missing: list[str] = []
    if chosen is not None:
        steps.append(_sif_step(wanted, chosen, caches, settings))
        layers, missing = _layer_step(caches, chosen, converter_id(settings.compression))
        steps.append(layers)
    standings = _standings(reference, caches)
    steps += [
        Step("registry", False, f"{each.registry} is left alone until {clock(each.not_before)}: {each.why}")
        for each in standings
    ]
    until = max((each.not_before for each in standings), default=0.0) if settings.pull != "always" else 0.0
    return Explanation(tuple(steps), _verdict(wanted, settings, digest, chosen, missing, until))


def _name(wanted: Wanted) -> Step:
    reference = wanted.reference
    said = f"{reference.canonical} for {wanted.platform}"
    if reference.digest is not None and "@" not in wanted.uri:
        said += ", as hpcc.lock has it"
    return Step("name", True, said)


def _tag_steps(reference: Reference, caches: tuple[Cache, ...], settings: Settings) -> list[Step]:
    if reference.digest is not None:
        return [Step("tag", True, "a digest is given, so no tag is looked up")]
    tag = str(reference.tag)
    steps = []
    run = run_of(settings)
    if run:
        pin = read_run_ref(caches[-1], run, reference.name, tag)
        said = f"means {_short(pin.digest)} in this job or run" if pin else "was not used yet in this job or run"
        steps.append(Step("run", pin is not None, f"{reference.tag} {said}"))
    for label, cache in zip(_labels(caches), caches, strict=True):
        ref = read_ref(cache, reference.name, tag)
        if ref is not None:
            age = time.time() - ref.checked_at
            fresh = settings.pull != "always" and (settings.pull != "newer" or abs(age) < settings.ttl)
            rule = f"--pull {settings.pull}" if settings.pull != "newer" else f"ttl {_span(settings.ttl)}"
            said = f"{label}: {_short(ref.digest)}, looked up {_span(age)} ago ({rule})"
            steps.append(Step("tag", fresh or settings.offline, said))
    if not any(step.what == "tag" for step in steps):
        steps.append(Step("tag", False, f"nobody looked {tag} up yet, as far as these caches know"))
    return steps


def _chosen(caches: tuple[Cache, ...], digest: Digest | None, wanted: Wanted) -> Digest | None:
    return choose_cached(caches, digest, wanted) if digest is not None else None


def _manifest_step(chosen: Digest | None, digest: Digest | None) -> Step:
    if chosen is None:
        return Step("manifest", False, f"{_short(str(digest))} is not here, or not whole: fetching it counts")
    return Step("manifest", True, f"{_short(str(chosen))} is here")


def _sif_step(wanted: Wanted, chosen: Digest, caches: tuple[Cache, ...], settings: Settings) -> Step:
    origin = origin_of(wanted.reference, chosen, wanted.platform, settings)
    image = open_cached(caches, origin, wanted.uri)
    if image is not None:
        os.close(image.rootfs.fd)
        return Step("SIF", True, image.path)
    there = [cache.sif(origin.key) for cache in caches if os.path.lexists(cache.sif(origin.key))]
    if there:
        return Step("SIF", False, f"{there[0]} is damaged, or its owner is nobody whom the cache trusts")
    return Step("SIF", False, f"none by this converter ({origin.converter}): never made, or cleaned away")


def _layer_step(caches: tuple[Cache, ...], chosen: Digest, converter: str) -> tuple[Step, list[str]]:
    """What is there of the layers, and the sizes of those that would be fetched."""
    manifest = parse_manifest(read_blob(caches, chosen) or b"{}")
    assert isinstance(manifest, Manifest)
    data = read_blob(caches, manifest.config.digest)
    if data is None:
        return Step("layers", False, "the image's config is not here, and tells which they are"), []
    packs, blobs, missing = 0, 0, []
    for layer, diff_id in zip(manifest.layers, ImageConfig.parse(data).diff_ids, strict=False):
        if _has(caches, [cache.pack(pack_name(diff_id, converter)) for cache in caches]):
            packs += 1
        elif _has(caches, [cache.blob(layer.digest.algorithm, layer.digest.hex) for cache in caches]):
            blobs += 1
        else:
            missing.append(f"{layer.size / 1e6:.1f} MB")
    count = len(manifest.layers)
    said = f"{packs} of {count} converted, {blobs} as they came, {len(missing)} not here"
    return Step("layers", not missing, said), missing


def _has(caches: tuple[Cache, ...], paths: list[str]) -> bool:
    for cache, path in zip(caches, paths, strict=True):
        fd = cache.open(path)
        if fd is not None:
            os.close(fd)
            return True
    return False


def _standings(reference: Reference, caches: tuple[Cache, ...]) -> list[Standing]:
    """What keeps a run on this host from asking the registry."""
    now, registry = time.time(), canonical_registry(reference.api_host)
    found = [each for cache in caches[-2:] for each in list_standings(cache)]
    here = [each for each in found if not each.who.startswith("host ") or each.who == this_host()]
    return [each for each in here if each.registry == registry and each.not_before > now]


def _verdict(
    wanted: Wanted,
    settings: Settings,
    digest: Digest | None,
    chosen: Digest | None,
    missing: list[str],
    until: float,
) -> str:
    """until: when the registry may be asked again; 0 for now."""
    try:
        image = find_cached(wanted, settings)
    except HpccError as error:
        return f"A run fails now: {error.message}"
    if image is not None:
        os.close(image.rootfs.fd)
        return "A run starts from the cache now, and sends nothing."
    if settings.offline or settings.pull == "never":
        if chosen is not None and not missing:
            return "A run makes the SIF anew from what is here now, and sends nothing."
        return "A run fails now: the cache does not have all of it, and no registry is asked."
    if until and (digest is None or chosen is None or missing):
        return f"A run uses an older copy where there is one, and else ends with status 75, until {clock(until)}."
    asks = "" if digest is not None else "asks for the tag by HEAD, which costs no quota, and then "
    if chosen is None:
        return f"A run {asks}fetches a manifest, which counts, and the layers that are not here."
    then = f"fetches {len(missing)} layer(s) ({', '.join(missing[:8])})" if missing else "fetches nothing"
    moved = "" if digest is not None else ", unless the tag has moved"
    return f"A run {asks}{then}{moved}."


def _labels(caches: tuple[Cache, ...]) -> list[str]:
    return [*("library" for _ in caches[:-2]), "shared cache", "private cache"]


def _short(digest: str) -> str:
    return digest[:19]


def _span(seconds: float) -> str:
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    if abs(seconds) < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if abs(seconds) < 172800 else f"{seconds / 86400:.0f} days"
