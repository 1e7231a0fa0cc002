"""Dockerfiles as definition files."""

import pytest

from hpcc.definition.parse import parse
from hpcc.definition.recipe import instructions, translate
from hpcc.errors import InvalidDefinition

DOCKERFILE = r"""# syntax=docker/dockerfile:1
ARG VERSION=12
FROM debian:${VERSION} AS build
ENV A=1 B="two words" PATH=/opt/bin:$PATH
RUN apt-get update && \
    # a comment between
    apt-get install -y gcc
WORKDIR /src
COPY --chown=1:1 main.c lib/ ./
RUN ["gcc", "-o", "/out/a b", "main.c"]
RUN <<EOF
echo one
echo two
EOF

FROM scratch
ARG FLAVOUR
LABEL vendor=me title="A tool"
COPY --from=build /out /out
COPY --from=busybox:1 /bin/busybox /bin/
EXPOSE 80
VOLUME /data
USER nobody
ONBUILD RUN x
STOPSIGNAL 9
ENTRYPOINT ["/out/a b", "$HOME"]
CMD ["--help"]
HEALTHCHECK --interval=5s CMD /out/check --now
"""


def test_the_whole_table() -> None:
    recipe = translate(DOCKERFILE, "D", lambda path: path == "lib/")
    first, other, last = parse(recipe.text, "d", {"FLAVOUR": "x"})[0].stages
    assert (first.header["from"], first.name) == ("debian:12", "build")
    post = first.section("post").text
    assert 'export B="two words"\n' in post and 'export PATH="/opt/bin:$PATH"' in post
    assert "apt-get update && \\\n" in post and "mkdir -p /src\n    cd /src\n" in post
    assert "gcc -o '/out/a b' main.c\n" in post and "echo one\n    echo two\n" in post
    assert post.index("export A") < post.index("apt-get") < post.index("mkdir") < post.index("echo one")
    assert first.section("environment").text.count("export") == 3
    assert [tuple(each) for each in first.files[0].transfers] == [("main.c", "/src/"), ("lib/.", "/src/")]
    assert other.header["from"] == other.name == "busybox:1"
    assert {each.stage: each.transfers for each in last.files} == {
        "build": (("/out", "/out"),), "busybox:1": (("/bin/busybox", "/bin/"),)
    }  # fmt: skip
    assert last.labels == {"vendor": "me", "title": "A tool"}
    assert last.section("test").text.strip() == "/out/check --now"
    assert last.section("runscript").text.split("\n")[:2] == [
        "    [ $# -gt 0 ] || set -- --help", "    exec '/out/a b' '$HOME' \"$@\""
    ]  # fmt: skip
    said = "\n".join(recipe.warnings)
    for name in ("EXPOSE", "VOLUME", "USER", "ONBUILD", "STOPSIGNAL", "--chown=1:1"):
        assert name in said
    assert len(recipe.warnings) == 6


@pytest.mark.parametrize(
    ("lines", "runscript"),
    [
        ("CMD a b", "[ $# -gt 0 ] || set -- /bin/sh -c 'a b'\n    exec \"$@\""),
        ('CMD ["a"]', '[ $# -gt 0 ] || set -- a\n    exec "$@"'),
        ("ENTRYPOINT a $X", "exec /bin/sh -c 'a $X'"),
        ('CMD ["x"]\nENTRYPOINT ["a"]', 'exec a "$@"'),
        ('WORKDIR /w\nWORKDIR v\nENTRYPOINT ["a"]', 'cd /w/v\n    exec a "$@"'),
    ],
)
def test_runscripts(lines: str, runscript: str) -> None:
    found = parse(translate(f"FROM a\n{lines}\n").text)[0].stages[0]
    assert found.section("runscript").text == f"    {runscript}\n"


def test_instructions() -> None:
    found = instructions("# escape=`\nrun a `\n  b\n\n  label x=1\n")
    assert [(each.number, each.name, each.text) for each in found] == [(2, "RUN", "a \n  b"), (5, "LABEL", "x=1")]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "D has no FROM"), ("RUN x\n", "D:1:1: RUN stands before"), ("FROM a\n\nRAN x\n", "D:3:1: there is no"),
        ("FROM a as\n", "D:1:1: FROM"), ("FROM a\nCOPY x\n", "D:2:1: COPY"), ("FROM a\nRUN <<E\nx\n", "D:2:1: <<E"),
    ],
)  # fmt: skip
def test_what_does_not_parse(text: str, where: str) -> None:
    with pytest.raises(InvalidDefinition) as error:
        translate(text, "D")
    assert error.value.message.startswith(where)
