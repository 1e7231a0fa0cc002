"""What the plugin has hpcc do: pins, deployments and copies, with the errors that Snakemake shows."""

import hashlib
import logging
import os
import platform
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snakemake_interface_common.exceptions import WorkflowError

import hpcc
from hpcc.copy import new_file
from hpcc.errors import InvalidReference
from hpcc.lookup import Wanted
from hpcc.oci.reference import Reference

CHECKSUM = ".sha256"
_log = logging.getLogger(__name__)


class _Told(hpcc.Progress):
    """What the user should read goes to Snakemake's log; bars would be in its way."""

    def info(self, text: str) -> None:
        _log.info(text)

    def warning(self, text: str) -> None:
        _log.warning(text)


TOLD = _Told()


@contextmanager
def explained() -> Iterator[None]:
    """What failed and what to do, as a WorkflowError, without a traceback."""
    try:
        yield
    except hpcc.HpccError as error:
        raise WorkflowError("\n".join(filter(None, (error.message, error.hint)))) from error
    except OSError as error:
        raise WorkflowError(f"{error.filename or 'the image'}: {error.strerror or error}") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C end what blocks: asyncio keeps it until the next await, which is after the pull."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def settings_with(pull: str | None) -> hpcc.Settings:
    """The user's and the site's, as any command has them."""
    settings = hpcc.Settings.from_environ()
    return settings.replace(pull=pull) if pull else settings


# -- what a URI stands for --------------------------------------------------------------------------------------


def is_remote(uri: str) -> bool:
    """Whether it names an image that must be had first; a file or directory is executed where it is."""
    return "://" in uri


def known(uri: str, pinfile: Path, settings: hpcc.Settings) -> Reference:
    """The reference with the digest that it names itself, that hpcc.lock has for it, or the pinfile. Sends nothing.

    Without a digest where none of them has one. HpccError for a pinfile that is not ours.
    """
    reference = Wanted.parse(uri, settings, progress=TOLD).reference
    if reference.digest is not None:
        return reference
    try:
        text = pinfile.read_text(encoding="utf-8")
    except FileNotFoundError:
        return reference
    try:
        pinned = Reference.parse(text.strip())
    except (InvalidReference, UnicodeDecodeError):
        pinned = None
    if pinned is None or pinned.digest is None or pinned._replace(digest=None) != reference:
        raise hpcc.HpccError(f"{pinfile} does not pin {reference}", hint="Remove it; the next run pins it anew.")
    return pinned


def pin(uri: str, pinfile: Path, settings: hpcc.Settings) -> None:
    """Have the digest in the pinfile. Atomic. One that is there stays, unless the URI or hpcc.lock has another."""
    reference = known(uri, pinfile, settings)
    text = (str(reference) if reference.digest else hpcc.resolve(uri, settings=settings, progress=TOLD)) + "\n"
    if not pinfile.exists() or pinfile.read_text(encoding="utf-8") != text:
        pinfile.parent.mkdir(parents=True, exist_ok=True)
        with new_file(str(pinfile), replace=True, mode=0o666) as file:
            file.write(text.encode())


def describe(path: str) -> str:
    """The digest of the image in a file, as far as it tells; else when that was changed."""
    reference = hpcc.open_image(path, hpcc.Settings.from_environ()).reference
    if reference:
        return reference.partition("@")[2]
    status = os.stat(path)
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


# -- files ------------------------------------------------------------------------------------------------------


def asset_name(reference: Reference) -> str:
    """A file name for an image in Snakemake's cache: debian_12-x86_64-0f3c5aa1b2c4d5e6.sif. The same on each machine
    of one architecture, known without asking anybody.
    """
    stem = reference.file_name.removesuffix(".sif")[:160]
    distinct = hashlib.sha256(reference.canonical.encode()).hexdigest()[:16]
    return f"{stem}-{platform.machine()}-{distinct}.sif"


def write_checksum(image: Path, name: str, target: Path) -> None:
    """What `sha256sum` writes of the image, as if it were called `name`."""
    with open(image, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with new_file(str(target), replace=True, mode=0o666) as sums:
        sums.write(f"{digest}  {name}\n".encode())


def is_sound(asset: Path) -> bool:
    """Whether an asset is what its checksum says. Where it is not, or has none, the user is told."""
    try:
        with open(asset, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums = asset.with_name(asset.name + CHECKSUM).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        _log.warning(f"{asset} is not used: {error.filename}: {error.strerror}")
        return False
    if sums.split()[:1] != [digest]:
        _log.warning(f"{asset} is not used: it is not what its checksum says. Remove it, and it is made anew.")
        return False
    return True


def deploy_asset(asset: Path, target: Path) -> None:
    """A link on one filesystem; else a copy, since then the deployments lie on a disk of the node's own. Atomic."""
    if os.stat(asset).st_dev != os.stat(target.parent).st_dev:
        hpcc.place(str(asset), str(target), link=False, replace=True)
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        temporary.symlink_to(asset.absolute())
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
