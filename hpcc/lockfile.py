"""hpcc.lock: tags pinned to digests, in a file that is made for review and version control.

    # Images by digest. …
    version = 1

    [images]
    "docker.io/library/python:3.12" = "sha256:…"

A digest is what its tag named at top level, an index or a manifest, so it serves all platforms. TOML; sorted, one image
a line, the same images always the same bytes: a change is one line in a diff, and merges rarely meet.

The file is found upward from a directory, and decides what is run. So it is believed only where nobody but people whom
one trusts there anyway can have put it; any other is passed over, since a stranger's file must not stop one's jobs
either. This is on the way of each run: `tomllib` costs 12 ms, so what `Lock.text` writes is read without it.
"""

from __future__ import annotations

import errno
import os
import stat

from hpcc.errors import CacheError, InvalidReference, SettingsError, UsageError
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    OnSkipped = Callable[[str, str], None]

NAME = "hpcc.lock"
LIMIT = 1 << 20  # bytes: some 8000 images
NOBODY = 65534
_HEADER = """\
# Images by digest. `hpcc lock` writes this file, `hpcc lock --update` moves the digests; commit it.
version = 1

[images]
"""
_MEND = "Mend it or take it from version control; or remove it, and write it anew by `hpcc lock`."


class Lock(NamedTuple):
    """What a lock file holds: sorted pairs of `registry/repository:tag` and digest. Immutable."""

    path: str
    images: tuple[tuple[str, Digest], ...] = ()

    @classmethod
    def parse(cls, data: bytes, path: str) -> Lock:
        """The lock in `data`; SettingsError names the file, and the entry where one is wrong.

        Names need not be canonical nor sorted; two that mean the same are an error.
        """
        if len(data) > LIMIT:
            raise SettingsError(f"{path} is larger than {LIMIT >> 20} MiB", hint="That is no lock file of hpcc.")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise SettingsError(f"{path} is not UTF-8", hint=_MEND) from None
        written = _read_own_form(text)
        images: dict[str, Digest] = {}
        for name, value in (written if written is not None else _read_toml(text, path)).items():
            try:
                reference = Reference.parse(name)
                if reference.digest is not None:
                    raise InvalidReference("a name with a tag belongs there, without a digest")
                if not isinstance(value, str):
                    raise InvalidReference("its digest is no string")
                digest = Digest.parse(value)
            except InvalidReference as error:
                raise SettingsError(f"{path}: images, {name[:150]!r}: {error.message}", hint=_MEND) from None
            if reference.canonical in images:
                raise SettingsError(f"{path}: images: {reference.canonical} is there twice", hint=_MEND)
            images[reference.canonical] = digest
        return cls(path, tuple(sorted(images.items())))

    def text(self) -> str:
        """The file: TOML, the same bytes for the same images. No name of an image has a character to be escaped."""
        return _HEADER + "".join(f'"{name}" = "{digest}"\n' for name, digest in self.images)

    def digest_of(self, reference: Reference) -> Digest | None:
        """What the lock holds for the reference's tag; None for a reference that names a digest itself."""
        name = reference.canonical
        return next((digest for held, digest in self.images if held == name), None)

    def with_(self, reference: Reference, digest: Digest) -> Lock:
        """This lock with the tag at `digest`. UsageError for a reference that is pinned already, by itself."""
        if reference.digest is not None:
            raise UsageError(f"{reference} names its digest itself", hint="There is nothing to lock.")
        images = {**dict(self.images), reference.canonical: digest}
        return self._replace(images=tuple(sorted(images.items())))

    def without(self, reference: Reference) -> Lock:
        """This lock without the tag; as it is where it does not hold it."""
        return self._replace(images=tuple(pair for pair in self.images if pair[0] != reference.canonical))


def locked(
    reference: Reference, directory: str, *, frozen: bool = False, on_skipped: OnSkipped | None = None
) -> Reference:
    """The reference with the digest that the lock found upward from `directory` holds for it; the tag stays.

    Unchanged where it names a digest itself, or no lock holds it; with frozen the latter is a UsageError.
    SettingsError for a lock that is damaged or cannot be read. on_skipped: see `find_lock`.
    """
    if reference.digest is not None:
        return reference
    lock = find_lock(directory, on_skipped)
    digest = lock.digest_of(reference) if lock is not None else None
    if digest is not None:
        return reference._replace(digest=digest)
    if frozen:
        where = f"not in {lock.path}" if lock is not None else f"not locked: no {NAME} in {directory} or above"
        raise UsageError(
            f"{reference} is {where}, and only what is locked may run", hint=f"Pin it: hpcc lock {reference}"
        )
    return reference


def find_lock(directory: str, on_skipped: OnSkipped | None = None) -> Lock | None:
    """The first lock to be believed in `directory` or above, up to the root, also across filesystems; None without.

    Believed is a regular file, no link, of the caller, of root, or of the owner of its directory unless everybody can
    write to that; and only where nobody else can write the file itself, except members of the directory's own group.
    For each other one on the way: on_skipped(path, why). One that is believed but damaged: SettingsError.
    """
    try:
        directory = os.path.abspath(directory)
    except FileNotFoundError:
        return None  # "." where the working directory was removed
    while True:
        path = os.path.join(directory, NAME)
        data = _read_believed(path, directory, on_skipped)
        if data is not None:
            return Lock.parse(data, path)
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above


def read_lock(path: str) -> Lock:
    """The lock in a file that the user has named, whoever owns it; empty where there is none. SettingsError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return Lock(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}", hint="Name another file.") from None
    return Lock.parse(data, path)


def write_lock(path: str, lock: Lock) -> None:
    """Replace the file at `path` by `lock`; mode 0644 less umask. Atomic: the file is whole, or as it was.

    Of two writers at once the later one wins; a symbolic link is replaced. CacheError where it cannot be written,
    UsageError beyond the limit.
    """
    import secrets

    data = lock.text().encode()
    if len(data) > LIMIT:
        raise UsageError(f"{len(lock.images)} images are too many for one lock file", hint="Lock fewer in each place.")
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o644)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror}", hint="Name another file by --lock-file.") from None
    finally:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # renamed, or never made


def _read_believed(path: str, directory: str, on_skipped: OnSkipped | None) -> bytes | None:
    """The bytes of a lock that is there and believed."""
    why = ""
    try:
        # A FIFO must not block, a link not lead elsewhere
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        try:
            why = _why_not(os.lstat(path), os.stat(directory))
        except OSError:
            return None  # a directory above that may not even be looked into
        if not why:
            raise SettingsError(
                f"{path} cannot be read: {error.strerror}", hint="Its owner can let you: chmod a+r."
            ) from None
    else:
        try:
            why = _why_not(os.fstat(fd), os.stat(directory))
            if not why:
                return _read_all(fd)
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
        finally:
            os.close(fd)
    if on_skipped is not None:
        on_skipped(path, why)
    return None


def _read_all(fd: int) -> bytes:
    """To the end, or one byte beyond the limit."""
    data = b""
    while len(data) <= LIMIT and (chunk := os.read(fd, LIMIT + 1 - len(data))):
        data += chunk
    return data


def _why_not(file: os.stat_result, directory: os.stat_result) -> str:
    """Why a lock with this status, in this directory, is not believed; "" where it is."""
    if not stat.S_ISREG(file.st_mode):
        return "it is no regular file"
    owners = {os.getuid(), 0, directory.st_uid}
    if file.st_uid not in owners or file.st_uid == NOBODY:  # what NFS makes of owners that it does not know
        return f"it belongs to user {file.st_uid}, not to you, root or the owner of its directory"
    if directory.st_mode & stat.S_IWOTH and file.st_uid not in (os.getuid(), 0):  # /tmp, /scratch
        return f"it belongs to user {file.st_uid}, and everybody can write to its directory"
    if file.st_mode & stat.S_IWOTH:
        return "everybody can write to it: chmod o-w"
    # With umask 002, as of clusters where each user has a group, all files of a checkout are the group's to write
    if file.st_mode & stat.S_IWGRP and file.st_gid != directory.st_gid:
        return f"group {file.st_gid}, which is not that of its directory, can write to it: chmod g-w"
    return ""


def _read_own_form(text: str) -> Mapping[str, object] | None:
    """The images of a file just as `Lock.text` writes it; None for any other, which is then read as TOML."""
    if not text.startswith(_HEADER) or not text.endswith("\n") or "\\" in text:
        return None
    lines = text[len(_HEADER) : -1].split("\n") if len(text) > len(_HEADER) else []
    images: dict[str, object] = {}
    for line in lines:
        parts = line.split('"')
        if len(parts) != 5 or (parts[0], parts[2], parts[4]) != ("", " = ", ""):
            return None
        images[parts[1]] = parts[3]
    return images if len(images) == len(lines) else None


def _read_toml(text: str, path: str) -> Mapping[str, object]:
    import tomllib

    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is no TOML: {error}", hint=_MEND) from None
    version = document.pop("version", None)
    if type(version) is not int or version != 1:
        problem = "has no version" if version is None else f"has version {version!r:.40}, and hpcc knows version 1"
        raise SettingsError(f"{path} {problem}", hint="A newer hpcc may have written it; else: " + _MEND)
    images = document.pop("images", {})
    if not isinstance(images, dict):
        raise SettingsError(f"{path}: images is no table", hint=_MEND)
    for name in document:
        raise SettingsError(f"{path}: {name[:100]!r} is nothing that a lock file has", hint=_MEND)
    return images
