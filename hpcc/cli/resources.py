"""--cpus, --memory and the other limits of run, exec and shell; --apply-cgroups; --security's files."""

from __future__ import annotations

import json
import os
import stat

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.limits import Limits, Setting, parse_document, parse_limits

if TYPE_CHECKING:
    from hpcc.cli.arguments import Arguments
    from hpcc.runtime.security import Security

_KEYS = tuple(name for name in Limits._fields if name != "devices")
_LARGEST = 1 << 20  # of files that users name


def wanted_limits(arguments: Arguments) -> tuple[tuple[Setting, ...], str]:
    """(what the options limit, the options that do so). UsageError for what does not parse."""
    given = [key for key in (*_KEYS, "blkio_weight_device") if arguments.options[key]]
    names = ", ".join("--" + key.replace("_", "-") for key in given)
    path = arguments.apply_cgroups
    if path and given:
        raise UsageError(f"--apply-cgroups and {names} exclude each other", hint="Write all limits into the file.")
    if path:
        import tomllib

        data = _read(path, f"--apply-cgroups {path}")
        try:
            document = tomllib.loads(data.decode())
        except ValueError as error:
            raise UsageError(f"--apply-cgroups {path}: {error}") from None
        return parse_document(document, f"--apply-cgroups {path}"), f"--apply-cgroups {path}"
    weights = [word for item in arguments.blkio_weight_device for word in item.split(",") if word]
    limits = Limits(**{key: arguments.options[key] for key in _KEYS}, devices=tuple(map(_weight_of_device, weights)))
    return parse_limits(limits, len(os.sched_getaffinity(0))), names


def _weight_of_device(word: str) -> tuple[int, int, str]:
    """`/dev/sda:500` -> (8, 0, "500")"""
    path, colon, weight = word.rpartition(":")
    if not colon:
        raise UsageError(f"--blkio-weight-device {word}: it is not DEVICE:WEIGHT", hint="/dev/sda:500, say.")
    try:
        status = os.stat(path)
    except OSError as error:
        raise UsageError(f"--blkio-weight-device {path}: {error.strerror}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise UsageError(f"--blkio-weight-device {path}: it is no block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev), weight


def read_security(items: list[str], kept: int) -> Security:
    """What --security says, with the seccomp profile compiled. `kept`: the capabilities of the payload, a mask."""
    from hpcc.runtime.security import parse_security

    security = parse_security(items)
    if security.uid is not None:
        import pwd

        try:
            security = security._replace(user=pwd.getpwuid(security.uid).pw_name)
        except KeyError:
            security = security._replace(user=f"user{security.uid}")
    if not security.seccomp:
        return security
    from hpcc.runtime.seccomp import compile_profile

    origin = f"--security seccomp:{security.seccomp}"
    data = _read(security.seccomp, origin)
    try:
        profile = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{origin}: it is not JSON: {error}") from None
    if not isinstance(profile, dict):
        raise UsageError(f"{origin}: it is no seccomp profile")
    system = os.uname()
    kernel = tuple(int(part) for part in system.release.partition("-")[0].split(".")[:2] if part.isdecimal())
    return security._replace(program=compile_profile(profile, origin, system.machine, kept, kernel))


def _read(path: str, origin: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{origin}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise UsageError(f"{origin}: the file is too large")
    return data
