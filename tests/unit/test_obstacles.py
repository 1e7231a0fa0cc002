"""Why a host gives users no namespaces, by its knobs."""

from pathlib import Path

import pytest

from hpcc.runtime.obstacles import Knobs, obstacles, read_knobs

STATUS = "Name:\tpython3\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{caps}\nSeccomp:\t{seccomp}\n"
MOUNTS = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 21 0:20 / /proc rw - proc proc rw\n"
MAX, CLONE = "proc/sys/user/max_user_namespaces", "proc/sys/kernel/unprivileged_userns_clone"
APPARMOR = "proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def host(root: Path, files: dict[str, str], uid: int = 1000, caps: str = "0", seccomp: int = 0) -> Knobs:
    usual = {
        "proc/self/status": STATUS.format(uid=uid, caps=caps, seccomp=seccomp),
        "proc/self/uid_map": "0 0 4294967295\n",
        "proc/self/mountinfo": MOUNTS,
        MAX: "96365\n",
    }
    for name, text in {**usual, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_knobs(str(root))


def test_nothing_in_the_way(tmp_path: Path) -> None:
    knobs = host(tmp_path, {})
    assert knobs == Knobs(max_user_namespaces=96365) and obstacles(knobs) == []


@pytest.mark.parametrize(
    ("files", "options", "what", "remedy"),
    [
        ({MAX: "0\n"}, {}, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces="),
        ({CLONE: "0\n"}, {}, "unprivileged_userns_clone is 0", "unprivileged_userns_clone=1"),
        ({APPARMOR: "1\n"}, {}, "AppArmor", "hpcc doctor --apparmor-profile"),
        ({"sys/fs/selinux/enforce": "1"}, {}, "SELinux", "ausearch"),
        ({}, {"seccomp": 2}, "seccomp filter, of a container or a service", "seccomp=unconfined"),
        ({".dockerenv": ""}, {"seccomp": 2}, "seccomp filter, of Docker", "seccomp=unconfined"),
        ({"run/.containerenv": ""}, {"seccomp": 2}, "seccomp filter, of podman", "seccomp=unconfined"),
        ({}, {"uid": 0, "caps": "0"}, "CAP_SETFCAP", "--fakeroot"),
        ({"proc/self/uid_map": ""}, {}, "without ids", "unshare -Ur"),
        ({"proc/self/mountinfo": MOUNTS.replace(" / / ", " / /usr ")}, {}, "chroot", "pivot_root"),
        ({"proc/self/status": ""}, {}, "/proc is not mounted", "mount -t proc"),
    ],
)
def test_one_thing_in_the_way(
    tmp_path: Path, files: dict[str, str], options: dict[str, int], what: str, remedy: str
) -> None:
    (found,) = obstacles(host(tmp_path, files, **options))  # type: ignore[arg-type]
    assert what in found.what and remedy in found.remedy


def test_knobs_that_let_through(tmp_path: Path) -> None:
    files = {CLONE: "1\n", APPARMOR: "0\n", "sys/fs/selinux/enforce": "0"}
    assert obstacles(host(tmp_path, files, uid=0, caps="000001ffffffffff")) == []


def test_what_is_odd_is_not_there(tmp_path: Path) -> None:
    assert read_knobs(str(tmp_path)).no_proc
    assert host(tmp_path, {MAX: "many\n", CLONE: ""}).max_user_namespaces is None
