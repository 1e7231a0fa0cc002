"""From what a reference names to the image for one platform, through indexes and indexes in indexes. Pure."""

from __future__ import annotations

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci.manifest import MAX_NESTING, Descriptor, Manifest
from hpcc.oci.platform import Platform, candidates, select
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcc.oci.manifest import Index


MAX_CANDIDATES = 4
"""Entries without a platform, and nested indexes, that are opened one after the other, at each level."""


def choose_manifest(
    top: Descriptor, platform: Platform, read: Callable[[Descriptor], Manifest | Index], depth: int = 1
) -> tuple[Descriptor, Manifest]:
    """The descriptor and manifest for `platform` that `top` leads to: itself, or the best that its index has.

    `read` gives the document of a descriptor; what it raises comes through, but for an UnsupportedImage of a nested
    entry, behind which the next one is tried. Raises UnsupportedImage, which lists what there is; InvalidImage where
    indexes are nested too deeply.
    """
    document = read(top)
    if isinstance(document, Manifest):
        return top, document
    if depth >= MAX_NESTING:
        raise InvalidImage("an index in an index in an index", hint="The image is broken; ask whoever pushed it.")
    first: UnsupportedImage | None = None
    for entry in candidates(document.manifests, platform)[:MAX_CANDIDATES]:
        try:
            return choose_manifest(entry, platform, read, depth + 1)
        except UnsupportedImage as error:
            first = first or error
    if first is not None:
        raise first
    select(document.manifests, platform)  # raises, since there is no candidate
    raise AssertionError
