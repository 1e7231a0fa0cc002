"""Pushing to a registry: distribution specification 1.1, "Push".

    HEAD  /v2/<name>/blobs/<digest>            200: it is there, and nothing is sent
    POST  /v2/<name>/blobs/uploads/            202, and a Location; with ?mount=<digest>&from=<other> 201: done
    PATCH <Location>  Content-Range: a-b       202, and the next Location; a chunk at a time
    PUT   <Location>?digest=<digest>           201
    PUT   /v2/<name>/manifests/<reference>     201; last, so that nobody finds an image of which parts are missing

A chunk that breaks off is sent again from where the registry says that it is: GET <Location> tells (204, Range).
"""

from collections.abc import Callable
from urllib.parse import quote

from hpcc.errors import IntegrityError, RegistryError
from hpcc.oci.digest import Digest
from hpcc.progress import Part
from hpcc.registry.addresses import join, origin, split
from hpcc.registry.answers import Question
from hpcc.registry.client import Registry
from hpcc.registry.connections import Interrupted, Response, dismiss

CHUNK = 16 << 20
"""Bytes of a PATCH; GHCR refuses more than 4 MB no longer, and ACR takes at most 20 MB."""

MOST_BROKEN = 5
ReadAt = Callable[[int, int], bytes]


class Upload:
    """Into one repository of a registry, with the user's account. Raises RegistryError, AccessDenied."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry, self._repository = registry, repository
        registry.use_login(repository)
        self._question = Question(registry.host, repository, "push", registry.credentials)

    def has(self, digest: Digest) -> bool:
        """Whether the repository has this blob."""
        path = f"/v2/{self._repository}/blobs/{digest}"
        response = self._registry.ask("HEAD", path, {}, self._question, accept=(200, 404))
        dismiss(response)
        return response.status_code == 200

    def blob(self, digest: Digest, size: int, read_at: ReadAt, part: Part, *, mount: str = "") -> bool:
        """Have the registry have this blob; whether anything was sent. mount: another repository that may have it."""
        if self.has(digest):
            part.advance(size)
            part.finish("is there")
            return False
        path = f"/v2/{self._repository}/blobs/uploads/"
        if mount:
            path += f"?mount={quote(str(digest), safe='')}&from={quote(mount, safe='')}"
        response = self._registry.ask("POST", path, {"Content-Length": "0"}, self._question, accept=(201, 202))
        where = self._location(response, path)
        if response.status_code == 201:
            part.advance(size)
            part.finish("is there")
            return False
        where = self._chunks(where, size, read_at, part)
        where += f"{'&' if '?' in where else '?'}digest={quote(str(digest), safe='')}"
        dismiss(self._registry.ask("PUT", where, {"Content-Length": "0"}, self._question, accept=(201, 204)))
        part.finish()
        return True

    def small_blob(self, data: bytes) -> Digest:
        """A blob that is in memory, as a config; its digest."""
        digest = Digest.of(data)
        self.blob(digest, len(data), lambda at, size: data[at : at + size], Part())
        return digest

    def manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Put a manifest under a tag or its digest; its digest. IntegrityError where the registry names another."""
        path, digest = f"/v2/{self._repository}/manifests/{reference}", Digest.of(data)
        headers = {"Content-Type": media_type}
        response = self._registry.ask("PUT", path, headers, self._question, data=data, accept=(200, 201))
        named = response.headers.get("Docker-Content-Digest", "")
        dismiss(response)
        if named.startswith("sha256:") and named != str(digest):
            raise IntegrityError(f"{self._question.name}: {digest} was sent, and the registry has {named[:100]}")
        return digest

    def _chunks(self, where: str, size: int, read_at: ReadAt, part: Part) -> str:
        done = broken = 0
        while done < size:
            data = read_at(done, min(CHUNK, size - done))
            if not data:
                raise IntegrityError("the file was cut short while it was sent")
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{done}-{done + len(data) - 1}"}
            try:
                response = self._registry.ask("PATCH", where, headers, self._question, data=data, accept=(202, 204))
            except Interrupted:
                broken += 1
                if broken > MOST_BROKEN:
                    raise
                where, at = self._progress(where)
                if not done <= at <= size:
                    raise
                part.advance(at - done)
                done = at
                continue
            where = self._location(response, where)
            done += len(data)
            part.advance(len(data))
        return where

    def _progress(self, where: str) -> tuple[str, int]:
        """Where an upload that broke goes on, and how much of it the registry has."""
        response = self._registry.ask("GET", where, {}, self._question, accept=(204,))
        end = response.headers.get("Range", "").removeprefix("bytes=").partition("-")[2]
        where = self._location(response, where)
        return where, int(end) + 1 if end.isascii() and end.isdigit() and end != "0" else 0

    def _location(self, response: Response, asked: str) -> str:
        """Where the registry wants the next request: at itself, since that has our account."""
        base = self._registry.base
        before = asked if "://" in asked else base + asked
        dismiss(response)
        given = response.headers.get("Location", "")
        where = join(before, given) if given else before
        parts = split(where)
        if parts is None or origin(where) != origin(base):
            raise RegistryError(f"{self._question.name}: the registry sends an upload to {where[:100]!r}")
        return where
