"""Connections to registries, whose time is bounded whatever the other side does; and what it means when they fail.

    look-up, connect   a few seconds for all addresses of a host together
    headers            SLOWEST[0] seconds for all of them; else the socket is shut down
    body               SLOWEST[1] bytes in each SLOWEST[0] seconds; else the same

A timeout of a socket alone bounds none of these: it begins anew with each byte.
"""

import http.client
import http.cookiejar
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions

from hpcc.errors import HpccError, RegistryError, RegistryUnavailable, SettingsError

SLOWEST = (60.0, 64 << 10)
MAX_DISMISSED = 64 << 10  # of a body that nobody wants
BROKEN = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)

Response = requests.Response
Session = requests.Session


class Interrupted(RegistryUnavailable):
    """A connection that stood has broken: worth another try at once."""


class Unreachable(RegistryUnavailable):
    """Nobody answers, or there is no way to the host: so it will be for a while."""


class Untrusted(RegistryError):
    """The other side could not prove who it is."""


def make_session(host: str, scheme: str, context: ssl.SSLContext) -> Session:
    """A session of one thread, without cookies, ~/.netrc and redirects of its own. For `scheme` see Transport.

    Only `host` itself may be "insecure"; for others `context` says whom to trust.
    """
    session = _Session()
    session.auth = _no_auth  # else requests looks for a ~/.netrc
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    # requests by itself knows certifi's authorities, and none of this system's
    session.mount("https://", _Adapter(context))
    session.mount("http://", _Adapter(None))
    if scheme == "insecure":
        session.mount(f"https://{host}/", _Adapter(_unchecked()))
    return session


class Watch:
    """Shuts a connection down when less comes of it than SLOWEST allows. To be used in a with statement."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._socket, self._bytes, self._over = sock, 0, False
        self.fired = False
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Watch":
        self._arm()
        return self

    def __exit__(self, *error: object) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def count(self, amount: int) -> None:
        """So many more bytes have come."""
        self._bytes += amount

    def _arm(self) -> None:
        self._timer = threading.Timer(SLOWEST[0], self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        if self._over:
            return
        if self._bytes >= SLOWEST[1]:
            self._bytes = 0
            self._arm()
        elif self._socket is not None:
            self.fired = True
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # whoever waits for it finds it closed
            except OSError:
                pass


def watch(response: Response) -> Watch:
    """A Watch over the body of an answer."""
    raw: Any = response.raw
    return Watch(getattr(raw, "hpcc_socket", None) or getattr(raw._original_response, "hpcc_socket", None))


def read_some(response: Response, limit: int) -> bytes:
    """What is there of a body, at most `limit` bytes, b"" at its end."""
    raw: Any = response.raw
    return bytes((raw.read1 if hasattr(raw, "read1") else raw.read)(limit))


def dismiss(response: Response) -> None:
    """Close an answer whose body nobody wants; a short one is read, so that its connection can serve again."""
    length = response.headers.get("Content-Length", "")
    with response:
        if length.isascii() and length.isdigit() and 0 < int(length[:9]) <= MAX_DISMISSED:
            end = time.monotonic() + 1
            try:
                while read_some(response, MAX_DISMISSED) and time.monotonic() < end:
                    pass
            except BROKEN:
                pass


def explain(error: Exception, url: str, *, reached: bool) -> HpccError:
    """What a failed exchange means: Interrupted where another try may help. reached: the host has answered before."""
    text, host = str(error), urlsplit(url).netloc.rpartition("@")[2]
    hint = "Is the name right, and is there a network (or a proxy) on this host?"
    kind: type[HpccError] = RegistryUnavailable
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why, kind = "its certificate is not one that this host trusts", Untrusted
            hint = "If it is your site's own: name the file of its CA in HPCC_CA_FILE (or REQUESTS_CA_BUNDLE)."
        else:
            why, hint = "it does not speak https", "If it is meant to speak plain http: --no-https."
    elif "CA certificate bundle" in text:
        return SettingsError(
            f"no certificates are at {text.rpartition(': ')[2]}", hint="REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names it."
        )
    elif isinstance(error, requests.exceptions.ProxyError):
        why = "the proxy that HTTPS_PROXY or HTTP_PROXY names does not let us through"
        hint = "Is the proxy right? NO_PROXY names the hosts that are reached without it."
    elif "NameResolution" in text or "Name or service not known" in text:
        why, kind = "no such host", Unreachable
    elif isinstance(error, requests.exceptions.InvalidURL | urllib3.exceptions.LocationParseError):
        why = "that is no host name"
    elif isinstance(error, requests.exceptions.Timeout):
        why, kind = "it does not answer", Interrupted if reached else Unreachable
    elif "NewConnectionError" in text:
        why = "it refuses connections" if "refused" in text else "no way leads there"
        kind = Interrupted if reached else Unreachable
    else:
        why, kind = "the connection broke", Interrupted
    return kind(f"cannot reach {host}: {why}", hint=hint)


class _Patience:
    """A connection that is made in time, and whose headers come in time."""

    _dns_host: str
    port: int
    timeout: Any
    sock: Any

    def _new_conn(self) -> Any:
        """Give all addresses of the host together the time that urllib3 gives to each."""
        name, seconds = self._dns_host, self.timeout
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return super()._new_conn()  # type: ignore[misc]  # which says what is wrong with the name
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        if len(addresses) < 2 or not isinstance(seconds, int | float):
            return super()._new_conn()  # type: ignore[misc]
        end = time.monotonic() + seconds
        try:
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                self._dns_host = address
                self.timeout = max(0.2, (end - time.monotonic()) / left)
                try:
                    return super()._new_conn()  # type: ignore[misc]
                except (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError):
                    if left == 1 or time.monotonic() > end:
                        raise
        finally:
            self._dns_host, self.timeout = name, seconds
        raise AssertionError

    def getresponse(self, *args: Any, **options: Any) -> Any:
        sock = self.sock
        with Watch(sock) as headers:
            response = super().getresponse(*args, **options)  # type: ignore[misc]
        if headers.fired:  # what came until then may look like all of them
            raise TimeoutError("the headers do not come")
        response.hpcc_socket = sock
        return response


class _HTTPConnection(_Patience, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_Patience, urllib3.connection.HTTPSConnection):
    pass


class _HTTPPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: even when told not to follow redirects, requests reads their bodies to the end and their addresses."""


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections of ours, by an SSL context of ours, to which requests adds certifi's authorities, or the
    environment's.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._options: dict[str, Any] = {} if context is None else {"ssl_context": context}
        self._unchecked = context is not None and context.verify_mode == ssl.CERT_NONE
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **{**options, **self._options})
        self._use_ours(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **{**options, **self._options})
        self._use_ours(manager)
        return manager

    def _use_ours(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, False if self._unchecked else verify, cert)  # type: ignore[no-untyped-call]


def _unchecked() -> ssl.SSLContext:
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # whoever lists the host knows
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's authorities takes 15 ms, for nothing here
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(files: tuple[str, ...]) -> ssl.SSLContext:
    """A context for any number of threads that trusts the system's authorities and those in `files`.

    SettingsError for certificates that cannot be read.
    """
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
