"""From what a reference names to the image for one platform, through indexes and indexes in indexes. Pure."""

from __future__ import annotations

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci.manifest import MAX_NESTING, Descriptor, Manifest
from hpcc.oci.platform import Platform, candidates, match_order, select
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcc.oci.manifest import Index


MAX_CANDIDATES = 4
"""Entries without a platform, and nested indexes, that are opened one after the other, at each level."""


def choose_manifest(
    top: Descriptor,
    platform: Platform,
    read: Callable[[Descriptor], Manifest | Index],
    runs_on: Callable[[Manifest], Platform],
    depth: int = 1,
) -> tuple[Descriptor, Manifest]:
    """The descriptor and manifest for `platform` that `top` leads to: itself, or the best that its index has.

    `read` gives the document of a descriptor; what it raises comes through, but for an UnsupportedImage of a nested
    entry, behind which the next one is tried. `runs_on` tells the platform of an image whose entry names none, by its
    config. Raises UnsupportedImage, which lists what there is; InvalidImage where indexes are nested too deeply.
    """
    document = read(top)
    if isinstance(document, Manifest):
        return top, document
    if depth >= MAX_NESTING:
        raise InvalidImage("an index in an index in an index", hint="The image is broken; ask whoever pushed it.")
    first: UnsupportedImage | None = None
    for entry in candidates(document.manifests, platform)[:MAX_CANDIDATES]:
        try:
            chosen, manifest = choose_manifest(entry, platform, read, runs_on, depth + 1)
            if entry.platform is None and chosen is entry:
                _check(runs_on(manifest), platform)
            return chosen, manifest
        except UnsupportedImage as error:
            first = first or error
    if first is not None:
        raise first
    select(document.manifests, platform)  # raises, since there is no candidate
    raise AssertionError


def _check(found: Platform, wanted: Platform) -> None:
    if found.architecture and found not in match_order(wanted):
        raise UnsupportedImage(
            f"the image has nothing for {wanted}: it is there for {found}",
            hint="Choose that by --arch, or ask whoever builds the image for yours.",
        )
