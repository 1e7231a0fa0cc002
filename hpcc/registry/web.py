"""A file at a URL: fetched once, gone on with where an earlier try ended, and asked for again by what it was.

GET                                   200, ETag or Last-Modified, Content-Length
GET  Range: bytes=N-  If-Range: ETag  206, the rest; 200, all of it, where it has changed or the server knows no ranges
GET  If-None-Match: ETag              304, it has not changed                           RFC 9110
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

from hpcc.errors import HpccError, IntegrityError, PolicyError, RegistryError, RegistryUnavailable, UsageError
from hpcc.oci.digest import Digest
from hpcc.oci.reference import covers
from hpcc.records import NamedTuple
from hpcc.registry import transport
from hpcc.registry.addresses import split
from hpcc.registry.answers import Question, to_error
from hpcc.registry.connections import Interrupted, Response, dismiss
from hpcc.registry.transport import Blob, Transport

TRIES = 5  # each from where the last one broke off, while less than a chunk is won
MAX_DOCUMENT = 1 << 20
CHUNK = 1 << 20


class Fetched(NamedTuple):
    """A file, all of it. `etag` and `modified` are the server's words, "" for none."""

    digest: Digest
    size: int
    etag: str
    modified: str


class Opened(NamedTuple):
    """An answer with a body that was not read yet. size: -1 where the server does not say."""

    response: Response
    size: int
    etag: str
    modified: str

    @property
    def validator(self) -> str:
        """What If-Range takes: "" where nobody can tell whether the next answer is of the same file."""
        return self.modified if not self.etag or self.etag.startswith("W/") else self.etag


class Web:
    """One URL's host. `token` goes to it alone. To be closed, or used in a with statement."""

    def __init__(
        self, url: str, *, user_agent: str, ca_files: tuple[str, ...], insecure: tuple[str, ...] = (), token: str = ""
    ) -> None:
        """UsageError for what is no http or https URL, or has a password in it."""
        parts = split(url)
        if parts is None or parts.scheme not in ("http", "https"):
            raise UsageError(f"{url[:300]!r} is no http:// or https:// URL")
        if parts.username or parts.password:
            raise UsageError(
                f"a URL of {parts.hostname} has an account in it, which all users of this host could see",
                hint="Fetch such a file with curl and its --netrc, and name the file.",
            )
        self.host = parts.netloc.lower()
        scheme = "insecure" if parts.scheme == "https" and any(covers(each, self.host) for each in insecure) else ""
        self._transport = Transport(
            self.host, scheme=scheme or parts.scheme, user_agent=user_agent, timeout=(5.0, 60.0), ca_files=ca_files
        )
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def get(self, url: str, headers: Mapping[str, str], what: str, query: Mapping[str, str] | None = None) -> Response:
        """The answer, of status 200, 206, 304 or 416. RegistryError and its kinds, with the server's own words."""
        question = Question(self.host, "", what, None)
        response = self._transport.send("GET", url, {**self._headers, **headers}, question, query=query)
        if response.status_code in (200, 206, 304, 416):
            return response
        said = self._transport.words(response, question)
        response.close()
        raise to_error(response.status_code, response.headers, said, question, None)

    def document(self, url: str, what: str, query: Mapping[str, str] | None = None) -> bytes:
        """A small answer whole."""
        with self.get(url, {"Accept": "application/json"}, what, query) as response:
            data = self._transport.read(response, MAX_DOCUMENT + 1, self.host)
        if len(data) > MAX_DOCUMENT:
            raise RegistryError(f"{self.host}: an answer of more than {MAX_DOCUMENT} bytes")
        return data

    def open(
        self, url: str, what: str, *, etag: str = "", modified: str = "", query: Mapping[str, str] | None = None
    ) -> Opened | None:
        """The file from its first byte on; None where it is what it was when the server said these."""
        headers = {"If-None-Match": etag} if etag else {"If-Modified-Since": modified} if modified else {}
        response = self.get(url, headers, what, query)
        if response.status_code == 304:
            dismiss(response)
            return None
        if response.status_code != 200:
            response.close()
            raise RegistryError(f"{self.host} answers {response.status_code} when asked for all of {what}")
        length = response.headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else -1
        return Opened(response, size, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    def fetch(
        self,
        url: str,
        what: str,
        opened: Opened,
        file: BinaryIO,
        have: int,
        most: int,
        advance: Callable[[int], None],
        query: Mapping[str, str] | None = None,
    ) -> Fetched:
        """All of the file into `file`, of which an earlier try brought the first `have` bytes, of the same validator.

        PolicyError beyond `most` bytes (0: any). RegistryUnavailable where it does not come whole; what came stays.
        """
        response: Response | None = opened.response
        done, broken = have, 0
        advance(have)
        if have:
            opened.response.close()
            response = None
        while True:
            best = done
            try:
                if response is None:
                    response, done = self._resume(url, what, opened, done, query)
                    if done < best:
                        advance(done - best)
                        best = done
                        file.seek(0)
                        file.truncate()
                with Blob(response, done, max(opened.size, done), self.host) as blob:
                    for data in blob:
                        done += len(data)
                        if 0 < most < done:
                            raise _too_large(what, most)
                        file.write(data)
                        advance(len(data))
                break
            except Interrupted as error:
                broken = broken + 1 if done < best + CHUNK else 1
                if broken == TRIES:
                    raise RegistryUnavailable(
                        f"{what}: only {done} bytes came, in {TRIES} tries at the rest: {error.message}",
                        hint="Try again later: what came is kept." if opened.validator else "Try again later.",
                    ) from None
                time.sleep(transport.PAUSE * 2 ** (broken - 1) * random.uniform(0.5, 1.5))
                file.flush()
                response = None
        file.flush()
        if 0 <= opened.size != done:
            raise IntegrityError(f"{what}: {done} bytes came, and {opened.size} were announced", hint="Try again.")
        file.seek(0)
        digest = Digest("sha256", _hash(file))
        return Fetched(digest, done, opened.etag, opened.modified)

    def _resume(
        self, url: str, what: str, opened: Opened, done: int, query: Mapping[str, str] | None
    ) -> tuple[Response, int]:
        """The rest from `done` on, or all from 0 on where that cannot be had."""
        if done and opened.validator:
            headers = {"Range": f"bytes={done}-", "If-Range": opened.validator}
            response = self.get(url, headers, what, query)
            if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                return response, done
            response.close()
        again = self.open(url, what, query=query)
        if again is None or (again.size, again.validator) != (opened.size, opened.validator):
            raise RegistryUnavailable(f"{what} was changed while it was fetched", hint="Try again.")
        return again.response, 0


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while data := file.read(CHUNK):
        digest.update(data)
    return digest.hexdigest()


def _too_large(what: str, most: int) -> HpccError:
    return PolicyError(
        f"{what} has more than {most / 1e6:,.0f} MB, which this site allows",
        hint="Use a smaller image, or ask your administrator (the setting max_image).",
    )
