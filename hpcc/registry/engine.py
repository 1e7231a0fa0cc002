"""Docker's daemon, by its API over a socket of this host or over the network (docs.docker.com, Engine API 1.24 and on).

GET /images/NAME/json    {"Id": "sha256:…", "Size": …}
GET /images/NAME/get     a tar, as `docker save` writes it
DOCKER_HOST              unix:///var/run/docker.sock, tcp://host:2375; DOCKER_TLS_VERIFY with DOCKER_CERT_PATH
"""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from hpcc.errors import AccessDenied, HpccError, ImageNotFound, RegistryError, RegistryUnavailable, SettingsError
from hpcc.oci.digest import Digest
from hpcc.records import NamedTuple

DEFAULT = "unix:///var/run/docker.sock"
MAX_ANSWER = 4 << 20  # bytes of an answer that is not an image
CHUNK = 1 << 20
CONNECT, SILENCE = 5.0, 300.0  # seconds; the daemon packs each layer before it sends the first byte of it
_WHO = (
    "Docker's socket is for root and for members of the docker group: have yourself added to it (docker group) and log "
    "in anew, or use sudo. Both are root on this host; where you have neither: `docker save NAME:TAG -o save.tar` "
    "elsewhere, then docker-archive:save.tar."
)


class Inspected(NamedTuple):
    """What the daemon has under a name. id: the config's digest; of a containerd store it is a manifest's."""

    id: Digest
    size: int


class Engine:
    """One daemon. Each question has a connection of its own."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """SettingsError for a DOCKER_HOST that hpcc cannot talk to. Connects to nobody."""
        self.address = environ.get("DOCKER_HOST") or DEFAULT
        self._certificates = ""
        try:
            self._parts = urlsplit(self.address)
        except ValueError:
            self._parts = urlsplit("")
        if self._parts.scheme not in ("unix", "tcp") or not (self._parts.path or self._parts.netloc):
            hint = "hpcc knows unix:///PATH and tcp://HOST:PORT; ssh -L makes the latter of a daemon behind ssh."
            raise SettingsError(f"DOCKER_HOST {self.address!r} is none that hpcc can talk to", hint=hint)
        if environ.get("DOCKER_TLS_VERIFY") and self._parts.scheme == "tcp":
            home = os.path.join(environ.get("HOME", "/"), ".docker")
            self._certificates = environ.get("DOCKER_CERT_PATH") or home

    @property
    def is_local(self) -> bool:
        return self._parts.scheme == "unix"

    def inspect(self, name: str) -> Inspected:
        """What the name means now. ImageNotFound, AccessDenied, RegistryError."""
        with self._get(f"/images/{quote(name, safe='/:@')}/json", name) as response:
            data = response.read(MAX_ANSWER + 1)
        try:
            answer: Any = json.loads(data)
            return Inspected(Digest.parse(answer["Id"]), int(answer.get("Size") or 0))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RegistryError(f"{self.address} does not answer as Docker's daemon would: {data[:60]!r}") from None

    def export(self, name: str) -> Iterator[bytes]:
        """The image as a tar, in chunks. The same errors; RegistryUnavailable where it ends early."""
        with self._get(f"/images/{quote(name, safe='/:@')}/get", name) as response:
            while data := response.read(CHUNK):
                yield data
            if response.length:  # which http.client passes over in silence
                raise http.client.IncompleteRead(b"", response.length)

    @contextmanager
    def _get(self, path: str, name: str) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers={"Host": "docker"})
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response, name)
            yield response
        except HpccError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from None
        finally:
            connection.close()

    def _refusal(self, response: http.client.HTTPResponse, name: str) -> HpccError:
        data = response.read(64 << 10)
        try:
            said = str(json.loads(data)["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            said = data[:200].decode("utf-8", "replace")
        said = "".join(letter for letter in " ".join(said.split()) if letter.isprintable())[:300]
        if response.status == 404:
            return ImageNotFound(
                f"Docker's daemon has no {name}: {said}", hint="`docker images` lists what it has; a tag belongs to it."
            )
        if response.status in (401, 403):
            return AccessDenied(f"Docker's daemon at {self.address}: {said}", hint=_WHO)
        return RegistryError(f"Docker's daemon at {self.address} answers {response.status}: {said}")

    def _explain(self, error: Exception) -> HpccError:
        what = f"Docker's daemon at {self.address}"
        if isinstance(error, PermissionError):
            return AccessDenied(f"{what}: permission denied", hint=_WHO)
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | socket.gaierror):
            return RegistryError(
                f"{what} cannot be reached: {error.strerror}",
                hint=f"Is Docker running here? DOCKER_HOST names another socket. {_WHO}",
            )
        return RegistryUnavailable(f"{what}: the connection broke: {error}", hint="Try again.")

    def _connection(self) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _UnixConnection(self._parts.netloc + self._parts.path)
        try:
            host, port = self._parts.hostname or "localhost", self._parts.port
        except ValueError:
            raise SettingsError(f"DOCKER_HOST {self.address!r} has no usable port") from None
        if not self._certificates:
            return http.client.HTTPConnection(host, port or 2375, timeout=SILENCE)
        import ssl

        try:
            context = ssl.create_default_context(cafile=os.path.join(self._certificates, "ca.pem"))
            files = (os.path.join(self._certificates, name) for name in ("cert.pem", "key.pem"))
            context.load_cert_chain(*files)
        except (OSError, ssl.SSLError) as error:
            hint = "DOCKER_CERT_PATH names a directory with ca.pem, cert.pem and key.pem."
            raise SettingsError(
                f"{self._certificates}: no certificates can be read there: {error}", hint=hint
            ) from None
        return http.client.HTTPSConnection(host, port or 2376, timeout=SILENCE, context=context)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT)
        self.sock.connect(self._path)
        self.sock.settimeout(SILENCE)
