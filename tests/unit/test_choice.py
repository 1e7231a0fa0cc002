"""From an index to a manifest: the best first, nested ones in turn, never too deep."""

import pytest

from hpcc.errors import InvalidImage, UnsupportedImage
from hpcc.oci.choice import MAX_CANDIDATES, choose_manifest
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor, Index, Manifest
from hpcc.oci.platform import Platform
from hpcc.oci.reference import covers

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
CONFIG = Descriptor("", Digest.of(b"config"), 6)


class Documents:
    """A registry of documents; `read` counts."""

    def __init__(self) -> None:
        self.documents: dict[Digest, Manifest | Index] = {}
        self.reads: list[Digest] = []

    def add(self, document: Manifest | Index, platform: Platform | None = None) -> Descriptor:
        digest = Digest.of(repr(document).encode())
        self.documents[digest] = document
        return Descriptor("", digest, 1, platform)

    def manifest(self, name: str, platform: Platform | None = None) -> Descriptor:
        return self.add(Manifest(CONFIG, (), artifact_type=name), platform)

    def index(self, *entries: Descriptor, platform: Platform | None = None) -> Descriptor:
        return self.add(Index(entries), platform)

    def runs_on(self, manifest: Manifest) -> Platform:
        return Platform("linux", manifest.artifact_type)

    def read(self, descriptor: Descriptor) -> Manifest | Index:
        self.reads.append(descriptor.digest)
        return self.documents[descriptor.digest]


@pytest.fixture
def registry() -> Documents:
    return Documents()


def test_an_entry_without_a_platform_is_looked_at(registry: Documents) -> None:
    """The first one is not what runs here, whatever its place."""
    wrong, right = registry.manifest("arm64"), registry.manifest("amd64")
    found, _ = choose_manifest(registry.index(wrong, right), AMD64, registry.read, registry.runs_on)
    assert found.digest == right.digest
    with pytest.raises(UnsupportedImage, match="it is there for linux/arm64"):
        choose_manifest(registry.index(wrong), AMD64, registry.read, registry.runs_on)
    assert choose_manifest(wrong, AMD64, registry.read, registry.runs_on)[0] == wrong  # asked for by itself


def test_a_manifest_is_itself(registry: Documents) -> None:
    top = registry.manifest("x")
    assert choose_manifest(top, AMD64, registry.read, registry.runs_on)[0] == top


def test_the_platform_that_fits(registry: Documents) -> None:
    ours = registry.manifest("ours", AMD64)
    top = registry.index(registry.manifest("other", ARM64), ours)
    assert choose_manifest(top, AMD64, registry.read, registry.runs_on)[0].digest == ours.digest
    assert len(registry.reads) == 2


def test_a_nested_index_that_has_nothing_is_passed_over(registry: Documents) -> None:
    wrong = registry.index(registry.manifest("wrong", ARM64))
    right = registry.index(registry.manifest("right", AMD64))
    found, _ = choose_manifest(registry.index(wrong, right), AMD64, registry.read, registry.runs_on)
    assert registry.documents[found.digest].artifact_type == "right"


def test_where_none_has_it_the_first_tells(registry: Documents) -> None:
    top = registry.index(registry.index(registry.manifest("a", ARM64)), registry.index())
    with pytest.raises(UnsupportedImage, match="linux/arm64"):
        choose_manifest(top, AMD64, registry.read, registry.runs_on)
    with pytest.raises(UnsupportedImage, match="no platform at all"):
        choose_manifest(registry.index(), AMD64, registry.read, registry.runs_on)


def test_the_search_is_bounded(registry: Documents) -> None:
    """In depth, and in how many documents a hostile index makes us fetch."""
    deep = registry.index(registry.index(registry.index(registry.manifest("x", AMD64))))
    with pytest.raises(InvalidImage, match="an index in an index"):
        choose_manifest(deep, AMD64, registry.read, registry.runs_on)
    many = [registry.index(*(registry.index(registry.manifest(f"{n} {m}", ARM64)) for m in range(9))) for n in range(9)]
    registry.reads.clear()
    with pytest.raises((UnsupportedImage, InvalidImage)):
        choose_manifest(registry.index(*many), AMD64, registry.read, registry.runs_on)
    assert len(registry.reads) <= 1 + MAX_CANDIDATES + MAX_CANDIDATES**2


@pytest.mark.parametrize(
    ("pattern", "name", "does"),
    [
        ("quay.io", "quay.io/a/b", True), ("quay.io", "quay.io.evil.example/a", False),
        ("quay.io/a", "quay.io/a/b", True),
        ("quay.io/a", "quay.io/a", True), ("quay.io/a", "quay.io/ab", False), ("quay.io/a/*", "quay.io/a/b/c", True),
        ("quay.io/a/*", "quay.io/a", False), ("quay.io/a*", "quay.io/ab", True), ("*", "any.example/x", True),
        ("docker.io/library/*", "docker.io/library/debian", True), ("index.docker.io", "docker.io/u/x", True),
        ("docker://quay.io", "quay.io/x", True), ("QUAY.io", "quay.io/x", True), ("quay.io/", "quay.io/x", True),
        ("host:5000", "host:5000/x", True), ("host", "host:5000/x", False), ("", "quay.io/x", False),
    ],
)  # fmt: skip
def test_patterns_of_settings(pattern: str, name: str, does: bool) -> None:
    assert covers(pattern, name) is does
