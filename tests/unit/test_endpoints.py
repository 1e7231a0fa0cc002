"""Where an image is asked for: which rule counts, and what mirrors and locations make of a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.errors import AccessDenied, InvalidReference, SettingsError
from hpcc.oci.reference import Reference
from hpcc.registry.endpoints import (
    Endpoint,
    Mirror,
    Rule,
    find_endpoints,
    find_rule,
    parse_location,
    parse_prefix,
    version_of,
    with_mirrors,
)

DIGEST = f"sha256:{'a' * 64}"


def rule(
    prefix: str, location: str = "", *mirrors: Mirror | str, insecure: bool = False, blocked: bool = False
) -> Rule:
    found = tuple(Mirror(mirror) if isinstance(mirror, str) else mirror for mirror in mirrors)
    return Rule(prefix, location, insecure, blocked, found, "/site.conf")


def ask(name: str, *rules: Rule, nohttps: bool = False, insecure: tuple[str, ...] = ()) -> list[str]:
    """scheme://host/repository of each endpoint, in order."""
    found = find_endpoints(Reference.parse(name), rules, nohttps=nohttps, insecure=insecure)
    assert [endpoint.mirror for endpoint in found] == [True] * (len(found) - 1) + [False]
    return [f"{endpoint.scheme}://{endpoint.host}/{endpoint.repository}" for endpoint in found]


# Without rules


def test_without_rules() -> None:
    assert ask("debian:12") == ["https://registry-1.docker.io/library/debian"]
    assert ask("quay.io/a/b") == ["https://quay.io/a/b"]
    assert find_endpoints(Reference.parse("[::1]:5000/a"), (), nohttps=False, insecure=()) == (
        Endpoint("[::1]:5000", "a", "https", mirror=False, for_tags=True, for_digests=True),
    )


def test_nohttps_and_insecure_hosts() -> None:
    assert ask("quay.io/a", nohttps=True) == ["http://quay.io/a"]
    assert ask("quay.io/a", insecure=("Quay.io",)) == ["insecure://quay.io/a"]
    assert ask("quay.io/a", insecure=("quay.io",), nohttps=True) == ["http://quay.io/a"]
    assert ask("quay.io/a", insecure=("quay.io:5000", "io", "a.quay.io")) == ["https://quay.io/a"]
    assert ask("debian", insecure=("index.docker.io",)) == ["insecure://registry-1.docker.io/library/debian"]


# Mirrors


def test_mirrors_in_order_then_the_registry() -> None:
    hub = rule("docker.io", "docker.io", "mirror.site:5000", "cache.site/hub")
    assert ask("debian:12", hub) == [
        "https://mirror.site:5000/library/debian",
        "https://cache.site/hub/library/debian",
        "https://registry-1.docker.io/library/debian",
    ]
    assert ask("user/name", hub)[1] == "https://cache.site/hub/user/name"
    assert ask("quay.io/a", hub) == ["https://quay.io/a"]


def test_schemes_of_mirrors() -> None:
    hub = rule("docker.io", "", "http://a.site", "https://b.site", "c.site", Mirror("d.site", insecure=True))
    name = "library/debian"
    assert ask("debian", hub) == [
        f"http://a.site/{name}", f"https://b.site/{name}", f"https://c.site/{name}", f"insecure://d.site/{name}",
        f"https://registry-1.docker.io/{name}",
    ]  # fmt: skip
    assert ask("debian", hub, insecure=("b.site", "c.site"))[:4] == [
        f"http://a.site/{name}", f"insecure://b.site/{name}", f"insecure://c.site/{name}", f"insecure://d.site/{name}",
    ]  # fmt: skip
    assert ask("debian", hub, nohttps=True) == [
        f"http://a.site/{name}", f"https://b.site/{name}", f"http://c.site/{name}", f"http://d.site/{name}",
        f"http://registry-1.docker.io/{name}",
    ]  # fmt: skip


def test_insecure_is_the_locations_not_the_mirrors() -> None:
    found = ask("quay.io/a", rule("quay.io", "inner.site", "mirror.site", insecure=True))
    assert found == ["https://mirror.site/a", "insecure://inner.site/a"]


def test_what_mirrors_are_asked_for() -> None:
    mirrors = (Mirror("a.site", for_tags=False), Mirror("b.site", for_digests=False))
    found = find_endpoints(Reference.parse("quay.io/a"), (rule("quay.io", "", *mirrors),), nohttps=False, insecure=())
    assert [(endpoint.for_tags, endpoint.for_digests) for endpoint in found] == [
        (False, True), (True, False), (True, True)
    ]  # fmt: skip


# Locations


def test_location_in_place_of_the_prefix() -> None:
    foo = rule("example.com/foo", "inner.site/bar")
    assert ask("example.com/foo/image:latest", foo) == ["https://inner.site/bar/image"]
    assert ask("example.com/foo", foo) == ["https://inner.site/bar"]
    assert ask("example.com/foobar", foo) == ["https://example.com/foobar"]


def test_docker_hub_as_a_location() -> None:
    assert ask("example.com/debian", rule("example.com", "docker.io")) == [
        "https://registry-1.docker.io/library/debian"
    ]
    assert ask("example.com/a/b", rule("example.com", "docker.io")) == ["https://registry-1.docker.io/a/b"]


def test_a_location_that_leaves_no_repository() -> None:
    with pytest.raises(SettingsError, match=r"/site\.conf: mirror\.site") as caught:
        ask("example.com/foo", rule("example.com/foo", "", "mirror.site"))
    assert caught.value.hint
    assert ask("example.com/foo/x", rule("example.com/foo", "", "mirror.site"))[0] == "https://mirror.site/x"


def test_blocked() -> None:
    closed = rule("docker.io", "docker.io", "mirror.site", blocked=True)
    with pytest.raises(AccessDenied, match=r"/site\.conf blocks docker\.io") as caught:
        ask("debian", closed)
    assert caught.value.hint
    assert ask("user/name", closed, rule("docker.io/user"))


# Which rule counts


def test_prefixes_end_where_parts_end() -> None:
    assert find_rule(Reference.parse("example.com/foo/x"), [rule("example.com/fo")]) is None
    assert find_rule(Reference.parse("example.com.evil.org/x"), [rule("example.com")]) is None
    assert find_rule(Reference.parse("example.com:5000/x"), [rule("example.com")]) is None
    assert find_rule(Reference.parse("example.com/x"), [rule("example.com:5000")]) is None
    assert find_rule(Reference.parse("example.com:5000/x"), [rule("example.com:5000")])


def test_library_must_be_written_out() -> None:
    debian = Reference.parse("debian")
    assert find_rule(debian, [rule("docker.io/debian")]) is None
    assert find_rule(debian, [rule("docker.io/library/debian")])
    assert find_rule(debian, [rule("docker.io/library")])


def test_prefix_with_a_tag_or_digest() -> None:
    tagged, pinned = rule("example.com/a:1", "inner.site/b"), rule(f"example.com/a@{DIGEST}", "inner.site/c")
    assert ask("example.com/a:1", tagged, pinned) == ["https://inner.site/b"]
    assert ask("example.com/a:2", tagged, pinned) == ["https://example.com/a"]
    assert ask("example.com/a:11", tagged, pinned) == ["https://example.com/a"]
    assert ask("example.com/a/b:1", tagged, pinned) == ["https://example.com/a/b"]
    assert ask(f"example.com/a:2@{DIGEST}", tagged, pinned) == ["https://inner.site/c"]
    assert ask(f"example.com/a:1@{DIGEST}", tagged, rule(f"example.com/a:1@{DIGEST}", "x.site/d")) == [
        "https://x.site/d"
    ]


def test_wildcards() -> None:
    wild = rule("*.example.com", "", "mirror.site/x")
    for host in ("a.example.com", "a.b.example.com", "a.example.com:5000"):
        assert ask(f"{host}/n/m", wild) == ["https://mirror.site/x/n/m", f"https://{host}/n/m"]
    for name in ("example.com/n", "aexample.com/n", "a.example.com.org/n", "other.org/a.example.com/n"):
        assert find_rule(Reference.parse(name), [wild]) is None
    assert ask("a.example.com/n", rule("*.example.com", "inner.site/y")) == ["https://inner.site/y/n"]
    assert ask("a.example.com/n", wild, rule("*.com", "far.site")) == ask("a.example.com/n", wild)


@pytest.mark.parametrize("order", [1, -1])
def test_a_host_before_a_wildcard_of_its_length(order: int) -> None:
    rules = [rule("*.example.com", "", "m.site"), rule("a.example.com")][::order]
    assert ask("a.example.com/n", *rules) == ["https://a.example.com/n"]


PARTS = ["example.com", "a", "b", "a", "b"]


@given(
    st.lists(st.integers(1, 5), unique=True),
    st.lists(st.sampled_from(["example.com/a/x", "example.co", "example.com:80", "b.com"]), unique=True),
    st.randoms(),
)
def test_the_longest_prefix_counts(lengths: list[int], others: list[str], random: object) -> None:
    rules = [rule("/".join(PARTS[:length])) for length in lengths] + [rule(other) for other in others]
    random.shuffle(rules)  # type: ignore[attr-defined]
    found = find_rule(Reference.parse("/".join(PARTS)), rules)
    assert (found.prefix if found else "") == "/".join(PARTS[: max(lengths, default=0)])


# Spellings


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("Example.COM/a/", "example.com/a"), ("Docker.io", "docker.io"), ("registry-1.docker.io/x", "docker.io/x"),
        ("*.Example.com", "*.example.com"), ("localhost", "localhost"), ("host:5000", "host:5000"),
        ("[0::1]:5000/a", "[::1]:5000/a"), ("a.b/c:1.0", "a.b/c:1.0"), (f"a.b/c@{DIGEST}", f"a.b/c@{DIGEST}"),
        (f"a.b:80/c:1@{DIGEST}", f"a.b:80/c:1@{DIGEST}"), ("docker.io/debian", "docker.io/debian"),
    ],
)  # fmt: skip
def test_prefixes(text: str, prefix: str) -> None:
    assert parse_prefix(text) == prefix == parse_prefix(prefix)


@pytest.mark.parametrize(
    "text",
    ["", "/", "debian", "docker://a.b", "https://a.b", "a.b//c", "a.b/C", "a b.c", "a.b:port", "a.b/c:", "a.b/c@x",
     "*", "*.", "*.a.b/c", "*.a.b:80", "a.*.b", "*a.b", "a.b/c\n", "[::1", "-.b", "a.b/" + "c" * 300],
)  # fmt: skip
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_prefix(text)


def test_locations() -> None:
    assert parse_location("Mirror.site:5000/hub/") == "mirror.site:5000/hub"
    assert parse_location("http://Mirror.site", scheme=True) == "http://mirror.site"
    assert parse_location("a.b/c:1", version=":1") == "a.b/c"
    for text in ("http://a.b", "a.b/c:1", "*.a.b", "hub"):
        with pytest.raises(InvalidReference):
            parse_location(text)
    for text in ("ftp://a.b", "http://", "http://http://a.b", "docker://a.b"):
        with pytest.raises(InvalidReference):
            parse_location(text, scheme=True)
    with pytest.raises(InvalidReference, match="as its prefix does"):
        parse_location("a.b/c:2", version=":1")


def test_version_of() -> None:
    assert [version_of(text) for text in ("a.b:80", "a.b:80/c", "a.b/c:1", f"a.b/c:1@{DIGEST}", "*.a.b")] == [
        "", "", ":1", f":1@{DIGEST}", ""
    ]  # fmt: skip


@given(st.text(alphabet="ab.:/@*-[]1A", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_prefix_or_refused(text: str) -> None:
    try:
        prefix = parse_prefix(text)
    except InvalidReference:
        return
    assert parse_prefix(prefix) == prefix


# The setting


def test_setting_alone() -> None:
    rules = with_mirrors((("index.docker.io", ("http://m.site:5000", "C.site/hub")), ("quay.io", ("q.site",))), (), "X")
    assert ask("debian", *rules) == [
        "http://m.site:5000/library/debian", "https://c.site/hub/library/debian",
        "https://registry-1.docker.io/library/debian",
    ]  # fmt: skip
    assert ask("quay.io/a", *rules) == ["https://q.site/a", "https://quay.io/a"]
    assert with_mirrors((), rules, "X") == rules


def test_setting_replaces_mirrors_and_nothing_else() -> None:
    conf = (rule("docker.io", "inner.site/hub", "old.site", insecure=True), rule("quay.io", "", "q.site"))
    rules = with_mirrors([("docker.io", ["new.site"])], conf, "X")
    assert ask("debian", *rules) == ["https://new.site/library/debian", "insecure://inner.site/hub/library/debian"]
    assert ask("quay.io/a", *rules) == ["https://q.site/a", "https://quay.io/a"]
    assert ask("quay.io/a", *with_mirrors([("quay.io", [])], conf, "X")) == ["https://quay.io/a"]


def test_setting_for_a_part_of_what_a_rule_covers() -> None:
    conf = (rule("docker.io", "inner.site/hub", "old.site"), rule("*.example.com", "far.site"))
    rules = with_mirrors([("docker.io/library", ["new.site"]), ("*.a.example.com", ["new.site"])], conf, "X")
    assert ask("debian", *rules) == ["https://new.site/debian", "https://inner.site/hub/library/debian"]
    assert ask("user/name", *rules) == ["https://old.site/user/name", "https://inner.site/hub/user/name"]
    assert ask("x.a.example.com/n", *rules) == ["https://new.site/n", "https://far.site/n"]
    tagged = with_mirrors([("docker.io/user/name:1", ["new.site/n"])], conf, "X")
    assert ask("user/name:1", *tagged) == ["https://new.site/n", "https://inner.site/hub/user/name"]


def test_setting_lifts_no_block() -> None:
    rules = with_mirrors([("docker.io/library", ["new.site"])], (rule("docker.io", blocked=True),), "X")
    with pytest.raises(AccessDenied, match=r"/site\.conf"):
        ask("debian", *rules)


@pytest.mark.parametrize(("prefix", "mirror"), [("hub", "a.b"), ("docker.io", "hub"), ("docker.io", "ftp://a.b")])
def test_mistakes_in_the_setting(prefix: str, mirror: str) -> None:
    with pytest.raises(SettingsError, match="HPCC_MIRRORS: mirrors of") as caught:
        with_mirrors([(prefix, [mirror])], (), "HPCC_MIRRORS")
    assert caught.value.hint
