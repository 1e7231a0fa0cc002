"""A registry's read API: distribution specification 1.1, "Pull". The only module that imports requests.

HEAD is free of Docker Hub's quota, a manifest GET is not; redirects of blobs go to storage that must not see our
Authorization. All that the network can do wrong becomes one of hpcc's errors here.
"""

import http.client
import http.cookiejar
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Protocol
from urllib.parse import SplitResult

import requests
import urllib3.exceptions

from hpcc.errors import (
    AccessDenied,
    HpccError,
    ImageNotFound,
    IntegrityError,
    InvalidReference,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
)
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import ACCEPT, Descriptor
from hpcc.records import NamedTuple
from hpcc.registry.addresses import join, origin, split
from hpcc.registry.answers import Question, to_error, words
from hpcc.registry.auth import Challenge, Token, choose, parse_challenges, token_query
from hpcc.registry.credentials import Credentials
from hpcc.registry.limits import RateLimit, find_retry_after, parse_rate_limit

CHUNK = 1 << 20
MAX_MANIFEST = 4 << 20
MAX_WORDS = 64 << 10  # of an error's body, or of a redirect's, that is read
MAX_REDIRECTS = 5
TRIES = 4  # at a request that failed for a reason that passes
BLOB_TRIES = 5  # at a blob, each from where the last one broke off, while it does not get ahead by CHUNK
PAUSE = 0.3  # seconds before the second try; doubled each time, with jitter
LONGEST_WAIT = 10.0  # seconds that a registry may ask us to wait without getting an error out of it
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BROKEN = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


class Interrupted(RegistryUnavailable):
    """A connection that stood has broken: worth another try at once."""


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
    """One registry. Safe to use from several threads; tokens are shared, and fetched once.

    host is the API's (`Reference.api_host`), with a port where one was given. timeout is for the connection and for
    each answer, in seconds. Proxies and the CA come from the environment, as requests does it; ~/.netrc does not count.
    """

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
        self.limits: RateLimit | None = None  # what the last answer that had it said of the quota
        self._http, self._timeout = http, timeout
        self._base = f"{'http' if http else 'https'}://{host}"
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._sessions_lock = threading.Lock()  # another one, since whoever fetches a token may need a session
        self._reached = False  # only a registry that has answered once is asked again when nothing answers
        self._lock = threading.Lock()  # of what follows
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, bool], Token] = {}
        self._private: set[str] = set()  # repositories that only credentials could see
        self._refused = False  # the credentials are of no use, and the image is public
        self._kept: tuple[str, Digest, bytes] | None = None  # a manifest that `resolve` had to fetch

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The registry can still be used; it makes new ones."""
        with self._sessions_lock:
            sessions, self._sessions, self._local = self._sessions, [], threading.local()
        for session in sessions:
            session.close()

    # What one can ask for

    def resolve(self, repository: str, reference: str) -> Resolved:
        """What the tag or digest names, by HEAD. Without credentials first, so that public images are known as such.

        Where the anonymous quota is spent, credentials are used too; the image then counts as private, since nobody
        can tell. A registry that names no digest is asked by one GET, which counts; `manifest` then has it already.
        """
        try:
            return Resolved(self._resolve(repository, reference, anonymous=True), False)
        except (AccessDenied, ImageNotFound, RateLimited):
            if self.credentials is None:
                raise
        with self._lock:
            self._private.add(repository)
        return Resolved(self._resolve(repository, reference, anonymous=False), True)

    def _resolve(self, repository: str, reference: str, *, anonymous: bool) -> Descriptor:
        wanted = Digest.parse(reference) if ":" in reference else None
        path = f"/v2/{repository}/manifests/{reference}"
        what = f"image {reference}"
        headers: Mapping[str, str] = {}
        try:
            response = self._request("HEAD", path, repository, what, anonymous=anonymous, accept=ACCEPT)
            headers = response.headers
            _dismiss(response)
        except (AccessDenied, ImageNotFound, RateLimited, RegistryUnavailable):
            raise
        except RegistryError:  # 405: a registry without HEAD
            pass
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()[:255]
        length = headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 10 else 0
        try:
            found = Digest.parse(headers.get("Docker-Content-Digest", ""))
        except InvalidReference:
            found = None
        if wanted is not None:  # else whoever runs the registry could answer for a pinned digest with another one
            if found is not None and found.algorithm == wanted.algorithm and found != wanted:
                raise IntegrityError(f"{self.host}/{repository}: asked for {wanted}, the registry answers with {found}")
            found = wanted
        if found is None:
            data, media_type = self._get_manifest(repository, reference)
            found, size = Digest.of(data), len(data)
            self._kept = (repository, found, data)
        return Descriptor(media_type, found, size)

    def manifest(self, repository: str, digest: Digest) -> bytes:
        """The manifest or index with this digest, verified. IntegrityError after the second time that it is wrong."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[:2] == (repository, digest):
            return kept[2]
        for last in (False, True):
            try:
                data, _ = self._get_manifest(repository, str(digest))
                verifier = Verifier(digest, None, f"manifest {digest} of {self.host}/{repository}")
                verifier.update(data)
                verifier.finish()
                return data
            except (IntegrityError, Interrupted):
                if last:
                    raise
        raise AssertionError

    def _get_manifest(self, repository: str, reference: str) -> tuple[bytes, str]:
        path = f"/v2/{repository}/manifests/{reference}"
        with self._request("GET", path, repository, f"image {reference}", accept=ACCEPT) as response:
            data = self._read(response, MAX_MANIFEST + 1)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()[:255]
        if len(data) > MAX_MANIFEST:
            raise IntegrityError(f"{self.host}/{repository}: a manifest of more than {MAX_MANIFEST} bytes")
        return data, media_type

    def blob(self, repository: str, descriptor: Descriptor, offset: int = 0) -> "Blob":
        """A blob from `offset` on; where the registry cannot resume, `Blob.offset` is 0. Not verified. To be closed."""
        path, what = f"/v2/{repository}/blobs/{descriptor.digest}", f"layer {descriptor.digest}"
        if offset:
            resumed = self._request("GET", path, repository, what, span=f"bytes={offset}-")
            if resumed.status_code == 200:  # it does not know Range
                return Blob(resumed, 0, self.host)
            span = resumed.headers.get("Content-Range", "")
            fits = span.startswith(f"bytes {offset}-") and span.rpartition("/")[2] in ("*", str(descriptor.size))
            if resumed.status_code == 206 and fits:
                return Blob(resumed, offset, self.host)
            resumed.close()
        response = self._request("GET", path, repository, what)
        if response.status_code != 200:
            response.close()
            raise RegistryError(f"{self.host} answers {response.status_code} to a request for all of {what}")
        return Blob(response, 0, self.host)

    # One question, with authorisation

    def _request(
        self,
        method: str,
        path: str,
        repository: str,
        what: str,
        *,
        anonymous: bool = False,
        accept: str = "*/*",
        span: str = "",
    ) -> requests.Response:
        """A good answer, 200 or 206 (416 too where a span was asked for); everything else is an error."""
        headers = {"Accept": accept, **({"Range": span} if span else {})}
        login = None if anonymous or self._refused else self.credentials
        try:
            return self._authorised(method, path, headers, Question(self.host, repository, what, login))
        except AccessDenied as denied:
            # An old password must not stand before an image that everybody may have.
            if login is None or repository in self._private:
                raise
            try:
                response = self._authorised(method, path, headers, Question(self.host, repository, what, None))
            except (AccessDenied, ImageNotFound):
                raise denied from None
        self._refused = True
        return response

    def _authorised(self, method: str, path: str, headers: Mapping[str, str], question: Question) -> requests.Response:
        used = self._authorisation(question, None)
        response = self._send(method, self._base + path, {**headers, **used}, question)
        if response.status_code == 401 and origin(response.url) == origin(self._base):
            challenge = choose(parse_challenges(response.headers.get("WWW-Authenticate", "")))
            if challenge is not None:
                with self._lock:
                    self._challenge = challenge
                renewed = self._authorisation(question, used.get("Authorization", ""))
                if renewed and renewed != used:
                    _dismiss(response)
                    response = self._send(method, self._base + path, {**headers, **renewed}, question)
        status = response.status_code
        if status in (200, 206) or (status == 416 and "Range" in headers):
            return response
        raise self._error(response, question)

    def _authorisation(self, question: Question, refused: str | None) -> dict[str, str]:
        """The header for a question, by the registry's challenge; never the `refused` token again.

        Threads wait here for the one that fetches the token.
        """
        with self._lock:
            challenge, login = self._challenge, question.credentials
            if challenge is not None and challenge.scheme == "basic" and login is not None:
                return {"Authorization": f"Basic {login.basic}"}
            if challenge is None or challenge.scheme != "bearer":
                return {}
            key = (question.repository, login is None)
            token = self._tokens.get(key)
            if token is None or token.expires < time.monotonic() or refused == f"Bearer {token.value}":
                token = self._tokens[key] = self._fetch_token(challenge, question)
            return {"Authorization": f"Bearer {token.value}"}

    def _fetch_token(self, challenge: Challenge, question: Question) -> Token:
        """Ask the token service that the challenge names, which may be at another host."""
        realm = challenge.parameters.get("realm", "")
        parts = split(realm)
        if parts is None or not self._is_safe(parts):
            raise RegistryError(
                f"{self.host} sends us for a token to {realm[:100]!r}, which is no https address",
                hint="hpcc gives no password to plain http, unless the registry itself is talked to so (--no-https).",
            )
        login = question.credentials
        headers = {"Authorization": f"Basic {login.basic}"} if login else {}
        query = token_query(challenge, question.repository)
        service = question._replace(what=f"token at {parts.hostname}")
        with self._send("GET", realm, headers, service, query) as response:
            if response.status_code == 404:
                raise RegistryError(f"{self.host} sends us for a token to {parts.hostname}, which has none (404)")
            if response.status_code != 200:
                raise self._error(response, service)
            data = self._read(response, MAX_MANIFEST)
        try:
            return Token.parse(data)
        except ValueError:
            raise RegistryError(f"{parts.hostname} answered without a token for {question.name}") from None

    def _error(self, response: requests.Response, question: Question) -> HpccError:
        said = self._words(response, question.credentials)
        response.close()
        return to_error(response.status_code, response.headers, said, question, self.limits)

    # One exchange, with patience

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        question: Question,
        query: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer, whatever its status but 429, after redirects and, where that helps, after more tries."""
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            pause = PAUSE * 2**attempt * random.uniform(0.5, 1.5)
            try:
                response = self._follow(method, url, headers, query)
            except Interrupted:
                if last:
                    raise
                time.sleep(pause)
                continue
            self.limits = parse_rate_limit(response.headers) or self.limits
            busy = response.status_code == 429
            if not busy and (last or response.status_code < 500):
                return response
            said = self._words(response, question.credentials)
            wait = find_retry_after(response.headers, said, time.time())
            response.close()
            # A quota that is spent does not come back in seconds, and Docker Hub names no time; Quay and GHCR do.
            if last or (busy and wait is None) or (wait or 0) > LONGEST_WAIT:
                raise to_error(response.status_code, response.headers, said, question, self.limits)
            time.sleep(pause + (wait or 0))
        raise AssertionError("the last try returns or raises")

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None
    ) -> requests.Response:
        """One request and its redirects; Authorization goes to the origin (scheme, host, port) of `url` alone."""
        home, sent = origin(url), {**self._headers, **headers}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(method, url, sent, query)
            if response.status_code not in _REDIRECTS:
                return response
            _dismiss(response)
            url, query = join(url, response.headers.get("Location", "")), None
            parts = split(url)
            if parts is None or not self._is_safe(parts):
                where = f"{parts.scheme}://{parts.hostname or ''}" if parts else "something that is no address"
                raise RegistryError(f"{self.host} redirects to {where}, where hpcc does not go")
            if origin(url) != home:
                sent.pop("Authorization", None)
        raise RegistryError(f"{self.host} redirects more than {MAX_REDIRECTS} times")

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], query: Mapping[str, str] | None
    ) -> requests.Response:
        try:
            response = self._session().request(
                method, url, headers=headers, params=query, timeout=self._timeout, stream=True, allow_redirects=False
            )
        except _BROKEN as error:
            raise self._unreachable(error, url) from None
        self._reached = True
        return response

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
            session.auth = _no_auth  # else requests looks for a ~/.netrc
            session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
            with self._sessions_lock:
                self._sessions.append(session)
        return session

    def _is_safe(self, parts: SplitResult) -> bool:
        return parts.scheme in (("https", "http") if self._http else ("https",))

    def _read(self, response: requests.Response, limit: int) -> bytes:
        try:
            return bytes(response.raw.read(limit))
        except _BROKEN:
            raise Interrupted(f"{self.host}: the connection broke in the middle of an answer") from None

    def _words(self, response: requests.Response, credentials: Credentials | None) -> str:
        try:
            return words(self._read(response, MAX_WORDS), credentials)
        except Interrupted:
            return ""

    def _unreachable(self, error: Exception, url: str) -> RegistryUnavailable:
        """What a failed connection means: Interrupted where another try may help."""
        parts, text = split(url), str(error)
        host = parts.netloc.rpartition("@")[2] if parts else self.host
        hint = "Is the name right, and is there a network (or a proxy) on this host?"
        broken = False
        if isinstance(error, requests.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in text:
                why = "its certificate is not one that this host trusts"
                hint = "If it is your site's own: name the file of the site's CA in REQUESTS_CA_BUNDLE."
            else:
                why, hint = "it does not speak https", "If it is meant to speak plain http: --no-https."
        elif isinstance(error, requests.exceptions.ProxyError):
            why = "the proxy that HTTPS_PROXY or HTTP_PROXY names does not let us through"
            hint = "Is the proxy right? NO_PROXY names the hosts that are reached without it."
        elif "NameResolution" in text or "Name or service not known" in text:
            why = "no such host"
        elif isinstance(error, requests.exceptions.InvalidURL | urllib3.exceptions.LocationParseError):
            why = "that is no host name"
        elif isinstance(error, requests.exceptions.Timeout):
            why, broken = "it does not answer", self._reached
        elif "NewConnectionError" in text:
            why, broken = "it refuses connections" if "refused" in text else "no way leads there", self._reached
        else:
            why, broken = "the connection broke", True
        return (Interrupted if broken else RegistryUnavailable)(f"cannot reach {host}: {why}", hint=hint)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even when told not to follow redirects, requests reads their bodies to the end and their addresses."""


class Blob:
    """A blob on its way, from `offset` on. Iterate, then close; or use it in a with statement."""

    def __init__(self, response: requests.Response, offset: int, host: str) -> None:
        self.offset, self._response, self._host = offset, response, host

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most 1 MiB. Interrupted, a RegistryUnavailable, where the connection breaks."""
        try:
            while data := self._response.raw.read(CHUNK):
                yield data
        except _BROKEN:
            raise Interrupted(f"{self._host}: the connection broke in the middle of a layer") from None


def fetch_blob(registry: Registry, repository: str, descriptor: Descriptor, sink: Sink) -> None:
    """Stream a blob into `sink`, resumed where the connection breaks; size and digest are right when this returns.

    Raises IntegrityError after the second time that the bytes were wrong, RegistryError, and what the sink raises.
    """
    what = f"{descriptor.digest} of {registry.host}/{repository}"
    verifier = Verifier(descriptor.digest, descriptor.size, what)
    wrong = broken = best = 0
    while True:
        blob = registry.blob(repository, descriptor, verifier.seen)
        try:
            with blob:
                if blob.offset != verifier.seen:
                    sink.restart()
                    verifier = Verifier(descriptor.digest, descriptor.size, what)
                try:
                    for data in blob:
                        verifier.update(data)
                        sink.write(data)
                except Interrupted:
                    if verifier.seen != descriptor.size:
                        raise
            verifier.finish()
            return
        except Interrupted:
            # Counted only while nothing is won, so that a long download survives many cuts, and an endless one ends.
            broken = broken + 1 if verifier.seen < best + CHUNK else 1
            best = max(best, verifier.seen)
            if broken == BLOB_TRIES:
                raise RegistryUnavailable(
                    f"{what}: only {verifier.seen} of {descriptor.size} bytes came, in {BLOB_TRIES} tries at the rest",
                    hint="Try again later.",
                ) from None
            time.sleep(PAUSE * 2 ** (broken - 1) * random.uniform(0.5, 1.5))
        except IntegrityError as error:
            wrong += 1
            if wrong == 2:
                raise IntegrityError(
                    error.message, hint="The registry, or a proxy on the way, alters it. Ask whoever runs it."
                ) from None
            sink.restart()
            verifier = Verifier(descriptor.digest, descriptor.size, what)


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _dismiss(response: requests.Response) -> None:
    """Close an answer whose body nobody wants; a short one is read, so that its connection can serve again."""
    with response:
        try:
            response.raw.read(MAX_WORDS)
        except _BROKEN:
            pass
