"""Who one is in the container: of a user whom only a directory knows, in several groups, as Apptainer says it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.conftest import Pulled
from tests.support import directory
from tests.support.directory import make_directory
from tests.support.installation import Installation
from tests.support.peers import PEERS, peer_argv
from tests.support.people import isolated, myself

SCRIPT = "grep :$(id -u): /etc/passwd; sed 1,4d /etc/group | sort; id -u; id -un; id -g; id -Gn; id; whoami; echo $HOME"


@pytest.mark.parametrize("mode", [(), ("--containall",), ("--compat",), ("--fakeroot",)], ids=" ".join)
@pytest.mark.parametrize("groups", [(), (directory.GID, 4300), (4, 4301, 24, directory.UNNAMED)], ids=str)
def test_accounts(
    pulled: Pulled, installed: Installation, open_dir: Path, mode: tuple[str, ...], groups: tuple[int, ...]
) -> None:
    for name in ("home", "node", "known"):
        (open_dir / name).mkdir(mode=0o755 if name != "node" else 0o700)
        (open_dir / name).chmod(0o777 if name == "known" else 0o700)
        os.chown(open_dir / name, directory.UID, directory.GID)
    known = make_directory(open_dir / "known", open_dir / "home")
    (main,) = installed.venv.glob("lib/python3*/site-packages/hpcc/__main__.py")
    env = {**isolated(open_dir / "home"), "HPCC_NODE_DIR": str(open_dir / "node")}
    env |= {"HPCC_PEERS": str(PEERS), "HPCC_HOLD_IDLE": "0"}
    found = []
    for tool in (["apptainer"], ["python3", "-I", "-S", "-B", str(main)]):
        argv = [*tool, "exec", *mode, str(pulled.ours / "plain.sif"), "sh", "-c", SCRIPT]
        around = known.around(groups, python="/usr/bin/python3")
        done = subprocess.run(
            peer_argv([*around, *argv], myself(open_dir)), env={"PATH": os.environ["PATH"], **env},
            cwd=open_dir / "home", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "FATAL" not in done.stderr, done.stderr
        found.append(done)
    theirs, ours = found
    if mode == ("--fakeroot",):  # where groups of the host are of no use, and Apptainer lists them all the same
        assert ours.stdout.splitlines()[-4:] == theirs.stdout.splitlines()[-4:]
        return
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert f"lda:x:4242:4243:{directory.GECOS}:{open_dir}/home:{directory.SHELL}" in ours.stdout
