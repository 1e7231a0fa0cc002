"""A plain http server for tests: files with and without Range, ETags, lengths; broken off, changed, redirected. And the
library API on top of it, as its public clients use it.
"""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """Says nothing of clients that hang up, or are killed."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class WebServer:
    """`files` by path, all GETs in `asked` as (path, Range, status). A context manager.

    ranges: whether Range is known; etags, lengths: whether they are sent; cuts: after how many bytes the next answers
    break off, one each; status: of all answers, 200 for the usual.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.authorisations: list[str] = []
        self.ranges = self.etags = self.lengths = True
        self.cuts: list[int] = []
        self.status = 200
        self.redirects: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    server.answer(self)
                except OSError:
                    self.close_connection = True

            def do_POST(self) -> None:
                try:
                    server.change(self)
                except OSError:
                    self.close_connection = True

            do_PUT = do_DELETE = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> "WebServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> tuple[int, bytes, str]:
        """(status, body, where to instead)."""
        if path in self.redirects:
            return 303, b"", self.redirects[path]
        bare = path.partition("?")[0]
        return (200, self.files[bare], "") if bare in self.files else (404, b"nothing here", "")

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        self.authorisations.append(handler.headers.get("Authorization", ""))
        status, data, location = self.find(handler.path)
        if self.status != 200:
            status, data = self.status, b"the server says no"
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        total, start = len(data), 0
        if status == 200 and self.etags and handler.headers.get("If-None-Match") == etag:
            status, data = 304, b""
        elif status == 200 and asked and self.ranges and handler.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            status, data = 206, data[start:]
        self.asked.append((handler.path, asked, status))
        handler.send_response(status)
        if location:
            handler.send_header("Location", location)
        if self.etags and status in (200, 206, 304):
            handler.send_header("ETag", etag)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        cut = self.cuts.pop(0) if self.cuts and status in (200, 206) else None
        if self.lengths or status not in (200, 206):
            handler.send_header("Content-Length", str(len(data)))
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(data[:cut])
        if cut is not None or not self.lengths:
            handler.wfile.flush()
            handler.close_connection = True

    def change(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer POST, PUT and DELETE, which mean nothing here."""
        self.say(handler, 405, {})

    def say(self, handler: BaseHTTPRequestHandler, status: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


class FakeLibrary(WebServer):
    """A library; `images` by (path, tag, arch). token: without which nothing is there.

    api: what it says of its version, "" for one that is older than that; made: what was made, by kind and name, with
    its id; changes: all requests that change something, as (method, path, document); breaks: how many uploads break
    off.
    """

    def __init__(self, api: str = "2.0.0-alpha.2") -> None:
        super().__init__()
        self.images: dict[tuple[str, str, str], bytes] = {}
        self.token = ""
        self.changed: dict[str, Any] = {}  # of what is said of each image
        self.api, self.breaks, self.store_url = api, 0, self.url
        self.made: dict[str, dict[str, Any]] = {}
        self.changes: list[tuple[str, str, dict[str, Any]]] = []
        self.found: dict[str, Any] = {}  # what a search finds
        self._uploads: dict[str, bytes] = {}  # by the image's id

    def _no(self, handler: BaseHTTPRequestHandler, status: int, message: str) -> None:
        self.say(handler, status, {"error": {"code": status, "message": message}})

    def change(self, handler: BaseHTTPRequestHandler) -> None:
        url = urllib.parse.urlsplit(handler.path)
        length, parts = int(handler.headers.get("Content-Length", 0)), url.path.strip("/").split("/")
        is_upload = parts[0] == "uploads" or (parts[:2] == ["v1", "imagefile"])
        if is_upload and self.breaks:
            self.breaks -= 1
            handler.rfile.read(length // 2)
            handler.close_connection = True
            handler.connection.close()
            return
        data = handler.rfile.read(length)
        document = json.loads(data) if data and not is_upload else {}
        self.authorisations.append(handler.headers.get("Authorization", ""))
        self.changes.append((handler.command, handler.path, document))
        if parts[0] == "uploads":
            self._uploads[parts[1]] = data
            self.say(handler, 200, {})
        elif self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            self._no(handler, 401, "Unauthorized")
        elif handler.command == "DELETE":
            name, _, version = "/".join(parts[2:]).rpartition(":")
            arch = urllib.parse.parse_qs(url.query)["arch"][0]
            if self.images.pop((name, version, arch), None) is None:
                self._no(handler, 404, "image not found")
            else:
                self.say(handler, 200, {})
        elif parts[1] in ("entities", "collections", "containers", "images") and handler.command == "POST":
            above = {"entities": "", "collections": "entity", "containers": "collection", "images": "container"}
            name, key = document.get("name") or document["hash"], above[parts[1]]
            if key:
                (parent,) = [each for each in self.made if self.made[each]["id"] == document[key]]
                name = f"{parent.partition('/')[2]}{':' if key == 'container' else '/'}{name}"
            entry = {**document, "id": f"id-{len(self.made)}"}
            self.made[f"{parts[1]}/{name}"] = entry
            self.say(handler, 200, {"data": entry})
        elif parts[1] == "imagefile":
            self._upload(handler, parts, document, data)
        else:
            assert parts[1] == "tags", parts
            self._tag(parts, document)
            self.say(handler, 200, {"data": {}})

    def _upload(self, handler: BaseHTTPRequestHandler, parts: list[str], document: dict[str, Any], data: bytes) -> None:
        (image,) = [each for each in self.made.values() if each["id"] == parts[2]]
        if parts[0] == "v2" and parts[3:] != ["_complete"]:
            assert self.api and document["sha256sum"] == image["hash"].removeprefix("sha256.")
            self.say(handler, 200, {"data": {"uploadURL": f"{self.store_url}/uploads/{parts[2]}?signature=secret"}})
            return
        if parts[0] == "v1":
            self._uploads[parts[2]] = data
        if f"sha256.{hashlib.sha256(self._uploads[parts[2]]).hexdigest()}" != image["hash"]:
            self._no(handler, 400, "the file has another hash")
            return
        image["uploaded"] = True
        self.say(handler, 200, {"data": {}})

    def _tag(self, parts: list[str], document: dict[str, Any]) -> None:
        assert ("Arch" in document) == (parts[0] == "v2")
        (name,) = [each for each in self.made if self.made[each]["id"] == parts[2]]
        path, arch = name.removeprefix("containers/"), document.get("Arch", "any")
        self.images[path, document["Tag"], arch] = self._uploads[document["ImageID"]]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self._denied = bool(self.token) and handler.headers.get("Authorization") != f"Bearer {self.token}"
        super().answer(handler)

    def find(self, path: str) -> tuple[int, bytes, str]:
        parts = urllib.parse.urlsplit(path)
        arch = dict(urllib.parse.parse_qsl(parts.query)).get("arch", "")
        name, _, version = parts.path.rpartition(":")
        plain = {"/version": {"apiVersion": self.api} if self.api else None, "/v1/token-status": {}}
        plain["/v1/search"] = self.found
        if parts.path.startswith(("/v1/tags/", "/v2/tags/")):
            plain[parts.path] = {}
        if parts.path in plain or parts.path.startswith(("/v1/entities/", "/v1/collections/", "/v1/containers/")):
            if self._denied and parts.path != "/version":
                return 401, json.dumps({"error": {"code": 401, "message": "Unauthorized"}}).encode(), ""
            known = plain.get(parts.path, self.made.get(parts.path.removeprefix("/v1/")))
            return (200, json.dumps({"data": known}).encode(), "") if known is not None else (404, b"{}", "")
        made = self.made.get(parts.path.removeprefix("/v1/"))
        if made is not None and not self._denied:
            return 200, json.dumps({"data": made}).encode(), ""
        for kind in ("/v1/images/", "/v1/imagefile/"):
            if not name.startswith(kind) or path in self.redirects:
                continue
            if self._denied:
                return 401, json.dumps({"error": {"code": 401, "message": "Unauthorized"}}).encode(), ""
            data = self.images.get((name.removeprefix(kind), version, arch))
            if data is None:
                return 404, json.dumps({"error": {"code": 404, "message": "image not found"}}).encode(), ""
            digest = hashlib.sha256(data).hexdigest()
            if kind == "/v1/imagefile/":
                self.files[f"/store/{digest}"] = data
                return 303, b"", f"{self.url}/store/{digest}"
            said = {"hash": f"sha256.{digest}", "size": len(data), "uploaded": True, **self.changed}
            return 200, json.dumps({"data": said}).encode(), ""
        return super().find(path)
