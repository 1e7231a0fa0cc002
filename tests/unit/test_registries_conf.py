"""registries.conf: what its keys mean, which files are read, and what is said of mistakes."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcc.errors import AccessDenied, SettingsError
from hpcc.oci.reference import Reference
from hpcc.registry.endpoints import Mirror, Rule, find_endpoints
from hpcc.registry.registries_conf import load_rules, parse, rules_of

DIGEST = f"sha256:{'a' * 64}"
MAN_PAGE = """
unqualified-search-registries = ["example.com"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json"]

[aliases]
debian = "docker.io/library/debian"

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "inner.example.net/bar"

[[registry.mirror]]
location = "mirror-0.local/mirror-for-foo"
proxy = "http://proxy.example.com:8000"

[[registry.mirror]]
location = "mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"""


def read(text: str) -> tuple[Rule, ...]:
    return parse(text.encode(), "/f.conf")


def ask(name: str, rules: tuple[Rule, ...]) -> list[str]:
    found = find_endpoints(Reference.parse(name), rules, nohttps=False, insecure=())
    return [f"{endpoint.scheme}://{endpoint.host}/{endpoint.repository}" for endpoint in found]


# The format


def test_example_of_the_man_page() -> None:
    rules = read(MAN_PAGE)
    assert ask("example.com/foo/image:latest", rules) == [
        "https://mirror-0.local/mirror-for-foo/image",
        "insecure://mirror-1.local/mirrors/foo/image",
        "https://inner.example.net/bar/image",
    ]
    assert ask("registry.com/image", rules) == ["https://mirror.registry.com/image", "https://registry.com/image"]
    assert ask("debian", rules) == ["https://registry-1.docker.io/library/debian"]


def test_prefix_is_the_location_by_default_and_the_other_way_round() -> None:
    plain = Rule("a.example/x", "a.example/x", False, False, (), "/f.conf")
    assert read('[[registry]]\nlocation = "a.example/x"') == (plain,)
    assert read('[[registry]]\nprefix = "a.example/x"') == (plain,)
    assert read('[[registry]]\nprefix = "A.example/x/"\nlocation = ""') == (plain,)


def test_a_wildcard_without_location_leaves_names_alone() -> None:
    rules = read('[[registry]]\nprefix = "*.example.com"\ninsecure = true\n[[registry.mirror]]\nlocation = "m.site/x"')
    assert ask("blah.example.com/foo/image", rules) == [
        "https://m.site/x/foo/image", "insecure://blah.example.com/foo/image"
    ]  # fmt: skip


def test_docker_hub_under_its_names() -> None:
    rules = read('[[registry]]\nlocation = "registry-1.docker.io"\n[[registry.mirror]]\nlocation = "m.site:5000"')
    assert ask("debian", rules) == ["https://m.site:5000/library/debian", "https://registry-1.docker.io/library/debian"]


def test_blocked() -> None:
    with pytest.raises(AccessDenied, match=r"/f\.conf blocks docker\.io"):
        ask("debian", read('[[registry]]\nlocation = "docker.io"\nblocked = true'))


@pytest.mark.parametrize(
    ("use", "tags", "digests"),
    [("", True, True), ("all", True, True), ("digest-only", False, True), ("tag-only", True, False)],
)
def test_pull_from_mirror(use: str, tags: bool, digests: bool) -> None:
    (rule,) = read(
        f'[[registry]]\nlocation = "a.b"\n[[registry.mirror]]\nlocation = "m.site"\npull-from-mirror = "{use}"'
    )
    assert rule.mirrors == (Mirror("m.site", False, tags, digests),)


def test_mirror_by_digest_only() -> None:
    text = '[[registry]]\nlocation = "a.b"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "m.site"'
    assert read(text)[0].mirrors == (Mirror("m.site", False, False, True),)
    with pytest.raises(SettingsError, match=r"\(a\.b\): mirror 1: pull-from-mirror beside"):
        read(f'{text}\npull-from-mirror = "all"')


def test_prefix_with_a_tag() -> None:
    text = '[[registry]]\nprefix = "a.b/c:1"\nlocation = "x.y/d:1"\n[[registry.mirror]]\nlocation = "m.site/e:1"'
    assert ask("a.b/c:1", read(text)) == ["https://m.site/e", "https://x.y/d"]
    assert ask("a.b/c:2", read(text)) == ["https://a.b/c"]
    assert ask(f"a.b/c@{DIGEST}", read(f'[[registry]]\nprefix = "a.b/c@{DIGEST}"\ninsecure = true')) == [
        "insecure://a.b/c"
    ]
    with pytest.raises(SettingsError, match="must end in :1"):
        read(text.replace("e:1", "e:2"))
    with pytest.raises(SettingsError, match="no tag"):
        read('[[registry]]\nprefix = "a.b/c"\nlocation = "x.y/d:1"')


def test_the_first_of_two_in_a_file() -> None:
    rules = read('[[registry]]\nlocation = "a.b"\ninsecure = true\n[[registry]]\nlocation = "A.b"')
    assert [rule.insecure for rule in rules] == [True]


def test_nothing_there() -> None:
    assert read("") == read("# nothing") == read("registry = []") == read("[aliases]") == ()


def test_version_1_is_refused() -> None:
    with pytest.raises(SettingsError, match="version 1") as caught:
        read("[registries.search]\nregistries = ['docker.io']")
    assert "/f.conf" in caught.value.message and "[[registry]]" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[registry", "/f.conf"),
        ("registry = 1", "array of tables"),
        ("[registry]\nlocation = 'a.b'", "array of tables"),
        ("registry = ['a.b']", "array of tables"),
        ("[[registry]]", "registry 1 .*neither"),
        ("[[registry]]\nlocation = 'a.b'\n[[registry]]\nlocation = 1", "registry 2: location must be a string"),
        ("[[registry]]\nlocation = 'a.b'\ninsecure = 'yes'", r"\(a\.b\): insecure must be true or false"),
        ("[[registry]]\nlocation = 'a.b'\nblocked = 1", "blocked must"),
        ("[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = 'x'", "mirror-by-digest-only must"),
        ("[[registry]]\nlocation = 'a.b'\nmirror = 'm.site'", "mirror must be an array"),
        ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true", "mirror 1: no location"),
        ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'http://m.site'", "no scheme"),
        ("[[registry]]\nlocation = 'https://a.b'", "does not begin|no scheme"),
        ("[[registry]]\nlocation = 'hub'", "does not begin with a host"),
        ("[[registry]]\nprefix = '*.a.b/c'", r"behind \*\."),
        ("[[registry]]\nlocation = '*.a.b'", "no host"),
        ("[[registry]]\nlocation = 'a.b'\npull-from-mirror = 'all'", "stands at the registry"),
        ("[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'm.s'\npull-from-mirror = 'x'", "'x'"),
    ],
)
def test_mistakes_name_file_and_entry(text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        read(text)
    assert caught.value.message.startswith("/f.conf") and caught.value.hint


KEYS = ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "pull-from-mirror", "proxy", "x"]
VALUES = st.sampled_from(["a.b", "*.a.b", "a.b/c:1", "hub", "", "all", "tag-only", True, False, 1, [], {}])
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES)


def written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@given(st.lists(st.tuples(TABLES, st.lists(TABLES, max_size=2)), max_size=3))
def test_any_tables_parse_or_are_refused(registries: list[tuple[dict[str, object], list[dict[str, object]]]]) -> None:
    lines: list[str] = []
    for table, mirrors in registries:
        for head, entries in [("[[registry]]", table), *(("[[registry.mirror]]", mirror) for mirror in mirrors)]:
            lines += [head, *(f"{key} = {written(value)}" for key, value in entries.items())]
    try:
        rules = read("\n".join(lines))
    except SettingsError as error:
        assert error.message.startswith("/f.conf: registry ")
        return
    assert len({rule.prefix for rule in rules}) == len(rules) <= len(registries)


@given(st.binary(max_size=200) | st.text(alphabet="[]=\"'registy.{}#\n", max_size=80).map(str.encode))
@settings(max_examples=300)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    try:
        parse(data, "/f.conf")
    except SettingsError as error:
        assert "/f.conf" in error.message


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(SettingsError):
        parse(b"x = " + b"[" * 99_999, "/f.conf")


# The files


class Host:
    """The three places where registries.conf may stand."""

    def __init__(self, top: Path) -> None:
        self.vendor, self.etc, self.home = top / "vendor", top / "etc", top / "home"
        self.user = self.home / ".config/containers"

    def put(self, place: Path, name: str, location: str, prefix: str = "example.com") -> None:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"')

    def load(self, **environ: str) -> dict[str, str]:
        """The location of each prefix."""
        rules = load_rules(environ, str(self.home), etc=str(self.etc), vendor=str(self.vendor))
        return {rule.prefix: rule.location for rule in rules}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_no_files(host: Host) -> None:
    assert host.load() == {}
    assert load_rules({}, "", etc=str(host.etc), vendor=str(host.vendor)) == ()


def test_the_first_main_file_counts(host: Host) -> None:
    for place, location in ((host.vendor, "vendor.site"), (host.etc, "etc.site"), (host.user, "user.site")):
        host.put(place, "registries.conf", location)
        assert host.load() == {"example.com": location}
    host.put(host.home / "xdg/containers", "registries.conf", "xdg.site")
    assert host.load(XDG_CONFIG_HOME=str(host.home / "xdg")) == {"example.com": "xdg.site"}


def test_a_hidden_main_file_is_not_read(host: Host) -> None:
    host.put(host.user, "registries.conf", "user.site")
    (host.etc / "registries.conf").mkdir(parents=True)
    assert host.load() == {"example.com": "user.site"}


def test_drop_ins_in_the_order_of_their_names(host: Host) -> None:
    host.put(host.user, "registries.conf", "main.site")
    host.put(host.etc, "registries.conf.d/20-a.conf", "etc-20.site")
    host.put(host.user, "registries.conf.d/10-b.conf", "user-10.site")
    assert host.load() == {"example.com": "etc-20.site"}
    host.put(host.user, "registries.conf.d/20-b.conf", "user-20.site")
    assert host.load() == {"example.com": "user-20.site"}
    host.put(host.vendor, "registries.conf.d/99-c.conf", "other.site", "other.com")
    assert host.load() == {"example.com": "user-20.site", "other.com": "other.site"}


def test_a_drop_in_hides_one_of_the_same_name(host: Host) -> None:
    host.put(host.etc, "registries.conf.d/50-x.conf", "etc.site", "other.com")
    host.put(host.user, "registries.conf.d/50-x.conf", "user.site")
    assert host.load() == {"example.com": "user.site"}


def test_only_conf_files_are_drop_ins(host: Host) -> None:
    host.put(host.etc, "registries.conf.d/a.conf.bak", "x.site")
    host.put(host.etc, "registries.conf.d/a.conf.d/b.conf", "x.site")
    (host.etc / "registries.conf.d/dir.conf").mkdir()
    (host.etc / "registries.conf.d/gone.conf").symlink_to("nowhere")
    assert host.load() == {}


def test_drop_ins_of_root_and_of_others(host: Host) -> None:
    uid = os.getuid()
    mine, others = ("rootless", "rootful") if uid else ("rootful", "rootless")
    host.put(host.etc, f"registries.{others}.conf.d/a.conf", "x.site", "others.com")
    host.put(host.etc, f"registries.{mine}.conf.d/a.conf", "mine.site")
    assert host.load() == {"example.com": "mine.site"}
    host.put(host.etc, f"registries.rootless.conf.d/{uid}/b.conf", "uid.site")
    assert host.load() == {"example.com": "uid.site" if uid else "mine.site"}


def test_the_variables(host: Host, tmp_path: Path) -> None:
    for place in (host.vendor, host.etc, host.user):
        host.put(place, "registries.conf", "x.site", "x.com")
        host.put(place, "registries.conf.d/a.conf", "y.site", "y.com")
    host.put(tmp_path, "own.conf", "own.site")
    own = str(tmp_path / "own.conf")
    assert host.load(CONTAINERS_REGISTRIES_CONF=own) == {"example.com": "own.site"}
    assert host.load(CONTAINERS_REGISTRIES_CONF="/dev/null") == {}
    host.put(tmp_path, "last.conf", "last.site")
    last = str(tmp_path / "last.conf")
    both = {"CONTAINERS_REGISTRIES_CONF": own, "CONTAINERS_REGISTRIES_CONF_OVERRIDE": last}
    assert host.load(**both) == {"example.com": "last.site"}
    assert host.load(CONTAINERS_REGISTRIES_CONF_OVERRIDE=last)["y.com"] == "y.site"
    for variable in both:
        with pytest.raises(SettingsError, match="gone"):
            host.load(**{variable: str(tmp_path / "gone")})


@pytest.mark.parametrize("name", ["registries.conf", "registries.conf.d/a.conf"])
def test_mistakes_name_the_file(host: Host, name: str) -> None:
    host.put(host.etc, name, "hub")
    with pytest.raises(SettingsError) as caught:
        host.load()
    assert str(host.etc / name) in caught.value.message


def test_what_cannot_be_read_is_named(host: Host) -> None:
    (host.etc / "registries.conf").mkdir(parents=True)
    with pytest.raises(SettingsError, match="Is a directory") as caught:
        host.load()
    assert str(host.etc / "registries.conf") in caught.value.message and caught.value.hint


def test_a_directory_that_cannot_be_read_is_named(host: Host) -> None:
    host.etc.mkdir()
    (host.etc / "registries.conf.d").symlink_to("registries.conf.d")  # as a mode of 0 would be, for root too
    with pytest.raises(SettingsError, match=r"registries\.conf\.d: Too many levels"):
        host.load()


def test_setting_and_files_together(tmp_path: Path) -> None:
    path = tmp_path / "own.conf"
    path.write_text('[[registry]]\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "old.site"')
    environ = {"CONTAINERS_REGISTRIES_CONF": str(path)}
    assert ask("debian", rules_of((), environ, ""))[0] == "https://old.site/library/debian"
    rules = rules_of((("docker.io", ("http://new.site",)),), environ, "")
    assert ask("debian", rules) == ["http://new.site/library/debian", "https://registry-1.docker.io/library/debian"]
    with pytest.raises(SettingsError, match=r"HPCC_MIRRORS: mirrors of 'hub'"):
        rules_of((("hub", ("m.site",)),), environ, "", origin="HPCC_MIRRORS")
