"""Containerised commands as tasks: pipelines of containers on Dask's scheduler.

    sorted_ = hpcc_dask.run(client, "docker://debian:12", ["sort", "-o", "/data/b", "/data/a"], binds=["/data"])
    counted = hpcc_dask.run(client, "docker://debian:12", ["wc", "-l", "/data/b"], binds=["/data"], after=[sorted_])
    counted.result().stdout

For workers that have hpcc: Dask's own, LocalCluster's or SLURMCluster's. The image is pulled and pinned where `run` is
called, so that tasks only open a file, and a task that is run again runs the same image.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from hpcc.errors import HpccError, UsageError
from hpcc.settings import Settings
from hpcc_dask.command import Container, container, exec_words, variables
from hpcc_dask.images import Pinned, pin
from hpcc_dask.preflight import last_line

_log = logging.getLogger("distributed.worker.hpcc")  # what client.get_worker_logs() shows
_GRACE = 5.0  # seconds between TERM and KILL


class Done(NamedTuple):
    """What a command has done."""

    args: tuple[str, ...]
    returncode: int  # 128 + N for signal N
    stdout: str
    stderr: str
    seconds: float
    node: str


class TaskFailed(HpccError):
    """A command ended with another status than 0. `done` says all of it."""

    def __init__(self, message: str, done: Done | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.done = done


class _Task(NamedTuple):
    """All that a worker needs."""

    image: Pinned
    options: Container
    stdin: str | None
    cwd: str | None
    timeout: float | None
    check: bool
    log: str | None


def run(
    client: Any,
    image: str | Pinned,
    cmd: Sequence[Any],
    *,
    after: Sequence[Any] = (),
    binds: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    nv: bool = False,
    rocm: bool = False,
    contain: bool = False,
    compat: bool = False,
    args: Sequence[str] = (),
    stdin: str | None = None,
    cwd: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    log: str | None = None,
    pull: str | None = None,
    settings: Settings | None = None,
    **submit: Any,
) -> Any:
    """`hpcc exec image cmd` as a task: a Future of its `Done`.

    cmd: words; one that is a Future stands for its result, and for the output where that is a Done. after: Futures that
    must have ended well before. log: a file that the workers have, for both outputs as they come. timeout: seconds,
    after which the command is ended. check: another status than 0 is TaskFailed, so that `retries=` runs it again. What
    else is given is client.submit's: retries, resources, workers, priority, key. Raises HpccError where the image
    cannot be had; then nothing was submitted.
    """
    if isinstance(cmd, str):
        raise UsageError(f"cmd must be a list of words, not {cmd!r}", hint='["sh", "-c", "…"] has a shell read it.')
    pinned = image if isinstance(image, Pinned) else pin(image, pull=pull, settings=settings)
    options = container(binds=binds, env=env, args=args, nv=nv, rocm=rocm, contain=contain, compat=compat)
    task = _Task(pinned, options, stdin, cwd, timeout, check, log)
    words = [word if hasattr(word, "key") else os.fspath(word) for word in cmd]
    submit.setdefault("key", _key(words))
    return client.submit(_execute, task, words, list(after), pure=False, **submit)


def map(client: Any, image: str | Pinned, cmds: Iterable[Sequence[Any]], **options: Any) -> list[Any]:
    """`run` for each of the commands, with one look at the image: Futures in their order. HpccError."""
    pull, settings = options.pop("pull", None), options.pop("settings", None)
    pinned = image if isinstance(image, Pinned) else pin(image, pull=pull, settings=settings)
    if "key" in options:
        raise UsageError("map() names its tasks itself; run() takes key=")
    return [run(client, pinned, cmd, **options) for cmd in cmds]


def _key(words: Sequence[Any]) -> str:
    """What the dashboard shows, by the program."""
    from uuid import uuid4

    name = os.path.basename(words[0]) if words and isinstance(words[0], str) else "command"
    return f"hpcc:{name}-{uuid4().hex}"


# -- on a worker ----------------------------------------------------------------------------------------------------


def _execute(task: _Task, words: Sequence[Any], after: Sequence[Any]) -> Done:
    argv = [word.stdout.strip() if isinstance(word, Done) else os.fspath(word) for word in words]
    line = exec_words(task.options, task.image.path, argv)
    _log.info("%s: %s", task.image.uri, " ".join(argv))
    begun = monotonic()
    try:
        process = subprocess.Popen(
            [*_ended_with_us(), *line], stdin=subprocess.DEVNULL if task.stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
            cwd=task.cwd, env={**os.environ, **variables(task.options)}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise HpccError(f"cannot run {argv[0]} on {os.uname().nodename}: {error}") from None
    stdout, stderr, too_slow = _output(process, task)
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    done = Done(tuple(argv), status, stdout, stderr, monotonic() - begun, os.uname().nodename)
    _log.info("%s: status %d after %.1f s", argv[0], status, done.seconds)
    if too_slow:
        raise TaskFailed(f"{argv[0]} in {task.image.uri} took longer than {task.timeout:g} s, and was ended", done)
    if task.check and status:
        raise TaskFailed(
            f"{argv[0]} in {task.image.uri} ended with status {status} on {done.node}: {last_line(stderr or stdout)}",
            done,
        )
    return done


def _ended_with_us() -> list[str]:
    """Words that have the kernel end the command with the worker, however that dies (util-linux 2.33, 2018)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _output(process: subprocess.Popen[str], task: _Task) -> tuple[str, str, bool]:
    """(stdout, stderr, whether it took too long). Both into the log as they come."""
    log = open(task.log, "a", encoding="utf-8", buffering=1) if task.log else None
    parts: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def read(name: str) -> None:
        for text in getattr(process, name):
            parts[name].append(text)
            if log is not None:
                log.write(text)

    threads = [threading.Thread(target=read, args=(name,), daemon=True) for name in parts]
    too_slow = False
    try:
        for thread in threads:
            thread.start()
        if process.stdin is not None:
            try:
                process.stdin.write(task.stdin or "")
                process.stdin.close()
            except BrokenPipeError:
                pass  # it reads no more, which is its affair
        try:
            process.wait(task.timeout)
        except subprocess.TimeoutExpired:
            too_slow = True
        finally:
            _end(process)
        for thread in threads:
            thread.join()
    finally:
        if log is not None:
            log.close()
    return "".join(parts["stdout"]), "".join(parts["stderr"]), too_slow


def _end(process: subprocess.Popen[str]) -> None:
    """TERM, then KILL; and what it has left in its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
