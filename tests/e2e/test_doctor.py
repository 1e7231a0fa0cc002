"""hpcc doctor: what this host can do, what played ones lack, and one file for a ticket."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.support import seccomp
from tests.support.hosts import HOSTS
from tests.support.installation import Installation
from tests.support.people import Person


def test_doctor(runs_as: Person, installed: Installation) -> None:
    done = runs_as.run([installed.hpcc, "doctor"])
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "user namespaces", "squashfuse", "kernel overlay", "ids of --fakeroot", "cgroups", "GPUs", "AppArmor",
        "SELinux", "limits (ulimit)", "node directory", "user database", "read-only root:", "writable root:",
    ):  # fmt: skip
        assert words in done.stdout
    report = json.loads(runs_as.run([installed.hpcc, "doctor", "--json"]).stdout)
    assert report["facts"]["root"] is (runs_as.uid == 0) and report["usable"] is True
    assert report["plans"].keys() == {"read-only", "writable"}
    assert "not possible" not in report["plans"]["writable"]
    findings = {finding["what"]: finding for finding in report["findings"]}
    assert {finding["state"] for finding in findings.values()} <= {"ok", "info", "gap"}
    assert re.search(r"\d+\.\d+", findings["squashfuse"]["said"])
    assert findings["ids of --fakeroot"]["state"] == "ok" and runs_as.name in findings["user database"]["said"]
    assert findings["namespaces"]["said"].split()[0] == Path("/proc/sys/user/max_user_namespaces").read_text().strip()


def test_doctor_writes_a_report(runs_as: Person, installed: Installation) -> None:
    env = {"HPCC_MIRRORS": "docker.io=https://me:sesame@mirror.example:5000", "HPCC_DOCKER_PASSWORD": "sesame",
           "HPCC_NO_SETTING": "sesame", "APPTAINER_BIND": "/etc"}  # fmt: skip
    path = runs_as.home / "ticket.txt"
    done = runs_as.run([installed.hpcc, "doctor", "--report", path], env=env)
    assert done.returncode == 0 and str(path) in done.stdout, done
    text = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    for words in ("hpcc ", "Linux ", "python: 3.", "== findings", "== what was tried", "max_user_namespaces = ",
                  "== limits", "NOFILE = ", "squashfuse: /", "bind_paths = /etc\n    from: APPTAINER_BIND",
                  "mirrors = docker.io=https://***@mirror.example:5000", "HPCC_DOCKER_PASSWORD"):  # fmt: skip
        assert words in text, words
    assert "sesame" not in text and "me:" not in text
    done = runs_as.run([installed.hpcc, "doctor", "--report", "-"])
    assert done.stdout.startswith("== hpcc ") and "Traceback" not in done.stderr
    done = runs_as.run([installed.hpcc, "doctor", "--report", "/no/such/directory/file"])
    assert done.returncode == 255 and "--report /no/such/directory/file" in done.stderr and "HINT" in done.stderr


@pytest.mark.parametrize(
    ("host", "status", "states"),
    [
        ("no-more", 1, {"user namespaces": "fails"}),
        ("ubuntu", 1, {"user namespaces": "fails"}),
        ("no-mounts", 1, {"mounts in them": "fails"}),
        ("bare", 0, {"FUSE": "gap", "kernel overlay": "gap"}),
        ("shut-device", 0, {"FUSE": "gap", "kernel overlay": "ok"}),
        ("rhel8", 0, {"FUSE": "ok", "kernel overlay": "gap"}),
        ("no-setns", 0, {"joining (setns)": "gap"}),
    ],
)
def test_doctor_on_hosts_that_lack_something(
    plain_user: Person, open_dir: Path, installed: Installation, host: str, status: int, states: dict[str, str]
) -> None:
    person = plain_user.at(open_dir)
    done = seccomp.run(HOSTS[host], person, [installed.hpcc, "doctor"])
    assert done.returncode == status and done.stderr == "", done
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if "/" not in line), done.stdout
    assert ("!!: containers cannot run" in done.stdout) == (status == 1)
    report = json.loads(seccomp.run(HOSTS[host], person, [installed.hpcc, "doctor", "--json"]).stdout)
    found = {finding["what"]: finding for finding in report["findings"]}
    for what, state in states.items():
        assert found[what]["state"] == state, found[what]
        assert state == "ok" or (found[what]["cost"] and found[what]["remedy"])
    assert report["usable"] is (status == 0)


def test_doctor_where_the_node_directory_cannot_be(runs_as: Person, installed: Installation) -> None:
    done = runs_as.run([installed.hpcc, "doctor"], env={"HPCC_NODE_DIR": "/proc/x"})
    assert done.returncode == 1 and "!!  node directory" in done.stdout and "HPCC_NODE_DIR" in done.stdout, done


def test_doctor_prints_a_profile(runs_as: Person, installed: Installation) -> None:
    done = runs_as.run([installed.hpcc, "doctor", "--apparmor-profile"])
    assert done.returncode == 0 and "userns," in done.stdout
    assert f'"{os.path.realpath(installed.python)}"' in done.stdout
