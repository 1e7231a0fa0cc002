"""hpcc as others install it: wheel, sdist, one file, RPM, recipes; and on each Python that is here."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hpcc.version import __version__
from tests.support import installation
from tests.support.installation import ROOT
from tests.support.people import Person

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PIP = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check")
BUILD = (sys.executable, "-I", "-m", "hatchling", "build")
CONSTRAINTS = ("-c", str(ROOT / "constraints.txt"), "--build-constraint", str(ROOT / "constraints.txt"))


def call(*argv: str | os.PathLike[str], cwd: Path | None = None) -> str:
    """What it printed; fails with its words where it fails."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SOURCE_DATE_EPOCH"))}
    done = subprocess.run(argv, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}:\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_tree(target: Path) -> Path:
    """What a clone of this state of the tree has, with other times."""
    listed = call("git", "-c", f"safe.directory={ROOT}", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with wheel and sdist, of a copy of the tree."""
    place = tmp_path_factory.mktemp("built")
    call(*BUILD, "-d", place / "dist", cwd=copy_tree(place / "tree"))
    return place / "dist"


def wheel_in(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def test_same_tree_same_wheel(built: Path, tmp_path: Path) -> None:
    """Another directory, another time, another umask: the same bytes; and a wheel made of the sdist is it too."""
    old = os.umask(0o077)
    try:
        call(*BUILD, "-d", tmp_path / "again", cwd=copy_tree(tmp_path / "tree"))
    finally:
        os.umask(old)
    assert wheel_in(tmp_path / "again").read_bytes() == wheel_in(built).read_bytes()
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "sdist")
    call(*BUILD, "-t", "wheel", "-d", tmp_path / "of-sdist", cwd=tmp_path / f"sdist/hpcc-{__version__}")
    assert wheel_in(tmp_path / "of-sdist").read_bytes() == wheel_in(built).read_bytes()


def test_what_a_wheel_has(built: Path) -> None:
    """All of the packages, with their types, the programs, and nothing else; one version."""
    assert wheel_in(built).name == f"hpcc-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel_in(built)) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    packages = {"hpcc", *(path.parent.name for path in (ROOT / "integrations").glob("*/__init__.py"))}
    assert tops == {*packages, f"hpcc-{__version__}.data", f"hpcc-{__version__}.dist-info"}
    assert all(f"{package}/py.typed" in names for package in packages)
    assert {name.rpartition("/")[2] for name in names if "/scripts/" in name} == {"hpcc", "run-singularity"}
    assert not [name for name in names if name.startswith("tests/") or "__pycache__" in name]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extras_resolve(built: Path, extra: str) -> None:
    """pip finds versions that go together, and each package that the extra names is among them."""
    wanted = f"{wheel_in(built)}[{extra}]"
    out = call(*PIP, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", wanted)
    found = {
        re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        for each in yaml.safe_load(out[out.index("{") :])["install"]
    }
    assert found >= {re.split(r"[^A-Za-z0-9-]", each)[0].lower() for each in EXTRAS[extra]}


def pythons() -> list[Path]:
    """Interpreters of hpcc's versions other than this one's: in PATH, and where pyenv puts them."""
    found = {}
    for minor in (11, 12, 13, 14):
        places = [*map(Path, os.get_exec_path()), *sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin"))]
        for place in places:
            path = place / f"python3.{minor}"
            if "shims" not in path.parts and os.access(path, os.X_OK) and sys.version_info[1] != minor:
                found.setdefault(minor, path)
    return list(found.values()) or [Path(sys.executable)]


@pytest.mark.parametrize("python", pythons(), ids=lambda path: path.name)
def test_other_pythons(built: Path, python: Path, tmp_path: Path) -> None:
    """Installed in a clean environment it pulls, converts and runs; with the newest the unit tests pass too.

    Tests of other users are left out, since they could not execute a Python that lies in root's home.
    """
    call(python, "-I", "-m", "venv", "--without-pip", tmp_path / "venv")
    inside = tmp_path / "venv/bin/python"
    tools = ("pytest", "hypothesis", "pillow", "cryptography", "deflate", "lz4", "pyyaml", "pysequoia")
    call(*PIP, "--python", inside, "install", "--quiet", *CONSTRAINTS, wheel_in(built), *tools)
    call(
        inside,
        "-W",
        "error::SyntaxWarning",
        "-m",
        "compileall",
        "-q",
        "-f",
        tmp_path / "venv/lib" / python.name / "site-packages/hpcc",
    )
    if python == pythons()[-1]:
        tree = copy_tree(tmp_path / "tree")
        ignored = [f"--ignore=tests/unit/{path.name}" for path in needing_engines()]
        call(inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not user", "tests/unit", *ignored, cwd=tree)
    hpcc = tmp_path / "venv/bin/hpcc"
    done = subprocess.run(
        [hpcc, "--quiet", "demo"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "exec --compat, 8 at once" in done.stdout


def needing_engines() -> Iterator[Path]:
    """Unit tests of what the extras bring, which are tested on one Python."""
    for path in (ROOT / "tests/unit").glob("test_*.py"):
        if re.search(
            r"^ *(from|import) (snakemake|dask|distributed|jupyter_client|IPython|hpcc_(dask|jupyter|snakemake))",
            path.read_text(),
            re.M,
        ):
            yield path


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pyz") / "hpcc"
    call(sys.executable, ROOT / "packaging/zipapp/build.py", target)
    for parent in (target.parent, *target.parent.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 1:
            parent.chmod(0o755)
    return target


def test_one_file(pyz: Path, runs_as: Person) -> None:
    """It does the main job as a user and as root, and knows the commands of the integrations."""
    done = runs_as.run([pyz, "demo"])
    assert done.returncode == 0, done.stderr
    assert "exec --compat, 8 at once" in done.stdout
    (packages,) = (path for path in runs_as.home.rglob("packages/*") if path.is_dir())
    assert (packages / "isal").is_dir() and packages.stat().st_uid == runs_as.uid
    assert "sbatch" in runs_as.run([pyz, "slurm", "--help"]).stdout
    wrong = runs_as.run([pyz, "exec", "/nonexistent.sif", "true"])
    assert wrong.returncode == 255 and "Traceback" not in wrong.stderr


def test_one_file_is_read_not_sixty(pyz: Path, plain_user: Person) -> None:
    """What a start asks of the filesystem that hpcc lies on, once the node has the packages."""
    assert plain_user.run([pyz, "--version"]).stdout == f"hpcc version {__version__}\n"
    traced = plain_user.run(["strace", "-f", "-e", "trace=%file", pyz, "--version"])
    asked = [line for line in traced.stderr.splitlines() if f'"{pyz.parent}' in line]
    assert 1 <= len(asked) < 15, "\n".join(asked)


def test_one_file_as_run_singularity(pyz: Path, plain_user: Person) -> None:
    link = plain_user.home / "run-singularity"
    link.symlink_to(pyz)
    said = plain_user.run([link, "--help"]).stdout
    assert said == plain_user.run([pyz, "run", "--help"]).stdout and "hpcc run" in said


def test_one_file_without_its_python(pyz: Path, plain_user: Person, open_dir: Path) -> None:
    shutil.copy("/bin/true", open_dir / "python3")
    done = plain_user.run(["/bin/sh", pyz, "--version"], env={"PATH": str(open_dir)})
    assert done.returncode == 255
    assert f"needs Python 3.{sys.version_info[1]}" in done.stderr


def test_the_same_file_again(pyz: Path, tmp_path: Path) -> None:
    call(sys.executable, ROOT / "packaging/zipapp/build.py", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == pyz.read_bytes()


def test_rpm(pyz: Path, tmp_path: Path) -> None:
    """It has the file as it was built, and asks for the Python that it needs."""
    call(ROOT / "packaging/rpm/build.sh", tmp_path / "rpm")
    (rpm,) = (tmp_path / "rpm").glob(f"hpcc-{__version__}-*.rpm")
    assert f"/usr/bin/python3.{sys.version_info[1]}" in call("rpm", "-qp", "--requires", rpm)
    with open(tmp_path / "cpio", "wb") as cpio:
        subprocess.run(["rpm2cpio", rpm], stdout=cpio, check=True)
    with open(tmp_path / "cpio", "rb") as cpio:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=cpio, cwd=tmp_path, check=True)
    assert (tmp_path / "usr/bin/hpcc").read_bytes() == pyz.read_bytes()
    assert os.readlink(tmp_path / "usr/bin/run-singularity") == "hpcc"


def dependencies() -> dict[str, str]:
    """Name -> its range, of pyproject.toml."""
    parts = [re.match(r"([A-Za-z0-9-]+)([^;]*)", each) for each in PROJECT["dependencies"]]
    return {part[1]: part[2].strip() for part in parts if part}


def test_conda_recipe() -> None:
    """Version, dependencies and their ranges are those of pyproject.toml; conda-forge calls isal python-isal."""
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    run = dict((*each.split(" ", 1), "")[:2] for each in recipe["requirements"]["run"])
    assert run.pop("python") == ""
    assert {name.removeprefix("python-"): wanted for name, wanted in run.items()} == dependencies()
    assert recipe["context"]["version"] == __version__


def test_spack_recipe() -> None:
    """The same; Spack's ranges include their ends, and are written with @."""
    tree = ast.parse((ROOT / "packaging/spack/package.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    words = {call.func.id: ast.literal_eval(call.args[0]) for call in calls if call.func.id == "version"}  # type: ignore[attr-defined]
    assert words == {"version": __version__}
    named = [ast.literal_eval(call.args[0]) for call in calls if call.func.id == "depends_on"]  # type: ignore[attr-defined]
    ranges = dict(name.removeprefix("py-").split("@") for name in named)
    for name, wanted in dependencies().items():
        low, high = re.fullmatch(r">=([\d.]+),<(\d+)", wanted).groups()  # type: ignore[union-attr]
        assert ranges[name] == f"{low}:{int(high) - 1}"


def test_easybuild_recipe(tmp_path: Path) -> None:
    """EasyBuild's own parser takes it; the versions are those that hpcc is tested with."""
    tool = installation.install_tool("easybuild")
    (recipe,) = (ROOT / "packaging/easybuild").glob("*.eb")
    program = (
        "import json, sys; from easybuild.framework.easyconfig.parser import EasyConfigParser as P;"
        "print(json.dumps(P(sys.argv[1]).get_config_dict(validate=True)))"
    )
    out = call("env", f"HOME={tmp_path}", tool / "python", "-c", program, recipe, cwd=tmp_path)
    parsed = yaml.safe_load(out[out.rindex('{"easyblock') :])
    assert recipe.name == f"hpcc-{__version__}-GCCcore-{parsed['toolchain']['version']}.eb"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    *others, own = parsed["exts_list"]
    assert own == ["hpcc", __version__]
    assert all(pins[name] == version for name, version in others)
    assert {name for name, _ in others} >= dependencies().keys() - {"requests"}
