"""Instances, as root and as a plain user: start, run, list, exec in them, stop, and what goes wrong."""

import json
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import CONFIG, LAYERS, NAME
from tests.e2e.test_run_signals import left_over
from tests.support.images import IMAGE_PATH, Images, images, marked
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.terminal import on_terminal


class Hpcc:
    """`hpcc …` as one person, whose instances can be told from all others by a mark in their environment."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.program = person, installed.hpcc
        self.mark = uuid.uuid4().hex
        self.env = {"HPCC_MARK": self.mark, "HPCC_ROOTFS": "fuse"}
        self.state = person.home / ".local/state/hpcc/instances" / os.uname().nodename

    def __call__(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[Any]":
        env = {**self.env, **options.pop("env", {})}
        return self.person.run([self.program, *map(str, argv)], env=env, **options)

    def popen(self, *argv: object) -> "subprocess.Popen[Any]":
        argv = (self.program, *map(str, argv))
        return self.person.popen(argv, env=self.env, stdin=-3, stdout=-1, stderr=-1, text=True)

    def good(self, *argv: object, **options: Any) -> str:
        """stdout of what must succeed."""
        done = self(*argv, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def sh(self, name: str, script: str, *flags: object, **options: Any) -> str:
        return self.good("exec", *flags, f"instance://{name}", "sh", "-c", script, **options)

    def names(self, *argv: object) -> list[str]:
        return [entry["instance"] for entry in json.loads(self.good("instance", "list", "--json", *argv))["instances"]]

    def record(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.state / f"{name}.json").read_text()))

    def says(self, name: str, text: str, kind: str = "out") -> None:
        """Wait until the log has it."""
        log = self.state / f"{name}.{kind}"
        deadline = time.monotonic() + 20
        while text not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


@pytest.fixture
def hpcc(runs_as: Person, installed: Installation) -> Iterator[Hpcc]:
    each = Hpcc(runs_as, installed)
    yield each
    each("instance", "stop", "--all", "--force")
    assert left_over(each.mark) == {}


@pytest.fixture(scope="module")
def image() -> Images:
    return images()


def test_start_list_exec_stop(hpcc: Hpcc, image: Images) -> None:
    done = hpcc("instance", "start", image.main, "web1")
    assert done.returncode == 0 and "instance started successfully" in done.stderr and done.stdout == ""
    pid = hpcc.record("web1")["pid"]
    assert hpcc.good("instance", "list").splitlines() == [
        f"INSTANCE NAME    {'PID':<{len(str(pid)) + 4}}IP    IMAGE",
        f"web1             {pid}          {image.main}",
    ]
    assert json.loads(hpcc.good("instance", "list", "--json")) == {
        "instances": [
            {
                "instance": "web1",
                "pid": pid,
                "img": str(image.main),
                "ip": "",
                "logErrPath": f"{hpcc.state}/web1.err",
                "logOutPath": f"{hpcc.state}/web1.out",
            }
        ]
    }
    assert f"{hpcc.state}/web1.err" in hpcc.good("instance", "list", "--logs")
    assert hpcc.names("w*") == ["web1"] and hpcc.names("x*") == []
    assert (hpcc.state / "web1.json").stat().st_mode & 0o777 == 0o600
    assert hpcc.state.stat().st_mode & 0o777 == 0o700
    # Process 1 of its own, and nothing beside it
    assert hpcc.sh("web1", "ls /proc | grep -c '^[0-9]*$'; cat /etc/os-release").startswith("4\nID=hpcc-demo")
    assert hpcc("instance", "stop", "web1").returncode == 0
    assert left_over(hpcc.mark) == {}
    assert list(hpcc.state.iterdir()) == []  # it has said nothing, so there is no log either
    assert hpcc.names() == []
    with open("/proc/self/mountinfo") as mounts:
        assert str(hpcc.person.home) not in mounts.read()


def test_it_outlives_its_session(hpcc: Hpcc, image: Images) -> None:
    argv = ["sh", "-c", f"{hpcc.program} instance start {image.main} stays; echo st''arted"]
    status, seen = on_terminal(hpcc.person, argv, [])
    assert status == 0 and b"started successfully" in seen, seen
    record = hpcc.record("stays")
    for pid in (record["keeper"], record["pid"]):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert fields[4] == "0"  # no terminal
        assert os.getsid(pid) == record["keeper"]
    assert hpcc.names() == ["stays"]
    hpcc.good("instance", "stop", "stays")


def test_run_and_logs(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "run", image.main, "job", "one", "two words")
    hpcc.says("job", "[entry point][one][two words]\n")
    assert hpcc.names() == ["job"]  # as under Apptainer it stays when its command has ended
    hpcc.good("instance", "stop", "job")
    assert (hpcc.state / "job.out").read_text() == "[entry point][one][two words]\n"
    assert (hpcc.state / "job.out").stat().st_mode & 0o777 == 0o600
    hpcc.good("instance", "run", image.main, "job")
    hpcc.says("job", "[two words]\n[entry point][cmd][with  two spaces]\n")


def test_startscript(hpcc: Hpcc, image: Images, open_dir: Path) -> None:
    sandbox = open_dir / "sandbox"
    subprocess.run(["cp", "-a", image.sandbox, sandbox], check=True)
    hpcc.good("instance", "start", sandbox, "none")  # without a startscript, process 1 is alone
    script = sandbox / ".singularity.d/startscript"
    os.mkfifo(script)
    hpcc.good("instance", "start", sandbox, "fifo", timeout=30)
    script.unlink()
    script.write_text(
        "#!/bin/sh\necho started with $FROM_SCRIPT, $1 and $APPTAINER_INSTANCE\necho oops >&2\nsleep 900\n"
    )
    script.chmod(0o755)
    hpcc.good("instance", "start", "--env", "FROM_SCRIPT=option", sandbox, "some", "an argument")
    hpcc.says("some", "started with option, an argument and some\n")
    hpcc.says("some", "oops\n", "err")
    assert "sleep" in hpcc.sh("some", "cat /proc/[0-9]*/comm")


def test_environment_directory_and_streams(hpcc: Hpcc, image: Images) -> None:
    place = hpcc.person.home / "place"
    place.mkdir()
    hpcc.good("instance", "start", "--env", "AT_START=1", "--home", f"{place}:/srv/me", image.main, "env")
    host = {"MINE": "x", "SHARED": "of the caller", "APPTAINERENV_INSIDE": "y"}
    script = 'echo "$MINE|$AT_START|$SHARED|$INSIDE|$HOME|$PATH|$APPTAINER_INSTANCE|$APPTAINER_COMMAND|$A"; pwd'
    out = hpcc.sh("env", script, "--env", "A=1", env=host, cwd=Path("/usr"))
    assert out == f"x||of the caller|y|/srv/me|{IMAGE_PATH}|env|exec|1\n/usr\n"
    out = hpcc.sh("env", script, "--cleanenv", "--pwd", "/etc", env=host)
    assert out == f"||of the image|y|/srv/me|{IMAGE_PATH}|env|exec|\n/etc\n"
    done = hpcc("exec", "instance://env", "sh", "-c", "cat; echo err >&2; exit 7", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")
    assert hpcc.good("run", "instance://env", "a b") == "[entry point][a b]\n"
    assert hpcc("shell", "instance://env", input="echo in $0; exit 5\n").stdout == "in /bin/bash\n"
    done = hpcc("exec", "--pwd", "/no/such", "instance://env", "true")
    assert done.returncode == 255 and "/no/such" in done.stderr
    done = hpcc("exec", "instance://env", "no-such-command")
    assert done.returncode == 255 and "not found in the image" in done.stderr and "Traceback" not in done.stderr
    done = hpcc("exec", "--bind", "/usr:/mnt", "instance://env", "ls", "/mnt")
    assert done.stdout == "" and "--bind: what an instance mounts was decided when it started" in done.stderr


@pytest.mark.parametrize("writable", ["auto", "nested", "fuse-overlayfs"])
def test_privileges_and_namespaces(hpcc: Hpcc, image: Images, writable: str) -> None:
    hpcc.env["HPCC_WRITABLE"] = "auto" if hpcc.person.uid == 0 and writable == "nested" else writable
    hpcc.good("instance", "start", "--compat", image.rooted, "box")
    out = hpcc.sh("box", "id -u; touch /own/uid0/new && ls /own/uid0; grep -e ^Cap -e NoNew /proc/self/status")
    assert out.split()[:6] == [str(hpcc.person.uid), "gone", "moved", "new", "old", "CapInh:"]
    assert set(out.split()[6::2]) == {"0" * 16, "1"}
    pid = hpcc.record("box")["pid"]
    for kind in ("mnt", "pid", "ipc"):
        there = os.readlink(f"/proc/{pid}/ns/{kind}")
        assert hpcc.sh("box", f"readlink /proc/self/ns/{kind}") == there + "\n" != os.readlink(f"/proc/self/ns/{kind}")
    assert hpcc.sh("box", "ls /own/uid0") == "gone\nmoved\nnew\nold\n"  # one root for all


def test_mistakes(hpcc: Hpcc, image: Images) -> None:
    usage = "Usage: hpcc instance"
    hpcc.good("instance", "start", image.main, "here")
    for argv, words in (
        (["instance", "start", image.main], usage),
        (["instance", "start", "/no/such.sif", "x"], "/no/such.sif"),
        (["instance", "start", "-B", "/no/such:/mnt", image.main, "x"], "/no/such"),
        (["instance", "start", "--pwd", "/no/such", image.main, "x"], "/no/such"),
        (["instance", "run", image.squashfs.parent, "x"], "not found"),
        (["instance", "start", image.main, "a/b"], "not a valid instance name"),
        (["instance", "start", image.main, "here"], "instance here already exists"),
        (["exec", "instance://nosuch", "true"], "no instance found with name nosuch"),
        (["exec", "instance://../x", "true"], "not a valid instance name"),
        (["instance", "stop", "nosuch"], "no instance found with name nosuch"),
        (["instance", "stop"], usage),
        (["instance", "stop", "--all", "here"], usage),
        (["instance", "stop", "--signal", "LOUD", "here"], "no such signal"),
        (["instance", "stop", "--timeout", "soon", "here"], "no number of seconds"),
        (["instance", "list", "a", "b"], usage),
        (["instance", "stats"], usage),
        (["instance", "stats", "nosuch"], "no instance found"),
        (["instance"], "needs a subcommand"),
    ):
        done = hpcc(*argv)
        assert done.returncode == 255 and words in done.stderr and "Traceback" not in done.stderr, (argv, done)
    assert hpcc.names() == ["here"]
    assert [path.name for path in hpcc.state.iterdir() if path.name.startswith("x.")] == []
    if hpcc.person.uid != 0:
        done = hpcc("instance", "list", "--user", "root")
        assert done.returncode == 255 and "only root" in done.stderr
    elsewhere = hpcc.state.parent / "another-node"
    elsewhere.mkdir()
    (elsewhere / "far.json").write_text("{}")
    assert "another-node" in hpcc("exec", "instance://far", "true").stderr


def test_of_several_at_once_one_wins(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "one")
    (hpcc.state / "one.json").write_text(
        json.dumps({**hpcc.record("one"), "started": "1"})
    )  # a stale record to take over
    starts = [hpcc.popen("instance", "start", image.main, "one") for _ in range(6)]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in starts]
    assert sorted(status for _, status in ends) == [0, 255, 255, 255, 255, 255], ends
    assert all("already exists" in text for text, status in ends if status)
    assert hpcc.names() == ["one"]
    hpcc.good("instance", "stop", "one")
    for pid in marked(hpcc.mark):
        os.kill(pid, signal.SIGKILL)  # the first one, which we have disowned


def test_stale_records_are_cleaned(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "old")
    record = hpcc.record("old")
    os.kill(record["keeper"], signal.SIGKILL)
    assert left_over(hpcc.mark) == {}  # neither process 1 nor the daemon
    assert hpcc("exec", "instance://old", "true").returncode == 255
    assert hpcc.names() == [] and not (hpcc.state / "old.json").exists()
    for changes in ({"boot": "another"}, {"keeper": os.getpid()}):
        (hpcc.state / "old.json").write_text(json.dumps({**record, **changes}))
        assert hpcc.names() == [] and not (hpcc.state / "old.json").exists()
    (hpcc.state / "old.json").write_text("half a rec")
    assert hpcc("instance", "start", image.main, "old").returncode == 0
    hpcc.good("instance", "stop", "old")
    # What is of another PID namespace with this home is not ours to judge, let alone to remove.
    (hpcc.state / "old.json").write_text(json.dumps({**record, "namespace": "pid:[1]"}))
    assert hpcc.names() == [] and (hpcc.state / "old.json").exists()
    assert "already exists" in hpcc("instance", "start", image.main, "old").stderr


def test_killed_processes(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "a")
    inside = hpcc.popen("exec", "instance://a", "sh", "-c", "echo ready; exec sleep 600")
    assert inside.stdout is not None and inside.stdout.readline() == "ready\n"
    inside.kill()  # kill -9 of who stays beside a command: the command goes too
    inside.wait(20)
    deadline = time.monotonic() + 5
    while "sleep" in hpcc.sh("a", "cat /proc/[0-9]*/cmdline") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "sleep" not in hpcc.sh("a", "cat /proc/[0-9]*/cmdline")
    inside = hpcc.popen("exec", "instance://a", "sh", "-c", "echo ready; exec sleep 600")
    assert inside.stdout is not None and inside.stdout.readline() == "ready\n"
    os.kill(hpcc.record("a")["pid"], signal.SIGKILL)  # process 1: all in the instance goes, and its record
    assert inside.wait(20) == 137
    assert left_over(hpcc.mark) == {}
    assert hpcc.names() == [] and not (hpcc.state / "a.json").exists()


def test_signals_of_a_command_inside(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "a")
    inside = hpcc.popen("exec", "instance://a", "sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; sleep 9 & wait")
    assert inside.stdout is not None and inside.stdout.readline() == "ready\n"
    inside.terminate()
    assert inside.communicate(timeout=20)[0] == "got\n" and inside.returncode == 3
    inside = hpcc.popen("exec", "instance://a", "sh", "-c", "echo ready; exec sleep 600")
    assert inside.stdout is not None and inside.stdout.readline() == "ready\n"
    inside.terminate()
    assert inside.wait(20) == 143


def test_stop_asks_then_kills(hpcc: Hpcc, image: Images) -> None:
    for name in ("polite", "stubborn"):
        hpcc.good("instance", "start", image.main, name)
    polite = "trap 'echo bye; exit 4' USR1; echo ready; while :; do sleep 0.1; done"
    first = hpcc.popen("exec", "instance://polite", "sh", "-c", polite)
    second = hpcc.popen(
        "exec", "instance://stubborn", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"
    )
    for process in (first, second):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert "killed" not in hpcc("instance", "stop", "--signal", "SIGUSR1", "polite").stderr
    assert first.communicate(timeout=20)[0] == "bye\n" and first.returncode == 4
    started = time.monotonic()
    done = hpcc("instance", "stop", "--timeout", "1", "--all")
    assert done.returncode == 0 and "so it is killed" in done.stderr and 1 <= time.monotonic() - started < 10
    assert second.wait(20) == 137
    assert left_over(hpcc.mark) == {}


def test_stats(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "busy")
    found = json.loads(hpcc.good("instance", "stats", "--json", "busy"))
    assert found["source"] in ("proc", "cgroup") and found["pids_stats"]["current"] >= 1
    assert 1 << 16 < found["memory_stats"]["usage"]["usage"] < 1 << 28
    work = hpcc.popen("exec", "instance://busy", "sh", "-c", "echo ready; while :; do :; done")
    assert work.stdout is not None and work.stdout.readline() == "ready\n"
    header, row = hpcc.good("instance", "stats", "--no-stream", "busy").splitlines()
    assert header.split()[:3] == ["INSTANCE", "NAME", "CPU"] and row.split()[0] == "busy"
    assert float(row.split()[1].rstrip("%")) > 5


def test_dry_run_and_pid_file(hpcc: Hpcc, image: Images) -> None:
    out = hpcc.good("instance", "start", "--dry-run", image.main, "dry", "a")
    assert "Unshare kinds=('pid', 'ipc'), init=True" in out and "Startscript /.singularity.d/startscript a" in out
    assert hpcc.names() == []
    hpcc.good("instance", "start", "--pid-file", "pid", image.main, "wet")
    assert int((hpcc.person.home / "pid").read_text()) == hpcc.record("wet")["pid"]
    out = hpcc.good("exec", "--dry-run", "instance://wet", "true")
    assert out.startswith("Join instance='wet'") and "DropPrivileges" in out and "Pivot" not in out


def test_list_all_shows_holders(hpcc: Hpcc, image: Images) -> None:
    assert hpcc("exec", image.main, "true", env={"HPCC_HOLD_IDLE": "30"}).returncode == 0
    out = hpcc.good("instance", "list", "--all")
    assert "HELD FOR" in out and f"of 30 s    {image.main}" in out
    (holder,) = [
        entry
        for entry in json.loads(hpcc.good("instance", "list", "--all", "--json"))["holders"]
        if entry["pid"] in marked(hpcc.mark) or hpcc.person.uid != 0
    ]
    assert holder["image"] == str(image.main) and holder["user"] == hpcc.person.name
    os.kill(holder["pid"], signal.SIGKILL)


@pytest.mark.root
def test_two_users_have_the_same_name(
    hpcc: Hpcc, image: Images, plain_user: Person, installed: Installation, open_dir: Path
) -> None:
    if hpcc.person.uid != 0:
        other = Hpcc(Person("root", 0, 0, open_dir), installed)
    else:
        home = open_dir / "other"
        home.mkdir(mode=0o700)
        other = Hpcc(plain_user.at(home), installed)
    for each in (hpcc, other):
        each.good("instance", "start", image.main, "same")
    try:
        assert hpcc.sh("same", "id -u") == f"{hpcc.person.uid}\n"
        assert other.sh("same", "id -u") == f"{other.person.uid}\n"
        hpcc.good("instance", "stop", "same")
        assert other.names() == ["same"]
    finally:
        other.good("instance", "stop", "--all")
    assert left_over(other.mark) == {}


@pytest.mark.parametrize("flags", [(), ("--disable-cache",)], ids=["cached", "no cache"])
def test_of_a_registry(hpcc: Hpcc, flags: tuple[str, ...]) -> None:
    with FakeRegistry() as registry:
        registry.add_image(NAME, "1.4", LAYERS, CONFIG, index=True)
        uri = f"docker://{registry.host}/{NAME}:1.4"
        assert hpcc("instance", "start", *flags, "--no-https", uri, "web").returncode == 0
    assert hpcc.names() == ["web"] and uri in hpcc.good("instance", "list")
    assert hpcc.sh("web", "echo $GREETING; ls /etc") != ""  # also when the image, or its cache, is gone


def test_on_a_terminal(hpcc: Hpcc, image: Images) -> None:
    hpcc.good("instance", "start", image.main, "tty")
    inside = [str(hpcc.program), "exec", "instance://tty", "bash", "-c"]
    script = 'n=0; trap "n=\\$((n+1))" INT; echo re""ady; for i in 1 2 3 4 5; do sleep 0.2; done; echo count=$n; exit 3'
    status, seen = on_terminal(hpcc.person, [*inside, script], [(b"ready", b"\x03")])
    assert b"count=1" in seen and status == 3, seen
    status, seen = on_terminal(hpcc.person, [*inside, "test -t 0 && test -t 1 && stty size"], [])
    assert status == 0, seen
    command = shlex.join([*inside, 'echo re""ady; sleep 1; echo aw""ake; exit 4'])
    steps = [
        (b"bash-", f"{command}\r".encode()),
        (b"ready", b"\x1a"),
        (b"Stopped", b"fg\r"),
        (b"awake", b"echo status=$?\r"),
        (b"status=4", b"exit\r"),
    ]
    status, seen = on_terminal(hpcc.person, ["bash", "--norc", "--noprofile", "-i"], steps, 20)
    assert status == 0, seen
