"""A process that is root in the user namespace of what is built, and does there what it is told.

Files of an image belong to many; on disk they belong to the subordinate ids of the caller, whom only this process may
touch them for. Without such ids all are the caller's, and root's inside. Real root needs no namespace. It is forked
before anything else starts threads, and is the same process from the first to the last file of a build:

    parent -> child    pickle: number, function, arguments
    child -> parent    pickle: number, "info" | "warning" | "stage" | "advance" | "wrote", value
                               number, "done" | "failed", result or exception
"""

import os
import pickle
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from hpcc.errors import CacheError, HpccError, InvalidImage, RuntimeUnavailable, place_hint
from hpcc.progress import Part, Progress
from hpcc.settings import Settings

_P = ParamSpec("_P")
_T = TypeVar("_T")
_LENGTH = struct.Struct("<Q")


class Inside:
    """The process. `owners`: "all" for real root, "ids" where others than root have ids, "alone", "none" without."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        """Call it while this process has one thread."""
        self._progress = progress
        self._number = 0
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                ours.close()
                _serve(theirs, settings)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self._socket = ours
        self.owners: str = self._receive(0)

    def call(self, function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """What the function returns or raises in there; what it tells its parameter `progress` this process hears."""
        self._number += 1
        try:
            _send(self._socket, (self._number, function, arguments, options))
        except (BrokenPipeError, ConnectionResetError):
            raise _gone() from None
        result: _T = self._receive(self._number)
        return result

    def _receive(self, wanted: int) -> Any:
        part: Part | None = None
        while True:
            try:
                number, what, value = _read(self._socket)
            except (EOFError, ConnectionResetError):
                raise _gone() from None
            if what == "info":
                self._progress.info(value)
            elif what == "warning":
                self._progress.warning(value)
            elif what == "stage":
                self._progress.stage(*value)
                part = self._progress.part("", value[1])
            elif what == "advance" and part is not None:
                part.advance(value)
            elif what == "wrote":
                self._progress.wrote(value)
            elif number == wanted and what == "done":
                if part is not None:
                    part.finish()
                return value
            elif number == wanted and what == "failed":  # of a call that was interrupted nobody waits for the end
                if isinstance(value, OSError) and not isinstance(value, HpccError):
                    where = f": {value.filename}" if value.filename else ""
                    raise CacheError(f"{value.strerror or value}{where}", hint=place_hint(value)) from None
                raise value

    def close(self) -> None:
        """Idempotent."""
        if self._pid:
            self._socket.close()
            os.waitpid(self._pid, 0)
            self._pid = 0


class _Told(Progress):
    """Tells the parent."""

    def __init__(self, to: socket.socket) -> None:
        self._socket = to
        self._waiting = 0

    def stage(self, name: str, total: int = 0) -> None:
        _send(self._socket, (0, "stage", (name, total)))

    def part(self, name: str, total: int) -> Part:
        return _ToldPart(self)

    def info(self, text: str) -> None:
        _send(self._socket, (0, "info", text))

    def warning(self, text: str) -> None:
        _send(self._socket, (0, "warning", text))

    def count(self, amount: int) -> None:
        self._waiting += amount
        if self._waiting >= 4 << 20:
            _send(self._socket, (0, "advance", self._waiting))
            self._waiting = 0


class _ToldPart(Part):
    def __init__(self, whole: _Told) -> None:
        self._whole = whole

    def advance(self, amount: int) -> None:
        self._whole.count(amount)


def _serve(to: socket.socket, settings: Settings) -> None:
    """Until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # ours to survive, for the sake of cleaning up; not our children's
    progress = _Told(to)
    _send(to, (0, "done", _enter(settings)))
    while True:
        try:
            number, function, arguments, options = _read(to)
        except EOFError:
            return
        try:
            if "progress" in options:
                options["progress"] = progress
            answer = (number, "done", function(*arguments, **options))
        except (HpccError, OSError, ValueError, MemoryError) as error:
            answer = (number, "failed", error)
        except RecursionError:
            answer = (number, "failed", InvalidImage("its directories lie too deep, one in the other"))
        except Exception as error:  # a fault of hpcc's, of which the parent is to show where it is
            answer = (number, "failed", error)
        try:
            _send(to, answer)
        except BrokenPipeError:
            return


def _gone() -> HpccError:
    return RuntimeUnavailable(
        "the process that writes the files of the build was ended from outside",
        hint="Where memory is limited, the kernel ends what takes too much: give the job more, or build elsewhere.",
    )


def _enter(settings: Settings) -> str:
    os.umask(0o022)
    if os.geteuid() == 0:
        return "all"
    from hpcc.runtime.enter import caller
    from hpcc.runtime.subids import enter_as_root, find_subids

    try:
        return "ids" if enter_as_root(find_subids(caller(settings).user, os.getuid(), settings)) else "alone"
    except OSError:
        return "none"


def _send(to: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    to.sendall(_LENGTH.pack(len(data)) + data)


def _read(source: socket.socket) -> Any:
    (length,) = _LENGTH.unpack(_read_exactly(source, _LENGTH.size))
    return pickle.loads(_read_exactly(source, length))  # noqa: S301 - of our own fork, over a socket that nobody else has


def _read_exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = source.recv(min(1 << 20, size - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
