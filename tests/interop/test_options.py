"""Each option of exec by hpcc and by Apptainer, on one image: same output and status, for scripts that would tell."""

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
}
# What a script is about -> the options that could change it; others would only repeat each other.
RELEVANT = {
    "host": {"uts", "hostname", "pid"},
    "network": {"net", "uts", "userns"},
    "variables": {"env-file", "cleanenv", "pid"},
    "processes": {"pid", "pid-no-init", "ipc", "userns", "fakeroot"},
}

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
