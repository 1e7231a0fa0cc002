"""Images that lie on this host, as Docker saved them or as OCI layouts: which one is meant, and its parts.

archive or directory --ref--> manifest, config --> OnHost, whose layers are read where they lie
"""

from __future__ import annotations

from hpcc.errors import InvalidImage, UnsupportedImage, UsageError
from hpcc.oci.choice import choose_manifest
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.document import load_object
from hpcc.oci.manifest import DOCKER_LAYER_GZIP, OCI_INDEX, Descriptor, Index, Manifest, parse_manifest
from hpcc.oci.saved import choose_saved, parse_saved
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    from hpcc.oci.platform import Platform

    class Files(Protocol):
        """Files by their paths in an archive or directory. InvalidImage for what is missing or not as it should be."""

        def __contains__(self, path: str) -> bool: ...
        def size(self, path: str) -> int: ...
        def document(self, path: str) -> bytes: ...
        def chunks(self, path: str) -> Iterator[bytes]: ...


REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
MAX_LISTED = 40


class OnHost(NamedTuple):
    """An image, looked up. digest: its manifest's, or the config's where it has none. documents: manifest and config,
    verified. The layers are as many as the config's diff ids; `read` gives the bytes of each, verified at their end
    where the layout names their digest.
    """

    digest: Digest
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    documents: tuple[tuple[Digest, bytes], ...]
    read: Callable[[Descriptor], Iterator[bytes]]


def open_saved(files: Files, ref: str) -> OnHost:
    """The image of what Docker saved. InvalidImage, UnsupportedImage, UsageError."""
    if "manifest.json" not in files:
        raise _no_saved(files)
    image = choose_saved(parse_saved(files.document("manifest.json")), ref)
    data = files.document(image.config)
    config = ImageConfig.parse(data)
    if len(config.diff_ids) != len(image.layers):
        raise InvalidImage(
            f"its config names {len(config.diff_ids)} layers, its manifest.json {len(image.layers)}",
            hint="The archive is not whole: save it again.",
        )
    paths = dict(zip(config.diff_ids, image.layers, strict=True))
    layers = tuple(Descriptor(DOCKER_LAYER_GZIP, each, files.size(paths[each])) for each in config.diff_ids)
    digest = Digest.of(data)
    return OnHost(digest, config, layers, ((digest, data),), lambda layer: files.chunks(paths[layer.digest]))


def _no_saved(files: Files) -> Exception:
    if "oci-layout" in files:
        return InvalidImage("it is an OCI layout, not what Docker saves", hint="Name it oci-archive:FILE.")
    if "repositories" in files:
        return UnsupportedImage(
            "it was saved by a Docker older than 1.10, which wrote no manifest.json",
            hint="Load it into a Docker of today, and save it again.",
        )
    return InvalidImage("it has no manifest.json, so it is not what `docker save` writes")


def open_layout(files: Files, ref: str, platform: Platform) -> OnHost:
    """The image of an OCI layout. InvalidImage, UnsupportedImage, IntegrityError, UsageError."""
    for name in ("oci-layout", "index.json"):
        if name not in files:
            other = "manifest.json" in files
            hint = "Docker saved it: name it docker-archive:FILE." if other else "An OCI layout has both."
            raise InvalidImage(f"it has no {name}, so it is no OCI layout", hint=hint)
    version = load_object(files.document("oci-layout"), "oci-layout").get("imageLayoutVersion")
    if version != "1.0.0":
        raise InvalidImage(f"an OCI layout of version {str(version)[:20]!r}, not 1.0.0")
    index = parse_manifest(files.document("index.json"), OCI_INDEX)
    if not isinstance(index, Index):
        raise InvalidImage("its index.json is no index")
    documents: dict[Digest, bytes] = {}

    def blob(descriptor: Descriptor, size: int | None) -> bytes:
        data = files.document(_path(descriptor.digest))
        verifier = Verifier(descriptor.digest, size)
        verifier.update(data)
        verifier.finish()
        documents[descriptor.digest] = data
        return data

    top = index._replace(manifests=_choose(index.manifests, ref))
    data = b"" if len({each.digest for each in top.manifests}) == 1 else files.document("index.json")
    start = Descriptor(OCI_INDEX, Digest.of(data), len(data)) if data else top.manifests[0]

    def read(descriptor: Descriptor) -> Manifest | Index:
        return top if descriptor is start and data else parse_manifest(blob(descriptor, descriptor.size))

    def runs_on(manifest: Manifest) -> Platform:
        return ImageConfig.parse(blob(manifest.config, manifest.config.size)).platform

    chosen, manifest = choose_manifest(start, platform, read, runs_on)
    config = ImageConfig.parse(blob(manifest.config, manifest.config.size))
    if len(config.diff_ids) != len(manifest.layers):
        raise InvalidImage(f"its config names {len(config.diff_ids)} layers, its manifest {len(manifest.layers)}")
    for layer in manifest.layers:
        if (size := files.size(_path(layer.digest))) != layer.size:
            raise InvalidImage(
                f"layer {layer.digest} has {size} bytes there, and its manifest says {layer.size}",
                hint="The layout is not whole: copy it again.",
            )
    kept = tuple((each, documents[each]) for each in (chosen.digest, manifest.config.digest))
    return OnHost(chosen.digest, config, manifest.layers, kept, lambda layer: _verified(files, layer))


def _verified(files: Files, layer: Descriptor) -> Iterator[bytes]:
    verifier = Verifier(layer.digest, layer.size)
    for data in files.chunks(_path(layer.digest)):
        verifier.update(data)
        yield data
    verifier.finish()


def _choose(entries: tuple[Descriptor, ...], ref: str) -> tuple[Descriptor, ...]:
    """The entries that `ref`, a name or a digest, means; without one all, if they are one image."""
    if not entries:
        raise InvalidImage("its index.json names no image")
    if ref:
        wanted = ref.removeprefix("@")
        found = tuple(each for each in entries if ref in _names(each) or str(each.digest) == wanted)
        if not found:
            raise UsageError(f"there is no image {ref[:200]!r} in it", hint=f"It has: {_listed(entries)}.")
        return found
    named = {name for each in entries for name in _names(each)[:1]}
    # One image for several platforms has one name, or none; others are different images.
    if len({each.digest for each in entries}) > 1 and (len(named) > 1 or not _is_one(entries)):
        raise UsageError("more than one image in oci, choose an image", hint=f"It has: {_listed(entries)}.")
    return entries


def _is_one(entries: tuple[Descriptor, ...]) -> bool:
    """Whether entries with one name or none differ in their platforms alone."""
    platforms = [each.platform for each in entries]
    return None not in platforms and len(set(platforms)) == len(entries) and len({_names(e) for e in entries}) == 1


def _names(entry: Descriptor) -> tuple[str, ...]:
    annotations = dict(entry.annotations)
    return tuple(filter(None, (annotations.get(REF_NAME, ""), annotations.get(_CONTAINERD_NAME, ""))))


def _listed(entries: tuple[Descriptor, ...]) -> str:
    return ", ".join(next(iter(_names(each)), f"@{each.digest}") for each in entries[:MAX_LISTED])


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"
