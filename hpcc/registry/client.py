"""A registry's read API: distribution specification 1.1, "Pull".

HEAD is free of Docker Hub's quota, a manifest GET is not; redirects of blobs go to storage that must not see our
Authorization.
"""

import threading
from collections.abc import Callable, Mapping

from hpcc.errors import (
    AccessDenied,
    ImageNotFound,
    IntegrityError,
    InvalidReference,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    SettingsError,
)
from hpcc.oci.digest import Digest, Verifier
from hpcc.oci.manifest import ACCEPT, Descriptor
from hpcc.records import NamedTuple
from hpcc.registry.addresses import origin, split
from hpcc.registry.answers import Question
from hpcc.registry.connections import Interrupted, Response, Unreachable, dismiss
from hpcc.registry.credentials import Credentials
from hpcc.registry.limits import RateLimit
from hpcc.registry.tokens import Authorisation
from hpcc.registry.transport import TRIES, Blob, Transport

MAX_MANIFEST = 4 << 20


class Resolved(NamedTuple):
    """What a tag or digest names now; `private`: only the user's credentials could see it."""

    descriptor: Descriptor
    private: bool


class Registry:
    """One registry. Safe to use from several threads; tokens are shared, and fetched once.

    host is the API's (`Reference.api_host`), with a port where one was given. credentials may be a function, which is
    called once, when an account is first needed: a helper that it asks must not hold up who pulls a public image. For
    scheme, timeout and ca_files see Transport; sudo_user: whom root was by sudo, for the hints of errors.
    """

    def __init__(
        self,
        host: str,
        *,
        scheme: str = "https",
        credentials: Credentials | Callable[[], Credentials | None] | None = None,
        user_agent: str = "hpcc",
        timeout: tuple[float, float] = (3.0, 30.0),
        ca_files: tuple[str, ...] = (),
        sudo_user: str = "",
    ) -> None:
        self.host = host
        self.problem: SettingsError | None = None  # why the account could not be found out
        self._credentials, self._sudo_user = credentials, sudo_user
        self._transport = Transport(host, scheme=scheme, user_agent=user_agent, timeout=timeout, ca_files=ca_files)
        self._authorisation = Authorisation(self._transport)
        self._account_lock = threading.Lock()  # of the credentials
        self._lock = threading.Lock()  # of what follows
        self._private: set[str] = set()  # repositories that only credentials could see
        self._public: set[str] = set()  # repositories that anybody can see
        self._refused = False  # the credentials are of no use, and the image is public
        self._kept: tuple[str, Digest, bytes] | None = None  # a manifest that `resolve` had to fetch

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The registry can still be used; it makes new ones."""
        self._transport.close()

    @property
    def credentials(self) -> Credentials | None:
        """The user's account. SettingsError, each time, where it cannot be found out."""
        with self._account_lock:
            if self.problem is not None:
                raise self.problem
            if callable(self._credentials):
                try:
                    self._credentials = self._credentials()
                except SettingsError as error:
                    self.problem = error
                    raise
            return self._credentials

    @property
    def account(self) -> Credentials | None:
        """The user's account, None also where it cannot be found out."""
        try:
            return self.credentials
        except SettingsError:
            return None

    @property
    def quotas(self) -> Mapping[str, RateLimit]:
        """What was last said of the quota of each account that asked, "" for none."""
        return self._transport.quotas

    # What one can ask for

    def resolve(self, repository: str, reference: str) -> Resolved:
        """What the tag or digest names, by HEAD. Without credentials first, so that public images are known as such.

        Where the anonymous quota is spent, credentials are used too; the image then counts as private, since nobody
        can tell. A registry that names no digest is asked by one GET, which counts; `manifest` then has it already.
        """
        try:
            found = self._resolve(repository, reference, anonymous=True)
        except (AccessDenied, ImageNotFound, RateLimited):
            if self.credentials is None:
                raise
        else:
            with self._lock:
                self._public.add(repository)
            return Resolved(found, False)
        self.use_login(repository)
        return Resolved(self._resolve(repository, reference, anonymous=False), True)

    def use_login(self, repository: str) -> None:
        """The repository is known to be private: ask with the account alone from here on."""
        with self._lock:
            self._private.add(repository)

    def _resolve(self, repository: str, reference: str, *, anonymous: bool) -> Descriptor:
        wanted = Digest.parse(reference) if ":" in reference else None
        try:
            headers = self.head(repository, reference, anonymous=anonymous)
        except (AccessDenied, ImageNotFound, RateLimited, RegistryUnavailable):
            raise
        except RegistryError:  # 405: it knows no HEAD, so nobody has said yet that it is there for us
            return self._resolve_by_get(repository, reference, anonymous=anonymous)
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
            return self._resolve_by_get(repository, reference, anonymous=anonymous)
        return Descriptor(media_type, found, size)

    def _resolve_by_get(self, repository: str, reference: str, *, anonymous: bool) -> Descriptor:
        data, media_type = self._get_manifest(repository, reference, anonymous=anonymous)
        found = Digest.parse(reference) if ":" in reference else Digest.of(data)
        if Digest.of(data, found.algorithm) != found:
            raise IntegrityError(f"{self.host}/{repository}: asked for {found}, the registry answers with another one")
        self._kept = (repository, found, data)
        return Descriptor(media_type, found, len(data))

    def head(self, repository: str, reference: str, *, anonymous: bool) -> Mapping[str, str]:
        """The headers of a HEAD of a manifest, which costs no quota. With the account unless `anonymous`."""
        path, what = f"/v2/{repository}/manifests/{reference}", f"image {reference}"
        login = None if anonymous else self.credentials
        question = self._question(repository, what, login)
        response = self._authorised("HEAD", path, {"Accept": ACCEPT}, question)
        dismiss(response)
        return response.headers

    def manifest(self, repository: str, digest: Digest) -> bytes:
        """The manifest or index with this digest, verified. IntegrityError after the second time that it is wrong."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[:2] == (repository, digest):
            return kept[2]
        for last in (False, True):
            try:
                data, _ = self._get_manifest(repository, str(digest), anonymous=False)
                verifier = Verifier(digest, None, f"manifest {digest} of {self.host}/{repository}")
                verifier.update(data)
                verifier.finish()
                return data
            except IntegrityError:
                if last:
                    raise
        raise AssertionError

    def _get_manifest(self, repository: str, reference: str, *, anonymous: bool) -> tuple[bytes, str]:
        path, what = f"/v2/{repository}/manifests/{reference}", f"image {reference}"
        with self._request("GET", path, repository, what, anonymous=anonymous, accept=ACCEPT) as response:
            data = self._transport.read(response, MAX_MANIFEST + 1, f"{self.host}/{repository}")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()[:255]
        if len(data) > MAX_MANIFEST:
            raise IntegrityError(f"{self.host}/{repository}: a manifest of more than {MAX_MANIFEST} bytes")
        return data, media_type

    def blob(self, repository: str, descriptor: Descriptor, offset: int = 0) -> Blob:
        """A blob from `offset` on; where the registry cannot resume, `Blob.offset` is 0. Not verified. To be closed."""
        path, what = f"/v2/{repository}/blobs/{descriptor.digest}", f"layer {descriptor.digest}"

        def ask(span: str) -> Response:
            return self._request("GET", path, repository, what, span=span)

        return self._open(ask, descriptor, offset, what)

    def foreign_blob(self, url: str, repository: str, descriptor: Descriptor, offset: int = 0) -> Blob:
        """As `blob`, of a layer that lies elsewhere, at one of its descriptor's `urls` (image specification,
        descriptor.md). Nobody's credentials go there.
        """
        what = f"layer {descriptor.digest} at {url[:200]}"
        parts = split(url)
        if parts is None or not self._transport.is_safe(parts):
            raise RegistryError(f"{self.host}/{repository} names {url[:200]!r} for a layer, where hpcc does not go")
        question = Question(self.host, repository, what, None)

        def ask(span: str) -> Response:
            response = self._transport.send("GET", url, {"Range": span} if span else {}, question)
            if response.status_code not in (200, 206, 416):
                raise self._authorisation.error(response, question)
            return response

        return self._open(ask, descriptor, offset, what)

    def _open(self, ask: Callable[[str], Response], descriptor: Descriptor, offset: int, what: str) -> Blob:
        """The rest of a blob where that can be had, else all of it."""
        if offset:
            try:
                resumed = self._resumed(ask(f"bytes={offset}-"), descriptor, offset)
            except (Interrupted, Unreachable, RateLimited):
                raise
            except RegistryError:  # something on the way refuses to hear of Range
                resumed = None
            if resumed is not None:
                return resumed
        response = ask("")
        if response.status_code != 200:
            response.close()
            raise RegistryError(f"{self.host} answers {response.status_code} to a request for all of {what}")
        return Blob(response, 0, descriptor.size, self.host)

    def _resumed(self, response: Response, descriptor: Descriptor, offset: int) -> Blob | None:
        """The rest of a blob, or all of it from a server that does not know Range; None for anything else."""
        if response.status_code == 200:
            return Blob(response, 0, descriptor.size, self.host)
        span = response.headers.get("Content-Range", "")
        fits = span.startswith(f"bytes {offset}-") and span.rpartition("/")[2] in ("*", str(descriptor.size))
        if response.status_code == 206 and fits:
            return Blob(response, offset, descriptor.size, self.host)
        response.close()
        return None

    def check_login(self, repository: str = "") -> None:
        """Have the registry look at the credentials: AccessDenied where it does not take them.

        By GET /v2/ ("Determining Support"), for which a token is fetched where the registry wants one. A registry
        that asks nobody for an account takes any.
        """
        question = self._question(repository, "login", self.credentials)
        dismiss(self._authorised("GET", "/v2/", {}, question))

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
    ) -> Response:
        """A good answer, 200 or 206 (416 too where `span` asks for a blob's end); everything else is an error.

        The account is used only where `resolve` or `use_login` has told whether the repository is private: what it
        gave might else be taken for what everybody can have.
        """
        headers = {"Accept": accept, **({"Range": span} if span else {})}
        private = repository in self._private
        anonymous = anonymous or self._refused or not (private or repository in self._public)
        login = None if anonymous else self.credentials if private else self.account
        try:
            return self._authorised(method, path, headers, self._question(repository, what, login))
        except AccessDenied as denied:
            # An old password must not stand before an image that everybody may have.
            if login is None or private:
                raise
            try:
                response = self._authorised(method, path, headers, self._question(repository, what, None))
            except (AccessDenied, ImageNotFound):
                raise denied from None
        self._refused = True
        return response

    @property
    def base(self) -> str:
        """scheme://host"""
        return self._transport.base

    def ask(
        self,
        method: str,
        where: str,
        headers: Mapping[str, str],
        question: Question,
        *,
        data: bytes | None = None,
        accept: tuple[int, ...],
    ) -> Response:
        """One request of an upload, to a path or an address at this host; an answer with another status is an error.

        A PATCH is not repeated where its connection breaks: Interrupted.
        """
        base = self._transport.base
        url = where if "://" in where else base + where
        tries = 1 if method == "PATCH" else TRIES
        used = self._authorisation.header(question, push=True)
        response = self._transport.send(method, url, {**headers, **used}, question, data=data, tries=tries)
        if response.status_code == 401 and self._authorisation.note(response.headers.get("WWW-Authenticate", "")):
            renewed = self._authorisation.header(question, used.get("Authorization", ""), push=True)
            if renewed and renewed != used:
                dismiss(response)
                response = self._transport.send(method, url, {**headers, **renewed}, question, data=data, tries=tries)
        if response.status_code in accept:
            return response
        raise self._authorisation.error(response, question)

    def _question(self, repository: str, what: str, login: Credentials | None) -> Question:
        return Question(self.host, repository, what, login, self._sudo_user)

    def _authorised(self, method: str, path: str, headers: Mapping[str, str], question: Question) -> Response:
        base = self._transport.base
        used = self._authorisation.header(question)
        response = self._transport.send(method, base + path, {**headers, **used}, question)
        at_home = origin(response.url) == origin(base)
        if (
            response.status_code == 401
            and at_home
            and self._authorisation.note(response.headers.get("WWW-Authenticate", ""))
        ):
            renewed = self._authorisation.header(question, used.get("Authorization", ""))
            if renewed and renewed != used:
                dismiss(response)
                response = self._transport.send(method, base + path, {**headers, **renewed}, question)
        if response.status_code in (200, 206) or (response.status_code == 416 and "Range" in headers):
            return response
        if method == "HEAD" and question.credentials is not None and response.status_code in (400, 401, 403):
            # An answer without a body says nothing of what is wrong with the account. What is refused costs no quota.
            dismiss(response)
            return self._authorised("GET", path, headers, question)
        raise self._authorisation.error(response, question)
