"""Each option of exec by hpcc and by Apptainer, on one image: same output and status, for scripts that would tell."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.interop.conftest import Pulled, Tool
from tests.interop.test_side_by_side import observed
from tests.support.peers import apptainer
from tests.support.people import Person

OPTIONS = {
    "pid": ["--pid"],
    "pid-no-init": ["--pid", "--no-init"],
    "ipc": ["--ipc"],
    "uts": ["--uts"],
    "hostname": ["--hostname", "box"],
    "net": ["--net", "--network", "none"],
    "userns": ["--userns"],
    "no-home": ["--no-home"],
    "no-mount-home": ["--no-mount", "home"],
    "no-mount-tmp": ["--no-mount", "tmp"],
    "no-mount-proc": ["--no-mount", "proc"],
    "no-mount-sys": ["--no-mount", "sys"],
    "no-mount-binds": ["--no-mount", "bind-paths"],
    "no-mount-hosts": ["--no-mount", "/etc/hosts"],
    "no-mount-cwd": ["--no-mount", "cwd"],
    "contain-no-mount": ["--contain", "--no-mount", "tmp,home"],
    "scratch": ["--scratch", "/scratch/a"],
    "workdir": ["--contain", "--workdir", "{work}"],
    "workdir-scratch": ["--workdir", "{work}", "--scratch", "/scratch/a"],
    "overlay": ["--overlay", "{overlay}"],
    "overlay-ro": ["--overlay", "{overlay}:ro"],
    "mount": ["--mount", "type=bind,source={data},destination=/mnt"],
    "mount-ro": ["--mount", "type=bind,source={data},destination=/mnt,ro"],
    "env-file": ["--env-file", "{data}/variables"],
    "pwd": ["--pwd", "/usr"],
    "home": ["--home", "{data}:/srv/me"],
    "cleanenv": ["--cleanenv"],
    "fakeroot": ["--fakeroot"],
    "uid": ["--security", "uid:7"],
    "uid-gid": ["--security", "uid:7,gid:5"],
    "gid": ["--security", "gid:5"],
    "seccomp": ["--security", "seccomp:{data}/profile.json"],
}
SCRIPTS = {
    "who": "id -u; id -g; id -un; echo $HOME",
    "where": "pwd; echo $PWD; cd; pwd",
    "processes": "test $$ -lt 50 && echo few || echo many; test $$ = 1 && echo first",
    "host": 'test "$(cat /proc/sys/kernel/hostname 2>/dev/null)" = box && echo box',
    "network": "cut -d: -f1 /proc/net/dev 2>/dev/null | tail -n +3 | tr -d ' ' | sort | head -1",
    "places": "for d in /tmp /var/tmp /scratch/a /mnt /srv/me /etc/hosts /etc/localtime; do "
    "test -e $d && echo $d; done",
    "mounts": "for d in /proc /sys /dev /tmp /etc/hosts /etc/resolv.conf; do "
    'grep -q " $d " /proc/self/mounts 2>/dev/null && echo $d; done',
    "writes": "for d in ~ /tmp /var/tmp /scratch/a /mnt /etc /opt; do (echo x > $d/w.$$) 2>/dev/null && "
    "echo $d && rm $d/w.$$; done",
    "variables": 'echo "[$ONE][$TWO][$SHARED][$MINE]"',
    "status": "exit 7",
    "ids": "id -u; id -g; id -G; echo $HOME; grep Cap /proc/self/status",
    "filtered": "mkdir /tmp/filtered.$$ 2>/dev/null && echo made; rmdir /tmp/filtered.$$ 2>/dev/null; "
    "chmod 700 ~ 2>/dev/null || echo refused; grep Seccomp: /proc/self/status",
}
# What a script is about -> the options that could change it; others would only repeat each other.
RELEVANT = {
    "host": {"uts", "hostname", "pid"},
    "network": {"net", "uts", "userns"},
    "variables": {"env-file", "cleanenv", "pid"},
    "ids": {"uid", "uid-gid", "gid"},
    "filtered": {"seccomp", "pid"},
    "who": OPTIONS.keys() - {"uid", "uid-gid"},  # Apptainer's /etc/passwd has the caller, hpcc's whom the payload is
    "processes": {"pid", "pid-no-init", "ipc", "userns", "fakeroot"},
}

PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 2, "value": 448, "op": "SCMP_CMP_EQ"}]},
    ],
}
# What both refuse, with the same status
REFUSED = [
    ["--memory", "abc"], ["--memory", "1G", "--memory-swap", "x"], ["--memory-reservation", "1.x"], ["--cpus", "0"],
    ["--cpus", "1000000"], ["--cpus", "abc"], ["--pids-limit", "-2"], ["--blkio-weight", "5"],
    ["--blkio-weight-device", "/dev/null"], ["--blkio-weight-device", "/dev/nope:10"], ["--apply-cgroups", "/nope"],
    ["--apply-cgroups", "/etc/passwd"], ["--apply-cgroups", "/dev/null", "--memory", "1G"], ["--security", "uid:x"],
    ["--security", "gid:x"], ["--security", "seccomp:/nope"], ["--security", "seccomp:/etc/passwd"],
    ["--security", "selinux:a:b:c"], ["--security", "apparmor:nope"], ["--security", "selinux:a,apparmor:b"],
    ["--memory", "1G"], ["--pids-limit", "5"],
]  # fmt: skip

CASES = [
    pytest.param(option, script, id=f"{option}-{script}")
    for script in SCRIPTS
    for option in OPTIONS
    if option in RELEVANT.get(script, OPTIONS)
]


def places(person: Person, name: str) -> dict[str, Path]:
    """New directories, for one tool; they have the same names for both, and the same content."""
    made = {each: person.home / each for each in ("work", "overlay", "data")}
    for path in made.values():
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    (made["data"] / "profile.json").write_text(json.dumps(PROFILE))
    (made["data"] / "variables").write_text('ONE=1\nTWO="a $ONE"\n')
    (made["overlay"] / "upper").mkdir()
    (made["overlay"] / "work").mkdir()
    for path in (*made.values(), *made["data"].iterdir(), *made["overlay"].iterdir()):
        os.chown(path, person.uid, person.gid)
    return made


@pytest.mark.parametrize(("option", "script"), CASES)
def test_option(pulled: Pulled, hpcc: Tool, runs_as: Person, option: str, script: str) -> None:
    seen = []
    for tool in (hpcc, apptainer):
        made = places(runs_as, option)
        flags = [word.format(**made) for word in OPTIONS[option]]
        argv = ["exec", *flags, pulled.ours / "plain.sif", "sh", "-c", SCRIPTS[script]]
        seen.append(tool(argv, runs_as, env={"MINE": "of the host"}))
    ours, theirs = seen
    if option == "fakeroot" and runs_as.uid == 0:  # Apptainer wants ids for root too, who has them all
        assert "subuid" in theirs.stderr and ours.returncode != 255, ours.stderr
        return
    assert theirs.returncode != 255, theirs.stderr
    assert observed(ours) == observed(theirs), ours.stderr + theirs.stderr


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_both_refuse(pulled: Pulled, hpcc: Tool, runs_as: Person, flags: list[str]) -> None:
    """The last two because this machine has no cgroups of version 2, or Apptainer's Debian no systemd."""
    argv = ["exec", *flags, pulled.ours / "plain.sif", "true"]
    ours, theirs = hpcc(argv, runs_as), apptainer(argv, runs_as)
    if flags in REFUSED[-2:] and theirs.returncode == 0:
        assert ours.returncode == 0, ours.stderr
        return
    assert ours.returncode == theirs.returncode == 255, ours.stderr + theirs.stderr
    assert "Traceback" not in ours.stderr
