"""`hpcc shim`: what Snakemake calls `apptainer`, by hand with its very words, and by the real Snakemake."""

import hashlib
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcc.cli.demo_image import build_demo_layers
from hpcc.registry.fake import FakeRegistry
from hpcc.version import __version__
from tests.support import installation
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person


@pytest.fixture
def shim(runs_as: Person, installed: Installation) -> Path:
    """The directory of the stand-ins, enabled by this person."""
    assert runs_as.run([installed.hpcc, "shim", "enable"]).returncode == 0
    return runs_as.home / ".local/share/hpcc/shim"


# -- the stand-ins -----------------------------------------------------------------------------------------------


def test_enable_env_status_disable(runs_as: Person, installed: Installation) -> None:
    def hpcc(*argv: str, path: str = SYSTEM_PATH) -> "subprocess.CompletedProcess[str]":
        return runs_as.run([installed.hpcc, "shim", *argv], env={"PATH": path})

    directory = runs_as.home / ".local/share/hpcc/shim"
    assert hpcc("status").returncode == 1 and "not enabled" in hpcc("status").stdout
    done = hpcc("env")
    assert done.returncode == 255 and "hpcc shim enable" in done.stderr
    for _ in range(2):  # idempotent
        done = hpcc("enable")
        assert done.returncode == 0 and str(directory) in done.stdout
    assert {path.name for path in directory.iterdir()} == {"apptainer", "singularity"}
    line = hpcc("env").stdout
    asked = runs_as.run(["sh", "-c", line + "command -v apptainer; command -v singularity"])
    assert asked.stdout.split() == [f"{directory}/apptainer", f"{directory}/singularity"]
    status = hpcc("status", path=f"{directory}:{SYSTEM_PATH}")
    assert status.returncode == 0 and f"apptainer on PATH: {directory}/apptainer (hpcc)" in status.stdout
    assert hpcc("disable").returncode == 0
    assert list(directory.iterdir()) == []
    assert hpcc("disable").returncode == 0
    assert hpcc("status").returncode == 1


def test_what_is_not_ours_stays(runs_as: Person, installed: Installation) -> None:
    directory = runs_as.home / "it's here"
    directory.mkdir()
    runs_as.at(directory) if os.geteuid() == 0 else None
    theirs = directory / "apptainer"
    theirs.write_text("#!/bin/sh\necho theirs\n")
    done = runs_as.run([installed.hpcc, "shim", "enable", "--dir", directory])
    assert done.returncode == 255 and "is not hpcc's" in done.stderr
    assert runs_as.run([installed.hpcc, "shim", "disable", "--dir", directory]).returncode == 0
    assert theirs.read_text() == "#!/bin/sh\necho theirs\n" and not (directory / "singularity").exists()


def test_version_is_answered_by_sh_alone(runs_as: Person, shim: Path) -> None:
    """Snakemake asks once for each image and job. The number must parse, and be Apptainer's."""
    version = ".".join(__version__.split(".")[:2])
    for name in ("apptainer", "singularity"):
        for option in ("--version", "version"):
            assert runs_as.run([shim / name, option]).stdout == f"{name} version 1.4.5+hpcc{version}\n"
    # without any hpcc or Python that could answer
    lines = (shim / "apptainer").read_text().splitlines()
    assert lines[-1].startswith("exec ")
    alone = runs_as.home / "alone"
    alone.write_text("\n".join([*lines[:-1], "exec /no/such/program\n"]))
    alone.chmod(0o755)
    done = runs_as.run([alone, "--version"], env={"PATH": "/no/such/path"})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"apptainer version 1.4.5+hpcc{version}\n", "")


def test_version_takes_milliseconds(shim: Path) -> None:
    lasted = []
    for _ in range(15):
        begun = time.perf_counter()
        subprocess.run([shim / "apptainer", "--version"], check=True, stdout=subprocess.DEVNULL)
        lasted.append(time.perf_counter() - begun)
    assert statistics.median(lasted) < 0.030


# -- Snakemake's own words -----------------------------------------------------------------------------------------


def test_exec_as_snakemake_does_it(runs_as: Person, shim: Path) -> None:
    image, home = images().main, runs_as.home
    (home / "search path").mkdir()
    (home / "search path/module.py").write_text("found\n")
    (home / "shadow").mkdir()
    command = 'set -euo pipefail;  echo "it\'s" \'a "test"\' $(pwd) $OMP_NUM_THREADS $CONDA_PKGS_DIRS; cat {}'.format(
        "/mnt/snakemake_searchpaths/item_0/module.py"
    )
    line = (
        f"SINGULARITYENV_CONDA_PKGS_DIRS=/tmp/pkgs  apptainer exec --home {shlex.quote(str(home))}  --cleanenv "
        f"--env OMP_NUM_THREADS=4 --bind {shlex.quote(str(home / 'search path'))}:'/mnt/snakemake_searchpaths/item_0' "
        f"--pwd {shlex.quote(str(home / 'shadow'))} --bind /var/tmp {image} bash -c {shlex.quote(command)}"
    )
    done = runs_as.run(["bash", "-c", line], env={"PATH": f"{shim}:{SYSTEM_PATH}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'it\'s a "test" {home}/shadow 4 /tmp/pkgs\nfound\n'


def test_options_that_users_put_into_apptainer_args(runs_as: Person, shim: Path) -> None:
    image, home = images().main, runs_as.home
    for options in ("-e", "-C --pwd /", "--contain", "--writable-tmpfs", "--no-home", f"-B {home}:/data -B /tmp",
                    f"-H {home}", "--cwd /own", "--env A=1,B=2", "-ec", "--cleanenv=true"):  # fmt: skip
        line = f"apptainer exec --home {home} {options} {image} bash -c 'exit 3'"
        done = runs_as.run(["bash", "-c", line], env={"PATH": f"{shim}:{SYSTEM_PATH}"})
        assert done.returncode == 3, (options, done.stderr)


def test_probe_and_host_environment(runs_as: Person, shim: Path) -> None:
    line = f"apptainer --quiet --silent exec --home {runs_as.home}  {images().main} sh -c 'echo $TMPDIR; conda info'"
    done = runs_as.run(["bash", "-c", line], env={"PATH": f"{shim}:{SYSTEM_PATH}", "TMPDIR": "/tmp/of-the-host"})
    assert done.returncode == 127 and done.stdout == "/tmp/of-the-host\n"


# -- the real one ----------------------------------------------------------------------------------------------------

SNAKEFILE = """
IMAGE = config["image"]
rule all:
    input: "out/three.txt", "out/local.txt"
rule one:
    output: "out/one.txt"
    container: IMAGE
    shell: "(head -n 1 /etc/os-release; echo 'a \\"b\\"' \\"$FROM_HOST\\" $(id -u)) > {output}"
rule two:
    input: "out/one.txt"
    output: "out/two.txt"
    container: IMAGE
    shell: "tr a-z A-Z < {input} > {output}"
rule three:
    input: "out/two.txt"
    output: "out/three.txt"
    params: words=["x y", "z"]
    container: IMAGE
    script: "three.py"
rule local:
    output: "out/local.txt"
    container: None
    shell: "test ! -e /etc/hpcc-demo && head -n 1 /etc/os-release > {output}"
"""
SCRIPT = """
import sys
with open(snakemake.input[0]) as source, open(snakemake.output[0], "w") as sink:
    sink.write(source.read() + repr(snakemake.params.words) + open("/etc/os-release").readline())
"""


@pytest.fixture(scope="module")
def with_snakemake() -> Installation:
    return installation.install(("snakemake",))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    demo = build_demo_layers()
    with FakeRegistry(quota=5) as registry:
        registry.add_image("library/demo", "1.0", demo.layers, demo.config, index=True)
        yield registry


def snakemake(
    person: Person, installed: Installation, registry: FakeRegistry, *argv: str
) -> "subprocess.CompletedProcess[str]":
    shim = person.home / "shim"
    assert person.run([installed.hpcc, "shim", "enable", "--dir", shim]).returncode == 0
    (person.home / "Snakefile").write_text(SNAKEFILE)
    (person.home / "three.py").write_text(SCRIPT)
    words = ["-m", "snakemake", "--sdm", "apptainer", "--cores", "2", *argv]
    image = f"docker://{registry.host}/library/demo:1.0"
    return person.run(
        [installed.python, *words, "--config", f"image={image}"],
        env={"PATH": f"{shim}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host, "FROM_HOST": "of the host"},
    )


def test_a_workflow(runs_as: Person, with_snakemake: Installation, registry: FakeRegistry) -> None:
    before = registry.counts["manifest_get"]
    done = snakemake(runs_as, with_snakemake, registry)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = f"ID=HPCC-DEMO\nA \"B\" OF THE HOST {runs_as.uid}\n['x y', 'z']ID=hpcc-demo\n"
    assert (runs_as.home / "out/three.txt").read_text() == expected
    assert (runs_as.home / "out/local.txt").read_text() == Path("/etc/os-release").read_text().splitlines()[0] + "\n"
    assert registry.counts["manifest_get"] - before <= 2
    image = f"docker://{registry.host}/library/demo:1.0"
    (pulled,) = (runs_as.home / ".snakemake/singularity").iterdir()
    assert pulled.name == hashlib.md5(image.encode()).hexdigest() + ".simg"


def test_prefetch_into_a_prefix(plain_user: Person, with_snakemake: Installation, registry: FakeRegistry,
                                open_dir: Path) -> None:  # fmt: skip
    """`--conda-create-envs-only` pulls all images and exits: `pull --name <md5>.simg` with cwd = the prefix."""
    (open_dir / "home").mkdir()
    person = plain_user.at(open_dir / "home")
    prefix = person.home / "prefix"
    done = snakemake(person, with_snakemake, registry, "--conda-create-envs-only", "--apptainer-prefix", str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    (pulled,) = prefix.iterdir()
    image = f"docker://{registry.host}/library/demo:1.0"
    assert pulled.name == hashlib.md5(image.encode()).hexdigest() + ".simg" and pulled.stat().st_size > 1 << 20
    asked = list(registry.requests)
    done = snakemake(person, with_snakemake, registry, "--apptainer-prefix", str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    assert registry.requests == asked and (person.home / "out/three.txt").exists()


def test_a_failed_pull_leaves_no_file(runs_as: Person, shim: Path, registry: FakeRegistry) -> None:
    """Snakemake's only guard is that the file exists; what a failed pull left would be executed."""
    argv = ["apptainer", "pull", "--name", "0123.simg", f"docker://{registry.host}/library/no-such:1"]
    env = {"PATH": f"{shim}:{SYSTEM_PATH}", "HPCC_INSECURE": registry.host}
    done = runs_as.run(["bash", "-c", shlex.join(argv)], env=env)
    assert done.returncode == 255 and "no-such" in done.stderr
    assert not [path for path in runs_as.home.iterdir() if "0123" in path.name]
