"""Each registry that hpcc supports, by its public name, with the account that its users have there.

The registry is hpcc.registry.fake, which is reached as an HTTP proxy: so the names, challenges, token services and
storage are those of the real ones, and no packet leaves this host. docs/reference/registries.md names these tests.
"""

import base64
import gzip
import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import AccessDenied, RateLimited
from hpcc.oci.manifest import Manifest, parse_manifest
from hpcc.oci.reference import Reference
from hpcc.registry import transport
from hpcc.registry.client import Registry, Resolved
from hpcc.registry.credentials import find_credentials
from hpcc.registry.download import fetch_blob
from hpcc.registry.fake import FakeRegistry, Faults
from hpcc.registry.fake_tokens import ACR_USER, HAP429, KINDS
from hpcc.registry.sink import Memory

LAYER = gzip.compress(b"a layer" * 100_000, 1, mtime=0)
CONFIG = {"architecture": "amd64", "os": "linux"}
KEY_FILE = json.dumps({"type": "service_account", "private_key": "-----BEGIN\nKEY: +/=\n"}, indent=2)

pytestmark = pytest.mark.usefixtures("hpcc_env")


class Site:
    """One registry under its public name, and a user with a home."""

    def __init__(self, server: FakeRegistry, name: str, home: Path, environ: dict[str, str]) -> None:
        self.server, self.reference, self.home, self.environ = server, Reference.parse(name), home, dict(environ)
        self.digest = server.add_image(self.reference.repository, str(self.reference.tag), [LAYER], CONFIG)

    def log_in(self, username: str, password: str, key: str = "", **more: str) -> None:
        """As `docker login` does, in ~/.docker/config.json."""
        auth = base64.b64encode(f"{username}:{password}".encode()).decode()
        self.write({"auths": {key or self.reference.registry: {"auth": auth, **more}}})

    def write(self, document: dict[str, Any]) -> None:
        path = self.home / ".docker/config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))

    def registry(self) -> Registry:
        found = find_credentials(
            self.reference.registry, self.environ, str(self.home), repository=self.reference.repository
        )
        return Registry(self.reference.api_host, scheme="http", credentials=found)

    def pull(self) -> Resolved:
        """Manifest and blob, with whatever account is found."""
        with self.registry() as registry:
            return self.pull_from(registry)

    def pull_from(self, registry: Registry) -> Resolved:
        repository, sink = self.reference.repository, Memory()
        resolved = registry.resolve(repository, self.reference.tag_or_digest)
        assert resolved.descriptor.digest == self.digest
        manifest = parse_manifest(registry.manifest(repository, self.digest))
        assert isinstance(manifest, Manifest)
        (layer,) = manifest.layers
        fetch_blob([partial(registry.blob, repository, layer)], layer, sink)
        assert bytes(sink.data) == LAYER
        return resolved

    def refused(self, words: str, secret: str = "wrong") -> None:
        """The account that is found is refused, in the registry's own words."""
        with pytest.raises(AccessDenied) as caught, self.registry() as registry:
            registry.resolve(self.reference.repository, self.reference.tag_or_digest)
        assert words in caught.value.message and self.reference.name in caught.value.message
        assert "Asked as" in caught.value.hint and secret not in caught.value.message + caught.value.hint


@pytest.fixture
def at(hpcc_env: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Makes a Site: at("quay.io/group/name:1", kind="quay", username=…)."""
    monkeypatch.setattr(transport, "PAUSE", 0.005)
    running: list[FakeRegistry] = []

    def make(name: str, *, private: bool = False, **options: Any) -> Site:
        server = FakeRegistry(private=[Reference.parse(name).repository] if private else [], **options).__enter__()
        running.append(server)
        monkeypatch.setenv("HTTP_PROXY", server.url)
        return Site(server, name, hpcc_env, {"PATH": str(hpcc_env)})

    yield make
    for server in running:
        server.__exit__(None, None, None)


# -- Docker Hub ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub(at, name: str) -> None:
    site = at(f"{name}/tools:1", kind="docker hub", private=True, username="ann", password="dckr_pat_x", quota=10)
    assert site.reference.repository == "library/tools"
    site.log_in("ann", "dckr_pat_x", "https://index.docker.io/v1/")
    with site.registry() as registry:
        assert site.pull_from(registry).private
        quota = registry.quotas["ann"]
        assert (quota.limit, quota.remaining, quota.window) == (10, 9, 21600)
    assert site.server.counts["manifest_head"] == 1 and site.server.counts["manifest_get"] == 1
    site.log_in("ann", "wrong", "https://index.docker.io/v1/")
    site.refused("incorrect username or password")


def test_docker_hub_without_an_account(at) -> None:
    site = at("docker://tools:1", kind="docker hub", quota=1)
    assert not site.pull().private
    with pytest.raises(RateLimited, match=r"docker\.io refuses .*toomanyrequests: You have reached.*0 of 1 pulls"):
        site.pull()


def test_docker_hub_by_identity_token(at) -> None:
    """What `docker login` leaves where a helper gives the user name <token>."""
    site = at("docker://ann/tools:1", kind="docker hub", private=True, refresh_tokens=["refresh"])
    site.log_in("<token>", "", "https://index.docker.io/v1/", identitytoken="refresh")
    assert site.pull().private
    site.log_in("<token>", "", "https://index.docker.io/v1/", identitytoken="wrong")
    site.refused("incorrect username or password")


# -- Quay, GHCR, GitLab, Harbor ------------------------------------------------------------------------------


def test_quay(at) -> None:
    site = at("quay.io/group/tools:1", kind="quay", private=True, username="group+robot", password="ROBOT")
    site.environ |= {"HPCC_DOCKER_USERNAME": "group+robot", "HPCC_DOCKER_PASSWORD": "ROBOT"}
    assert site.pull().private
    site.environ["HPCC_DOCKER_PASSWORD"] = "wrong"
    site.refused("unauthorized: Invalid username or password")


def test_ghcr(at) -> None:
    site = at("ghcr.io/ann/tools:1", kind="ghcr", private=True, username="ann", password="ghp_x")
    site.log_in("ann", "ghp_x")
    with site.registry() as registry:
        assert site.pull_from(registry).private
        site.server.faults = Faults(busy=2)  # retry-after: 880.092µs, in the body
        assert registry.manifest(site.reference.repository, site.digest)
    site.log_in("ann", "wrong")
    site.refused("denied: denied")


def test_gitlab(at) -> None:
    site = at("registry.gitlab.com/group/tools:1", kind="gitlab", private=True, username="gitlab+deploy-token-7",
              password="gldt-x")  # fmt: skip
    site.log_in("gitlab+deploy-token-7", "gldt-x")
    assert site.pull().private
    site.log_in("gitlab+deploy-token-7", "wrong")
    site.refused("unauthorized: HTTP Basic: Access denied")


def test_harbor(at) -> None:
    site = at("harbor.example/project/tools:1", kind="harbor", private=True, username="robot$project+ci", password="s")
    site.log_in("robot$project+ci", "s")
    assert site.pull().private
    site.log_in("robot$project+ci", "wrong")
    site.refused("unauthorized: unauthorized to access repository: project/tools, action: pull")


def test_harbor_login_is_checked_without_a_repository(at) -> None:
    """A scope that names no repository would be an error of Harbor's token service."""
    site = at("harbor.example/project/tools:1", kind="harbor", private=True, username="robot$ci", password="s")
    site.log_in("robot$ci", "s")
    with site.registry() as registry:
        registry.check_login()
    site.log_in("robot$ci", "wrong")
    with pytest.raises(AccessDenied), site.registry() as registry:
        registry.check_login()


# -- NGC -----------------------------------------------------------------------------------------------------


def test_ngc_guest(at) -> None:
    site = at("nvcr.io/nvidia/cuda:12", kind="ngc")
    assert not site.pull().private


def test_ngc_guest_whose_token_is_over(at) -> None:
    """NGC then names another token service, which gives guests nothing."""
    site = at("nvcr.io/nvidia/cuda:12", kind="ngc")
    with site.registry() as registry:
        site.pull_from(registry)
        site.server.revoke_tokens()
        assert not site.pull_from(registry).private


def test_ngc_login(at) -> None:
    site = at("nvcr.io/org/team/tools:1", kind="ngc", private=True, username="$oauthtoken", password="nvapi-x")
    site.environ |= {"HPCC_DOCKER_USERNAME": "$oauthtoken", "HPCC_DOCKER_PASSWORD": "nvapi-x"}
    with site.registry() as registry:
        assert site.pull_from(registry).private
        site.server.revoke_tokens()
        site.pull_from(registry)
    site.environ["HPCC_DOCKER_PASSWORD"] = "wrong"
    site.refused("unauthorized: authentication required")


# -- Azure ---------------------------------------------------------------------------------------------------

AZURE = "authentication required, visit https://aka.ms/acr/authorization"


def _acr(at, **options: Any) -> Site:
    return at("myregistry.azurecr.io/group/tools:1", kind="acr", private=True, **options)


@pytest.mark.parametrize("username", ["0a1b2c3d-aaaa-bbbb-cccc-0123456789ab", "my-scoped-token"])
def test_acr_service_principal_and_scoped_token(at, username: str) -> None:
    site = _acr(at, username=username, password="s3cret")
    site.environ |= {"HPCC_DOCKER_USERNAME": username, "HPCC_DOCKER_PASSWORD": "s3cret"}
    assert site.pull().private
    site.environ["HPCC_DOCKER_PASSWORD"] = "wrong"
    site.refused(AZURE)


def test_acr_identity_token(at) -> None:
    """What `az acr login` leaves in config.json."""
    site = _acr(at, refresh_tokens=["refresh"])
    site.log_in(ACR_USER, "", identitytoken="refresh")
    assert site.pull().private
    assert ("POST", "/oauth2/token") in site.server.requests
    site.log_in(ACR_USER, "", identitytoken="wrong")
    site.refused(AZURE)


def test_acr_refresh_token_as_password(at) -> None:
    """What `az acr login --expose-token` gives."""
    site = _acr(at, refresh_tokens=["refresh"])
    site.environ |= {"HPCC_DOCKER_USERNAME": ACR_USER, "HPCC_DOCKER_PASSWORD": "refresh"}
    assert site.pull().private
    assert "POST" not in {method for method, _ in site.server.requests}


def test_acr_exchange(at) -> None:
    """An access token of Entra, as a managed identity has one."""
    site = _acr(at, access_tokens=["entra"])
    site.environ |= {"HPCC_DOCKER_USERNAME": ACR_USER, "HPCC_DOCKER_PASSWORD": "entra"}
    assert site.pull().private
    assert [path for method, path in site.server.requests if method == "POST"] == ["/oauth2/exchange", "/oauth2/token"]
    site.environ["HPCC_DOCKER_PASSWORD"] = "wrong"
    site.refused(AZURE)


# -- Amazon --------------------------------------------------------------------------------------------------

ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


def _helper(site: Site, name: str, username: str, secret: str) -> None:
    program = site.home / f"docker-credential-{name}"
    answer = json.dumps({"ServerURL": site.reference.registry, "Username": username, "Secret": secret})
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    site.environ["PATH"] = f"{site.home}:/usr/bin:/bin"
    site.write({"credHelpers": {site.reference.registry: name}})


def test_ecr(at) -> None:
    site = at(f"{ECR}/tools:1", kind="ecr", private=True, username="AWS", password="token")
    _helper(site, "ecr-login", "AWS", "token")
    assert site.pull().private
    blobs = [path for path in site.server.authorised if "/blobs/" in path]
    asked = [path for _, path in site.server.requests if "/blobs/" in path]
    assert len(asked) == 2 and len(blobs) == 1  # S3, which would answer 400, saw no authorisation
    _helper(site, "ecr-login", "AWS", "wrong")
    site.refused("denied: Your authorization token has expired")


def test_ecr_public(at) -> None:
    site = at("public.ecr.aws/alias/tools:1", kind="ecr public", username="AWS", password="token")
    assert not site.pull().private
    site.server.private = (site.reference.repository,)
    site.log_in("AWS", "token")
    assert site.pull().private
    site.log_in("AWS", "wrong")
    site.refused("denied: Your Authorization Token is invalid")


def test_ecr_public_with_a_token_that_is_over(at) -> None:
    """Which is so after twelve hours, and must not stand before what everybody may have."""
    site = at("public.ecr.aws/alias/tools:1", kind="ecr public", username="AWS", password="token")
    site.log_in("AWS", "yesterday's")
    assert not site.pull().private


# -- Google --------------------------------------------------------------------------------------------------

GOOGLE = [("oauth2accesstoken", "ya29.x"), ("_json_key", KEY_FILE)]


@pytest.mark.parametrize(("username", "password"), GOOGLE, ids=["oauth2accesstoken", "_json_key"])
def test_gcr(at, username: str, password: str) -> None:
    site = at("gcr.io/project/tools:1", kind="gcr", private=True, username=username, password=password)
    site.log_in(username, password)
    assert site.pull().private
    site.log_in(username, "wrong")
    site.refused("unauthorized: You don't have the needed permissions")


@pytest.mark.parametrize(("username", "password"), GOOGLE, ids=["oauth2accesstoken", "_json_key"])
def test_gar(at, username: str, password: str) -> None:
    site = at("europe-west4-docker.pkg.dev/project/repository/tools:1", kind="gar", private=True, username=username,
              password=password)  # fmt: skip
    site.environ |= {"HPCC_DOCKER_USERNAME": username, "HPCC_DOCKER_PASSWORD": password}
    assert site.pull().private
    site.environ["HPCC_DOCKER_PASSWORD"] = "wrong"
    site.refused("unauthorized: authentication failed")


# -- all others ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_any_host_and_port(at, scheme: str) -> None:
    site = at("registry.example:5000/group/tools:1", scheme=scheme, private=True, username="ann", password="secret")
    site.log_in("ann", "secret")
    assert site.pull().private
    site.log_in("ann", "wrong")
    site.refused("unauthorized: incorrect username or password")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_this_host(at, name: str) -> None:
    server = at("registry.example/group/tools:1", scheme="none").server
    site = Site(server, f"{name}:{server.host.rpartition(':')[2]}/group/tools:1", Path("/nonexistent"), {})
    assert not site.pull().private


@pytest.mark.parametrize("status", [404, 405])
def test_identity_token_at_a_service_without_post(at, status: int) -> None:
    """It is then the password of a GET."""
    kind = KINDS["quay"]._replace(no_post=status)
    site = at("quay.io/group/tools:1", kind=kind, private=True, username="<token>", password="refresh")
    site.log_in("<token>", "", identitytoken="refresh")
    assert site.pull().private
    assert ("POST", kind.path) in site.server.requests


# -- what they say when it is too much -----------------------------------------------------------------------


def test_hap429(at) -> None:
    """Docker Hub's limit of requests, which is not the one of pulls: no header tells of it, nor of when it is over."""
    site = at("docker://tools:1", kind="docker hub")
    with site.registry() as registry:
        site.pull_from(registry)
        site.server.faults = Faults(busy=-1, busy_body=HAP429)
        asked = len(site.server.requests)
        with pytest.raises(RateLimited, match=r"docker\.io refuses .*Too Many Requests \(HAP429\)") as caught:
            registry.manifest(site.reference.repository, site.digest)
    assert caught.value.wait is None and len(site.server.requests) == asked + 1


@pytest.mark.parametrize(
    ("kind", "retry_after", "least", "most"),
    [
        ("quay", "3600", 3600, 3600),
        ("quay", formatdate(time.time() + 7200, usegmt=True), 7000, 7200),
        ("ecr public", "1h2m", 3720, 3720),
    ],
)
def test_retry_after(at, kind: str, retry_after: str, least: float, most: float) -> None:
    site = at("registry.example/group/tools:1", kind=kind, faults=Faults(busy=-1, retry_after=retry_after))
    with pytest.raises(RateLimited) as caught:
        site.pull()
    assert caught.value.wait is not None and least <= caught.value.wait <= most
    assert "wait until" in caught.value.hint


def test_cut_after_some_bytes(at) -> None:
    site = at("quay.io/group/tools:1", kind="quay", faults=Faults(truncate=3, cut_at=100))
    assert not site.pull().private
    assert site.server.counts["blob_get"] == 2 * 4  # each is redirected, and the third time what is missing comes
