"""A plain http server for tests: files with and without Range, ETags, lengths; broken off, changed, redirected. And the
library API on top of it, as its public clients use it.
"""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients hang up

        self._server = Server(("127.0.0.1", 0), Handler)
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


class FakeLibrary(WebServer):
    """A library; `images` by (path, tag, arch). token: without which nothing is there."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[tuple[str, str, str], bytes] = {}
        self.token = ""
        self.changed: dict[str, Any] = {}  # of what is said of each image

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self._denied = bool(self.token) and handler.headers.get("Authorization") != f"Bearer {self.token}"
        super().answer(handler)

    def find(self, path: str) -> tuple[int, bytes, str]:
        parts = urllib.parse.urlsplit(path)
        arch = dict(urllib.parse.parse_qsl(parts.query)).get("arch", "")
        name, _, version = parts.path.rpartition(":")
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
