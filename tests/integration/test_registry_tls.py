"""Registries behind TLS with an authority of their own, against Debian's docker-registry; and skopeo as a second
client, which must find the embedded registry and the real one alike.
"""

import base64
import gzip
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import AccessDenied, RegistryUnavailable
from hpcc.image import open_image
from hpcc.oci.reference import Reference
from hpcc.registry import transport
from hpcc.registry.connections import Untrusted
from hpcc.registry.fake import FakeRegistry
from hpcc.settings import Settings
from hpcc.sources.docker import connect
from tests.support.docker_registry import ANN, Certificate, DockerRegistry, make_certificate, write_htpasswd
from tests.support.people import SYSTEM_PATH
from tests.support.pulls import config_of, noise, settings_of, tar_layer
from tests.support.real import need

NAME = "group/tools"
LAYERS = [tar_layer({"a": noise(200_000)}), tar_layer({"b": b"b" * 100_000})]

pytestmark = pytest.mark.usefixtures("hpcc_env")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.005)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[DockerRegistry]:
    """A real registry over TLS, for the account ANN, with the image NAME:1."""
    program = need("docker-registry")
    directory = tmp_path_factory.mktemp("docker-registry")
    htpasswd = write_htpasswd(directory)
    with DockerRegistry(directory, program, htpasswd=htpasswd, certificate=certificate) as registry:
        registry.push(NAME, "1", LAYERS, config_of(LAYERS))
        yield registry


def settings(home: Path, **more: str) -> Settings:
    return settings_of(home, **{"HPCC_NOHTTPS": "0", **more})


def uri(registry: DockerRegistry) -> str:
    return f"docker://{registry.host}/{NAME}:1"


def log_in(home: Path, host: str, password: str = ANN[1]) -> Path:
    """What docker login writes."""
    path = home / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{ANN[0]}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return path


def trust(home: Path, host: str, certificate: Certificate) -> None:
    directory = home / ".config/containers/certs.d" / host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(certificate.ca.read_bytes())


def resolve(registry: DockerRegistry, home: Path, **environ: str) -> str:
    reference = Reference.parse(uri(registry))
    with connect(reference, settings(home, **environ)) as upstream:
        return str(upstream.resolve("1").descriptor.digest)


# -- who is trusted ------------------------------------------------------------------------------------------


def test_unknown_authority(private: DockerRegistry, hpcc_env: Path) -> None:
    log_in(hpcc_env, private.host)
    with pytest.raises(Untrusted, match=f"cannot reach {private.host}: its certificate is not") as caught:
        resolve(private, hpcc_env)
    assert "HPCC_CA_FILE" in caught.value.hint


def test_ca_file(private: DockerRegistry, certificate: Certificate, hpcc_env: Path) -> None:
    log_in(hpcc_env, private.host)
    assert resolve(private, hpcc_env, HPCC_CA_FILE=str(certificate.ca)).startswith("sha256:")


def test_authority_of_the_system(
    private: DockerRegistry, certificate: Certificate, hpcc_env: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the administrator has added to the system's certificates, here by OpenSSL's variable."""
    log_in(hpcc_env, private.host)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca))
    assert resolve(private, hpcc_env)


def test_certs_d(private: DockerRegistry, certificate: Certificate, hpcc_env: Path) -> None:
    log_in(hpcc_env, private.host)
    trust(hpcc_env, "127.0.0.1:1", certificate)  # another registry's is nothing to us
    with pytest.raises(Untrusted, match="its certificate is not"):
        resolve(private, hpcc_env)
    trust(hpcc_env, private.host, certificate)
    assert resolve(private, hpcc_env)


def test_insecure(private: DockerRegistry, hpcc_env: Path) -> None:
    """https, whose certificate nobody looks at; not http, though the host is allowed to have none."""
    log_in(hpcc_env, private.host)
    assert resolve(private, hpcc_env, HPCC_INSECURE=private.host)
    with pytest.raises(Untrusted, match="its certificate is not"):
        resolve(private, hpcc_env, HPCC_INSECURE="127.0.0.1:1")


def test_insecure_without_tls(docker_registry: DockerRegistry, hpcc_env: Path) -> None:
    docker_registry.push(NAME, "1", LAYERS, config_of(LAYERS))
    with pytest.raises(RegistryUnavailable, match="does not speak https"):
        resolve(docker_registry, hpcc_env)
    assert resolve(docker_registry, hpcc_env, HPCC_INSECURE=docker_registry.host)


def test_name_that_is_not_the_certificates(certificate: Certificate, hpcc_env: Path) -> None:
    """A known authority, but the certificate is for 127.0.0.1 and localhost alone."""
    with FakeRegistry(scheme="none") as server:
        speak_tls(server, certificate)
        reference = Reference.parse(f"docker://127.0.0.2:{server.host.rpartition(':')[2]}/{NAME}:1")
        server.add_image(NAME, "1", LAYERS, config_of(LAYERS))
        with (
            pytest.raises(RegistryUnavailable),
            connect(reference, settings(hpcc_env, HPCC_CA_FILE=str(certificate.ca))) as upstream,
        ):
            upstream.resolve("1")


# -- a pull --------------------------------------------------------------------------------------------------


def test_pull_with_login(private: DockerRegistry, certificate: Certificate, hpcc_env: Path) -> None:
    log_in(hpcc_env, private.host)
    trust(hpcc_env, private.host, certificate)
    image = open_image(uri(private), settings(hpcc_env))
    os.close(image.rootfs.fd)
    assert Path(image.path).is_relative_to(hpcc_env / "private")  # only credentials could see it


@pytest.mark.parametrize("password", ["", "wrong"])
def test_pull_without_a_good_login(
    private: DockerRegistry, certificate: Certificate, hpcc_env: Path, password: str
) -> None:
    if password:
        log_in(hpcc_env, private.host, password)
    with pytest.raises(AccessDenied, match=f"{private.host}/{NAME}: unauthorized: ") as caught:
        open_image(uri(private), settings(hpcc_env, HPCC_CA_FILE=str(certificate.ca)))
    assert ("Asked as 'ann'" if password else "hpcc registry login") in caught.value.hint


# -- skopeo --------------------------------------------------------------------------------------------------


def speak_tls(server: FakeRegistry, certificate: Certificate) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)


class Skopeo:
    """Another client, with the login of `home` and plain http."""

    def __init__(self, home: Path) -> None:
        self._program, self._home = need("skopeo"), home
        self._environ = {"HOME": str(home), "PATH": SYSTEM_PATH, "TMPDIR": str(home)}
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def run(self, *argv: str) -> "subprocess.CompletedProcess[bytes]":
        options = ["--policy", str(self._home / "policy.json")]
        return subprocess.run(
            [self._program, *options, *argv], env=self._environ, capture_output=True, timeout=60, check=False
        )

    def manifest(self, host: str, reference: str) -> bytes:
        done = self.run("inspect", "--raw", "--tls-verify=false", f"docker://{host}/{NAME}{reference}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def copy(self, host: str, reference: str, to: Path, *options: str) -> dict[str, bytes]:
        """Name -> bytes of the files of skopeo's dir: format."""
        source = f"docker://{host}/{NAME}{reference}"
        done = self.run("copy", "-q", *options, "--src-tls-verify=false", source, f"dir:{to}")
        assert done.returncode == 0, done.stderr
        return {path.name: path.read_bytes() for path in to.iterdir()}


@pytest.fixture(params=["bearer", "basic"])
def both(
    request: pytest.FixtureRequest, tmp_path: Path, hpcc_env: Path
) -> Iterator[tuple[FakeRegistry, DockerRegistry]]:
    """The same image and index, behind the same login, in both."""
    program = need("docker-registry")
    (tmp_path / "real").mkdir()
    real = DockerRegistry(tmp_path / "real", program, htpasswd=write_htpasswd(tmp_path))
    fake = FakeRegistry(username=ANN[0], password=ANN[1], private=[NAME], scheme=request.param)
    with fake, real:
        config = config_of(LAYERS)
        fake.add_image(NAME, "1", LAYERS, config)
        fake.add_image(NAME, "all", LAYERS, config, index=True)
        for blob in (*LAYERS, json.dumps(config).encode()):
            real.push_blob(NAME, blob)
        for tag in ("1", "all"):
            media_type, data = fake.manifests[NAME, tag]
            real.push_manifest(NAME, tag, data, media_type)
        yield fake, real


def test_skopeo_sees_the_same(both: tuple[FakeRegistry, DockerRegistry], hpcc_env: Path, tmp_path: Path) -> None:
    fake, real = both
    skopeo = Skopeo(hpcc_env)
    digest = next(tag for name, tag in fake.manifests if tag.startswith("sha256:"))
    for tag in (":1", ":all", f"@{digest}"):
        found: list[Any] = []
        for host in (fake.host, real.host):
            log_in(hpcc_env, host)
            to = tmp_path / f"copy{tag.replace(':', '-')}-{host.rpartition(':')[2]}"
            found.append((skopeo.manifest(host, tag), skopeo.copy(host, tag, to)))
        assert found[0] == found[1]
        assert found[0][0] == fake.manifests[NAME, tag[1:]][1]
        assert {gzip.decompress(layer) for layer in LAYERS} <= {
            gzip.decompress(data) for data in found[0][1].values() if data[:2] == b"\x1f\x8b"
        }


def test_skopeo_copies_a_whole_index(both: tuple[FakeRegistry, DockerRegistry], hpcc_env: Path, tmp_path: Path) -> None:
    fake, real = both
    found = []
    for number, host in enumerate((fake.host, real.host)):
        log_in(hpcc_env, host)
        found.append(Skopeo(hpcc_env).copy(host, ":all", tmp_path / str(number), "--all"))
    assert found[0] == found[1] and found[0]["manifest.json"] == fake.manifests[NAME, "all"][1]


def test_skopeo_is_refused_alike(both: tuple[FakeRegistry, DockerRegistry], hpcc_env: Path) -> None:
    fake, real = both
    skopeo = Skopeo(hpcc_env)
    for host in (fake.host, real.host):
        for password in ("", "wrong"):
            config = log_in(hpcc_env, host, password or ANN[1])
            if not password:
                config.unlink()
            done = skopeo.run("inspect", "--raw", "--tls-verify=false", f"docker://{host}/{NAME}:1")
            assert done.returncode != 0
            words = done.stderr.decode()
            assert any(said in words for said in ("unauthorized", "authentication required", "invalid username")), words
        log_in(hpcc_env, host)
        done = skopeo.run("inspect", "--raw", "--tls-verify=false", f"docker://{host}/{NAME}:9")
        assert done.returncode != 0 and "manifest unknown" in done.stderr.decode(), done.stderr
