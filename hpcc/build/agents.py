"""Bases that no image has: scratch, busybox, and what a distribution's own tool of the host makes.

The tool runs in the process of inside.py, where it is root and others have ids, as it would under sudo.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence

from hpcc.build.inside import Inside
from hpcc.build.root import Root
from hpcc.errors import HpccError, RuntimeUnavailable, UsageError
from hpcc.progress import Progress
from hpcc.records import NamedTuple
from hpcc.runtime.host import find_program
from hpcc.settings import Settings


class Tool(NamedTuple):
    """Programs of the host, of which the first that is there serves, and the packages that have them."""

    programs: tuple[str, ...]
    packages: str


TOOLS = {
    "debootstrap": Tool(("debootstrap",), "debootstrap (Debian, Ubuntu, Fedora, EPEL)"),
    "yum": Tool(("dnf", "yum"), "dnf or yum (Fedora and its like; dnf in Debian)"),
    "dnf": Tool(("dnf", "yum"), "dnf or yum (Fedora and its like; dnf in Debian)"),
    "zypper": Tool(("zypper",), "zypper (openSUSE; zypper in Debian)"),
    "arch": Tool(("pacstrap",), "arch-install-scripts"),
}
AGENTS = frozenset(("scratch", "busybox", *TOOLS))
_ADMIN = ("/usr/sbin", "/sbin")


def bootstrap(
    agent: str,
    header: Mapping[str, str],
    root: str,
    inside: Inside,
    settings: Settings,
    work: str,
    progress: Progress,
) -> None:
    """Make the directory `root` with the base. RuntimeUnavailable where the host has not the tool; HpccError."""
    inside.call(os.mkdir, root, 0o755)
    if agent == "scratch":
        return
    if agent == "busybox":
        _busybox(header, root, inside, settings, progress)
        return
    tool = TOOLS[agent]
    program = next((found for name in tool.programs if (found := find_program(name, settings, _ADMIN))), "")
    if not program:
        raise RuntimeUnavailable(
            f"Bootstrap: {agent} needs {' or '.join(tool.programs)}, which this host does not have",
            hint=f"Its package is {tool.packages}. Bootstrap: docker needs no tool of the host.",
        )
    if agent == "debootstrap" and inside.owners != "all":
        raise RuntimeUnavailable(
            "Bootstrap: debootstrap makes device files, which only real root may",
            hint="Bootstrap: docker with From: debian:12 is the same without root.",
        )
    config = f"{work}/bootstrap.conf"
    text, argv = command(agent, program, header, root, config)
    if text:
        with open(config, "w", encoding="utf-8") as file:
            file.write(text)
    progress.info(f"Running {os.path.basename(program)}")
    inside.call(_run, argv)


def command(agent: str, program: str, header: Mapping[str, str], root: str, config: str) -> tuple[str, tuple[str, ...]]:
    """(text of a configuration file, the argv). Pure. UsageError for a header that lacks something."""
    version, mirror = header.get("osversion", ""), header.get("mirrorurl", "")
    more = tuple(header.get("include", "").replace(",", " ").split())
    mirror = mirror.replace("%{OSVERSION}", version)
    if agent == "arch":
        return "", (program, "-c", "-d", "-G", "-M", root, "base", *more)
    if not mirror and agent != "zypper":
        raise UsageError(f"Bootstrap: {agent} needs a line MirrorURL:", hint="MirrorURL: http://…")
    if agent == "debootstrap":
        if not version:
            raise UsageError("Bootstrap: debootstrap needs a line OSVersion:", hint="OSVersion: bookworm")
        include = (f"--include={','.join(more)}",) if more else ()
        return "", (program, "--variant=minbase", *include, version, root, mirror)
    if agent == "zypper":
        if not mirror:
            raise UsageError("Bootstrap: zypper needs a line MirrorURL:", hint="MirrorURL: http://…")
        names = more or ("zypper",)
        return "", (
            program, "--non-interactive", "--root", root, "--gpg-auto-import-keys",
            "--plus-repo", mirror, "install", "--auto-agree-with-licenses", "--no-recommends", *names,
        )  # fmt: skip
    lines = ["[main]", "gpgcheck=0", f"cachedir={root}/var/cache/yum", "reposdir=/nonexistent", "keepcache=0"]
    for number, url in enumerate(url for url in (mirror, header.get("updateurl", "")) if url):
        url = url.replace("%{OSVERSION}", version)
        lines += [f"[hpcc{number}]", f"name=hpcc{number}", f"baseurl={url}", "enabled=1", "gpgcheck=0"]
    release = (f"--releasever={version}",) if version else ()
    return "\n".join([*lines, ""]), (
        program, "--assumeyes", f"--config={config}", f"--installroot={root}", "--setopt=tsflags=nodocs", *release,
        "install", *(more or ("filesystem", "coreutils", "bash")),
    )  # fmt: skip


def _busybox(header: Mapping[str, str], root: str, inside: Inside, settings: Settings, progress: Progress) -> None:
    """The static busybox of the host, or the one that MirrorURL names as a file or file://."""
    mirror = header.get("mirrorurl", "")
    if mirror.startswith(("http://", "https://")):
        raise UsageError(
            "Bootstrap: busybox takes the host's own, or a file: hpcc downloads no program by its bare URL",
            hint="Leave MirrorURL out, or name a file. Bootstrap: docker with From: busybox is another way.",
        )
    program = mirror.removeprefix("file://") or find_program("busybox", settings, _ADMIN)
    if not program or not os.path.isfile(program):
        raise RuntimeUnavailable(
            "Bootstrap: busybox needs busybox, which this host does not have",
            hint="Its package is busybox-static. Bootstrap: docker with From: busybox needs no tool of the host.",
        )
    progress.info(f"Taking {program}")
    inside.call(_install_busybox, program, root)


def _install_busybox(program: str, path: str) -> None:
    root = Root(path)
    with open(program, "rb") as file:
        root.write("/bin/busybox", file.read(), 0o755)
    done = subprocess.run([program, "--list"], capture_output=True, text=True, errors="replace", check=False)
    listed = done.stdout.split()
    if done.returncode or "sh" not in listed:
        raise UsageError(f"{program} is no busybox: {program} --list names no programs", hint="Leave MirrorURL out.")
    for name in listed:
        root.link(f"/bin/{name}", "busybox")
    for name in ("usr", "sbin"):
        with root.directory(f"/{name}"):
            pass
    root.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    root.write("/etc/group", b"root:x:0:\n")


def _run(argv: Sequence[str]) -> None:
    environ = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, stdout=2, check=False)
    if done.returncode:
        name = os.path.basename(argv[0])
        raise HpccError(f"{name} ended with {done.returncode}", hint=f"Above are the words of {name}.")
