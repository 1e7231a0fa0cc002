"""Definition files: what parses to what, and what is said of those that do not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.definition.model import APP_SECTIONS, SECTIONS, Script, Transfer, base_uri, parse_labels
from hpcc.definition.parse import parse
from hpcc.definition.templates import parse_arguments
from hpcc.errors import InvalidDefinition, UsageError

HEAD = "Bootstrap: docker\nFrom: debian:12\n"


def stage(text: str, **arguments: str):
    (found,) = parse(text, "x.def", arguments)[0].stages
    return found


def test_everything_has_its_place() -> None:
    found = stage(
        "# a comment\n\nBOOTSTRAP: Docker # why\n  From: debian:12\nIncludeCmd: no\n"
        "%setup\n  one\n%files\n  a b\n  c\n  # no file\n  'with a space' \"also here\"\n"
        "%post -c /bin/bash # as bash\n  two\n\n  # stays\n%labels\n  A b c\n  # none\n  D\n"
        "%apprun tool\n  three\n%appenv tool\n  X=1\n%post\n  four\n"
    )
    assert found.header == {"bootstrap": "Docker", "from": "debian:12", "includecmd": "no"}
    assert found.section("setup").text == "  one\n"
    assert found.files[0].transfers == (
        Transfer("a", "b"), Transfer("c", ""), Transfer("with a space", "also here")
    )  # fmt: skip
    assert found.section("post").text == "  two\n\n  # stays\n  four\n"
    assert found.section("post").command("/s") == ("/bin/bash", "/s")
    assert found.labels == {"A": "b c", "D": ""}
    assert found.apps["tool"] == {"apprun": Script("  three\n"), "appenv": Script("  X=1\n")}


def test_stages() -> None:
    text = f"{HEAD}Stage: build\n%post\n  make\n\nBootstrap: scratch\n%files from build\n  /out /\n%files from 0\n /a\n"
    first, second = parse(text)[0].stages
    assert (first.name, second.header) == ("build", {"bootstrap": "scratch"})
    assert [(each.stage, each.transfers) for each in second.files] == [
        ("build", (Transfer("/out", "/"),)), ("0", (Transfer("/a", ""),))
    ]  # fmt: skip


def test_a_header_goes_on_behind_a_backslash() -> None:
    assert stage("Bootstrap: yum\nInclude: one \\\n  two\nMirrorURL: http://x/#y\n").header == {
        "bootstrap": "yum", "include": "one two", "mirrorurl": "http://x/"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "what", "hint"),
    [
        ("", "", "is empty", "Bootstrap"),
        ("# nothing\n", "", "is empty", "Bootstrap"),
        ("From: a\nBootstrap: docker\n", ":1:1", "before the line Bootstrap", "top"),
        ("%post\n true\n" + HEAD, ":1:1", "before the line Bootstrap", "top"),
        (HEAD + "%pots\n  true\n", ":3:1", "no section %pots", "%post?"),
        (HEAD + "%post\n  echo\n  %d\n", ":5:3", "no line of a script can begin with %", "another word"),
        (HEAD + "  %post\n  echo\n", ":3:3", "%post is indented", "first column"),
        ("Bootstrap: docker\nForm: a\n", ":2:1", "no header 'form'", "from?"),
        ("Bootstrap: docker\n  debian\n", ":2:3", "neither KEY: VALUE", "From:"),
        ("Bootstrap: docker\nInclude: a \\\n\n%post\n", ":2:12", "nothing to go on with", "Remove"),
        (HEAD + "%files from nowhere\n a b\n", "", "no stage before it", "Stage: nowhere"),
        (HEAD + "%files form a\n a b\n", ":3:8", "takes no 'form a'", "from STAGE"),
        (HEAD + "%apprun\n true\n", ":3:9", "needs the name of an app", "myapp"),
        (HEAD + "%apprun ../x\n true\n", ":3:9", "cannot be", "myapp"),
        (HEAD + "%post\n echo {{ VERSION }}\n", ":4:7", "VERSION has no value", "--build-arg VERSION="),
        (HEAD + "%arguments\n A\n", ":4:1", "'A' is not NAME=VALUE", "NAME=VALUE"),
        (f"{HEAD}Stage: a\n{HEAD}Stage: a\n", "", "two stages are called a", "another name"),
    ],
)
def test_what_does_not_parse(text: str, where: str, what: str, hint: str) -> None:
    with pytest.raises(InvalidDefinition) as error:
        parse(text, "x.def")
    assert error.value.message.startswith(f"x.def{where}") and what in error.value.message
    assert hint in error.value.hint


def test_templates() -> None:
    text = f"{HEAD}%arguments\n  A=one\n  B = 'two words'\n%post\n  echo {{{{A}}}} {{{{ B }}}} {{{{ .Name }}}}\n"
    assert stage(text).section("post").text == "  echo one two words {{ .Name }}\n"
    definition, unused = parse(text, "x", {"A": "three", "C": "x"})
    assert "  echo three two words" in definition.text and unused == {"C"}


def test_a_stage_has_its_own_defaults() -> None:
    text = "Bootstrap: docker\nFrom: a:{{ V }}\n%arguments\nV=1\nBootstrap: docker\nFrom: b:{{ V }}\n%arguments\nV=2\n"
    assert [each.header["from"] for each in parse(text)[0].stages] == ["a:1", "b:2"]


def test_arguments() -> None:
    assert parse_arguments(["A=1", "B=x=y"], "# c\nA=0\nC = '3 4'\n") == {"A": "1", "B": "x=y", "C": "3 4"}
    with pytest.raises(UsageError, match="--build-arg 'A' is not NAME=VALUE"):
        parse_arguments(["A"])


@pytest.mark.parametrize(
    ("header", "uri"),
    [
        ({"from": "debian:12"}, "docker://debian:12"),
        ({"registry": "quay.io", "from": "a/b"}, "docker://quay.io/a/b"),
        ({"namespace": "u", "from": "n:1"}, "docker://u/n:1"),
        ({"registry": "h:5000", "namespace": "u", "from": "n"}, "docker://h:5000/u/n"),
        ({"bootstrap": "localimage", "from": "x.sif"}, "x.sif"),
        ({"bootstrap": "docker-daemon", "from": "a:1"}, "docker-daemon:a:1"),
        ({"bootstrap": "oci-archive", "from": "/a.tar:ref"}, "oci-archive:/a.tar:ref"),
        ({"bootstrap": "oras", "from": "h/a:1"}, "oras://h/a:1"),
        ({"bootstrap": "library", "from": "u/c/n"}, "library://u/c/n"),
        ({"bootstrap": "https", "from": "https://h/x.sif"}, "https://h/x.sif"),
    ],
)
def test_base_uri(header: dict[str, str], uri: str) -> None:
    assert base_uri({"bootstrap": "docker", **header}) == uri


def test_scripts() -> None:
    assert Script("  echo\n").command("/s") == ("/bin/sh", "-ex", "/s")
    assert Script("x\n", "-e a # b").command("/s") == ("/bin/sh", "-ex", "/s", "-e", "a")
    assert Script("\n  #!/usr/bin/python3\nprint()\n", "-I").executable() == "#!/usr/bin/python3 -I\n\nprint()\n"
    assert Script("  exec x\n").executable() == "#!/bin/sh\n\n  exec x\n"
    with pytest.raises(UsageError, match="-c needs an interpreter"):
        Script("x", "-c").command("/s")


# -- whatever comes ----------------------------------------------------------------------------------------------------

LINES = st.one_of(
    st.sampled_from(
        [*(f"%{name}" for name in (*SECTIONS, *APP_SECTIONS)), "%apprun a", "%files from a", "%files from 0",
         "Bootstrap: docker", "bootstrap: scratch", "From: x", "Stage: a", "# x", "", "{{ A }}", "%", "%%", "\\",
         "Include: a \\", "a=b", "\r", "  'x", '"', "%post -c", "%arguments"]
    ),
    st.text(st.characters(exclude_characters="\n"), max_size=20),
)  # fmt: skip


@given(st.lists(LINES, max_size=25))
def test_a_file_parses_or_says_where_not(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        definition, _ = parse(text, "f")
    except InvalidDefinition as error:
        assert re.match(r"f(:\d+:\d+)?:? ", error.message) and error.hint
        if where := re.match(r"f:(\d+):", error.message):
            assert 1 <= int(where[1]) <= max(1, text.count("\n") + 1)
        return
    assert definition.stages and all(each.header["bootstrap"] is not None for each in definition.stages)
    assert parse(definition.text, "f")[0].stages == definition.stages or "{{" in definition.text


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,8}", fullmatch=True)
WORDS = st.from_regex(r"[a-zA-Z0-9./_-]{1,9}", fullmatch=True)
BODIES = st.lists(st.from_regex(r"(?![ \t]*%)(?!(?i:bootstrap:))[ -z|~]{0,20}", fullmatch=True), max_size=4)


@given(
    st.dictionaries(st.sampled_from([name for name in SECTIONS if name not in ("files", "arguments")]), BODIES),
    st.lists(st.tuples(WORDS, WORDS), max_size=4),
    st.dictionaries(NAMES, WORDS, max_size=4),
)
def test_what_is_written_is_read(
    sections: dict[str, list[str]], files: list[tuple[str, str]], labels: dict[str, str]
) -> None:
    sections["labels"] = [f"{key} {value}" for key, value in labels.items()]
    parts = [f"%{name}\n" + "".join(f"{line}\n" for line in body) for name, body in sections.items()]
    parts.append("%files\n" + "".join(f"  {source} {target}\n" for source, target in files))
    found = stage(HEAD + "".join(parts))
    assert {name: script.text for name, script in found.sections.items()} == {
        name: "".join(f"{line}\n" for line in body) for name, body in sections.items()
    }
    assert [tuple(each) for each in found.files[0].transfers] == files
    assert found.labels == labels == parse_labels(found.section("labels").text)
