"""hpcc's own store of logins: format, modes, and that nothing in it is lost, whoever writes and whatever breaks."""

import base64
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hpcc.errors import CacheError, LockTimeout, SettingsError, UsageError
from hpcc.registry import logins
from hpcc.registry.credentials import Credentials, find_credentials
from hpcc.registry.logins import list_logins, remove_login, store_login
from hpcc.registry.stores import Entry, own_store

ANN = Credentials("ann", "s3cret:with colon")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def path(home: Path) -> Path:
    return Path(own_store({}, str(home)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def document(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = json.loads(path.read_text())
    return found


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_format_and_modes(home: Path, path: Path) -> None:
    umask = os.umask(0)
    try:
        store_login(str(path), "quay.io", ANN)
        store_login(str(path), "docker.io", ANN)
        store_login(str(path), "quay.io/group", Credentials("bob", "x"))
    finally:
        os.umask(umask)
    assert path == home / ".config/hpcc/docker-config.json"
    assert (mode(path), mode(path.parent), mode(home / ".config")) == (0o600, 0o700, 0o700)
    assert {mode(path.parent / name) for name in names(path)} == {0o600}
    auths = document(path)["auths"]
    assert set(auths) == {"quay.io", "quay.io/group", "https://index.docker.io/v1/"}
    assert base64.b64decode(auths["https://index.docker.io/v1/"]["auth"]) == b"ann:s3cret:with colon"
    assert find_credentials("docker.io", {}, str(home)) == ANN
    assert find_credentials("quay.io", {}, str(home), "group/x") == Credentials("bob", "x")
    assert list_logins(str(path)) == [Entry("docker.io", "ann", ""), Entry("quay.io", "ann", ""),
                                      Entry("quay.io/group", "bob", "")]  # fmt: skip
    assert names(path) == {"docker-config.json", "docker-config.json.lock"}


def test_identity_token_is_kept(home: Path, path: Path) -> None:
    login = Credentials("<token>", "", "refresh")
    store_login(str(path), "lab.azurecr.io", login)
    assert find_credentials("lab.azurecr.io", {}, str(home)) == login


@pytest.mark.parametrize("password", ["ü€", "two\nlines", " blanks ", '"quotes\\'])
def test_passwords_come_back(home: Path, path: Path, password: str) -> None:
    store_login(str(path), "quay.io", Credentials("_json_key", password))
    assert find_credentials("quay.io", {}, str(home)) == Credentials("_json_key", password)


@pytest.mark.parametrize(("username", "password"), [("a:b", "x"), ("\udcff", "x"), ("a", "\udcff")])
def test_what_the_format_cannot_hold(path: Path, username: str, password: str) -> None:
    with pytest.raises(UsageError):
        store_login(str(path), "quay.io", Credentials(username, password))
    assert not path.exists()


def test_open_directory_is_closed(path: Path) -> None:
    path.parent.mkdir(parents=True, mode=0o755)
    path.parent.chmod(0o775)
    path.write_text("{}")
    path.chmod(0o644)
    store_login(str(path), "quay.io", ANN)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_all_else_in_the_file_stays(path: Path) -> None:
    path.parent.mkdir(parents=True)
    before = {
        "HttpHeaders": {"x": "ü"},
        "auths": {"ghcr.io": {"auth": "eDp5", "email": "e"}, "Quay.io": {"auth": "eDp5"}},
    }
    path.write_text(json.dumps(before))
    store_login(str(path), "quay.io", ANN)
    after = document(path)
    assert after["HttpHeaders"] == before["HttpHeaders"] and after["auths"]["ghcr.io"] == before["auths"]["ghcr.io"]
    assert set(after["auths"]) == {"ghcr.io", "quay.io"}  # one spelling of it
    assert remove_login(str(path), "quay.io") and not remove_login(str(path), "quay.io")
    assert document(path) == {**before, "auths": {"ghcr.io": before["auths"]["ghcr.io"]}}


def test_removed_in_every_spelling_but_no_part_of_it(path: Path) -> None:
    path.parent.mkdir(parents=True)
    keys = ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "docker.io/group"]
    path.write_text(json.dumps({"auths": {key: {"auth": "eDp5"} for key in keys}}))
    assert remove_login(str(path), "docker.io")
    assert list(document(path)["auths"]) == ["docker.io/group"]


def test_removing_from_nothing_makes_nothing(home: Path, path: Path) -> None:
    assert remove_login(str(path), "quay.io") is False
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"auths": 1}', b"\xff"])
def test_damaged_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for change in (lambda: store_login(str(path), "quay.io", ANN), lambda: remove_login(str(path), "quay.io")):
        with pytest.raises(SettingsError) as caught:
            change()
        assert str(path) in caught.value.message and caught.value.hint
    with pytest.raises(SettingsError):
        list_logins(str(path))
    assert path.read_bytes() == content
    assert names(path) <= {"docker-config.json", "docker-config.json.lock"}


def test_a_link_stays_a_link(home: Path, path: Path) -> None:
    real = home / "dotfiles/logins.json"
    real.parent.mkdir()
    path.parent.mkdir(parents=True)
    path.symlink_to(real)
    store_login(str(path), "quay.io", ANN)
    assert path.is_symlink() and mode(real) == 0o600 and "quay.io" in document(real)["auths"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_failure_leaves_the_old_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    store_login(str(path), "quay.io", ANN)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logins.os, call, fail)
    with pytest.raises(CacheError, match="No space left") as caught:
        store_login(str(path), "ghcr.io", Credentials("bob", "hunter2"))
    assert str(path) in caught.value.message and "hunter2" not in caught.value.message
    assert path.read_bytes() == before and names(path) == {"docker-config.json", "docker-config.json.lock"}


def test_a_place_that_is_no_directory(home: Path, path: Path) -> None:
    (home / ".config").write_text("a file")
    with pytest.raises(CacheError) as caught:
        store_login(str(path), "quay.io", ANN)
    assert str(path) in caught.value.message


STORE = """
import sys
from hpcc.registry.credentials import Credentials
from hpcc.registry.logins import store_login
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(first, first + count):
    store_login(path, f"r{number}.example", Credentials("ann", "x"))
"""


def test_logins_at_once_do_not_lose_one_another(path: Path) -> None:
    runs = [
        subprocess.Popen([sys.executable, "-c", STORE, str(path), str(10 * first), "10"]) for first in range(4)
    ]  # fmt: skip
    while any(run.poll() is None for run in runs):  # whoever reads meanwhile sees a whole file
        list_logins(str(path))
    assert [run.returncode for run in runs] == [0] * 4
    assert {entry.scope for entry in list_logins(str(path))} == {f"r{number}.example" for number in range(40)}
    assert names(path) == {"docker-config.json", "docker-config.json.lock"}


def test_waits_no_longer_than_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_login(str(path), "quay.io", ANN)
    monkeypatch.setattr(logins, "LOCK_WAIT", 0.1)
    with open(f"{path}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockTimeout) as caught:
            store_login(str(path), "ghcr.io", ANN)
    assert f"{path}.lock" in caught.value.message and caught.value.hint
    store_login(str(path), "ghcr.io", ANN)


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_filesystem_without_locks(home: Path, path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    import errno

    def fail(*_: object) -> None:
        raise OSError(getattr(errno, number), number)

    monkeypatch.setattr(logins.fcntl, "flock", fail)
    store_login(str(path), "quay.io", ANN)
    assert find_credentials("quay.io", {}, str(home)) == ANN


@pytest.mark.root
def test_root_leaves_the_users_file_to_the_user(home: Path, path: Path) -> None:
    """`sudo -E` keeps HOME; a file of root's would shut the user out of the own logins."""
    os.chown(home, 4242, 4243)
    store_login(str(path), "quay.io", ANN)
    for made in (home / ".config", path.parent, path, path.with_suffix(".json.lock")):
        assert (made.stat().st_uid, made.stat().st_gid) == (4242, 4243), made
