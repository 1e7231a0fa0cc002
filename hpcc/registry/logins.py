"""hpcc's own store of registry logins: the one file of that kind that hpcc writes (librarytoken.py has tokens).

    $XDG_CONFIG_HOME/hpcc/                   0700
        docker-config.json                   0600; the format is Docker's, see hpcc.registry.stores
        docker-config.json.lock              empty; held by whoever changes the file

A reader sees the file as it was or as it is, never half of it. Where a filesystem has no locks, two logins at the same
moment may lose one of the two; nothing else breaks.
"""

import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hpcc.errors import CacheError, LockTimeout, UsageError
from hpcc.registry.account import Credentials
from hpcc.registry.stores import Entry, key_of, list_store, read_store, scope_of

LOCK_WAIT = 10.0  # seconds; whoever holds it needs milliseconds


def store_login(path: str, scope: str, credentials: Credentials) -> None:
    """Have `credentials` stand for `scope`, which is registry[/path], in the store at `path`. Atomic, idempotent.

    All else in the file stays as it is. UsageError for a user name that the format cannot hold; SettingsError for a
    file that does not parse, which is left alone; CacheError where nothing can be written; LockTimeout.
    """
    if ":" in credentials.username:
        raise UsageError(
            f"the user name {credentials.username!r} has a colon, which none has", hint="RFC 7617 separates by it."
        )
    try:
        f"{credentials.username}{credentials.password}{credentials.identity_token}".encode()
    except UnicodeEncodeError:
        raise UsageError(
            "the user name or the password is no UTF-8", hint="Is the locale of the terminal right?"
        ) from None
    entry = {"auth": credentials.basic}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    with _changed(path) as document:
        auths = document.get("auths") or {}
        document["auths"] = {key: value for key, value in auths.items() if scope_of(key) != scope}
        document["auths"][key_of(scope)] = entry


def remove_login(path: str, scope: str) -> bool:
    """Forget what stands for exactly `scope`; whether something did. Atomic, idempotent.

    SettingsError for a file that does not parse; CacheError where nothing can be written; LockTimeout.
    """
    if not any(scope_of(key) == scope for key in (read_store(path) or {}).get("auths") or {}):
        return False
    with _changed(path) as document:
        auths = document.get("auths") or {}
        document["auths"] = {key: value for key, value in auths.items() if scope_of(key) != scope}
    return True


def list_logins(path: str) -> list[Entry]:
    """What the store has, without secrets. SettingsError for a file that does not parse."""
    return list_store(path)


@contextmanager
def _changed(path: str) -> Iterator[dict[str, Any]]:
    """The file's document, to be changed within the lock; written when the block ends without an error."""
    with changing(path, "login") as target:
        document = read_store(target) or {}
        yield document
        replace(target, json.dumps(document, indent="\t", ensure_ascii=False).encode("utf-8", "surrogatepass"))


@contextmanager
def changing(path: str, what: str) -> Iterator[str]:
    """Hold a file of secrets, in a directory that is there for its owner alone; where it really lies.

    CacheError for what goes wrong with it within the block, LockTimeout.
    """
    target = os.path.realpath(path)  # some keep their settings elsewhere and have links to them
    try:
        _make_directory(os.path.dirname(path))
        with _locked(f"{target}.lock"):
            yield target
    except LockTimeout:  # which is an OSError too
        raise
    except OSError as error:
        raise CacheError(
            f"cannot write the {what} to {path}: {error.strerror}",
            hint="Is there room, and is it yours? XDG_CONFIG_HOME names another place.",
        ) from None


def _make_directory(directory: str) -> None:
    """Have the directory, for its owner alone, whatever mode it had."""
    above = os.path.dirname(directory)
    for place in (above, directory):
        if not os.path.isdir(place):
            os.makedirs(place, mode=0o700, exist_ok=True)
            _hand_over(place, os.path.dirname(place))
    if os.stat(directory).st_mode & 0o077:
        os.chmod(directory, 0o700)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    # A file and not the directory: over NFS, where homes are, flock wants something that is open for writing.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _hand_over(fd, os.path.dirname(path))
        deadline = time.monotonic() + LOCK_WAIT
        while not _try_lock(fd):
            if time.monotonic() > deadline:
                raise LockTimeout(
                    f"another process has held {path} for {LOCK_WAIT:g} s", hint="Is it stopped? `fuser` names it."
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (
            errno.EAGAIN,
            errno.EACCES,
        )  # others: no locks here, and none is needed to be correct
    return True


def replace(path: str, data: bytes) -> None:
    """Replace the file whole, with mode 0600; on stable storage when this returns."""
    directory = os.path.dirname(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)  # 0600 from the first byte on
    try:
        with open(fd, "wb") as file:
            _hand_over(fd, directory)
            file.write(data + b"\n")
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    except OSError:  # not every filesystem can; the rename is done
        pass
    finally:
        os.close(parent)


def _hand_over(what: int | str, directory: str) -> None:
    """Root under `sudo -E` writes into the home of a user, who must be able to read it afterwards."""
    owner = os.stat(directory)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(what, owner.st_uid, owner.st_gid)
