"""Stay beside a payload that has a PID namespace of its own, and be invisible: each signal goes on, its status is ours.

A payload that is process 1 of its namespace has no default actions: the kernel drops a TERM that it does not handle, so
that `scancel` would wait for its KILL. So where such a signal would have ended an ordinary process, it is done here.
"""

import os
import signal
import time

_ALL = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
_DEADLY = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
                     signal.SIGALRM, signal.SIGPIPE, signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF))  # fmt: skip
_STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_SI_KERNEL = 128
_LOOK_AGAIN = 0.05  # seconds; a shell blocks signals for the moment of a fork
_PATIENCE = 1.0  # seconds between TERM and KILL


def block_signals() -> set[signal.Signals]:
    """Hold all signals back, before a fork, so that none is lost; the old mask, for the child to restore."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)  # type: ignore[return-value]


def release_signals(mask: set[signal.Signals]) -> None:
    """Restore the mask, right before the payload. A deadly signal that came meanwhile ends us here.

    The kernel would drop it, since we may be process 1 of our namespace.
    """
    for number in signal.sigpending() & _DEADLY:
        if signal.getsignal(number) != signal.SIG_IGN:
            os._exit(128 + number)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def supervise(child: int, *, is_init: bool = False, bare: bool = True, adopts: bool = False) -> int:
    """Forward signals to `child` until it ends; its exit status as a shell counts it (128 + N for signal N).

    bare: the child is process 1 of its namespace. is_init: we are, and reap what loses its parent; adopts: so we do
    without being process 1 (kernel.adopt_orphans).
    Signals must be blocked (block_signals).
    """
    ended_by = 0
    waiting: set[int] = set()  # signals that the child had blocked when they came
    while True:
        for number in [each for each in waiting if _fate(child, each) != "pending"]:
            waiting.remove(number)
            if _fate(child, number) == "default":  # the kernel has dropped it meanwhile
                ended_by = number
                os.kill(child, signal.SIGKILL)
        info = signal.sigtimedwait(_ALL, _LOOK_AGAIN) if waiting else signal.sigwaitinfo(_ALL)
        if info is None:
            continue
        number = info.si_signo
        if number == signal.SIGCHLD:
            status = _reap(child, is_init or adopts)
            if status is not None:
                return 128 + ended_by if ended_by and status == 128 + signal.SIGKILL else status
            continue
        # The terminal's own signals (si_code SI_KERNEL) reach the child without us: it is in our process group.
        try:
            fate = _fate(child, number) if bare else ""
            if fate == "default" and number in _DEADLY:
                ended_by = number
                os.kill(child, signal.SIGKILL)
                continue
            if fate in ("blocked", "pending") and number in _DEADLY:
                waiting.add(number)
            if fate == "default" and number in _STOPPING:
                os.kill(child, signal.SIGSTOP)
            elif info.si_code != _SI_KERNEL:
                os.kill(child, number)
            if number in _STOPPING and not is_init:
                if signal.SIGCONT not in signal.sigpending():  # else it is over already, and our stop would forget that
                    _stop(number)
                os.kill(child, signal.SIGCONT)
        except ProcessLookupError:
            continue


def serve() -> int:
    """Be process 1 of an instance: reap, hand each signal on to everybody, and stay whether or not somebody runs.

    After a signal that would have ended an ordinary process it goes as soon as it is alone. Its status is 128 + N.
    Signals must be blocked (block_signals). Nothing is imported: the root may be another one by now.
    """
    ended_by = 0
    while True:
        # Those who joined are no children of ours, so that no signal tells of their end.
        info = signal.sigtimedwait(_ALL, _LOOK_AGAIN) if ended_by else signal.sigwaitinfo(_ALL)
        number = info.si_signo if info is not None else 0
        if number == signal.SIGCHLD:
            _reap(0, True)
        elif number:
            ended_by = number if number in _DEADLY else ended_by
            _kill_all(number)
        if ended_by and not _kill_all(0):
            return 128 + ended_by


def end_others(spared: set[int], home: str) -> None:
    """End what a payload has left to this process (kernel.adopt_orphans): TERM, after a second KILL.

    Not the `spared`, which were there before it, nor who is in the mount namespace `home`: a shell that became hpcc may
    have had children of its own.
    """
    deadline = time.monotonic() + _PATIENCE
    told: set[int] = set()
    while True:
        _reap(0, True)
        left = [pid for pid in children() - spared if _mount_namespace(pid) not in (home, "")]
        if not left:
            return
        late = time.monotonic() > deadline
        for pid in left:
            if late or pid not in told:
                told.add(pid)
                try:
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_AGAIN)


def children() -> set[int]:
    """Of this process; where the kernel keeps no list (CONFIG_PROC_CHILDREN), found among all processes."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return set()
    try:
        with open("/proc/thread-self/children", "rb") as file:
            return {int(pid) for pid in file.read().split()}
    except OSError:
        return {int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _parent(pid) == os.getpid()}


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read(1024).rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _mount_namespace(pid: int) -> str:
    """ "" where it has none any more: a process that has ended, and is to be waited for."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _kill_all(number: int) -> bool:
    """Send a signal to each other process of the namespace whose process 1 we are; False where there is none."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        return False
    return True


def _reap(child: int, everybody: bool) -> int | None:
    """Collect what has ended; the child's status if it has."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1 if everybody else child, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            ended = code if code >= 0 else 128 - code


def _stop(number: int) -> None:
    """Do what the signal does to us by itself: stop, unless our process group is orphaned. Returns when continued."""
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def _fate(child: int, number: int) -> str:
    """What happens to a signal that `child` gets: handled (or ignored, or it has ended), default, blocked or pending.

    By the masks of proc(5), status. A process that blocks a signal may be in sigwait, so it is to get it.
    """
    names = ("SigIgn:", "SigCgt:", "SigBlk:", "SigPnd:", "ShdPnd:")
    try:
        with open(f"/proc/{child}/status", encoding="ascii", errors="replace") as file:
            rows = [line.split() for line in file if line.startswith(names)]
    except OSError:
        return "handled"
    here = {row[0] for row in rows if int(row[1], 16) >> (number - 1) & 1}
    if "SigIgn:" in here or "SigCgt:" in here:
        return "handled"
    if "SigPnd:" in here or "ShdPnd:" in here:
        return "pending"
    return "blocked" if "SigBlk:" in here else "default"
