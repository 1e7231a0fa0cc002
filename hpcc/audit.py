"""A line in the system's log for each container that starts, where the site says so (the setting `audit`).

    hpcc[4711]: exec uid=1000 user=alice job=123.0 image=docker.io/library/python@sha256:… command=python3

RFC 3164 over the datagram socket of syslog, as authpriv.info. Of the command only its name: arguments may hold
secrets. It is a record, no barrier: a user may run other programs, or another copy of this one.
"""

from __future__ import annotations

import os

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACE = "/dev/log"
_PRIORITY = 10 << 3 | 6  # authpriv.info, syslog(3)
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"  # not the locale's
_MOST = 400  # characters of a value
_PATIENCE = 0.2  # seconds that a run waits for a log that is full


def audit(
    verb: str, image: str, command: str, environ: Mapping[str, str], *, instance: str = "", place: str = PLACE
) -> None:
    """Write the line. `image`: its reference by digest, or its path. Never fails, nor hangs."""
    try:
        _send(audit_line(verb, os.getuid(), _user(), image, command, environ, instance), place)
    except (OSError, ValueError):
        pass


def audit_line(
    verb: str, uid: int, user: str, image: str, command: str, environ: Mapping[str, str], instance: str = ""
) -> str:
    """What happened, in words that nobody's value can forge: odd ones are in quotes, with escapes. Pure."""
    job = ".".join(filter(None, (environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", ""))))
    fields = {
        "uid": str(uid), "user": user, "job": job, "run": environ.get("HPCC_RUN_ID", ""),
        "image": image, "instance": instance, "command": command,
    }  # fmt: skip
    return " ".join([verb, *(f"{name}={_value(value)}" for name, value in fields.items() if value)])


def _value(text: str) -> str:
    """Bare where it is plain, else in quotes, with \\xNN for each byte that could end or disguise it."""
    text = text if len(text) <= _MOST else text[:_MOST] + "..."
    if text.isascii() and text.isprintable() and not set(text) & set(" \"'\\="):
        return text
    data = text.encode("utf-8", "surrogateescape")
    return (
        '"' + "".join(chr(each) if 32 <= each < 127 and each not in b'"\\' else f"\\x{each:02x}" for each in data) + '"'
    )


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _send(line: str, place: str) -> None:
    import _socket  # as `socket` is, less its enums
    import time

    stamp = time.localtime()
    month = _MONTHS[3 * stamp.tm_mon - 3 : 3 * stamp.tm_mon]
    head = f"<{_PRIORITY}>{month} {stamp.tm_mday:2d} {stamp.tm_hour:02d}:{stamp.tm_min:02d}:{stamp.tm_sec:02d}"
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_PATIENCE)
        sock.connect(place)
        sock.send(f"{head} hpcc[{os.getpid()}]: {line}".encode("ascii", "replace"))
    finally:
        sock.close()
