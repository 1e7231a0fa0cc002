"""The library API of Sylabs' cloud and of servers compatible with it (Singularity's and Apptainer's clients, public).

library://[HOST/][entity/[collection/]]name[:tag | :sha256.HEX | @sha256:HEX]     entity library, collection default
GET /v1/images/entity/collection/name:tag?arch=amd64       {"data": {"hash": "sha256.HEX", "size": N, …}}
GET /v1/imagefile/entity/collection/name:tag?arch=amd64    the SIF, or a redirect to it
errors                                                     {"error": {"code": 404, "message": "…"}}
"""

from __future__ import annotations

from hpcc.errors import AccessDenied, ImageNotFound, InvalidReference, RegistryError, UnsupportedImage
from hpcc.oci.digest import Digest
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

    from hpcc.registry.web import Web

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_EXAMPLE = "Examples: library://lab/group/tools:1.4, library://alpine."


class LibraryName(NamedTuple):
    """endpoint: https://HOST; path: entity/collection/name; version: a tag, or sha256.HEX."""

    endpoint: str
    path: str
    version: str

    @classmethod
    def parse(cls, text: str, endpoint: str, *, plain: bool = False) -> LibraryName:
        """What stands behind library://; `plain`: a host in it speaks http alone. InvalidReference."""
        host, slash, rest = text.strip("/").partition("/")
        if slash and ("." in host or ":" in host):
            endpoint, text = f"{'http' if plain else 'https'}://{host}", rest
        name, at, digest = text.strip("/").partition("@")
        version = digest.replace(":", ".")
        if not at:
            head, colon, tail = name.rpartition(":")
            name, version = (head, tail) if colon else (name, "latest")
        parts = name.split("/")
        if len(parts) > 3 or len(text) > 1024 or not all(map(_is_word, (*parts, version))):
            raise InvalidReference(f"library://{text[:200]} is no name in a library", hint=_EXAMPLE)
        implied = {1: ["library", "default", *parts], 2: [parts[0], "default", parts[-1]]}
        full = implied.get(len(parts), parts)
        return cls(endpoint.rstrip("/"), "/".join(full), version)

    @property
    def digest(self) -> Digest | None:
        """What the version says that the SIF hashes to; None for a tag."""
        try:
            return Digest.parse(self.version.replace(".", ":", 1))
        except InvalidReference:
            return None

    def __str__(self) -> str:
        return f"library://{self.path}:{self.version}"


def _is_word(text: str) -> bool:
    return text.isascii() and any(letter.isalnum() for letter in text) and not text.strip("-_.").strip(_LETTERS + "-_.")


class Entry(NamedTuple):
    """What a library has under a name. digest: None where it counts by another hash than SHA-256."""

    digest: Digest | None
    size: int


def ask_library(web: Web, name: LibraryName, arch: str) -> Entry:
    """What the name means now. ImageNotFound, RegistryError, UnsupportedImage."""
    try:
        data = web.document(f"{name.endpoint}/v1/images/{name.path}:{name.version}", f"image {name}", {"arch": arch})
    except AccessDenied as error:
        raise AccessDenied(
            error.message,
            hint="Is the name right? If it is private: `hpcc registry login` or HPCC_LIBRARY_TOKEN, "
            f"where library_url is {name.endpoint}.",
        ) from None
    except ImageNotFound:
        raise ImageNotFound(
            f"{name.endpoint} has no {name} for {arch}",
            hint="Is the name right? Other libraries: the setting library_url, or library://HOST/entity/collection/name.",
        ) from None
    import json

    try:
        answer: Any = json.loads(data)["data"]
        found, size, uploaded = str(answer["hash"]), int(answer["size"]), bool(answer.get("uploaded", True))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(
            f"{name.endpoint} does not answer as a library would: {data[:60]!r}",
            hint="Does the setting library_url name a library, and not the page of one?",
        ) from None
    if not uploaded:
        raise UnsupportedImage(f"{name} was not uploaded to the end", hint="Ask whoever pushed it to push it again.")
    algorithm, _, value = found.replace(":", ".").partition(".")
    try:
        return Entry(Digest.parse(f"{algorithm}:{value}"), size)
    except InvalidReference:
        return Entry(None, size)
