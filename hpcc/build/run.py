"""Run a section: on the host in the process of inside.py, or in a container. Its output goes through to ours."""

import os
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence

from hpcc.definition.model import Script
from hpcc.errors import HpccError
from hpcc.invoke import program

LAST = 15  # lines that an error repeats
_FILE_ENVIRONMENT = "/.singularity.d/env/91-environment.sh"
_FILE_LABELS = "/.build.labels"


class SectionFailed(HpccError):
    """A section ended with another status than 0."""


def run_on_host(name: str, script: Script, directory: str, root: str) -> None:
    """%pre or %setup, with the root's path in $APPTAINER_ROOTFS. SectionFailed."""
    path = os.path.join(directory, f"{name}.script")
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(script.text)
    environ = dict(os.environ)
    for prefix in ("HPCC", "APPTAINER", "SINGULARITY"):
        environ |= {f"{prefix}_ROOTFS": root, f"{prefix}_ENVIRONMENT": _FILE_ENVIRONMENT}
    try:
        _run(script.command(path), name, environ)
    finally:
        os.unlink(path)


def run_in_container(
    root: str,
    argv: Sequence[str],
    name: str,
    options: Sequence[str],
    *,
    quiet: bool,
    pass_fds: tuple[int, ...] = (),
    fakeroot: bool = True,
) -> None:
    """%post or %test in the directory `root`, by `hpcc exec` as root of the caller's subordinate ids. SectionFailed."""
    words = [*program(), "exec", *(("--fakeroot",) if fakeroot else ()), "--pwd", "/"]
    words += ["--no-mount", "home,cwd,bind-paths", "--no-hold", "--backend", "native", *options]
    if os.path.exists("/etc/hosts"):
        words += ["--bind", "/etc/hosts:/etc/hosts:ro"]
    dropped = ("OVERLAY", "OVERLAYIMAGE", "BIND", "BINDPATH", "HOME", "CWD", "TARGET_PWD", "WORKDIR", "CONTAIN",
               "CONTAINALL", "COMPAT", "WRITABLE_TMPFS", "APP", "APPNAME", "FAKEROOT")  # fmt: skip
    environ = {
        key: value
        for key, value in os.environ.items()
        if key.partition("_")[0] not in ("HPCC", "APPTAINER", "SINGULARITY") or key.partition("_")[2] not in dropped
    }
    _run([*words, root, *argv], name, environ, quiet=quiet, pass_fds=pass_fds)


def post_variables() -> list[str]:
    """Options that tell %post where to write what is to stay."""
    return [
        word
        for prefix in ("APPTAINER", "SINGULARITY")
        for word in ("--env", f"{prefix}_ENVIRONMENT={_FILE_ENVIRONMENT}", "--env", f"{prefix}_LABELS={_FILE_LABELS}")
    ]


def _run(
    argv: Sequence[str],
    name: str,
    environ: Mapping[str, str],
    *,
    quiet: bool = False,
    pass_fds: tuple[int, ...] = (),
) -> None:
    last: deque[bytes] = deque(maxlen=LAST)
    try:
        process = subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )  # fmt: skip
    except OSError as error:
        raise SectionFailed(f"%{name} cannot be run: {argv[0]}: {error.strerror}") from None
    try:
        _pass_through(process, last, quiet=quiet)
        status = process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        words = b"".join(last).decode("utf-8", "replace").rstrip("\n")
        shown = "".join(f"\n    {line}" for line in words.split("\n")) if words else " and said nothing"
        raise SectionFailed(f"%{name} {how}{'; its last lines:' if words else ''}{shown}")


def _pass_through(process: "subprocess.Popen[bytes]", last: deque[bytes], *, quiet: bool) -> None:
    """Until both ends are closed: not before the last process that has them has ended."""
    with selectors.DefaultSelector() as selector:
        for pipe, to in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, to)
        rest = {key.fd: b"" for key in selector.get_map().values()}
        while selector.get_map():
            for key, _ in selector.select(0.5):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                    last.extend([rest[key.fd]] if rest[key.fd] else [])
                    continue
                if not quiet and key.data is not None:
                    key.data.buffer.write(data)
                    key.data.flush()
                *lines, unfinished = (rest[key.fd] + data).split(b"\n")
                last.extend(line + b"\n" for line in lines)
                rest[key.fd] = unfinished[-(1 << 16) :]
            if process.poll() is not None and not selector.select(0.2):
                return  # what the section has left in the background may keep the pipes for ever
