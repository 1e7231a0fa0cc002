"""What the user asked for, decided: binds, home, cwd, argv, modes."""

import pytest

from hpcc.errors import UsageError
from hpcc.runtime.binds import Bind, parse_bind, split_binds
from hpcc.runtime.environment import RunConfig
from hpcc.runtime.job import FABRICS
from hpcc.runtime.spec import Caller, Container, Options, container_spec

CALLER = Caller(1000, 100, "alice", "/home/alice", "/home/alice/work", 0o027, {"PATH": "/usr/bin"})
CONFIG = RunConfig(("A=1",), ("/entry", "point"), ("cmd", "default"))


def spec(
    command: str = "exec",
    *arguments: str,
    config: RunConfig = CONFIG,
    caller: Caller = CALLER,
    site: tuple[str, ...] = (),
    **options: object,
) -> Container:
    return container_spec("docker://i", "/i.sif", config, Options(**options), command, arguments, caller, site)  # type: ignore[arg-type]


def targets(container: Container) -> list[str]:
    return [bind.target for bind in container.binds]


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a", Bind("/a", "/a")),
        ("/a:/b", Bind("/a", "/b")),
        ("/a:/b:ro", Bind("/a", "/b", True)),
        ("/a:/b:rw", Bind("/a", "/b")),
        ("/a::ro", Bind("/a", "/a", True)),
        ("rel:/b", Bind("/cwd/rel", "/b")),
        (".", Bind("/cwd", "/cwd")),
        ("../x", Bind("/x", "/x")),
        (r"/a\:b:/c\:d", Bind("/a:b", "/c:d")),
        (r"/a\,b", Bind("/a,b", "/a,b")),
        ("/a:/b/../c/./d", Bind("/a", "/c/d")),
        ("/a:/../../etc", Bind("/a", "/etc")),
    ],
)
def test_parse_bind(text: str, bind: Bind) -> None:
    assert parse_bind(text, "/cwd") == bind


@pytest.mark.parametrize("text", ["", ":/b", "/a:b", "/a:/b:xx", "/a:/b:ro:x", "/a:/b:"])
def test_parse_bind_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bind(text, "/cwd")


def test_split_binds() -> None:
    assert split_binds(r"/a:/b,/c\,d,,/e") == ["/a:/b", r"/c\,d", "/e"]
    assert split_binds("") == []
    assert split_binds("/a\\") == ["/a\\"]


def test_default_mode() -> None:
    container = spec("exec", "ls", "-l")
    assert container.argv == ("ls", "-l")
    assert {"/tmp", "/var/tmp", "/home/alice", "/etc/resolv.conf"} <= set(targets(container))
    assert container.cwd == ("/home/alice/work", "/home/alice", "/")
    assert container.temporary == () and not container.minimal_dev and not container.writable
    assert container.namespaces == () and not container.init
    assert container.umask == 0o027
    assert "/home/alice/work" not in targets(container)  # home has it
    assert all(bind.readonly for bind in container.binds if bind.target.startswith("/etc/"))


def test_cwd_gets_a_bind_of_its_own_where_nothing_has_it() -> None:
    away = CALLER._replace(cwd="/scratch/alice")
    assert Bind("/scratch/alice", "/scratch/alice", optional=True) in spec(caller=away).binds
    assert spec(caller=away).cwd[0] == "/scratch/alice"
    assert targets(spec(caller=away, binds=("/scratch",))).count("/scratch/alice") == 0
    for system in ("/", "/usr", "/etc"):
        assert system not in targets(spec(caller=CALLER._replace(cwd=system)))
    assert "/scratch/alice" not in targets(spec(caller=away, contain=True))


def test_contain_containall_compat() -> None:
    contain = spec(contain=True)
    assert contain.temporary == ("/tmp", "/var/tmp", "/home/alice") and contain.minimal_dev
    assert contain.cwd == ("/home/alice", "/") and contain.namespaces == () and "/tmp" not in targets(contain)
    everything = spec(containall=True)
    assert everything.namespaces == ("pid", "ipc") and everything.init and not everything.writable
    assert everything.umask == 0o027
    assert not spec(containall=True, no_init=True).init
    compat = spec(compat=True)
    assert compat.namespaces == ("pid", "ipc") and not compat.init
    assert compat.writable == "tmpfs" and compat.umask == 0o022
    assert spec(no_umask=True).umask == 0o022 and spec(writable_tmpfs=True).writable


def test_contain_starts_where_a_bind_has_the_callers_directory() -> None:
    assert spec(contain=True, binds=("/home/alice/work",)).cwd[0] == "/home/alice/work"
    assert spec(contain=True, binds=("/home/alice/work:/mnt",)).cwd == ("/home/alice", "/")


def test_home() -> None:
    container = spec(home="/data/h:/home/me")
    assert Bind("/data/h", "/home/me") in container.binds and container.home == "/home/me"
    assert dict(container.environment)["HOME"] == "/home/me"
    assert Bind("/home/alice/work/rel", "/home/alice/work/rel") in spec(home="rel").binds
    assert Bind("/data/h", "/home/me") in spec(home="/data/h:/home/me", compat=True).binds
    assert "/home/alice" not in targets(spec(no_home=True))
    assert "/home/alice" not in spec(no_home=True, contain=True).temporary
    assert "/" not in targets(spec(caller=CALLER._replace(home="/")))
    with pytest.raises(UsageError):
        spec(home="/a:relative")


def test_pwd_is_the_only_candidate() -> None:
    assert spec(pwd="/x").cwd == ("/x",) == spec(pwd="/x", compat=True).cwd


def test_binds_in_order_site_first() -> None:
    wanted = targets(spec(site=("/site:/s,/more",), binds=("/a:/x,/b:/x/y", "/c")))
    assert wanted[-5:] == ["/s", "/more", "/x", "/x/y", "/c"]


def test_argv() -> None:
    assert spec("run").argv == ("/entry", "point", "cmd", "default")
    assert spec("run", "mine").argv == ("/entry", "point", "mine")
    assert spec("run", "mine", config=RunConfig(cmd=("sh",))).argv == ("mine",)
    assert spec("run", config=RunConfig()).argv == ("",)
    assert spec("run", "a", config=RunConfig(runscript="/r")).argv == ("/r", "a")
    assert spec("shell").argv == ("",) and spec("shell", "-c", "x").argv == ("", "-c", "x")
    assert spec("shell", "-c", "x", shell="/bin/zsh").argv == ("/bin/zsh", "-c", "x")  # noqa: S604


def test_home_that_brings_the_working_directory_along() -> None:
    """As Snakemake gives it: Apptainer starts there, also with --compat, and so does hpcc."""
    config = RunConfig(directory="/srv/app")
    for home in ("/home/alice/work", "/home/alice"):
        assert spec(config=config, compat=True, home=home).cwd == ("/home/alice/work", home, "/")
    assert spec(config=config, compat=True, home="/elsewhere").cwd == ("/srv/app", "/elsewhere", "/")
    assert spec(config=config, compat=True, home="/home/alice/work:/home/me").cwd[0] == "/srv/app"


def test_workdir_of_the_image_under_compat_alone() -> None:
    config = RunConfig(directory="/srv/app")
    assert spec(config=config, compat=True).cwd == ("/srv/app", "/home/alice", "/")
    assert spec(config=config, compat=True, pwd="/etc").cwd == ("/etc",)
    assert "/srv/app" not in spec(config=config).cwd + spec(config=config, containall=True).cwd
    assert "relative" not in spec(config=RunConfig(directory="relative"), compat=True).cwd


JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_SUBMIT_DIR": "/data/run",
    "TMPDIR": "/local/7",
    "PMIX_SERVER_TMPDIR": "/spool/pmix.7",
}


def test_a_job_has_its_directories() -> None:
    """By default those that its variables lead to; with --contain none, unless --job-env asks, and then all."""
    caller = CALLER._replace(environ=JOB, cwd="/data/run/sub")
    default = targets(spec(caller=caller))
    assert {"/local/7", "/spool/pmix.7"} < set(default) and "/data/run" not in default and "/dev/shm" not in default
    assert not {"/local/7", "/spool/pmix.7", "/data/run/sub"} & set(targets(spec(caller=caller, contain=True)))
    for mode in ("contain", "containall", "compat"):
        found = spec(caller=caller, job_env=True, **{mode: True})
        wanted = {"/local/7", "/spool/pmix.7", "/data/run", "/data/run/sub", "/dev/shm", "/dev/infiniband", "/dev/cxi0"}
        assert wanted < set(targets(found))
        assert {bind.target for bind in found.binds if bind.device} == {*FABRICS}
        assert all(bind.optional for bind in found.binds if bind.target in (*wanted, *FABRICS))
    assert "/local/7" not in targets(spec(caller=CALLER._replace(environ={"TMPDIR": "/local/7"})))


def test_a_job_in_the_home_directory() -> None:
    """--contain means an empty one, also for a job that was submitted there; below it a job's directory is there."""
    for cwd, there in (("/home/alice", False), ("/home/alice/work", True), ("/", False)):
        caller = CALLER._replace(environ={**JOB, "SLURM_SUBMIT_DIR": cwd, "TMPDIR": "/tmp"}, cwd=cwd)
        found = spec(caller=caller, job_env=True, contain=True)
        assert [cwd in targets(found), "/tmp" in targets(found)] == [there, False]
        assert found.cwd[0] == (cwd if there else "/home/alice")
    assert "/dev/shm" not in targets(spec(caller=caller, job_env=True, contain=True, no_mount=("/dev/shm",)))
