"""A registry inside this process, for `hpcc demo` and the tests: the distribution specification's read API, the token
services of the registries that hpcc supports, Docker Hub's rate limit, and the faults that real registries have.

    with FakeRegistry(quota=5) as registry:
        registry.add_image("library/tools", "1.0", layers, config)
        … f"docker://{registry.host}/library/tools:1.0" …
        registry.counts["manifest_get"]

It answers as an HTTP proxy too, whatever the host: with HTTP_PROXY=registry.url a client that speaks http meets it as
ghcr.io, say, with kind="ghcr" (hpcc.registry.fake_tokens).
"""

import base64
import json
import secrets
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from hpcc.oci.digest import Digest
from hpcc.records import NamedTuple
from hpcc.registry.fake_http import Server
from hpcc.registry.fake_tokens import KINDS, Kind

_KIND = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG = (f"{_KIND}{name}.v1+json" for name in ("manifest", "index", "config"))


class Faults(NamedTuple):
    """What goes wrong. Counts are of requests that it happens to, from the first; -1: always."""

    truncate: int = 0  # blobs whose connection breaks: in the middle, or
    cut_at: int | None = None  # after so many bytes of an answer
    alter: int = 0  # blobs of which one byte is wrong
    unavailable: int = 0  # requests answered 503
    missing_digest: bool = False  # no Docker-Content-Digest
    no_range: bool = False  # Range is ignored
    wrong_range: int = 0  # answers to a Range whose Content-Range tells of another place
    redirect: str = ""  # blobs are redirected to this address, with their path behind it
    delay: float = 0.0  # seconds before each answer
    hang_up: int = 0  # requests whose connection is closed without an answer
    busy: int = 0  # requests answered 429, with `retry_after`
    retry_after: str = ""
    busy_words: str = ""  # "" for the kind's own
    busy_body: bytes = b""  # instead of an error document
    no_head: bool = False  # HEAD is answered 405
    token: bytes = b""  # what the token service answers instead of a token
    no_authorization: bool = False  # as S3 behind a redirect: 400 to a request that has one
    only: str = ""  # manifests, blobs, token or errors: what the following happen to, always; "" for all of them
    error_as_ok: bool = False  # 200, and an error document as the body
    length_off: int = 0  # is added to Content-Length: then more comes than it says, or less
    endless: bool = False  # no Content-Length, and a body that goes on until the client hangs up
    trickle: float = 0.0  # seconds before each byte of a body


class FakeRegistry:
    """Serves from memory on a port of 127.0.0.1. All attributes may be read while it runs."""

    def __init__(
        self,
        *,
        quota: int | None = None,
        window: int = 21600,
        username: str = "",
        password: str = "",
        private: Sequence[str] = (),
        scheme: str = "bearer",
        kind: str | Kind = "",
        refresh_tokens: Sequence[str] = (),
        access_tokens: Sequence[str] = (),
        faults: Faults = Faults(),  # noqa: B008  (frozen)
    ) -> None:
        """quota: manifest GETs until 429. private: repositories for the account only. scheme: bearer, basic or none.

        kind: whose ways it has, of KINDS or one's own; then `scheme` does not count. refresh_tokens are good at a token
        service that takes them, access_tokens where they can be exchanged for one.
        """
        self.quota, self.window, self.used = quota, window, 0
        self.kind = (KINDS[kind] if kind else Kind(scheme=scheme)) if isinstance(kind, str) else kind
        self.username, self.password, self.private = username, password, tuple(private)
        self.refresh_tokens, self.access_tokens = list(refresh_tokens), tuple(access_tokens)
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []  # (method, path) in the order of arrival
        self.authorised: list[str] = []  # paths whose request had an Authorization header
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}  # (repository, tag or digest) -> type, bytes
        self._tokens: dict[str, tuple[str, str]] = {}  # token -> user, "" for nobody, and scope
        self._lock = threading.Lock()
        self._happened: Counter[str] = Counter()
        self._server = Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> "FakeRegistry":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    # Content

    def add_image(
        self, repository: str, tag: str, layers: Sequence[bytes], config: Mapping[str, Any], *, index: bool = False
    ) -> Digest:
        """Serve an image of these layers (tar, compressed or not) under the tag; the digest of its manifest.

        With index, the tag names an index with this manifest, an attestation and another platform.
        """
        descriptors = [{"mediaType": _layer_type(layer), **self.add_blob(layer)} for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **self.add_blob(json.dumps(config).encode())},
            "layers": descriptors,
        }
        data = json.dumps(document).encode()
        digest = self.add_manifest(repository, "" if index else tag, data, MANIFEST)
        if index:
            platform = {"architecture": config.get("architecture", "amd64"), "os": config.get("os", "linux")}
            entry = {"mediaType": MANIFEST, "digest": str(digest), "size": len(data)}
            entries = [
                {**entry, "platform": {"architecture": "unknown", "os": "unknown"}},
                {**entry, "platform": {"architecture": "s390x", "os": "linux"}},
                {**entry, "platform": platform},
            ]
            top = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
            self.add_manifest(repository, tag, json.dumps(top).encode(), INDEX)
        return digest

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> Digest:
        """Serve these bytes as a manifest, by digest, and by tag where one is given."""
        digest = Digest.of(data)
        for reference in filter(None, (tag, str(digest))):
            self.manifests[repository, reference] = (media_type, data)
        return digest

    def add_blob(self, data: bytes) -> dict[str, Any]:
        """Serve these bytes in all repositories; the digest and size of their descriptor."""
        digest = str(Digest.of(data))
        self.blobs[digest] = data
        return {"digest": digest, "size": len(data)}

    # Decisions

    def happens(self, fault: str, times: int) -> bool:
        """Whether a fault that is to happen so many times happens now."""
        with self._lock:
            self._happened[fault] += 1
            return times < 0 or self._happened[fault] <= times

    def issue_token(self, user: str, scope: str) -> str:
        token = secrets.token_hex(8)
        with self._lock:
            self._tokens[token] = (user, scope)
        return token

    def revoke_tokens(self) -> None:
        """From now on each client needs a new token."""
        with self._lock:
            self._tokens.clear()

    def issue_refresh_token(self) -> str:
        token = secrets.token_hex(8)
        self.refresh_tokens.append(token)
        return token

    def account_of(self, authorization: str) -> tuple[str, str]:
        """Name and password in a Basic header, good or not."""
        try:
            name, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
        except ValueError:
            return "", ""
        return name, password

    def user_of(self, authorization: str, repository: str = "") -> str | None:
        """The user that the header proves, "" for an anonymous token; None where it proves nothing, or elsewhere.

        With a repository "" it is for the registry as such, where any token is good.
        """
        scheme, _, value = authorization.partition(" ")
        if scheme == "Bearer":
            user, scope = self._tokens.get(value, (None, ""))
            return user if not repository or scope == self.kind.scope.format(repository=repository) else None
        if scheme == "Basic" and self.username:
            account = self.account_of(authorization)
            return account[0] if account == (self.username, self.password) else None
        return None

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def spend(self) -> bool:
        """Count a manifest GET; False where the quota is spent."""
        with self._lock:
            if self.quota is not None and self.used >= self.quota:
                return False
            self.used += 1
            return True


def _layer_type(layer: bytes) -> str:
    """The media type of a layer, by its first bytes."""
    kinds = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
    return f"{_KIND}layer.v1.tar{kinds.get(layer[:2], '')}"
