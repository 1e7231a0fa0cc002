"""hpcc build: definition files, images, directories and Dockerfiles, as root and as a user with subordinate ids."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from hpcc.registry.fake import FakeRegistry
from tests.e2e.test_pull import CONFIG, LAYERS
from tests.support import people
from tests.support.images import busybox, images
from tests.support.installation import Installation
from tests.support.people import Person
from tests.support.terminal import on_terminal

ALL = """Bootstrap: busybox

%setup
    echo "of setup" >"$APPTAINER_ROOTFS/setup.txt"
%files
    notes.txt /opt/notes.txt
    tree/* /opt/tree/
%post
    echo "of post" >/post.txt
    chown 33:8 /post.txt
    chmod 4755 /bin/busybox
    test "$(id -u)" = 0
    echo 'export FROM_POST=1' >>"$APPTAINER_ENVIRONMENT"
    echo 'Post.Label of post' >>"$APPTAINER_LABELS"
%environment
    export GREETING="hello $FROM_BASE there"
%runscript
    echo "ran [$*] $GREETING $FROM_POST"
%startscript
    echo started
%test
    echo "tested $GREETING"
    test -f /post.txt
%labels
    Author me and me
%help
    This helps.
%apprun foo
    echo "app $SCIF_APPNAME $MORE"
%appenv foo
    export MORE=more
%appinstall foo
    echo installed >bin/marker
%apphelp foo
    foo helps
"""


class Builder:
    """hpcc as one person, in their home."""

    def __init__(self, person: Person, installed: Installation) -> None:
        self.person, self.hpcc, self.home = person, installed.hpcc, person.home
        self.env: dict[str, str] = {}

    def __call__(self, *argv: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        options["env"] = {**self.env, **options.pop("env", {})}
        return self.person.run([self.hpcc, *map(str, argv)], **options)

    def ok(self, *argv: object, **options: Any) -> str:
        done = self(*argv, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def write(self, name: str, text: str | bytes, mode: int = 0o644) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        for each in (path, path.parent):
            os.chown(each, self.person.uid, self.person.gid)
        return path

    def build(self, text: str, *options: object, target: str = "x.sif", **more: Any) -> str:
        """stderr of a build that succeeds."""
        self.write("x.def", text)
        done = self("build", *options, target, "x.def", **more)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    def fails(self, text: str, *options: object, target: str = "x.sif", **more: Any) -> str:
        """stderr of a build that does not."""
        self.write("x.def", text)
        done = self("build", *options, target, "x.def", **more)
        assert done.returncode == 255 and "Traceback" not in done.stderr, done.stderr
        assert self.left() == []
        return str(done.stderr)

    def left(self) -> list[str]:
        """What builds have left on the node and beside their target."""
        node = self.home / "node/build"
        beside = [
            path.name for path in self.home.iterdir() if ".build-" in path.name or path.name.startswith(".x.sif.")
        ]
        return [path.name for path in node.iterdir()] + beside if node.is_dir() else beside


@pytest.fixture
def builder(runs_as: Person, installed: Installation) -> Builder:
    return Builder(runs_as, installed)


@pytest.fixture
def of_user(plain_user: Person, installed: Installation, open_dir: Path) -> Builder:
    """Of a plain user alone, where root does nothing else."""
    (open_dir / "home").mkdir(mode=0o700)
    return Builder(plain_user.at(open_dir / "home"), installed)


def test_everything_of_a_definition_file(builder: Builder) -> None:
    builder.write("notes.txt", "noted\n", 0o640)
    builder.write("tree/a", "A\n")
    builder.write("tree/b", "B\n")
    said = builder.build(ALL)
    for line in ("Running setup scriptlet", "Copying notes.txt to /opt/notes.txt", "Running post", "Build complete"):
        assert line in said
    assert builder.left() == []
    assert builder.ok("run", "x.sif", "a", "b") == "ran [a b] hello  there 1\n"
    assert builder.ok("exec", "x.sif", "cat", "/setup.txt", "/post.txt", "/opt/notes.txt", "/opt/tree/b") == (
        "of setup\nof post\nnoted\nB\n"
    )
    assert builder.ok("test", "x.sif") == "tested hello  there\n"
    assert builder.ok("run-help", "x.sif") == "    This helps.\n"
    assert builder.ok("run-help", "--app", "foo", "x.sif") == "    foo helps\n"
    assert builder.ok("run", "--app", "foo", "x.sif") == "app foo more\n"
    assert builder.ok("exec", "--app", "foo", "x.sif", "cat", "/scif/apps/foo/bin/marker") == "installed\n"
    # owners and modes of the image are kept without root
    assert builder.ok("exec", "--fakeroot", "x.sif", "stat", "-c", "%u:%g %a", "/post.txt", "/bin/busybox") == (
        "33:8 644\n0:0 4755\n"
    )
    labels = builder.ok("inspect", "x.sif")
    for line in ("Author: me and me\n", "Post.Label: of post\n", "deffile.bootstrap: busybox\n"):
        assert line in labels
    assert builder.ok("inspect", "--deffile", "x.sif") == f"{ALL}\n"  # one more, as Apptainer has it
    assert builder.ok("inspect", "--list-apps", "x.sif") == "foo\n"
    assert builder.ok("exec", "x.sif", "ls", "-A", "/").split().count(".post.script") == 0
    assert (builder.home / "x.sif").stat().st_mode & 0o777 == 0o755


def test_tmp_of_the_host_is_out_of_posts_reach(builder: Builder) -> None:
    """Dockerfiles end with `rm -rf /tmp/*`; what %post writes there is the image's."""
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="hpcc-precious-") as precious:
        os.chown(precious.name, builder.person.uid, builder.person.gid)
        name = precious.name
        post = f"%post\n    test ! -e {name}\n    touch /tmp/made /var/tmp/made\n    rm -rf {name} /tmp/gone\n"
        builder.build(f"Bootstrap: busybox\n{post}")
        assert os.path.exists(name)
    assert not os.path.exists("/tmp/made")
    assert builder.ok("exec", "--contain", "--no-mount", "tmp", "x.sif", "ls", "/tmp", "/var/tmp").split() == [
        "/tmp:", "made", "/var/tmp:", "made",
    ]  # fmt: skip


def test_post_that_fails(builder: Builder) -> None:
    text = "Bootstrap: busybox\n%post\n  echo to stdout\n  echo to stderr >&2\n  exit 7\n"
    said = builder.fails(text)
    assert "%post ended with 7; its last lines:" in said
    last = said.partition("its last lines:")[2]
    assert "to stdout" in last and "to stderr" in last
    assert not (builder.home / "x.sif").exists()
    # quietly: only what went wrong
    assert builder.fails(text, "--quiet").startswith("FATAL:   %post ended with 7")
    done = builder("build", "--no-cleanup", "x.sif", "x.def")
    assert done.returncode == 255 and "is kept" in done.stderr
    (kept,) = builder.left()
    assert kept in done.stderr and (builder.home / "node/build" / kept / "0/bin/busybox").exists()
    builder.build("Bootstrap: busybox\n")  # what was kept on request stays
    assert builder.left() == [kept]


def test_test_that_fails(builder: Builder) -> None:
    text = "Bootstrap: busybox\n%test\n  exit 3\n"
    assert "%test ended with 3 and said nothing" in builder.fails(text)
    builder.build(text, "--notest")
    assert builder("test", "x.sif").returncode == 3
    builder.build(text, "--force", "--section", "none")
    assert builder.ok("test", "x.sif") == ""


def test_a_target_that_is_there(builder: Builder) -> None:
    builder.write("x.sif", "mine")
    assert "already exists" in builder.fails("Bootstrap: busybox\n")
    assert (builder.home / "x.sif").read_text() == "mine"
    argv = [str(builder.hpcc), "build", "x.sif", "x.def"]
    question = b"Build target already exists. Do you want to overwrite? [N/y] "
    status, seen = on_terminal(builder.person, ["/bin/sh", "-c", 'cd && "$@"', "sh", *argv], [(question, b"\n")])
    assert status == 255 and b"stays" in seen and (builder.home / "x.sif").read_text() == "mine"
    status, seen = on_terminal(builder.person, ["/bin/sh", "-c", 'cd && "$@"', "sh", *argv], [(question, b"y\n")])
    assert status == 0, seen
    assert builder.ok("exec", "x.sif", "echo", "built") == "built\n"
    builder.build("Bootstrap: busybox\n%runscript\n echo new\n", "--force")
    assert builder.ok("run", "x.sif") == "new\n"
    assert "is a file" in builder.fails("Bootstrap: busybox\n", "--sandbox", "--force")


def test_nothing_runs_twice(of_user: Builder) -> None:
    """The cache of builds: %post runs again when what it is made of has changed, and only then."""
    cached = "it comes from the cache of builds"
    text = "Bootstrap: localimage\nFrom: base.sif\n%files\n  in /in\n%post\n  cat /proc/sys/kernel/random/uuid >/ran\n"
    of_user.build("Bootstrap: busybox\n", target="base.sif")
    of_user.write("in", "1")

    def ran() -> str:
        return of_user.ok("exec", "x.sif", "cat", "/ran")

    assert cached not in of_user.build(text)
    first = ran()
    assert cached in of_user.build(text + "%runscript\n  echo later\n%labels\n  A b\n", "--force")
    assert ran() == first and of_user.ok("run", "x.sif") == "later\n"
    assert cached not in of_user.build(text, "--force", "--no-cache") and ran() != first
    of_user.write("in", "2")
    assert cached not in of_user.build(text, "--force") and ran() != first
    assert cached not in of_user.build(text.replace(">/ran", ">/ran; true"), "--force")
    of_user.write("in", "1")
    assert cached in of_user.build(text, "--force") and ran() == first
    assert cached not in of_user.build(text + "%setup\n  true\n", "--force")  # which may do anything


def test_a_directory_and_back(builder: Builder) -> None:
    builder.build("Bootstrap: busybox\n%post\n  chown 5:5 /home\n%runscript\n  cat /added\n")
    builder.ok("build", "--sandbox", "box", "x.sif")
    builder.write("box/added", "by hand\n")
    assert builder.ok("run", "box") == "by hand\n"
    builder.ok("build", "y.sif", "box")
    assert builder.ok("run", "y.sif") == "by hand\n"
    assert "deffile.bootstrap: busybox" in builder.ok("inspect", "y.sif")
    assert builder("build", "--sandbox", "box", "y.sif").returncode == 255
    builder.ok("build", "--sandbox", "--force", "box", "y.sif")
    assert builder.ok("run", "box") == "by hand\n" and builder.left() == []
    assert builder("build", "box", "y.sif").returncode == 255  # a file in place of a directory


def test_update(builder: Builder) -> None:
    builder.build("Bootstrap: busybox\n%post\n  echo 1 >/one\n", "--sandbox", target="box")
    text = "Bootstrap: busybox\n%post\n  echo 2 >/two\n%runscript\n cat /one /two\n"
    builder.build(text, "--sandbox", "--update", target="box")
    assert builder.ok("run", "box") == "1\n2\n"
    assert "--update needs --sandbox" in builder.fails("Bootstrap: busybox\n", "--update", target="y.sif")


def test_stages_and_arguments(builder: Builder) -> None:
    text = """Bootstrap: busybox
Stage: one
%arguments
    WORD=default
%post
    mkdir -p /out/deep
    echo "{{ WORD }} {{ OTHER }}" >/out/deep/word
    ln -s /out/deep/word /out/link
    ln -s /etc /out/etc
    chown 7:7 /out/deep/word
    ln -s /out/deep /shortcut

Bootstrap: busybox
%files from one
    /out
    /shortcut/word /copied
    /out/link /linked
%files
    /dev/null
"""
    assert "%files /dev/null" in builder.fails(text, "--build-arg", "OTHER=x")
    text = text.replace("%files\n    /dev/null\n", "")
    assert "OTHER has no value" in builder.fails(text)
    assert "nothing in x.def uses it" in builder.fails(text, "--build-arg", "OTHER=x", "--build-arg", "LOST=y")
    builder.write("args", "OTHER=from file\n# comment\n")
    builder.build(text, "--build-arg-file", "args", "--build-arg", "WORD=given")
    script = (
        "cat /copied /linked; stat -c %u:%g /out/deep/word; readlink /out/link; readlink /out/etc; stat -c %F /linked"
    )
    assert builder.ok("exec", "--fakeroot", "x.sif", "sh", "-c", script) == (
        "given from file\ngiven from file\n7:7\n/out/deep/word\n/etc\nregular file\n"
    )
    assert 'echo "given from file"' in builder.ok("inspect", "--deffile", "x.sif")


def test_dockerfile(builder: Builder) -> None:
    builder.build("Bootstrap: busybox\n%post\n  mkdir /base\n", target="base.sif")
    builder.write("ctx/app/run.sh", "#!/bin/sh\necho run $A $*\n", 0o755)
    builder.write(
        "ctx/Dockerfile",
        "FROM scratch\nENV A='one two'\nCOPY app/ /app/\nCOPY bin/busybox /bin/\nCOPY bin/sh /bin/sh\n"
        'WORKDIR /app\nRUN echo $A >word\nEXPOSE 1\nENTRYPOINT ["/app/run.sh"]\nCMD ["default"]\nLABEL a=b\n',
    )
    builder.write("ctx/bin/busybox", busybox(), 0o755)
    builder.write("ctx/bin/sh", busybox(), 0o755)
    done = builder("build", "x.sif", "ctx/Dockerfile")
    assert done.returncode == 0 and "EXPOSE has no counterpart" in done.stderr, done.stderr
    assert builder.ok("run", "x.sif") == "run one two default\n"
    assert builder.ok("run", "x.sif", "x") == "run one two x\n"
    assert builder.ok("exec", "x.sif", "/bin/busybox", "cat", "/app/word") == "one two\n"
    assert "a: b\n" in builder.ok("inspect", "x.sif")
    assert builder.ok("recipe", "ctx/Dockerfile") == builder.ok("recipe", "ctx/Dockerfile", "--quiet")
    builder.ok("recipe", "ctx/Dockerfile", "y.def")
    assert (builder.home / "y.def").read_text().startswith("Bootstrap: scratch\n")


def test_images_of_a_registry(builder: Builder) -> None:
    """The same bytes as a pull, without a request; %runscript, else IncludeCmd, else the image's own."""
    with FakeRegistry() as registry:
        registry.add_image("lab/tools", "1.4", LAYERS, CONFIG)
        builder.env = {"HPCC_INSECURE": registry.host}
        uri = f"docker://{registry.host}/lab/tools:1.4"
        builder.ok("pull", "pulled.sif", uri)
        registry.requests.clear()
        builder.ok("build", "built.sif", uri)
        assert not registry.requests
        assert (builder.home / "built.sif").read_bytes() == (builder.home / "pulled.sif").read_bytes()
        head = f"Bootstrap: docker\nRegistry: {registry.host}\nNamespace: lab\nFrom: tools:1.4\n"
        builder.build(head + "%post\n  cat /etc/greeting >/copy\n")
        assert not registry.requests
        assert builder.ok("run", "x.sif") == "says hi\n"
        assert builder.ok("run", "x.sif", "a") == "says a\n"
        assert builder.ok("exec", "x.sif", "cat", "/copy") == "hello from the image\n"
        builder.build(head + "%runscript\n  echo own\n", "--force")
        assert builder.ok("run", "x.sif") == "own\n"
        builder.build(head + "IncludeCmd: no\n", "--force")
        assert builder.ok("run", "x.sif", "echo", "a") == "a\n"
        builder.ok("build", "--disable-cache", "y.sif", uri)
        assert (builder.home / "y.sif").read_bytes() == (builder.home / "pulled.sif").read_bytes()


def test_a_base_that_leads_astray(builder: Builder, open_dir: Path) -> None:
    """What the build writes stays in the root, whatever links the base has."""
    outside = open_dir / "outside"
    outside.mkdir()
    os.chown(outside, builder.person.uid, builder.person.gid)
    base = builder.home / "base"
    (base / "bin").mkdir(parents=True)
    (base / "bin/busybox").write_bytes(busybox())
    (base / "bin/busybox").chmod(0o755)
    (base / "bin/sh").symlink_to("busybox")
    (base / "bin/cat").symlink_to("busybox")
    (base / "etc").symlink_to("/elsewhere")
    for name in (".singularity.d", "opt", "scif"):
        (base / name).symlink_to(outside)
    (base / "srv").symlink_to(f"../../../../../..{outside}")
    (base / ".post.script").symlink_to(outside / "script")
    (base / ".build.labels").symlink_to(outside / "labels")
    builder.person.at(base)
    builder.write("notes.txt", "noted\n")
    text = "Bootstrap: localimage\nFrom: base\n%files\n notes.txt /opt/a\n notes.txt /srv/\n%post\n  echo >/ran\n"
    builder.build(text + "%apprun foo\n true\n%runscript\n  cat /opt/a /srv/notes.txt\n")
    assert list(outside.iterdir()) == []
    assert builder.ok("run", "--no-mount", "tmp", "x.sif") == "noted\nnoted\n"
    assert os.readlink(base / ".post.script") == str(outside / "script")


def test_a_build_that_was_killed(of_user: Builder) -> None:
    text = "Bootstrap: busybox\n%post\n  echo started; sleep 60\n"
    of_user.write("x.def", text)
    running = of_user.person.popen(
        [str(of_user.hpcc), "build", "x.sif", "x.def"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    assert running.stdout is not None and running.stdout.readline() == b"started\n"
    (half,) = of_user.left()
    of_user.build("Bootstrap: busybox\n", target="other.sif")  # one that lives is left alone
    assert of_user.left() == [half]
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 20
    while of_user.left() and time.monotonic() < deadline:  # until all that worked in it has ended
        of_user.build("Bootstrap: busybox\n", "--force", target="other.sif")
    assert of_user.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended(of_user: Builder, number: int) -> None:
    of_user.write("x.def", "Bootstrap: busybox\n%post\n  echo started; sleep 60\n")
    running = of_user.person.popen(
        [str(of_user.hpcc), "build", "x.sif", "x.def"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert running.stdout is not None and running.stdout.readline() == b"started\n"
    running.send_signal(number)
    assert running.wait(20) == 128 + number
    assert of_user.left() == [] and not (of_user.home / "x.sif").exists()


def test_no_room(open_dir: Path, installed: Installation, plain_user: Person) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    home = open_dir / "home"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=755", "tmpfs", home], check=True)
    try:
        builder = Builder(plain_user.at(home), installed)
        said = builder.fails("Bootstrap: busybox\n%post\n  cat /dev/zero >/big\n")
        assert "No space left on device" in said
        said = builder.fails("Bootstrap: busybox\n%files\n  /bin/busybox /another\n  /bin/busybox /third\n")
        assert "No space left on device" in said and "HINT" in said
    finally:
        subprocess.run(["umount", "-l", home], check=True)


SAID: list[tuple[str, tuple[str, ...], str]] = [
    ("Bootstrap: docker\nFrom: a\n%pots\n", (), "x.def:3:1: there is no section %pots"),
    ("Bootstrap: localimage\nFrom: lost.sif\n", (), "lost.sif"),
    ("Bootstrap: nowhere\nFrom: a\n", (), "nowhere"),
    ("Bootstrap: docker\n", (), "needs a line From:"),
    ("Bootstrap: yum\nMirrorURL: http://127.0.0.1:1/\n", (), "needs dnf or yum, which this host does not have"),
    ("Bootstrap: arch\n", (), "needs pacstrap, which this host does not have"),
    ("Bootstrap: busybox\n%files\n  lost*\n", (), "there is no lost*"),
    ("Bootstrap: busybox\nMirrorURL: /bin/false\n", (), "/bin/false is no busybox"),
    ("Bootstrap: busybox\n%post -c /bin/lost\n  x\n", (), "/bin/lost: not found"),
    ("Bootstrap: busybox\n%setup\n  exit 4\n", (), "%setup ended with 4"),
    ("Bootstrap: busybox\n", ("--section", "posts"), "there is no such section"),
    ("Bootstrap: busybox\n", ("--encrypt",), "does not encrypt"),
    ("Bootstrap: busybox\n", ("--remote",), "no builder is configured"),
    ("\0\1\2", (), "neither an image nor a definition file"),
]


@pytest.mark.parametrize(("text", "options", "said"), SAID)
def test_what_is_said(of_user: Builder, text: str, options: tuple[str, ...], said: str) -> None:
    assert said in of_user.fails(text, *options)


def test_what_is_said_of_targets(of_user: Builder) -> None:
    assert "is not there" in of_user("build", "x.sif", "lost.def").stderr
    assert "is no directory" in of_user.fails("Bootstrap: busybox\n", target="lost/x.sif")
    said = of_user.fails("Bootstrap: busybox\n", env={"SOURCE_DATE_EPOCH": "9" * 20})
    assert "is no number of seconds that a squashfs can hold" in said
    os.mkfifo(of_user.home / "pipe", 0o666)
    assert "pipe is no file" in of_user("build", "x.sif", "pipe").stderr
    closed = of_user.home / "closed"
    closed.mkdir(mode=0o555)
    assert "not yours to write" in of_user.fails("Bootstrap: busybox\n", target="closed/x.sif")
    said = of_user("build", "--remote", "x.sif", "docker-archive:x.tar").stderr
    assert "is on this host, and a server elsewhere could not read it" in said


@pytest.mark.root
def test_debian_with_apt(of_user: Builder, open_dir: Path, installed: Installation) -> None:
    """A base by root's debootstrap, and a package by apt from this machine's mirror: several owners, without root."""
    mirror, release = _mirror()
    shutil.copytree("/etc/apt", of_user.home / "apt", ignore=shutil.ignore_patterns("auth.conf*"))
    (open_dir / "root").mkdir()
    root = Builder(people.myself(open_dir / "root"), installed)
    head = f"Bootstrap: debootstrap\nOSVersion: {release}\nMirrorURL: {mirror}\n"
    root.build(head, target=str(open_dir / "base.sif"), timeout=600)
    assert "only real root may" in of_user.fails(head)
    text = f"""Bootstrap: localimage
From: {open_dir}/base.sif
%files
    apt /etc
%post
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -q install -y --no-install-recommends bc
    useradd --create-home somebody
    su somebody -c 'echo "6*7" | bc >~/answer'
"""
    of_user.build(text, timeout=600)
    script = "cat /home/somebody/answer; stat -c %U /home/somebody/answer; stat -c %G /var/log/apt/term.log; dpkg -V bc"
    assert of_user.ok("exec", "--fakeroot", "x.sif", "sh", "-c", script) == "42\nsomebody\nadm\n"


def _mirror() -> tuple[str, str]:
    """This machine's own: (URL, release)."""
    listed = subprocess.run(["apt-get", "indextargets"], capture_output=True, text=True, check=True).stdout
    for stanza in listed.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        if fields.get("Component") == "main" and fields.get("Suite") in ("oldstable", "stable", "testing", "unstable"):
            return fields["Repo-URI"].rstrip("/"), fields["Codename"]
    raise AssertionError("apt knows no mirror of Debian")


def test_an_old_squashfs(of_user: Builder) -> None:
    of_user.ok("build", "x.sif", images().squashfs)
    assert of_user.ok("exec", "x.sif", "cat", "/own/uid0/old") == "old of uid0\n"


def test_the_same_bytes(of_user: Builder) -> None:
    """With SOURCE_DATE_EPOCH a definition that does the same gives the same bytes."""
    text, env = (
        "Bootstrap: busybox\n%post\n  echo x >/x\n  mkdir /d; touch /d/a /d/b\n",
        {"SOURCE_DATE_EPOCH": "1000000000"},
    )
    of_user.build(text, "--no-cache", env=env)
    time.sleep(1.1)
    of_user.build(text, "--no-cache", target="y.sif", env=env)
    assert (of_user.home / "x.sif").read_bytes() == (of_user.home / "y.sif").read_bytes()
    labels = json.loads(of_user.ok("inspect", "--json", "x.sif"))["data"]["attributes"]["labels"]
    assert labels["org.label-schema.build-date"] == "2001-09-09T01:46:40Z"
