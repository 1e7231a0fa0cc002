"""Credential helpers: real programs on PATH, that answer, have nothing, hang, or say what nobody can use."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import SettingsError
from hpcc.registry import credential_helper
from hpcc.registry.credentials import Credentials, find_credentials

ANSWER = """printf '{"ServerURL": "%s", "Username": "ann", "Secret": "s3cret"}' "$key" """
NONE = "echo 'credentials not found in native keychain'; exit 1"

Find = Callable[..., Credentials | None]


class Desk:
    """A home with ~/.docker/config.json, and a PATH whose helpers the test writes."""

    def __init__(self, home: Path) -> None:
        self.home, self.bin, self.file = home, home / "bin", home / ".docker/config.json"
        self.bin.mkdir()
        self.file.parent.mkdir()
        self.environ = {"PATH": f"{self.bin}:/usr/bin:/bin", "LOG": str(home / "log")}

    def helper(self, name: str, script: str) -> None:
        """docker-credential-NAME; `$key` is what it was asked for, and $LOG a file that shows who ran with what."""
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f'#!/bin/sh\nkey=$(cat)\necho "{name} $* $key" >> "$LOG"\n{script}\n')
        path.chmod(0o755)

    def config(self, **document: Any) -> None:
        self.file.write_text(json.dumps(document))

    def find(self, host: str = "quay.io", repository: str = "group/name") -> Credentials | None:
        return find_credentials(host, self.environ, str(self.home), repository)

    @property
    def log(self) -> list[str]:
        path = Path(self.environ["LOG"])
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def refused(desk: Desk, host: str = "quay.io") -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        desk.find(host)
    error = caught.value
    assert str(desk.file) in error.message and error.hint
    assert "s3cret" not in f"{error.message} {error.hint}"
    return error


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_helper, "TIMEOUT", 0.5)


# -- which is asked, and how -----------------------------------------------------------------------------------------


def test_an_answer(desk: Desk) -> None:
    desk.helper("pass", ANSWER)
    desk.config(credHelpers={"quay.io": "pass"})
    assert desk.find() == Credentials("ann", "s3cret")
    assert desk.find("ghcr.io") is None
    assert desk.log == ["pass get quay.io"]


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_is_asked_for_by_dockers_key(desk: Desk, host: str, key: str) -> None:
    desk.helper("pass", ANSWER)
    desk.config(credHelpers={key: "pass"})
    assert desk.find(host) == Credentials("ann", "s3cret")
    assert desk.log == ["pass get https://index.docker.io/v1/"]


def test_a_port_belongs_to_the_key(desk: Desk) -> None:
    desk.helper("pass", ANSWER)
    desk.config(credsStore="pass")
    desk.find("registry.example:5000")
    assert desk.log == ["pass get registry.example:5000"]


def test_identity_token(desk: Desk) -> None:
    desk.helper("acr-env", """echo '{"ServerURL": "x", "Username": "<token>", "Secret": "s3cret"}'""")
    desk.config(credHelpers={"lab.azurecr.io": "acr-env"})
    found = desk.find("lab.azurecr.io")
    assert found == Credentials("<token>", "", "s3cret") and "s3cret" not in repr(found)


def test_order_within_a_file(desk: Desk) -> None:
    """The registry's own helper, the helper for all, then the file itself; each asked when those before have none."""
    auths = {"quay.io": {"auth": "ZmlsZTpw"}}  # file:p
    desk.helper("own", ANSWER)
    desk.helper("all", ANSWER.replace("ann", "all"))
    desk.config(auths=auths, credHelpers={"quay.io": "own"}, credsStore="all")
    assert desk.find() == Credentials("ann", "s3cret")
    assert desk.log == ["own get quay.io"]
    desk.helper("own", NONE)
    assert desk.find() == Credentials("all", "s3cret")
    desk.helper("all", NONE)
    assert desk.find() == Credentials("file", "p")
    assert desk.log[-2:] == ["own get quay.io", "all get quay.io"]
    desk.config(auths=auths, credHelpers={"quay.io": ""}, credsStore="all")  # as Docker: none for this registry
    assert desk.find() == Credentials("file", "p") and len(desk.log) == 5


def test_the_next_file_is_read_where_a_helper_has_none(desk: Desk) -> None:
    desk.helper("pass", NONE)
    desk.config(credsStore="pass")
    apptainer = desk.home / ".apptainer/docker-config.json"
    apptainer.parent.mkdir()
    apptainer.write_text(json.dumps({"auths": {"quay.io": {"auth": "ZmlsZTpw"}}}))
    assert desk.find() == Credentials("file", "p")


def test_empty_answer_is_none(desk: Desk) -> None:
    desk.helper("gcloud", """echo '{"Username": "", "Secret": ""}'""")
    desk.config(credsStore="gcloud")
    assert desk.find() is None


def test_it_gets_the_users_environment_and_no_terminal(desk: Desk) -> None:
    desk.environ["AWS_PROFILE"] = "lab"
    desk.helper("ecr-login", """(exec < /dev/tty) 2> /dev/null && exit 3
        printf '{"Username": "%s", "Secret": "x"}' "$AWS_PROFILE" """)  # fmt: skip
    desk.config(credsStore="ecr-login")
    assert desk.find() == Credentials("lab", "x")


def test_stderr_is_not_shown(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.helper("pass", "echo 'of the s3cret' >&2; " + ANSWER)
    desk.config(credsStore="pass")
    assert desk.find() is not None
    assert capfd.readouterr() == ("", "")


# -- those that do not do their work -----------------------------------------------------------------------------------


def test_missing(desk: Desk) -> None:
    desk.config(credsStore="desktop")
    error = refused(desk)
    assert "docker-credential-desktop" in error.message and "quay.io" in error.message and "PATH" in error.message


def test_not_found_in_the_working_directory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.helper("pass", ANSWER)
    monkeypatch.chdir(desk.bin)
    desk.environ["PATH"] = ".::/usr/bin:/bin"
    desk.config(credsStore="pass")
    assert "PATH" in refused(desk).message and desk.log == []


@pytest.mark.parametrize("name", ["../evil", "/bin/sh", "a/b", "a b", "x;y", "a\0b", "ü"])
def test_names_that_are_none(desk: Desk, name: str) -> None:
    desk.config(credHelpers={"quay.io": name})
    assert repr(name) in refused(desk).message


def test_not_a_program(desk: Desk) -> None:
    desk.helper("pass", ANSWER)
    path = desk.bin / "docker-credential-pass"
    path.write_bytes(b"\0\1\2 no program")
    desk.config(credsStore="pass")
    assert "cannot be started" in refused(desk).message


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo s3cret", "no account"),
        ("echo '[\"s3cret\"]'", "no account"),
        ('echo \'{"Username": "ann", "Password": "s3cret"}\'', "no account"),
        ('echo \'{"Username": 1, "Secret": "s3cret"}\'', "no account"),
        ("true", "no account"),
        ("head -c 100000 /dev/zero | tr '\\0' '['", "no account"),
        ("echo s3cret; exit 1", "status 1"),
        ("echo 'pass not initialized: s3cret' >&2; exit 7", "status 7"),
        ("echo 'credentials not found in native keychain, s3cret'; exit 1", "status 1"),
        ("kill -SEGV $$", "signal 11"),
        ("head -c 5000000 /dev/zero", "more than"),
        ("while :; do echo s3cret; done", "more than"),
    ],
    ids=range(12),
)
def test_rubbish(desk: Desk, script: str, says: str) -> None:
    desk.helper("pass", script)
    desk.config(credsStore="pass")
    error = refused(desk)
    assert says in error.message and "docker-credential-pass" in error.message and "quay.io" in error.message


def test_one_that_does_not_read(desk: Desk) -> None:
    path = desk.bin / "docker-credential-pass"
    path.write_text("""#!/bin/sh\nexec <&-; echo '{"Username": "ann", "Secret": "s3cret"}'\n""")
    path.chmod(0o755)
    desk.config(credsStore="pass")
    for _ in range(5):
        assert desk.find() == Credentials("ann", "s3cret")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "sleep 60 & wait",
        "trap '' TERM INT HUP; while :; do sleep 60; done",
        "sleep 60 & exit 0",  # has ended, and somebody holds its stdout
        "exec > /dev/null; sleep 60",  # has closed its stdout, and does not end
        ANSWER + "; sleep 60",
    ],
    ids=range(6),
)
def test_one_that_hangs_is_killed_with_all_its_children(desk: Desk, script: str) -> None:
    mark = f"hpcc-test-{os.getpid()}-{time.monotonic_ns()}"
    desk.environ["MARK"] = mark
    desk.helper("pass", script)
    desk.config(credsStore="pass")
    before = time.monotonic()
    assert "did not answer within 0.5 s" in refused(desk).message
    assert time.monotonic() - before < 5
    deadline = time.monotonic() + 5
    while left := _having(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def _having(mark: str) -> list[str]:
    """Processes, other than zombies, with this in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (directory / "environ").read_bytes():
                found.append((directory / "cmdline").read_text())
        except OSError:
            pass
    return found


def test_the_secret_is_on_no_command_line(desk: Desk) -> None:
    """The key goes by stdin, and nothing but `get` is an argument; no helper is asked to store or to erase."""
    desk.helper("pass", f'tr "\\0" " " < /proc/$$/cmdline >> "$LOG"; echo >> "$LOG"; {ANSWER}')
    desk.config(credsStore="pass")
    assert desk.find() is not None
    assert desk.log == ["pass get quay.io", f"/bin/sh {desk.bin}/docker-credential-pass get "]
