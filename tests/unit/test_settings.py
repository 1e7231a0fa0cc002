"""Settings: who wins, what is locked, and what a mistake says."""

import json
import os
from pathlib import Path

import pytest

from hpcc.cli import config
from hpcc.errors import SettingsError
from hpcc.settings import KEYS, Settings


class Files:
    """A user's and a site's file, and the environment that points to the first."""

    def __init__(self, top: Path) -> None:
        self.user, self.site = top / "home/.config/hpcc/config.toml", top / "site.toml"
        self.user.parent.mkdir(parents=True)
        self.environ = {"HOME": str(top / "home")}

    def settings(self, **environ: str) -> Settings:
        return Settings.from_environ({**self.environ, **environ}, site_file=str(self.site))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_order(files: Files) -> None:
    assert files.settings().ttl == 3600 and files.settings().origins["ttl"] == "default"
    files.site.write_text("ttl = 1")
    assert (files.settings().ttl, files.settings().origins["ttl"]) == (1, str(files.site))
    files.user.write_text("ttl = 2")
    assert (files.settings().ttl, files.settings().origins["ttl"]) == (2, str(files.user))
    found = files.settings(HPCC_TTL="3")
    assert (found.ttl, found.origins["ttl"]) == (3, "HPCC_TTL")
    assert found.replace(ttl=4.0).ttl == 4 and found.replace(ttl=4.0).origins["ttl"] == "command line"
    assert found.ttl == 3


def test_locked(files: Files) -> None:
    files.site.write_text("[locked]\nttl = 9\ntrusted_users = ['root']")
    files.user.write_text("ttl = 2")
    found = files.settings(HPCC_TTL="3", HPCC_TRUSTED_USERS="mallory")
    assert found.ttl == 9 and found.trusted_users == ("root",)
    assert "locked" in found.origins["ttl"]


def test_only_the_sites_file_locks(files: Files) -> None:
    files.user.write_text("[locked]\nttl = 2")
    assert files.settings().ttl == 3600


def test_apptainers_variables(files: Files) -> None:
    assert files.settings(SINGULARITY_BIND="/a,/b").bind_paths == ("/a", "/b")
    assert files.settings(SINGULARITY_BIND="/a", APPTAINER_BIND="/b", HPCC_BIND_PATHS="/c").bind_paths == ("/c",)
    assert files.settings(SINGULARITY_BIND="/a", APPTAINER_BIND="/b").bind_paths == ("/b",)
    assert files.settings(APPTAINER_NOHTTPS="1").nohttps is True
    assert files.settings(APPTAINER_CACHEDIR="/c").cache_dir == "/c/hpcc"
    assert files.settings(APPTAINER_CACHEDIR="/c", HPCC_CACHE_DIR="/d").cache_dir == "/d"


def test_defaults(files: Files) -> None:
    found = files.settings()
    home = files.environ["HOME"]
    assert found.cache_dir == f"{home}/.cache/hpcc" and found.private_dir == f"{home}/.cache/hpcc-private"
    assert found.node_dir == f"/var/tmp/hpcc-{os.getuid()}" and found.hold_idle == 20
    assert files.settings(XDG_CACHE_HOME="/x").cache_dir == "/x/hpcc"
    assert set(found.origins) == set(KEYS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("HPCC_TTL", "soon"), ("HPCC_TTL", "-1"), ("HPCC_TTL", "nan"), ("HPCC_TTL", "inf"), ("HPCC_ROOTFS", "magic"),
     ("HPCC_WRITABLE", "yes"), ("HPCC_NOHTTPS", "maybe"), ("HPCC_KEEP_BLOBS", "2")],
)  # fmt: skip
def test_mistakes_name_the_variable(files: Files, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        files.settings(**{name: value})
    assert value in caught.value.message


@pytest.mark.parametrize(
    "text", ["ttl = ", "unknown = 1", "locked = 1", "[locked]\nnever = 1", "ttl = 'x'", "bind_paths = 3"]
)
def test_mistakes_name_the_file(files: Files, text: str) -> None:
    files.site.write_text(text)
    with pytest.raises(SettingsError, match=r"site\.toml"):
        files.settings()


def test_a_file_that_cannot_be_read(files: Files) -> None:
    files.user.mkdir()
    with pytest.raises(SettingsError, match=r"config\.toml"):
        files.settings()


def test_frozen(files: Files) -> None:
    with pytest.raises(AttributeError):
        files.settings().ttl = 1.0
    with pytest.raises(AttributeError):
        files.settings().other = 1  # type: ignore[attr-defined]


def test_paths_and_lists(files: Files) -> None:
    found = files.settings(HPCC_LIBRARY_PATH="/a:rel::/b", HPCC_TRUSTED_USERS="a, b,,c")
    assert found.library_path == ("/a", os.path.abspath("rel"), "/b") and found.trusted_users == ("a", "b", "c")


def test_mirrors(files: Files) -> None:
    assert files.settings().mirrors == ()
    files.site.write_text("""[mirrors]\n"docker.io" = ["https://m.site:5000", "c.site/hub"]\n"quay.io" = "q.site"\n""")
    table = (("docker.io", ("https://m.site:5000", "c.site/hub")), ("quay.io", ("q.site",)))
    assert files.settings().mirrors == table
    found = files.settings(HPCC_MIRRORS="quay.io=a.site, docker.io = m.site:5000,quay.io=b.site/x,")
    assert found.mirrors == (("quay.io", ("a.site", "b.site/x")), ("docker.io", ("m.site:5000",)))
    assert found.origins["mirrors"] == "HPCC_MIRRORS"
    files.user.write_text("""mirrors = {"docker.io" = []}""")
    assert files.settings().mirrors == files.settings(HPCC_MIRRORS="docker.io=").mirrors == (("docker.io", ()),)


def test_mirrors_that_a_site_has_locked(files: Files) -> None:
    files.site.write_text("""[locked.mirrors]\n"docker.io" = ["m.site"]""")
    assert files.settings(HPCC_MIRRORS="docker.io=other.site").mirrors == (("docker.io", ("m.site",)),)


@pytest.mark.parametrize(
    ("text", "said"),
    [("mirrors = ['m.site']", "docker.io=mirror"), ("mirrors = 1", "docker.io=mirror"),
     ("[mirrors]\ndocker.io = ['m.site']", "quotes"), ("""[mirrors]\n"docker.io" = [1]""", "a list of strings"),
     ("""[mirrors]\n"docker.io" = 1""", "a list of strings"), ("mirrors = 'docker.io'", "docker.io=mirror")],
)  # fmt: skip
def test_mistakes_in_mirrors(files: Files, text: str, said: str) -> None:
    files.site.write_text(text)
    with pytest.raises(SettingsError, match=r"site\.toml") as caught:
        files.settings()
    assert said in caught.value.message


@pytest.mark.parametrize("text", ["docker.io", "=m.site", "m.site,docker.io=m.site"])
def test_mistakes_in_the_variable_for_mirrors(files: Files, text: str) -> None:
    with pytest.raises(SettingsError, match="HPCC_MIRRORS"):
        files.settings(HPCC_MIRRORS=text)


def test_config_shows_mirrors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCC_MIRRORS", "docker.io=m.site:5000,docker.io=c.site/hub,quay.io=")
    assert config.main("config", ["mirrors"]) == 0
    assert capsys.readouterr().out == "docker.io=m.site:5000,docker.io=c.site/hub,quay.io=\n"
    assert config.main("config", ["--json", "mirrors"]) == 0
    value = {"docker.io": ["m.site:5000", "c.site/hub"], "quay.io": []}
    assert json.loads(capsys.readouterr().out) == value
    assert config.main("config", ["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mirrors"] == {"value": value, "origin": "HPCC_MIRRORS"}
