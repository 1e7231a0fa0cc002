"""Which directories an Epilog may remove, and what the scripts for slurm.conf say."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from hpcc.cli.arguments import parse
from hpcc.errors import IntegrityError, UsageError
from hpcc_slurm import clean_node, scripts
from hpcc_slurm.clean_node import checked_pattern, directories, last_use, remove_as
from hpcc_slurm.stage_here import take


def script(name: str, *argv: str) -> str:
    return {"prolog": scripts._prolog, "task-prolog": scripts._task_prolog, "epilog": scripts._epilog}[name](
        parse(scripts._COMMANDS[name], argv)
    )


@pytest.mark.parametrize("text", ["/var/tmp/x", "var/%U", "/%U/x", "/a/%U-%U", "/%U", "/a%b/%U", "/a/%U%s", ""])
def test_patterns_that_could_name_anything(text: str) -> None:
    with pytest.raises(UsageError, match="--node-dir"):
        checked_pattern(text)
    assert checked_pattern("/scratch/hpcc-%U.d") == "/scratch/hpcc-%U.d"


def test_only_a_real_directory_of_the_uid_in_its_name(tmp_path: Path) -> None:
    uid = os.getuid() or 1234
    for name in (f"hpcc-{uid}", f"hpcc-0{uid}", f"hpcc-{uid}x", "hpcc-", f"hpcc-{uid + 1}", "hpcc--1", "other"):
        (tmp_path / name).mkdir()
        if os.getuid() == 0:
            os.chown(tmp_path / name, uid, uid)
    (tmp_path / "elsewhere").mkdir()
    found = list(directories(f"{tmp_path}/hpcc-%U"))
    assert found == [(f"{tmp_path}/hpcc-{uid}", uid)]
    os.rmdir(found[0][0])
    os.symlink("elsewhere", found[0][0])
    assert list(directories(f"{tmp_path}/hpcc-%U")) == []
    os.unlink(found[0][0])
    Path(found[0][0]).write_text("")
    assert list(directories(f"{tmp_path}/hpcc-%U")) == []
    assert list(directories(f"{tmp_path}/none/hpcc-%U")) == []


@pytest.mark.root
def test_root_owns_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "hpcc-0").mkdir()
    assert list(directories(f"{tmp_path}/hpcc-%U")) == []


def test_the_last_use_is_that_of_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "d/staged-v1").mkdir(parents=True)
    (tmp_path / "d/staged-v1/key.lock").write_text("")
    for path in (tmp_path / "d/staged-v1", tmp_path / "d"):
        os.utime(path, (1000, 1000))
    os.utime(tmp_path / "d/staged-v1/key.lock", (5000, 5000))
    assert last_use(str(tmp_path / "d")) == 5000
    assert last_use(str(tmp_path / "none")) == 0


@pytest.mark.root
def test_it_removes_as_the_owner(open_dir: Path) -> None:
    """Also what its owner has forbidden to himself; never what a link leads to, nor what is not the owner's."""
    uid = 54321
    open_dir.chmod(0o1777)
    victim = open_dir / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "sub/file").write_text("stays")
    top = open_dir / f"hpcc-{uid}"
    (top / "shut").mkdir(parents=True)
    (top / "shut/file").write_text("x")
    os.symlink(victim, top / "link")
    os.symlink(victim, top / "shut/link")
    for path in (top, top / "shut", top / "shut/file"):
        os.chown(path, uid, uid)
    (top / "shut").chmod(0)
    assert remove_as(str(top), uid, 30)
    assert not top.exists() and (victim / "sub/file").read_text() == "stays"
    top.mkdir()
    os.chown(top, uid, uid)
    (top / "roots").mkdir()
    (top / "roots/file").write_text("root's")
    assert not remove_as(str(top), uid, 30)
    assert (top / "roots/file").read_text() == "root's"
    assert not remove_as(str(victim), uid, 30) and (victim / "sub/file").exists()


def test_not_beyond_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(clean_node, "remove", lambda path: time.sleep(60))
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    begun = time.monotonic()
    assert not remove_as(str(tmp_path), os.getuid(), 0.2)
    assert time.monotonic() - begun < 10


def test_nothing_is_removed_where_squeue_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in ("#!/bin/sh\nexit 1\n", None):
        program = tmp_path / "squeue"
        if text is None:
            program.unlink()
        else:
            program.write_text(text)
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) if text is None else f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(clean_node.HpccError, match="squeue"):
            clean_node.users_with_jobs("")


def test_prolog(tmp_path: Path) -> None:
    """Run as it is: the directory is made, once; somebody else's is left alone and told of; never a failure."""
    text = script("prolog", "--node-dir", f"{tmp_path}/a b-%U")
    uid = os.getuid() if os.getuid() else 4321
    (tmp_path / "bin").mkdir()
    for name, body in (
        ("logger", f'echo "$@" >>{tmp_path}/log'),
        ("id", "echo 100"),
        ("chown", f'echo "$@" >>{tmp_path}/chown'),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)

    def run(uid: object) -> None:
        environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "SLURM_JOB_UID": str(uid)}
        done = subprocess.run(["sh", "-c", text], env=environ, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    run(uid)
    made = tmp_path / f"a b-{uid}"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700 and (tmp_path / "chown").read_text() == f"-h {uid}:100 {made}\n"
    assert not (tmp_path / "log").exists()
    os.rmdir(made)
    os.symlink("/etc", made)
    run(uid)
    assert f"is not a directory of uid {uid}" in (tmp_path / "log").read_text() and made.is_symlink()
    for odd in ("", "0", "x", "1;touch /tmp/x", "../5"):
        before = sorted(tmp_path.iterdir())
        run(odd)
        assert sorted(tmp_path.iterdir()) == before


def test_task_prolog() -> None:
    done = subprocess.run(
        ["sh", "-c", script("task-prolog", "--node-dir", "/scr atch/$x-%U", "--stage", "auto")],
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"export HPCC_NODE_DIR=/scr atch/$x-{os.getuid()}\nexport HPCC_STAGE=auto\n"
    for argv in ([], ["--stage", "never"], ["--node-dir", "/x"]):
        with pytest.raises(UsageError):
            script("task-prolog", *argv)


def test_epilog_never_fails() -> None:
    text = script("epilog", "--unused", "1")
    assert "clean-node --unused=1 --besides" in text and text.endswith("exit 0\n")
    assert subprocess.run(["sh", "-c", text.replace(" slurm ", " no-such-command ")]).returncode == 0


def test_a_copy_that_was_brought(tmp_path: Path) -> None:
    from hashlib import sha256

    data = os.urandom(100_000)
    for wanted in (sha256(b"other").hexdigest(), sha256(data).hexdigest()):
        (tmp_path / "brought").write_bytes(data)
        if wanted != sha256(data).hexdigest():
            with pytest.raises(IntegrityError):
                take(str(tmp_path / "brought"), wanted, str(tmp_path / "target"))
            assert not (tmp_path / "target").exists()
        else:
            take(str(tmp_path / "brought"), wanted, str(tmp_path / "target"))
            assert (tmp_path / "target").read_bytes() == data and (tmp_path / "target").stat().st_mode & 0o777 == 0o600
    os.symlink(tmp_path / "target", tmp_path / "link")
    with pytest.raises(OSError):
        take(str(tmp_path / "link"), sha256(data).hexdigest(), str(tmp_path / "other"))


def test_help_has_80_columns() -> None:
    from hpcc.cli.arguments import help_text
    from hpcc_slurm import oci_bundle, oci_conf, oci_run, prestage, pyxis, stage_here
    from hpcc_slurm.administration import COMMANDS

    commands = [*scripts._COMMANDS.values(), clean_node.COMMAND, prestage.COMMAND, stage_here.COMMAND, pyxis.COMMAND]
    commands += [oci_conf.COMMAND, oci_run.COMMAND, oci_bundle.COMMAND]
    for command in commands:
        assert max(map(len, help_text(command).splitlines())) <= 80, command.usage
    for name, _, summary in COMMANDS:
        assert len(f"  {name:<10} {summary}") <= 80
