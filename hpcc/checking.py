"""Whether everything in a cache is what it should be, and what to do with what is not.

Blobs come first, then packs, which are made from them, then SIFs, which are assembled from both (proving.py). Then what
may always be lost, and is only looked through: refs, and index.json, which can be made anew. An object that vanishes
meanwhile is no finding, as it is a miss for everybody else.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hpcc.blocks import thread_count
from hpcc.cache import walk
from hpcc.cache.contents import Item, contents
from hpcc.cache.index import MAX_INDEX, add_to_index, remove_missing
from hpcc.cache.intake import contained
from hpcc.cache.layout import Cache
from hpcc.cache.needs import base_name, mark_of
from hpcc.cache.refs import MAX_SIZE, Ref, parse_ref
from hpcc.cache.trash import discard
from hpcc.errors import HpccError, ImageNotFound
from hpcc.lookup import Wanted, known_digests, origin_of, tiers
from hpcc.oci.config import ImageConfig
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import OCI_INDEX, Descriptor, Manifest, parse_manifest
from hpcc.oci.reference import Reference
from hpcc.progress import SILENT, Progress
from hpcc.proving import Bench, problem_of
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc.sources.docker import readable_tiers

_ORDER = ("blob", "pack", "sif")
_INDEX = "oci/index.json"
_DOUBT = "either it or an image that was made from it is damaged, and its layer is not kept, which would tell"


class Finding(NamedTuple):
    """Something that is not what it should be. kind: blob, pack, sif, ref or index; path: from the cache's on.

    damaged: False where it could not be read, and may be good once the disk or the file server is.
    """

    kind: str
    path: str
    owner: int
    said: str
    damaged: bool = True


class Report(NamedTuple):
    """What was looked at in one cache, and what was found."""

    root: str
    objects: int
    size: int
    findings: tuple[Finding, ...]


class Selection(NamedTuple):
    """What belongs to an image: names as `base_name` has them, and keys of SIFs; references of SIFs; refs."""

    names: frozenset[str]
    references: frozenset[str]
    refs: tuple[str, ...]


def select(wanted: Wanted, settings: Settings) -> Selection:
    """What the caches have of an image. ImageNotFound where they do not know it."""
    caches = tiers(settings)
    reference = wanted.reference
    names: set[str] = set()
    references: set[str] = set()
    digests = {each.digest for each in known_digests(reference, caches, settings, stale=True)}
    for digest in digests | ({reference.digest} if reference.digest else set()):
        found = contained(caches, Descriptor("", digest, 0))
        names.update(each.hex for each in found.reached)
        references.update(f"{reference.name}@{each}" for each in found.reached)
        names.update(origin_of(reference, each, wanted.platform, settings).key for each in found.reached)
        for cache in caches:
            for diff_id in _layers(cache, [image for _, image in found.images]):
                names.add(f"{diff_id.algorithm}-{diff_id.hex}")
    if not digests and reference.digest is None:
        raise ImageNotFound(
            f"{wanted.uri}: the caches do not know it", hint="`hpcc cache list -v` lists what they have."
        )
    refs = (f"refs/{reference.name}/_tags/{reference.tag}/",) if reference.tag else ()
    return Selection(frozenset(names), frozenset(references), refs)


def check_cache(
    cache: Cache, settings: Settings, progress: Progress = SILENT, selections: tuple[Selection, ...] = ()
) -> Report:
    """Look at everything in a cache, or at what was selected. Changes nothing. CacheError where it cannot be written to
    what things are compared with.
    """

    def is_chosen(item: Item) -> bool:
        if not selections:
            return True
        if any(base_name(item) in each.names for each in selections):
            return True
        mark = mark_of(cache, item) if item.kind == "sif" else None
        return mark is not None and any(mark.reference in each.references for each in selections)

    every = contents(cache)
    chosen = [item for item in sorted(every, key=lambda item: (_ORDER.index(item.kind), item.name)) if is_chosen(item)]
    total = sum(item.size for item in chosen)
    progress.stage("Checking", total)
    part = progress.part("objects", total)
    findings: list[Finding] = []
    readable = readable_tiers(cache, tiers(settings))
    with ThreadPoolExecutor(thread_count()) as pool:
        layers = _layers(cache, _manifests(cache, every))
        bench = Bench(cache, readable, pool, layers, set(), set(), set())
        for item in chosen:
            damaged = True
            try:
                said = problem_of(bench, item)
            except HpccError:
                raise
            except OSError as error:
                said, damaged = f"it cannot be read: {error.strerror}", False
            if said and os.path.lexists(item.path):
                path = os.path.relpath(item.path, cache.root)
                findings.append(Finding(item.kind, path, item.owner, said, damaged))
                bench.damaged.add(item.path)
            part.advance(item.size)
        for item in every:
            if item.path in bench.doubtful - bench.proven:
                findings.append(Finding(item.kind, os.path.relpath(item.path, cache.root), item.owner, _DOUBT))
    part.finish()
    refs = tuple(prefix for each in selections for prefix in each.refs)
    findings += _check_refs(cache, refs if selections else ("refs/",))
    if not selections:
        findings += _check_index(cache)
    progress.close()
    return Report(cache.root, len(chosen), total, tuple(findings))


def mend(cache: Cache, finding: Finding, now: float) -> bool:
    """Take what is damaged out of the way, into the trash, or make index.json anew; whether that could be done.

    Only one's own things, but for the cache's owner and root. Who needs the object finds a miss, and makes it anew.
    What only could not be read stays.
    """
    if not finding.damaged:
        return False
    if finding.owner != os.getuid() and os.getuid() not in (0, os.stat(cache.root).st_uid):
        return False
    try:
        if finding.kind == "index":
            rebuild_index(cache)
            return True
        return discard(cache, finding.path, now) or not os.path.lexists(cache.path(finding.path))
    except (OSError, HpccError):
        return False


def rebuild_index(cache: Cache) -> None:
    """Make index.json anew from what else says how images are called: itself, refs, and SIFs. Atomic, idempotent."""
    if _index_entries(cache) is None:
        empty = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        cache.write(cache.path(_INDEX), json.dumps(empty).encode())
    remove_missing(cache)
    named: set[Digest] = set()
    for ref in read_refs(cache):
        top = Descriptor(ref.media_type, Digest.parse(ref.digest), ref.size)
        for descriptor, _ in contained((cache,), top).images[:1]:
            add_to_index(cache, Reference.parse(ref.name), descriptor.digest, descriptor.media_type)
            named.add(descriptor.digest)
    for item in contents(cache):
        mark = mark_of(cache, item) if item.kind == "sif" else None
        if mark is None or "/" not in mark.reference:  # of no registry (origin.py)
            continue
        try:
            reference = Reference.parse(mark.reference)
        except HpccError:
            continue
        if reference.digest and reference.digest not in named:
            for descriptor, _ in contained((cache,), Descriptor("", reference.digest, 0)).images[:1]:
                add_to_index(cache, reference, descriptor.digest, descriptor.media_type)


def _manifests(cache: Cache, items: list[Item]) -> list[Manifest]:
    """All image manifests among the blobs."""
    found = []
    for item in items:
        data = walk.read(cache, os.path.relpath(item.path, cache.root), 4 << 20) if item.kind == "blob" else None
        if data is None or data[:1] != b"{" or b'"layers"' not in data:
            continue
        try:
            manifest = parse_manifest(data)
        except HpccError:
            continue
        if isinstance(manifest, Manifest):
            found.append(manifest)
    return found


def _layers(cache: Cache, manifests: list[Manifest]) -> dict[Digest, Descriptor]:
    """Diff id -> the blob that unpacks to it, as manifests and their configs say; converting checks it."""
    found: dict[Digest, Descriptor] = {}
    for manifest in manifests:
        digest = manifest.config.digest
        data = walk.read(cache, f"oci/blobs/{digest.algorithm}/{digest.hex}", 4 << 20)
        try:
            config = ImageConfig.parse(data or b"")
        except HpccError:
            continue
        found.update(zip(config.diff_ids, manifest.layers, strict=False))
    return found


def _check_refs(cache: Cache, prefixes: tuple[str, ...]) -> Iterator[Finding]:
    for path, status in walk.files(cache, "refs", walk.DEEPEST):
        if not path.startswith(prefixes) or not path.rpartition("/")[2].isdigit():
            continue
        data = walk.read(cache, path, MAX_SIZE)
        if data is None and not os.path.lexists(cache.path(path)):
            continue
        if _parse_ref(path, data or b"") is None:
            yield Finding("ref", path, status.st_uid, "it does not say what its tag means")


def read_refs(cache: Cache) -> Iterator[Ref]:
    """Those of owners whom the cache trusts."""
    for path, _ in walk.files(cache, "refs", walk.DEEPEST):
        data = cache.read(cache.path(path), MAX_SIZE)
        ref = _parse_ref(path, data) if data else None
        if ref is not None:
            yield ref


def _parse_ref(path: str, data: bytes) -> Ref | None:
    """The ref at refs/<name>/_tags/<tag>/<uid>, if it is that tag's."""
    name, _, rest = path.removeprefix("refs/").partition("/_tags/")
    return parse_ref(data, f"{name}:{rest.partition('/')[0]}")


def _index_entries(cache: Cache) -> list[Digest] | None:
    """The digests in index.json; None where it is damaged, or not there."""
    data = walk.read(cache, _INDEX, MAX_INDEX)
    try:
        return [Digest.parse(each["digest"]) for each in json.loads(data or b"")["manifests"]]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _check_index(cache: Cache) -> Iterator[Finding]:
    try:
        owner = os.lstat(cache.path(_INDEX)).st_uid
    except OSError:
        return  # an image whose blobs are not kept stands in none
    entries = _index_entries(cache)
    if entries is None:
        yield Finding("index", _INDEX, owner, "it is empty or damaged")
        return
    broken = [each for each in entries if not contained((cache,), Descriptor("", each, 0)).images]
    if broken:
        yield Finding("index", _INDEX, owner, f"it names {len(broken)} image(s) that are not whole here")


def mend_all(cache: Cache, findings: tuple[Finding, ...]) -> list[Finding]:
    """`mend` each, index.json last, since it follows from the others; those that could not be mended."""
    now = time.time()
    left = [each for each in findings if each.kind != "index" and not mend(cache, each, now)]
    index = [each for each in findings if each.kind == "index"]
    if len(left) < len(findings) - len(index) and not index:
        remove_missing(cache)
    return left + [each for each in index if not mend(cache, each, now)]
