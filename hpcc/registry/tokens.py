"""Authorisation at one registry: the header that its challenge asks for, and the token service behind it.

Basic                          RFC 7617
Bearer, GET                    distribution project, "Token Authentication Specification"
Bearer, POST refresh_token     the same, "OAuth2 Token Authentication": for identity tokens
/oauth2/exchange               Azure ACR: an Entra access token becomes a refresh token
"""

import json
import threading
import time
from typing import Any

from hpcc.errors import AccessDenied, HpccError, RegistryError
from hpcc.registry.addresses import origin, split
from hpcc.registry.answers import Question, to_error
from hpcc.registry.auth import Challenge, Token, choose, parse_challenges, token_query
from hpcc.registry.connections import dismiss
from hpcc.registry.credentials import Credentials
from hpcc.registry.transport import Transport

MAX_TOKEN = 1 << 20
_CLIENT = "hpcc"
_NO_POST = (404, 405)  # a token service that knows GET alone
_ACR_USER = "00000000-0000-0000-0000-000000000000"


class Authorisation:
    """Headers for questions, by what the registry demanded last. Tokens are shared by threads, and fetched once."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()  # of what follows
        self._challenge: Challenge | None = None
        self._tokens: dict[tuple[str, bool, bool], Token] = {}

    def note(self, challenges: str) -> bool:
        """Remember what a 401's WWW-Authenticate asks for; False where it is nothing that hpcc can do."""
        challenge = choose(parse_challenges(challenges))
        if challenge is not None:
            with self._lock:
                # NGC sends a client whose token is over to another service, which has none for guests.
                if self._challenge is None or challenge.parameters.get("error") != "invalid_token":
                    self._challenge = challenge
        return challenge is not None

    def header(self, question: Question, refused: str | None = None, *, push: bool = False) -> dict[str, str]:
        """The header for a question, by the registry's challenge; never the `refused` token again. push: to write.

        Threads wait here for the one that fetches the token. Raises AccessDenied and other RegistryErrors.
        """
        with self._lock:
            challenge, login = self._challenge, question.credentials
            if challenge is not None and challenge.scheme == "basic" and login is not None:
                if login.identity_token and not login.password:
                    login = Credentials(login.username, login.identity_token)
                return {"Authorization": f"Basic {login.basic}"}
            if challenge is None or challenge.scheme != "bearer":
                return {}
            key = (question.repository, login is None, push)
            token = self._tokens.get(key)
            if token is None or token.expires < time.monotonic() or refused == f"Bearer {token.value}":
                token = self._tokens[key] = self._fetch(challenge, question, push=push)
            return {"Authorization": f"Bearer {token.value}"}

    def _fetch(self, challenge: Challenge, question: Question, *, push: bool = False) -> Token:
        """Ask the token service that the challenge names, which may be at another host."""
        realm = challenge.parameters.get("realm", "")
        parts = split(realm)
        host = self._transport.host
        if parts is None or not self._transport.is_safe(parts):
            raise RegistryError(
                f"{host} sends us for a token to {realm[:100]!r}, which is no https address",
                hint="hpcc gives no password to plain http, unless the registry itself is talked to so (--no-https).",
            )
        query = token_query(challenge, question.repository, push=push)
        service = question._replace(what=f"token at {parts.hostname}")
        login = question.credentials
        if login is not None and login.identity_token:
            answer = self._post(realm, {**query, **_refresh(login.identity_token)}, service, _NO_POST)
            if answer is not None:
                return self._token(answer, service)
            login = Credentials(login.username or "<token>", login.identity_token)
        try:
            return self._token(self._get(realm, query, login, service), service)
        except AccessDenied:
            if login is None or login.username != _ACR_USER or not login.password:
                raise
        refresh = self._exchange(realm, query.get("service", host), login.password, service)
        service = service._replace(credentials=Credentials(login.username, login.password, refresh))
        return self._token(self._post(realm, {**query, **_refresh(refresh)}, service) or b"", service)

    def _get(self, realm: str, query: dict[str, str], login: Credentials | None, question: Question) -> bytes:
        headers = {"Authorization": f"Basic {login.basic}"} if login else {}
        with self._transport.send("GET", realm, headers, question, query=query) as response:
            if response.status_code == 404:
                raise RegistryError(
                    f"{question.host} sends us for a {question.what}, which has none (404)",
                    hint="Whoever runs the registry should look at the realm that it names.",
                )
            if response.status_code != 200:
                raise self.error(response, question)
            return self._transport.read(response, MAX_TOKEN, question.name)

    def _post(self, url: str, form: dict[str, str], question: Question, missing: tuple[int, ...] = ()) -> bytes | None:
        """The answer to a form; None for a status in `missing`."""
        with self._transport.send("POST", url, {}, question, form=form) as response:
            if response.status_code in missing:
                return None
            if response.status_code != 200:
                status = 401 if response.status_code == 400 else response.status_code  # RFC 6749, 5.2: invalid_grant
                raise self.error(response, question, status)
            return self._transport.read(response, MAX_TOKEN, question.name)

    def _exchange(self, realm: str, service: str, access_token: str, question: Question) -> str:
        """A refresh token of Azure ACR for an Entra access token."""
        scheme, host, port = origin(realm)
        form = {"grant_type": "access_token", "service": service, "access_token": access_token}
        answer = self._post(f"{scheme}://{host}:{port}/oauth2/exchange", form, question)
        try:
            document: Any = json.loads(answer or b"")
            return str(document["refresh_token"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RegistryError(f"{host} answered without a refresh token for {question.name}") from None

    def _token(self, answer: bytes, question: Question) -> Token:
        try:
            return Token.parse(answer)
        except ValueError:
            where = question.what.removeprefix("token at ")
            raise RegistryError(
                f"{where} answered without a token for {question.name}",
                hint="Does a token service answer there, or a proxy or login page?",
            ) from None

    def error(self, response: Any, question: Question, status: int | None = None) -> HpccError:
        """What a bad answer means; the answer is closed."""
        said = self._transport.words(response, question)
        dismiss(response)
        seen = self._transport.quotas.get(question.account)
        return to_error(status or response.status_code, response.headers, said, question, seen)


def _refresh(token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "client_id": _CLIENT, "refresh_token": token}
