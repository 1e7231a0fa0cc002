"""`hpcc shim`: where the stand-ins lie, what they answer, and that they never come back to themselves."""

import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from hpcc.cli.behind import LEVEL, MARK
from hpcc.version import __version__
from tests.support import installation
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import SYSTEM_PATH, Person

VERSION = f"1.4.5+hpcc{'.'.join(__version__.split('.')[:2])}"
SHOWS = '#!/bin/sh\n[ "$1" != --version ] || { echo "apptainer version 9.9"; exit; }\nprintf "[%s]" "$0" "$@"\n'
NAMES = ("apptainer", "singularity")


@pytest.fixture
def shim(runs_as: Person, installed: Installation) -> Path:
    """The directory of the stand-ins, enabled by this person."""
    assert runs_as.run([installed.hpcc, "shim", "enable"]).returncode == 0
    return runs_as.home / ".local/share/hpcc/shim"


def place(person: Person, directory: str, text: str, *names: str) -> Path:
    """Programs of this text in a directory below the person's home."""
    path = person.home / directory
    path.mkdir(parents=True)
    for name in names or ("apptainer",):
        (path / name).write_text(text)
        (path / name).chmod(0o755)
    return path


def call(person: Person, *argv: object, path: object = SYSTEM_PATH, timeout: float = 60, **env: str):
    """`argv` by name, as bash finds it on `path`."""
    return person.run(
        ["/bin/bash", "-c", '"$@"', "bash", *map(str, argv)], env={"PATH": str(path), **env}, timeout=timeout
    )


# -- enable, env, status, disable ------------------------------------------------------------------------------------


def test_enable_env_status_disable(runs_as: Person, installed: Installation) -> None:
    def hpcc(*argv: str, path: str = SYSTEM_PATH) -> "subprocess.CompletedProcess[str]":
        return runs_as.run([installed.hpcc, "shim", *argv], env={"PATH": path})

    directory = runs_as.home / ".local/share/hpcc/shim"
    assert hpcc("status").returncode == 1 and "not enabled" in hpcc("status").stdout
    done = hpcc("env")
    assert done.returncode == 255 and "hpcc shim enable" in done.stderr
    for _ in range(2):  # idempotent
        done = hpcc("enable")
        assert done.returncode == 0 and str(directory) in done.stdout and 'eval "$(hpcc shim env)"' in done.stdout
    assert {path.name for path in directory.iterdir()} == set(NAMES)
    line = hpcc("env").stdout
    asked = runs_as.run(["sh", "-c", line + "command -v apptainer; command -v singularity"])
    assert asked.stdout.split() == [f"{directory}/apptainer", f"{directory}/singularity"]
    assert hpcc("env", path=f"{directory}:{SYSTEM_PATH}").stdout == ""  # PATH does not grow with each ~/.bashrc
    status = hpcc("status", path=f"{directory}:{SYSTEM_PATH}")
    assert status.returncode == 0 and status.stderr == ""
    assert f"apptainer on PATH: {directory}/apptainer (hpcc's, {installed.hpcc})" in status.stdout
    assert "behind it: none" in status.stdout and VERSION in status.stdout
    assert "programs do not find the stand-ins" in hpcc("status").stderr
    assert "eval" not in hpcc("enable", path=f"{directory}:{SYSTEM_PATH}").stdout
    assert hpcc("disable").returncode == 0
    assert list(directory.iterdir()) == []
    assert hpcc("disable").returncode == 0
    assert hpcc("status").returncode == 1


def test_a_real_one_before_it_is_named(runs_as: Person, installed: Installation, shim: Path) -> None:
    real = place(runs_as, "real", SHOWS)
    done = runs_as.run([installed.hpcc, "shim", "enable"], env={"PATH": f"{real}:{shim}"})
    assert f"{real}/apptainer comes before it on PATH." in done.stdout and "eval" in done.stdout


def test_status_as_json(runs_as: Person, installed: Installation, shim: Path) -> None:
    real = place(runs_as, "real", SHOWS, "singularity")
    broken = place(runs_as, "broken", "#!/bin/sh\nexit 3\n")
    path = f"{shim}:{real}:{SYSTEM_PATH}"
    found = json.loads(runs_as.run([installed.hpcc, "shim", "status", "--json"], env={"PATH": path}).stdout)
    first = {name: {"path": f"{shim}/{name}", "stand_in": True, "runs": str(installed.hpcc)} for name in NAMES}
    assert found == {
        "directory": str(shim), "enabled": True, "first": first, "hpcc": __version__,
        "behind": {"path": f"{real}/singularity", "version": "apptainer version 9.9"},
        "answers": f"apptainer version {VERSION}",
    }  # fmt: skip
    done = runs_as.run([installed.hpcc, "shim", "status", "--json", "--dir", real], env={"PATH": f"{broken}:{real}"})
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["enabled"] is False
    assert found["first"]["apptainer"] == {"path": f"{broken}/apptainer", "stand_in": False, "runs": None}
    assert found["behind"] == {"path": f"{broken}/apptainer", "version": None}


@pytest.mark.parametrize("theirs", ["apptainer", "singularity"])
def test_what_is_not_ours_stays(runs_as: Person, installed: Installation, theirs: str) -> None:
    """Not even the other of the two names is taken then."""
    directory = place(runs_as, "it's here", "#!/bin/sh\necho theirs\n", theirs)
    runs_as.at(directory) if os.geteuid() == 0 else None
    done = runs_as.run([installed.hpcc, "shim", "enable", "--dir", directory])
    assert done.returncode == 255 and "is not hpcc's" in done.stderr
    assert runs_as.run([installed.hpcc, "shim", "disable", "--dir", directory]).returncode == 0
    assert {path.name: path.read_text() for path in directory.iterdir()} == {theirs: "#!/bin/sh\necho theirs\n"}


def test_a_directory_with_everything_in_its_name(runs_as: Person, installed: Installation) -> None:
    directory = runs_as.home / 'it\'s "$HOME" ü'
    done = runs_as.run([installed.hpcc, "shim", "enable", "--dir", directory])
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1].partition(": ")[2]
    path = f"{installed.bin}:{SYSTEM_PATH}"
    done = runs_as.run(["bash", "-c", f"{line}; command -v apptainer; apptainer version"], env={"PATH": path})
    assert done.stdout.splitlines() == [f"{directory}/apptainer", VERSION], done.stderr
    colon = runs_as.home / "a:b"
    assert runs_as.run([installed.hpcc, "shim", "enable", "--dir", colon]).returncode == 0
    done = runs_as.run([installed.hpcc, "shim", "env", "--dir", colon])
    assert done.returncode == 255 and "cannot stand in PATH" in done.stderr


def test_where_nothing_may_be_written(plain_user: Person, installed: Installation) -> None:
    done = plain_user.run([installed.hpcc, "shim", "enable", "--dir", "/proc/shim"])
    assert done.returncode == 255 and "cannot write to /proc/shim" in done.stderr and "--dir" in done.stderr


# -- the version -----------------------------------------------------------------------------------------------------


def test_version_is_answered_by_sh_alone(runs_as: Person, shim: Path) -> None:
    """Snakemake asks once for each image and job. The number must parse, and be Apptainer's.

    Snakemake 8 calls `singularity` alone, and refuses what says so of itself below version 2.4.1.
    """
    for name in NAMES:
        for options in (["--version"], ["--quiet", "--version"], ["-s", "-d", "--version"]):
            assert runs_as.run([shim / name, *options]).stdout == f"apptainer version {VERSION}\n"
        assert runs_as.run([shim / name, "version"]).stdout == f"{VERSION}\n"
    # without any hpcc or Python that could answer
    lines = (shim / "apptainer").read_text().splitlines()
    assert lines[-1].startswith("exec ")
    alone = runs_as.home / "alone"
    alone.write_text("\n".join([*lines[:-1], "exec /no/such/program\n"]))
    alone.chmod(0o755)
    done = runs_as.run([alone, "--version"], env={"PATH": "/no/such/path"})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"apptainer version {VERSION}\n", "")
    done = runs_as.run([shim / "apptainer", "exec", images().main, "bash", "--version"])  # the payload's own
    assert "bash" in done.stdout and "apptainer" not in done.stdout


def test_version_takes_milliseconds(shim: Path) -> None:
    """The best of many, since others use this machine too."""
    lasted = []
    for _ in range(40):
        begun = time.perf_counter()
        subprocess.run([shim / "apptainer", "--version"], check=True, stdout=subprocess.DEVNULL)
        lasted.append(time.perf_counter() - begun)
    assert min(lasted) < 0.005


def test_a_stand_in_of_an_hpcc_that_is_gone(runs_as: Person, shim: Path, installed: Installation) -> None:
    text = (shim / "apptainer").read_text()
    lost = place(runs_as, "lost", text.replace(str(installed.hpcc), "/no/such/hpcc"))
    done = call(runs_as, "apptainer", "exec", images().main, "true", path=lost)
    assert done.returncode == 255 and "/no/such/hpcc" in done.stderr and "hpcc shim enable" in done.stderr
    done = runs_as.run([installed.hpcc, "shim", "status"], env={"PATH": str(lost)})
    assert "of no hpcc that is there" in done.stdout


# -- what is behind --------------------------------------------------------------------------------------------------

UNKNOWN = (
    ["plugin", "x.sif", "x.def"],
    ["build", "--encrypt", "--pem-path", "key.pem", "x.sif", "x.def"],
    ["--quiet", "keyserver", "list"],
    ["help", "plugin"],
    ["config", "fakeroot", "--list"],  # hpcc's own command of that name is another one
    ["remote", "status"],
    ["exec", "--pem-path", "key.pem", "x.sif", "a b", ""],
    ["exec", "ftp://a/b", "true"],
    ["pull", "ftp://a/b", "--nonsense"],
    ["pull", "ftp://a/b"],
    ["-c", "other.conf", "exec", "x.sif", "true"],
)


@pytest.mark.parametrize("argv", UNKNOWN, ids=" ".join)
def test_what_hpcc_does_not_know_is_handed_on(runs_as: Person, shim: Path, argv: list[str]) -> None:
    real = place(runs_as, "real", SHOWS)
    done = call(runs_as, "apptainer", *argv, path=f"{shim}:{real}:{SYSTEM_PATH}")
    assert done.stdout == "".join(f"[{word}]" for word in [f"{real}/apptainer", *argv]), done.stderr
    assert done.stderr == "" if "--quiet" in argv else f"{real}/apptainer takes over" in done.stderr
    done = call(runs_as, "apptainer", *argv, path=f"{shim}:{SYSTEM_PATH}")
    assert done.returncode == 255 and "finds no Apptainer on PATH behind itself" in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


def test_mistakes_are_not_handed_on(runs_as: Person, shim: Path) -> None:
    """What hpcc knows it does itself, and says what is wrong."""
    real = place(runs_as, "real", SHOWS)
    for argv in (["exec"], ["exec", "no-such.sif", "true"], ["pull"], ["exec", "--bind"], ["cache"]):
        done = call(runs_as, "apptainer", *argv, path=f"{shim}:{real}:{SYSTEM_PATH}")
        assert done.returncode == 255 and done.stdout == "" and "FATAL" in done.stderr, argv


def test_hpcc_itself_hands_nothing_on(runs_as: Person, shim: Path, installed: Installation) -> None:
    real = place(runs_as, "real", SHOWS)
    done = runs_as.run([installed.hpcc, "plugin", "x"], env={"PATH": f"{real}:{SYSTEM_PATH}"})
    assert done.returncode == 255 and done.stdout == "" and "unknown command 'plugin'" in done.stderr


def test_every_stand_in_is_passed_over(runs_as: Person, shim: Path, installed: Installation) -> None:
    """This one, that of another hpcc, links to either, hpcc under that name, and what is no program."""
    other = installation.install(("snakemake",))
    assert other.hpcc != installed.hpcc
    second = runs_as.home / "second"
    assert runs_as.run([other.hpcc, "shim", "enable", "--dir", second]).returncode == 0
    links = runs_as.home / "links"
    links.mkdir()
    (links / "apptainer").symlink_to(second / "singularity")
    (links / "singularity").symlink_to("apptainer")
    (runs_as.home / "hpcc").mkdir()
    (runs_as.home / "hpcc/apptainer").symlink_to(other.hpcc)
    (runs_as.home / "none/apptainer").mkdir(parents=True)
    (runs_as.home / "none/singularity").write_text(SHOWS)  # not executable
    (runs_as.home / "gone").mkdir()
    (runs_as.home / "gone/apptainer").symlink_to("nowhere")
    around = [shim, second, links, *(runs_as.home / name for name in ("hpcc", "none", "gone")), shim, "", ".", "links"]
    real = place(runs_as, "real", SHOWS, "singularity")
    path = ":".join(map(str, around))
    for first in (shim, second, links):
        for name in NAMES:
            done = runs_as.run([first / name, "plugin", "x"], env={"PATH": f"{path}:{real}:{path}:/usr/bin:/bin"})
            assert done.stdout == f"[{real}/singularity][plugin][x]", (first, name, done.stderr)
            done = runs_as.run([first / name, "plugin", "x"], env={"PATH": f"{path}:/usr/bin:/bin"}, timeout=60)
            assert done.returncode == 255 and "finds no Apptainer" in done.stderr, (first, name)
    for path in ("", "/no/such", ":"):
        done = runs_as.run([shim / "apptainer", "plugin", "x"], env={"PATH": path})
        assert done.returncode == 255 and "finds no Apptainer" in done.stderr, path
    done = runs_as.run(["/usr/bin/env", "-u", "PATH", shim / "apptainer", "plugin", "x"])
    assert done.returncode == 255 and "finds no Apptainer" in done.stderr


def test_exec_with_any_path(runs_as: Person, shim: Path) -> None:
    for unset in (["-u", "PATH"], ["PATH="], ["PATH=/no/such"], [f"PATH={shim}"], ["-i"]):
        done = runs_as.run(["/usr/bin/env", *unset, shim / "apptainer", "exec", images().main, "echo", "here"])
        assert done.stdout == "here\n", (unset, done.stderr)


def test_a_wrapper_that_calls_by_name(runs_as: Person, shim: Path) -> None:
    """As sites have them: it sets something up, takes itself off PATH, and calls `apptainer`."""
    real = place(runs_as, "real", SHOWS)
    text = f'#!/bin/bash\nmine={runs_as.home}/wrapper:\nPATH=${{PATH//"$mine"/}}\nexec apptainer "$@"\n'
    wrapper = place(runs_as, "wrapper", text)
    for path in (f"{shim}:{wrapper}:{real}", f"{wrapper}:{shim}:{real}", f"{shim}:{wrapper}:{shim}:{real}"):
        done = call(runs_as, "apptainer", "plugin", path=f"{path}:{SYSTEM_PATH}")
        assert done.stdout == f"[{real}/apptainer][plugin]", (path, done.stderr)


@pytest.mark.parametrize("how", ["exec", "", "PATH={shim}:$PATH exec"])
def test_a_wrapper_that_leads_back(runs_as: Person, shim: Path, how: str) -> None:
    """What cannot be seen from outside ends soon, and says who it is."""
    place(runs_as, "wrapper", f'#!/bin/sh\n{how.format(shim=shim)} {shim}/apptainer "$@"\n')
    path = f"{shim}:{runs_as.home}/wrapper:{SYSTEM_PATH}"
    for argv in (["plugin", "x"], ["exec", images().main, "true"]):
        done = call(runs_as, "apptainer", *argv, path=path, HPCC_BACKEND="apptainer")
        assert done.returncode == 255 and done.stderr.count("again and again") == 1, done.stderr
        assert f"{runs_as.home}/wrapper/apptainer calls hpcc's stand-in" in done.stderr


def test_what_the_real_one_gets(runs_as: Person, shim: Path) -> None:
    """PATH without the directories in which stand-ins are alone; the caller's environment else."""
    text = f'#!/bin/sh\necho "$PATH"; echo "$MINE ${LEVEL}"\n'
    real = place(runs_as, "real", text)
    mixed = place(runs_as, "mixed", f"#!/bin/sh\n{MARK}\n", "apptainer", "mksquashfs")
    done = call(runs_as, "apptainer", "plugin", path=f"{shim}:{mixed}:{real}:/usr/bin:/bin:relative", MINE="a b")
    assert done.stdout == f"{mixed}:{real}:/usr/bin:/bin:relative\na b 1\n"


def test_a_program_that_cannot_run(runs_as: Person, shim: Path) -> None:
    real = place(runs_as, "real", "#!/no/such/interpreter\n")
    done = call(runs_as, "apptainer", "plugin", path=f"{shim}:{real}:{SYSTEM_PATH}")
    assert done.returncode == 255 and f"{real}/apptainer" in done.stderr and "Traceback" not in done.stderr


def test_two_call_at_once_while_it_is_made_anew(runs_as: Person, shim: Path, installed: Installation) -> None:
    """`enable` replaces each file whole: nobody meets half a script."""
    line = f"for i in $(seq 300); do {shlex.quote(str(shim / 'apptainer'))} --version || exit 1; done | sort -u"
    asking = runs_as.popen(["bash", "-o", "pipefail", "-c", line], stdout=subprocess.PIPE, text=True)
    for _ in range(10):
        assert runs_as.run([installed.hpcc, "shim", "enable"]).returncode == 0
    out, _ = asking.communicate(timeout=120)
    assert (asking.returncode, out) == (0, f"apptainer version {VERSION}\n")
