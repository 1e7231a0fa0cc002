"""Hosts that lack something, as rules for tests/support/seccomp.py. What each stands for:

no-namespaces    Debian with kernel.unprivileged_userns_clone=0; a container with Docker's seccomp profile
no-more          RHEL with user.max_user_namespaces=0, or others have taken them all
ubuntu           Ubuntu 24.04: AppArmor gives a namespace, in which nothing may be done, not even the mapping of ids
no-mounts        a security module that denies mounts in namespaces
rhel8            Linux 4.18: no system call that came later, no overlay for users
no-overlay       the module is not there, also for root
no-fuse          Linux before 4.18, or where the module is not there
no-device        /dev/fuse is not there, as in most containers
shut-device      /dev/fuse is there for a group alone
bare             neither FUSE nor overlay
ramfs            a tmpfs that keeps no attributes, as before Linux 6.6: this one keeps none at all
no-new-mounts    the mount calls of Linux 5.2 and newer are refused, as by an older seccomp profile
no-joining       setns is refused: nobody enters a held root, or an instance
no-setns         setns is not there
half-joining     a held root's user namespace can be entered, and its mounts cannot
"""

import os
from errno import EACCES, ENODEV, ENOENT, ENOSPC, ENOSYS, EPERM

from tests.support.seccomp import CLONE_NEWUSER, Deny, Request, Rule, Since, Watch

_MAPS = ("/setgroups", "/uid_map", "/gid_map")
_FIRST_AFTER_4_18 = 424  # pidfd_send_signal; from here on the numbers are the same on each architecture


def _namespaces(error: int) -> tuple[Rule, ...]:
    """None for users; clone3 has its flags in memory, so that it is not there, as seccomp profiles have it."""
    return (
        Deny("unshare", error, 0, CLONE_NEWUSER),
        Deny("clone", error, 0, CLONE_NEWUSER),
        Deny("clone3", ENOSYS),
    )


def _maps_denied(request: Request) -> int:
    return EACCES if request.arguments[2] & os.O_ACCMODE and request.text(1).endswith(_MAPS) else 0


def _mounts_denied(request: Request) -> int:
    return EACCES if request.is_in_namespace() else 0


def _kinds_denied(error: int, *kinds: str) -> tuple[Rule, ...]:
    return (
        Watch("mount", lambda request: error if request.text(2) in kinds else 0),
        Watch("fsopen", lambda request: error if request.text(0) in kinds else 0),
    )


def _no_device(error: int) -> Rule:
    return Watch("openat", lambda request: error if request.text(1) == "/dev/fuse" else 0)


def _as_ramfs(request: Request) -> int:
    if request.text(2) == "tmpfs":
        request.replace(2, "ramfs")
    return 0


HOSTS: dict[str, tuple[Rule, ...]] = {
    "no-namespaces": _namespaces(EPERM),
    "no-more": _namespaces(ENOSPC),
    "ubuntu": (Watch("openat", _maps_denied), Watch("mount", _mounts_denied)),
    "no-mounts": (Watch("mount", _mounts_denied),),
    "rhel8": (
        Since(_FIRST_AFTER_4_18, ENOSYS),
        Watch("mount", lambda request: EPERM if request.text(2) == "overlay" and request.is_in_namespace() else 0),
    ),
    "no-overlay": _kinds_denied(ENODEV, "overlay"),
    "no-fuse": _kinds_denied(EPERM, "fuse"),
    "no-device": (_no_device(ENOENT),),
    "shut-device": (_no_device(EACCES),),
    "bare": (*_kinds_denied(ENODEV, "overlay"), _no_device(ENOENT)),
    "ramfs": (Watch("mount", _as_ramfs),),
    "no-new-mounts": tuple(Deny(call, EPERM) for call in ("fsopen", "open_tree", "mount_setattr", "clone3")),
    "no-joining": (Deny("setns", EPERM),),
    "no-setns": (Deny("setns", ENOSYS),),
    "half-joining": (Watch("setns", lambda request: EPERM if request.is_in_namespace() else 0),),
}
