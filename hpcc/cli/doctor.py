"""hpcc doctor: can this host run containers, and how; what is missing, what that costs, and what helps."""

import json
import os
import sys
import tempfile
from typing import Any

from hpcc.cli.arguments import Command, Option, parse
from hpcc.errors import CacheError, HpccError, RuntimeUnavailable, place_hint
from hpcc.runtime.enter import node_directory
from hpcc.runtime.gpu import survey
from hpcc.runtime.host import Host, find_programs, probe
from hpcc.runtime.rootfs import Rootfs, Rung, choose_rung
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "doctor [--json] [--report FILE] [--cache [--with COMMAND]]",
    "Try what hpcc needs on this host, and say what it will use, what a gap costs, and what an administrator does "
    "about it. Exit status 1 when containers cannot run, or when the cache cannot be where it is.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("--report",), "write all of it into one file for a ticket, settings too; - is stdout", "FILE"),
        Option(("--apparmor-profile",), "print the profile that lets hpcc work where AppArmor forbids namespaces"),
        Option(("--cache",), "try the filesystem of the cache instead: rename, link, fsync, locks"),
        Option(("--with",), "with --cache: from another node too; a command that runs one there", "COMMAND"),
        Option(("--answer",), "with --cache: be the other node, for the cache DIR (--with runs this)", "DIR"),
        Option(("--slurm",), "what the configuration of Slurm means for containers instead"),
        Option(("--on",), "with --slurm: and what a job finds there, by one of one task", "PARTITION"),
        Option(("--mpi",), "MPI and fabrics of this host instead, and what --mpi PROFILE would bring"),
    ),
    "hpcc doctor\nhpcc doctor --report ticket.txt\nhpcc doctor --cache --with 'ssh n2'",
)


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
    if arguments.apparmor_profile:
        from hpcc.cli.doctor_report import apparmor_profile

        print(apparmor_profile(sys.executable), end="")
        return 0
    from hpcc.cli import doctor_report
    from hpcc.runtime.findings import findings
    from hpcc.runtime.surroundings import look_around

    settings = Settings.from_environ()
    with tempfile.TemporaryDirectory(prefix="hpcc-doctor-") as other:
        problem, place = "", other
        try:
            place = node_directory(settings, "stage")
        except CacheError as error:
            problem = error.message
        host = probe(*find_programs(settings), place)
        seen = look_around(settings, host, place, problem)
    image = Rootfs("squashfs", "an image", owners=None, trusted=host.root)
    plans = {
        what: _rung(host, image, settings, writable) for what, writable in (("read-only", False), ("writable", True))
    }
    usable = not isinstance(plans["read-only"], HpccError) and not problem
    devices = survey(settings)
    found = findings(seen, plans, devices)
    described = {k: _describe(v) for k, v in plans.items()}
    if arguments.report is not None:
        _write(arguments.report, doctor_report.report(seen, found, described, _device_lines(devices), settings))
    elif arguments.json:
        rows = [finding._asdict() for finding in found]
        print(
            json.dumps(
                {"usable": usable, "facts": host._asdict(), "plans": described, "devices": devices, "findings": rows},
                indent=1,
            )
        )
    else:
        for line in doctor_report.table(found, described, _device_lines(devices)):
            print(line)
        if host.root:
            print("\nThis is what root can do. `hpcc doctor` as a user tells what users can.")
    return 0 if usable else 1


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text, end="")
        return
    try:
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
    except OSError as error:
        raise CacheError(f"--report {path}: {error.strerror}", hint=place_hint(error)) from None
    print(f"{path} has what a ticket needs; look through it before you send it.")


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
    """CDI devices, and files that do not tell."""
    lines = [("CDI devices:", f"{kind}={', '.join(names)}") for kind, names in devices["cdi"].items()]
    return lines + [("unreadable:", text) for text in devices["unreadable"]]
