"""Why a host gives users no namespaces, or none in which they can mount, and what an administrator does about it.

That nothing works is found out by trying (host.py). Why, only the kernel's knobs tell:

    /proc/sys/user/max_user_namespaces                                0: none (RHEL; also a node's boot options)
    /proc/sys/kernel/unprivileged_userns_clone                        0: none for users (Debian before 11, Arch)
    /proc/sys/kernel/apparmor_restrict_unprivileged_userns            1: none without a profile (Ubuntu 23.10 and newer)
    /proc/self/status, Seccomp: 2                                     a filter, mostly of a container around us
    /proc/self/status, CapEff                                         root needs CAP_SETFCAP to map itself (Linux 5.12)
    /proc/self/uid_map                                                empty: a namespace that has no ids to map
    /proc/self/mountinfo                                              no /: in a chroot the kernel gives no namespaces
    /sys/fs/selinux/enforce                                           1: a policy that may forbid it
"""

import os

from hpcc.records import NamedTuple

_CAP_SETFCAP = 31
_MARKS = (("/.dockerenv", "Docker"), ("/run/.containerenv", "podman"), ("/.singularity.d", "Apptainer"))


class Knobs(NamedTuple):
    """What the kernel says; None where it does not have the knob."""

    max_user_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None
    apparmor_restricts: int | None = None
    seccomp: bool = False
    poor_root: bool = False  # without CAP_SETFCAP
    no_ids: bool = False
    chroot: bool = False
    no_proc: bool = False
    selinux: bool = False  # enforcing
    container: str = ""  # what we are in ourselves, where that can be told


class Obstacle(NamedTuple):
    """What is in the way, in a few words, and what an administrator does about it."""

    what: str
    remedy: str


def read_knobs(root: str = "/") -> Knobs:
    """What this host says, or a tree that plays one. Never fails."""

    def text(path: str) -> str:
        try:
            with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def number(path: str) -> int | None:
        try:
            return int(text(path))
        except ValueError:
            return None

    status = dict(line.split(":", 1) for line in text("proc/self/status").splitlines() if ":" in line)
    capabilities = int(status.get("CapEff", "").strip() or "0", 16)
    mounts = [line.split()[4] for line in text("proc/self/mountinfo").splitlines() if len(line.split()) > 4]
    return Knobs(
        number("proc/sys/user/max_user_namespaces"),
        number("proc/sys/kernel/unprivileged_userns_clone"),
        number("proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        status.get("Seccomp", "").strip() == "2",
        status.get("Uid", "").split()[1:2] == ["0"] and not capabilities >> _CAP_SETFCAP & 1,
        bool(status) and not text("proc/self/uid_map").strip(),
        bool(mounts) and "/" not in mounts,
        not status,
        number("sys/fs/selinux/enforce") == 1,
        next((name for mark, name in _MARKS if os.path.exists(root.rstrip("/") + mark)), ""),
    )


def obstacles(knobs: Knobs) -> list[Obstacle]:
    """What in these knobs keeps users from namespaces of their own, the likeliest first. Pure."""
    found = []
    if knobs.max_user_namespaces == 0:
        found.append(Obstacle("user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000"))
    if knobs.unprivileged_userns_clone == 0:
        found.append(Obstacle("kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"))
    if knobs.apparmor_restricts:
        found.append(
            Obstacle(
                "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1)",
                "hpcc doctor --apparmor-profile > /etc/apparmor.d/hpcc && apparmor_parser -r /etc/apparmor.d/hpcc",
            )
        )
    if knobs.no_proc:
        found.append(Obstacle("/proc is not mounted", "mount -t proc proc /proc"))
    if knobs.chroot:
        found.append(
            Obstacle("this runs in a chroot", "enter that by pivot_root instead, as `unshare -m` and containers do")
        )
    if knobs.no_ids:
        found.append(Obstacle("this runs in a user namespace without ids", "map them, as `unshare -Ur` does"))
    if knobs.poor_root:
        found.append(
            Obstacle(
                "root lacks CAP_SETFCAP here, as in containers of hpcc's, and without it may not map itself",
                "start the container around this with --fakeroot, or be another user than root in it",
            )
        )
    if knobs.seccomp:
        found.append(
            Obstacle(
                f"a seccomp filter, of {knobs.container or 'a container or a service'} around us, forbids them",
                "docker run --security-opt seccomp=unconfined, or in Kubernetes a profile that allows unshare, clone, "
                "mount, umount2, pivot_root and setns",
            )
        )
    if knobs.selinux:
        found.append(Obstacle("SELinux is enforcing", "look for denials: ausearch -m avc -ts recent"))
    return found
