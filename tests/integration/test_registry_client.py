"""The client against the embedded registry: each thing that a registry may ask for, and each that may go wrong."""

import gzip
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    IntegrityError,
    InvalidImage,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    UnsupportedImage,
)
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST, Descriptor, Index, Manifest, parse_manifest
from hpcc.oci.platform import Platform, select
from hpcc.registry import transport
from hpcc.registry.client import Registry
from hpcc.registry.connections import Untrusted
from hpcc.registry.credentials import Credentials
from hpcc.registry.download import fetch_blob
from hpcc.registry.fake import FakeRegistry, Faults
from hpcc.registry.limits import RateLimit
from tests.support.real import need

NAME = "group/name"
LAYERS = [gzip.compress(bytes([n]) * 3_000_000 + b"end", 0, mtime=0) for n in range(3)]
CONFIG = {"architecture": "amd64", "os": "linux"}
ANN = Credentials("ann", "secret")

pytestmark = pytest.mark.usefixtures("hpcc_env")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE", 0.005)


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeRegistry]]:
    """Makes registries that serve one image as NAME:1, and NAME:all, an index of it."""
    running: list[FakeRegistry] = []

    def make(**options: object) -> FakeRegistry:
        registry = FakeRegistry(**options).__enter__()  # type: ignore[arg-type]
        running.append(registry)
        registry.add_image(NAME, "1", LAYERS, CONFIG)
        registry.add_image(NAME, "all", LAYERS, CONFIG, index=True)
        return registry

    yield make
    for registry in running:
        registry.__exit__(None, None, None)


class Sink:
    def __init__(self) -> None:
        self.data, self.restarts = b"", 0

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data, self.restarts = b"", self.restarts + 1


def connect(fake: FakeRegistry, credentials: Credentials | None = None) -> Registry:
    return Registry(fake.host, scheme="http", credentials=credentials, user_agent="hpcc-test")


def layer(n: int = 0) -> Descriptor:
    return Descriptor("", Digest.of(LAYERS[n]), len(LAYERS[n]))


def fetch(registry: Registry, descriptor: Descriptor) -> Sink:
    sink = Sink()
    fetch_blob([partial(registry.blob, NAME, descriptor)], descriptor, sink)
    return sink


# -- the straight way ----------------------------------------------------------------------------------------


def test_pull_of_an_index(fake) -> None:
    server = fake(quota=5)
    with connect(server) as registry:
        resolved = registry.resolve(NAME, "all")
        assert not resolved.private
        assert server.counts["manifest_get"] == 0
        index = parse_manifest(registry.manifest(NAME, resolved.descriptor.digest))
        assert isinstance(index, Index)
        chosen = select(index.manifests, Platform.parse("amd64"))
        manifest = parse_manifest(registry.manifest(NAME, chosen.digest))
        assert isinstance(manifest, Manifest)
        assert json.loads(fetch(registry, manifest.config).data) == CONFIG
        with ThreadPoolExecutor(3) as pool:
            sinks = list(pool.map(lambda descriptor: fetch(registry, descriptor), manifest.layers))
        assert [sink.data for sink in sinks] == LAYERS
        assert registry.quotas[""] == RateLimit(5, 3, 21600, "127.0.0.1")
    assert dict(server.counts) == {"manifest_head": 1, "manifest_get": 2, "blob_get": 4, "token": 1}


def test_resolve_by_tag_and_by_digest(fake) -> None:
    registry = connect(fake())
    by_tag = registry.resolve(NAME, "1").descriptor
    assert by_tag.media_type == OCI_MANIFEST and by_tag.size == len(registry.manifest(NAME, by_tag.digest))
    assert registry.resolve(NAME, str(by_tag.digest)).descriptor == by_tag


def test_sha512_and_connections_are_kept(fake) -> None:
    server = fake(scheme="none")
    registry = connect(server)
    name = Digest.of(b"data", "sha512")
    server.blobs[str(name)] = b"data"
    assert fetch(registry, Descriptor("", name, 4)).data == b"data"
    for _ in range(3):
        registry.resolve(NAME, "1")
    pools = registry._transport._session().get_adapter(server.url).poolmanager.pools
    (pool,) = (pools[key] for key in pools.keys())  # noqa: SIM118  (it cannot be iterated over)
    assert (pool.num_connections, pool.num_requests) == (1, 4)


# -- accounts ------------------------------------------------------------------------------------------------


def test_private_image_is_known_as_such(fake) -> None:
    server = fake(username="ann", password="secret", private=[NAME])
    registry = connect(server, ANN)
    resolved = registry.resolve(NAME, "1")
    assert resolved.private
    registry.manifest(NAME, resolved.descriptor.digest)
    assert fetch(registry, layer()).data == LAYERS[0]
    assert server.counts["token"] == 2  # an anonymous one, which was of no use, and ann's


def test_public_image_is_asked_for_anonymously_and_fetched_with_the_account(fake) -> None:
    server = fake(username="ann", password="secret", private=["group/other"])
    registry = connect(server, ANN)
    resolved = registry.resolve(NAME, "1")
    assert not resolved.private
    users = {user for user, _ in server._tokens.values()}
    assert users == {""}
    registry.manifest(NAME, resolved.descriptor.digest)
    assert {user for user, _ in server._tokens.values()} == {"", "ann"}


def test_wrong_password_does_not_hide_a_public_image(fake) -> None:
    server = fake(username="ann", password="changed", private=["group/other"])
    registry = connect(server, ANN)
    digest = registry.resolve(NAME, "1").descriptor.digest
    assert registry.manifest(NAME, digest)
    assert fetch(registry, layer()).data == LAYERS[0]
    assert server.counts["token"] == 2  # the password is tried once


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_denied(fake, scheme: str) -> None:
    server = fake(username="ann", password="other", private=[NAME], scheme=scheme)
    for credentials, says in ((None, "hpcc registry login"), (ANN, "Asked as 'ann'")):
        with pytest.raises(AccessDenied) as caught:
            connect(server, credentials).resolve(NAME, "1")
        assert server.host in caught.value.message and NAME in caught.value.message
        assert "unauthorized: " in caught.value.message and says in caught.value.hint
        assert "secret" not in caught.value.message + caught.value.hint


def test_basic(fake) -> None:
    server = fake(username="ann", password="secret", private=[NAME], scheme="basic")
    registry = connect(server, ANN)
    assert registry.resolve(NAME, "1").private
    assert fetch(registry, layer(1)).data == LAYERS[1]
    assert server.counts["token"] == 0


def test_token_is_fetched_once_by_many_threads_and_again_when_it_is_refused(fake) -> None:
    server = fake(faults=Faults(delay=0.02))
    registry = connect(server)
    server.counts.clear()
    for tokens in (1, 2):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: registry.resolve(NAME, "1"), range(6)))
        assert server.counts["token"] == tokens
        server.revoke_tokens()


def test_each_repository_has_its_token(fake) -> None:
    server = fake()
    server.add_image("second/name", "1", LAYERS, CONFIG)
    registry = connect(server)
    assert registry.resolve(NAME, "1").descriptor == registry.resolve("second/name", "1").descriptor
    assert registry.resolve(NAME, "1")
    assert server.counts["token"] == 2


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}'])
def test_token_service_that_answers_rubbish(fake, answer: bytes) -> None:
    with pytest.raises(RegistryError, match=r"answered without a token for 127\.0\.0\.1:"):
        connect(fake(faults=Faults(token=answer))).resolve(NAME, "1")


def test_netrc_and_cookies_are_not_used(fake, hpcc_env, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = hpcc_env / ".netrc"
    netrc.write_text("machine 127.0.0.1 login bob password hidden\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = fake(scheme="none")
    connect(server).resolve(NAME, "1")
    assert server.authorised == []


# -- the quota -----------------------------------------------------------------------------------------------


def test_quota_spent(fake) -> None:
    server = fake(quota=2)
    registry = connect(server)
    digest = registry.resolve(NAME, "1").descriptor.digest
    registry.manifest(NAME, digest)
    registry.manifest(NAME, digest)
    with pytest.raises(RateLimited) as caught:
        registry.manifest(NAME, digest)
    assert "toomanyrequests: You have reached" in caught.value.message
    assert "0 of 2 pulls left in 6 h for 127.0.0.1" in caught.value.message
    assert all(word in caught.value.hint for word in ("log in", "mirror", "(6 h)"))
    assert server.counts["manifest_get"] == 3  # and no retry
    assert registry.resolve(NAME, "1")  # HEAD costs nothing
    assert registry.quotas[""].remaining == 0


def test_account_is_used_where_the_anonymous_quota_is_spent(fake) -> None:
    server = fake(faults=Faults(busy=transport.TRIES), username="ann", password="secret", private=["group/other"])
    with pytest.raises(RateLimited):
        connect(server).resolve(NAME, "1")
    server._happened.clear()
    assert connect(server, ANN).resolve(NAME, "1").private  # nobody can tell, so the careful answer


def test_short_wait_is_waited_long_one_is_told(fake) -> None:
    server = fake(faults=Faults(busy=2, retry_after="880.092µs".encode().decode("latin-1")))
    assert connect(server).resolve(NAME, "1")
    server = fake(faults=Faults(busy=2, retry_after="0"))
    assert connect(server).resolve(NAME, "1")
    server = fake(faults=Faults(busy=1, busy_words="retry-after: 880.092µs, allowed: 44000/minute"))
    assert connect(server).manifest(NAME, Digest.of(server.manifests[NAME, "1"][1]))
    server = fake(faults=Faults(busy=-1, retry_after="7200"))
    with pytest.raises(RateLimited) as caught:
        connect(server).resolve(NAME, "1")
    assert "wait until" in caught.value.hint and caught.value.wait == 7200
    assert len(server.requests) == 1


# -- digests -------------------------------------------------------------------------------------------------


def test_missing_digest_costs_one_get(fake) -> None:
    server = fake(faults=Faults(missing_digest=True))
    registry = connect(server)
    digest = registry.resolve(NAME, "1").descriptor.digest
    assert Digest.of(registry.manifest(NAME, digest)) == digest
    assert server.counts["manifest_get"] == 1
    assert registry.resolve(NAME, str(digest)).descriptor.digest == digest  # nothing to find out
    assert server.counts["manifest_get"] == 1


def test_registry_without_head(fake) -> None:
    server = fake(faults=Faults(no_head=True))
    registry = connect(server)
    resolved = registry.resolve(NAME, "1")
    assert resolved.descriptor.media_type == OCI_MANIFEST
    assert registry.manifest(NAME, resolved.descriptor.digest)
    assert server.counts["manifest_get"] == 1


def test_another_manifest_than_the_pinned_one(fake) -> None:
    server = fake()
    registry = connect(server)
    pinned = Digest.of(b"pinned")
    server.manifests[NAME, str(pinned)] = server.manifests[NAME, "1"]
    with pytest.raises(IntegrityError, match=f"asked for {pinned}"):
        registry.resolve(NAME, str(pinned))
    server.counts.clear()
    with pytest.raises(IntegrityError, match=f"expected digest {pinned}"):
        registry.manifest(NAME, pinned)
    assert server.counts["manifest_get"] == 2


def test_manifest_that_is_too_large(fake) -> None:
    server = fake()
    digest = server.add_manifest(NAME, "big", b" " * (5 << 20), OCI_MANIFEST)
    with pytest.raises(IntegrityError, match="more than 4194304"):
        connect(server).manifest(NAME, digest)


@pytest.mark.parametrize(
    ("data", "media_type", "error"),
    [
        (b"<html>login</html>", OCI_MANIFEST, InvalidImage),
        (b'{"schemaVersion": 1, "fsLayers": []}', DOCKER_MANIFEST, UnsupportedImage),
    ],
)
def test_manifest_that_is_none(fake, data: bytes, media_type: str, error: type[HpccError]) -> None:
    server = fake()
    server.add_manifest(NAME, "odd", data, media_type)
    registry = connect(server)
    descriptor = registry.resolve(NAME, "odd").descriptor
    with pytest.raises(error):
        parse_manifest(registry.manifest(NAME, descriptor.digest), descriptor.media_type)


# -- blobs ---------------------------------------------------------------------------------------------------


def test_blob_from_an_offset(fake) -> None:
    registry = connect(fake())
    with registry.blob(NAME, layer(), 1_000_000) as blob:
        assert blob.offset == 1_000_000
        assert b"".join(blob) == LAYERS[0][1_000_000:]


@pytest.mark.parametrize("faults", [Faults(no_range=True), Faults(wrong_range=-1)])
def test_blob_that_cannot_resume(fake, faults: Faults) -> None:
    registry = connect(fake(faults=faults))
    with registry.blob(NAME, layer(), 1_000_000) as blob:
        assert blob.offset == 0
        assert b"".join(blob) == LAYERS[0]


def test_offset_behind_the_end(fake) -> None:
    with connect(fake()).blob(NAME, layer(), 10_000_000) as blob:
        assert blob.offset == 0


def test_cut_is_resumed(fake) -> None:
    server = fake(faults=Faults(truncate=2))
    sink = fetch(connect(server), layer())
    assert sink.data == LAYERS[0] and sink.restarts == 0
    assert server.counts["blob_get"] == 3


@pytest.mark.parametrize("faults", [Faults(truncate=2, no_range=True), Faults(truncate=2, wrong_range=-1)])
def test_cut_starts_again_where_it_cannot_be_resumed(fake, faults: Faults) -> None:
    sink = fetch(connect(fake(faults=faults)), layer())
    assert sink.data == LAYERS[0] and sink.restarts > 0


def test_always_cut(fake) -> None:
    server = fake(faults=Faults(truncate=-1, no_range=True))
    with pytest.raises(RegistryUnavailable, match=f"of {len(LAYERS[0])} bytes came") as caught:
        fetch(connect(server), layer())
    assert caught.value.exit_code == 75 and str(layer().digest) in caught.value.message
    assert server.counts["blob_get"] < 15


def test_altered_once(fake) -> None:
    sink = fetch(connect(fake(faults=Faults(alter=1))), layer())
    assert sink.data == LAYERS[0] and sink.restarts == 1


def test_always_altered(fake) -> None:
    server = fake(faults=Faults(alter=-1))
    with pytest.raises(IntegrityError, match=f"expected digest {layer().digest}, found sha256:") as caught:
        fetch(connect(server), layer())
    assert caught.value.hint and server.counts["blob_get"] == 2


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_size_than_the_manifest_says(fake, difference: int) -> None:
    wrong = layer()._replace(size=len(LAYERS[0]) + difference)
    with pytest.raises(IntegrityError, match=f"expected {wrong.size} bytes, found"):
        fetch(connect(fake()), wrong)


def test_errors_of_the_sink_come_through(fake) -> None:
    class Full(Sink):
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    server = fake()
    with pytest.raises(OSError, match="No space left"):
        fetch_blob([partial(connect(server).blob, NAME, layer())], layer(), Full())
    assert server.counts["blob_get"] == 1


def test_missing_blob_and_image(fake) -> None:
    registry = connect(fake())
    with pytest.raises(ImageNotFound, match=r"there is no layer sha256:.*blob unknown"):
        fetch(registry, layer()._replace(digest=Digest.of(b"")))
    with pytest.raises(ImageNotFound, match=f"{NAME}: there is no image 9"):
        registry.resolve(NAME, "9")


# -- redirects -----------------------------------------------------------------------------------------------


def test_authorization_stays_at_home(fake) -> None:
    storage = fake(scheme="none", faults=Faults(no_authorization=True))
    server = fake(faults=Faults(redirect=storage.url), username="ann", password="secret", private=[NAME])
    registry = connect(server, ANN)
    registry.resolve(NAME, "1")
    assert fetch(registry, layer()).data == LAYERS[0]
    assert storage.counts["blob_get"] == 1 and storage.authorised == []
    with registry.blob(NAME, layer(), 500) as blob:  # Range goes along
        assert blob.offset == 500


def test_other_host_gets_no_password_by_asking_for_one(fake) -> None:
    thief = fake(username="ann", password="secret", private=[NAME])
    server = fake(faults=Faults(redirect=thief.url), username="ann", password="secret", private=[NAME])
    registry = connect(server, ANN)
    registry.resolve(NAME, "1")
    with pytest.raises(AccessDenied):
        fetch(registry, layer())
    assert thief.authorised == [] and thief.counts["token"] == 0


@pytest.mark.parametrize("target", ["file:///etc", "ftp://127.0.0.1", "http://[::1", "http://127.0.0.1:x"])
def test_redirect_to_nowhere(fake, target: str) -> None:
    with pytest.raises(RegistryError, match="redirects to"):
        fetch(connect(fake(faults=Faults(redirect=target))), layer())


def test_redirect_in_circles(fake) -> None:
    server = fake()
    server.faults = Faults(redirect=server.url)
    with pytest.raises(RegistryError, match="redirects more than 5 times"):
        fetch(connect(server), layer())
    assert server.counts["blob_get"] == 1 + transport.MAX_REDIRECTS


# -- what does not answer ------------------------------------------------------------------------------------


def test_503_and_broken_connections_pass(fake) -> None:
    assert connect(fake(faults=Faults(unavailable=3))).resolve(NAME, "1")
    server = fake(faults=Faults(hang_up=3))
    assert connect(server).resolve(NAME, "1")
    assert len(server.requests) == 3 + 3


def test_503_to_the_end(fake) -> None:
    server = fake(faults=Faults(unavailable=-1))
    with pytest.raises(RegistryUnavailable, match=f"{server.host} answers 503") as caught:
        connect(server).resolve(NAME, "1")
    assert caught.value.exit_code == 75 and len(server.requests) == transport.TRIES


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(RegistryUnavailable, match=f"cannot reach {host}: it refuses connections"):
            Registry(host, scheme="http").resolve(NAME, "1")


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RegistryUnavailable, match=f"cannot reach {host}: it does not answer"):
            Registry(host, scheme="http", timeout=(0.2, 0.2)).resolve(NAME, "1")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid"])
def test_unknown_host(host: str) -> None:
    with pytest.raises(
        RegistryUnavailable, match=f"cannot reach {host}: (no such host|that is no host name)"
    ) as caught:
        Registry(host).resolve(NAME, "1")
    assert caught.value.hint


def test_https_where_only_http_is_spoken(fake) -> None:
    with pytest.raises(RegistryUnavailable, match="does not speak https") as caught:
        Registry(fake().host).resolve(NAME, "1")
    assert "--no-https" in caught.value.hint


def test_no_http_at_all() -> None:
    """Something listens that is no HTTP server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            for _ in range(transport.TRIES):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.close()

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RegistryUnavailable, match="the connection broke"):
            Registry(host, scheme="http").resolve(NAME, "1")
        thread.join(5)


def test_proxy_that_is_not_there(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(RegistryUnavailable, match="the proxy that"):
        Registry("registry.example", scheme="http").resolve(NAME, "1")


# -- https ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, signed by itself, with its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        [need("openssl"), *new, *subject, "-keyout", path, "-out", path.with_suffix(".crt")],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def speak_tls(server: FakeRegistry, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server._server.socket = context.wrap_socket(server._server.socket, server_side=True)


def test_certificate(fake, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fake(scheme="none")
    speak_tls(server, certificate)
    with pytest.raises(Untrusted, match="certificate is not one") as caught:
        Registry(server.host).resolve(NAME, "1")
    assert "HPCC_CA_FILE" in caught.value.hint
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    registry = Registry(server.host)
    assert registry.resolve(NAME, "1")
    assert fetch(registry, layer()).data == LAYERS[0]


def test_from_https_nothing_leads_to_http(fake, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    storage = fake(scheme="none")
    server = fake(scheme="none", faults=Faults(redirect=storage.url))
    speak_tls(server, certificate)
    with pytest.raises(RegistryError, match=r"redirects to http://127\.0\.0\.1, where hpcc does not go"):
        fetch(Registry(server.host), layer())
    assert storage.requests == []
    server = fake(username="ann", password="secret", private=[NAME])  # its token service is at an http address
    speak_tls(server, certificate)
    with pytest.raises(RegistryError, match="no https address"):
        Registry(server.host, credentials=ANN).resolve(NAME, "1")
    assert server.counts["token"] == 0


def test_plain_http_to_https(fake, certificate: Path) -> None:
    server = fake(scheme="none")
    speak_tls(server, certificate)
    with pytest.raises(RegistryUnavailable, match=f"cannot reach {server.host}"):
        connect(server).resolve(NAME, "1")
