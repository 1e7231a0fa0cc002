"""What only somebody's account can have becomes nobody else's, by whatever way it comes; and secrets stay with us."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpcc.cache.refs import read_ref, write_ref
from hpcc.errors import AccessDenied, RegistryError
from hpcc.image import open_image
from hpcc.layout import write_layout
from hpcc.lookup import Wanted, tiers
from hpcc.oci.digest import Digest
from hpcc.registry.client import Registry
from hpcc.registry.credentials import Credentials
from hpcc.registry.fake import Faults
from tests.support.docker_registry import make_certificate
from tests.support.pulls import DIGESTS, LAYERS, NAME, Told, config_of, files_below, pull, settings_of, uri_of
from tests.support.real import need

pytestmark = pytest.mark.usefixtures("hpcc_env")
ACCOUNT = {"HPCC_DOCKER_USERNAME": "ann", "HPCC_DOCKER_PASSWORD": "s3cret"}


def shared_files(home: Path) -> list[str]:
    """Files of the shared tier in which the image could be."""
    return (
        [name for name in files_below(home / "cache") if not name.startswith("tmp/")]
        if (home / "cache").exists()
        else []
    )


# -- tiers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_digest", [False, True])
@pytest.mark.parametrize("faults", [Faults(no_head=True), Faults(missing_digest=True), Faults()])
def test_a_registry_without_head_is_asked_anonymously_all_the_same(
    fake, hpcc_env: Path, faults: Faults, by_digest: bool
) -> None:
    registry = fake(username="ann", password="s3cret", private=[NAME], faults=faults)
    uri = uri_of(registry)
    if by_digest:
        uri = f"docker://{registry.host}/{NAME}@{Digest.of(registry.manifests[NAME, '1'][1])}"
    image = open_image(uri, settings_of(hpcc_env, **ACCOUNT))
    assert "/private/" in image.path and shared_files(hpcc_env) == []


def test_same_bytes_public_under_another_name(fake, hpcc_env: Path) -> None:
    """A private name does not become everybody's because its bytes are, under another one."""
    registry = fake(username="ann", password="s3cret", private=["corp/secret-project"])
    registry.add_image("corp/secret-project", "1", LAYERS, config_of(LAYERS))
    digest = Digest.of(registry.manifests[NAME, "1"][1])
    pull(registry, hpcc_env)
    image = open_image(f"docker://{registry.host}/corp/secret-project@{digest}", settings_of(hpcc_env, **ACCOUNT))
    assert "/private/" in image.path
    for name, data in files_below(hpcc_env / "cache").items():
        assert "secret-project" not in name and b"secret-project" not in data


def test_only_the_manifest_is_public(fake, hpcc_env: Path) -> None:
    """Layers that only the account can have stay with whoever has it, though the manifest stands in the shared tier."""
    registry = fake(username="ann", password="s3cret", private=[NAME])
    digest = registry.add_image("thief/copy", "1", LAYERS, config_of(LAYERS))
    for blob in DIGESTS:
        registry.blobs[f"hidden {blob}"] = registry.blobs.pop(blob)
    with pytest.raises(RegistryError):
        open_image(f"docker://{registry.host}/thief/copy:1", settings_of(hpcc_env))
    for blob in DIGESTS:
        registry.blobs[blob] = registry.blobs.pop(f"hidden {blob}")
    image = open_image(f"docker://{registry.host}/{NAME}@{digest}", settings_of(hpcc_env, **ACCOUNT))
    assert "/private/" in image.path
    assert not any((hpcc_env / "cache/oci/blobs" / blob.replace(":", "/")).exists() for blob in DIGESTS)


def test_a_mirror_shows_what_the_registry_does_not(fake, hpcc_env: Path) -> None:
    """The manifest comes from anybody's mirror, a layer only from the registry with the account."""
    itself, mirror = fake(username="ann", password="s3cret", private=[NAME]), fake()
    del mirror.blobs[DIGESTS[1]]
    settings = settings_of(hpcc_env, **ACCOUNT, HPCC_MIRRORS=f"{itself.host}={mirror.host}")
    image = open_image(uri_of(itself), settings)
    assert "/private/" in image.path
    assert not (hpcc_env / "cache/oci/blobs" / DIGESTS[1].replace(":", "/")).exists()
    with pytest.raises(AccessDenied):
        open_image(uri_of(itself), settings_of(hpcc_env / "b", HPCC_MIRRORS=f"{itself.host}={mirror.host}"))


def test_an_image_that_became_private(fake, hpcc_env: Path) -> None:
    """The newest that somebody found out counts, in whichever tier it stands."""
    registry = fake(username="ann", password="s3cret")
    old = pull(registry, hpcc_env, **ACCOUNT)
    shared = tiers(settings_of(hpcc_env))[-2]
    name = f"{registry.host}/{NAME}"
    ref = read_ref(shared, name, "1")
    assert ref is not None
    write_ref(shared, name, "1", ref._replace(checked_at=time.time() - 5 * 86400))
    registry.private = (NAME,)
    registry.add_image(NAME, "1", LAYERS[:1], config_of(LAYERS[:1]))
    new = pull(registry, hpcc_env, **ACCOUNT)
    assert new.key != old.key and "/private/" in new.path
    for way in ({"HPCC_OFFLINE": "1"}, {"HPCC_PULL": "missing"}):
        assert pull(registry, hpcc_env, **ACCOUNT, **way).key == new.key
    registry.faults = Faults(unavailable=-1)
    told = Told()
    assert pull(registry, hpcc_env, told=told, **ACCOUNT, HPCC_TTL="0").key == new.key
    assert "as it was 0.0 hours ago" in told.warnings[0]


def test_the_name_of_a_private_registry_that_is_away(hpcc_env: Path) -> None:
    with pytest.raises(RegistryError):
        open_image("docker://127.0.0.1:1/merger/x:1", settings_of(hpcc_env, **ACCOUNT))
    assert not [path for path in (hpcc_env / "cache").rglob("*") if path.is_file() and "1:1" in str(path)]


def test_many_with_logins_count_once(fake, hpcc_env: Path) -> None:
    """Each finds out by HEAD that the image is public; then one fetches it for all."""
    registry = fake(index=True, username="ann", password="s3cret", faults=Faults(delay=0.1))
    children = []
    for number in range(5):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                pull(registry, hpcc_env, HPCC_PRIVATE_DIR=str(hpcc_env / f"private{number}"), **ACCOUNT)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 5
    assert registry.counts["manifest_get"] == 2
    assert registry.counts["blob_get"] == len(LAYERS) + 1


def test_a_layout_and_a_run_in_one_job(fake, hpcc_env: Path) -> None:
    registry = fake()
    settings = settings_of(hpcc_env, HPCC_RUN_ID="7", HPCC_TTL="0")
    wanted = Wanted.parse(uri_of(registry), settings)
    write_layout(wanted, settings, str(hpcc_env / "out"), Told(), replace=False)
    registry.add_image(NAME, "1", LAYERS[:1], config_of(LAYERS[:1]))
    (entry,) = json.loads((hpcc_env / "out/index.json").read_bytes())["manifests"]
    assert open_image(uri_of(registry), settings).reference.endswith(entry["digest"])


# -- secrets ---------------------------------------------------------------------------------------------------------


Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server that answers each request by a function; its host:port."""
    running: list[ThreadingHTTPServer] = []

    def start(answer: Answer, context: Any = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, code: int, body: bytes = b"{}", **headers: str) -> None:
    handler.send_response(code)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_a_registry_that_echoes_what_it_was_sent(serve, scheme: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/token"):
            return say(handler, 200, b'{"token": "bearer-SECRET"}')
        sent = handler.headers.get("Authorization")
        if not sent:
            realm = (
                f'Bearer realm="http://{handler.headers["Host"]}/token"' if scheme == "bearer" else 'Basic realm="x"'
            )
            return say(handler, 401, WWW_Authenticate=realm)
        error = {"errors": [{"code": "DENIED", "message": f"not with {sent}, nor ann:s3cret"}]}
        return say(handler, 403, json.dumps(error).encode())

    registry = Registry(serve(answer), scheme="http", credentials=Credentials("ann", "s3cret"))
    with pytest.raises(AccessDenied) as caught:
        registry.check_login()
    said = f"{caught.value.message} {caught.value.hint}"
    assert "denied: not with" in said and "s3cret" not in said and "SECRET" not in said
    assert Credentials("ann", "s3cret").basic not in said


def test_insecure_is_for_the_host_that_is_listed(serve, tmp_path: Path) -> None:
    """A token service elsewhere must prove who it is, before it gets a password."""
    import ssl

    need("openssl")
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    seen: list[str | None] = []

    def token(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        say(handler, 200, b'{"token": "t"}')

    elsewhere = serve(token, context).replace("127.0.0.1", "localhost")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        say(handler, 401, WWW_Authenticate=f'Bearer realm="https://{elsewhere}/token"')

    host = serve(answer, context)
    with pytest.raises(RegistryError, match="certificate is not one"):
        Registry(host, scheme="insecure", credentials=Credentials("ann", "s3cret")).check_login()
    assert seen == []
