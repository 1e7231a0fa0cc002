"""A registry's read API: distribution specification 1.1, "Pull". The only module that imports requests.

HEAD is free of Docker Hub's quota, a manifest GET is not; redirects of blobs go to storage that must not see our
Authorization. All that the network can do wrong becomes one of hpcc's errors here.
"""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import requests

from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    IntegrityError,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
)
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import ACCEPT, Descriptor
from hpcc.records import NamedTuple
from hpcc.registry.auth import DEFAULT_EXPIRY, Challenge, Token, parse_challenges
from hpcc.registry.credentials import Credentials
from hpcc.registry.limits import RateLimit, parse_rate_limit, parse_retry_after

CHUNK = 1 << 20
MAX_MANIFEST = 4 << 20
MAX_ERROR = 64 << 10
MAX_REDIRECTS = 5
TRIES = 4  # at a request that failed for a reason that passes
BLOB_TRIES = 6  # at a blob, each from where the last one broke off
PAUSE = 0.3  # seconds before the second try; doubled each time, with jitter
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


class Resolved(NamedTuple):
    """What a tag or digest names now; `private`: only the user's credentials could see it."""

    descriptor: Descriptor
    private: bool


class Sink(Protocol):
    """Where a blob goes. Bytes are not verified before `fetch_blob` returns."""

    def write(self, data: bytes) -> None: ...

    def restart(self) -> None:
        """Forget all that was written; the blob comes again from its start."""


class Registry:
    """One registry. Safe to use from several threads; tokens are shared and fetched once."""

    def __init__(
        self,
        host: str,
        *,
        http: bool = False,
        credentials: Credentials | None = None,
        user_agent: str = "hpcc",
        timeout: tuple[float, float] = (3.0, 30.0),
    ) -> None:
        self.host, self.credentials = host, credentials
        self.limits: RateLimit | None = None  # what the last answer said of the quota
        self._reached = False  # only a registry that has answered once is asked again when a connection fails
        self._base = f"{'http' if http else 'https'}://{host}"
        self._http, self._timeout = http, timeout
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._local = threading.local()
        self._tokens: dict[tuple[str, bool], Token] = {}
        self._challenges: tuple[Challenge, ...] | None = None
        self._lock = threading.Lock()
        self._private: set[str] = set()  # repositories that only credentials could see

    def resolve(self, repository: str, reference: str) -> Resolved:
        """What the tag or digest names, by HEAD. Without credentials first, so that public images are known as such."""
        path = f"/v2/{repository}/manifests/{reference}"
        private = False
        try:
            response = self._request("HEAD", path, repository, anonymous=True, accept=ACCEPT)
        except (AccessDenied, ImageNotFound):
            if self.credentials is None:
                raise
            response = self._request("HEAD", path, repository, accept=ACCEPT)
            private = True
            self._private.add(repository)
        text = response.headers.get("Docker-Content-Digest", "")
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        size = response.headers.get("Content-Length", "0")
        if not text:  # then there is no other way than a GET, which counts
            data = self._manifest(repository, reference)
            return Resolved(Descriptor(media_type, Digest.of(data), len(data)), private)
        return Resolved(Descriptor(media_type, Digest.parse(text), int(size) if size.isdigit() else 0), private)

    def manifest(self, repository: str, digest: Digest) -> bytes:
        """The manifest or index with this digest, verified."""
        data = self._manifest(repository, str(digest))
        verifier = Verifier(digest, None, f"manifest {digest} of {self.host}/{repository}")
        verifier.update(data)
        verifier.finish()
        return data

    def _manifest(self, repository: str, reference: str) -> bytes:
        path = f"/v2/{repository}/manifests/{reference}"
        with self._request("GET", path, repository, accept=ACCEPT) as response:
            data = _read(response, MAX_MANIFEST + 1, self.host)
        if len(data) > MAX_MANIFEST:
            raise IntegrityError(f"{self.host}/{repository}: a manifest of more than {MAX_MANIFEST} bytes")
        return data

    def blob(self, repository: str, descriptor: Descriptor, offset: int = 0) -> "Blob":
        """A blob from `offset` on; where the registry cannot resume, `Blob.offset` is 0. Not verified. To be closed."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        path = f"/v2/{repository}/blobs/{descriptor.digest}"
        response = self._request("GET", path, repository, headers=headers)
        served = 0
        if response.status_code == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(offset):
                response.close()
                return self.blob(repository, descriptor)
            served = offset
        return Blob(response, served, self.host)

    def _request(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        anonymous: bool = False,
        accept: str = "*/*",
        headers: Mapping[str, str] = {},
    ) -> requests.Response:
        """A request with whatever authorisation is needed; retried where that helps; an answer that is no error."""
        anonymous = anonymous or self.credentials is None
        response: requests.Response | None = None
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                response = self._authorised(method, path, repository, anonymous, {"Accept": accept, **headers})
            except RegistryUnavailable:
                if attempt == TRIES - 1 or not self._reached:
                    raise
                continue
            if response.status_code < 500:
                break
        assert response is not None
        self._note_limits(response)
        if response.status_code in (200, 206):
            return response
        with response:
            raise self._error(response, method, repository, path)

    def _authorised(
        self, method: str, path: str, repository: str, anonymous: bool, headers: Mapping[str, str]
    ) -> requests.Response:
        authorisation = self._authorisation(repository, anonymous)
        response = self._send(method, self._base + path, {**headers, **authorisation})
        if response.status_code != 401:
            return response
        challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        if not challenges:
            return response
        with self._lock:
            self._challenges = challenges
            self._tokens.pop((repository, anonymous), None)
        renewed = self._authorisation(repository, anonymous)
        if not renewed or renewed == authorisation:
            return response
        response.close()
        return self._send(method, self._base + path, {**headers, **renewed})

    def _authorisation(self, repository: str, anonymous: bool) -> dict[str, str]:
        """The header for a request, by the challenge that the registry last made."""
        with self._lock:
            for challenge in self._challenges or ():
                if challenge.scheme == "bearer":
                    token = self._tokens.get((repository, anonymous))
                    if token is None or token.expires < time.monotonic():
                        token = self._tokens[repository, anonymous] = self._token(challenge, repository, anonymous)
                    return {"Authorization": f"Bearer {token.value}"}
                if challenge.scheme == "basic" and not anonymous and self.credentials is not None:
                    return {"Authorization": requests.auth._basic_auth_str(*_pair(self.credentials))}
        return {}

    def _token(self, challenge: Challenge, repository: str, anonymous: bool) -> Token:
        """Ask the token service that the challenge names."""
        realm = challenge.parameters.get("realm", "")
        if urlsplit(realm).scheme not in (("https", "http") if self._http else ("https",)):
            raise RegistryError(
                f"{self.host} sends us to {realm!r} for a token, which is not a safe place",
                hint="Use --no-https only for registries that you trust on the way as well.",
            )
        parameters = {"scope": challenge.parameters.get("scope", f"repository:{repository}:pull")}
        if service := challenge.parameters.get("service"):
            parameters["service"] = service
        headers = {}
        if not anonymous and self.credentials is not None:
            headers["Authorization"] = requests.auth._basic_auth_str(*_pair(self.credentials))
        with self._send("GET", realm, headers, parameters) as response:
            if response.status_code != 200:
                raise self._error(response, "GET", repository, "token")
            try:
                answer = json.loads(_read(response, MAX_MANIFEST, self.host))
                value = answer.get("token") or answer["access_token"]
                lifetime = float(answer.get("expires_in") or DEFAULT_EXPIRY)
            except (ValueError, KeyError, AttributeError, TypeError):
                raise RegistryError(f"{urlsplit(realm).netloc} answered without a token") from None
        return Token(str(value), time.monotonic() + lifetime * 0.9)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], parameters: Mapping[str, str] | None = None
    ) -> requests.Response:
        """One request, redirects followed without Authorization for another origin."""
        session = self._session()
        origin = urlsplit(url)[:2]
        sent = {**self._headers, **headers}
        for _ in range(MAX_REDIRECTS):
            try:
                response = session.request(
                    method,
                    url,
                    headers=sent,
                    params=parameters,
                    timeout=self._timeout,
                    stream=True,
                    allow_redirects=False,
                )
            except requests.exceptions.RequestException as error:
                raise self._unreachable(error, urlsplit(url).netloc) from None
            self._reached = True
            if response.status_code not in _REDIRECTS:
                return response
            with response:
                url, parameters = urljoin(url, response.headers.get("Location", "")), None
            scheme, netloc = urlsplit(url)[:2]
            if scheme not in ("https", "http") or (scheme == "http" and not self._http):
                raise RegistryError(f"{self.host} redirects to {scheme}://{netloc}, which is not safe")
            if (scheme, netloc) != origin:
                sent = {name: value for name, value in sent.items() if name != "Authorization"}
        raise RegistryError(f"{self.host} redirects in circles")

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.auth = _no_auth  # else requests looks for a ~/.netrc
        return session

    def _note_limits(self, response: requests.Response) -> None:
        limits = parse_rate_limit(response.headers)
        if limits is not None:
            self.limits = limits

    def _unreachable(self, error: requests.exceptions.RequestException, host: str) -> RegistryUnavailable:
        text = str(error)
        if isinstance(error, requests.exceptions.SSLError):
            if "WRONG_VERSION_NUMBER" in text or "record layer" in text.lower():
                return RegistryUnavailable(
                    f"{host} does not speak https", hint="If it is meant to be so: --no-https, or HPCC_INSECURE."
                )
            return RegistryUnavailable(
                f"{host}: its certificate is not accepted", hint="Name your site's CA in REQUESTS_CA_BUNDLE."
            )
        if "Name or service not known" in text or "NameResolution" in text or "resolve" in text:
            why = "its name is not known"
        elif isinstance(error, requests.exceptions.Timeout):
            why = "it does not answer"
        elif "refused" in text:
            why = "it refuses connections"
        else:
            why = "the connection broke"
        return RegistryUnavailable(
            f"cannot reach {host}: {why}", hint="Is the name right, and is there a network (or a proxy) on this host?"
        )

    def _error(self, response: requests.Response, method: str, repository: str, path: str) -> HpccError:
        """What an answer that is an error means."""
        code = response.status_code
        said = _words(response) if method != "HEAD" else ""
        name = f"{self.host}/{repository}"
        if code in (401, 403):
            said = said or ("unauthorized: authentication required" if code == 401 else "denied: access is denied")
            account = f"as {self.credentials.username}" if self.credentials else "without an account"
            return AccessDenied(
                f"{name}: {said} ({code}, {account})",
                hint="Does it exist, and may you see it? Log in with docker, or set HPCC_DOCKER_USERNAME, _PASSWORD.",
            )
        if code == 404:
            what = path.rpartition("/")[2]
            kind = "layer" if "/blobs/" in path else "image"
            return ImageNotFound(
                f"{name}: there is no {kind} {what}" + (f" ({said})" if said else ""),
                hint="Look at the name and the tag.",
            )
        if code == 429:
            return self._rate_limited(response, said)
        if code >= 500:
            return RegistryUnavailable(f"{self.host} answers {code} {said}".rstrip(), hint="Try again later.")
        return RegistryError(f"{self.host} answers {code} to {method} {path} {said}".rstrip())

    def _rate_limited(self, response: requests.Response, said: str) -> RateLimited:
        wait = parse_retry_after(response.headers.get("Retry-After", ""), time.time())
        limits = parse_rate_limit(response.headers) or self.limits
        quota = f" The quota: {limits}." if limits else ""
        until = f"wait until {time.strftime('%H:%M', time.localtime(time.time() + wait))}" if wait else "wait"
        if not wait and limits and limits.window:
            until = f"wait, at most {limits.window / 3600:g} h"
        return RateLimited(
            f"{self.host} has had enough of us (429): {said or 'too many requests'}.{quota}",
            hint=f"Three ways out: log in (an account has a quota of its own), use a mirror, or {until}.",
        )


class Blob:
    """A blob on its way, from `offset` on. Iterate, then close; or use it in a with statement."""

    def __init__(self, response: requests.Response, offset: int, host: str) -> None:
        self.offset, self._response, self._host = offset, response, host

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *error: object) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most 1 MiB. RegistryUnavailable where the connection breaks."""
        try:
            while data := self._response.raw.read(CHUNK):
                yield data
        except Exception as error:
            if not _is_network(error):
                raise
            raise RegistryUnavailable(f"{self._host}: the connection broke in the middle of a layer") from None


def fetch_blob(registry: Registry, repository: str, descriptor: Descriptor, sink: Sink) -> None:
    """Stream a blob into `sink`, resumed where the connection breaks; size and digest are right when this returns.

    Raises IntegrityError after the second time that the bytes were wrong, RegistryError, and what the sink raises.
    """
    what = f"{descriptor.digest} of {registry.host}/{repository}"
    verifier = Verifier(descriptor.digest, descriptor.size, what)
    wrong = 0
    failure: HpccError | None = None
    for attempt in range(BLOB_TRIES):
        if attempt:
            time.sleep(PAUSE * min(2 ** (attempt - 1), 8) * random.uniform(0.5, 1.5))
        try:
            with registry.blob(repository, descriptor, verifier.seen) as blob:
                if blob.offset != verifier.seen:
                    sink.restart()
                    verifier = Verifier(descriptor.digest, descriptor.size, what)
                for data in blob:
                    verifier.update(data)
                    sink.write(data)
            if verifier.seen < descriptor.size:
                raise RegistryUnavailable(f"{what}: {verifier.seen} of {descriptor.size} bytes came")
            verifier.finish()
            return
        except RegistryUnavailable as error:
            failure = error
        except IntegrityError as error:
            wrong += 1
            if wrong == 2:
                raise IntegrityError(
                    error.message, hint="The registry, or a proxy on the way, altered it. Ask whoever runs it."
                ) from None
            sink.restart()
            verifier = Verifier(descriptor.digest, descriptor.size, what)
            failure = error
    if verifier.seen < descriptor.size and isinstance(failure, RegistryUnavailable):
        raise RegistryUnavailable(
            f"{what}: only {verifier.seen} of {descriptor.size} bytes came in {BLOB_TRIES} attempts",
            hint="Try again later.",
        )
    raise failure or IntegrityError(f"{what} did not come whole")


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _pair(credentials: Credentials) -> tuple[str, str]:
    return credentials.username, credentials.password


def _is_network(error: BaseException) -> bool:
    return isinstance(error, requests.exceptions.RequestException | OSError) or type(error).__module__.startswith(
        "urllib3"
    )


def _read(response: requests.Response, limit: int, host: str) -> bytes:
    try:
        return bytes(response.raw.read(limit))
    except Exception as error:
        if not _is_network(error):
            raise
        raise RegistryUnavailable(f"{host}: the connection broke") from None


def _words(response: requests.Response) -> str:
    """The registry's own words: {"errors": [{"code", "message"}]}, or {"details"}."""
    try:
        answer: Any = json.loads(response.raw.read(MAX_ERROR))
        first = answer["errors"][0] if answer.get("errors") else {"message": answer.get("details", "")}
        words = f"{str(first.get('code', '')).lower()}: {first.get('message', '')}".strip(": ")
    except Exception as error:
        if not (
            _is_network(error) or isinstance(error, ValueError | KeyError | AttributeError | TypeError | IndexError)
        ):
            raise
        return ""
    return "".join(ch for ch in words if ch.isprintable())[:300]
