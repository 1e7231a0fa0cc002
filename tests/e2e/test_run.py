"""exec, run and shell of local images, as root and as a plain user: status, streams, environment, binds, images."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import GREETING, IMAGE_PATH, Images, copy_of, images
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.real import need
from tests.support.terminal import on_terminal


class Hpcc:
    """`hpcc COMMAND … IMAGE …` as one person."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.installed = person, installed

    def __call__(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[Any]":
        return self.person.run([self.installed.hpcc, *map(str, argv)], **options)

    def sh(self, image: Path, script: str, *flags: object, **options: Any) -> "subprocess.CompletedProcess[Any]":
        return self("exec", *flags, image, "sh", "-c", script, **options)

    def out(self, image: Path, script: str, *flags: object, **options: Any) -> str:
        """The output of a script that must succeed."""
        done = self.sh(image, script, *flags, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation) -> Hpcc:
    return Hpcc(runs_as, installed)


@pytest.fixture(scope="module")
def image() -> Images:
    return images()


# -- status ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",)], ids=["default", "containall", "compat"])
def test_status_is_the_payloads(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    assert hpcc.sh(image.main, "exit 0", *mode).returncode == 0
    assert hpcc.sh(image.main, "exit 7", *mode).returncode == 7
    assert hpcc.sh(image.main, "exit 254", *mode).returncode == 254
    # By itself the payload is process 1, whom nobody inside can kill; a child of it can be.
    killed = hpcc.sh(image.main, "sh -c 'kill -9 $$'; exit $?", *mode)
    assert killed.returncode == 137


def test_a_payload_killed_by_a_signal_is_killed_for_our_parent_too(hpcc: Hpcc, image: Images) -> None:
    done = hpcc.sh(image.main, "kill -9 $$")
    assert done.returncode == -signal.SIGKILL  # a shell says 137
    assert hpcc.sh(image.main, "kill -9 $$", "--containall").returncode == 137


@pytest.mark.parametrize("mode", [(), ("--compat",)], ids=["default", "compat"])
def test_missing_command_and_image(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    done = hpcc("exec", *mode, image.main, "no-such-command")
    assert done.returncode == 255
    assert '"no-such-command": executable file not found in the image' in done.stderr and "/opt/first" in done.stderr
    assert "Traceback" not in done.stderr
    done = hpcc("exec", *mode, image.main, "/no/such/path")
    assert done.returncode == 255 and "/no/such/path" in done.stderr
    done = hpcc("exec", *mode, image.main, "/usr/local/bin/lost-loader")
    assert done.returncode == 255 and "interpreter or loader is missing" in done.stderr
    done = hpcc("exec", *mode, image.main, "not-executable")
    assert done.returncode == 255 and "cannot be executed" in done.stderr
    done = hpcc("exec", *mode, "no-such.sif", "true")
    assert done.returncode == 255 and "no-such.sif" in done.stderr


def test_files_that_are_no_images(hpcc: Hpcc) -> None:
    (hpcc.person.home / "text").write_text("no image\n")
    for name in ("text", "/dev/null", "lost://x"):
        done = hpcc("exec", name, "true")
        assert done.returncode == 255 and name in done.stderr and "Traceback" not in done.stderr, done.stderr
    (hpcc.person.home / "cut.sif").write_bytes(images().main.read_bytes()[:3000])
    done = hpcc("exec", "cut.sif", "true")
    assert done.returncode == 255 and "cut.sif" in done.stderr and "Traceback" not in done.stderr


def test_wrong_command_lines(hpcc: Hpcc, image: Images) -> None:
    for argv in (["exec"], ["exec", image.main], ["exec", "--no-such", image.main, "true"], ["exec", "--bind"]):
        done = hpcc(*argv)
        assert done.returncode == 255 and "Usage: hpcc exec" in done.stderr


def test_a_script_without_shebang_runs_by_sh(hpcc: Hpcc, image: Images) -> None:
    assert hpcc("exec", image.main, "no-shebang", "arg").stdout == "no shebang: arg\n"


@pytest.mark.parametrize(
    ("machine", "words"), [(183, "aarch64; this host is"), (22, "s390x; this host"), (999, "machine 999")]
)
def test_a_program_of_another_machine(hpcc: Hpcc, image: Images, machine: int, words: str) -> None:
    path = hpcc.person.home / "foreign"
    order = "big" if machine == 22 else "little"
    elf = b"\x7fELF\x02" + (b"\2" if order == "big" else b"\1") + b"\1".ljust(10, b"\0")
    path.write_bytes(elf + (2).to_bytes(2, order) + machine.to_bytes(2, order) + bytes(100))  # type: ignore[arg-type]
    path.chmod(0o755)
    done = hpcc("exec", image.main, path)
    assert done.returncode == 255 and words in done.stderr and "--arch" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("flags", "warns"),
    [(("--pid",), True), (("--pid", "--no-init"), False), (("--containall",), True), (("--compat",), False)],
)
def test_tini(hpcc: Hpcc, image: Images, flags: tuple[str, ...], warns: bool) -> None:
    """An image whose own init is to be process 1: with ours beside it, it says that it is not."""
    shutil.copy(need("tini-static"), hpcc.person.home / "tini")
    argv = ["exec", *flags, "-B", f"{hpcc.person.home}/tini:/tini", image.main, "/tini", "--", "sh", "-c", "exit 6"]
    done = hpcc(*argv)
    assert done.returncode == 6 and ("not running as PID 1" in done.stderr) == warns, done.stderr


# -- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("--compat",)], ids=["default", "compat"])
def test_streams_are_the_payloads(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    data = bytes(range(256)) * 1000
    done = hpcc.sh(image.main, "cat; echo err >&2", *mode, input=data, text=False)
    assert done.stdout == data and done.stderr == b"err\n"


@pytest.mark.parametrize("mode", [(), ("--compat",)], ids=["default", "compat"])
def test_descriptors_above_2_are_inherited(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    read, write = os.pipe()
    script = f"echo through >&{write}; ls -l /proc/self/fd"
    done = hpcc("exec", *mode, image.main, "bash", "-c", script, pass_fds=(write,))
    os.close(write)
    with open(read, "rb") as pipe:
        assert pipe.read() == b"through\n", done.stderr
    links = [line.split(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert not [link for link in links if ".sif" in link or "fuse" in link]  # and nothing of hpcc's own


@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",)], ids=["default", "containall", "compat"])
def test_a_closed_pipe_ends_the_payload(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    command = shlex.join([str(hpcc.installed.hpcc), "exec", *mode, str(image.main), "yes"])
    started = time.monotonic()
    done = hpcc.person.run(["bash", "-c", f"{command} | head -n 1; echo ${{PIPESTATUS[0]}}"], timeout=60)
    # Process 1 of a namespace gets no signal that it does not handle: it sees EPIPE instead.
    assert done.stdout.split() == ["y", "1" if mode == ("--compat",) else "141"]
    assert time.monotonic() - started < 30


def test_stdout_is_let_go_by_what_stays_behind(hpcc: Hpcc, image: Images) -> None:
    """A holder or FUSE daemon that kept our pipe open would let a reader wait for the end of it."""
    started = time.monotonic()
    assert hpcc("exec", image.main, "true", env={"HPCC_HOLD_IDLE": "30"}).returncode == 0
    assert time.monotonic() - started < 20


# -- kinds of image ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("--compat",)], ids=["default", "compat"])
def test_distroless(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    assert hpcc("exec", *mode, image.distroless, "/busybox", "echo", "static").stdout == "static\n"
    assert hpcc("run", *mode, image.distroless, "by", "entrypoint").stdout == "by entrypoint\n"
    done = hpcc("exec", *mode, image.distroless, "sh")
    assert done.returncode == 255 and '"sh": executable file not found' in done.stderr
    done = hpcc("shell", *mode, image.distroless)
    assert done.returncode == 255 and "/bin/sh" in done.stderr


@pytest.mark.parametrize("mode", [(), ("--compat",)], ids=["default", "compat"])
def test_sandbox_and_squashfs(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    done = hpcc("run", *mode, image.sandbox, "a", "b c")
    assert done.stdout.startswith("runscript a b c of ") and done.returncode == 0
    out = hpcc.out(image.sandbox, "echo $SHARED; echo /bin/*", *mode, env={"APPTAINERENV_SHARED": "of the caller"})
    assert out.startswith("of the caller\n") and "/bin/busybox" in out
    assert hpcc.out(image.squashfs, 'echo "$GREETING"', *mode) == GREETING + "\n"
    assert hpcc("run", *mode, image.squashfs).stdout == "[entry point][cmd][with  two spaces]\n"


def test_the_root_is_read_only_by_default(hpcc: Hpcc, image: Images) -> None:
    for path in (image.main, image.squashfs, image.sandbox, image.rooted):
        for place in ("/new", "/etc/new", "/.singularity.d/new"):
            done = hpcc.sh(path, f"echo > {place}")
            assert done.returncode != 0 and "Read-only" in done.stderr, (path, place, done.stderr)
    assert not (image.sandbox / "new").exists()


def test_run_with_entrypoint_cmd_and_arguments(hpcc: Hpcc, image: Images) -> None:
    assert hpcc("run", image.main).stdout == "[entry point][cmd][with  two spaces]\n"
    assert hpcc("run", image.main, "own", "--flag", "$HOME").stdout == "[entry point][own][--flag][$HOME]\n"
    assert hpcc("run", "--compat", image.main, "--", "-x").stdout == "[entry point][--][-x]\n"


def test_shell_reads_commands_from_stdin(hpcc: Hpcc, image: Images) -> None:
    done = hpcc("shell", image.main, input="echo in $0; echo $SHELL; exit 5\n")
    assert done.stdout == "in /bin/bash\n/bin/bash\n" and done.returncode == 5
    done = hpcc("shell", "--shell", "/bin/sh", image.main, input="echo in $0\n")
    assert done.stdout == "in /bin/sh\n"


def test_a_sif_runs_by_itself(hpcc: Hpcc, image: Images) -> None:
    sif = copy_of(image.main, hpcc.person.home)
    sif.chmod(0o755)
    path = f"{hpcc.installed.bin}:/usr/bin:/bin"
    done = hpcc.person.run(["/bin/sh", "-c", "exec ./main.sif an 'argument of' mine"], env={"PATH": path})
    assert done.stdout == "[entry point][an][argument of][mine]\n", done.stderr


def test_dry_run_prints_and_runs_nothing(hpcc: Hpcc, image: Images) -> None:
    done = hpcc("exec", "--dry-run", "--compat", "-B", "/etc/hostname:/x", image.main, "touch", "/tmp/ran")
    assert done.returncode == 0
    for word in ("Layer", "Pivot", "DropPrivileges", "Execute touch /tmp/ran", "/x", str(image.main)):
        assert word in done.stdout
    assert not (hpcc.person.home / "node").exists()  # nothing was probed, mounted or held


# -- environment -------------------------------------------------------------------------------------------------


def variables(text: str) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in text.split("\0") if line)  # type: ignore[misc]


def environment(hpcc: Hpcc, image: Path, *flags: str, env: dict[str, str] | None = None) -> dict[str, str]:
    done = hpcc("exec", *flags, image, "env", "-0", env=env)
    assert done.returncode == 0, done.stderr
    return variables(done.stdout)


HOST = {
    "MINE": "of the host",
    "SHARED": "of the host",
    "LD_LIBRARY_PATH": "/host/lib",
    "NO_PROXY": "n",
    "HPCC_TTL": "7",
}


def test_environment_by_default(hpcc: Hpcc, image: Images) -> None:
    found = environment(hpcc, image.main, env=HOST)
    assert found["MINE"] == found["SHARED"] == "of the host"
    assert found["GREETING"] == GREETING and found["EMPTY"] == "" and found["odd.name"] == "dotted"
    assert found["PATH"] == IMAGE_PATH
    assert found["LD_LIBRARY_PATH"] == "/.singularity.d/libs"
    assert found["APPTAINER_CONTAINER"] == found["SINGULARITY_CONTAINER"] == str(image.main)
    assert not [name for name in found if name.startswith("HPCC_") and name != "HPCC_CONTAINER"]


@pytest.mark.parametrize("mode", ["--cleanenv", "--containall", "--compat"])
def test_clean_environment(hpcc: Hpcc, image: Images, mode: str) -> None:
    found = environment(hpcc, image.main, mode, env=HOST)
    assert "MINE" not in found and found["SHARED"] == "of the image" and found["GREETING"] == GREETING
    assert found["NO_PROXY"] == "n" and found["TERM"] == "dumb" and found["PATH"] == IMAGE_PATH


@pytest.mark.parametrize("mode", ["--no-umask", "--cleanenv", "--compat"])
def test_prefixed_variables_in_their_order(hpcc: Hpcc, image: Images, mode: str) -> None:
    env = {
        "SINGULARITYENV_A": "singularity", "SINGULARITYENV_B": "singularity", "SINGULARITYENV_C": "singularity",
        "APPTAINERENV_B": "apptainer", "APPTAINERENV_C": "apptainer", "HPCCENV_C": "hpcc", "HPCCENV_SHARED": "hpcc",
        "HPCCENV_D": "hpcc", "APPTAINERENV_PREPEND_PATH": "/before", "APPTAINERENV_APPEND_PATH": "/after",
    }  # fmt: skip
    found = environment(hpcc, image.main, mode, "--env", "D=option,E=a b", "--env", 'F="$HOME"', env=env)
    assert [found[name] for name in "ABCDEF"] == ["singularity", "apptainer", "hpcc", "option", "a b", '"$HOME"']
    assert found["SHARED"] == "hpcc"
    assert found["PATH"] == f"/before:{IMAGE_PATH}:/after"


def test_path_can_be_set_from_outside_on_purpose(hpcc: Hpcc, image: Images) -> None:
    assert environment(hpcc, image.main, "--env", "PATH=/usr/bin:/mine")["PATH"] == "/usr/bin:/mine"
    assert environment(hpcc, image.main, env={"APPTAINERENV_PATH": "/usr/bin"})["PATH"] == "/usr/bin"
    assert environment(hpcc, image.main, env={"PATH": "/usr/bin:/bin:/host/bin"})["PATH"] == IMAGE_PATH


# -- home, cwd, binds --------------------------------------------------------------------------------------------


def test_default_mounts(hpcc: Hpcc, image: Images, open_dir: Path) -> None:
    (hpcc.person.home / "file").write_text("of the host\n")
    out = hpcc.out(image.main, "pwd; cat file; echo new > made; cat /tmp/../proc/1/comm >/dev/null; ls /sys >/dev/null")
    assert out == f"{hpcc.person.home}\nof the host\n"
    assert (hpcc.person.home / "made").read_text() == "new\n"
    assert os.stat(hpcc.person.home / "made").st_uid == hpcc.person.uid
    probe = Path("/tmp") / f"hpcc-probe-{os.getpid()}-{hpcc.person.uid}"
    try:
        hpcc.out(image.main, f"echo x > {probe}")
        assert probe.exists()
    finally:
        probe.unlink(missing_ok=True)


def test_home(hpcc: Hpcc, image: Images) -> None:
    place = hpcc.person.home / "other"
    place.mkdir()
    (place / "mark").touch()
    hpcc.person.at(place) if os.geteuid() == 0 else None
    assert hpcc.out(image.main, "echo $HOME; ls ~", "--home", f"{place}:/home/me") == "/home/me\nmark\n"
    assert hpcc.out(image.main, "echo $HOME; ls ~", "-H", place) == f"{place}\nmark\n"
    assert hpcc.out(image.main, "echo $HOME; ls ~", "--compat", "-H", f"{place}:/srv/me") == "/srv/me\nmark\n"
    done = hpcc.sh(image.main, "true", "--home", "/no/such/home:/home/me")
    assert done.returncode == 255 and "/no/such/home" in done.stderr
    done = hpcc.sh(image.main, "true", "--home", f"{place}:relative")
    assert done.returncode == 255 and "absolute" in done.stderr


def test_no_home(hpcc: Hpcc, image: Images) -> None:
    script = 'grep -c " $HOME " /proc/self/mountinfo'
    assert hpcc.sh(image.main, script, cwd=Path("/")).stdout == "1\n"
    assert hpcc.sh(image.main, script, "--no-home", cwd=Path("/")).stdout == "0\n"


def test_pwd(hpcc: Hpcc, image: Images) -> None:
    assert hpcc.out(image.main, "pwd; echo $PWD", "--pwd", "/own/gid8") == "/own/gid8\n/own/gid8\n"
    assert hpcc.out(image.main, "pwd", "--compat", "--pwd", "/etc") == "/etc\n"
    done = hpcc.sh(image.main, "echo ran", "--pwd", "/no/such")
    assert done.returncode == 255 and "/no/such" in done.stderr and done.stdout == ""
    done = hpcc.sh(image.main, "echo ran", "--compat", "--pwd", "/no/such")
    assert done.returncode == 255 and "/no/such" in done.stderr and done.stdout == ""


@pytest.fixture
def data(hpcc: Hpcc) -> Path:
    """A directory of the person's own, outside of home's own mount: file, sub/."""
    path = hpcc.person.home / "data"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("data\n")
    if os.geteuid() == 0:
        for each in (path, path / "sub", path / "file"):
            os.chown(each, hpcc.person.uid, hpcc.person.gid)
    return path


MODES = pytest.mark.parametrize("mode", [(), ("--contain",), ("--compat",)], ids=["default", "contain", "compat"])


@MODES
def test_bind(hpcc: Hpcc, image: Images, data: Path, mode: tuple[str, ...]) -> None:
    assert hpcc.out(image.main, "cat /mnt/file; echo w > /mnt/w", *mode, "-B", f"{data}:/mnt") == "data\n"
    assert (data / "w").read_text() == "w\n"
    done = hpcc.sh(image.main, "cat /mnt/file; echo w > /mnt/ro", *mode, "--bind", f"{data}:/mnt:ro")
    assert done.stdout == "data\n" and "Read-only" in done.stderr and not (data / "ro").exists()
    assert hpcc.out(image.main, "cat /etc/os-release", *mode, "-B", f"{data}/file:/etc/os-release") == "data\n"


@MODES
def test_bind_destinations_are_made(hpcc: Hpcc, image: Images, data: Path, mode: tuple[str, ...]) -> None:
    binds = (
        "-B",
        f"{data}:/made/for/this,{data}/file:/also/a/file",
        "-B",
        f"{data}:/own/gid8/new",
        "-B",
        f"{data}/file:/top",
    )
    script = (
        "cat /made/for/this/file /also/a/file /own/gid8/new/file /top /own/gid8/old; ls /own/gid8 /etc | sort | head -3"
    )
    assert hpcc.out(image.main, script, *mode, *binds).startswith("data\ndata\ndata\ndata\nold of gid8\n")


@MODES
def test_nested_binds(hpcc: Hpcc, image: Images, data: Path, mode: tuple[str, ...]) -> None:
    script = "cat /b/file /b/sub/os-release; ls /b"
    out = hpcc.out(image.main, script, *mode, "-B", f"{data}:/b", "-B", "/etc:/b/sub")
    assert out.startswith("data\n") and out.endswith("file\nsub\n")
    done = hpcc.sh(image.main, "true", *mode, "-B", f"{data}:/b", "-B", "/etc:/b/not-there")
    assert done.returncode == 255 and "/b/not-there" in done.stderr
    assert not (data / "not-there").exists()


@MODES
def test_bind_errors(hpcc: Hpcc, image: Images, data: Path, mode: tuple[str, ...]) -> None:
    for bind, word in (
        ("/no/such/source:/mnt", "/no/such/source"),
        (f"{data}:relative", "not an absolute path"),
        (f"{data}:/mnt:rx", "does not parse"),
        (f"{data}:/etc/passwd", "one is a directory and the other a file"),
        (f"{data}/file:/etc", "one is a file and the other a directory"),
        (f"{data}:/hostile/loop/x", "/hostile/loop/x"),
    ):
        done = hpcc.sh(image.main, "echo ran", *mode, "-B", bind)
        assert done.returncode == 255 and word in done.stderr and done.stdout == "", (bind, done)
        assert "Traceback" not in done.stderr


@MODES
def test_bind_behind_hostile_links_stays_inside(
    hpcc: Hpcc, image: Images, data: Path, mode: tuple[str, ...], open_dir: Path
) -> None:
    name = f"hpcc-{os.getpid()}-{hpcc.person.uid}"
    binds = [f"{data}:/hostile/{link}/{name}" for link in ("abs", "up")]
    script = f"cat /etc/{name}/file /var/{name}/file /hostile/abs/os-release"
    assert hpcc.out(image.main, script, *mode, "-B", ",".join(binds)).startswith("data\ndata\nID=hpcc-demo\n")
    done = hpcc.sh(image.main, "true", *mode, "-B", f"{data}:/hostile/proc/{name}")
    assert "Traceback" not in done.stderr
    for place in ("/etc", "/var"):
        assert not Path(place, name).exists()


def test_ro_holds_below_other_mounts_too(hpcc: Hpcc, image: Images, data: Path) -> None:
    """A read-only bind of a directory below which something is mounted: that must not stay writable."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount something")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "none", data / "sub"], check=True)
    try:
        done = hpcc.sh(image.main, "echo w > /mnt/sub/w", "-B", f"{data}:/mnt:ro")
        assert done.returncode != 0 and not (data / "sub/w").exists()
    finally:
        subprocess.run(["umount", data / "sub"], check=True)


def test_accounts(hpcc: Hpcc, image: Images) -> None:
    assert hpcc.out(image.main, "id -un; id -gn") == hpcc.person.run(["sh", "-c", "id -un; id -gn"]).stdout
    assert hpcc.out(image.main, "tail -c1 /etc/passwd; grep -c mail /etc/group") == "\n1\n"


def test_host_files(hpcc: Hpcc, image: Images) -> None:
    """/etc/resolv.conf is a link in the image to what the image does not have."""
    want = Path("/etc/resolv.conf")
    if want.exists():
        assert hpcc.out(image.main, "cat /etc/resolv.conf") == want.read_text()
        assert hpcc.out(image.main, "cat /etc/resolv.conf", "--compat") == want.read_text()


# -- a terminal --------------------------------------------------------------------------------------------------


ALL_MODES = pytest.mark.parametrize(
    "mode", [(), ("--containall",), ("--compat",)], ids=["default", "containall", "compat"]
)


@ALL_MODES
def test_ctrl_c_reaches_the_payload_once(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    script = 'n=0; trap "n=\\$((n+1))" INT; echo re""ady; for i in 1 2 3 4 5; do sleep 0.2; done; echo count=$n; exit 3'
    argv = [str(hpcc.installed.hpcc), "exec", *mode, str(image.main), "bash", "-c", script]
    status, seen = on_terminal(hpcc.person, argv, [(b"ready", b"\x03")])
    assert b"count=1" in seen and status == 3, seen


@ALL_MODES
def test_ctrl_c_ends_the_payload(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    # cat, not the shell: dash catches the signal, and loses it when it is about to execute something.
    argv = [str(hpcc.installed.hpcc), "exec", *mode, str(image.main), "sh", "-c", 'echo re""ady; exec cat']
    status, seen = on_terminal(hpcc.person, argv, [(b"ready", b"word\r"), (b"word\r\nword", b"\x03")], 20)
    assert status in (-signal.SIGINT, 128 + signal.SIGINT), seen


@ALL_MODES
def test_job_control(hpcc: Hpcc, image: Images, mode: tuple[str, ...]) -> None:
    """Ctrl-Z stops it for the shell, fg goes on with it."""
    command = shlex.join([str(hpcc.installed.hpcc), "exec", *mode, str(image.main), "sh", "-c"])
    steps = [
        (b"bash-", f'{command} \'echo re""ady; sleep 1; echo aw""ake; exit 4\'\r'.encode()),
        (b"ready", b"\x1a"),
        (b"Stopped", b"fg\r"),
        (b"awake", b"echo status=$?\r"),
        (b"status=4", b"exit\r"),
    ]
    status, seen = on_terminal(hpcc.person, ["bash", "--norc", "--noprofile", "-i"], steps, 20)
    assert status == 0, seen


def test_standard_streams_are_the_terminal(hpcc: Hpcc, image: Images) -> None:
    argv = [str(hpcc.installed.hpcc), "exec", str(image.main), "sh", "-c", "test -t 0 && test -t 1 && stty size && tty"]
    status, seen = on_terminal(hpcc.person, argv, [])
    assert status == 0 and b"/dev/pts/" in seen
