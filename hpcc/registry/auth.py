"""What a registry asks for before it answers: WWW-Authenticate, and the token that the Bearer scheme needs.

RFC 9110, 11.6.1 (challenges), and the distribution project's token authentication specification.

    Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull"
"""

from typing import NamedTuple

_TOKEN_CHARS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DEFAULT_EXPIRY = 60.0  # seconds, where the answer does not say


class Challenge(NamedTuple):
    """scheme and parameter names in lower case."""

    scheme: str
    parameters: dict[str, str]


class Token(NamedTuple):
    value: str
    expires: float  # by time.monotonic()


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
