"""Time and tries are bounded, whatever the other side does; and what breaks is asked for in the right way again."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import HpccError, RateLimited, RegistryError, RegistryUnavailable
from hpcc.image import open_image
from hpcc.layers import Downloads
from hpcc.oci.digest import Digest
from hpcc.oci.manifest import Descriptor
from hpcc.progress import Part
from hpcc.registry import connections, transport
from hpcc.registry.client import Registry
from hpcc.registry.connections import Unreachable, Untrusted
from hpcc.registry.download import OPENINGS, fetch_blob
from hpcc.registry.fake import Faults
from hpcc.registry.sink import Memory
from hpcc.registry.upstream import Door, Upstream
from hpcc.sources.growing import GrowingFile
from tests.support.docker_registry import make_certificate
from tests.support.pulls import DIGESTS, LAYERS, NAME, Told, config_of, noise, pull, settings_of, uri_of

pytestmark = pytest.mark.usefixtures("hpcc_env")
Talk = Callable[[socket.socket, bytes], None]


@pytest.fixture
def listen(quick: None) -> Iterator[Callable[[Talk], str]]:
    """Starts a server whose connections each `talk(connection, request)`; its host:port."""
    running: list[socket.socket] = []

    def start(talk: Talk) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        running.append(server)

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while request := connection.recv(65536):
                        talk(connection, request)
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in running:
        server.close()


def trickle(head: bytes) -> Talk:
    def talk(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"a")
            time.sleep(0.1)

    return talk


def flood(head: bytes, more: bytes) -> Talk:
    def talk(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(more * 1000)

    return talk


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "talk",
    [
        trickle(OK + b"X-A: "),
        trickle(OK + b"Content-Length: 65536\r\n\r\n"),
        trickle(OK + b"\r\n"),
        trickle(b'HTTP/1.1 401 no\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 65536\r\n\r\n'),
        trickle(b"HTTP/1.1 302 no\r\nLocation: /v2/x\r\nContent-Length: 65536\r\n\r\n"),
        trickle(b"HTTP/1.1 500 no\r\nContent-Length: 65536\r\n\r\n"),
        flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        flood(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"X-T: 1\r\n"),
        lambda connection, request: time.sleep(60),
    ],
    ids=["header", "body", "endless body", "401", "redirect", "500", "100 Continue", "trailers", "silence"],
)
def test_nobody_holds_us(listen, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's timeout alone begins anew with each byte. Here a minute is a third of a second."""
    monkeypatch.setattr(connections, "SLOWEST", (0.3, 64 << 10))
    registry = Registry(listen(talk), scheme="http", timeout=(1.0, 0.5))
    begun = time.monotonic()
    with pytest.raises(HpccError):
        registry.manifest(NAME, Digest.of(b""))
    assert time.monotonic() - begun < 25


def test_a_healthy_download_is_not_disturbed(listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lasts many times as long as the pace is looked at."""
    monkeypatch.setattr(connections, "SLOWEST", (0.2, 1000))
    data = noise(50_000)

    def talk(connection: socket.socket, request: bytes) -> None:
        connection.sendall(OK + b"Content-Length: 50000\r\n\r\n")
        for at in range(0, len(data), 2500):
            connection.sendall(data[at : at + 2500])
            time.sleep(0.05)

    registry = Registry(listen(talk), scheme="http")
    sink = Memory()
    descriptor = Descriptor("", Digest.of(data), len(data))
    fetch_blob([partial(registry.blob, NAME, descriptor)], descriptor, sink)
    assert bytes(sink.data) == data


def test_all_addresses_of_a_host_have_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four that drop what comes: together as long as one."""
    full: list[socket.socket] = []

    def drop(address: str, port: int) -> int:
        """A listener whose queue is full, so that the kernel answers no more."""
        server = socket.socket()
        server.bind((address, port))
        server.listen(0)
        full.append(server)
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex((address, server.getsockname()[1]))
            full.append(client)
        return int(server.getsockname()[1])

    port = drop("127.0.0.2", 0)
    for last in (3, 4, 5):
        drop(f"127.0.0.{last}", port)
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host != "hub.test":
            return real(host, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 3, 4, 5)]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="it does not answer"):
        Registry(f"hub.test:{port}", scheme="http", timeout=(1.2, 5.0)).resolve(NAME, "1")
    assert 0.8 < time.monotonic() - begun < 2.4
    for each in full:
        each.close()


def test_the_second_address_may_answer(fake, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = fake()
    port = int(registry.host.rpartition(":")[2])
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host != "hub.test":
            return real(host, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (9, 1)]

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    assert Registry(f"hub.test:{port}", scheme="http").resolve(NAME, "1")


# -- how often -------------------------------------------------------------------------------------------------------


def test_a_layer_that_nobody_gives(fake, hpcc_env: Path) -> None:
    """Tries do not multiply."""
    registry = fake()
    descriptor = Descriptor("", Digest.of(b"x"), 1, None, tuple(f"{registry.url}/{n}" for n in range(20)))
    client = Registry(registry.host, scheme="http")
    client.resolve(NAME, "1")
    registry.faults = Faults(hang_up=-1)
    registry.requests.clear()
    with pytest.raises(RegistryError, match=NAME), Upstream(f"x/{NAME}", [Door(client, NAME)]) as upstream:
        upstream.fetch(descriptor, Memory())
    assert len(registry.requests) <= (1 + 4) * OPENINGS * transport.TRIES


def test_a_mirror_that_is_away_is_asked_once(fake, hpcc_env: Path) -> None:
    """Not for each layer again."""
    itself = fake()
    away = Door(Registry("127.0.0.1:1", scheme="http"), NAME, for_tags=False)
    with Upstream(f"x/{NAME}", [away, Door(Registry(itself.host, scheme="http"), NAME)]) as upstream:
        upstream.resolve("1")
        assert upstream.unreachable == {}
        for layer, digest in zip(LAYERS, DIGESTS, strict=True):
            upstream.fetch(Descriptor("", Digest.parse(digest), len(layer)), Memory())
            assert list(upstream.unreachable) == ["127.0.0.1:1"]
    assert itself.counts["blob_get"] == len(LAYERS)


def test_downloads_in_the_queue_end_with_the_pull(fake, tmp_path: Path) -> None:
    registry = fake(faults=Faults(delay=0.2))
    with Upstream("x", [Door(Registry(registry.host, scheme="http"), NAME)]) as upstream:
        downloads = Downloads(upstream, 1)
        targets = []
        for number in range(6):
            file = open(tmp_path / str(number), "x+b")
            targets.append(GrowingFile(file, Part()))
            downloads.start(Descriptor("", Digest.parse(DIGESTS[0]), len(LAYERS[0])), targets[-1])
        time.sleep(0.1)
        for target in targets:
            target.cancel()
        time.sleep(1.5)
    assert registry.counts["blob_get"] <= 1


def test_a_download_whose_file_fails_ends(tmp_path: Path) -> None:
    """Whoever reads it is told, also where the file cannot be emptied again."""

    class Wrong(Upstream):
        def fetch(self, descriptor: Descriptor, sink: Any, begun: Any = None) -> None:
            file.close()
            begun.size = 0
            begun.update(b"wrong")

    file = open(tmp_path / "x", "x+b")
    target = GrowingFile(file, Part())
    Downloads(Wrong("x", ()), 1).start(Descriptor("", Digest.of(b"x"), 1), target)
    with pytest.raises(HpccError, match="expected"):
        list(target.chunks())


# -- in the right way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refuses", [False, True])
def test_a_body_of_no_length_that_is_cut(listen, refuses: bool) -> None:
    """It is a connection that broke, not an altered layer. A proxy that refuses Range is asked for all."""
    data, asked = noise(3_000_000), []

    def talk(connection: socket.socket, request: bytes) -> None:
        start = 0
        for line in request.split(b"\r\n"):
            if line.lower().startswith(b"range: bytes="):
                start = int(line.partition(b"=")[2].rstrip(b"-"))
        asked.append(start)
        if start and refuses:
            connection.sendall(b"HTTP/1.1 501 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        elif start:
            span = f"bytes {start}-{len(data) - 1}/{len(data)}".encode()
            connection.sendall(b"HTTP/1.1 206 OK\r\nConnection: close\r\nContent-Range: " + span + b"\r\n\r\n")
            connection.sendall(data[start:])
        else:
            cut = len(data) if len(asked) > 1 else 2_000_000
            connection.sendall(OK + b"Connection: close\r\n\r\n" + data[:cut])
        connection.shutdown(socket.SHUT_RDWR)

    registry, sink = Registry(listen(talk), scheme="http"), Memory()
    descriptor = Descriptor("", Digest.of(data), len(data))
    fetch_blob([partial(registry.blob, NAME, descriptor)], descriptor, sink)
    assert bytes(sink.data) == data
    assert asked[0] == 0 and asked[1] == 2_000_000 and asked.count(0) == 1 + refuses


def test_layers_may_still_be_fetched_where_manifests_may_not(fake, hpcc_env: Path) -> None:
    registry = fake(quota=1)
    keep = {"HPCC_KEEP_BLOBS": "0", "HPCC_KEEP_PACKS": "0"}
    first = pull(registry, hpcc_env, **keep)
    registry.add_image(NAME, "2", LAYERS[:1], config_of(LAYERS[:1]))
    with pytest.raises(RateLimited):
        pull(registry, hpcc_env, tag="2", **keep)
    Path(first.path).unlink()
    told = Told()
    assert pull(registry, hpcc_env, told=told, **keep).key == first.key
    assert registry.counts["manifest_get"] == 2


def test_always_means_now_or_not_at_all(fake, hpcc_env: Path) -> None:
    registry = fake()
    pull(registry, hpcc_env)
    registry.faults = Faults(unavailable=-1)
    with pytest.raises(RegistryUnavailable):
        pull(registry, hpcc_env, HPCC_PULL="always")
    assert pull(registry, hpcc_env, HPCC_TTL="0")


def test_who_cannot_prove_who_he_is_is_not_made_up_for(fake, hpcc_env: Path, tmp_path: Path) -> None:
    """Neither by an image of yesterday nor by trying again later: 255."""
    import ssl

    registry = fake(scheme="none")
    pull(registry, hpcc_env)
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    registry._server.socket = context.wrap_socket(registry._server.socket, server_side=True)
    with pytest.raises(Untrusted) as caught:
        pull(registry, hpcc_env, HPCC_TTL="0", HPCC_NOHTTPS="0")
    assert caught.value.exit_code == 255 and "HPCC_CA_FILE" in caught.value.hint
    assert pull(registry, hpcc_env, HPCC_TTL="0", HPCC_NOHTTPS="0", HPCC_CA_FILE=str(certificate.ca))


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent.pem")
    with pytest.raises(HpccError, match=r"no certificates are at /nonexistent\.pem") as caught:
        Registry("127.0.0.1:1").resolve(NAME, "1")
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint


def test_a_ref_that_cannot_be_written_is_only_a_saving(fake, hpcc_env: Path) -> None:
    registry = fake()
    place = hpcc_env / f"cache/refs/{registry.host}/{NAME}/_tags"
    place.mkdir(parents=True)
    (place / "1").write_text("in the way")
    assert pull(registry, hpcc_env)
    assert open_image(uri_of(registry), settings_of(hpcc_env))
