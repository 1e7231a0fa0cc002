"""A key server on loopback that speaks HKP: what was sent to it, it has."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit


class FakeKeyserver:
    """`keys`: fingerprint -> (user, armored key). `wrong`: what it answers to whatever key is asked for."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, str]] = {}
        self.added: list[str] = []
        self.requests: list[str] = []
        self.wrong = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                self._send(*outer.lookup(query))

            def do_POST(self) -> None:
                outer.requests.append(self.path)
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.added.append(parse_qs(form)["keytext"][0])
                self._send(200, "")

            def _send(self, status: int, body: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def lookup(self, query: dict[str, str]) -> tuple[int, str]:
        wanted = query["search"].removeprefix("0x").upper()
        if query["op"] == "index":
            found = [(name, user) for name, (user, _) in self.keys.items() if wanted in user.upper() or wanted in name]
            lines = [f"pub:{name}:1:2048:1700000000::\nuid:{re.sub('@', '%40', user)}:::\n" for name, user in found]
            return (200, f"info:1:{len(found)}\n{''.join(lines)}") if found else (404, "Not found")
        if self.wrong:
            return 200, self.wrong
        return next(((200, key) for name, (_, key) in self.keys.items() if name.endswith(wanted)), (404, "Not found"))

    def __enter__(self) -> "FakeKeyserver":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
