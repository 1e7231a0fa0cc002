"""The same command by hpcc and by Apptainer, of images that either has pulled: the same output and status.

What differs on purpose stands in `test_known_differences`.
"""

import json
from pathlib import Path

import pytest

from tests.interop.conftest import Completed, Pulled, Tool
from tests.support.peers import apptainer
from tests.support.people import Person, myself

MODES = {
    "default": (),
    "contain": ("--contain",),
    "containall": ("--containall",),
    "compat": ("--compat",),
    "writable-tmpfs": ("--writable-tmpfs",),
}
SCRIPTS = {
    "id": "id -u; id -g; id -un; id -gn; id -G",
    "pwd": "pwd; echo $PWD",
    "home": 'echo "$HOME"; cd; stat -c "%u %g" .; touch mine; echo $?; rm mine',
    "umask": "umask; touch /tmp/$$; stat -c %a /tmp/$$; rm /tmp/$$",
    "words": 'printf "[%s]" "$@"',
    "accounts": "grep -e test -e root /etc/passwd | cut -d: -f1,3,4,6; grep -e test /etc/group | cut -d: -f1,3",
    "streams": "cat; echo to stderr >&2; exit 3",
    "killed": "kill -9 $$",
    "killed-within": "sh -c 'kill -15 $$'; echo $?",
    "privileges": "grep -e Cap -e NoNew /proc/self/status",
    "processes": "test $$ -lt 50 && echo few || echo many",
    "filesystems": "for d in /proc /sys /dev /dev/shm /tmp /var/tmp / ; do stat -fc '%n %T' $d; done",
    "root-writable": "echo x > /new && cat /new || echo no",
    "etc-writable": "echo x > /etc/new && cat /etc/new || echo no",
    "modes": "stat -c '%a %F %s %N' /usr/bin/setuid-id /private /own/gid50/old /hostile/abs /etc/os-release",
    "tmp": "stat -c '%n %a' /tmp /var/tmp",
    "devices": "for d in null zero random urandom tty shm pts ptmx stdin fd; do test -e /dev/$d && echo $d; done",
    "hostile": "cat /hostile/abs/os-release; cat /hostile/loop || echo no",
}
DEFAULT_ONLY = {"id", "words", "streams", "killed", "killed-within", "accounts", "hostile"}  # no option changes these
BOTH = pytest.mark.parametrize("by", ["ours", "theirs"])
_OF_APPTAINER = ("INFO:", "WARNING:")


def observed(done: Completed) -> tuple[int, str]:
    """Status as a shell says it, and stdout."""
    return (done.returncode if done.returncode >= 0 else 128 - done.returncode), done.stdout


def complaints(done: Completed) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith(_OF_APPTAINER)]


CASES = [
    pytest.param(mode, name, id=f"{name}-{mode}")
    for name in SCRIPTS
    for mode in MODES
    if mode == "default" or name not in DEFAULT_ONLY
]


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_exec(pulled: Pulled, hpcc: Tool, runs_as: Person, mode: str, name: str) -> None:
    argv = ["exec", *MODES[mode], pulled.ours / "plain.sif", "sh", "-c", SCRIPTS[name], "sh", "a b", "$HOME", ""]
    ours, theirs = hpcc(argv, runs_as, input="from stdin\n"), apptainer(argv, runs_as, input="from stdin\n")
    if name == "privileges" and runs_as.uid == 0:  # root's are given up here, as the design says, and kept there
        assert set(ours.stdout.split()[1::2]) == {"0" * 16, "1"}
        return
    seen = observed(theirs)
    if name == "filesystems" and mode in ("compat", "writable-tmpfs"):  # a user's: the kernel's overlay, its FUSE one
        seen = (seen[0], seen[1].replace("/ fuseblk", "/ overlayfs"), *seen[2:])
    assert observed(ours) == seen, ours.stderr + theirs.stderr
    if name == "streams":
        assert "to stderr" in complaints(ours) and "to stderr" in complaints(theirs)


@pytest.mark.parametrize("name", ["id", "pwd", "home", "umask", "words", "modes", "accounts", "filesystems"])
@pytest.mark.parametrize("kind", ["theirs", "sandbox"])
def test_exec_of_what_apptainer_made(pulled: Pulled, hpcc: Tool, runs_as: Person, kind: str, name: str) -> None:
    image = pulled.sandboxes / "plain" if kind == "sandbox" else pulled.theirs / "plain.sif"
    for mode in ((), ("--containall",)):
        argv = ["exec", *mode, image, "sh", "-c", SCRIPTS[name], "sh", "a b", "$HOME", ""]
        ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
        assert observed(ours) == observed(theirs), ours.stderr + theirs.stderr


# -- the environment -----------------------------------------------------------------------------------------------

OF_APPTAINER = {  # set by its shell scripts inside, of use to nobody else
    "APPTAINER_APPNAME", "APPTAINER_ENVIRONMENT", "SINGULARITY_ENVIRONMENT", "USER_PATH", "SHLVL", "OLDPWD", "_",
    "PROMPT_COMMAND", "PS1", "HPCC_PEERS",
}  # fmt: skip
OF_HPCC = {"HPCC_CONTAINER", "PS1", "SHLVL", "OLDPWD", "_"}


def variables(done: Completed) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {line.partition("=")[0]: line.partition("=")[2] for line in done.stdout.split("\0") if line}


@BOTH
@pytest.mark.parametrize("mode", [*MODES, "cleanenv"])
def test_environment(pulled: Pulled, hpcc: Tool, runs_as: Person, mode: str, by: str) -> None:
    flags = MODES.get(mode, ("--cleanenv",))
    argv = ["exec", *flags, getattr(pulled, by) / "plain.sif", "env", "-0"]
    env = {"MINE": "x", "LD_LIBRARY_PATH": "/host/lib", "OMP_NUM_THREADS": "3", "APPTAINERENV_INSIDE": "y"}
    ours, theirs = variables(hpcc(argv, runs_as, env=env)), variables(apptainer(argv, runs_as, env=env))
    steering = {name for name in theirs if name.startswith("HPCC_")}  # of the caller's; hpcc keeps its own outside
    assert {k: v for k, v in ours.items() if k not in OF_HPCC} == {
        k: v for k, v in theirs.items() if k not in OF_APPTAINER | steering
    }


def test_environment_of_a_sandbox(pulled: Pulled, hpcc: Tool, runs_as: Person) -> None:
    argv = ["exec", "--containall", pulled.sandboxes / "plain", "env", "-0"]
    ours, theirs = variables(hpcc(argv, runs_as)), variables(apptainer(argv, runs_as))
    steering = {name for name in theirs if name.startswith("HPCC_")}
    assert {k: v for k, v in ours.items() if k not in OF_HPCC} == {
        k: v for k, v in theirs.items() if k not in OF_APPTAINER | steering
    }


# -- binds, home, pwd ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["default", "contain", "compat"])
def test_binds(pulled: Pulled, hpcc: Tool, runs_as: Person, mode: str) -> None:
    data = runs_as.home / "data"
    (data / "sub").mkdir(parents=True)
    (data / "file").write_text("of the host\n")
    for flags, script in (
        (["-B", f"{data}:/mnt"], "cat /mnt/file; ls /mnt"),
        (["-B", f"{data}:/made/here:ro"], "cat /made/here/file; echo x > /made/here/x || echo no"),
        (["-B", f"{data}/file:/etc/motd-of-host,{data}:/own/gid8"], "cat /etc/motd-of-host; ls /own /own/gid8"),
        (["--bind", f"{data}:/usr/share/new"], "cat /usr/share/new/file; ls /usr | sort | head -3"),
        (["--pwd", "/own/gid50"], "pwd; ls"),
        (["--home", f"{data}:/srv/me"], "echo $HOME; cd; ls"),
        (["--no-home"], "echo $HOME"),
    ):
        argv = ["exec", *MODES[mode], *flags, pulled.ours / "plain.sif", "sh", "-c", script]
        ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
        assert observed(ours) == observed(theirs), (flags, ours.stderr, theirs.stderr)


def test_failures_have_the_same_status(pulled: Pulled, hpcc: Tool, runs_as: Person) -> None:
    image = pulled.ours / "plain.sif"
    for argv in (
        ["exec", image, "no-such-command"],
        ["exec", runs_as.home / "no-such.sif", "true"],
        ["exec", "-B", "/no/such/source:/mnt", image, "true"],
        ["exec", "--compat", image, "/no/such/path"],
    ):
        ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
        assert ours.returncode == theirs.returncode == 255, (argv, ours.stderr, theirs.stderr)
        assert ours.stderr.startswith("FATAL:") and "FATAL:" in theirs.stderr


# -- writing, as a plain user ----------------------------------------------------------------------------------------

DIRECTORIES = ("uid0", "gid8", "gid50", "uid1000")
WRITES = r"""
try() { what=$1; shift; if "$@" 2>/dev/null; then echo "$d $what yes"; else echo "$d $what no"; fi; }
for d in uid0 gid8 gid50 uid1000; do
    cd /own/$d
    try create sh -c 'echo new > new'
    try append sh -c 'echo more >> old'
    try unlink rm -f gone
    try rename mv moved away
    try mkdir mkdir sub
    try within sh -c 'echo in > sub/file'
    try chmod chmod 600 away
    try symlink ln -s old soft
    try truncate sh -c ': > old'
    try overwrite sh -c 'echo again > old'
    try rmdir sh -c 'rm sub/file; rmdir sub'
    echo "$d has $(ls | tr '\n' ' ')"; cat old new away
    stat -c "%n %a %u %g" new old away
done
cd /usr/bin
try install cp busybox mine
try run ./mine echo runs
try remove rm -f yes
echo ran > /etc/passwd.new; cat /etc/passwd.new
"""


def written(done: Completed) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("rung", ["auto", "fuse-overlayfs", "unpacked"])
def test_compat_writes_here(pulled: Pulled, hpcc: Tool, plain_user: Person, rung: str) -> None:
    """By our own FUSE server, which gives files to the caller, and the kernel's overlay; and the other ways."""
    argv = ["exec", "--compat", pulled.ours / "plain.sif", "sh", "-c", WRITES]
    ours = written(hpcc(argv, plain_user, env={"HPCC_WRITABLE": rung}))
    theirs = written(apptainer(argv, plain_user))
    assert ours == theirs
    for name in DIRECTORIES:
        for what in ("create", "append", "unlink", "rename"):
            assert f"{name} {what} yes" in ours


@pytest.mark.parametrize("rung", ["auto", "overlay", "fuse-overlayfs"])
@BOTH
def test_compat_writes_with_squashfuse_0_5(
    pulled: Pulled, hpcc_in_sid: Tool, plain_user: Person, rung: str, by: str
) -> None:
    """There the kernel's overlay lies over files that squashfuse gives to the caller."""
    argv = ["exec", "--compat", getattr(pulled, by) / "plain.sif", "sh", "-c", WRITES]
    ours = written(hpcc_in_sid(argv, plain_user, env={"HPCC_ROOTFS": "squashfuse", "HPCC_WRITABLE": rung}))
    assert ours == written(apptainer(argv, plain_user))
    for name in DIRECTORIES:
        for what in ("create", "append", "unlink", "rename"):
            assert f"{name} {what} yes" in ours


def test_sid_has_what_that_test_is_about(hpcc: Tool, hpcc_in_sid: Tool, plain_user: Person) -> None:
    found = json.loads(hpcc_in_sid(["doctor", "--json"], plain_user).stdout)
    assert found["facts"]["squash"] and found["facts"]["overlay"], found
    assert found["plans"]["writable"].startswith("fuse with overlay"), found
    found = json.loads(hpcc(["doctor", "--json"], plain_user).stdout)
    assert not found["facts"]["squash"] and found["plans"]["writable"].startswith("fuse with overlay"), found


@pytest.mark.root
def test_compat_writes_as_root(pulled: Pulled, hpcc: Tool, open_dir: Path) -> None:
    """Where root owns the directory; what belongs to others needs the capabilities that hpcc's root gives up."""
    root = myself(open_dir)
    script = WRITES.replace("uid0 gid8 gid50 uid1000", "uid0 gid8 gid50")
    argv = ["exec", "--compat", pulled.ours / "plain.sif", "sh", "-c", script]
    assert written(hpcc(argv, root)) == written(apptainer(argv, root))


@pytest.mark.parametrize("name", ["id", "home", "modes", "privileges", "tmp", "umask"])
@pytest.mark.parametrize("mode", ["default", "compat"])
def test_hpcc_in_sid(pulled: Pulled, hpcc_in_sid: Tool, plain_user: Person, mode: str, name: str) -> None:
    """The same programs below both: also the owners of files are the same."""
    script = SCRIPTS[name] + "; stat -c '%n %a %u %g' / /own /own/* /own/gid8/old /private"
    argv = ["exec", *MODES[mode], pulled.ours / "plain.sif", "sh", "-c", script]
    assert observed(hpcc_in_sid(argv, plain_user)) == observed(apptainer(argv, plain_user))


# -- differences that are meant ----------------------------------------------------------------------------------------


def test_known_differences(pulled: Pulled, hpcc: Tool, plain_user: Person) -> None:
    """If one of these goes away, or is decided otherwise, this test is the place to say so."""

    def both(*argv: object, env: dict[str, str] | None = None) -> tuple[str, str]:
        words = [str(word) for word in argv]
        return hpcc(words, plain_user, env=env).stdout, apptainer(words, plain_user, env=env).stdout

    plain, words = pulled.ours / "plain.sif", pulled.theirs / "words.sif"
    # A variable of the host that the image sets too: the caller's value here, the image's there.
    argv = ("exec", plain, "sh", "-c", "echo $SHARED")
    assert both(*argv, env={"SHARED": "of the caller"}) == ("of the caller\n", "of the image\n")
    # --env is taken as it is here, and read by a shell there.
    assert both("exec", "--env", "A=$((1+1))", plain, "sh", "-c", 'echo "$A"') == ("$((1+1))\n", "2\n")
    # A SIF of Apptainer's own has ENV with quotes in it wrong, for both; ours has it right for both.
    ours, theirs = both("exec", words, "sh", "-c", 'echo "$GREETING"')
    assert ours == theirs and '\\"quoted\\"' in ours
