"""Options of exec, run and shell that say where writes go, what is mounted, and which namespaces there are."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.images import CONFIG, Images, build_sif
from tests.support.people import Person

SPECIAL = {"null", "fifo", "device"}  # of the sandbox, that only root could copy
MOUNTS = "cut -d' ' -f2 /proc/self/mounts"

# -- namespaces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "own"),
    [
        ((), set()), (("--pid",), {"pid"}), (("-p",), {"pid"}), (("--ipc",), {"ipc"}), (("-i",), {"ipc"}),
        (("--net",), {"net"}), (("-n",), {"net"}), (("--network", "none"), {"net"}), (("--uts",), {"uts"}),
        (("--hostname", "box"), {"uts"}), (("--containall",), {"pid", "ipc"}),
        (("-pin", "--uts"), {"pid", "ipc", "net", "uts"}),
    ],
    ids=str,
)  # fmt: skip
def test_namespaces(hpcc: Hpcc, image: Images, flags: tuple[str, ...], own: set[str]) -> None:  # noqa: F811
    out = hpcc.out(image.main, "for k in pid ipc net uts; do readlink /proc/self/ns/$k; done", *flags)
    assert {line.partition(":")[0] for line in out.split() if line != os.readlink(f"/proc/self/ns/{line[:3]}")} == own


def test_a_pid_namespace_has_an_init_unless_told(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    assert hpcc.out(image.main, "echo $$", "--pid") != "1\n"
    assert hpcc.out(image.main, "echo $$", "--pid", "--no-init") == "1\n"
    assert hpcc.sh(image.main, "exit 7", "--pid").returncode == 7
    # an orphan is reaped, or else it would stay as a zombie
    out = hpcc.out(image.main, "sh -c 'sleep 0.1 & exit'; sleep 0.4; cat /proc/[0-9]*/stat | grep -c ' Z '; :", "--pid")
    assert out == "0\n"


def test_net_has_a_loopback_that_is_up(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    out = hpcc.out(
        image.main, "cat /proc/net/dev; cat /sys/class/net/lo/flags 2>/dev/null; cat /proc/net/fib_trie", "--net"
    )
    assert [line.split(":")[0].strip() for line in out.splitlines() if "lo:" in line] == ["lo"] and "127.0.0.1" in out
    done = hpcc("exec", "--net", "--network", "bridge", image.main, "true")
    assert done.returncode == 255 and "bridge" in done.stderr and "root" in done.stderr


def test_hostname(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    assert hpcc.out(image.main, "cat /proc/sys/kernel/hostname", "--hostname", "box") == "box\n"
    assert Path("/proc/sys/kernel/hostname").read_text() != "box\n"
    done = hpcc("exec", "--hostname", "x" * 65, image.main, "true")
    assert done.returncode == 255 and "--hostname" in done.stderr and "64" in done.stderr


def test_userns(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """Also for root: as its files are nobody else's, so are its rights."""
    out = hpcc.out(image.main, "cat /proc/self/uid_map; grep CapEff /proc/self/status", "--userns")
    assert out.split()[:3] == [str(hpcc.person.uid), str(hpcc.person.uid), "1"] and out.split()[-1].strip("0") == ""


# -- mounts ------------------------------------------------------------------------------------------------------------


def test_mount(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    data = hpcc.person.home / "a, b"
    data.mkdir()
    (data / "file").write_text("content\n")
    os.chown(data, hpcc.person.uid, hpcc.person.gid)
    spec = f'type=bind,"source={data}",dst=/mnt'
    assert (
        hpcc.out(image.main, "cat /mnt/file; echo x > /mnt/new && echo written", "--mount", spec)
        == "content\nwritten\n"
    )
    done = hpcc.sh(image.main, "echo x > /mnt/new2", "--mount", spec + ",ro")
    assert done.returncode != 0 and "ead-only" in done.stderr


@pytest.mark.parametrize(
    "spec",
    ["", "type=bind", "type=tmpfs,dst=/x", "source=/etc,dst=relative", "source=/etc,dst=/x,bogus",
     "source=/a,src=/b,dst=/x", "source=/etc,dst=/x,ro=maybe", 'source="/etc', "source=/etc,dst=/x,id=one"],
)  # fmt: skip
def test_mounts_that_do_not_parse(hpcc: Hpcc, image: Images, spec: str) -> None:  # noqa: F811
    done = hpcc("exec", "--mount", spec, image.main, "true")
    assert done.returncode == 255 and "--mount" in done.stderr and "HINT" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("name", "script", "empty"),
    [
        ("proc", "ls /proc", True), ("sys", "ls /sys", True), ("home", "ls -A ~", True), ("tmp", "ls -A /tmp", True),
        ("/etc/hosts", f"{MOUNTS} | grep /etc/hosts", True), ("bind-paths", f"{MOUNTS} | grep /etc/hosts", True),
        ("hostfs", "ls /proc", False), ("cwd", f"{MOUNTS} | grep /etc/hosts", False),
        ("home,proc", "ls /proc; ls -A ~", True),
    ],
)  # fmt: skip
def test_no_mount(hpcc: Hpcc, image: Images, name: str, script: str, empty: bool) -> None:  # noqa: F811
    out = hpcc.out(image.main, f"({script}) 2>/dev/null; :", "--no-mount", name, cwd="/")
    assert (out == "") == empty, out


def test_no_mount_devpts_and_what_there_is_not(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    assert "ptmx" in hpcc.out(image.main, "ls /dev/pts", "--contain")
    assert hpcc.out(image.main, "ls /dev/pts", "--contain", "--no-mount", "devpts") == ""
    done = hpcc.sh(image.main, "echo on", "--no-mount", "bogus")
    assert done.stdout == "on\n" and "bogus" in done.stderr and "devpts" in done.stderr


def test_no_mount_of_a_sites_path(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    env = {"HPCC_BIND_PATHS": "/etc:/mnt"}
    assert "hosts" in hpcc.out(image.main, "ls /mnt", env=env)
    assert hpcc.out(image.main, "ls /mnt 2>/dev/null; :", "--no-mount", "/mnt", env=env) == ""


# -- what is empty, and what stays -------------------------------------------------------------------------------------


def test_scratch_is_discarded(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    for _ in range(2):
        out = hpcc.out(
            image.main,
            "ls -A /scratch /opt/deep/x; echo x > /scratch/a; echo y > /opt/deep/x/b",
            "-S",
            "/scratch,/opt/deep/x",
        )
        assert [line for line in out.split() if not line.endswith(":")] == []
    done = hpcc("exec", "-S", "relative", image.main, "true")
    assert done.returncode == 255 and "relative" in done.stderr and "absolute" in done.stderr


def test_workdir(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    work = hpcc.person.home / "work"
    work.mkdir()
    os.chown(work, hpcc.person.uid, hpcc.person.gid)
    script = "echo h > ~/h; echo t > /tmp/t; echo v > /var/tmp/v; echo s > /scratch/deep/s"
    hpcc.out(image.main, script, "--contain", "-W", work, "-S", "/scratch/deep")
    found = {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}
    assert found == {"home/h", "tmp/t", "var_tmp/v", "scratch/scratch/deep/s"}
    assert [stat.S_IMODE((work / name).stat().st_mode) for name in ("home", "tmp", "var_tmp")] == [
        0o700,
        0o1777,
        0o1777,
    ]
    assert hpcc.out(image.main, "cat ~/h", "--contain", "-W", work) == "h\n"  # relative paths too, from where one is
    assert hpcc.out(image.main, "cat ~/h", "--contain", "-W", "work", cwd=hpcc.person.home) == "h\n"


def test_a_workdir_that_cannot_be(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    done = hpcc("exec", "-c", "-W", "/proc/nothing", image.main, "true")
    assert done.returncode == 255 and "--workdir" in done.stderr and "/proc/nothing" in done.stderr


def test_overlay_stays(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    overlay = hpcc.person.home / "overlay"
    overlay.mkdir()
    os.chown(overlay, hpcc.person.uid, hpcc.person.gid)
    hpcc.out(image.main, "echo new > /etc/new; rm /etc/greeting; mkdir -p /opt/a/b", "--overlay", overlay)
    script = "cat /etc/new; cat /etc/greeting 2>/dev/null; ls -d /opt/a/b"
    assert hpcc.out(image.main, script, "--overlay", overlay) == "new\n/opt/a/b\n"
    assert hpcc.out(image.main, script, "--overlay", f"{overlay}:ro") == "new\n/opt/a/b\n"
    done = hpcc.sh(image.main, "echo x > /etc/other", "--overlay", f"{overlay}:ro")
    assert done.returncode != 0 and "ead-only" in done.stderr
    assert (
        hpcc.out(
            image.main, "echo x > /etc/other; cat /etc/other /etc/new", "--overlay", f"{overlay}:ro", "--writable-tmpfs"
        )
        == "x\nnew\n"
    )
    assert hpcc.sh(image.main, "cat /etc/new").returncode != 0  # the image is as it was
    assert (overlay / "upper/etc/new").read_text() == "new\n" and not (overlay / "upper/etc/other").exists()


def test_two_overlays(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """The later one is on top; one of them may be written to."""
    for name in ("one", "two"):
        (hpcc.person.home / name).mkdir()
        os.chown(hpcc.person.home / name, hpcc.person.uid, hpcc.person.gid)
        hpcc.out(image.main, f"echo {name} > /etc/which; echo > /etc/{name}", "--overlay", hpcc.person.home / name)
    one, two = f"{hpcc.person.home}/one:ro", f"{hpcc.person.home}/two"
    assert (
        hpcc.out(image.main, "cat /etc/which; ls /etc/one /etc/two", "--overlay", one, "--overlay", two).split()[0]
        == "two"
    )
    assert hpcc.out(image.main, "cat /etc/which", "--overlay", f"{two}:ro,{one}").split() == ["one"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [("/no/such", "No such"), ("/etc/hosts", "no filesystem"), ("/tmp:ro", "upper"), ("/a,b:c", "--overlay")],
)
def test_overlays_that_cannot_be(hpcc: Hpcc, image: Images, spec: str, said: str) -> None:  # noqa: F811
    done = hpcc("exec", "--overlay", spec, image.main, "true")
    assert done.returncode == 255 and "--overlay" in done.stderr, done.stderr
    assert said in done.stderr or "No such" in done.stderr


def test_writable(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """A directory is written to; a file is not, nor a directory at the same time as something else."""
    sandbox = hpcc.person.home / "sandbox"
    shutil.copytree(image.sandbox, sandbox, symlinks=True, ignore=lambda place, names: SPECIAL & set(names))
    for path in (sandbox, *sandbox.rglob("*")):
        os.chown(path, hpcc.person.uid, hpcc.person.gid, follow_symlinks=False)
    hpcc.out(sandbox, "echo mine > /etc/mine", "--writable")
    assert (sandbox / "etc/mine").read_text() == "mine\n"
    assert hpcc.sh(sandbox, "echo x > /etc/mine").returncode != 0  # without --writable it is read-only
    home = f"{hpcc.person.home}:/mnt"
    assert hpcc.out(sandbox, "cat /etc/mine; echo home > /mnt/home", "--writable", "-B", home) == "mine\n"
    assert (hpcc.person.home / "home").read_text() == "home\n"  # the mounts are those of any other run
    done = hpcc("exec", "--writable", image.main, "true")
    assert done.returncode == 255 and "--overlay" in done.stderr
    done = hpcc("exec", "--writable", "--writable-tmpfs", sandbox, "true")
    assert done.returncode == 255 and "exclude" in done.stderr


# -- --fakeroot --------------------------------------------------------------------------------------------------------


def test_fakeroot(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """Root in the container, with home as /root, and other users beside it."""
    script = "id -u; echo $HOME; echo f > /mnt/inside; stat -c %u /mnt/inside"
    assert hpcc.out(image.main, script, "--fakeroot", "-B", f"{hpcc.person.home}:/mnt") == "0\n/root\n0\n"
    assert (hpcc.person.home / "inside").stat().st_uid == hpcc.person.uid
    script = "touch /opt/x && chown 7:8 /opt/x && stat -c %u:%g /opt/x; grep CapEff /proc/self/status"
    owner, _, capabilities = hpcc.out(image.main, script, "-f", "--writable-tmpfs").split()
    assert owner == "7:8" and capabilities.strip("0")


def test_fakeroot_without_ids_for_others(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """Where newuidmap fails: root alone. Real root needs no such program."""
    script = "id -u; touch /opt/x; stat -c %u /opt/x; chown 7 /opt/x 2>/dev/null || echo refused"
    mask = 'mount --bind /dev/null /usr/bin/newuidmap; exec "$@"'
    argv = hpcc.person.argv([hpcc.installed.hpcc, "exec", "-f", "--writable-tmpfs", image.main, "sh", "-c", script])
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", mask, "sh", *argv],
        env=hpcc.person.environ({}), cwd=hpcc.person.home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "0\n0\n" + "refused\n" * (hpcc.person.uid != 0), done.stderr


# -- environment -------------------------------------------------------------------------------------------------------


def test_env_file(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    path = hpcc.person.home / "variables"
    path.write_text("# a comment\nONE=1\nTWO=\"a b $ONE\"\nexport THREE='$ONE'\nFOUR=file\n")
    path.chmod(0o644)
    script = 'echo "[$ONE][$TWO][$THREE][$FOUR]"'
    assert hpcc.out(image.main, script, "--env-file", path, "--env", "FOUR=option") == "[1][a b 1][$ONE][option]\n"
    assert hpcc.out(image.main, script, "--env-file", path, "--cleanenv") == "[1][a b 1][$ONE][file]\n"
    for bad, said in (("missing", "no such file"), ("variables", "")):
        if bad == "variables":
            path.write_text("A=(\n")
        done = hpcc("exec", "--env-file", hpcc.person.home / bad, image.main, "true")
        assert done.returncode == 255 and "--env-file" in done.stderr and said in done.stderr


def test_job_env(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    env = {"SLURM_PROCID": "3", "PMI_FD": "7", "DASK_X": "1", "CUDA_VISIBLE_DEVICES": "0,1", "SECRET": "no"}
    script = 'echo "[$SLURM_PROCID][$PMI_FD][$DASK_X][$CUDA_VISIBLE_DEVICES][$SECRET]"'
    assert hpcc.out(image.main, script, "--compat", "--job-env", env=env) == "[3][7][1][0,1][]\n"
    assert hpcc.out(image.main, script, "--compat", env=env) == "[][][][][]\n"


@pytest.mark.parametrize("prefix", ["HPCC_", "APPTAINER_", "SINGULARITY_"])
def test_options_by_variables(hpcc: Hpcc, image: Images, prefix: str) -> None:  # noqa: F811
    assert hpcc.out(image.main, "ls -A ~", env={f"{prefix}CONTAIN": "1"}) == ""
    assert hpcc.out(image.main, "cat /proc/sys/kernel/hostname", env={f"{prefix}HOSTNAME": "box"}) == "box\n"
    assert hpcc.out(image.main, "pwd", env={f"{prefix}CWD": "/usr"}) == "/usr\n"
    assert hpcc.out(image.main, "pwd", "--pwd", "/etc", env={f"{prefix}CWD": "/usr"}) == "/etc\n"
    assert (
        hpcc.out(image.main, "echo x > /etc/x && echo written", env={f"{prefix}WRITABLE_TMPFS": "true"}) == "written\n"
    )
    assert hpcc.sh(image.main, "echo x > /etc/x", env={f"{prefix}WRITABLE_TMPFS": "false"}).returncode != 0


# -- the image's own words --------------------------------------------------------------------------------------------


def test_workdir_and_user(hpcc: Hpcc, open_dir: Path) -> None:  # noqa: F811
    """WORKDIR counts under --compat, as for Docker; USER never, and -v says so."""
    from hpcc.cli.demo_image import build_demo_layers

    config = {**CONFIG, "WorkingDir": "/etc", "User": "nobody"}
    made = build_sif(open_dir / "config.sif", [build_demo_layers().layers[0]], config)
    assert hpcc.out(made, "pwd", "--compat") == "/etc\n"
    assert hpcc.out(made, "pwd", "--compat", "--pwd", "/tmp") == "/tmp\n"
    assert hpcc.out(made, "pwd", "--contain") != "/etc\n"
    assert hpcc.out(made, "id -u", "--compat") == f"{hpcc.person.uid}\n"
    done = hpcc("--verbose", "exec", made, "true")
    assert done.returncode == 0 and "USER 'nobody'" in done.stderr and "USER" not in hpcc("exec", made, "true").stderr


# -- capabilities ------------------------------------------------------------------------------------------------------

NET_RAW, KILL = 1 << 13, 1 << 5


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), 0), (("--no-privs",), 0), (("--drop-caps", "all"), 0),
        (("--add-caps", "CAP_NET_RAW,kill"), NET_RAW | KILL),
        (("--add-caps", "net_raw,kill", "--drop-caps", "CAP_KILL"), NET_RAW),
    ],
    ids=str,
)  # fmt: skip
def test_capabilities(hpcc: Hpcc, image: Images, flags: tuple[str, ...], kept: int) -> None:  # noqa: F811
    """In all five sets, so that what the payload executes has them too."""
    out = hpcc.out(image.main, "grep -e Cap -e NoNew /proc/self/status", *flags)
    found = {line.split()[0]: int(line.split()[1], 16) for line in out.splitlines()}
    assert found.pop("NoNewPrivs:") == 1
    assert set(found.values()) == {kept} and len(found) == 5, out


def test_keep_privs(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    def effective(*flags: str) -> int:
        return int(hpcc.out(image.main, "grep CapEff /proc/self/status", *flags).split()[1], 16)

    everything = effective("--keep-privs")
    assert everything & NET_RAW and everything & KILL
    assert effective("--keep-privs", "--drop-caps", "net_raw") == everything & ~NET_RAW
    assert effective("--fakeroot", "--drop-caps", "net_raw") & NET_RAW == 0
    done = hpcc("exec", "--add-caps", "cap_bogus", image.main, "true")
    assert done.returncode == 255 and "cap_bogus" in done.stderr


def test_a_hundred_thousand_variables(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """As many as the kernel takes; one too many is said, by the shell that could not even start hpcc or by hpcc."""
    env = {f"V{number}": "" for number in range(100_000)}
    assert int(hpcc.out(image.main, "env | grep -c ^V", env=env)) == 100_000
    assert int(hpcc.out(image.main, "env | grep -c ^V; :", "--cleanenv", env=env)) == 0
    prefixed = {f"HPCCENV_{name}": "x" for name in list(env)[:50_000]}
    assert int(hpcc.out(image.main, "env | grep -c ^V", "--cleanenv", env=prefixed)) == 50_000


def test_paths_with_everything_in_them(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    name = "sp ace:co\\lon,com\"ma'quote $HOME `id` \u00e4\u6f22 *"
    place = hpcc.person.home / name
    place.mkdir()
    (place / "file").write_text("content\n")
    os.chown(place, hpcc.person.uid, hpcc.person.gid)
    source = str(place).replace(":", "\\:").replace(",", "\\,")
    assert hpcc.out(image.main, "cat /mnt/file", "--bind", f"{source}:/mnt") == "content\n"
    assert hpcc.out(image.main, "cat file; pwd", cwd=place) == f"content\n{place}\n"


# -- what a site binds -------------------------------------------------------------------------------------------------


def configure(person: Person, text: str) -> None:
    path = person.home / ".config/hpcc/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_bind_paths_with_conditions(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    data = hpcc.person.home / "data"
    data.mkdir()
    (data / "file").write_text("of the site\n")
    node = os.uname().nodename
    entries = f"""bind_paths = [
        "{data}:/always",
        {{bind = "{data}:/here:ro", host = ["{node[0]}*", "x"], exists = "{data}/file", env = ["CRAY_*", "ONE"]}},
        {{bind = "{data}:/elsewhere", host = "no-such-node"}},
        {{bind = "/no/such:/missing", exists = true, env = "NOT_*"}},
    ]
    """
    configure(hpcc.person, entries)
    script = "cat /always/file /here/file; ls -d /elsewhere /missing; echo x > /here/new; echo $CRAY_A $ONE $NOT_A $TWO"
    env = {"CRAY_A": "a", "ONE": "1", "NOT_A": "n", "TWO": "2", "APPTAINER_BIND": f"{data}:/by-variable"}
    done = hpcc.sh(image.main, f"{script}; cat /by-variable/file", "--compat", env=env)
    assert done.stdout == "of the site\nof the site\na 1\nof the site\n", done
    assert done.stderr.count("No such file") == 2 and "ead-only" in done.stderr
    assert hpcc.out(image.main, "echo $CRAY_A $TWO", env=env) == "a 2\n"  # all pass where nothing is clean
    assert hpcc.out(image.main, "ls -d /always /here; :", "--no-mount", "bind-paths") == ""
    assert hpcc.out(image.main, "ls -d /always /here; :", "--no-mount", "/here") == "/always\n"
    shown = hpcc("config", "bind_paths").stdout
    assert 'host = "no-such-node"' in shown and f"{node} is no no-such-node" in shown and "/no/such does not" in shown
    (always, rule, *_) = json.loads(hpcc("config", "--json", "bind_paths").stdout)
    assert always == f"{data}:/always" and rule["env"] == ["CRAY_*", "ONE"] and "gpu" not in rule
    assert "/here" in hpcc("exec", "--dry-run", image.main, "true").stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [('bind_paths = [{bind = "/etc:/x", when = "x"}]', "'when'"), ('bind_paths = ["/etc:x"]', "'/etc:x'")],
)
def test_bind_paths_that_are_wrong(hpcc: Hpcc, image: Images, text: str, said: str) -> None:  # noqa: F811
    configure(hpcc.person, text)
    done = hpcc("exec", image.main, "true")
    assert done.returncode == 255 and "config.toml, bind_paths: " in done.stderr and said in done.stderr, done


def test_bind_paths_in_an_instance(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    configure(hpcc.person, 'bind_paths = [{bind = "/etc:/of-host", exists = "/etc/hosts", env = "CRAY_*"}]')
    assert hpcc("instance", "start", image.main, "one").returncode == 0
    try:
        done = hpcc("exec", "--cleanenv", "instance://one", "sh", "-c", "ls /of-host/hosts; echo $CRAY_A$B",
                    env={"CRAY_A": "a", "B": "b"})  # fmt: skip
        assert done.stdout == "/of-host/hosts\na\n", done
    finally:
        hpcc("instance", "stop", "one")
