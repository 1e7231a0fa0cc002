"""Which account a user has for a registry: variables first, then the stores of Docker and containers-auth."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from hpcc.errors import SettingsError
from hpcc.registry.credentials import Credentials, find_credentials
from hpcc.registry.stores import Entry, list_store


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def store(path: Path, auths: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, **more}))
    return path


def find(home: Path, host: str, repository: str = "", **environ: str) -> str:
    """name:password, or "" for none."""
    found = find_credentials(host, environ, str(home), repository)
    return f"{found.username}:{found.password}" if found else ""


def test_secret_is_not_shown() -> None:
    login = Credentials("ann", "secret")
    assert "secret" not in f"{login!r} {login!s} {[login]}"
    assert login == Credentials("ann", "secret") != Credentials("ann", "other")
    token = Credentials("ann", "secret", "refresh")
    assert (
        "refresh" not in f"{token!r} {token!s}"
        and token != login
        and len({token, login, Credentials("ann", "secret")}) == 2
    )
    assert base64.b64decode(Credentials("ü", "€").basic).decode() == "ü:€"


def test_variables_in_order(tmp_path: Path) -> None:
    store(tmp_path / ".docker/config.json", {"quay.io": auth("file:p")})
    environ: dict[str, str] = {}
    assert find(tmp_path, "quay.io", **environ) == "file:p"
    for prefix in ("SINGULARITY", "APPTAINER", "HPCC"):
        environ |= {f"{prefix}_DOCKER_USERNAME": prefix, f"{prefix}_DOCKER_PASSWORD": "p"}
        assert find(tmp_path, "quay.io", **environ) == f"{prefix}:p"


def test_half_a_pair_is_none(tmp_path: Path) -> None:
    assert find(tmp_path, "quay.io", HPCC_DOCKER_USERNAME="a", APPTAINER_DOCKER_PASSWORD="b") == ""
    assert find(tmp_path, "quay.io", HPCC_DOCKER_USERNAME="a", HPCC_DOCKER_PASSWORD="") == ""


def test_plain_variables_are_for_docker_hub_only(tmp_path: Path) -> None:
    environ = {"DOCKER_USERNAME": "a", "DOCKER_PASSWORD": "b"}
    assert find(tmp_path, "quay.io", **environ) == ""
    for host in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        assert find(tmp_path, host, **environ) == "a:b"


def test_files_in_order(tmp_path: Path) -> None:
    store(tmp_path / ".docker/config.json", {"quay.io": auth("home:p")})
    assert find(tmp_path, "quay.io") == "home:p"
    docker = store(tmp_path / "other/config.json", {"quay.io": auth("docker:p")})
    environ = {"DOCKER_CONFIG": str(docker.parent)}
    assert find(tmp_path, "quay.io", **environ) == "docker:p"
    environ["REGISTRY_AUTH_FILE"] = str(store(tmp_path / "auth.json", {"quay.io": auth("file:p")}))
    assert find(tmp_path, "quay.io", **environ) == "file:p"
    store(tmp_path / "auth.json", {"elsewhere.example": auth("x:y")})
    assert find(tmp_path, "quay.io", **environ) == "docker:p"
    assert find(tmp_path / "nobody", "quay.io") == ""
    assert find_credentials("quay.io", {}, "") is None


def test_all_stores_in_order(tmp_path: Path) -> None:
    """Each is asked when those before it have nothing; written here from the last to the first."""
    runtime = tmp_path / "run"
    environ = {"XDG_RUNTIME_DIR": str(runtime), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
    for name in (".singularity/docker-config.json", ".apptainer/docker-config.json", "run/containers/auth.json",
                 ".docker/config.json", "auth.json", ".config/hpcc/docker-config.json"):  # fmt: skip
        store(tmp_path / name, {"quay.io": auth(f"{name}:p")})
        assert find(tmp_path, "quay.io", **environ) == f"{name}:p"
    store(tmp_path / "xdg/hpcc/docker-config.json", {"quay.io": auth("xdg:p")})
    assert find(tmp_path, "quay.io", XDG_CONFIG_HOME=str(tmp_path / "xdg"), **environ) == "xdg:p"
    store(tmp_path / "aptr/docker-config.json", {"ghcr.io": auth("configdir:p")})
    assert find(tmp_path, "ghcr.io", APPTAINER_CONFIGDIR=str(tmp_path / "aptr")) == "configdir:p"
    assert find(tmp_path, "ghcr.io", SINGULARITY_CONFIGDIR=str(tmp_path / "aptr")) == "configdir:p"


def test_without_variables(tmp_path: Path) -> None:
    """A mirror never sees what the environment says of the registry behind it."""
    variables = {f"{prefix}DOCKER_{what}": "x" for prefix in ("HPCC_", "") for what in ("USERNAME", "PASSWORD")}
    assert find_credentials("docker.io", variables, str(tmp_path)) == Credentials("x", "x")
    assert find_credentials("docker.io", variables, str(tmp_path), variables=False) is None
    store(tmp_path / ".docker/config.json", {"docker.io": auth("file:p")})
    assert find_credentials("docker.io", variables, str(tmp_path), variables=False) == Credentials("file", "p")


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "index.docker.io"),
        ("https://quay.io", "quay.io"),
        ("https://quay.io/v2/", "quay.io"),
        ("127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("Registry.Example", "registry.example"),
    ],
)
def test_spellings_of_keys(tmp_path: Path, key: str, host: str) -> None:
    store(tmp_path / ".docker/config.json", {key: auth("a:b:c")})
    assert find(tmp_path, host) == find(tmp_path, host, "any/name") == "a:b:c"
    assert find(tmp_path, "other.example") == ""


def test_docker_desktops_other_keys_are_no_login(tmp_path: Path) -> None:
    keys = {f"https://index.docker.io/v1/{name}": auth(f"{name}:x") for name in ("access-token", "refresh-token")}
    store(tmp_path / ".docker/config.json", keys)
    assert find(tmp_path, "docker.io", "library/debian") == ""
    store(
        tmp_path / ".docker/config.json", {**keys, "https://index.docker.io/v1/": auth("a:b"), "docker.io": auth("c:d")}
    )
    assert find(tmp_path, "docker.io", "library/debian") == "a:b"


def test_keys_of_a_part_of_a_registry(tmp_path: Path) -> None:
    auths = {"quay.io/group": auth("group:p"), "quay.io/group/deep": auth("deep:p"), "quay.io": auth("all:p")}
    store(tmp_path / ".docker/config.json", auths)
    assert find(tmp_path, "quay.io", "group/deep/name") == "deep:p"
    assert find(tmp_path, "quay.io", "group/name") == "group:p"
    assert find(tmp_path, "quay.io", "groupies/name") == "all:p"
    del auths["quay.io"]
    store(tmp_path / ".docker/config.json", auths)
    assert find(tmp_path, "quay.io", "other/name") == find(tmp_path, "quay.io") == ""


def test_kinds_of_entries(tmp_path: Path) -> None:
    path = tmp_path / ".docker/config.json"
    store(path, {"a.example": {"username": "u", "password": "p"}, "b.example": {}, "c.example": auth("no colon")})
    assert find(tmp_path, "a.example") == "u:p"
    assert find(tmp_path, "b.example") == find(tmp_path, "c.example") == ""
    store(path, None)
    assert find(tmp_path, "a.example") == ""


def test_identity_tokens(tmp_path: Path) -> None:
    auths = {
        "a.example": {"identitytoken": "refresh"},
        "b.example": {**auth("ann:"), "identitytoken": "refresh"},
        "c.example": {"username": "ann", "identitytoken": "refresh"},
        "d.example": {**auth("ann:p"), "identitytoken": ""},
        "e.example": {"identitytoken": 7},
    }
    store(tmp_path / ".docker/config.json", auths)
    found = {key: find_credentials(key, {}, str(tmp_path)) for key in auths}
    assert found == {
        "a.example": Credentials("<token>", "", "refresh"),
        "b.example": Credentials("ann", "", "refresh"),
        "c.example": Credentials("ann", "", "refresh"),
        "d.example": Credentials("ann", "p"),
        "e.example": None,
    }


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b'{"auths": []}',
        b'{"credHelpers": []}',
        b'{"credHelpers": {"quay.io": 1}}',
        b'{"credsStore": ["pass"]}',
        b"\xff",
        b"[" * 99_999,
        b'{"auths": {"quay.io": {"auth": "%%%"}}}',
        '{"auths": {"quay.io": {"auth": "é"}}}'.encode(),
        b'{"auths": {"quay.io": {"auth": "//8="}}}',
    ],
)
def test_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        find(tmp_path, "quay.io")
    assert str(path) in caught.value.message and caught.value.hint


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".docker/config.json").mkdir(parents=True)
    with pytest.raises(SettingsError, match="Is a directory"):
        find(tmp_path, "quay.io")


def test_another_users_runtime_directory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind `su`: the variable is left over, and the directory is closed."""
    store(tmp_path / "run/containers/auth.json", {"quay.io": auth("them:p")})
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert find(tmp_path, "quay.io", XDG_RUNTIME_DIR=str(tmp_path / "run")) == ""


def test_what_a_store_could_answer_for(tmp_path: Path) -> None:
    auths = {
        "https://index.docker.io/v1/": {},
        "quay.io": auth("ann:secret"),
        "nowhere.example": {},
        "own.example": auth("bob:secret"),
    }
    path = store(tmp_path / "config.json", auths, credHelpers={"ecr.example": "ecr-login", "own.example": ""})
    assert list_store(str(path)) == [
        Entry("ecr.example", "", "docker-credential-ecr-login"),
        Entry("own.example", "bob", ""),
        Entry("quay.io", "ann", ""),
    ]
    store(path, auths, credsStore="pass", credHelpers={"own.example": ""})
    assert list_store(str(path)) == [
        Entry("docker.io", "", "docker-credential-pass"),
        Entry("nowhere.example", "", "docker-credential-pass"),
        Entry("own.example", "bob", ""),
        Entry("quay.io", "", "docker-credential-pass"),
    ]
    assert list_store(str(tmp_path / "none.json")) == []
