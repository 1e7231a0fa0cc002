"""What a registry's answer means when it is no: one of hpcc's errors, with the registry's own words. Pure.

{"errors": [{"code": "DENIED", "message": "requested access is denied"}]}   distribution specification, "Error Codes"
{"details": "incorrect username or password"}                               Docker Hub's token service
"""

import time
from collections.abc import Mapping
from typing import Any

from hpcc.errors import AccessDenied, HpccError, ImageNotFound, RateLimited, RegistryError, RegistryUnavailable
from hpcc.oci.reference import canonical_registry
from hpcc.records import NamedTuple
from hpcc.registry.credentials import Credentials
from hpcc.registry.limits import RateLimit, find_retry_after


class Question(NamedTuple):
    """What was asked, of whom, and as whom; for the texts of errors."""

    host: str
    repository: str
    what: str  # "image 12", "layer sha256:…", "token"
    credentials: Credentials | None

    @property
    def name(self) -> str:
        return f"{canonical_registry(self.host)}/{self.repository}"


def words(body: bytes, credentials: Credentials | None) -> str:
    """The registry's own words in an error's body, on one line, without control characters and secrets; "" for none."""
    import json

    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        text = body[:1000].decode("utf-8", "replace").strip()
        return "" if text.startswith("<") else _clean(text, credentials)  # a page made for people says nothing here
    if not isinstance(answer, dict):
        return ""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else answer
    if not isinstance(first, dict):
        return _clean(str(first), credentials)
    code = first.get("code")
    said = first.get("message") or first.get("details") or first.get("error") or ""
    return _clean(f"{str(code).lower()}: {said}".strip(": ") if isinstance(code, str) else str(said), credentials)


def _clean(text: str, credentials: Credentials | None) -> str:
    if credentials is not None and credentials.password:
        text = text.replace(credentials.password, "…").replace(credentials.basic, "…")
    text = " ".join(text.split())
    return "".join(character for character in text if character.isprintable())[:300].rstrip(".")


def to_error(
    status: int, headers: Mapping[str, str], said: str, question: Question, seen: RateLimit | None
) -> HpccError:
    """The error for an answer with this status and these `words`; `seen` is the quota that the registry last told."""
    name, host = question.name, question.host
    colon = f": {said}" if said else ""
    if status in (401, 403):
        said = said or ("unauthorized: authentication required" if status == 401 else "denied: access is denied")
        return AccessDenied(f"{name}: {said}", hint=_login_hint(question))
    if status == 404:
        return ImageNotFound(
            f"{name}: there is no {question.what}" + (f" ({said})" if said else ""),
            hint="Is the name spelled right, does the tag exist, and is there a registry at that host?",
        )
    if status == 429:
        return _rate_limited(headers, said, question, seen)
    if status >= 500:
        return RegistryUnavailable(
            f"{host} answers {status} when asked for {question.what} of {name}{colon}", hint="Try again later."
        )
    return RegistryError(f"{host} answers {status} when asked for {question.what} of {name}{colon}")


def _login_hint(question: Question) -> str:
    if question.credentials is not None:
        return (
            f"Asked as {question.credentials.username!r}. Is the password or token still good, may this account "
            "see it, and is the name right?"
        )
    return (
        "Asked without an account. Is the name right? Many registries answer so for what does not exist. "
        "If it is private: `docker login`, or HPCC_DOCKER_USERNAME and HPCC_DOCKER_PASSWORD."
    )


def _rate_limited(headers: Mapping[str, str], said: str, question: Question, seen: RateLimit | None) -> RateLimited:
    wait = find_retry_after(headers, said, time.time())
    if wait is not None:
        until = f"wait {max(1, round(wait))} s" if wait < 600 else f"wait {wait / 3600:.1f} h"
    elif seen is not None and seen.window:
        until = f"wait, {seen.window / 3600:g} h at most"
    else:
        until = "wait"
    account = question.credentials.username if question.credentials else ""
    login = "use an account with a larger quota" if account else "log in (accounts have a quota of their own)"
    quota = f" Its quota: {seen}, asked {'as ' + account if account else 'without an account'}." if seen else ""
    return RateLimited(
        f"{question.host} refuses more requests for now (429): {said or 'too many requests'}.{quota}",
        hint=f"Three ways out: {login}; name a mirror of it in the reference; or {until}.",
    )
