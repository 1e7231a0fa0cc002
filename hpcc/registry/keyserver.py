"""Key servers, by HKP (draft-gallagher-openpgp-hkp): keys by fingerprint, keys by words, and keys sent there."""

from urllib.parse import unquote

from hpcc.errors import ImageNotFound, RegistryError, UsageError
from hpcc.records import NamedTuple
from hpcc.registry.addresses import split
from hpcc.registry.answers import Question
from hpcc.registry.connections import Response, dismiss
from hpcc.registry.transport import Transport

DEFAULT = "https://keys.openpgp.org"
"""Apptainer's."""

MAX_ANSWER = 4 << 20
MOST_FOUND = 100


class Listed(NamedTuple):
    """A key that a server tells of; nobody has looked whether it is the one of whom it says."""

    fingerprint: str
    bits: str
    created: str
    users: tuple[str, ...]


class Keyserver:
    """One server. To be closed; or use it in a with statement. RegistryError where it refuses or does not answer."""

    def __init__(self, url: str, *, user_agent: str, ca_files: tuple[str, ...] = ()) -> None:
        parts = split(url)
        if parts is None or parts.scheme not in ("https", "http") or parts.query:
            raise UsageError(f"{url!r} is no address of a key server", hint="As in https://keys.openpgp.org.")
        self.host, self._path = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self._transport = Transport(
            self.host, scheme=parts.scheme, user_agent=user_agent, timeout=(5.0, 30.0), ca_files=ca_files
        )

    def __enter__(self) -> "Keyserver":
        return self

    def __exit__(self, *error: object) -> None:
        self._transport.close()

    def get(self, fingerprint: str) -> bytes:
        """The armored key of this fingerprint or id. ImageNotFound where there is none. Not verified in any way."""
        query = {"op": "get", "options": "mr", "search": f"0x{fingerprint}"}
        return self._read(self._ask(query, f"key {fingerprint}"))

    def search(self, words: str) -> tuple[Listed, ...]:
        """What the server has for a name, an address, or 0x and a fingerprint; at most 100."""
        try:
            data = self._read(self._ask({"op": "index", "options": "mr", "search": words}, f"key for {words!r}"))
        except ImageNotFound:
            return ()
        return _parse_index(data.decode("utf-8", "replace"))[:MOST_FOUND]

    def add(self, armored: bytes) -> None:
        """Have the server take a public key."""
        question = self._question("key to be added")
        form = {"keytext": armored.decode()}
        url = f"{self._transport.base}{self._path}/pks/add"
        response = self._transport.send("POST", url, {}, question, form=form)
        if response.status_code not in (200, 201, 202):
            raise self._refusal(response, "the key")
        dismiss(response)

    def _ask(self, query: dict[str, str], what: str) -> Response:
        url = f"{self._transport.base}{self._path}/pks/lookup"
        response = self._transport.send("GET", url, {}, self._question(what), query=query)
        if response.status_code == 404:
            dismiss(response)
            raise ImageNotFound(f"{self.host} has no {what}", hint="--url names another key server.")
        if response.status_code != 200:
            raise self._refusal(response, what)
        return response

    def _read(self, response: Response) -> bytes:
        with response:
            data = self._transport.read(response, MAX_ANSWER + 1, self.host)
        if len(data) > MAX_ANSWER:
            raise RegistryError(f"{self.host}: an answer of more than {MAX_ANSWER >> 20} MiB")
        return data

    def _question(self, what: str) -> Question:
        return Question(self.host, "", what, None)

    def _refusal(self, response: Response, what: str) -> RegistryError:
        said = " ".join(self._transport.words(response, self._question(what)).split())[:200]
        dismiss(response)
        return RegistryError(f"{self.host} answers {response.status_code} for {what}{f': {said}' if said else ''}")


def _parse_index(text: str) -> tuple[Listed, ...]:
    """The machine readable index: `pub:FINGERPRINT:ALGORITHM:BITS:CREATED:…`, and below it `uid:NAME:…`."""
    found: list[Listed] = []
    for line in text.splitlines():
        kind, *fields = line.split(":")
        fields += [""] * 4
        if kind == "pub":
            found.append(Listed(fields[0].upper(), fields[2], fields[3], ()))
        elif kind == "uid" and found:
            found[-1] = found[-1]._replace(users=(*found[-1].users, unquote(fields[0])))
    return tuple(found)
