"""--security: who the payload is and what it may ask of the kernel, in Apptainer's words. Pure.

seccomp:FILE    an OCI seccomp profile     selinux:LABEL, apparmor:PROFILE    of a kernel that has them
uid:N           gid:N[:N…]                 real root's become these; a user's have these numbers in the container
"""

from __future__ import annotations

from hpcc.errors import UsageError
from hpcc.records import NamedTuple

FEATURES = ("seccomp", "selinux", "apparmor", "uid", "gid")
_LARGEST = (1 << 32) - 2  # -1 is nobody


class Security(NamedTuple):
    """The words, parsed. `user`: the name of `uid`, for /etc/passwd. `program`: what the profile `seccomp` says."""

    seccomp: str = ""
    program: bytes = b""
    selinux: str = ""
    apparmor: str = ""
    uid: int | None = None
    gids: tuple[int, ...] = ()
    user: str = ""


def parse_security(items: list[str]) -> Security:
    """Several by commas; what follows a comma and names no feature belongs to the one before, as in SELinux's labels.

    UsageError for words that do not parse, or exclude each other.
    """
    words: dict[str, str] = {}
    for item in items:
        last = ""
        for part in item.split(","):
            feature, colon, value = part.partition(":")
            if colon and feature in FEATURES:
                if feature in words:
                    raise UsageError(f"--security {feature} is given twice")
                last, words[feature] = feature, value
            elif last:
                words[last] += f",{part}"
            else:
                raise UsageError(
                    f"--security {item!r} begins with no feature",
                    hint=f"One of {', '.join(FEATURES)}, a colon, a value.",
                )
    for feature, value in words.items():
        if not value:
            raise UsageError(f"--security {feature}: it needs a value", hint=f"--security {feature}:VALUE")
    if "selinux" in words and "apparmor" in words:
        raise UsageError("--security selinux and --security apparmor exclude each other")
    uid = _number(words["uid"], "uid") if "uid" in words else None
    gids = tuple(_number(word, "gid") for word in words.get("gid", "").split(":") if word)
    return Security(
        words.get("seccomp", ""),
        selinux=words.get("selinux", ""),
        apparmor=words.get("apparmor", ""),
        uid=uid,
        gids=gids,
    )


def _number(text: str, feature: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= _LARGEST):
        raise UsageError(f"--security {feature}:{text}: it must be a number, at most {_LARGEST}")
    return int(text)


def identity(security: Security, uid: int, gid: int) -> tuple[int, tuple[int, ...]] | None:
    """(uid, gids) that the payload is to have, of a caller `uid`, `gid`; None: no other than it has anyway."""
    if security.uid is None and not security.gids:
        return None
    return (uid if security.uid is None else security.uid, security.gids or (gid,))
