"""The line in the system's log: what it says, and that it never stands in a run's way."""

import os
import pwd
import re
import socket
import time
from pathlib import Path

import pytest

from hpcc.audit import audit, audit_line

IMAGE = "docker.io/library/python@sha256:" + "0" * 64


def test_the_line() -> None:
    environ = {"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "0", "HPCC_RUN_ID": "r1", "SECRET": "x"}
    line = audit_line("exec", 1000, "alice", IMAGE, "python3", environ)
    assert line == f"exec uid=1000 user=alice job=123.0 run=r1 image={IMAGE} command=python3"
    assert (
        audit_line("instance start", 7, "", "/a/b.sif", "", {}, "web")
        == "instance start uid=7 image=/a/b.sif instance=web"
    )


@pytest.mark.parametrize("text", ["a b", "a=b uid=0", 'a"b', "a\nb", "a\\x", "ü", "\udcff", "'", "\x1b[2J", "\u2028"])
def test_no_value_can_be_taken_for_another(text: str) -> None:
    line = audit_line("exec", 1000, "alice", text, "true", {"SLURM_JOB_ID": text})
    assert line.isascii() and line.isprintable()
    fields = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
    assert fields["uid"] == "1000" and fields["command"] == "true" and fields["image"] == fields["job"]
    raw = re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), fields["image"][1:-1]).encode("latin-1")
    assert raw == text.encode("utf-8", "surrogateescape") and fields["image"][0] == '"'


def test_long_values_are_cut() -> None:
    assert len(audit_line("exec", 0, "root", "/" + "x" * 5000, "y" * 5000, {})) < 1024


def test_it_reaches_the_log(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        audit("run", IMAGE, "/usr/bin/tool", {}, place=str(tmp_path / "log"))
        said = log.recv(4096).decode()
    user = pwd.getpwuid(os.getuid()).pw_name
    head = rf"<86>[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d hpcc\[{os.getpid()}\]: "
    want = f"run uid={os.getuid()} user={user} image={IMAGE} command=/usr/bin/tool"
    assert re.fullmatch(head + re.escape(want), said), said


def test_nobody_listens(tmp_path: Path) -> None:
    """No socket, a file in its place, one that nobody reads, one that is full: no error, and no time."""
    (tmp_path / "file").write_text("")
    gone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    gone.bind(str(tmp_path / "gone"))
    gone.close()
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    full.bind(str(tmp_path / "full"))
    begun = time.monotonic()
    for name in ("none", "file", "gone", "x" * 300, "nul\0"):
        audit("run", IMAGE, "true", {}, place=str(tmp_path / name))
    with full, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"x" * 1000, str(tmp_path / "full"))
        audit("run", IMAGE, "true", {}, place=str(tmp_path / "full"))
    assert time.monotonic() - begun < 10
