"""--mpi PROFILE: libraries of the host, made up, in front of an image's own; the loader itself says which it takes."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.images import IMAGE_PATH, Images, _file, build_sif, layer
from tests.support.mpi import SOURCE
from tests.support.real import need
from tests.support.slurm import SlurmCluster


@pytest.fixture
def library(hpcc: Hpcc, open_dir: Path) -> Path:  # noqa: F811
    """libfake.so.1, whose function says "host"; bin/prog, which was linked with one that says "image"."""
    cc = need("gcc")
    for place, word in (("host", "host"), ("image", "image")):
        (open_dir / place).mkdir()
        (open_dir / f"{place}.c").write_text(f'const char *who(void) {{ return "{word}"; }}\n')
        target = open_dir / place / "libfake.so.1.0"
        argv = [cc, "-shared", "-fPIC", "-Wl,-soname,libfake.so.1", "-o", target, open_dir / f"{place}.c"]
        subprocess.run(argv, check=True)
        (open_dir / place / "libfake.so.1").symlink_to("libfake.so.1.0")
    (open_dir / "prog.c").write_text(
        "#include <stdio.h>\nconst char *who(void);\nint main(void) { puts(who()); return 0; }\n"
    )
    argv = [cc, "-o", open_dir / "prog", open_dir / "prog.c", open_dir / "image/libfake.so.1.0"]
    subprocess.run(argv, check=True)
    config = hpcc.person.home / ".config/hpcc"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(
        f'[mpi_profiles.fake]\nlibraries = ["{open_dir}/host/libfake.so.1"]\nset = {{FAKE = "1"}}\nenv = ["FAKED_*"]\n'
        '[mpi_profiles.gone]\nlibraries = ["/no/such/lib.so"]\n'
    )
    return open_dir


@pytest.mark.parametrize(
    "mode", [(), ("--compat",), ("--containall", "--writable-tmpfs")], ids=["default", "compat", "containall"]
)
def test_the_hosts_library_wins(hpcc: Hpcc, image: Images, library: Path, mode: tuple[str, ...]) -> None:  # noqa: F811
    own = f"LD_LIBRARY_PATH={library}/image"
    flags = (*mode, "--bind", f"{library}", "--env", own)
    run = f"{library}/prog"
    assert hpcc.out(image.main, run, *flags) == "image\n"
    assert hpcc.out(image.main, run, *flags, "--mpi", "fake") == "host\n"
    said = hpcc.out(
        image.main, "echo $FAKE $FAKED_X; ls /.singularity.d/mpi", *flags, "--mpi", "fake", env={"FAKED_X": "2"}
    )
    assert said == "1 2\nlibfake.so.1\n"
    assert hpcc.out(image.main, run, *flags, env={"HPCC_MPI": "fake"}) == "host\n"


def test_an_image_with_scripts(hpcc: Hpcc, image: Images, library: Path) -> None:  # noqa: F811
    said = hpcc.out(
        image.squashfs, "echo $LD_LIBRARY_PATH; cat /.singularity.d/mpi/libfake.so.1 | head -c 4", "--mpi", "fake"
    )
    assert said.startswith("/.singularity.d/mpi:") and said.endswith("\n\x7fELF")


def test_what_is_wrong_is_said(hpcc: Hpcc, image: Images, library: Path) -> None:  # noqa: F811
    for name, words in (("nosuch", "Those there are: fake, gone."), ("gone", "does not have /no/such/lib.so")):
        done = hpcc("exec", "--mpi", name, image.main, "true")
        assert done.returncode == 255 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_doctor(hpcc: Hpcc, library: Path) -> None:  # noqa: F811
    done = hpcc("doctor", "--mpi")
    assert done.returncode == 1, done.stderr  # one profile names what is not there
    assert "--mpi fake" in done.stdout and "libfake.so.1" in done.stdout and "/no/such/lib.so" in done.stdout
    assert "fake = {" in hpcc("config", "mpi_profiles").stdout
    assert '"set": {' in hpcc("config", "--json").stdout


@pytest.mark.root
def test_ranks_by_the_hosts_mpich(slurm: SlurmCluster, hpcc: Hpcc, open_dir: Path) -> None:  # noqa: F811
    """A program in an image that has no MPI at all: what it needs is what the profile brings."""
    from hpcc.cli.demo_image import build_demo_layers

    program = open_dir / "ring"
    subprocess.run([need("mpicc.mpich"), "-o", program, SOURCE], check=True)
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    system = ("libc.so", "libm.so", "ld-linux", "libpthread.so", "libdl.so", "librt.so")
    paths = [path for path in re.findall(r"=> (/\S+)", needed) if not os.path.basename(path).startswith(system)]
    libm = re.findall(r"=> (/\S+/libm\.so\S*)", needed)
    assert any("libmpich" in path for path in paths), needed
    members = {"usr/local/bin/ring": _file(program.read_bytes(), 0o755)}
    sif = build_sif(
        open_dir / "ring.sif", [build_demo_layers().layers[0], layer(members)], {"Env": [f"PATH={IMAGE_PATH}"]}
    )
    config = hpcc.person.home / ".config/hpcc"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(f"[mpi_profiles.mpich]\nlibraries = {[*paths, *libm]}\n")
    argv = ["srun", "--mpi=pmi2", "-n2", hpcc.installed.hpcc, "exec", "--job-env", "--contain"]
    alone = slurm.run([*argv, sif, "ring"], hpcc.person)
    assert alone.returncode != 0 and "libmpich" in alone.stderr, alone.stderr
    done = slurm.run([*argv, "--mpi", "mpich", sif, "ring", "3"], hpcc.person)
    assert done.returncode == 0, done.stderr + slurm.logs()
    assert sorted(done.stdout.splitlines())[:2] == ["hello from rank 0 of 2", "hello from rank 1 of 2"]
    assert "the token is 3 after 3 rounds" in done.stdout


@pytest.mark.root
def test_a_profile_for_hpcc_slurm_srun(slurm: SlurmCluster, hpcc: Hpcc, image: Images, library: Path) -> None:  # noqa: F811
    """Whose --mpi is Slurm's."""
    argv = [hpcc.installed.hpcc, "slurm", "srun", "--image", image.main, "--mpi=none", "-n1", f"--bind={library}"]
    done = slurm.run([*argv, f"{library}/prog"], hpcc.person, env={"HPCC_MPI": "fake"})
    assert (done.returncode, done.stdout) == (0, "host\n"), done.stderr
