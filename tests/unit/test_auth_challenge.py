"""WWW-Authenticate, token answers, rate limit headers, Retry-After, and the words of errors."""

import json
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import AccessDenied, ImageNotFound, RateLimited, RegistryError, RegistryUnavailable
from hpcc.registry.answers import Question, to_error, words
from hpcc.registry.auth import Challenge, Token, choose, parse_challenges, token_query
from hpcc.registry.credentials import Credentials
from hpcc.registry.limits import RateLimit, find_retry_after, parse_rate_limit, parse_retry_after

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull,push"'


def test_bearer_with_commas_in_scope() -> None:
    assert parse_challenges(HUB) == (
        Challenge(
            "bearer",
            {
                "realm": "https://auth.docker.io/token",
                "service": "registry.docker.io",
                "scope": "repository:library/debian:pull,push",
            },
        ),
    )


@pytest.mark.parametrize(
    ("header", "schemes"),
    [
        ('Basic realm="a, b=c", Bearer realm="d"', ["basic", "bearer"]),
        ('Negotiate, Basic realm="x"', ["negotiate", "basic"]),
        ('Negotiate abc==, Basic realm="x"', ["negotiate", "basic"]),
        ('BEARER  realm = "x" , Service=y', ["bearer"]),
        ("Basic", ["basic"]),
        ("", []),
        (",,,", []),
        ('=x, Bearer realm="', ["x", "bearer"]),
    ],
)
def test_several_challenges(header: str, schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(header)] == schemes


def test_quotes_and_escapes() -> None:
    (found,) = parse_challenges(r'Bearer realm="a \"b\" \\c", REALM="second", service=plain')
    assert found.parameters == {"realm": r'a "b" \c', "service": "plain"}


def test_bearer_before_basic() -> None:
    chosen = choose(parse_challenges('Negotiate, Basic realm="x", Bearer realm="y"'))
    assert chosen is not None and chosen.scheme == "bearer"
    assert choose(parse_challenges("Negotiate")) is None


def test_token_query() -> None:
    (hub,) = parse_challenges(HUB)
    assert token_query(hub, "a/b") == {"service": "registry.docker.io", "scope": "repository:a/b:pull"}
    (ecr,) = parse_challenges('Bearer realm="https://x/",scope="aws"')
    assert token_query(ecr, "a/b") == {"scope": "aws"}


_name = st.from_regex(r"\A[a-z]{1,8}\Z")
_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@settings(deadline=None)  # other work on the machine must not count
@given(st.lists(st.tuples(_name, st.dictionaries(_name, _value, min_size=1, max_size=3)), max_size=3))
def test_challenges_round_trip(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    header = ", ".join(
        f"{scheme} " + ",".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in challenges
    )
    assert [tuple(challenge) for challenge in parse_challenges(header)] == challenges


@settings(deadline=None)  # other work on the machine must not count
@given(st.text(max_size=80))
def test_any_header_parses(header: str) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(header))


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"token": "t", "access_token": "a"}, "t"),
        ({"access_token": "a", "expires_in": 300}, "a"),
        ({"token": "", "access_token": "a", "expires_in": None}, "a"),
        ({"token": "t", "expires_in": "300"}, "t"),
        ({"token": "t", "expires_in": 1e400}, "t"),
    ],
)
def test_token(answer: dict[str, object], value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    token = Token.parse(json.dumps(answer).encode())
    assert token.value == value
    assert token.expires == 1000 + 0.9 * (300 if answer.get("expires_in") == 300 else 60)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b'{"token": "a b"}', b"[" * 99_999],
)
def test_no_token(data: bytes) -> None:
    with pytest.raises(ValueError):
        Token.parse(data)


def test_rate_limit() -> None:
    headers = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "20;w=21600",
        "docker-ratelimit-source": "1.2.3.4",
    }
    limit = parse_rate_limit(headers)
    assert limit == RateLimit(100, 20, 21600, "1.2.3.4")
    assert str(limit) == "20 of 100 pulls left in 6 h for 1.2.3.4"
    assert parse_rate_limit({}) is None
    assert parse_rate_limit({"ratelimit-limit": "600", "ratelimit-remaining": "599"}) == RateLimit(600, 599, 0, "")
    for odd in ("²;w=1", "1;w=²", "-1", "9" * 5000, "", "x;w=1"):
        assert parse_rate_limit({"ratelimit-limit": odd, "ratelimit-remaining": "1"}) is None


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        (str(int(NOW) + 60), 60.0),
        ("880.092µs", 880.092e-6),
        ("1h2m3.5s", 3723.5),
        ("250ms", 0.25),
        ("1.5", 1.5),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("inf", None),
        ("nan", None),
        ("1h2", None),
        ("1.2.3s", None),
        ("²", None),
        ("9" * 50, 366 * 86400.0),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    found = parse_retry_after(text, NOW)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


@settings(deadline=None)  # other work on the machine must not count
@given(st.text(max_size=60))
def test_any_retry_after(text: str) -> None:
    found = parse_retry_after(text, NOW)
    assert found is None or 0 <= found < 400 * 86400


def test_retry_after_in_the_words_of_ghcr() -> None:
    said = "toomanyrequests: retry-after: 880.092µs, allowed: 44000/minute"
    assert find_retry_after({}, said, NOW) == pytest.approx(880.092e-6)
    assert find_retry_after({"Retry-After": "7"}, said, NOW) == 7


LOGIN = Credentials("ann", "s3cret-w0rd")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}',
            "denied: requested access to the resource is denied",
        ),
        (b'{"details":"incorrect username or password"}', "incorrect username or password"),
        (b'{"errors":[{"code":"TOOMANYREQUESTS","message":"x\\u001b[31my\\nz."}]}', "toomanyrequests: x[31my z"),
        (b"Too Many Requests (HAP429).", "Too Many Requests (HAP429)"),
        (b"<html>no</html>", ""),
        (b"", ""),
        (b'{"errors": 3}', ""),
        (b'{"errors": ["odd"]}', "odd"),
        (b'{"errors": [{"code": 3, "message": {"a": 1}}]}', "{'a': 1}"),
        (b"[1]", ""),
        (b'{"message":"no user ann with s3cret-w0rd, ' + LOGIN.basic.encode() + b'"}', "no user ann with …, …"),
    ],
)
def test_words(body: bytes, said: str) -> None:
    assert words(body, LOGIN) == said


@settings(deadline=None)  # other work on the machine must not count
@given(st.binary(max_size=100))
def test_words_are_one_printable_line(body: bytes) -> None:
    assert words(body, None).isprintable()


ASKED = Question("registry-1.docker.io", "library/debian", "image 12", None)


def test_errors() -> None:
    denied = to_error(401, {}, "", ASKED, None)
    assert isinstance(denied, AccessDenied)
    assert denied.message == "docker.io/library/debian: unauthorized: authentication required"
    assert "hpcc registry login" in denied.hint and "HPCC_DOCKER_USERNAME" in denied.hint
    assert "sudo" not in denied.hint and "sudo -E" in to_error(401, {}, "", ASKED._replace(sudo_user="bob"), None).hint
    denied = to_error(403, {}, "denied: no", ASKED._replace(credentials=LOGIN), None)
    assert isinstance(denied, AccessDenied) and "'ann'" in denied.hint and "s3cret" not in repr(denied) + denied.hint
    missing = to_error(404, {}, "manifest unknown", ASKED, None)
    assert isinstance(missing, ImageNotFound)
    assert missing.message == "docker.io/library/debian: there is no image 12 (manifest unknown)"
    assert isinstance(to_error(502, {}, "", ASKED, None), RegistryUnavailable)
    assert type(to_error(418, {}, "", ASKED, None)) is RegistryError


def test_rate_limited_tells_quota_window_source_and_the_ways_out() -> None:
    error = to_error(429, {}, "toomanyrequests: You have reached", ASKED, RateLimit(100, 0, 21600, "1.2.3.4"))
    assert isinstance(error, RateLimited) and error.exit_code == 75
    for word in ("toomanyrequests: You have reached", "0 of 100 pulls", "6 h", "1.2.3.4", "without an account"):
        assert word in error.message
    for word in ("log in", "mirror", "(6 h)"):
        assert word in error.hint
    error = to_error(429, {"Retry-After": "30"}, "", ASKED._replace(credentials=LOGIN), None)
    assert "wait until" in error.hint and error.wait == 30 and "larger quota" in error.hint
