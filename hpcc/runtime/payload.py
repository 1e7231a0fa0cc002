"""Become the payload: which file that is, by the container's PATH, and what to say where it cannot be.

Used after Pivot, when the host's files are gone: nothing may be imported any more.
"""

from __future__ import annotations

import errno
import os

from hpcc.errors import CommandNotFound, HpccError

_MACHINES = {3: "i686", 21: "ppc64le", 22: "s390x", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""ELF's e_machine -> what uname says."""


def restore_signals() -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and exec would hand that on: `… | head` must end the payload."""
    import _signal  # type: ignore[import-not-found]  # `signal` would build an enum, 2 ms

    for name in ("SIGPIPE", "SIGXFSZ"):
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)


def some_shell(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The argv of bash, without its startup files, where the container has it, else of sh."""
    if os.access("/bin/bash", os.X_OK):
        return ("/bin/bash", "--norc", *arguments)
    return ("/bin/sh", *arguments)


def require_app(name: str, runs: str) -> None:
    """CommandNotFound unless the container has this SCIF app, and the file `runs`, where that is not empty."""
    hint = "`hpcc inspect --list-apps IMAGE` shows those of an image."
    if not os.path.isdir(f"/scif/apps/{name}"):
        raise CommandNotFound(f"could not locate the container application: {name}", hint=hint)
    if runs and not os.path.lexists(runs):
        raise CommandNotFound(f"no {os.path.basename(runs)} for contained app: {name}", hint=hint)


def become(argv: tuple[str, ...], environment: dict[str, str]) -> None:
    """execvpe in the container, by the container's PATH; CommandNotFound says why it is not possible."""
    name = argv[0]
    directories = [""] if "/" in name else environment.get("PATH", "").split(":")
    denied: OSError | None = None
    for directory in directories:
        path = f"{directory or '.'}/{name}" if "/" not in name else name
        try:
            os.execve(path, argv, environment)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                _refuse_foreign(path)
                _become_script(path, argv, environment)  # it has no #!; execvp hands it to the shell as well
            if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.lexists(path):
                continue
            denied = denied or error
    if denied is None:
        raise CommandNotFound(  # in Apptainer's words, by which cwltool knows that namespaces work
            f'"{name}": executable file not found in the image'
            + ("" if "/" in name else f", whose PATH is {environment.get('PATH', '')}"),
            hint="`hpcc exec IMAGE ls /bin` shows what is there; `hpcc inspect` what the image is meant to run.",
        )
    why = "its interpreter or loader is missing" if denied.errno == errno.ENOENT else denied.strerror
    raise CommandNotFound(f'"{name}": cannot be executed in the image: {why}', hint="Is it for another architecture?")


def _refuse_foreign(path: str) -> None:
    """CommandNotFound where the file is a program of another machine (or of none): ELF, e_machine at byte 18."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return
    if head.startswith(b"\x7fELF"):
        number = int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little")
        made, here = _MACHINES.get(number, f"machine {number}"), os.uname().machine
        why = f"is damaged, a program for {made}" if made == here else f"is a program for {made}; this host is {here}"
        raise CommandNotFound(
            f"{path} {why}",
            hint="Without --arch hpcc takes the image for this host, where the registry has one.",
        )


def _become_script(path: str, argv: tuple[str, ...], environment: dict[str, str]) -> None:
    try:
        os.execve("/bin/sh", ("/bin/sh", path, *argv[1:]), environment)
    except OSError as error:
        raise HpccError(f"{path} is a script, but /bin/sh cannot run it: {error.strerror}") from None
