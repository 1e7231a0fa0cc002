"""What belongs to the images of a cache: which blobs and packs each SIF has, so that garbage collection knows the rest.

    SIF --mark--> manifest --> config, layers' blobs
                      ^           └--> diff ids --> packs
    index ------------┘  (and the manifests beside it there, which the choice of a platform may look at)
    refs/…/sha256-<hex of index or manifest>.sig --> signature manifest --> payloads

Documents are small, and without them a registry is asked again; layers and packs only save work. All this is read
whoever wrote it: a blob by its hash, the rest can only make an object stay.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hpcc.cache import walk
from hpcc.cache.blobs import MAX_SIZE
from hpcc.cache.contents import Item
from hpcc.cache.index import MAX_INDEX
from hpcc.cache.layout import Cache
from hpcc.cache.mark import Mark, read_mark
from hpcc.errors import CacheError, HpccError
from hpcc.oci.digest import Digest
from hpcc.quickjson import loads
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

REF_SIZE = 4096
MOST_PARENTS = 1000  # of one manifest; each index that is counted is a blob of the cache


class Needs(NamedTuple):
    """Names, as `base_name` gives them, of an image's documents, and of its layers' blobs and packs."""

    documents: frozenset[str]
    savings: frozenset[str]


def base_name(item: Item) -> str:
    """What the name of a blob or pack says of it: the digest, of a pack the diff id, whatever converter made it."""
    if item.kind == "pack":
        return "-".join(item.name.split("-", 2)[:2])
    return item.key


def read_needs(cache: Cache, items: Iterable[Item]) -> dict[str, Needs]:
    """What each SIF among `items`, all that the cache holds, needs; by its key. What cannot be read needs nothing.

    Also what an image needs that a ref or index.json names and of which no SIF was made yet, as after `cache
    import`; by "@" and its manifest's digits. CacheError where the filesystem fails: what then looks unneeded may be
    needed.
    """
    items = tuple(items)
    documents = _Documents(cache, [item for item in items if item.kind == "blob"])
    refs = _refs(cache)
    signatures = _signatures(refs)
    found: dict[str, Needs] = {}
    converted = set()
    for item in items:
        if item.kind == "sif" and (mark := mark_of(cache, item)) is not None:
            converted.add(mark.reference.rpartition(":")[2])
            needs = _needs(mark, documents, signatures)
            known = found.get(item.key, Needs(frozenset(), frozenset()))
            found[item.key] = Needs(known.documents | needs.documents, known.savings | needs.savings)
    for name in sorted(_named(cache, refs, documents) - converted):
        found[f"@{name}"] = _needs(Mark("", f"@sha256:{name}"), documents, signatures)
    return found


def _refs(cache: Cache) -> list[tuple[str, str]]:
    """Of each ref its tag, and the digits of what that names, "" where it does not say."""
    found = []
    for path, _ in walk.files(cache, "refs", walk.DEEPEST):
        found.append((path.split("/")[-2], _digest(_object(walk.read(cache, path, REF_SIZE) or b""))))
    return found


def _named(cache: Cache, refs: list[tuple[str, str]], documents: "_Documents") -> set[str]:
    """The manifests that are here and that refs and index.json lead to."""
    index = _object(walk.read(cache, "oci/index.json", MAX_INDEX) or b"")
    found, queue, seen = set(), [_digest(each) for each in _list(index or {}, "manifests")], set()
    queue += [name for tag, name in refs if not tag.endswith(".sig")]
    while queue:
        name = queue.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        if name in documents.children:
            queue += documents.children[name]
        elif documents.read(name) is not None:
            found.add(name)
    return found


def mark_of(cache: Cache, item: Item) -> Mark | None:
    """What a SIF of the cache says that it is; None where it does not, or is gone."""
    path = os.path.relpath(item.path, cache.root)
    with walk.absence(cache, path), walk.opened_file(cache, path) as fd, _quiet():
        return read_mark(fd)
    return None


class _Documents:
    """The JSON among the blobs. `parents`: digest of a manifest -> those of the indexes that list it."""

    def __init__(self, cache: Cache, blobs: list[Item]) -> None:
        self._cache = cache
        self.parents: dict[str, list[str]] = {}
        self.children: dict[str, list[str]] = {}
        for item in blobs:
            if item.size <= MAX_SIZE and (document := self._index(item)) is not None:
                children = [name for each in _list(document, "manifests") if (name := _digest(each))]
                if children:
                    self.children[base_name(item)] = children
                for child in children:
                    self.parents.setdefault(child, []).append(base_name(item))

    def read(self, name: str) -> "dict[str, Any] | None":
        """The blob of this SHA-256 as JSON, hashed; None where it is missing or is none."""
        for path in (self._cache.blob("sha256", name), self._cache.blob("sha512", name)):
            algorithm, data = path.split("/")[-2], self._read(path)
            if data is not None and Digest.of(data, algorithm).hex == name:
                return _object(data)
        return None

    def _index(self, item: Item) -> "dict[str, Any] | None":
        if not self._begins_like_json(item.path):
            return None
        data = self._read(item.path)
        if data is None or b'"manifests"' not in data:
            return None
        return _object(data)

    def _begins_like_json(self, path: str) -> bool:
        """Of thousands of small layers only the first bytes are read."""
        path = os.path.relpath(path, self._cache.root)
        with walk.absence(self._cache, path), walk.opened_file(self._cache, path) as fd:
            return os.read(fd, 64).lstrip()[:1] == b"{"
        return False

    def _read(self, path: str) -> bytes | None:
        return walk.read(self._cache, os.path.relpath(path, self._cache.root), MAX_SIZE)


def _needs(mark: Mark, documents: _Documents, signatures: dict[str, set[str]]) -> Needs:
    with _quiet():
        manifest = Digest.parse(mark.reference.rpartition("@")[2]).hex
        wanted, savings = {manifest}, set()
        document = documents.read(manifest) or {}
        savings |= {name for each in _list(document, "layers") if (name := _digest(each))}
        savings |= _packs(document)  # of what Docker saved, which is named by its config
        if config := _digest(document.get("config")):
            wanted.add(config)
            savings |= _packs(documents.read(config) or {})
        for index in _above(manifest, documents):
            wanted |= {index, *documents.children[index]}
            for other in documents.children[index]:
                if other != manifest and (config := _digest((documents.read(other) or {}).get("config"))):
                    wanted.add(config)
        for signature in [each for name in tuple(wanted) for each in signatures.get(name, ())]:
            document = documents.read(signature) or {}
            parts = [document.get("config"), *_list(document, "layers")]
            wanted |= {signature, *(name for part in parts if (name := _digest(part)))}
        return Needs(frozenset(wanted), frozenset(savings) - frozenset(wanted))
    return Needs(frozenset(), frozenset())


def _above(manifest: str, documents: _Documents) -> set[str]:
    """The indexes that list the manifest, and those that list them."""
    found: set[str] = set()
    queue = [manifest]
    while queue and len(found) < MOST_PARENTS:
        for parent in documents.parents.get(queue.pop(), ()):
            if parent not in found:
                found.add(parent)
                queue.append(parent)
    return found


def _packs(config: "dict[str, Any]") -> set[str]:
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return {each.replace(":", "-", 1) for each in diff_ids or () if isinstance(each, str)}


def _signatures(refs: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Digest -> those of the manifests of its signatures, by the tags sha256-<hex>.sig (sources/signatures.py)."""
    found: dict[str, set[str]] = {}
    for tag, name in refs:
        if tag.startswith("sha256-") and tag.endswith(".sig") and name:
            found.setdefault(tag[7:-4], set()).add(name)
    return found


def _object(data: bytes) -> "dict[str, Any] | None":
    try:
        document = loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _list(document: "dict[str, Any]", key: str) -> "list[Any]":
    value = document.get(key)
    return value if isinstance(value, list) else []


def _digest(descriptor: object) -> str:
    """The hexadecimal digits of what a descriptor, or a ref, points to; "" where it does not."""
    try:
        return Digest.parse(str(descriptor["digest"])).hex if isinstance(descriptor, dict) else ""
    except (HpccError, KeyError):
        return ""


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except CacheError:
        raise
    except (HpccError, ValueError):
        pass
