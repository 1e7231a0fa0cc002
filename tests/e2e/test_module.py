"""hpcc module, with the real Lmod and Environment Modules."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_pull import CONFIG, LAYERS, Puller, hpcc, registry  # noqa: F401
from tests.support.images import _file, _link, layer
from tests.support.pulls import config_of
from tests.support.real import need

TOOLS = layer(
    {
        "opt/tool/bin/blast": _file("#!/bin/sh\nprintf '[%s]' blast \"$@\"\n", 0o755),
        "opt/tool/bin/alias": _link("blast"),
        "opt/tool/bin/out": _link("/../../../etc/greeting"),
        "opt/tool/bin/notes": _file("no command\n", 0o644),
        "opt/tool/bin/lost": _link("nowhere"),
        "opt/tool/bin/odd $(id)": _file("#!/bin/sh\necho odd\n", 0o755),
    }
)
LABELS = {"org.opencontainers.image.description": 'aligns "things"; $HOME [exec id]\n]] }'}


@pytest.fixture
def tools(hpcc: Puller) -> Puller:  # noqa: F811
    layers = [*LAYERS, TOOLS]
    config = config_of(layers, config={"Env": ["PATH=/opt/tool/bin:/bin"], "Cmd": ["sh"], "Labels": LABELS})
    hpcc.registry.add_image("lab/blast", "2.1", layers, config, index=True)
    return hpcc


def make(tools: Puller, *argv: object, status: int = 0) -> "subprocess.CompletedProcess[str]":
    uri = f"docker://{tools.registry.host}/lab/blast:2.1"
    done: subprocess.CompletedProcess[str] = tools("module", "--out", tools.path("modules"), *argv, uri)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    return done


def lmod(tools: Puller, script: str) -> "subprocess.CompletedProcess[str]":
    need("lua5.3")
    init = "/usr/share/lmod/lmod/init/sh"
    return in_shell(tools, f". {init}; {script}")


def modules(tools: Puller, script: str) -> "subprocess.CompletedProcess[str]":
    command = need("hpcc-test-modulecmd")
    return in_shell(tools, f'module() {{ eval "$({command} sh "$@")"; }}; {script}')


def in_shell(tools: Puller, script: str) -> "subprocess.CompletedProcess[str]":
    env = {**tools.env, "MODULEPATH": str(tools.path("modules")), "LMOD_PAGER": "none", "LMOD_ALLOW_ROOT_USE": "yes"}
    return tools.person.run(["bash", "-c", script], env=env)


@pytest.mark.parametrize("load", [lmod, modules], ids=["lmod", "modules"])
def test_a_module_gives_the_commands(tools: Puller, load: object) -> None:
    make(tools, "--with", "--env=FROM=module")
    done = load(tools, "module load blast/2.1 && command -v blast && blast 'a  b' '$HOME' '' && alias; module list")  # type: ignore[operator]
    lines = done.stdout.splitlines()
    assert lines[0] == str(tools.path("modules/blast/.2.1/bin/blast")), done.stderr
    assert lines[1] == "[blast][a  b][$HOME][]", done.stderr
    assert "blast/2.1" in done.stdout + done.stderr
    done = load(
        tools,
        "module whatis blast/2.1; module help blast/2.1; module load blast; module unload blast; echo $PATH",
    )  # type: ignore[operator]
    said = done.stdout + done.stderr
    assert 'Description: aligns "things"; $HOME [exec id] ]] }' in said, said
    assert "alias blast" in said and "sha256:" in said and ".2.1" not in done.stdout.splitlines()[-1]


def test_it_is_pinned_to_the_digest(tools: Puller) -> None:
    make(tools)
    script = tools.path("modules/blast/.2.1/bin/blast").read_text()
    index = next(tag for name, tag in tools.registry.manifests if name == "lab/blast" and f"@{tag}" in script)
    assert index.startswith("sha256:") and ":2.1" not in script
    tools.registry.add_image("lab/blast", "2.1", LAYERS, CONFIG, index=True)  # the tag moves on
    asked = len(tools.registry.requests)
    done = modules(tools, "module load blast; blast")
    assert done.stdout == "[blast]" and len(tools.registry.requests) == asked, done.stderr


def test_which_commands(tools: Puller) -> None:
    """Those outside of /bin, no links that lead nowhere, no odd names; or what is named."""
    make(tools)
    made = tools.path("modules/blast/.2.1/bin")
    assert sorted(path.name for path in made.iterdir()) == ["alias", "blast"]
    listed = make(tools, "--list").stdout
    assert {"blast", "alias", "sh", "cat"} <= {line.split()[0] for line in listed.splitlines()}
    assert (
        "notes" not in listed
        and "lost" not in listed
        and "out" not in {line.split()[0] for line in listed.splitlines()}
    )
    assert "is there already" in make(tools, "--commands", "cat", status=255).stderr
    assert made.joinpath("blast").exists()
    make(tools, "--force", "--commands", "cat,/opt/tool/bin/odd $(id)")
    assert sorted(path.name for path in made.iterdir()) == ["cat", "odd $(id)"]
    assert modules(tools, "module load blast; 'odd $(id)'; cat /etc/greeting").stdout == "odd\nhello from the image\n"
    assert "has no command nosuch" in make(tools, "--force", "--commands", "nosuch", status=255).stderr
    done = tools("module", "--out", tools.path("modules"), "--force", tools.uri)  # only a busybox in /bin
    assert sorted(path.name for path in tools.path("modules/tools/.1.4/bin").iterdir()) == ["echo"], done.stderr


def test_names_and_places(tools: Puller) -> None:
    make(tools, "--name", "bio/blast", "--version", "2.1-gpu", "--with", "--nv", "--with=--bind=/tmp")
    path: Path = tools.path("modules/bio/blast/.2.1-gpu/bin/blast")
    assert "exec --nv --bind=/tmp -- docker://" in path.read_text()
    for argv in (["--name", "../x"], ["--version", ".x"], ["--name", "a//b"], ["--with", "x"], ["--with", "--nosuch"]):
        make(tools, *argv, status=255)
    tools("pull", tools.uri)
    done = tools("module", "--out", tools.path("modules"), "tools_1.4.sif")
    assert done.returncode == 0, done.stderr
    text = tools.path("modules/tools/.1.4/bin/echo").read_text()
    assert str(tools.path("tools_1.4.sif")) in text
    assert lmod(tools, "module load tools/1.4; command -v echo; $(command -v env) echo x").stdout.endswith("x\n")


def test_a_place_where_nobody_may_write(tools: Puller) -> None:
    tools.path("file").write_text("")
    uri = f"docker://{tools.registry.host}/lab/blast:2.1"
    done = tools("module", "--out", tools.path("file/modules"), uri)
    assert done.returncode == 255 and "cannot write" in done.stderr and "Traceback" not in done.stderr


def test_help_and_mistakes(tools: Puller) -> None:
    assert max(map(len, tools("module", "--help").stdout.splitlines())) <= 80
    assert tools("module").returncode == 255 and "--out" in tools("module", tools.uri).stderr
