"""hpcc registry login, logout, list: verified before it is stored, and the password nowhere but in the store."""

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry, Faults
from tests.e2e.test_pull import CONFIG, LAYERS, NAME, Puller, check_failure
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.terminal import on_terminal

PASSWORD = "s3cret:wörd"


@pytest.fixture(params=["basic", "bearer"])
def registry(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry(username="ann", password=PASSWORD, private=(NAME,), scheme=request.param) as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG)
        yield registry


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation, registry: FakeRegistry) -> Puller:
    return Puller(runs_as, installed, registry)


def store(hpcc: Puller) -> Path:
    return hpcc.path(".config/hpcc/docker-config.json")


def login(hpcc: Puller, *argv: str, password: str = PASSWORD, **options: Any) -> "subprocess.CompletedProcess[str]":
    done: subprocess.CompletedProcess[str] = hpcc(
        "registry", "login", "--username", "ann", "--password-stdin", *(argv or [hpcc.registry.host]), input=password,
        **options,
    )  # fmt: skip
    assert password not in done.stdout + done.stderr
    return done


def rows(hpcc: Puller, **env: str) -> list[tuple[str, str, bool]]:
    done = hpcc("registry", "list", "--json", env=env)
    assert done.returncode == 0, done.stderr
    return [(row["registry"], row["username"], row["own"]) for row in json.loads(done.stdout)]


# -- login -------------------------------------------------------------------------------------------------------------


def test_login_pull_logout(hpcc: Puller) -> None:
    check_failure(hpcc("pull", hpcc.uri), 255, f"hpcc registry login {hpcc.registry.host}")
    done = login(hpcc)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert f"INFO:    Login for {hpcc.registry.host} stored in {store(hpcc)}" in done.stderr
    assert stat.S_IMODE(store(hpcc).stat().st_mode) == 0o600 and store(hpcc).stat().st_uid == hpcc.person.uid
    assert stat.S_IMODE(store(hpcc).parent.stat().st_mode) == 0o700
    assert rows(hpcc) == [(hpcc.registry.host, "ann", True)]
    assert hpcc("pull", hpcc.uri).returncode == 0
    done = hpcc("registry", "logout", hpcc.registry.host)
    assert (done.returncode, done.stderr) == (0, "INFO:    Logout succeeded\n")
    assert rows(hpcc) == [] and PASSWORD not in store(hpcc).read_text()
    done = hpcc("registry", "logout", hpcc.registry.host)
    assert done.returncode == 0 and "no login" in done.stderr


def test_wrong_password_is_not_stored(hpcc: Puller) -> None:
    check_failure(login(hpcc, password="wr0ng"), 255, "unauthorized|password|denied")
    assert not store(hpcc).exists()
    assert login(hpcc).returncode == 0
    before = store(hpcc).read_bytes()
    check_failure(login(hpcc, password="wr0ng"), 255, "unauthorized|password|denied")
    assert store(hpcc).read_bytes() == before


@pytest.mark.parametrize(
    ("form", "scope"),
    [
        ("{}", "{}"),
        ("docker://{}", "{}"),
        ("oras://{}/", "{}"),
        ("{}/lab", "{}/lab"),
        ("docker://{}/lab/tools", "{}/lab/tools"),
    ],
)
def test_forms_of_a_registry(hpcc: Puller, form: str, scope: str) -> None:
    assert login(hpcc, form.format(hpcc.registry.host)).returncode == 0
    scope = scope.format(hpcc.registry.host)
    assert rows(hpcc) == [(scope, "ann", True)]
    assert hpcc("pull", hpcc.uri).returncode == 0
    assert "Logout succeeded" in hpcc("registry", "logout", form.format(hpcc.registry.host)).stderr
    assert rows(hpcc) == []


def test_remote_is_the_same(hpcc: Puller) -> None:
    done = hpcc("remote", "login", "-u", "ann", "--password-stdin", hpcc.registry.host, input=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    assert hpcc("remote", "list").stdout == hpcc("registry", "list").stdout
    assert "Logout succeeded" in hpcc("remote", "logout", hpcc.registry.host).stderr


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_is_no_part_of_the_password(hpcc: Puller, end: str) -> None:
    assert login(hpcc, password=PASSWORD + end).returncode == 0
    assert login(hpcc, password=PASSWORD + " " + end).returncode == 255


def test_no_https(runs_as: Person, installed: Installation, registry: FakeRegistry) -> None:
    argv = [installed.hpcc, "registry", "login", "-u", "ann", "--password-stdin", registry.host]
    done = runs_as.run(argv, input=PASSWORD)
    assert done.returncode != 0 and "--no-https" in done.stderr and PASSWORD not in done.stderr
    assert not registry.authorised
    assert runs_as.run([*argv, "--no-https"], input=PASSWORD).returncode == 0


def test_quiet(hpcc: Puller) -> None:
    done = hpcc("--quiet", "registry", "login", "-u", "ann", "--password-stdin", hpcc.registry.host, input=PASSWORD)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = hpcc("--quiet", "registry", "logout", hpcc.registry.host)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_registry_that_does_not_answer(hpcc: Puller) -> None:
    check_failure(login(hpcc, "--no-https", "127.0.0.1:1"), 75, "127.0.0.1:1")
    done = login(hpcc, env={"HPCC_OFFLINE": "1"})
    check_failure(done, 255, "HPCC_OFFLINE")
    assert not store(hpcc).exists() and not hpcc.registry.requests


def test_damaged_store(hpcc: Puller) -> None:
    store(hpcc).parent.mkdir(parents=True)
    store(hpcc).write_text("{")
    os.chown(store(hpcc).parent.parent, hpcc.person.uid, hpcc.person.gid)
    os.chown(store(hpcc).parent, hpcc.person.uid, hpcc.person.gid)
    os.chown(store(hpcc), hpcc.person.uid, hpcc.person.gid)
    for done in (login(hpcc), hpcc("registry", "logout", hpcc.registry.host), hpcc("registry", "list")):
        assert done.returncode == 255 and str(store(hpcc)) in done.stderr
        assert "HINT:" in done.stderr and "Traceback" not in done.stderr
    assert store(hpcc).read_text() == "{"


def test_variables_come_before_the_store_and_are_named(hpcc: Puller) -> None:
    env = {"HPCC_DOCKER_USERNAME": "eve", "HPCC_DOCKER_PASSWORD": "of the environment"}
    done = login(hpcc, env=env)
    assert done.returncode == 0 and "WARNING: HPCC_DOCKER_USERNAME" in done.stderr
    assert rows(hpcc, **env) == [("*", "eve", False), (hpcc.registry.host, "ann", True)]
    done = hpcc("registry", "logout", hpcc.registry.host, env=env)
    assert "HPCC_DOCKER_USERNAME" in done.stderr and "of the environment" not in done.stderr


# -- nobody sees it ----------------------------------------------------------------------------------------------------


def test_the_password_is_on_no_command_line(hpcc: Puller) -> None:
    """Neither hpcc's own nor that of anything it starts, at any moment; and in no environment of theirs."""
    hpcc.registry.faults = Faults(delay=0.3)
    argv = [hpcc.installed.hpcc, "registry", "login", "-u", "ann", "--password-stdin", hpcc.registry.host]
    run = hpcc.person.popen(argv, env=hpcc.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdin is not None
    run.stdin.write(PASSWORD.encode())
    run.stdin.close()
    run.stdin = None
    seen = 0
    while run.poll() is None:
        listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, check=True).stdout
        seen += b"registry login" in listed
        assert PASSWORD.encode() not in listed
        for part in ("cmdline", "environ"):
            try:
                assert PASSWORD.encode() not in Path(f"/proc/{run.pid}/{part}").read_bytes()
            except OSError:  # of another user, or it has just ended
                pass
    out, err = run.communicate()
    assert run.returncode == 0 and seen and PASSWORD.encode() not in out + err


@pytest.mark.parametrize("words", [["-p", "hunter2"], ["-phunter2"], ["--password", "hunter2"], ["--password=hunter2"]])
def test_a_password_as_an_argument_is_refused(hpcc: Puller, words: list[str]) -> None:
    done = hpcc("registry", "login", "--username", "ann", *words, hpcc.registry.host)
    check_failure(done, 255, "--password-stdin")
    assert "hunter2" not in done.stderr and not hpcc.registry.requests


def test_the_registrys_words_do_not_give_it_away(hpcc: Puller) -> None:
    hpcc.registry.faults = Faults(busy=-1, busy_words=f"go away {PASSWORD}")
    done = login(hpcc)
    assert done.returncode == 75 and "go away" in done.stderr


def test_debug_does_not_show_it(hpcc: Puller) -> None:
    done = hpcc("--debug", "registry", "login", "-u", "ann", "--password-stdin", hpcc.registry.host, input="wr0ng")
    assert done.returncode != 0 and "wr0ng" not in done.stderr + done.stdout


# -- at a terminal -----------------------------------------------------------------------------------------------------


def at_terminal(hpcc: Puller, answers: list[tuple[str, str]], *argv: str) -> tuple[int, str]:
    """(status, all that the terminal showed); each answer is typed when its question stands there."""
    steps = [(question.rstrip().encode(), f"{answer}\n".encode()) for question, answer in answers]
    status, shown = on_terminal(hpcc.person, [str(hpcc.installed.hpcc), *argv], steps, env=hpcc.env)
    return status, shown.decode(errors="replace")


def test_asks_at_a_terminal(hpcc: Puller) -> None:
    questions = [("Enter Docker Username: ", "ann"), ("Enter Docker Password: ", PASSWORD)]
    status, shown = at_terminal(hpcc, questions, "registry", "login", hpcc.registry.host)
    assert status == 0, shown
    assert PASSWORD not in shown and "stored in" in shown
    assert rows(hpcc) == [(hpcc.registry.host, "ann", True)]


def test_asks_for_the_password_alone(hpcc: Puller) -> None:
    questions = [("Enter Docker Password: ", "wr0ng")]
    status, shown = at_terminal(hpcc, questions, "registry", "login", "-u", "ann", hpcc.registry.host)
    assert status == 255 and "Username" not in shown and "wr0ng" not in shown and not store(hpcc).exists()
    status, shown = at_terminal(hpcc, [("Password: ", "")], "registry", "login", "-u", "ann", hpcc.registry.host)
    assert status == 255 and "no password" in shown
    status, shown = at_terminal(hpcc, [("Username: ", "")], "registry", "login", hpcc.registry.host)
    assert status == 255 and "no user name" in shown


# -- list --------------------------------------------------------------------------------------------------------------


def test_list_shows_others_too_and_no_secret(hpcc: Puller) -> None:
    assert "hpcc registry login" in hpcc("registry", "list").stdout
    assert login(hpcc).returncode == 0
    auths = {
        "quay.io": {"auth": "Ym9iOmh1bnRlcjI="},  # bob:hunter2
        "https://index.docker.io/v1/": {"auth": "ZQob:", "username": "e\x1b[31mve", "password": "hunter2"},
        hpcc.registry.host: {"auth": "Ym9iOmh1bnRlcjI=", "identitytoken": "hunter2"},
    }
    docker = hpcc.path("docker/config.json")
    docker.parent.mkdir()
    docker.write_text(json.dumps({"auths": auths, "credHelpers": {"ecr.example": "ecr-login"}}))
    broken = hpcc.path("broken.json")
    broken.write_text("{")
    env = {"DOCKER_CONFIG": str(docker.parent), "REGISTRY_AUTH_FILE": str(broken)}
    done = hpcc("registry", "list", env=env)
    assert done.returncode == 0 and str(broken) in done.stderr
    for secret in ("hunter2", "Ym9iOmh1bnRlcjI", PASSWORD, "\x1b"):
        assert secret not in done.stdout + done.stderr
    assert done.stdout.startswith("REGISTRY ")
    own = [line for line in done.stdout.splitlines() if str(store(hpcc)) in line]
    assert len(own) == 1 and own[0].startswith(hpcc.registry.host) and "read only" not in own[0]
    others = [line for line in done.stdout.splitlines() if str(docker) in line]
    assert len(others) == 4 and all("(read only)" in line for line in others)
    assert any("docker-credential-ecr-login" in line for line in others)
    found = hpcc("registry", "list", "--json", env=env)
    assert "hunter2" not in found.stdout and PASSWORD not in found.stdout
    assert {"registry": "quay.io", "username": "bob", "source": str(docker), "helper": "", "own": False} in json.loads(
        found.stdout
    )


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said", "hint"),
    [
        (["registry"], "subcommand", "login, logout, list"),
        (["registry", "nonsense"], "subcommand", "login, logout, list"),
        (["registry", "login", "--password-stdin", "quay.io"], "--username", "Usage: hpcc registry login"),
        (["registry", "login", "-u", "a", "quay.io", "ghcr.io"], "one registry", "Usage: hpcc registry login"),
        (["registry", "login", "-u", "a", "quay"], "'quay'", "quay.io"),
        (["registry", "login", "-u", "a", "library://x.example"], "library://", "quay.io"),
        (["registry", "login", "-u", "a", "quay.io/UPPER"], "UPPER", "quay.io"),
        (["registry", "login", "-u", "a", "quay.io/a:1"], "quay.io/a:1", "quay.io"),
        (["registry", "login", "quay.io"], "terminal", "--password-stdin"),
        (["registry", "login", "-u", "a", "--password-stdin", "quay.io"], "empty", "--password-stdin|hpcc registry"),
        (["registry", "login", "--nonsense"], "--nonsense", "Usage: hpcc registry login"),
        (["registry", "list", "x"], "x", "Usage: hpcc registry list"),
        (["registry", "logout", "quay"], "'quay'", "quay.io"),
    ],
)
def test_mistakes(runs_as: Person, installed: Installation, argv: list[str], said: str, hint: str) -> None:
    done = runs_as.run([installed.hpcc, *argv])
    assert done.returncode == 255 and done.stdout == "" and "Traceback" not in done.stderr
    assert re.match(f"FATAL: .*{re.escape(said)}", done.stderr), done.stderr
    assert re.search(f"\nHINT: .*({hint})", done.stderr), done.stderr


@pytest.mark.parametrize("data", [b"x" * 70_000, b"\xff\xfe"])
def test_no_password_on_stdin(runs_as: Person, installed: Installation, data: bytes) -> None:
    argv = [installed.hpcc, "registry", "login", "-u", "a", "--password-stdin", "quay.io"]
    done = runs_as.run(argv, input=data, text=False)
    assert done.returncode == 255 and b"stdin" in done.stderr and b"HINT" in done.stderr


@pytest.mark.parametrize("command", ["registry", "remote", "registry login", "registry logout", "registry list"])
def test_help(runs_as: Person, installed: Installation, command: str) -> None:
    done = runs_as.run([installed.hpcc, *command.split(), "--help"])
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("Usage: hpcc ")
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert re.search(r"Example:\n  hpcc ", done.stdout), done.stdout
