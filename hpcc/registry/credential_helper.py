"""Ask one of Docker's credential helpers for an account.

    docker-credential-NAME get      the registry on stdin, and on stdout
    {"ServerURL": "quay.io", "Username": "ann", "Secret": "…"}

The protocol is that of docker/docker-credential-helpers. A helper is somebody else's program: it may hang, or say
anything. What it says is in no message, since it may be a secret.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from hpcc.errors import SettingsError
from hpcc.records import NamedTuple
from hpcc.registry.account import Credentials

TIMEOUT = 20.0  # seconds; a helper may ask a service, or a person to open a keychain
MAX_ANSWER = 256 << 10  # bytes; the longest tokens that are seen have 4 KiB
NOT_FOUND = b"credentials not found in native keychain"
TOKEN_USERNAME = "<token>"  # noqa: S105 - then the secret is an identity token
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Helper(NamedTuple):
    """A helper by the name that `file` gives it, to be asked for `key`, which is how Docker spells the registry."""

    name: str
    key: str
    file: str

    @property
    def program(self) -> str:
        return f"docker-credential-{self.name}"

    def error(self, what: str, hint: str = "") -> SettingsError:
        hint = hint or f"Try it: `printf {self.key} | {self.program} get`; or take it out of that file."
        return SettingsError(f"{self.program}, which {self.file} names for {self.key}, {what}", hint=hint)


def ask_helper(helper: Helper, environ: Mapping[str, str]) -> Credentials | None:
    """The account that the helper has for its registry; None where it says that it has none.

    The helper is looked for on the PATH of `environ`, gets `environ`, no terminal and TIMEOUT seconds; then it and all
    that it started are killed. SettingsError for a helper that is missing, hangs, fails, or answers with anything else.
    """
    if not helper.name or not _NAME.issuperset(helper.name):  # a slash would make another program of it
        raise SettingsError(
            f"{helper.file} names the credential helper {helper.name[:60]!r} for {helper.key}, which is no plain name",
            hint="A name X stands for the program docker-credential-X on PATH; letters, digits, '.', '_' and '-'.",
        )
    places = [place for place in environ.get("PATH", os.defpath).split(":") if place.startswith("/")]
    program = shutil.which(helper.program, path=":".join(places))
    if program is None:
        raise helper.error(
            "is not on PATH", "Install it, or take it out of that file and log in by hpcc registry login."
        )
    status, answer = _run(program, helper, environ)
    if status != 0:
        if answer.strip() == NOT_FOUND:
            return None
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        raise helper.error(how)
    return _parse(answer, helper)


def _run(program: str, helper: Helper, environ: Mapping[str, str]) -> tuple[int, bytes]:
    """(exit status, stdout) of `program get`, both bounded."""
    try:
        process = subprocess.Popen(
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            bufsize=0,
            start_new_session=True,  # a group to kill; and without a terminal it fails, where else it would stop to ask
        )
    except OSError as error:
        raise helper.error(f"cannot be started: {error.strerror}") from None
    deadline = time.monotonic() + TIMEOUT
    try:
        with process:
            try:
                _send(process, helper.key.encode())
                answer = _receive(process, deadline, helper)
                return process.wait(max(deadline - time.monotonic(), 0)), answer
            except BaseException:  # also of an interrupt: nothing that was started may stay
                _kill(process)
                raise
    except subprocess.TimeoutExpired:
        raise helper.error(f"did not answer within {TIMEOUT:g} s") from None


def _send(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(data)  # a pipe holds more than any name of a registry
        process.stdin.close()
    except BrokenPipeError:  # it does not want to know, and its answer tells
        pass


def _receive(process: "subprocess.Popen[bytes]", deadline: float, helper: Helper) -> bytes:
    """All of stdout. TimeoutExpired where it stays open; SettingsError where it is too much."""
    assert process.stdout is not None
    answer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise subprocess.TimeoutExpired(helper.program, TIMEOUT)
            data = process.stdout.read(64 << 10)
            if not data:
                return answer
            answer += data
            if len(answer) > MAX_ANSWER:
                raise helper.error(f"answered with more than {MAX_ANSWER >> 10} KiB")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # all of it has ended already
        pass
    process.wait()


def _parse(data: bytes, helper: Helper) -> Credentials | None:
    try:
        answer: Any = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    username, secret = (answer.get("Username"), answer.get("Secret")) if isinstance(answer, dict) else (None, None)
    if not isinstance(username, str) or not isinstance(secret, str):
        raise helper.error("answered with something that is no account")
    if not secret:  # as some say that they have none
        return None
    return Credentials(username, "", secret) if username == TOKEN_USERNAME else Credentials(username, secret)
