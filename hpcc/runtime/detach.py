"""Start an instance: a container that outlives the command, and the session, that started it.

    hpcc instance start      waits until it hears that the instance runs, or why not
      keeper                   a session of its own; has the name; goes last, and takes the record along
        process 1                reaps, hands signals on (supervise.serve); dies with the keeper
          payload                  makes the root, and becomes the startscript or what the image runs

What the payload's process says on its way (`inner`): "+" right before it executes, then an error where it cannot; the
pipe closes when it could. The keeper writes the record, and says so to the command (`outer`), or hands the error on.
"""

from __future__ import annotations

import json
import os
import signal
from functools import partial

from hpcc.errors import EX_FAILURE, HpccError, place_hint
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import enter, plan
from hpcc.runtime.fuse import close_all_but
from hpcc.runtime.hold import start_time
from hpcc.runtime.instance import Instance, boot, namespace
from hpcc.runtime.launch import Launcher
from hpcc.runtime.register import Register
from hpcc.runtime.supervise import serve, supervise

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from hpcc.runtime.rootfs import Rootfs
    from hpcc.settings import Settings

_GOES = b"+"


def start_instance(
    instance: Instance,
    register: Register,
    ops: tuple[plan.Op, ...],
    image: Rootfs,
    settings: Settings,
    *,
    as_user: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Instance:
    """Start it and return its record once it runs. Raises HpccError as a run in the foreground would.

    as_user: as for enter.start. tell: as for Launcher; it is called in the keeper, whose stderr is the log.
    """
    register.make()
    outer, told = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        _Keeper(instance, register, told).keep(ops, image, settings, as_user=as_user, tell=tell)
    os.close(told)
    try:
        with open(outer, "rb") as file:
            answer = file.read()
        if answer != _GOES:
            os.waitpid(keeper, 0)  # so that nothing is left when the error is read
            raise _error(answer)
    except KeyboardInterrupt:
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)
        register.withdraw(instance._replace(keeper=keeper))
        raise
    return register.find(instance.name)


class _Keeper:
    """The process beside the instance."""

    def __init__(self, instance: Instance, register: Register, outer: int) -> None:
        self.instance, self.register = instance, register
        self.outer, self.inner = outer, -1
        self.pid = 0

    def keep(
        self,
        ops: tuple[plan.Op, ...],
        image: Rootfs,
        settings: Settings,
        *,
        as_user: bool,
        tell: Callable[[str], None],
    ) -> NoReturn:
        """Be it. All who are forked from here, and fail, come back to here as well."""
        problem = b""
        self.pid = os.getpid()
        try:
            self._detach(image.fd)
            started = start_time(self.pid)
            claimed = self.instance._replace(keeper=self.pid, started=started, boot=boot(), namespace=namespace())
            self.register.claim(claimed)
            self.instance = claimed
            make_launcher = partial(InstanceLauncher, self)
            enter.start(
                ops, image, settings, keep_mounted=False, as_user=as_user, make_launcher=make_launcher, tell=tell
            )
        except HpccError as error:
            problem = _words(error.message, error.hint, error.exit_code)
        except OSError as error:
            place = error.filename or self.register.directory
            problem = _words(f"{place}: {error.strerror}", place_hint(error), EX_FAILURE)
        except BaseException as error:
            problem = _words(f"{type(error).__name__}: {error}", "Please report it.", EX_FAILURE)
        try:
            if os.getpid() == self.pid:
                self.register.withdraw(self.instance)
                os.write(self.outer, problem)
            else:
                os.write(self.inner, problem)
        finally:
            os._exit(EX_FAILURE)

    def _detach(self, image: int) -> None:
        os.setsid()
        os.chdir("/")  # else process 1 keeps the caller's directory busy
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        for fd, path, how in (
            (0, os.devnull, os.O_RDONLY),
            (1, self.register.log(self.instance.name, "out"), flags),
            (2, self.register.log(self.instance.name, "err"), flags),
        ):
            opened = os.open(path, how, 0o600)
            os.dup2(opened, fd)
            if opened > 2:
                os.close(opened)
        close_all_but(tuple(fd for fd in (0, 1, 2, image, self.outer) if fd >= 0))


class InstanceLauncher(Launcher):
    """Launches an instance, and sees to it that its keeper knows when it runs."""

    def __init__(self, keeper: _Keeper, *args: Any) -> None:
        super().__init__(*args)
        self._keeper = keeper
        self._heard, keeper.inner = os.pipe()

    def _stay_beside(self, child: int, op: plan.Unshare | None) -> int:
        keeper = self._keeper
        os.close(keeper.inner)
        with open(self._heard, "rb") as file:
            words = file.read()
        if words != _GOES:
            os.kill(child, signal.SIGKILL)
            supervise(child, bare=False)
            raise _error(words.removeprefix(_GOES))
        keeper.instance = keeper.instance._replace(pid=child, nested=self._rung.as_root)
        keeper.register.publish(keeper.instance)
        os.write(keeper.outer, _GOES)
        os.close(keeper.outer)
        return supervise(child, bare=False)

    def _be_init(self, payload: int) -> int:
        close_all_but((0, 1, 2))
        return serve()

    def _execute(self, op: plan.Execute) -> None:
        os.write(self._keeper.inner, _GOES)
        super()._execute(op)

    def _idle(self) -> None:
        os.write(self._keeper.inner, _GOES)
        super()._idle()


def _words(message: str, hint: str, code: int) -> bytes:
    return json.dumps([message, hint, code]).encode()


def _error(words: bytes) -> HpccError:
    """The error that a process of ours has put into words."""
    try:
        message, hint, code = json.loads(words)
    except ValueError:
        message, hint, code = "it ended before it ran", "", EX_FAILURE
    error = HpccError(message, hint=hint)
    error.exit_code = code
    return error
