"""What `hpcc doctor` makes of a host: for each thing its state, what a gap costs, and who does what about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hpcc.errors import RuntimeUnavailable
from hpcc.runtime.obstacles import obstacles
from hpcc.runtime.rootfs import Rung
from hpcc.runtime.surroundings import Place, Surroundings, slow_database

OK, INFO, GAP, FAILS = "ok", "info", "gap", "fails"
_FEW_NAMESPACES = 100  # a run takes one or two, and one as long as its image is held
_FEW_FILES = 1024
_FEW_PROCESSES = 256
_LITTLE_ROOM = 5 * 10**9  # bytes: a large image, unpacked
_NODE_REMEDY = "HPCC_NODE_DIR, or node_dir in /etc/hpcc/config.toml: a directory of one's own on this node's own disk."
Plans = dict[str, "Rung | RuntimeUnavailable"]


class Finding(NamedTuple):
    """One line of the table. `cost` and `remedy` are for a gap, and for what fails: then nothing runs at all."""

    what: str
    state: str
    said: str
    cost: str = ""
    remedy: str = ""


def findings(seen: Surroundings, plans: Plans, devices: Mapping[str, Any]) -> list[Finding]:
    """All of a host; `plans` by "read-only" and "writable", `devices` as gpu.survey gives them."""
    return [
        *_namespaces(seen),
        *_filesystems(seen, plans),
        _subids(seen),
        _cgroups(seen),
        _gpus(devices),
        _apparmor(seen),
        Finding("SELinux", INFO, _selinux(seen)),
        *_limits(seen),
        _node_directory(seen, plans),
        _cache(seen.cache),
        _database(seen),
    ]


def _namespaces(seen: Surroundings) -> Iterator[Finding]:
    host = seen.host
    found = obstacles(seen.knobs)
    if host.user_namespaces:
        yield Finding("user namespaces", OK, "yes")
    else:
        yield Finding(
            "user namespaces",
            GAP if host.root else FAILS,
            f"none{f': {found[0].what}' if found else ''}",
            "--fakeroot and --userns are refused."
            if host.root
            else "No container runs; only what the site's Apptainer can do, by --backend apptainer.",
            _remedies(seen)
            or "user.max_user_namespaces above 0 (RHEL), kernel.unprivileged_userns_clone=1 (Debian), an AppArmor "
            "profile (Ubuntu: hpcc doctor --apparmor-profile).",
        )
    if host.mounts:
        yield Finding("mounts in them", OK, "yes, and as real root without them" if host.root else "yes")
    elif host.user_namespaces or host.root:
        yield Finding(
            "mounts in them", FAILS, f"denied{f': {found[0].what}' if found else ''}", "No container runs.",
            _remedies(seen) or "A security module does so; its log says which rule: dmesg, ausearch -m avc."
        )  # fmt: skip
    if not seen.own_proc:
        yield Finding(
            "PID namespaces", GAP, "without /proc: parts of this host's are hidden",
            "--pid and instances are refused; --compat and --containall show the processes of the caller.",
            "Where a container hides them: docker run --security-opt systempaths=unconfined; in Kubernetes procMount: "
            "Unmasked.",
        )  # fmt: skip
    if not seen.joins:
        yield Finding(
            "joining (setns)", GAP, "denied",
            "Each run mounts its image for itself, with a cold cache; exec and shell of instance:// fail.",
            "Allow setns in the seccomp profile of the container or service around this.",
        )  # fmt: skip


def _remedies(seen: Surroundings) -> str:
    return " Or ".join(f"{obstacle.remedy}." for obstacle in obstacles(seen.knobs))


def _filesystems(seen: Surroundings, plans: Plans) -> Iterator[Finding]:
    host = seen.host
    unpacks = _root(plans, "read-only") == "unpacked"
    copies = _layer(plans) == "copy"
    if host.fuse:
        yield Finding("FUSE", OK, "yes")
    elif host.mounts:
        said = {"missing": "no /dev/fuse", "closed": "/dev/fuse is not for everybody"}.get(seen.fuse_device, "denied")
        yield Finding(
            "FUSE", GAP, said, _unpacking(unpacks),
            {"missing": "modprobe fuse; in a container: docker run --device /dev/fuse.",
             "closed": "chmod 666 /dev/fuse, as udev's rules have it."}.get(seen.fuse_device, "Linux 4.18 or newer."),
        )  # fmt: skip
    program = seen.squashfuse
    if program.path:
        old = not host.root and not host.squash and _root(plans, "read-only") == "squashfuse"
        yield Finding(
            "squashfuse", GAP if old else OK, f"{program.version or 'there'} ({program.path})",
            "Files of other owners are nobody's in a read-only image, and what only these may read stays unreadable."
            if old
            else "",
            "squashfuse 0.5 or newer, or its path in HPCC_SQUASHFUSE." if old else "",
        )  # fmt: skip
    else:
        yield Finding("squashfuse", INFO, "none; only images compressed by lzo would need it")
    if host.overlay:
        yield Finding("kernel overlay", OK, "yes")
    elif host.mounts:
        yield Finding(
            "kernel overlay", GAP, "none for users" if not host.root else "none",
            "Mount points that an image lacks are made by many binds; a writable root needs "
            + ("a copy of the image in memory." if copies else "fuse-overlayfs, which is slower."),
            "Linux 5.11 or newer with the module overlay; 6.6 for its writable layers in memory (tmpfs).",
        )  # fmt: skip
    if seen.fuse_overlayfs.path:
        yield Finding("fuse-overlayfs", OK, f"{seen.fuse_overlayfs.version or 'there'} ({seen.fuse_overlayfs.path})")
    elif copies:
        yield Finding(
            "fuse-overlayfs", GAP, "none",
            "--compat and --writable-tmpfs copy the image into memory; --overlay is refused.",
            "Install fuse-overlayfs.",
        )  # fmt: skip
    else:
        yield Finding("fuse-overlayfs", INFO, "none; only ext3 overlays would need it")
    if seen.fuse2fs.path:
        yield Finding("fuse2fs", OK, f"{seen.fuse2fs.version or 'there'} ({seen.fuse2fs.path})")
    else:
        yield Finding("fuse2fs", INFO, "none; ext3 images, as overlays or bound, would need it")


def _unpacking(unpacks: bool) -> str:
    if not unpacks:
        return "Nothing as yet."
    return "Each image is unpacked on this node's disk before its first run there, which takes time and room."


def _root(plans: Plans, which: str) -> str:
    plan = plans[which]
    return "" if isinstance(plan, RuntimeUnavailable) else plan.root


def _layer(plans: Plans) -> str:
    plan = plans["writable"]
    return "" if isinstance(plan, RuntimeUnavailable) else plan.layer


def _subids(seen: Surroundings) -> Finding:
    if seen.host.root:
        return Finding("ids of --fakeroot", OK, "root has all of them")
    lacks = []
    if seen.subuids is None or seen.subgids is None:
        missing = [name for name, ids in (("subuid", seen.subuids), ("subgid", seen.subgids)) if ids is None]
        lacks.append(f"no line in /etc/{' and /etc/'.join(missing)}")
    for name, program in (("newuidmap", seen.newuidmap), ("newgidmap", seen.newgidmap)):
        if not program.path:
            lacks.append(f"no {name}")
        elif not program.privileged:
            lacks.append(f"{name} is not set-user-id root")
    if not lacks and seen.no_new_privs:
        lacks.append("newuidmap counts for nothing under no_new_privs")
    if not lacks and seen.subuids and seen.subgids:
        return Finding("ids of --fakeroot", OK, f"{seen.subuids.length} users, {seen.subgids.length} groups")
    user = seen.user or str(seen.uid)
    return Finding(
        "ids of --fakeroot", GAP, "; ".join(lacks),
        "--fakeroot has root as its only user: what changes owners fails, as many package managers do.",
        f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} (another range for each user), and "
        "the package uidmap (Debian) or shadow-utils (RHEL).",
    )  # fmt: skip


def _cgroups(seen: Surroundings) -> Finding:
    groups = seen.cgroups
    wanted = ("cpu", "memory", "pids")
    have = [name for name in wanted if name in groups.delegated]
    if len(have) == len(wanted) and not groups.by_systemd:
        return Finding("cgroups", OK, f"{groups.kind}, delegated: {' '.join(groups.delegated)}")
    said = groups.kind or "none mounted"
    if groups.by_systemd:
        said += f", delegated by systemd: {' '.join(groups.delegated)}"
    elif groups.kind in ("v2", "hybrid"):
        said += f", delegated: {' '.join(groups.delegated)}" if groups.delegated else ", not delegated"
    remedy = "systemd.unified_cgroup_hierarchy=1 on the kernel's command line (RHEL 8)."
    if groups.by_systemd:
        remedy = "Start hpcc by `systemd-run --user --scope hpcc …`."
    elif groups.kind == "v2":
        remedy = "Delegate=cpu memory pids for user@.service, or the batch system's own delegation."
    return Finding(
        "cgroups", GAP, said,
        "A container can have no limits of its own; those of the job hold as ever. `instance stats` reads /proc.",
        remedy,
    )  # fmt: skip


def _gpus(devices: Mapping[str, Any]) -> Finding:
    nodes, way = devices["nodes"], devices["nv"]
    if devices["unreadable"]:
        return Finding(
            "GPUs", GAP, f"{len(nodes)} nodes; {devices['unreadable'][0]}",
            "--device does not know what this CDI specification has, and --nv goes by what else there is.",
            "nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json, or PyYAML beside hpcc.",
        )  # fmt: skip
    if any("nvidia" in node for node in nodes) and not way:
        return Finding(
            "GPUs", GAP, f"{', '.join(nodes)}, but no driver's libraries",
            "--nv brings the nodes alone: CUDA does not start.",
            "NVIDIA's driver with its libraries, known to ldconfig; or a CDI specification by nvidia-ctk cdi generate.",
        )  # fmt: skip
    if not nodes:
        return Finding("GPUs", INFO, f"none{'; --nv goes by ' + way if way else ''}")
    return Finding("GPUs", OK, f"{', '.join(nodes)}{'; --nv goes by ' + way if way else ''}")


def _apparmor(seen: Surroundings) -> Finding:
    if not seen.apparmor:
        return Finding("AppArmor", INFO, "not there")
    said = f"profile {seen.apparmor}"
    if seen.knobs.apparmor_restricts:
        said += ", restricts user namespaces"
    if seen.knobs.apparmor_restricts and not seen.host.mounts:
        return Finding(
            "AppArmor", FAILS, said, "Users have no namespaces in which they can mount, and so no containers.",
            "hpcc doctor --apparmor-profile > /etc/apparmor.d/hpcc && apparmor_parser -r /etc/apparmor.d/hpcc; or for "
            "all programs: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0.",
        )  # fmt: skip
    return Finding("AppArmor", OK, said)


def _selinux(seen: Surroundings) -> str:
    if not seen.selinux:
        return "not there"
    return f"{'enforcing' if seen.knobs.selinux else 'permissive'}, {seen.selinux}"


def _limits(seen: Surroundings) -> Iterator[Finding]:
    most = seen.knobs.max_user_namespaces
    if most is not None:
        few = 0 < most < _FEW_NAMESPACES and not seen.host.root
        yield Finding(
            "namespaces", GAP if few else INFO, f"{most} for each user",
            f"A user's {most // 2 + 1}th run at a time fails." if few else "",
            "sysctl -w user.max_user_namespaces=15000" if few else "",
        )  # fmt: skip
    files, processes = seen.limits["NOFILE"], seen.limits["NPROC"]
    few = 0 <= files < _FEW_FILES or 0 <= processes < _FEW_PROCESSES
    shown = [f"{_number(seen.limits[name])} {what}" for name, what in (("NOFILE", "files"), ("NPROC", "processes"))]
    shown += [f"{name} {seen.limits[name]}" for name in ("FSIZE", "AS") if seen.limits[name] >= 0]
    yield Finding(
        "limits (ulimit)", GAP if few else INFO, ", ".join(shown),
        "Runs and pulls may fail for want of open files or processes, several at a time above all." if few else "",
        "/etc/security/limits.conf, or the batch system's limits." if few else "",
    )  # fmt: skip


def _number(value: int) -> str:
    return str(value) if value >= 0 else "any number of"


def _node_directory(seen: Surroundings, plans: Plans) -> Finding:
    node = seen.node
    if seen.node_problem:
        return Finding("node directory", FAILS, seen.node_problem, "No container runs without it.", _NODE_REMEDY)
    said = f"{node.path}: {node.filesystem or 'unknown'}, {_room(node)}"
    unpacks = "unpacked" in (_root(plans, "read-only"), _root(plans, "writable"))
    cost = ""
    if not node.local:
        cost = "Held mounts and unpacked images of all nodes get into each other's way, and are slow."
    elif node.filesystem in ("tmpfs", "ramfs") and unpacks:
        cost = "It is memory, and images have to be unpacked: that is refused, unless HPCC_NODE_DIR names it."
    elif unpacks and node.free < _LITTLE_ROOM:
        cost = "Large images, which have to be unpacked here, do not fit."
    return Finding("node directory", GAP if cost else OK, said, cost, _NODE_REMEDY if cost else "")


def _cache(cache: Place) -> Finding:
    said = f"{cache.path}: {cache.filesystem or 'unknown'}, {_room(cache)}"
    if cache.free >= _LITTLE_ROOM:
        return Finding("cache", OK if cache.local else INFO, said)
    return Finding(
        "cache", GAP, said, "Pulls of large images fail for want of room.",
        "HPCC_CACHE_DIR: a roomier place, best one for a group; `hpcc cache gc` makes room.",
    )  # fmt: skip


def _room(place: Place) -> str:
    return f"{place.free / 1e9:.1f} GB free"


def _database(seen: Surroundings) -> Finding:
    name = seen.user or f"uid {seen.uid} is not in it"
    said = f"{name}; answers in {seen.answered_in * 1000:.0f} ms"
    if slow_database(seen.answered_in):
        return Finding(
            "user database", GAP, f"{name}; no answer in time",
            "Once in a minute a run waits 3 seconds, and groups have no names in containers.",
            "Mend the directory's service on this node (SSSD, nslcd, nscd), or have it cache.",
        )  # fmt: skip
    if not seen.user:
        return Finding(
            "user database", GAP, said, "In containers the user is $USER, with the home $HOME; Apptainer refuses him.",
            "getent passwd $(id -u) should answer: SSSD on this node, or a line in /etc/passwd.",
        )  # fmt: skip
    return Finding("user database", OK, said)
