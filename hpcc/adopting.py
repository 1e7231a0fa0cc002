"""What other programs have fetched already, taken over, so that moving to hpcc costs no download.

<apptainer's cache>/blob/          an OCI layout: layers and configs as the registry has them. Its manifests are often
                                   Apptainer's own, and its index.json names images by hashes: so what is saved are the
                                   layers; the first run of each image still asks for its manifest
<snakemake's prefix>/<md5>.simg    named by the md5 of the URL in the workflow
"""

import os
import secrets
from collections.abc import Iterable, Sequence
from hashlib import md5

from hpcc.cache.intake import contained, hashes_to, is_whole, name_of, note_image, publish_blob
from hpcc.cache.layout import Cache
from hpcc.convert import copy_range
from hpcc.errors import CacheError, HpccError, InvalidReference, UnsupportedImage, UsageError
from hpcc.local import Image
from hpcc.lookup import Wanted, find_cached
from hpcc.oci.digest import Digest
from hpcc.oci.document import MAX_DOCUMENT
from hpcc.oci.manifest import OCI_INDEX, Index, parse_manifest
from hpcc.progress import SILENT, Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings

SUFFIX = ".simg"
BACKUP = ".bak"


class Adopted(NamedTuple):
    """What came of another program's layout. damaged: paths of blobs that are not what they are called."""

    blobs: int
    size: int
    had: int
    damaged: tuple[str, ...]
    images: tuple[str, ...]


def adopt_layout(directory: str, tier: Cache, settings: Settings, progress: Progress = SILENT) -> Adopted:
    """Copy the blobs of an OCI layout into the tier, each hashed after it was copied; never linked, since its owner may
    still write to it. Where the filesystem can, the copy shares its blocks. Images that index.json names are noted.

    Idempotent. UsageError where there is no layout. What is damaged is left out: a program that was killed leaves such.
    """
    found = _blobs(directory)
    progress.stage("Adopting", sum(size for _, _, size in found))
    part = progress.part("blobs", sum(size for _, _, size in found))
    count = total = had = 0
    damaged: list[str] = []
    try:
        for path, digest, size in found:
            if is_whole(tier, digest, size):
                had += 1
            elif _copy(path, digest, tier):
                count, total = count + 1, total + size
            else:
                damaged.append(path)
            part.advance(size)
        part.finish()
        images = _note_images(directory, tier, settings)
    finally:
        progress.close()
    return Adopted(count, total, had, tuple(damaged), images)


def _blobs(directory: str) -> list[tuple[str, Digest, int]]:
    found = []
    for algorithm in ("sha256", "sha512"):
        try:
            with os.scandir(os.path.join(directory, "blobs", algorithm)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    try:
                        digest = Digest.parse(f"{algorithm}:{entry.name}")
                    except InvalidReference:
                        continue
                    if entry.is_file(follow_symlinks=False):
                        found.append((entry.path, digest, entry.stat(follow_symlinks=False).st_size))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"{directory} cannot be read: {error.strerror}", hint="Ask its owner.") from None
    if not found and not os.path.exists(os.path.join(directory, "oci-layout")):
        raise UsageError(
            f"{directory} is no OCI layout, so there is nothing to adopt",
            hint="Name Apptainer's cache directory, as APPTAINER_CACHEDIR does: it has a directory blob.",
        )
    return found


def _copy(path: str, digest: Digest, tier: Cache) -> bool:
    """Whether it was what it is called; then it is in the tier."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        size = os.fstat(source).st_size
        with tier.temporary() as file:
            try:
                copy_range(source, file.fileno(), 0, 0, size)
            except HpccError:  # it was cut short meanwhile
                return False
            file.seek(0)
            if not hashes_to(file, digest):
                return False
            publish_blob(tier, file, digest, size)
    finally:
        os.close(source)
    return True


def _note_images(directory: str, tier: Cache, settings: Settings) -> tuple[str, ...]:
    try:
        with open(os.path.join(directory, "index.json"), "rb") as file:
            index = parse_manifest(file.read(MAX_DOCUMENT + 1), OCI_INDEX)
    except (OSError, HpccError):
        return ()  # the blobs are worth it without
    names = []
    for entry in index.manifests if isinstance(index, Index) else ():
        try:
            reference = name_of(entry)
        except HpccError:
            continue
        found = contained((tier,), entry)
        if reference is not None and found.images:
            note_image(tier, reference, entry, found, settings.ttl)
            names.append(str(reference))
    return tuple(names)


def adopts_for_all(settings: Settings, *, share: bool, private: bool) -> bool:
    """Whether the blobs go into the shared tier: where nobody else can look into that, or somebody says that they may.

    Apptainer does not tell which of its blobs only credentials could pull.
    """
    if share and private:
        raise UsageError("--share and --private exclude each other")
    if share or private:
        return share
    try:
        return os.stat(settings.cache_dir).st_mode & 0o077 == 0
    except FileNotFoundError:
        return True  # made 0700
    except OSError:
        return False


class Found(NamedTuple):
    """A file of Snakemake's prefix. state: linked, ready (the cache has the image), missing, or unknown (no uri).

    size: bytes of the old file, 0 for a link.
    """

    path: str
    uri: str
    state: str
    size: int


def snakemake_name(uri: str) -> str:
    """How Snakemake calls the image of this URL, letter by letter as the workflow has it."""
    return md5(uri.encode(), usedforsecurity=False).hexdigest() + SUFFIX


def read_prefix(prefix: str, uris: Iterable[str], settings: Settings) -> list[Found]:
    """What the images in a prefix of Snakemake's are, as far as these URIs tell. Sends nothing. UsageError."""
    known = {snakemake_name(uri): uri for uri in uris}
    found = []
    try:
        names = sorted(name for name in os.listdir(prefix) if name.endswith(SUFFIX))
    except OSError as error:
        raise UsageError(f"{prefix} cannot be read: {error.strerror}", hint="--snakemake-prefix DIR") from None
    for name in names:
        path, uri = os.path.join(prefix, name), known.get(name, "")
        try:
            size = 0 if os.path.islink(path) else os.lstat(path).st_size
        except FileNotFoundError:
            continue
        image = _cached(uri, settings)
        if image is None:
            state = "missing" if uri else "unknown"
        else:
            state = "linked" if os.path.realpath(path) == os.path.realpath(image.path) else "ready"
            os.close(image.rootfs.fd)
        found.append(Found(path, uri, state, size))
    return found


def _cached(uri: str, settings: Settings) -> Image | None:
    """As a workflow that has its image already takes it: of whatever age."""
    if not uri:
        return None
    patient = settings.replace(pull="missing", offline=True)
    try:
        return find_cached(Wanted.parse(uri, patient), patient)
    except (InvalidReference, UnsupportedImage):
        return None


def link_images(found: Sequence[Found], settings: Settings, *, keep: bool = True) -> list[str]:
    """Have each that is ready be a link to the SIF in the cache, which is told of it, so that it stays; the paths.

    Atomic for each; with keep, the old file stays beside as <name>.bak. CacheError where the directory may not be
    written to.
    """
    from hpcc.cache.roots import register_root

    done = []
    for each in found:
        image = _cached(each.uri, settings) if each.state in ("ready", "linked") else None
        if image is None:
            continue
        os.close(image.rootfs.fd)
        # First, so that the image cannot be cleaned away while the link to it is made.
        register_root(Cache(image.cache), each.path, image.key)
        if each.state == "ready":
            _replace(each.path, image.path, keep=keep)
            done.append(each.path)
    return done


def _replace(path: str, target: str, *, keep: bool) -> None:
    temporary = f"{path}.{secrets.token_hex(6)}"
    try:
        os.symlink(os.path.abspath(target), temporary)
        try:
            if keep and not os.path.islink(path):
                _keep(path)
            os.rename(temporary, path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise CacheError(f"cannot replace {path}: {error.strerror}", hint="Its directory must be yours.") from None


def _keep(path: str) -> None:
    """A second name for the old file, so that its own is taken in one step; where links cannot be, it is moved."""
    backup = path + BACKUP
    if os.path.lexists(backup):
        raise CacheError(f"{backup} is there already", hint="Remove it, or move it away.")
    try:
        os.link(path, backup)
    except OSError:
        os.rename(path, backup)
