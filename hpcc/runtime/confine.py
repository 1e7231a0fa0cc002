"""What SELinux or AppArmor is to make of the next program that this process executes: /proc/self/attr, proc(5)."""

import os

from hpcc.errors import RuntimeUnavailable, UsageError

_AT = "/proc/thread-self/attr"


def confine_exec(selinux: str, apparmor: str) -> None:
    """Set it for the calling thread. RuntimeUnavailable where the kernel has no such module, UsageError for a label or
    profile that it does not take."""
    feature, name = ("selinux", selinux) if selinux else ("apparmor", apparmor)
    if selinux:
        path, text = f"{_AT}/exec", selinux
        there = os.path.exists("/sys/fs/selinux/enforce")
    else:
        path, text = f"{_AT}/apparmor/exec", f"exec {apparmor}"
        path = path if os.path.exists(path) else f"{_AT}/exec"  # before Linux 5.8
        there = _first("/sys/module/apparmor/parameters/enabled") == b"Y"
    if not there:
        raise RuntimeUnavailable(
            f"--security {feature}: this host's kernel does not have it, or not enabled", hint="Leave it out here."
        )
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(
            f"--security {feature}:{name}: {error.strerror}", hint="Is there such a one, and may you change to it?"
        ) from None


def _first(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # no codec is imported, as it could not be in an instance
            return file.read(1)
    except OSError:
        return b""
