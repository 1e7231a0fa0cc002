"""What `docker save` writes beside the layers (moby, image/spec/v1.2.md). Pure.

    manifest.json   [{"Config": PATH, "RepoTags": ["lab/tools:1.4"] or null, "Layers": [PATH, …]}, …]

Paths are of files in the archive. Until Docker 24 they are <id>.json and <id>/layer.tar; since 25, and of podman's
oci-like saves, blobs/sha256/<hex>. Layers are as they come: plain mostly, compressed of a containerd store.
"""

from __future__ import annotations

from hpcc.errors import InvalidImage, InvalidReference, UsageError
from hpcc.oci.document import MAX_DOCUMENT, text, texts
from hpcc.oci.manifest import MAX_ENTRIES
from hpcc.oci.reference import Reference
from hpcc.quickjson import loads
from hpcc.records import NamedTuple


class Saved(NamedTuple):
    """One image of an archive: its names, and the paths of its config and of its layers, lowest first."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def parse_saved(data: bytes) -> tuple[Saved, ...]:
    """The images that manifest.json lists, at least one. InvalidImage."""
    what = "manifest.json"
    if len(data) > MAX_DOCUMENT:
        raise InvalidImage(f"{what}: {len(data)} bytes, more than the {MAX_DOCUMENT} that one may have")
    try:
        listed = loads(data)
    except ValueError:
        raise InvalidImage(f"{what}: not JSON, begins with {data[:40]!r}") from None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise InvalidImage(f"{what}: no list of images")
    if not 0 < len(listed) <= MAX_ENTRIES:
        raise InvalidImage(f"{what}: {len(listed)} images, where 1 to {MAX_ENTRIES} were expected")
    found = []
    for entry in listed:
        config, layers = text(entry, "Config", what), texts(entry, "Layers", what) or ()
        if not config:
            raise InvalidImage(f"{what}: an image without a config")
        if len(layers) > MAX_ENTRIES:
            raise InvalidImage(f"{what}: {len(layers)} layers, more than {MAX_ENTRIES}")
        found.append(Saved(config, texts(entry, "RepoTags", what) or (), layers))
    return tuple(found)


def choose_saved(images: tuple[Saved, ...], ref: str) -> Saved:
    """The image that `ref` names, NAME[:TAG] or @NUMBER; without one, the only one there is. UsageError."""
    names = [", ".join(each.tags) or f"@{number}" for number, each in enumerate(images)]
    if not ref:
        if len(images) == 1:
            return images[0]
        raise UsageError(
            "more than one image in docker-archive, choose an image", hint=f"It has: {'; '.join(names[:40])}."
        )
    if ref.startswith("@"):
        number = int(ref[1:]) if ref[1:].isascii() and ref[1:].isdigit() and len(ref) < 8 else len(images)
        if number < len(images):
            return images[number]
    wanted = _canonical(ref)
    for image in images:
        if any(ref == tag or wanted == _canonical(tag) for tag in image.tags):
            return image
    raise UsageError(f"there is no image {ref[:200]!r} in it", hint=f"It has: {'; '.join(names[:40])}.")


def _canonical(name: str) -> str:
    try:
        return Reference.parse(name).canonical
    except InvalidReference:
        return name
