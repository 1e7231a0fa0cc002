"""Debian's docker-registry, a real one, on a free loopback port; and the few requests that fill it."""

import hashlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

_OCI = "application/vnd.oci.image."
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DockerRegistry:
    """A running registry; use it as a context manager. `host` is `127.0.0.1:PORT`, plain HTTP."""

    def __init__(self, directory: Path, program: str = "docker-registry", *, htpasswd: Path | None = None) -> None:
        self._directory, self._program, self._htpasswd = directory, program, htpasswd
        self.log = directory / "registry.log"

    def __enter__(self) -> "DockerRegistry":
        for _ in range(5):  # somebody else may take the port between finding it and binding it
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.host = f"127.0.0.1:{probe.getsockname()[1]}"
            if self._start():
                return self
        raise RuntimeError(f"docker-registry did not start:\n{self.log.read_text()[-2000:]}")

    def _start(self) -> bool:
        config = self._directory / "registry.yml"
        auth = f"auth: {{htpasswd: {{realm: tests, path: {self._htpasswd}}}}}\n" if self._htpasswd else ""
        config.write_text(
            "version: 0.1\n"
            "log: {level: info, accesslog: {disabled: false}, formatter: text}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._directory / 'storage'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: {self.host}}}\n{auth}"
        )
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                _DIRECT.open(f"http://{self.host}/v2/", timeout=5).close()
                return True
            except urllib.error.HTTPError:  # 401 is an answer too
                return True
            except OSError:
                time.sleep(0.02)
        self.__exit__()
        return False

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def requests(self) -> list[tuple[str, str, int]]:
        """(method, path, status) of each request so far, in order of completion; pings of /v2/ included."""
        line = re.compile(r'"(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/[^"]*" (\d+)')
        return [(m[1], m[2], int(m[3])) for m in line.finditer(self.log.read_text(errors="replace"))]

    def push(self, name: str, tag: str, layers: list[bytes], config: dict[str, object]) -> str:
        """Push an OCI image of gzip-compressed tar layers; the manifest's digest."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": _OCI + "manifest.v1+json",
            "config": {"mediaType": _OCI + "config.v1+json", **self.push_blob(name, json.dumps(config).encode())},
            "layers": [{"mediaType": _OCI + "layer.v1.tar+gzip", **self.push_blob(name, data)} for data in layers],
        }
        return self.push_manifest(name, tag, json.dumps(manifest).encode(), _OCI + "manifest.v1+json")

    def push_index(self, name: str, tag: str, images: list[tuple[str, dict[str, str]]]) -> str:
        """Push an OCI index of manifests that are there, as (digest, platform); its digest."""
        entries = []
        for digest, platform in images:
            answer = self._send("GET", f"/v2/{name}/manifests/{digest}", accept=_OCI + "manifest.v1+json")
            size = len(answer.read())
            entries.append(
                {"mediaType": _OCI + "manifest.v1+json", "digest": digest, "size": size, "platform": platform}
            )
        index = {"schemaVersion": 2, "mediaType": _OCI + "index.v1+json", "manifests": entries}
        return self.push_manifest(name, tag, json.dumps(index).encode(), _OCI + "index.v1+json")

    def push_manifest(self, name: str, tag: str, data: bytes, media_type: str) -> str:
        """Push any manifest or index under a tag; its digest."""
        self._send("PUT", f"/v2/{name}/manifests/{tag}", data, media_type).close()
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def push_blob(self, name: str, data: bytes) -> dict[str, object]:
        """Push a blob; the digest and size of its descriptor."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = self._send("POST", f"/v2/{name}/blobs/uploads/", b"").headers["Location"]
        where += ("&" if "?" in where else "?") + "digest=" + digest
        self._send("PUT", where, data, "application/octet-stream").close()
        return {"digest": digest, "size": len(data)}

    def _send(self, method: str, path: str, data: bytes | None = None, kind: str = "", accept: str = "*/*"):
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        headers = {"Accept": accept, **({"Content-Type": kind} if kind else {})}
        return _DIRECT.open(urllib.request.Request(url, data, headers, method=method), timeout=60)
