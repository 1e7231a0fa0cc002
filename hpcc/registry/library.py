"""The library API for those who write to it, or look for something: Sylabs' cloud and servers compatible with it.

    GET  /v1/entities/E  /v1/collections/E/C  /v1/containers/E/C/N  /v1/images/E/C/N:sha256.HEX?arch=A    404: not there
    POST /v1/entities    /v1/collections      /v1/containers        /v1/images          {"data": {"id": "…", …}}
    GET  /version                                   {"data": {"apiVersion": "2.0.0-alpha.2"}}
    POST /v2/imagefile/ID  {filesize, sha256sum}    {"data": {"uploadURL": …}}; PUT of the SIF there, without the token;
    PUT  /v2/imagefile/ID/_complete  {}             from 2.0.0-alpha.1 on; older ones: POST /v1/imagefile/ID, the SIF
    POST /v2/tags/CONTAINER  {Arch, Tag, ImageID}   from 2.0.0-alpha.2 on; older ones: /v1/tags/CONTAINER, without Arch
    GET  /v1/search?value=TEXT&arch=A&signed=true   {"data": {"image": [{"entityName": …, "tags": […], …}, …]}}
    DELETE /v1/images/E/C/N:TAG?arch=A
    GET  /v1/token-status                           200 for a token that is good

Its public client's (scs-library-client). What belongs to whom goes by ids, which the library gives.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from hpcc.errors import AccessDenied, IntegrityError, RegistryError, UsageError
from hpcc.oci.digest import Digest
from hpcc.oci.reference import covers
from hpcc.progress import Part
from hpcc.registry.addresses import split
from hpcc.registry.answers import Question, to_error
from hpcc.registry.connections import Response, dismiss
from hpcc.registry.transport import Transport

ReadAt = Callable[[int, int], bytes]
MAX_ANSWER = 8 << 20
SIGNED_UPLOADS = "2.0.0-alpha.1"
TAGS_BY_ARCH = "2.0.0-alpha.2"
NO_DESCRIPTION = "No description"
SYLABS = "https://library.sylabs.io"
_TOKENS = {SYLABS: "https://auth.sylabs.io/token"}  # who knows of tokens where the library does not itself
_CHUNK = 1 << 20


class FileBody:
    """The bytes of a file as a request's body, which can be sent more than once; `part` is told what is under way."""

    def __init__(self, read_at: ReadAt, size: int, part: Part) -> None:
        self._read_at, self._size, self._part, self._at = read_at, size, part, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._part.advance(-self._at)
        self._at = 0
        while self._at < self._size:
            data = self._read_at(self._at, min(_CHUNK, self._size - self._at))
            if not data:
                raise IntegrityError("the file was cut short while it was sent")
            yield data
            self._at += len(data)
            self._part.advance(len(data))


class Library:
    """One library. `token` goes to it alone. To be closed; or use it in a with statement.

    Each method raises RegistryError and its kinds, with the library's own words.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        user_agent: str,
        ca_files: tuple[str, ...] = (),
        insecure: tuple[str, ...] = (),
        token: str = "",
    ) -> None:
        parts = split(endpoint)
        if parts is None or parts.scheme not in ("http", "https") or parts.username or parts.query:
            raise UsageError(f"{endpoint[:300]!r} is no address of a library", hint=f"As in {SYLABS}.")
        self.endpoint, self.host = endpoint.rstrip("/"), parts.netloc.lower()
        self._token, self._user_agent, self._ca_files = token, user_agent, ca_files
        unchecked = parts.scheme == "https" and any(covers(each, self.host) for each in insecure)
        self._transport = self._connect(self.host, "insecure" if unchecked else parts.scheme)
        self._plain = parts.scheme == "http"

    def __enter__(self) -> "Library":
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def check_token(self) -> bool:
        """Whether the library says that its token is good; False where it cannot tell. AccessDenied for a bad one."""
        base = _TOKENS.get(self.endpoint, self.endpoint)
        if base == self.endpoint:
            return self._ask("GET", "/v1/token-status", "token", missing=True) is not None
        with Library(base, user_agent=self._user_agent, ca_files=self._ca_files, token=self._token) as other:
            return other.check_token()

    def search(self, text: str, arch: str, *, signed: bool) -> list[dict[str, Any]]:
        """What the library says of each image that it finds; no field is certain to be there."""
        query = {"value": text, "arch": arch} | ({"signed": "true"} if signed else {})
        images = self._object(self._ask("GET", "/v1/search", f"image for {text!r}", query=query)).get("image") or []
        if not isinstance(images, list) or not all(isinstance(each, dict) for each in images):
            raise self._strange()
        return images

    def delete(self, path: str, version: str, arch: str) -> None:
        """Have the library forget an image. ImageNotFound."""
        what = f"image library://{path}:{version} for {arch}"
        self._ask("DELETE", f"/v1/images/{path}:{version}", what, query={"arch": arch}, data=b"")

    def push(
        self,
        path: str,
        tags: tuple[str, ...],
        arch: str,
        digest: Digest,
        size: int,
        read_at: ReadAt,
        part: Part,
        description: str = "",
    ) -> bool:
        """Have the library have this SIF as entity/collection/name, under these tags; whether the SIF was sent.

        What was made stays where a later step fails: the next push goes on from there. The tags come last.
        """
        entity, collection, name = path.split("/")
        owner = self._have("entities", entity, {"name": entity, "description": NO_DESCRIPTION})
        group = {"name": collection, "description": NO_DESCRIPTION, "entity": owner["id"]}
        holder = self._have("collections", f"{entity}/{collection}", group)
        container = {"name": name, "description": NO_DESCRIPTION, "collection": holder["id"]}
        box = self._have("containers", path, container)
        hashed = f"sha256.{digest.hex}"
        image = {"hash": hashed, "description": description, "container": box["id"]}
        made = self._have("images", f"{path}:{hashed}", image, {"arch": arch})
        version = self._version()
        sent = made.get("uploaded") is not True
        if sent:
            self._send(made["id"], digest, size, FileBody(read_at, size, part), at_least(version, SIGNED_UPLOADS))
            part.finish()
        else:
            part.advance(size)
            part.finish("is there")
        for tag in tags:
            if at_least(version, TAGS_BY_ARCH):
                place, document = "v2", {"Arch": arch, "Tag": tag, "ImageID": made["id"]}
            else:
                place, document = "v1", {"Tag": tag, "ImageID": made["id"]}
            self._ask("POST", f"/{place}/tags/{_quoted(box['id'])}", f"tag {tag}", document=document)
        return sent

    def _send(self, id: str, digest: Digest, size: int, body: FileBody, signed: bool) -> None:
        if not signed:
            self._ask("POST", f"/v1/imagefile/{_quoted(id)}", "upload", data=body)
            return
        path = f"/v2/imagefile/{_quoted(id)}"
        answer = self._ask("POST", path, "upload", document={"filesize": size, "sha256sum": digest.hex})
        url = self._object(answer).get("uploadURL")
        url = url if isinstance(url, str) else ""
        parts = split(url)
        if parts is None or not (parts.scheme == "https" or (parts.scheme == "http" and self._plain)):
            raise RegistryError(
                f"{self.host} sends an upload to where hpcc does not go: {url.partition('?')[0][:60]!r}"
            )
        store = self._connect(parts.netloc.lower(), parts.scheme)
        try:  # the address is its own proof, so that no token goes there
            headers = {"Content-Type": "application/octet-stream", "x-amz-content-sha256": digest.hex}
            question = Question(parts.netloc.rpartition("@")[2], "", "upload", None)
            response = store.send("PUT", url, headers, question, data=body)
            if response.status_code not in (200, 201, 204):
                said = store.words(response, question)
                response.close()
                raise to_error(response.status_code, response.headers, said, question, None)
            dismiss(response)
        finally:
            store.close()
        self._ask("PUT", f"{path}/_complete", "upload", document={})

    def _have(
        self, kind: str, name: str, document: dict[str, Any], query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What the library has of that name, made if it was not there; its "id" is a text."""
        found = self._ask("GET", f"/v1/{kind}/{name}", name, query=query, missing=True)
        if found is None:
            found = self._ask("POST", f"/v1/{kind}", name, document=document)
        known = self._object(found)
        if not isinstance(known.get("id"), str) or not known["id"]:
            raise self._strange()
        return known

    def _version(self) -> str:
        """Of the API; "" where the library does not tell, which means the oldest."""
        try:
            answer = self._ask("GET", "/version", "version", missing=True)
        except AccessDenied:
            return ""
        version = answer.get("apiVersion") if isinstance(answer, dict) else None
        return version if isinstance(version, str) else ""

    def _ask(
        self,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        document: dict[str, Any] | None = None,
        data: bytes | FileBody | None = None,
        missing: bool = False,
    ) -> Any:
        """The "data" of the answer, {} for none; None for a 404 where something may be `missing`."""
        question = Question(self.host, "", what, None)
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if document is not None:
            headers["Content-Type"], data = "application/json", json.dumps(document).encode()
        response = self._transport.send(method, f"{self.endpoint}{path}", headers, question, query=query, data=data)
        if missing and response.status_code == 404:
            dismiss(response)
            return None
        if response.status_code not in (200, 201, 202, 204):
            raise self._refusal(response, question)
        with response:
            body = self._transport.read(response, MAX_ANSWER + 1, self.host)
        if not body.strip():
            return {}
        try:
            answer = json.loads(body) if len(body) <= MAX_ANSWER else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._strange()
        return answer.get("data", {})

    def _refusal(self, response: Response, question: Question) -> RegistryError:
        said = self._transport.words(response, question)
        response.close()
        error = to_error(response.status_code, response.headers, said, question, None)
        if isinstance(error, AccessDenied):
            hint = (
                "Is the token still good, and may its owner do this there? `hpcc registry login` stores another one."
                if self._token
                else f"Asked without a token: `hpcc registry login` stores one, where library_url is {self.endpoint}."
            )
            return AccessDenied(f"{question.what}: {error.message}", hint=hint)
        return error if isinstance(error, RegistryError) else RegistryError(error.message, hint=error.hint)

    def _connect(self, host: str, scheme: str) -> Transport:
        return Transport(host, scheme=scheme, user_agent=self._user_agent, timeout=(5.0, 60.0), ca_files=self._ca_files)

    def _object(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            raise self._strange()
        return answer

    def _strange(self) -> RegistryError:
        return RegistryError(
            f"{self.host} does not answer as a library would",
            hint="Does the setting library_url name a library, and not the page of one?",
        )


def at_least(version: str, minimum: str) -> bool:
    """Whether a version is that or later by semver.org's order; what is no version is not."""
    try:
        return _order(version) >= _order(minimum)
    except ValueError:
        return False


def _order(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    core, dash, extra = version.partition("+")[0].partition("-")
    numbers = tuple(int(word) for word in core.split("."))
    words = extra.split(".")
    return numbers, not dash, tuple((not w.isdecimal(), int(w) if w.isdecimal() else 0, w) for w in words)


def _quoted(id: str) -> str:
    return quote(id, safe="")
