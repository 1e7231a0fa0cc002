"""--security: seccomp profiles in force, other ids, SELinux and AppArmor where the kernel has them."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_run import Hpcc, hpcc, image  # noqa: F401
from tests.support.images import Images, marked

PODMANS = "/usr/share/containers/seccomp.json"
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def profile(hpcc: Hpcc, rules: list[dict[str, Any]], default: str = "ALLOW") -> str:  # noqa: F811
    path = hpcc.person.home / "profile.json"
    path.write_text(json.dumps({"defaultAction": f"SCMP_ACT_{default}", "syscalls": rules}))
    os.chown(path, hpcc.person.uid, hpcc.person.gid)
    return f"seccomp:{path}"


# -- seccomp -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("--pid",), ("--compat",), ("--fakeroot",)], ids=str)
def test_a_filter_is_in_force(hpcc: Hpcc, image: Images, flags: tuple[str, ...]) -> None:  # noqa: F811
    rules = [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"},
    ]
    script = "mkdir /tmp/new; chmod 700 /tmp; echo on; grep Seccomp: /proc/self/status"
    done = hpcc.sh(image.main, script, *flags, "--security", profile(hpcc, rules))
    assert done.returncode == 0 and done.stdout.split() == ["on", "Seccomp:", "2"], done.stderr
    assert "No space left" in done.stderr and "not permitted" in done.stderr


def test_arguments_are_compared(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """kill with any signal but 15."""
    args = [{"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]
    rules = [{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": args}]
    script = "kill -0 $$ && echo may; kill -15 $$ 2>/dev/null || echo may not"
    assert hpcc.out(image.main, script, "--security", profile(hpcc, rules)) == "may\nmay not\n"


def test_a_killing_filter_gives_its_status(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    rules = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]
    done = hpcc.sh(image.main, "mkdir /tmp/new; echo $?", "--security", profile(hpcc, rules))
    assert done.stdout.split()[-1] == "159"  # 128 + SIGSYS


def test_a_filter_that_forbids_the_payload_itself(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    rules = [{"names": ["execve"], "action": "SCMP_ACT_ERRNO"}]
    done = hpcc("exec", "--security", profile(hpcc, rules), image.main, "true")
    assert done.returncode == 255 and "not permitted" in done.stderr and "Traceback" not in done.stderr


def test_the_profile_of_podman(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """A real profile of 470 names: ordinary programs run under it."""
    if not Path(PODMANS).exists():
        pytest.skip("no profile of Podman's here; as root tests/support/install.sh brings it")
    script = "ls -d /etc; (sleep 0; true) & wait; echo $?; yes | head -1; grep Seccomp: /proc/self/status"
    assert hpcc.out(image.main, script, "--security", f"seccomp:{PODMANS}").split() == [
        "/etc",
        "0",
        "y",
        "Seccomp:",
        "2",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "JSON"), ("[]", "no seccomp profile"), ("{}", "defaultAction"), (None, "No such file"),
     ('{"defaultAction": "SCMP_ACT_X"}', "SCMP_ACT_X")],
)  # fmt: skip
def test_profiles_that_are_none(hpcc: Hpcc, image: Images, text: str | None, said: str) -> None:  # noqa: F811
    path = hpcc.person.home / "bad.json"
    if text is not None:
        path.write_text(text)
        path.chmod(0o644)
    done = hpcc("exec", "--security", f"seccomp:{path}", image.main, "true")
    assert done.returncode == 255 and f"--security seccomp:{path}: " in done.stderr and said in done.stderr


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_ids(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    """Real root becomes them; a user has their numbers, and files of theirs with these, in the container alone."""
    script = (
        "id -u; id -g; id -G; grep CapEff /proc/self/status; touch /tmp/hpcc-ids.$$; stat -c %u:%g /tmp/hpcc-ids.$$"
    )
    script += "; rm /tmp/hpcc-ids.$$; id -un; cut -d: -f1,3 /etc/passwd | grep :7$"
    out = hpcc.out(image.main, script, "--security", "uid:7,gid:5").split()
    assert out[:3] == ["7", "5", "5"] and out[4].strip("0") == "" and out[5] == "7:5" and out[6:] == ["lp", "lp:7"]
    assert hpcc.out(image.main, "id -u; id -g", "--security", "gid:5").split() == [str(hpcc.person.uid), "5"]
    assert hpcc.out(image.main, "id -u", "--security", "uid:3", "--pid", env={"HPCC_SECURITY": "uid:9"}) == "3\n"
    assert hpcc.out(image.main, "id -u", env={"APPTAINER_SECURITY": "uid:9"}) == "9\n"


def test_several_groups(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    done = hpcc.sh(image.main, "id -u; id -G", "--security", "uid:7,gid:5:6:9")
    if hpcc.person.uid == 0:
        assert done.stdout == "7\n5 6 9\n", done.stderr
        assert hpcc.sh(image.main, "cat /private", "--security", "uid:7").returncode != 0
    else:
        assert done.returncode == 255 and "one group" in done.stderr and "gid:5" in done.stderr
    done = hpcc.sh(image.main, "id -u", "--userns", "--security", "uid:7,gid:5:6")
    assert done.returncode == 255 and "one group" in done.stderr


def test_capabilities_stay_with_another_id(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    out = hpcc.out(image.main, "grep CapEff /proc/self/status", "--security", "uid:7", "--add-caps", "net_raw")
    assert int(out.split()[1], 16) == 1 << 13


def test_a_payload_of_another_id_dies_with_hpcc(hpcc: Hpcc, image: Images) -> None:  # noqa: F811
    argv = [hpcc.installed.hpcc, "exec", "--pid", "--no-init", "--security", "uid:7", image.main, "sleep", "600"]
    mark = f"ids-{os.getpid()}-{hpcc.person.uid}"
    process = hpcc.person.popen(argv, env={"HPCCENV_MARK": mark}, stdin=-3, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 30
    while not any("sleep 600" in line and "hpcc" not in line for line in marked(f"MARK={mark}").values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any("sleep 600" in line and "hpcc" not in line for line in marked(f"MARK={mark}").values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- SELinux and AppArmor ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["selinux:system_u:system_r:svirt_t:s0", "apparmor:no-such-profile"])
def test_what_the_kernel_does_not_have_or_know(hpcc: Hpcc, image: Images, word: str) -> None:  # noqa: F811
    done = hpcc("exec", "--security", word, image.main, "true")
    assert done.returncode == 255 and f"--security {word.partition(':')[0]}" in done.stderr, done.stderr
    has = APPARMOR.exists() and APPARMOR.read_text().startswith("Y") if word.startswith("app") else False
    if not has and not Path("/sys/fs/selinux/enforce").exists():
        assert "does not have it" in done.stderr


@pytest.mark.parametrize("word", ["bogus:x", "seccomp", "uid:x", "gid:1:x", "uid:4294967295"])
def test_words_that_are_refused(hpcc: Hpcc, image: Images, word: str) -> None:  # noqa: F811
    done = hpcc("exec", "--security", word, image.main, "true")
    assert done.returncode == 255 and "--security" in done.stderr and "Traceback" not in done.stderr
