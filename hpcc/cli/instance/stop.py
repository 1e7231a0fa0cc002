"""hpcc instance stop: a signal, some time, then SIGKILL; back when nothing is left."""

import os
import signal
import time

from hpcc.cli import inform, say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.instance.naming import USER, chosen_register, matching, plain
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
_LOOK_AGAIN = 0.02
_AFTER_KILL = 10.0  # seconds; a process in uninterruptible sleep does not even hear that


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if bool(arguments.positional) == arguments.all:
        raise usage_error(COMMAND, "name an instance, or say --all")
    number = signal.SIGKILL if arguments.force else _signal(arguments.signal or "TERM")
    timeout = _seconds(arguments)
    register = chosen_register(arguments)
    status = 0
    found = matching(register, arguments.positional or ["*"])
    for instance in found:
        inform(arguments, f"Stopping {instance.name} instance of {plain(instance.image)} (PID={instance.pid})")
        _send(register, instance, number)
    deadline = time.monotonic() + timeout
    for instance in found:
        if _ends(register, instance, deadline):
            continue
        if number != signal.SIGKILL:
            say("WARNING", f"{instance.name} is still there after {timeout:g} s, so it is killed")
        _send(register, instance, signal.SIGKILL)
        if not _ends(register, instance, time.monotonic() + _AFTER_KILL):
            say("ERROR", f"{instance.name} (PID={instance.pid}) does not end, though it was killed")
            status = HpccError.exit_code
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


def _send(register: Register, instance: Instance, number: int) -> None:
    """Signal process 1 of the instance, and no other that has its pid by now."""
    try:
        handle = os.pidfd_open(instance.pid)
    except ProcessLookupError:
        return
    except OSError:  # before Linux 5.3
        handle = -1
    try:
        process = register.process(instance, instance.pid)
        if process is None:
            return
        os.close(process)
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(instance.pid, number)
    except ProcessLookupError:
        pass
    finally:
        if handle >= 0:
            os.close(handle)


def _ends(register: Register, instance: Instance, deadline: float) -> bool:
    """Whether hpcc's process beside it, the last to go, is gone by then."""
    while (process := register.process(instance)) is not None:
        os.close(process)
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_AGAIN)
    return True
