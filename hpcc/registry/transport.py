"""HTTP to one registry and to where it sends us: the only module that imports requests.

All that the network can do wrong becomes one of hpcc's errors here. Time and memory are bounded: connections and
answers by timeouts, redirects and tries by counts, bodies by sizes and by the pace at which they come.
"""

import http.client
import http.cookiejar
import random
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

import requests
import requests.adapters
import urllib3
import urllib3.exceptions

from hpcc.errors import RegistryError, RegistryUnavailable, SettingsError
from hpcc.registry.addresses import join, origin, split
from hpcc.registry.answers import Question, to_error, words
from hpcc.registry.limits import RateLimit, find_retry_after, parse_rate_limit

CHUNK = 1 << 20
MAX_WORDS = 64 << 10  # of an error's body, or of a redirect's, that is read
MAX_REDIRECTS = 5
TRIES = 4  # at a request that failed for a reason that passes
PAUSE = 0.3  # seconds before the second try; doubled each time, with jitter
LONGEST_WAIT = 10.0  # seconds that a registry may ask us to wait without getting an error out of it
SLOWEST = (60.0, 64 << 10)  # a body that brings fewer bytes in so many seconds counts as broken off
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BROKEN = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


Response = requests.Response


class Interrupted(RegistryUnavailable):
    """A connection that stood has broken: worth another try at once."""


class Unreachable(RegistryUnavailable):
    """Nobody answers, or there is no way to the host: so it will be for a while."""


class Transport:
    """Sends requests to `host`. Safe to use from several threads, each of which has connections of its own.

    scheme: "https"; "http"; or "insecure", https whose certificate is not checked, or http where no https is spoken.
    timeout is for the connection and for each answer, in seconds. Proxies and REQUESTS_CA_BUNDLE come from the
    environment, as requests does it; ~/.netrc does not count. `ca_files` are trusted beside the system's certificates.
    """

    def __init__(
        self, host: str, *, scheme: str, user_agent: str, timeout: tuple[float, float], ca_files: tuple[str, ...] = ()
    ) -> None:
        self.host = host
        self.quotas: dict[str, RateLimit] = {}  # what was last said of the quota of an account, "" for none
        self.last_quota: RateLimit | None = None
        self._scheme, self._timeout, self._ca_files = scheme, timeout, ca_files
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()  # of the sessions
        self._scheme_lock = threading.Lock()
        self._reached = False  # only a registry that has answered once is asked again when nothing answers

    @property
    def base(self) -> str:
        """scheme://host, once it is known what the host speaks."""
        with self._scheme_lock:
            if self._scheme == "insecure" and not self._speaks_https():
                self._scheme = "http"
        return f"{'http' if self._scheme == 'http' else 'https'}://{self.host}"

    def close(self) -> None:
        """Close the connections. The transport can still be used; it makes new ones."""
        with self._lock:
            sessions, self._sessions, self._local = self._sessions, [], threading.local()
        for session in sessions:
            session.close()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        question: Question,
        *,
        query: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer, whatever its status but 429, after redirects and, where that helps, after more tries.

        Raises RateLimited, RegistryUnavailable, RegistryError. The caller closes the answer.
        """
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            pause = PAUSE * 2**attempt * random.uniform(0.5, 1.5)
            try:
                response = self._follow(method, url, headers, query, form, question.name)
            except Interrupted:
                if last:
                    raise
                time.sleep(pause)
                continue
            quota = parse_rate_limit(response.headers)
            if quota is not None:
                self.quotas[question.account] = self.last_quota = quota
            busy = response.status_code == 429
            if not busy and (last or response.status_code < 500):
                return response
            said = self.words(response, question)
            wait = find_retry_after(response.headers, said, time.time())
            response.close()
            # A quota that is spent does not come back in seconds, and Docker Hub names no time; Quay and GHCR do, GHCR
            # in a body, which a HEAD has not.
            hopeless = wait is None and (method != "HEAD" or quota is not None)
            if last or (busy and hopeless) or (wait or 0) > LONGEST_WAIT:
                seen = self.quotas.get(question.account)
                raise to_error(response.status_code, response.headers, said, question, seen)
            time.sleep(pause + (wait or 0))
        raise AssertionError("the last try returns or raises")

    def read(self, response: Response, limit: int, name: str) -> bytes:
        """At most `limit` bytes of a body. Interrupted, with the image's name, where it breaks off or hardly comes."""
        data = bytearray()
        pace = _Pace()
        try:
            while len(data) < limit and (piece := read_some(response, limit - len(data))):
                data += piece
                pace.count(len(piece))
        except _BROKEN:
            raise Interrupted(f"{name}: the connection broke in the middle of an answer") from None
        return bytes(data)

    def words(self, response: Response, question: Question) -> str:
        """What the registry says in an error's body."""
        try:
            return words(self.read(response, MAX_WORDS, question.name), question.credentials)
        except Interrupted:
            return ""

    def is_safe(self, parts: SplitResult) -> bool:
        """Whether hpcc goes to such an address from here: https, or http where the registry itself speaks that."""
        return parts.scheme in (("https", "http") if self._scheme == "http" else ("https",))

    # One exchange

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        name: str,
    ) -> Response:
        """One request and its redirects; Authorization goes to the origin (scheme, host, port) of `url` alone."""
        home, sent = origin(url), {**self._headers, **headers}
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(method, url, sent, query, form)
            if response.status_code not in _REDIRECTS or form is not None:  # a form has secrets, and goes nowhere else
                return response
            dismiss(response)
            url, query = join(url, response.headers.get("Location", "")), None
            parts = split(url)
            if parts is None or not self.is_safe(parts):
                where = f"{parts.scheme}://{parts.hostname or ''}" if parts else "something that is no address"
                raise RegistryError(f"{name}: the registry redirects to {where}, where hpcc does not go")
            if origin(url) != home:
                sent.pop("Authorization", None)
        raise RegistryError(f"{name}: the registry redirects more than {MAX_REDIRECTS} times")

    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
    ) -> Response:
        try:
            response = self._session().request(
                method,
                url,
                headers=headers,
                params=query,
                data=form,
                timeout=self._timeout,
                stream=True,
                allow_redirects=False,
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
            if self._scheme != "http":  # requests by itself knows certifi's authorities, and none of this system's
                context = _unchecked() if self._scheme == "insecure" else _trusting(self._ca_files)
                session.mount("https://", _Adapter(context))
            with self._lock:
                self._sessions.append(session)
        return session

    def _speaks_https(self) -> bool:
        if self._reached:
            return True
        try:
            dismiss(self._exchange("GET", f"https://{self.host}/v2/", self._headers, None, None))
        except RegistryUnavailable as error:
            if "certificate" in error.message or not any(s in error.message for s in ("speak https", "refuses")):
                raise
            return False
        return True

    def _unreachable(self, error: Exception, url: str) -> RegistryUnavailable:
        """What a failed connection means: Interrupted where another try may help."""
        parts, text = split(url), str(error)
        host = parts.netloc.rpartition("@")[2] if parts else self.host
        hint = "Is the name right, and is there a network (or a proxy) on this host?"
        broken, kind = False, RegistryUnavailable
        if isinstance(error, requests.exceptions.SSLError):
            if "CERTIFICATE_VERIFY_FAILED" in text:
                why = "its certificate is not one that this host trusts"
                hint = "If it is your site's own: name the file of its CA in HPCC_CA_FILE (or REQUESTS_CA_BUNDLE)."
            else:
                why, hint = "it does not speak https", "If it is meant to speak plain http: --no-https."
        elif isinstance(error, requests.exceptions.ProxyError):
            why = "the proxy that HTTPS_PROXY or HTTP_PROXY names does not let us through"
            hint = "Is the proxy right? NO_PROXY names the hosts that are reached without it."
        elif "NameResolution" in text or "Name or service not known" in text:
            why, kind = "no such host", Unreachable
        elif isinstance(error, requests.exceptions.InvalidURL | urllib3.exceptions.LocationParseError):
            why = "that is no host name"
        elif isinstance(error, requests.exceptions.Timeout):
            why, broken, kind = "it does not answer", self._reached, Unreachable
        elif "NewConnectionError" in text:
            why = "it refuses connections" if "refused" in text else "no way leads there"
            broken, kind = self._reached, Unreachable
        else:
            why, broken = "the connection broke", True
        return (Interrupted if broken else kind)(f"cannot reach {host}: {why}", hint=hint)


class Blob:
    """A blob on its way, from `offset` on. Iterate, then close; or use it in a with statement."""

    def __init__(self, response: Response, offset: int, host: str) -> None:
        self.offset, self._response, self._host = offset, response, host

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def __iter__(self) -> "Blob":
        self._pace = _Pace()
        return self

    def __next__(self) -> bytes:
        """A chunk of at most 1 MiB. Interrupted, a RegistryUnavailable, where the connection breaks."""
        try:
            data = read_some(self._response, CHUNK)
            self._pace.count(len(data))
        except _BROKEN:
            raise Interrupted(f"{self._host}: the connection broke in the middle of a layer") from None
        if not data:
            raise StopIteration
        return data


def read_some(response: Response, limit: int) -> bytes:
    """What is there of a body, at most `limit` bytes, b"" at its end: so that a trickle cannot hold us unnoticed."""
    raw: Any = response.raw
    return bytes((raw.read1 if hasattr(raw, "read1") else raw.read)(limit))


def dismiss(response: Response) -> None:
    """Close an answer whose body nobody wants; a short one is read, so that its connection can serve again."""
    with response:
        try:
            response.raw.read(MAX_WORDS)
        except _BROKEN:
            pass


class _Pace:
    """Notices a body that comes so slowly that somebody must be at fault."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def count(self, amount: int) -> None:
        """TimeoutError where too little came in the last while."""
        self._bytes += amount
        seconds, least = SLOWEST
        now = time.monotonic()
        if now - self._since > seconds:
            if self._bytes < least:
                raise TimeoutError("too slow")
            self._since, self._bytes = now, 0


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even when told not to follow redirects, requests reads their bodies to the end and their addresses."""


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections by an SSL context of our own, to which requests adds certifi's authorities, or the environment's."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        unchecked = self._context.verify_mode == ssl.CERT_NONE
        super().cert_verify(conn, url, False if unchecked else verify, cert)  # type: ignore[no-untyped-call]


def _unchecked() -> ssl.SSLContext:
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # whoever lists the host knows
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(files: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for file in files:
        try:
            context.load_verify_locations(file)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"{file}: no certificates can be read there: {error}", hint="It must be a file of PEM certificates."
            ) from None
    return context


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
