"""A kernel of our own, User-Mode Linux, for what this machine's own does not have: cgroups of version 2, and systemd.

It is one program, which sees this machine's files, read-only, and takes some seconds. Inside:

    /run            empty, and gone afterwards; HOME of each person is below it
    /mnt            `results` outside; there a script leaves what it finds
    /sys/fs/cgroup  version 2 alone, with cpu, io, memory and pids
"""

import os
import signal
import subprocess
from pathlib import Path

from tests.support.real import need

SYSTEMD = "/lib/systemd/systemd"
_INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t hostfs none /mnt -o {results}
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec </dev/null >/mnt/log 2>&1
{start}
"""
_ALONE = """sh {script}
echo o > /proc/sysrq-trigger
sleep 60
"""
_BY_SYSTEMD = """umount /sys/fs/cgroup
mkdir -p /run/systemd/system
cp {units}/* /run/systemd/system/
exec {systemd} --unit=test.service
"""
_UNITS = {
    "test.service": """[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
StandardOutput=append:/mnt/log
StandardError=append:/mnt/log
ExecStart=sh {script}
ExecStopPost=systemctl poweroff --force --force
""",
    # what matters of systemd's own, which also wants D-Bus and logind
    "user@.service": """[Unit]
DefaultDependencies=no
[Service]
User=%i
Type=notify
Slice=user-%i.slice
Delegate=pids memory cpu
Environment=XDG_RUNTIME_DIR=/run/user/%i
ExecStart={systemd} --user --unit=basic.target
""",
}


def run_in_uml(script: str, results: Path, *, systemd: bool = False, timeout: float = 300) -> str:
    """Run a shell script as root in a kernel of its own, as process 1's child, or as a service of systemd; its output.

    AssertionError, with what the kernel said, where it does not come to its end.
    """
    program = need("linux.uml")
    results.mkdir(exist_ok=True)
    path, init = results / "script", results / "init"
    path.write_text(f"{script}\n: > /mnt/ended\n")
    start = _ALONE.format(script=path)
    if systemd:
        units = results / "units"
        units.mkdir()
        for name, text in _UNITS.items():
            (units / name).write_text(text.format(script=path, systemd=need(SYSTEMD)))
        start = _BY_SYSTEMD.format(units=units, systemd=SYSTEMD)
    init.write_text(_INIT.format(results=results, start=start))
    init.chmod(0o755)
    argv = [program, "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", f"init={init}",
            f"uml_dir={results}", "con=null", "con0=null,fd:1", "quiet"]  # fmt: skip
    with open(results / "console", "wb") as console:
        kernel = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            env={"HOME": str(results), "PATH": os.environ["PATH"], "TMPDIR": str(results)},
        )  # fmt: skip
        try:
            kernel.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(kernel.pid, signal.SIGKILL)  # of a kernel each process is one of ours
            except ProcessLookupError:
                pass
            kernel.wait()
    log = (results / "log").read_text(errors="replace") if (results / "log").exists() else ""
    said = (results / "console").read_text(errors="replace")
    assert (results / "ended").exists(), f"{said[-3000:]}\n{log}"
    return log
