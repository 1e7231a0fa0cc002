"""/etc/passwd, /etc/group and homes: of local users, of those whom only a directory knows, and where that is gone."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_run_signals import left_over
from tests.support import directory
from tests.support.autofs import Automounter
from tests.support.directory import Directory, make_directory
from tests.support.images import images
from tests.support.installation import Installation
from tests.support.people import Person, isolated

WHO = "grep :$(id -u): /etc/passwd; echo; sed 1,4d /etc/group; echo; id -un; echo $HOME"


class Site:
    """hpcc as somebody whom no file of this host knows."""

    def __init__(self, known: Directory, top: Path, installed: Installation) -> None:
        self.known, self.top, self.installed = known, top, installed
        self.home, self.node = top / "home", top / "node"
        self.mark = f"mark-{time.time_ns()}"

    def run(
        self,
        *words: object,
        groups: tuple[int, ...] = (),
        uid: int = directory.UID,
        gid: int = directory.GID,
        **env: str,
    ) -> Any:
        environ = {
            **isolated(self.home), "PATH": os.environ["PATH"], "HPCC_NODE_DIR": str(self.node),
            "HPCC_HOLD_IDLE": "0", "HPCC_MARK": self.mark, **env,
        }  # fmt: skip
        argv = [*self.known.around(groups, uid, gid), str(self.installed.hpcc), *map(str, words)]
        return subprocess.run(
            argv, env=environ, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def sh(self, script: str, *flags: object, **options: Any) -> str:
        done = self.run("exec", *flags, images().main, "sh", "-c", script, **options)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@pytest.fixture
def site(open_dir: Path, installed: Installation) -> Site:
    for name, mode in (("home", 0o700), ("node", 0o700), ("known", 0o777)):
        (open_dir / name).mkdir()
        (open_dir / name).chmod(mode)
        os.chown(open_dir / name, directory.UID, directory.GID)
    return Site(make_directory(open_dir / "known", open_dir / "home"), open_dir, installed)


# -- who one is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",)], ids=["default", "containall", "compat"])
def test_local_users(runs_as: Person, installed: Installation, mode: tuple[str, ...]) -> None:
    """The line of this host's passwd, less the password, and with the home that is in the container."""
    import pwd

    entry = pwd.getpwuid(runs_as.uid)
    argv = [installed.hpcc, "exec", *mode, images().main, "sh", "-c", "grep :$(id -u): /etc/passwd; id -un; id -gn"]
    row, name, group = runs_as.run(argv).stdout.splitlines()
    assert (name, group) == (runs_as.name, "root" if runs_as.uid == 0 else runs_as.name)
    if runs_as.uid == 0:
        assert row == "root:x:0:0:root:/root:/bin/bash"  # the image has root itself, and keeps it
    else:
        assert row == ":".join(
            (entry.pw_name, "x", f"{runs_as.uid}:{entry.pw_gid}", entry.pw_gecos, entry.pw_dir, entry.pw_shell)
        )


@pytest.mark.root
def test_all_groups_that_have_a_name(site: Site) -> None:
    """Of a local user nobody but files is asked; a gid without a name stays without."""
    import grp

    os.chown(site.node, 0, 0)
    local = {name: grp.getgrnam(name).gr_gid for name in ("adm", "cdrom")}
    out = site.sh("sed 1,4d /etc/group; id -G; id -Gn", groups=tuple(local.values()), uid=0, gid=0)
    rows = [f"{name}:x:{gid}:root" for name, gid in local.items()]
    assert out.splitlines() == [*rows, f"0 {' '.join(map(str, local.values()))}", f"root {' '.join(local)}"]
    assert site.known.asked() == 0
    rows.append("cern:x:4301:root")
    out = site.sh("sed 1,4d /etc/group", groups=(directory.UNNAMED, *local.values(), 4301), uid=0, gid=0)
    assert out.splitlines() == rows


@pytest.mark.root
@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",)], ids=["default", "containall", "compat"])
def test_whom_only_a_directory_knows(site: Site, mode: tuple[str, ...]) -> None:
    passwd, group, names = site.sh(WHO, *mode, groups=(4300, directory.UNNAMED)).split("\n\n")
    assert passwd == f"lda:x:4242:4243:{directory.GECOS}:{site.home}:{directory.SHELL}"
    assert group == "physics:x:4243:lda\nbeam time:x:4300:lda"
    assert names == f"lda\n{site.home}\n"


@pytest.mark.root
def test_its_answer_is_kept(site: Site) -> None:
    first = site.sh(WHO, groups=(4300,))
    asked = site.known.asked()
    assert asked == 3  # the user, and two groups
    assert site.sh(WHO, groups=(4300,)) == first and site.known.asked() == asked
    assert "cern" in site.sh(WHO, groups=(4300, 4301)) and site.known.asked() > asked  # another question
    (kept,) = [path for path in site.node.iterdir() if path.name.startswith("account")]
    assert kept.stat().st_mode & 0o077 == 0 or site.node.stat().st_mode & 0o077 == 0
    os.utime(kept, (1, 1))
    asked = site.known.asked()
    site.sh(WHO, groups=(4300, 4301))
    assert site.known.asked() > asked


@pytest.mark.root
def test_a_directory_that_does_not_answer(site: Site) -> None:
    """The run begins after some seconds, as who the environment says, and the next one at once."""
    site.known.hang()
    started = time.monotonic()
    out = site.sh(WHO, groups=(4300,), USER="somebody", HOME=str(site.home))
    assert 2.5 < time.monotonic() - started < 20
    assert out == f"somebody:x:4242:4243::{site.home}:/bin/sh\n\n\nsomebody\n{site.home}\n"
    assert left_over(site.mark, 6.0) == {}, "who asks ends, though no answer comes"
    started = time.monotonic()
    site.sh(WHO, groups=(4300,), USER="somebody", HOME=str(site.home))
    assert time.monotonic() - started < 2.5
    site.known.hang(False)
    (kept,) = [path for path in site.node.iterdir() if path.name.startswith("account")]
    os.utime(kept, (time.time() - 100,) * 2)
    assert site.sh("id -un", groups=(4300,)) == "lda\n"


@pytest.mark.root
def test_what_is_known_of_old_is_better_than_nothing(site: Site) -> None:
    before = site.sh(WHO, groups=(4300,))
    (kept,) = [path for path in site.node.iterdir() if path.name.startswith("account")]
    os.utime(kept, (1, 1))
    site.known.hang()
    assert site.sh(WHO, groups=(4300,)) == before
    started = time.monotonic()
    assert site.sh(WHO, groups=(4300,)) == before and time.monotonic() - started < 2.5


@pytest.mark.root
@pytest.mark.parametrize(
    "text", ["", "whole 4242", "whole 4242 4243 4300", "whole 4242 4243 4300\n" + "\xff:" * 99, "part"]
)
def test_a_damaged_answer_is_asked_for_again(site: Site, text: str) -> None:
    kept = site.node / "account-v1"
    kept.write_text(text)
    os.chown(kept, directory.UID, directory.GID)
    out = site.sh("id -un", groups=(4300,))
    assert out == ("lda\n" if "\n" not in text else "user4242\n")  # it is one's own file; it is not believed for long


@pytest.mark.root
def test_an_image_without_accounts_gets_none(site: Site) -> None:
    done = site.run("exec", images().distroless, "/busybox", "ls", "/etc")
    assert "passwd" not in done.stdout


# -- homes -------------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("flags", [(), ("--pid",), ("--compat", "--home", "HOME")], ids=str)
def test_a_home_that_is_mounted_when_it_is_used(site: Site, flags: tuple[str, ...]) -> None:
    """By an automounter that does not know the processes of a PID namespace."""
    auto = site.top / "auto"
    auto.mkdir()
    (site.home / "mine").write_text("of the host\n")
    known = make_directory(site.known.top, auto / "lda")
    with Automounter(auto, {"lda": site.home, "other": site.home}) as automounter:
        site.known, words = known, [str(auto / "lda") if flag == "HOME" else flag for flag in flags]
        script = "cat ~/mine; echo x > ~/new"
        done = subprocess.run(
            [*known.around(), site.installed.hpcc, "exec", *words, images().main, "sh", "-c", script],
            env={**isolated(auto / "lda"), "PATH": os.environ["PATH"], "HPCC_NODE_DIR": str(site.node),
                 "HPCC_HOLD_IDLE": "0", "XDG_CONFIG_HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
            cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "of the host\n", "")
        assert automounter.mounted() == {"lda"}
        assert (site.home / "new").read_text() == "x\n"


@pytest.mark.root
def test_a_home_behind_a_link(site: Site) -> None:
    """/home -> /export/home: under both names, where one works in it."""
    (site.top / "link").symlink_to(site.top)
    (site.home / "project").mkdir()
    (site.home / "project/file").write_text("found\n")
    site.known = make_directory(site.known.top, site.top / "link/home")
    assert site.sh("echo $HOME; cat ~/project/file; pwd; cat project/file").splitlines() == [
        str(site.top / "link/home"), "found", str(site.home), "found",
    ]  # fmt: skip


@pytest.mark.root
def test_a_home_that_cannot_be_looked_into(site: Site, plain_user: Person) -> None:
    """As root finds that of a user on NFS with root_squash: it is there, and closed."""
    closed = site.top / "closed"
    (closed / "home").mkdir(parents=True)
    closed.chmod(0o700)
    site.known = make_directory(site.known.top, closed / "home")
    assert site.sh("echo on; ls -A ~ 2>/dev/null | wc -l") == "on\n0\n"
    done = site.run("exec", "--home", closed / "home", images().main, "true")
    assert done.returncode == 255 and str(closed / "home") in done.stderr and "Permission denied" in done.stderr


@pytest.mark.parametrize("kind", ["FILE", "DIR"])
def test_kerberos_tickets_are_in_tmp(runs_as: Person, installed: Installation, kind: str) -> None:
    cache = Path(f"/tmp/krb5cc_hpcc_{os.getpid()}_{runs_as.uid}")
    cache.write_text("ticket\n")
    os.chown(cache, runs_as.uid, runs_as.gid)
    cache.chmod(0o600)
    try:
        env = {"KRB5CCNAME": f"{kind}:{cache}"}
        argv = [installed.hpcc, "exec", images().main, "sh", "-c", 'echo $KRB5CCNAME; cat "${KRB5CCNAME#*:}"']
        assert runs_as.run(argv, env=env).stdout == f"{kind}:{cache}\nticket\n"
        argv[2:2] = ["--contain", "--bind", str(cache)]
        assert runs_as.run(argv, env=env).stdout == f"{kind}:{cache}\nticket\n"
    finally:
        cache.unlink()
