"""The config of an image: what to run in it, and the digests of its layers once unpacked.

OCI image specification, config.md; Docker's image.spec v1.2 has the same fields. Both write null
where there is nothing, and so does hpcc read it.
"""

from __future__ import annotations

from hpcc.errors import InvalidImage, InvalidReference
from hpcc.oci.digest import Digest
from hpcc.oci.document import checked_text, child, load_object, pairs, text, texts
from hpcc.oci.manifest import MAX_ENTRIES
from hpcc.oci.platform import Platform
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any


class ImageConfig(NamedTuple):
    """A parsed config.

    Missing strings are "", missing lists (). `env` has "NAME=value" entries, as they stand. `labels` are
    sorted pairs. `diff_ids` name the uncompressed tars, lowest layer first. `raw` is the document itself.
    """

    architecture: str
    os: str
    variant: str
    created: str
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    working_dir: str
    user: str
    labels: tuple[tuple[str, str], ...]
    diff_ids: tuple[Digest, ...]
    raw: bytes

    @property
    def platform(self) -> Platform:
        """In normal form; linux where the config names no system."""
        return Platform.of(self.os or "linux", self.architecture, self.variant)

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """`data` as an image config; InvalidImage where it is none."""
        what = "image config"
        document = load_object(data, what)
        settings = child(document, "config", what)
        return cls(
            text(document, "architecture", what),
            text(document, "os", what),
            text(document, "variant", what),
            text(document, "created", what),
            texts(settings, "Env", what) or (),
            _arguments(settings, "Entrypoint", what),
            _arguments(settings, "Cmd", what),
            text(settings, "WorkingDir", what),
            text(settings, "User", what),
            pairs(settings, "Labels", what),
            _diff_ids(child(document, "rootfs", what), what),
            data,
        )


def _arguments(settings: dict[str, Any], key: str, what: str) -> tuple[str, ...]:
    """A list of arguments; Docker also reads one plain string as a list of one."""
    value = settings.get(key)
    if isinstance(value, str):
        return (checked_text(value, f"{what}: {key}"),)
    return texts(settings, key, what) or ()


def _diff_ids(rootfs: dict[str, Any], what: str) -> tuple[Digest, ...]:
    stated = texts(rootfs, "diff_ids", what) or ()
    if len(stated) > MAX_ENTRIES:
        raise InvalidImage(f"{what}: {len(stated)} layers, more than {MAX_ENTRIES}")
    try:
        return tuple(Digest.parse(entry) for entry in stated)
    except InvalidReference as error:
        raise InvalidImage(f"{what}: diff_ids: {error.message}") from None
