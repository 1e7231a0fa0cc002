"""Platforms, os/architecture/variant, and the choice of one manifest of an index.

Names are Go's (GOOS, GOARCH), as the OCI image index has them. Normal form, so that equal
platforms compare equal: arm without a variant is v7; arm64's v8 and amd64's v1 are what is
meant without a variant, so they are dropped.
"""

from __future__ import annotations

from hpcc.errors import UnsupportedImage, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hpcc.oci.manifest import Descriptor


_SYSTEMS = frozenset(
    ("linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "aix", "wasip1")
)
_ALIASES = {  # what uname, Debian and Docker Hub's organisations call them -> (architecture, variant)
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""),
    "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""), "x86": ("386", ""),
    "aarch64": ("arm64", ""), "arm64v8": ("arm64", ""), "armv8l": ("arm", "v8"),
    "armhf": ("arm", "v7"), "armv7l": ("arm", "v7"), "arm32v7": ("arm", "v7"),
    "armel": ("arm", "v6"), "armv6l": ("arm", "v6"), "arm32v6": ("arm", "v6"), "arm32v5": ("arm", "v5"),
    "powerpc64le": ("ppc64le", ""), "ppc64el": ("ppc64le", ""), "loongarch64": ("loong64", ""),
}  # fmt: skip
_KNOWN = frozenset(
    ("amd64", "386", "arm", "arm64", "ppc64le", "ppc64", "s390x", "riscv64", "loong64", "mips64le", "wasm")
)
_IMPLIED = {"arm64": "v8", "amd64": "v1"}
_ATTESTATION = ("vnd.docker.reference.type", "attestation-manifest")


class Platform(NamedTuple):
    """What a manifest is for; variant is "" where there is none. `parse` and `of` give the normal form."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of(cls, os: str, architecture: str, variant: str = "") -> Platform:
        """The normal form of these three."""
        architecture = architecture.lower()
        alias, implied = _ALIASES.get(architecture, (architecture, ""))
        variant = variant.lower() or implied
        if variant.isdigit():  # "7" is seen for "v7"
            variant = f"v{variant}"
        if alias == "arm" and not variant:
            variant = "v7"
        if _IMPLIED.get(alias) == variant:
            variant = ""
        return cls(os.lower(), alias, variant)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """linux/arm64/v8, linux/amd64, arm/v7, arm64 or arm32v7; UsageError for anything else."""
        parts = text.split("/")
        if not all(part and part.isascii() and part.replace("_", "").replace("-", "").isalnum() for part in parts):
            parts = []
        first = parts[0].lower() if parts else ""
        if first in _SYSTEMS and 2 <= len(parts) <= 3:
            return cls.of(*parts)
        if parts and first not in _SYSTEMS and (len(parts) == 1 or (len(parts) == 2 and _is_architecture(first))):
            return cls.of("linux", *parts)
        raise UsageError(
            f"{text[:80]!r} is no platform",
            hint="Write os/architecture[/variant], or the architecture: linux/arm64, amd64.",
        )

    @classmethod
    def host(cls) -> Platform:
        """This machine's, by uname."""
        import os

        system = os.uname()
        return cls.of(system.sysname, system.machine)

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


def _is_architecture(name: str) -> bool:
    return name in _KNOWN or name in _ALIASES


def match_order(wanted: Platform) -> tuple[Platform, ...]:
    """What runs on `wanted`, best first: older variants of the same architecture."""
    os, architecture, variant = Platform.of(*wanted)
    number = variant[1:] if variant.startswith("v") else ""
    if not number.isascii() or not number.isdigit() or len(number) > 2:
        return (Platform.of(os, architecture, variant),)
    oldest = {"arm": 5, "arm64": 8, "amd64": 1}.get(architecture, int(number))
    return tuple(Platform.of(os, architecture, f"v{n}") for n in range(int(number), oldest - 1, -1))


def candidates(manifests: Iterable[Descriptor], wanted: Platform) -> tuple[Descriptor, ...]:
    """The entries of an index that may serve `wanted`, best first.

    First those whose platform matches, by `match_order` and then in the index's order; then those
    that name no platform (a nested index; a single manifest), which only opening them can tell.
    Attestations, which are marked unknown/unknown, are never among them.
    """
    order = match_order(wanted)
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, manifest in enumerate(manifests):
        if _ATTESTATION in manifest.annotations:
            continue
        if manifest.platform is None:
            ranked.append((len(order), position, manifest))
            continue
        platform = Platform.of(*manifest.platform)
        if platform in order:
            ranked.append((order.index(platform), position, manifest))
    ranked.sort(key=lambda entry: entry[:2])
    return tuple(entry[2] for entry in ranked)


def select(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor:
    """The first of `candidates`; UnsupportedImage that lists what there is."""
    manifests = tuple(manifests)
    found = candidates(manifests, wanted)
    if found:
        return found[0]
    there = {str(m.platform) for m in manifests if m.platform and m.platform.architecture != "unknown"}
    listed = ", ".join(sorted(there)[:40]) or "no platform at all"
    raise UnsupportedImage(
        f"the image has nothing for {wanted}: it is there for {listed}",
        hint="Choose one of these by --arch, or ask whoever builds the image for yours.",
    )
