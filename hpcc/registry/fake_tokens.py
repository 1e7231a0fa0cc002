"""How registries ask who one is, each as its users meet it: what FakeRegistry plays.

    registry            realm                             who gets a token
    Docker Hub          auth.docker.io/token              everybody; name and password or access token
    Quay                quay.io/v2/auth                   everybody; name and password, robots
    GHCR                ghcr.io/token                     everybody; name and personal access token
    NGC                 nvcr.io/proxy_auth, no service    everybody; $oauthtoken and API key
    ACR                 REGISTRY/oauth2/token             accounts; POST refresh_token; /oauth2/exchange before that
    ECR                 Basic                             AWS and a token of 12 hours
    ECR Public          public.ecr.aws/token/, scope aws  everybody; AWS and a token
    GCR, GAR            HOST/v2/token                     everybody; oauth2accesstoken, _json_key
    Harbor              HOST/service/token                everybody; robot$name
    GitLab              gitlab.com/jwt/auth               everybody; deploy tokens

Challenges, services and scopes are those that the registries send. The words of a refusal are as their users report
them; the token services' POST is "OAuth2 Token Authentication" of the distribution project, and Azure's AAD-OAuth.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpcc.records import NamedTuple

if TYPE_CHECKING:
    from hpcc.registry.fake import FakeRegistry

ACR_USER = "00000000-0000-0000-0000-000000000000"
HAP429 = b"Too Many Requests (HAP429)"  # Docker Hub's limit of requests, which no header tells of
_PULL = "repository:{repository}:pull"


class Refusal(NamedTuple):
    """What a wrong password gets. Without a code the words are Docker Hub's `details`. {repository} is filled in."""

    status: int
    code: str
    words: str

    def body(self, repository: str) -> bytes:
        words = self.words.format(repository=repository)
        return error_body(self.code, words) if self.code else json.dumps({"details": words}).encode()


class Kind(NamedTuple):
    """A registry's ways. Host names count where a client asks for the registry by its public name, through a proxy."""

    scheme: str = "bearer"  # or basic, or none
    path: str = "/token"  # of the realm
    host: str = ""  # of the realm; "" for the registry's own
    service: str = "fake, with a comma"  # {host} is filled in; "" for a challenge without
    scope: str = _PULL  # that the challenge names; a token is good where its scope is this one
    guests: bool = True  # whether there are tokens without an account
    answer: str = "token"  # or access_token; harbor has both, and one of them empty
    grants: tuple[str, ...] = ()  # of POST; without any it answers `no_post`
    no_post: int = 405
    exchange: str = ""  # path where an Entra access token becomes a refresh token
    refusal: Refusal = Refusal(401, "UNAUTHORIZED", "incorrect username or password")
    stale_realm: str = ""  # host/path that the challenge names to a client whose token is no longer good
    storage: str = ""  # host to which blobs are redirected; it answers 400 to an Authorization header
    busy_words: str = "slow down"  # of a 429 that is no quota's


KINDS: Mapping[str, Kind] = {
    "docker hub": Kind(
        host="auth.docker.io",
        service="registry.docker.io",
        grants=("refresh_token",),
        refusal=Refusal(401, "", "incorrect username or password"),
        storage="production.cloudflare.docker.com",
    ),
    "quay": Kind(
        path="/v2/auth",
        service="quay.io",
        refusal=Refusal(401, "UNAUTHORIZED", "Invalid username or password."),
        storage="cdn01.quay.io",
        busy_words="Too Many Requests",
    ),
    "ghcr": Kind(
        service="ghcr.io",
        refusal=Refusal(403, "DENIED", "denied"),
        storage="pkg-containers.githubusercontent.com",
        busy_words="retry-after: 880.092µs, allowed: 44000/minute",
    ),
    "ngc": Kind(
        path="/proxy_auth",
        service="",
        refusal=Refusal(401, "UNAUTHORIZED", "authentication required"),
        stale_realm="authn.nvidia.com/token",
    ),
    "acr": Kind(
        path="/oauth2/token",
        service="{host}",
        guests=False,
        answer="access_token",
        grants=("refresh_token",),
        exchange="/oauth2/exchange",
        refusal=Refusal(
            401,
            "UNAUTHORIZED",
            "authentication required, visit https://aka.ms/acr/authorization for more information.",
        ),
        storage="eus2managed.blob.core.windows.net",
    ),
    "ecr": Kind(
        scheme="basic",
        refusal=Refusal(403, "DENIED", "Your authorization token has expired. Reauthenticate and try again."),
        storage="prod-eu-central-1-starport-layer-bucket.s3.eu-central-1.amazonaws.com",
    ),
    "ecr public": Kind(
        path="/token/",
        service="public.ecr.aws",
        scope="aws",
        refusal=Refusal(400, "DENIED", "Your Authorization Token is invalid."),
        storage="d5l0dvt14r5h8.cloudfront.net",
        busy_words="Rate exceeded",
    ),
    "gcr": Kind(
        path="/v2/token",
        service="gcr.io",
        refusal=Refusal(
            401,
            "UNAUTHORIZED",
            "You don't have the needed permissions to perform this operation, and you may have invalid credentials.",
        ),
    ),
    "gar": Kind(
        path="/v2/token",
        service="{host}",
        refusal=Refusal(401, "UNAUTHORIZED", "authentication failed"),
    ),
    "harbor": Kind(
        path="/service/token",
        service="harbor-registry",
        answer="harbor",
        refusal=Refusal(401, "UNAUTHORIZED", "unauthorized to access repository: {repository}, action: pull"),
    ),
    "gitlab": Kind(
        path="/jwt/auth",
        host="gitlab.com",
        service="container_registry",
        refusal=Refusal(401, "UNAUTHORIZED", "HTTP Basic: Access denied. The token was incorrect, or expired."),
    ),
}


class Asked(NamedTuple):
    """A request to a token service. `host` is how the client calls the registry or its token service."""

    method: str
    path: str
    host: str
    query: Mapping[str, str]  # of GET
    form: Mapping[str, str]  # of POST
    authorization: str


def error_body(code: str, words: str) -> bytes:
    """An error as the distribution specification writes it."""
    return json.dumps({"errors": [{"code": code, "message": words, "detail": None}]}, ensure_ascii=False).encode()


def is_token_service(kind: Kind, host: str, path: str) -> bool:
    """Whether the request is for the kind's token service, and not for the registry."""
    stale = kind.stale_realm.partition("/")
    return path in (kind.path, kind.exchange or kind.path) or (host, f"/{stale[2]}") == (stale[0], path)


def challenge(kind: Kind, registry: str, host: str, repository: str, *, stale: bool) -> str:
    """WWW-Authenticate for a repository, or for all of the registry where it is "".

    registry: host:port where the fake listens; host: how the client calls it. stale: the client sent a bad token.
    """
    if kind.scheme == "basic":
        return 'Basic realm="the registry, by name and password"'
    if stale and kind.stale_realm and host != registry:
        return f'Bearer realm="http://{kind.stale_realm}",service="registry",error="invalid_token"'
    home = kind.host if kind.host and host != registry else host
    parts = [f'realm="http://{home}{kind.path}"']
    if kind.service:
        parts.append(f'service="{kind.service.format(host=host)}"')
    if repository or kind.scope != _PULL:
        parts.append(f'scope="{kind.scope.format(repository=repository)}"')
    return f"Bearer {','.join(parts)}"


def answer(registry: "FakeRegistry", asked: Asked) -> tuple[int, bytes]:
    """Status and body of the token service's answer."""
    kind = registry.kind
    values = asked.form if asked.method == "POST" else asked.query
    scope = values.get("scope", "")
    repository = scope.removeprefix("repository:").rpartition(":")[0]
    refused = kind.refusal.status, kind.refusal.body(repository)
    if asked.method == "POST" and asked.path == kind.exchange:
        return _exchange(registry, asked.form) or refused
    if asked.method == "POST" and values.get("grant_type") not in kind.grants:
        return kind.no_post, error_body("UNSUPPORTED", "the operation is unsupported")
    stale = asked.host == kind.stale_realm.partition("/")[0]
    service = "registry" if stale else kind.service.format(host=asked.host)
    if asked.method not in ("GET", "POST") or service != values.get("service", ""):
        return 400, error_body("INVALID", f"service {values.get('service')!r} is not known")
    if scope and kind.scope == _PULL and not repository:  # as a scope without a name, `repository::pull`
        return 400, error_body("NAME_INVALID", "invalid scope")
    user = _user(registry, asked)
    if user is None or (not user and (stale or not kind.guests)):
        return refused
    token = registry.issue_token(user, scope)
    document = {"token": token, "access_token": ""} if kind.answer == "harbor" else {kind.answer: token}
    if asked.method == "POST":
        document["refresh_token"] = values.get("refresh_token", "")
    return 200, json.dumps({**document, "expires_in": 300}).encode()


def _user(registry: "FakeRegistry", asked: Asked) -> str | None:
    """The account that the request proves; "" for nobody's, None for a wrong password."""
    if asked.method == "POST":
        return "<token>" if asked.form.get("refresh_token") in registry.refresh_tokens else None
    if not asked.authorization:
        return ""
    name, password = registry.account_of(asked.authorization)
    if registry.kind.exchange and name == ACR_USER:
        return name if password in registry.refresh_tokens else None
    return registry.user_of(asked.authorization)


def _exchange(registry: "FakeRegistry", form: Mapping[str, str]) -> tuple[int, bytes] | None:
    if form.get("grant_type") != "access_token" or form.get("access_token") not in registry.access_tokens:
        return None
    return 200, json.dumps({"refresh_token": registry.issue_refresh_token()}).encode()
