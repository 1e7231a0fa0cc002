"""What a registry asks for before it answers: WWW-Authenticate, and the token that the Bearer scheme needs.

RFC 9110, 11.6.1 (challenges), and the distribution project's token authentication specification.

    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull"
"""

import time
from collections.abc import Sequence
from typing import Any

from hpcc.records import NamedTuple

_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DEFAULT_EXPIRY = 60.0  # seconds, where the answer does not say
_LONGEST_EXPIRY = 86400.0


class Challenge(NamedTuple):
    """scheme and parameter names in lower case."""

    scheme: str
    parameters: dict[str, str]


class Token(NamedTuple):
    """What a token service gave; `expires` is by time.monotonic()."""

    value: str
    expires: float

    @classmethod
    def parse(cls, data: bytes) -> "Token":
        """A token service's answer, {"token" or "access_token", "expires_in"}; ValueError where it is none."""
        import json

        try:
            answer: Any = json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        value = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("no token")
        lifetime = answer.get("expires_in")
        if not isinstance(lifetime, int | float) or not 0 < lifetime < _LONGEST_EXPIRY:
            lifetime = _DEFAULT_EXPIRY
        return cls(value, time.monotonic() + lifetime * 0.9)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of one or more WWW-Authenticate headers joined by commas; what does not parse is left out."""
    found: list[Challenge] = []
    at = 0
    while at < len(header):
        while at < len(header) and header[at] in " \t,":
            at += 1
        word, at = _token(header, at)
        if not word:
            at += 1
            continue
        after = _skip(header, at)
        if after < len(header) and header[after] == "=" and found:
            value, at = _value(header, _skip(header, after + 1))
            found[-1].parameters.setdefault(word.lower(), value)
        elif after == len(header) or header[after] != "=":
            found.append(Challenge(word.lower(), {}))
            at = after
        else:
            at = after + 1
    return tuple(found)


def choose(challenges: Sequence[Challenge]) -> Challenge | None:
    """The challenge to answer: Bearer before Basic; None where the registry takes neither."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def token_query(challenge: Challenge, repository: str, *, push: bool = False) -> dict[str, str]:
    """The query that asks for a token to pull from `repository`, or to push to it too."""
    scope = challenge.parameters.get("scope", "")
    service = challenge.parameters.get("service")
    query = {"service": service} if service else {}
    if not repository:  # a login: Docker asks so too, and an empty name is none
        return query
    if not scope or scope.startswith("repository:"):  # of the repository that was asked for first; others say "aws"
        scope = f"repository:{repository}:pull{',push' if push else ''}"
    return {**query, "scope": scope}


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t":
        at += 1
    return at


def _token(text: str, at: int) -> tuple[str, int]:
    start = at
    while at < len(text) and text[at] in _TOKEN_CHARS:
        at += 1
    return text[start:at], at


def _value(text: str, at: int) -> tuple[str, int]:
    """A token or a quoted string; a quoted one may hold commas."""
    if at >= len(text) or text[at] != '"':
        return _token(text, at)
    value, at = "", at + 1
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        value += text[at]
        at += 1
    return value, at + 1
