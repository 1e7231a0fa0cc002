"""HTTP to one registry and to where it sends us, with patience: redirects, more tries, and an error's own words."""

import functools
import random
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import SplitResult

from hpcc.errors import RegistryError, RegistryUnavailable
from hpcc.registry.addresses import join, origin, split
from hpcc.registry.answers import Question, to_error, words
from hpcc.registry.connections import (
    BROKEN,
    Interrupted,
    Response,
    Session,
    dismiss,
    explain,
    make_session,
    read_some,
    trusting,
    watch,
)
from hpcc.registry.limits import RateLimit, find_retry_after, parse_rate_limit

CHUNK = 1 << 20
MAX_WORDS = 64 << 10  # of an error's body that is read
MAX_REDIRECTS = 5
TRIES = 4  # at a request that failed for a reason that passes
PAUSE = 0.3  # seconds before the second try; doubled each time, with jitter
LONGEST_WAIT = 10.0  # seconds that a registry may ask us to wait without getting an error out of it
FIRST_ANSWER = 10.0  # seconds for the first answer of a host of which nobody knows whether it answers at all
_REDIRECTS = frozenset((301, 302, 303, 307, 308))


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
        self._scheme, self._timeout, self._ca_files = scheme, timeout, ca_files
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._local = threading.local()
        self._sessions: list[Session] = []
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
        data: bytes | Iterable[bytes] | None = None,
        tries: int = TRIES,
    ) -> Response:
        """The answer, whatever its status but 429, after redirects and, where that helps, after more tries.

        `form` or `data` is the body; neither goes to where a redirect leads. Data in pieces has a length, and is
        iterated anew for each try. tries: 1 for what cannot be asked twice.
        Raises RateLimited, RegistryUnavailable, RegistryError. The caller closes the answer.
        """
        for attempt in range(tries):
            last = attempt == tries - 1
            pause = PAUSE * 2**attempt * random.uniform(0.5, 1.5)
            try:
                response = self._follow(method, url, headers, query, form if data is None else data, question.name)
            except Interrupted:
                if last:
                    raise
                time.sleep(pause)
                continue
            quota = parse_rate_limit(response.headers)
            if quota is not None:
                self.quotas[question.account] = quota
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
        try:
            with watch(response) as pace:
                while len(data) < limit and (piece := read_some(response, limit - len(data))):
                    data += piece
                    pace.count(len(piece))
            if not pace.fired:
                return bytes(data)
        except BROKEN:
            pass
        raise Interrupted(f"{name}: the connection broke in the middle of an answer")

    def words(self, response: Response, question: Question) -> str:
        """What the registry says in an error's body, without what we sent to prove who we are."""
        sent = str(response.request.headers.get("Authorization") or "").partition(" ")[2]
        try:
            return words(self.read(response, MAX_WORDS, question.name), question.credentials, sent)
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
        form: Mapping[str, str] | bytes | Iterable[bytes] | None,
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
        form: Mapping[str, str] | bytes | Iterable[bytes] | None,
    ) -> Response:
        connect, answer = self._timeout
        is_large = not isinstance(form, bytes | Mapping | None)  # it is stored before it is answered for
        try:
            response = self._session().request(
                method,
                url,
                headers=headers,
                params=query,
                data=form,
                timeout=(connect, answer if self._reached or is_large else min(answer, FIRST_ANSWER)),
                stream=True,
                allow_redirects=False,
            )
        except BROKEN as error:
            raise explain(error, url, reached=self._reached) from None
        self._reached = True
        return response

    def _session(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = make_session(self.host, self._scheme, self._context)
            with self._lock:
                self._sessions.append(session)
        return session

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        return trusting(self._ca_files)  # 15 ms, once for all threads

    def _speaks_https(self) -> bool:
        if self._reached:
            return True
        try:
            dismiss(self._exchange("GET", f"https://{self.host}/v2/", self._headers, None, None))
        except RegistryUnavailable as error:
            if not any(words in error.message for words in ("speak https", "refuses")):
                raise
            return False
        return True


class Blob:
    """A blob of `size` bytes on its way, from `offset` on. Iterate, then close; or use it in a with statement."""

    def __init__(self, response: Response, offset: int, size: int, host: str) -> None:
        self.offset, self._response, self._host = offset, response, host
        self._size = None if "Content-Length" in response.headers else size - offset

    def __enter__(self) -> "Blob":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most 1 MiB. Interrupted, a RegistryUnavailable, where the connection breaks, or hardly
        anything comes.
        """
        seen = 0
        try:
            with watch(self._response) as pace:
                while data := read_some(self._response, CHUNK):
                    seen += len(data)
                    pace.count(len(data))
                    yield data
        except BROKEN:
            raise Interrupted(f"{self._host}: the connection broke in the middle of a layer") from None
        if self._size is not None and seen < self._size:  # nobody said how long the answer is, and it ended early
            raise Interrupted(f"{self._host}: the connection broke in the middle of a layer")
