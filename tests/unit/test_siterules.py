"""Entries of bind_paths with conditions: parsed, and tried against what a node says of itself."""

import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.cli.backend import variables
from hpcc.errors import SettingsError
from hpcc.runtime.sitebinds import SiteBinds, site_binds
from hpcc.settings import Settings
from hpcc.siterules import BindRule, Facts, matches, parse_rule, unmet

NODE = Facts("nid001.cluster.example", frozenset({"nvidia"}), frozenset({"/dev/cxi0", "/opt/cray"}))


def test_parse() -> None:
    assert parse_rule({"bind": "/a"}) == BindRule(("/a",))
    table: dict[str, Any] = {"bind": ["/a:/b:ro", "/c"], "host": "n*", "exists": "/a", "gpu": True, "env": ["A_*", "B"]}
    assert parse_rule(table) == BindRule(("/a:/b:ro", "/c"), ("n*",), ("/a",), "any", ("A_*", "B"))
    assert parse_rule({"env": "A"}).env == ("A",) and parse_rule({"bind": "/a", "exists": True}).exists is True
    assert [parse_rule({"bind": "/a", "gpu": gpu}).gpu for gpu in (True, False, "amd")] == ["any", "none", "amd"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "a bind or an env"),
        ({"host": "n*"}, "a bind or an env"),
        ({"bind": "/a", "hosts": "n*"}, "'hosts'"),
        ({"bind": 3}, "bind: a string"),
        ({"bind": ""}, "bind: a string"),
        ({"bind": ["/a", 3]}, "bind: a string"),
        ({"bind": "/a", "host": {}}, "host: a string"),
        ({"bind": "/a", "exists": False}, "exists: a path"),
        ({"bind": "/a", "exists": 1}, "exists: a string"),
        ({"bind": "/a", "exists": "relative"}, "exists: absolute"),
        ({"bind": "/a", "gpu": "intel"}, "gpu: true, false, nvidia or amd"),
        ({"bind": "/a", "gpu": 1.5}, "gpu: true"),
        ({"bind": "/a", "env": True}, "env: a string"),
    ],
)
def test_tables_that_are_wrong(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_rule(table)


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({}, ""),
        ({"host": "nid*"}, ""),
        ({"host": ["x", "nid00[1-3]"]}, ""),
        ({"host": "*.cluster.example"}, ""),
        ({"host": ["login*", "x"]}, "nid001.cluster.example is no login* or x"),
        ({"exists": "/dev/cxi0"}, ""),
        ({"exists": ["/dev/cxi0", "/no"]}, "/no does not exist"),
        ({"exists": True}, ""),
        ({"bind": "/elsewhere", "exists": True}, "/elsewhere does not exist"),
        ({"gpu": True}, ""),
        ({"gpu": "nvidia"}, ""),
        ({"gpu": "amd"}, "no GPU of amd is there"),
        ({"gpu": False}, "a GPU is there"),
        ({"host": "nid*", "exists": "/opt/cray", "gpu": True}, ""),
        ({"host": "nid*", "exists": "/opt/cray", "gpu": False}, "a GPU is there"),
    ],
)
def test_conditions(table: dict[str, Any], why: str) -> None:
    rule = parse_rule({"bind": "/opt/cray", **table})
    assert unmet(rule, NODE, rule.bind) == why


def test_a_node_without_gpus() -> None:
    bare = NODE._replace(gpus=frozenset())
    assert unmet(BindRule(("/a",), gpu="any"), bare, ("/a",)) == "no GPU is there"
    assert unmet(BindRule(("/a",), gpu="none"), bare, ("/a",)) == ""


@given(st.text("ab*?[]!-c", max_size=8), st.text("abc-]!", max_size=8))
def test_patterns_are_those_of_fnmatch(pattern: str, text: str) -> None:
    # ranges that go down, or from odd ends, mean nothing that two programs agree on
    if "-" not in pattern:
        assert matches(pattern, text) == fnmatch.fnmatchcase(text, pattern)


@pytest.mark.parametrize(
    ("pattern", "text", "is_one"),
    [("n[0-4]", "n3", True), ("n[0-4]", "n5", False), ("n[!0-4]", "n5", True), ("n[ax-z]*", "ny1", True),
     ("n[a-]", "n-", True), ("*-gpu", "a-gpu", True), ("*-gpu", "a-gpu1", False), ("*a*a*a*a*b", "a" * 4000, False)],
)  # fmt: skip
def test_patterns(pattern: str, text: str, is_one: bool) -> None:
    assert matches(pattern, text) == is_one


# -- from files --------------------------------------------------------------------------------------------------------


def settings(tmp_path: Path, site: str, user: str = "", **environ: str) -> Settings:
    (tmp_path / "site.toml").write_text(site)
    (tmp_path / "hpcc").mkdir(exist_ok=True)
    (tmp_path / "hpcc/config.toml").write_text(user)
    variables = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), **environ}
    return Settings.from_environ(variables, site_file=str(tmp_path / "site.toml"))


def test_all_sources_add_up(tmp_path: Path) -> None:
    found = settings(
        tmp_path, 'bind_paths = ["/s", {bind = "/c", host = "*"}]', 'bind_paths = "/u"', APPTAINER_BIND="/e"
    )
    assert found.bind_paths == ("/s", BindRule(("/c",), ("*",)), "/u", "/e")
    assert found.origins["bind_paths"] == f"{tmp_path}/site.toml and {tmp_path}/hpcc/config.toml and APPTAINER_BIND"
    assert site_binds(found) == SiteBinds(("/s", "/c", "/u", "/e"))
    locked = settings(tmp_path, '[locked]\nbind_paths = ["/s"]', 'bind_paths = "/u"', APPTAINER_BIND="/e")
    assert locked.bind_paths == ("/s",)


def test_what_is_not_for_this_node(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    site = f"""bind_paths = [
      {{bind = "{tmp_path}:/x:ro", exists = true, env = "CRAY_*"}},
      {{bind = "/b", host = "no-such-node"}},
      {{bind = "/g", gpu = true, env = "GPU_*"}},
      {{env = ["PLAIN"]}},
    ]"""
    found = site_binds(settings(tmp_path, site), str(tmp_path / "dev"))
    assert found.binds == (f"{tmp_path}:/x:ro",) and found.env == ("CRAY_*", "PLAIN")
    assert [rule.bind for rule, _ in found.left_out] == [("/b",), ("/g",)]
    for name, gpu in (("nvidia0", "nvidia"), ("kfd", "amd")):
        (tmp_path / "dev/nvidiactl").touch()
        (tmp_path / "dev" / name).touch()
        for vendor in ("nvidia", "amd"):
            rule = f'bind_paths = [{{bind = "/g", gpu = "{vendor}"}}]'
            assert bool(site_binds(settings(tmp_path, rule), str(tmp_path / "dev")).binds) == (vendor == gpu)
        (tmp_path / "dev" / name).unlink()


@pytest.mark.parametrize(
    ("site", "said"),
    [
        ('bind_paths = [{bind = "/a", hosts = "x"}]', "'hosts'"),
        ('bind_paths = ["/a", {bind = "/a", gpu = "intel"}]', "gpu"),
        ("bind_paths = [3]", "a list of strings"),
        ("bind_paths = {bind = '/a'}", "a list of strings"),
        ('[[bind_paths]]\nhost = "x"', "a bind or an env"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, site: str, said: str) -> None:
    for text in (site, site.replace("bind_paths", "locked.bind_paths")):
        with pytest.raises(SettingsError, match=rf"site\.toml, bind_paths: .*{said}"):
            settings(tmp_path, text)


@pytest.mark.parametrize("site", ['bind_paths = ["/a:/b:rx"]', 'bind_paths = [{bind = "/a:b", host = "no-such-node"}]'])
def test_binds_that_do_not_parse_name_file_and_key(tmp_path: Path, site: str) -> None:
    with pytest.raises(SettingsError, match=r"site\.toml, bind_paths: '/a:"):
        site_binds(settings(tmp_path, site))


def test_tables_in_brackets(tmp_path: Path) -> None:
    found = settings(tmp_path, '[[bind_paths]]\nbind = "/a"\n[[bind_paths]]\nbind = "/b"\ngpu = false\n')
    assert found.bind_paths == (BindRule(("/a",)), BindRule(("/b",), gpu="none"))


def test_the_sites_apptainer_gets_the_variables_too() -> None:
    found = variables({"CRAY_A": "a", "OTHER": "o"}, job=False, passed=("CRAY_*",))
    assert found == {"CRAY_A": "a", "OTHER": "o", "APPTAINERENV_CRAY_A": "a"}
