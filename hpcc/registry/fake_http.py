"""The HTTP side of FakeRegistry: one request, its answer, and what goes wrong with it."""

import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from hpcc.oci.digest import Digest
from hpcc.registry.fake_tokens import Asked, answer, challenge, error_body, is_token_service

if TYPE_CHECKING:
    from hpcc.registry.fake import FakeRegistry

_TOO_MANY = "You have reached your unauthenticated pull rate limit."
_MOST = 1 << 30  # bytes of an endless body, so that a client without bounds fails, rather than its machine


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], registry: "FakeRegistry") -> None:
        self.registry = registry
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are their own business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a header and its body, two packets, are 40 ms apart
    server: Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `requests` has it all."""

    @property
    def _host(self) -> str:
        """How the client calls us: host:port, or a public name where it takes us for its proxy."""
        return self.headers.get("Host", "") or self.server.registry.host

    def _answer(self) -> None:
        registry, faults = self.server.registry, self.server.registry.faults
        path = urlsplit(self.path).path
        registry.requests.append((self.command, path))
        if "Authorization" in self.headers:
            registry.authorised.append(path)
        if faults.delay:
            time.sleep(faults.delay)
        if faults.hang_up and registry.happens("hang_up", faults.hang_up):
            self.close_connection = True
            return None
        if is_token_service(registry.kind, self._host, path):
            return self._token(path)
        if faults.unavailable and registry.happens("unavailable", faults.unavailable):
            return self._fail(503, "UNAVAILABLE", "try again")
        if faults.busy and registry.happens("busy", faults.busy):
            return self._busy()
        at_storage = self._host == self._storage()
        if (faults.no_authorization or at_storage) and "Authorization" in self.headers:
            return self._fail(400, "INVALID", "only one authorisation is allowed")
        repository, kind, reference = _split(path)
        if faults.no_head and self.command == "HEAD":
            return self._fail(405, "UNSUPPORTED", "the operation is unsupported")
        if not at_storage and not self._is_allowed(repository):
            return self._challenge(repository)
        if kind == "manifests":
            return self._manifest(repository, reference)
        if kind == "blobs":
            return self._blob(reference)
        return self._send(200, b"{}", {}) if path == "/v2/" else self._fail(404, "NAME_UNKNOWN", "no such page")

    def _busy(self) -> None:
        registry, faults = self.server.registry, self.server.registry.faults
        headers = {"Retry-After": faults.retry_after} if faults.retry_after else {}
        if faults.busy_body:
            return self._send(429, faults.busy_body, {"Content-Type": "text/plain", **headers})
        self._fail(429, "TOOMANYREQUESTS", faults.busy_words or registry.kind.busy_words, headers)

    def _storage(self) -> str:
        """The host that has the blobs, as this client is to call it; "" where it is the registry itself."""
        registry = self.server.registry
        if not registry.kind.storage:
            return ""
        by_address = f"localhost:{registry.host.rpartition(':')[2]}"  # another origin, which is here too
        return by_address if self._host in (registry.host, by_address) else registry.kind.storage

    def _is_allowed(self, repository: str) -> bool:
        registry = self.server.registry
        user = registry.user_of(self.headers.get("Authorization", ""), repository)
        if registry.kind.scheme == "none":
            return True
        if registry.kind.scheme == "basic":
            return bool(user) or (not registry.username and not registry.private)
        return user is not None and (repository not in registry.private or bool(user))

    def _challenge(self, repository: str) -> None:
        registry = self.server.registry
        kind, sent = registry.kind, self.headers.get("Authorization", "")
        stale = sent.startswith("Bearer ") and registry.user_of(sent) is None
        asks = challenge(kind, registry.host, self._host, repository, stale=stale)
        refused = kind.refusal
        if kind.scheme == "basic" and sent:
            return self._fail(refused.status, refused.code, refused.words, {"WWW-Authenticate": asks})
        self._fail(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": asks})

    def _token(self, path: str) -> None:
        registry = self.server.registry
        registry.count("token")
        length = min(int(self.headers.get("Content-Length") or 0), 1 << 20)
        form = dict(parse_qsl(self.rfile.read(length).decode("utf-8", "replace")))
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        asked = Asked(self.command, path, self._host, query, form, self.headers.get("Authorization", ""))
        status, body = answer(registry, asked)
        if status == 200 and registry.faults.token:
            body = registry.faults.token
        self._send(status, body, {"Content-Type": "application/json"}, "token")

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
        self._send(200, data, {**headers, "Content-Type": media_type}, "manifests")

    def _blob(self, digest: str) -> None:
        registry = self.server.registry
        registry.count(f"blob_{self.command.lower()}")
        data = registry.blobs.get(digest)
        if data is None:
            return self._fail(404, "BLOB_UNKNOWN", "blob unknown to registry")
        storage = self._storage()
        elsewhere = registry.faults.redirect or (f"http://{storage}" if storage not in ("", self._host) else "")
        if elsewhere:
            return self._send(307, b"", {"Location": f"{elsewhere}{urlsplit(self.path).path}"})
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
            cut_at = len(data) // 2 if registry.faults.cut_at is None else registry.faults.cut_at
            return self._send(code, data[:cut_at], {**headers, "Content-Length": str(len(data))})
        self._send(code, data, headers, "blobs")

    def _fail(self, code: int, name: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(code, error_body(name, message), {"Content-Type": "application/json", **(headers or {})}, "errors")

    def _send(self, code: int, data: bytes, headers: Mapping[str, str], what: str = "") -> None:
        """An answer; `what` it is, where the faults of bodies may happen to it."""
        faults = self.server.registry.faults
        if what and faults.only not in ("", what):
            what = ""
        if what and code < 300 and faults.error_as_ok:
            data = error_body("UNKNOWN", "something went wrong inside")
            headers = {"Content-Type": "application/json"}
        length = len(data) + (faults.length_off if what else 0)
        endless = bool(what) and faults.endless
        own = {} if endless else {"Content-Length": str(length)}
        if endless or length != len(data):
            self.close_connection = True
        self.send_response(code)
        for name, value in {**own, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if what and faults.trickle:
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(faults.trickle)
        else:
            self.wfile.write(data)
        for _ in range(_MOST >> 16 if endless else 0):
            self.wfile.write(b"x" * (1 << 16))


def _split(path: str) -> tuple[str, str, str]:
    """/v2/<repository>/<manifests|blobs>/<reference> in its parts; empty where it is no such path."""
    parts = path.split("/")
    if len(parts) < 5 or parts[1] != "v2" or parts[-2] not in ("manifests", "blobs"):
        return "", "", ""
    return "/".join(parts[2:-2]), parts[-2], parts[-1]
