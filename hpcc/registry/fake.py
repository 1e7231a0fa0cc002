"""A registry inside this process, for `hpcc demo` and the tests: the distribution specification's read API, a token
service, Docker Hub's rate limit, and the faults that real registries have.

    with FakeRegistry(quota=5) as registry:
        registry.add_image("library/tools", "1.0", layers, config)
        … f"docker://{registry.host}/library/tools:1.0" …
        registry.counts["manifest_get"]
"""

import base64
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hpcc.oci.digest import Digest
from hpcc.records import NamedTuple

_KIND = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG = (f"{_KIND}{name}.v1+json" for name in ("manifest", "index", "config"))
_TOO_MANY = "You have reached your unauthenticated pull rate limit."


class Faults(NamedTuple):
    """What goes wrong. Counts are of requests that it happens to, from the first; -1: always."""

    truncate: int = 0  # blobs whose connection breaks in the middle
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
    busy_words: str = "slow down"
    no_head: bool = False  # HEAD is answered 405
    token: bytes = b""  # what the token service answers instead of a token
    no_authorization: bool = False  # as S3 behind a redirect: 400 to a request that has one


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
        faults: Faults = Faults(),  # noqa: B008  (frozen)
    ) -> None:
        """quota: manifest GETs until 429. private: repositories for the account only. scheme: bearer, basic or none."""
        self.quota, self.window, self.used = quota, window, 0
        self.username, self.password, self.private, self.scheme = username, password, tuple(private), scheme
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []  # (method, path) in the order of arrival
        self.authorised: list[str] = []  # paths whose request had an Authorization header
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}  # (repository, tag or digest) -> type, bytes
        self._tokens: dict[str, tuple[str, str]] = {}  # token -> user, "" for nobody, and scope
        self._lock = threading.Lock()
        self._happened: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), self)
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

    def user_of(self, authorization: str, repository: str = "") -> str | None:
        """The user that the header proves, "" for an anonymous token; None where it proves nothing, or elsewhere."""
        scheme, _, value = authorization.partition(" ")
        if scheme == "Bearer":
            user, scope = self._tokens.get(value, (None, ""))
            return user if scope == f"repository:{repository}:pull" else None
        if scheme == "Basic":
            name, _, password = base64.b64decode(value).decode().partition(":")
            if self.username and (name, password) == (self.username, self.password):
                return name
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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], registry: FakeRegistry) -> None:
        self.registry = registry
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are their own business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a header and its body, two packets, are 40 ms apart
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `requests` has it all."""

    def _answer(self) -> None:
        registry = self.server.registry
        path = urlsplit(self.path).path
        registry.requests.append((self.command, path))
        if "Authorization" in self.headers:
            registry.authorised.append(path)
        if registry.faults.delay:
            time.sleep(registry.faults.delay)
        if registry.faults.hang_up and registry.happens("hang_up", registry.faults.hang_up):
            self.close_connection = True
            return None
        if path == "/token":
            return self._token()
        if registry.faults.unavailable and registry.happens("unavailable", registry.faults.unavailable):
            return self._fail(503, "UNAVAILABLE", "try again")
        if registry.faults.busy and registry.happens("busy", registry.faults.busy):
            headers = {"Retry-After": registry.faults.retry_after} if registry.faults.retry_after else {}
            return self._fail(429, "TOOMANYREQUESTS", registry.faults.busy_words, headers)
        if registry.faults.no_authorization and "Authorization" in self.headers:
            return self._fail(400, "INVALID", "only one authorisation is allowed")
        repository, kind, reference = _split(path)
        if registry.faults.no_head and self.command == "HEAD":
            return self._fail(405, "UNSUPPORTED", "the operation is unsupported")
        if not self._is_allowed(repository):
            return self._challenge(repository)
        if kind == "manifests":
            return self._manifest(repository, reference)
        if kind == "blobs":
            return self._blob(reference)
        return self._send(200, b"{}", {}) if path == "/v2/" else self._fail(404, "NAME_UNKNOWN", "no such page")

    def _is_allowed(self, repository: str) -> bool:
        registry = self.server.registry
        user = registry.user_of(self.headers.get("Authorization", ""), repository)
        if registry.scheme == "none":
            return True
        if registry.scheme == "basic":
            return bool(user) or (not registry.username and not registry.private)
        return user is not None and (repository not in registry.private or bool(user))

    def _challenge(self, repository: str) -> None:
        registry = self.server.registry
        if registry.scheme == "basic":
            challenge = 'Basic realm="the registry, by name and password"'
        else:
            challenge = (
                f'Bearer realm="{registry.url}/token",service="fake, with a comma",scope="repository:{repository}:pull"'
            )
        self._fail(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    def _token(self) -> None:
        registry = self.server.registry
        registry.count("token")
        header = self.headers.get("Authorization", "")
        user = registry.user_of(header) if header else ""
        if user is None:
            return self._fail(401, "UNAUTHORIZED", "incorrect username or password")
        scope = parse_qs(urlsplit(self.path).query).get("scope", [""])[0]
        answer = {"token": registry.issue_token(user, scope), "expires_in": 300}
        self._send(200, registry.faults.token or json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _manifest(self, repository: str, reference: str) -> None:
        registry = self.server.registry
        registry.count(f"manifest_{self.command.lower()}")
        spent = self.command == "GET" and not registry.spend()
        headers = {}
        if registry.quota is not None:
            headers = {
                "ratelimit-limit": f"{registry.quota};w={registry.window}",
                "ratelimit-remaining": f"{registry.quota - registry.used};w={registry.window}",
                "docker-ratelimit-source": "127.0.0.1",
            }
        if spent:
            return self._fail(429, "TOOMANYREQUESTS", _TOO_MANY, headers)
        found = registry.manifests.get((repository, reference))
        if found is None:
            return self._fail(404, "MANIFEST_UNKNOWN", f"manifest unknown to {repository}", headers)
        media_type, data = found
        if not registry.faults.missing_digest:
            headers["Docker-Content-Digest"] = str(Digest.of(data))
        self._send(200, data, {**headers, "Content-Type": media_type})

    def _blob(self, digest: str) -> None:
        registry = self.server.registry
        registry.count(f"blob_{self.command.lower()}")
        data = registry.blobs.get(digest)
        if data is None:
            return self._fail(404, "BLOB_UNKNOWN", "blob unknown to registry")
        if registry.faults.redirect:
            return self._send(307, b"", {"Location": f"{registry.faults.redirect}{self.path}"})
        if registry.faults.alter and registry.happens("alter", registry.faults.alter):
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
        code, headers = 200, {"Content-Type": "application/octet-stream"}
        total = len(data)
        if start.isdigit() and not registry.faults.no_range:
            if int(start) >= total:
                return self._fail(416, "RANGE_INVALID", "nothing there", {"Content-Range": f"bytes */{total}"})
            code, first = 206, int(start)
            if registry.faults.wrong_range and registry.happens("wrong_range", registry.faults.wrong_range):
                first //= 2
            headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
            data = data[first:]
        if registry.faults.truncate and registry.happens("truncate", registry.faults.truncate):
            self.close_connection = True
            return self._send(code, data[: len(data) // 2], {**headers, "Content-Length": str(len(data))})
        self._send(code, data, headers)

    def _fail(self, code: int, name: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps({"errors": [{"code": name, "message": message, "detail": None}]}).encode()
        self._send(code, data, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, code: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _layer_type(layer: bytes) -> str:
    """The media type of a layer, by its first bytes."""
    kinds = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}
    return f"{_KIND}layer.v1.tar{kinds.get(layer[:2], '')}"


def _split(path: str) -> tuple[str, str, str]:
    """/v2/<repository>/<manifests|blobs>/<reference> in its parts; empty where it is no such path."""
    parts = path.split("/")
    if len(parts) < 5 or parts[1] != "v2" or parts[-2] not in ("manifests", "blobs"):
        return "", "", ""
    return "/".join(parts[2:-2]), parts[-2], parts[-1]
