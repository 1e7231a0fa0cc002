"""Debian's docker-registry, a real one, on a free loopback port; and the few requests that fill it."""

import base64
import hashlib
import json
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from tests.support.real import need

_OCI = "application/vnd.oci.image."
ANN = ("ann", "secret")  # the account of `write_htpasswd`
_BCRYPT_OF_SECRET = "$2b$04$mwkJiB9byE0zXlMn.UqDKeN5iuSvqXEXu53.UK8erIPaRPVZrUM3i"  # docker-registry takes no other


class Certificate(NamedTuple):
    """Files in PEM: an authority that nobody knows, and the certificate that it gave to 127.0.0.1 and localhost."""

    ca: Path
    certificate: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """A new authority and a server's certificate from it, both good for two days, in `directory`."""
    openssl = need("openssl")
    made = Certificate(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    ca_key, request, names = directory / "ca.key", directory / "server.csr", directory / "names.ext"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    new = [openssl, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    sign = [openssl, "x509", "-req", "-days", "2", "-CAcreateserial"]
    for argv in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=hpcc tests", "-keyout", ca_key, "-out", made.ca],
        [*new, "-subj", "/CN=localhost", "-keyout", made.key, "-out", request],
        [*sign, "-in", request, "-CA", made.ca, "-CAkey", ca_key, "-extfile", names, "-out", made.certificate],
    ):
        subprocess.run(argv, check=True, capture_output=True)
    return made


def write_htpasswd(directory: Path) -> Path:
    """A file with the account ANN."""
    path = directory / "htpasswd"
    path.write_text(f"{ANN[0]}:{_BCRYPT_OF_SECRET}\n")
    return path


class DockerRegistry:
    """A running registry; use it as a context manager. `host` is `127.0.0.1:PORT`.

    It speaks plain HTTP, or HTTPS where it gets a certificate. With htpasswd, `push` and its like come as `account`.
    """

    def __init__(
        self,
        directory: Path,
        program: str = "docker-registry",
        *,
        htpasswd: Path | None = None,
        certificate: Certificate | None = None,
        account: tuple[str, str] = ANN,
    ) -> None:
        self._directory, self._program, self._htpasswd, self._certificate = directory, program, htpasswd, certificate
        self._account = account if htpasswd else None
        self._scheme = "https" if certificate else "http"
        trust = ssl.create_default_context(cafile=str(certificate.ca)) if certificate else None
        no_proxy = urllib.request.ProxyHandler({})
        self._opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=trust))
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
        files = self._certificate
        tls = f", tls: {{certificate: {files.certificate}, key: {files.key}}}" if files else ""
        config.write_text(
            "version: 0.1\n"
            "log: {level: info, accesslog: {disabled: false}, formatter: text}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._directory / 'storage'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: {self.host}{tls}}}\n{auth}"
        )
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._opener.open(f"{self._scheme}://{self.host}/v2/", timeout=5).close()
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
        url = path if "://" in path else f"{self._scheme}://{self.host}{path}"
        headers = {"Accept": accept, **({"Content-Type": kind} if kind else {})}
        if self._account:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(self._account).encode()).decode()}"
        return self._opener.open(urllib.request.Request(url, data, headers, method=method), timeout=60)
