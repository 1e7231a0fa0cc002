"""--app: SCIF apps of a directory that Apptainer could have built, and of an image that has their files alone."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc  # noqa: F401
from tests.support.images import IMAGE_PATH, build_sif, images, layer
from tests.support.images import _file as file

FOO = {
    "bin/tool": "#!/bin/sh\necho tool of $SCIF_APPNAME\n",
    "lib/nothing": "",
    "scif/env/01-base.sh": "export SCIF_APPNAME=foo SCIF_APPROOT=/scif/apps/foo SCIF_APPDATA=/scif/data/foo\n",
    "scif/env/90-environment.sh": 'export FOO="set by foo" SHARED=app\n',
    "scif/runscript": '#!/bin/sh\necho foo runs "$FOO" "$@"\n',
    "scif/startscript": '#!/bin/sh\necho foo starts "$FOO" "$@"\nexec sleep 600\n',
    "scif/labels.json": json.dumps({"VERSION": "1.0", "SCIF_APP_NAME": "foo"}),
    "scif/runscript.help": "The help of foo\n",
}
APPS = {**{f"scif/apps/foo/{name}": text for name, text in FOO.items()}, "scif/apps/bar/data": "x\n"}
# what Apptainer's builder puts into an image with apps, in few words
APPS_SCRIPT = """if test -n "${SINGULARITY_APPNAME:-}"; then
  SCIF_APPROOT=/scif/apps/$SINGULARITY_APPNAME PATH="/scif/apps/$SINGULARITY_APPNAME/bin:$PATH"
  for f in $SCIF_APPROOT/scif/env/*.sh; do [ ! -f $f ] || . $f; done
  export SCIF_APPROOT PATH BY_IMAGE=yes
fi
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`sandbox`: with scripts that set the environment, as Apptainer builds it; `sif`: from a registry, without."""
    import tempfile

    from hpcc.cli.demo_image import build_demo_layers

    top = Path(tempfile.mkdtemp(prefix="hpcc-apps-", dir="/var/tmp"))
    top.chmod(0o755)
    sandbox = top / "sandbox"
    shutil.copytree(images().sandbox, sandbox, symlinks=True)
    for name, text in {**APPS, ".singularity.d/env/95-apps.sh": APPS_SCRIPT}.items():
        path = sandbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    members = {name: file(text, 0o755) for name, text in APPS.items()}
    config = {"Env": [f"PATH={IMAGE_PATH}", "SHARED=of the image"], "Cmd": ["echo", "the image's own"]}
    sif = build_sif(top / "apps.sif", [build_demo_layers().layers[0], layer(members)], config)
    yield {"sandbox": sandbox, "sif": sif}
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture(params=["sandbox", "sif"])
def image(made: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return made[request.param]


def test_exec(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    assert hpcc("exec", "--app", "foo", image, "tool").stdout == "tool of foo\n"
    script = 'echo "$SCIF_APPNAME|$SCIF_APPROOT|$SCIF_APPDATA|$FOO|$APPTAINER_APPNAME|$SINGULARITY_APPNAME|$BY_IMAGE"'
    by = "yes" if image.is_dir() else ""
    wanted = f"foo|/scif/apps/foo|/scif/data/foo|set by foo|foo|foo|{by}\n"
    assert hpcc.out(image, script, "--app", "foo") == wanted
    assert hpcc.out(image, script, "--app", "foo", "--cleanenv") == wanted
    assert hpcc.out(image, script, "--app=foo", "--compat", "--no-init") == wanted
    assert hpcc.out(image, script) == "||||||\n"
    assert hpcc.out(image, "echo $PATH", "--app", "foo").startswith("/scif/apps/foo/bin:")


def test_what_the_caller_sets_wins(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    out = hpcc.out(image, 'echo "$FOO|$SHARED|$PATH"', "--app", "foo", "--env", "FOO=mine,PATH=/bin:/usr/bin")
    assert out == "mine|app|/bin:/usr/bin\n"
    out = hpcc.out(image, "echo $PATH", "--app", "foo", env={"APPTAINERENV_APPEND_PATH": "/last"})
    assert out.startswith("/scif/apps/foo/bin:") and out.endswith(":/last\n")


def test_run_and_shell(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    assert hpcc("run", "--app", "foo", image, "a b", "$HOME").stdout == "foo runs set by foo a b $HOME\n"
    assert "foo" not in hpcc("run", image).stdout
    assert hpcc("shell", "--app", "foo", image, input="echo $FOO; pwd\n", cwd="/tmp").stdout == "set by foo\n/tmp\n"


@pytest.mark.parametrize("variable", ["HPCC_APP", "APPTAINER_APP", "APPTAINER_APPNAME", "SINGULARITY_APPNAME"])
def test_variables(hpcc: Hpcc, image: Path, variable: str) -> None:  # noqa: F811
    assert hpcc("run", image, env={variable: "foo"}).stdout == "foo runs set by foo\n"


def test_apps_that_are_not_there(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    for command in (["run"], ["exec"], ["shell"]):
        words = [*command, "--app", "nope", image, *(["true"] if command == ["exec"] else [])]
        done = hpcc(*words)
        assert done.returncode == 255 and "could not locate the container application: nope" in done.stderr
    done = hpcc("run", "--app", "bar", image)
    assert done.returncode == 255 and "no runscript for contained app: bar" in done.stderr
    assert hpcc("exec", "--app", "bar", image, "echo", "on").stdout == "on\n"


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".", "-x", "a b", "a;b", "$(id)"])
def test_names_that_are_none(hpcc: Hpcc, image: Path, name: str) -> None:  # noqa: F811
    done = hpcc("exec", "--app", name, image, "true")
    assert done.returncode == 255 and "--app" in done.stderr, done.stderr


def test_an_instance_runs_the_apps_startscript(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    name = f"app-{hpcc.person.uid}"
    assert hpcc("instance", "start", "--app", "foo", image, name, "x").returncode == 0
    try:
        assert hpcc.out(f"instance://{name}", "echo $FOO", "--app", "foo") == "set by foo\n"  # type: ignore[arg-type]
        assert hpcc("run", "--app", "foo", f"instance://{name}", "y").stdout == "foo runs set by foo y\n"
        done = hpcc("run", "--app", "nope", f"instance://{name}")
        assert done.returncode == 255 and "nope" in done.stderr
    finally:
        assert hpcc("instance", "stop", name).returncode == 0
    (log,) = (hpcc.person.home / ".local/state/hpcc/instances").glob(f"*/{name}.out")
    assert log.read_text() == "foo starts set by foo x\n"


def test_inspect(hpcc: Hpcc, image: Path) -> None:  # noqa: F811
    assert hpcc("inspect", "--list-apps", image).stdout == "bar\nfoo\n"
    assert hpcc("inspect", "--app", "foo", image).stdout == "SCIF_APP_NAME: foo\nVERSION: 1.0\n"
    assert hpcc("inspect", "--app", "foo", "-r", image).stdout == FOO["scif/runscript"] + "\n"  # as Apptainer
    document = json.loads(hpcc("inspect", "--app", "foo", "-j", "-E", image).stdout)
    script = "/scif/apps/foo/scif/env/90-environment.sh"
    assert document["data"]["attributes"] == {
        "apps": {"foo": {"environment": {script: FOO["scif/env/90-environment.sh"]}}}
    }
    document = json.loads(hpcc("inspect", "--list-apps", "--json", image).stdout)
    assert document["data"]["attributes"]["apps"]["foo"]["helpfile"] == FOO["scif/runscript.help"]
    assert document["data"]["attributes"]["apps"]["bar"] == {}
    done = hpcc("inspect", "--app", "nope", image)
    assert done.returncode == 255 and "nope" in done.stderr and "bar, foo" in done.stderr
    assert hpcc("inspect", "--list-apps", images().main).stdout == ""


def test_a_hostile_image_shows_nothing_of_the_host(hpcc: Hpcc, open_dir: Path) -> None:  # noqa: F811
    """Links in /scif are followed in the image alone."""
    sandbox = open_dir / "sandbox"
    shutil.copytree(images().sandbox, sandbox, symlinks=True)
    (sandbox / "scif").mkdir()
    (sandbox / "scif/apps").symlink_to("/etc")
    assert "ssl" not in hpcc("inspect", "--list-apps", sandbox).stdout
    (sandbox / "scif/apps").unlink()
    (sandbox / "scif/apps/foo/scif").mkdir(parents=True)
    (sandbox / "scif/apps/foo/scif/runscript").symlink_to("/etc/passwd")
    assert "root:" not in hpcc("inspect", "--app", "foo", "-r", sandbox).stdout
