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
    sudo_user: str = ""  # whom root was by sudo

    @property
    def name(self) -> str:
        return f"{canonical_registry(self.host)}/{self.repository}".rstrip("/")

    @property
    def account(self) -> str:
        """Who is counted: the account's name, "" for none, which means the address."""
        return (self.credentials.username or "<token>") if self.credentials else ""


def words(body: bytes, credentials: Credentials | None, sent: str = "") -> str:
    """The registry's own words in an error's body, on one line, without control characters; "" for none.

    Without secrets, too: those of the credentials, and what was `sent` to prove them, such as a token.
    """
    import json

    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        text = body[:1000].decode("utf-8", "replace").strip()
        # a page made for people says nothing here
        return "" if text.startswith("<") else _clean(text, credentials, sent)
    if not isinstance(answer, dict):
        return ""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else answer
    if not isinstance(first, dict):
        return _clean(str(first), credentials, sent)
    code = first.get("code")
    said = first.get("message") or first.get("details") or first.get("error") or ""
    return _clean(f"{str(code).lower()}: {said}".strip(": ") if isinstance(code, str) else str(said), credentials, sent)


def _clean(text: str, credentials: Credentials | None, sent: str) -> str:
    secrets = [sent]
    if credentials is not None:
        secrets += [credentials.basic, credentials.password, credentials.identity_token]
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    text = " ".join(text.split())
    return "".join(character for character in text if character.isprintable())[:300].rstrip(".")


def to_error(
    status: int, headers: Mapping[str, str], said: str, question: Question, seen: RateLimit | None
) -> HpccError:
    """The error for an answer with this status and these `words`; `seen` is the quota that the registry last told."""
    name, host = question.name, question.host
    colon = f": {said}" if said else ""
    # Amazon answers 400 to a token of theirs that is over; the code is that of the distribution specification.
    if status in (401, 403) or (status == 400 and said.startswith(("denied", "unauthorized"))):
        said = said or ("unauthorized: authentication required" if status == 401 else "denied: access is denied")
        return AccessDenied(f"{name}: {said}", hint=_login_hint(question))
    if status == 404:
        return ImageNotFound(
            f"{name}: there is no {question.what}" + (f" ({said})" if said else ""),
            hint=(
                "The image was pushed incompletely, or was deleted meanwhile."
                if question.what.startswith("layer")
                else "Is the name spelled right, does the tag exist, and is there a registry at that host?"
            ),
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
    registry = canonical_registry(question.host)
    hint = (
        "Asked without an account. Is the name right? Many registries answer so for what does not exist. "
        f"If it is private: `hpcc registry login {registry}`, or HPCC_DOCKER_USERNAME and HPCC_DOCKER_PASSWORD."
    )
    if question.sudo_user:
        hint += f" Root has other logins than {question.sudo_user}: `sudo -E`, or `sudo hpcc registry login`."
    return hint


def _rate_limited(headers: Mapping[str, str], said: str, question: Question, seen: RateLimit | None) -> RateLimited:
    wait = find_retry_after(headers, said, time.time())
    registry = canonical_registry(question.host)
    return RateLimited(
        f"{registry} refuses more requests for now (429): {said or 'too many requests'}."
        + describe_quota(seen, question.account),
        hint=ways_out(registry, question.account, wait, seen),
        account=question.account,
        wait=wait,
        words=said or "too many requests",
    )


def describe_quota(seen: RateLimit | None, account: str) -> str:
    """What is known of the quota, and who is counted, as a sentence behind another; "" where nothing is known."""
    if seen is None:
        return ""
    who = f"asked as {account}" if account else "asked without an account: all behind one address are counted together"
    return f" Its quota: {seen}, {who}."


def ways_out(registry: str, account: str, wait: float | None, seen: RateLimit | None) -> str:
    """What to do about a quota that is spent: three ways. `wait`: seconds, where the registry names them."""
    login = "use an account with a larger quota" if account else f"log in (hpcc registry login {registry})"
    if wait is not None:
        until = f"wait until {clock(time.time() + wait)}"
    elif seen is not None and seen.window:
        until = f"wait, until {clock(time.time() + seen.window)} at most ({seen.window / 3600:g} h)"
    else:
        until = "wait"
    return (
        f"Three ways out: {login}; use a mirror (the setting `mirrors`); or {until}. "
        f"`hpcc limits {registry}` tells how it stands, at no cost."
    )


def clock(when: float) -> str:
    """A time of day that people can wait for; with the date where that is another day."""
    now, then = time.localtime(), time.localtime(when)
    return time.strftime("%H:%M:%S" if now[:3] == then[:3] else "%Y-%m-%d %H:%M", then)
