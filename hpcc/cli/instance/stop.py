"""hpcc instance stop: a signal, some time, then SIGKILL; back when nothing is left."""

import os
import select
import signal
import time

from hpcc.cli import inform, say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.instance.naming import USER, chosen_register, matching
from hpcc.errors import HpccError, UsageError
from hpcc.runtime.instance import Instance
from hpcc.runtime.register import Register

COMMAND = Command(
    "instance stop [OPTIONS] NAME|GLOB…",
    "Stop instances: each process in them gets a signal, and what is still there after some seconds is killed.",
    (
        Option(("-a", "--all"), "all of them"),
        Option(("-s", "--signal"), "this signal instead of TERM: a name or number", "SIGNAL"),
        Option(("-t", "--timeout"), "seconds until what is left is killed (10)", "SECONDS"),
        Option(("-F", "--force"), "kill at once"),
        USER,
    ),
    "hpcc instance stop web",
)
_AFTER_KILL = 10.0  # seconds; a process in uninterruptible sleep does not even hear that


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if bool(arguments.positional) == arguments.all:
        raise usage_error(COMMAND, "name an instance, or say --all")
    number = signal.SIGKILL if arguments.force else _signal(arguments.signal or "TERM")
    timeout = _seconds(arguments)
    register = chosen_register(arguments)
    status = 0
    stopping = []
    for instance in matching(register, arguments.positional or ["*"]):
        inform(arguments, f"Stopping {instance.name} instance of {instance.image} (PID={instance.pid})")
        keeper = _open_keeper(register, instance)
        if keeper is not None:
            _send(register, instance, number)
            stopping.append((instance, keeper))
    deadline = time.monotonic() + timeout
    for instance, keeper in stopping:
        if not _ends(keeper, deadline - time.monotonic()):
            if number != signal.SIGKILL:
                say("WARNING", f"{instance.name} is still there after {timeout:g} s, so it is killed")
            _send(register, instance, signal.SIGKILL)
            if not _ends(keeper, _AFTER_KILL):
                say("ERROR", f"{instance.name} (PID={instance.pid}) does not end, though it was killed")
                status = HpccError.exit_code
        os.close(keeper)
    register.running()  # what died without its keeper
    return status


def _signal(text: str) -> int:
    """A signal by number or name, with or without SIG. UsageError for what is none."""
    name = text.upper()
    if name.isdigit() and int(name) in signal.valid_signals() and int(name):
        return int(name)
    for candidate in (name, f"SIG{name}"):
        if candidate in signal.Signals.__members__:
            return signal.Signals[candidate].value
    raise UsageError(f"--signal {text!r}: there is no such signal", hint="Write TERM, SIGTERM or 15.")


def _seconds(arguments: Arguments) -> float:
    text = arguments.timeout or "10"
    try:
        value = float(text)
        if 0 <= value < 1e9:
            return value
    except ValueError:
        pass
    raise UsageError(f"--timeout {text!r} is no number of seconds")


def _open_keeper(register: Register, instance: Instance) -> int | None:
    """A descriptor by which the end of the instance can be waited for; None where it has come."""
    try:
        handle = os.pidfd_open(instance.keeper)
    except OSError:
        return None
    process = register.process(instance)
    if process is None:
        os.close(handle)
        return None
    os.close(process)
    return handle


def _send(register: Register, instance: Instance, number: int) -> None:
    """Signal process 1 of the instance, and no other that has its pid by now."""
    try:
        handle = os.pidfd_open(instance.pid)
    except OSError:
        return
    try:
        process = register.process(instance, instance.pid)
        if process is not None:
            os.close(process)
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _ends(keeper: int, seconds: float) -> bool:
    return bool(select.select([keeper], [], [], max(0.0, seconds))[0])
