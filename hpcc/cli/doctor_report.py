"""How hpcc doctor says it: a table of 80 columns, and one file for a ticket."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

from hpcc.cli.config import shown
from hpcc.runtime.findings import FAILS, GAP, INFO, OK, Finding
from hpcc.runtime.surroundings import Surroundings
from hpcc.settings import KEYS, Settings
from hpcc.version import __version__

WIDTH = 80
MARKS = {OK: "ok", INFO: "", GAP: "--", FAILS: "!!"}
_STEERING = ("HPCC", "APPTAINER", "SINGULARITY", "SLURM_JOB_ID", "XDG_", "KRB5CCNAME")


def table(found: Sequence[Finding], plans: Mapping[str, str], devices: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Lines of at most 80 columns, but for words that are longer."""
    for finding in found:
        yield from columns(f"{MARKS[finding.state]:<4}{finding.what:<19}", finding.said)
    yield ""
    for what, text in plans.items():
        yield from columns(f"{what + ' root:':<16}", text)
    for what, text in devices:
        yield from columns(f"{what:<16}", text)
    states = {finding.state for finding in found}
    if FAILS in states:
        yield "\n!!: containers cannot run until this is mended.  --: they run, but"
    elif GAP in states:
        yield "\n--: containers run, but"
    yield from gaps(found)


def gaps(found: Sequence[Finding]) -> Iterator[str]:
    """What is missing, the worst first, with what it costs and what helps; or that nothing is."""
    wrong = [finding for finding in found if finding.state in (FAILS, GAP)]
    if not wrong:
        yield "\nNothing is missing."
    for finding in sorted(wrong, key=lambda finding: finding.state != FAILS):
        yield ""
        yield from columns(f"{MARKS[finding.state]}  ", f"{finding.what}: {finding.said}")
        yield from columns("    costs:  ", finding.cost)
        yield from columns("    helps:  ", finding.remedy)


def columns(left: str, text: str) -> list[str]:
    """`text` behind `left`, wrapped below itself."""
    room = WIDTH - len(left)
    first, *rest = wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    return [(left + first).rstrip(), *(" " * len(left) + line for line in rest)]


def report(
    seen: Surroundings,
    found: Sequence[Finding],
    plans: Mapping[str, str],
    devices: Iterable[tuple[str, str]],
    settings: Settings,
) -> str:
    """All that a ticket needs. No secrets: of variables the names alone, of addresses no logins."""
    knobs = [f"{name} = {value}" for name, value in seen.knobs._asdict().items()]
    facts = [f"{name} = {value}" for name, value in seen.host._asdict().items()]
    values = [f"{name} = {shown(name, settings)}\n    from: {settings.origins[name]}" for name in KEYS]
    names = sorted(name for name in settings.environ if name.startswith(_STEERING))
    parts = {
        f"hpcc {__version__}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}": [
            f"host: {os.uname().nodename}, Linux {seen.kernel}, {seen.distribution}, {os.uname().machine}",
            f"python: {seen.python}",
            f"uid: {seen.uid}",
            f"inside: {seen.knobs.container or 'no container that can be told'}",
        ],
        "findings": table(found, plans, devices),
        "what was tried": facts,
        "what the kernel says": knobs,
        "limits": [f"{name} = {value}" for name, value in seen.limits.items()],
        "programs": [
            f"{name}: {program.path or 'none'} {program.version}".rstrip()
            for name, program in (
                ("squashfuse", seen.squashfuse), ("fuse-overlayfs", seen.fuse_overlayfs), ("fuse2fs", seen.fuse2fs),
                ("newuidmap", seen.newuidmap), ("newgidmap", seen.newgidmap),
            )
        ],
        "settings": values,
        "variables that are set": names,
    }  # fmt: skip
    text = "\n\n".join("\n".join((f"== {title}", *lines)) for title, lines in parts.items()) + "\n"
    return without_logins(text)


def without_logins(text: str) -> str:
    """USER:PASSWORD@ taken out of addresses. Pure."""
    return re.sub(r"(://|[=,\s\"'])[^\s/@,\"'=]+:[^\s/@]+@", r"\1***@", text)


def apparmor_profile(interpreter: str) -> str:
    """For /etc/apparmor.d: what the interpreter that runs hpcc is, it may make user namespaces."""
    path = os.path.realpath(interpreter)
    note = ""
    if path.startswith(("/usr/", "/bin/")):
        note = (
            "# This interpreter is the system's: with it every Python program may make user namespaces. To let hpcc\n"
            "# alone do it, install it by `python3 -m venv --copies /opt/hpcc` and print the profile from there.\n"
        )
    return (
        f"# hpcc {__version__}: user namespaces for its runtime; AppArmor forbids them to programs without a profile.\n"
        f"# sudo tee /etc/apparmor.d/hpcc, then sudo apparmor_parser -r /etc/apparmor.d/hpcc\n{note}"
        "abi <abi/4.0>,\ninclude <tunables/global>\n\n"
        f'profile hpcc "{path}" flags=(unconfined) {{\n  userns,\n\n  include if exists <local/hpcc>\n}}\n'
    )
