"""hpcc doctor: can this host run containers, and how."""

import json
import os
from typing import Any

from hpcc.cli.arguments import Command, Option, parse
from hpcc.errors import HpccError, RuntimeUnavailable
from hpcc.runtime.enter import node_directory
from hpcc.runtime.gpu import survey
from hpcc.runtime.host import Host, find_programs, probe
from hpcc.runtime.rootfs import Rootfs, Rung, choose_rung
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "doctor [--json] [--cache [--with COMMAND]]",
    "Try what hpcc needs on this host, and say what it will use. Exit status 1 when containers cannot run, or when the "
    "cache cannot be where it is.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("--cache",), "try the filesystem of the cache instead: rename, link, fsync, locks"),
        Option(("--with",), "with --cache: from another node too; a command that runs one there", "COMMAND"),
        Option(("--answer",), "with --cache: be the other node, for the cache DIR (--with runs this)", "DIR"),
        Option(("--slurm",), "what the configuration of Slurm means for containers instead"),
        Option(("--on",), "with --slurm: and what a job finds there, by one of one task", "PARTITION"),
        Option(("--mpi",), "MPI and fabrics of this host instead, and what --mpi PROFILE would bring"),
    ),
    "hpcc doctor\nhpcc doctor --cache --with 'ssh n2'",
)

_FACTS = {
    "root": "running as root",
    "user_namespaces": "user namespaces",
    "mounts": "mounts in a namespace of our own",
    "fuse": "FUSE (/dev/fuse) there",
    "squashfuse": "squashfuse_ll",
    "squash": "squashfuse can give files to the caller (0.5 or newer)",
    "overlay": "the kernel's overlay on tmpfs there",
    "fuse_overlayfs": "fuse-overlayfs",
    "loop": "the kernel's squashfs through loop devices",
}


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.slurm or arguments.mpi or arguments.on:
        from hpcc.cli.checks import run_check

        check = "mpi" if arguments.mpi and not (arguments.slurm or arguments.on) else "slurm"
        return run_check(check, arguments.on or "", as_json=arguments.json)
    if arguments.cache or arguments.answer or arguments.options["with"]:
        load_site_packages()
        from hpcc.cli.doctor_cache import report

        return report(arguments)
    settings = Settings.from_environ()
    node_directory(settings, "stage")
    host = probe(*find_programs(settings), settings.node_dir)
    image = Rootfs("squashfs", "an image", owners=None, trusted=host.root)
    plans = {
        what: _rung(host, image, settings, writable) for what, writable in (("read-only", False), ("writable", True))
    }
    usable = not isinstance(plans["read-only"], HpccError)
    devices = survey(settings)
    if arguments.json:
        described = {k: _describe(v) for k, v in plans.items()}
        print(json.dumps({"facts": host._asdict(), "plans": described, "devices": devices}, indent=1))
        return 0 if usable else 1
    for field, text in _FACTS.items():
        value = getattr(host, field)
        print(f"  {'yes' if value else 'no':<4}{text}{f' ({value})' if isinstance(value, str) and value else ''}")
    print()
    for what, rung in plans.items():
        print(f"{what + ' root:':<16}{_describe(rung)}")
    print(f"{'cache:':<16}{settings.cache_dir}, {_room(settings.cache_dir)}")
    print(f"{'node directory:':<16}{settings.node_dir}, {_room(settings.node_dir)}")
    for what, text in _device_lines(devices):
        print(f"{what:<16}{text}")
    for hint in _hints(host, plans):
        print(f"\n{hint}")
    return 0 if usable else 1


def _rung(host: Host, image: Rootfs, settings: Settings, writable: bool) -> Rung | RuntimeUnavailable:
    try:
        return choose_rung(host, image, writable=writable, rootfs=settings.rootfs, layer=settings.writable)
    except RuntimeUnavailable as error:
        return error


def _describe(rung: Rung | RuntimeUnavailable) -> str:
    if isinstance(rung, RuntimeUnavailable):
        return f"not possible: {rung.message}"
    owner = ", files appear as the caller's" if rung.squash and rung.root in ("fuse", "squashfuse") else ""
    return rung.root + (f" with {rung.layer}" if rung.layer else "") + owner


def _device_lines(devices: dict[str, Any]) -> list[tuple[str, str]]:
    nodes = f"{', '.join(devices['nodes'])}; --nv goes by {devices['nv'] or 'nothing'}" if devices["nodes"] else "none"
    lines = [("GPU nodes:", nodes)]
    lines += [("CDI devices:", f"{kind}={', '.join(names)}") for kind, names in devices["cdi"].items()]
    return lines + [("unreadable:", text) for text in devices["unreadable"]]


def _hints(host: Host, plans: dict[str, Rung | RuntimeUnavailable]) -> list[str]:
    hints = [f"{error.message}\n  {error.hint}" for error in plans.values() if isinstance(error, RuntimeUnavailable)][
        :1
    ]
    if host.mounts and not host.fuse:
        hints.append("Without /dev/fuse each image is unpacked on this node's disk before its first run.")
    elif host.mounts and not host.overlay and not host.fuse_overlayfs:
        hints.append("Install fuse-overlayfs: without it, and without the kernel's overlay, no root is writable.")
    return hints


def _room(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    room = os.statvfs(path)
    return f"{room.f_bavail * room.f_frsize / 1e9:.1f} GB free"
