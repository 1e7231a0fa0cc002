"""A command at a terminal of its own, and somebody who types."""

import os
import pty
import select
import time
from collections.abc import Mapping, Sequence

from tests.support.people import Person


def on_terminal(
    person: Person,
    argv: Sequence[str],
    steps: Sequence[tuple[bytes, bytes]],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Run on a pty of 80 columns; for each step wait for the first bytes, then type the second. (status, all output).

    A moment passes before each, since getpass drops what was typed before it had silenced the terminal.
    """
    leader, follower = pty.openpty()
    os.set_inheritable(follower, True)
    process = person.popen(argv, env=env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
                           preexec_fn=_take_terminal)  # fmt: skip
    os.close(follower)
    seen, at, deadline = b"", 0, time.monotonic() + timeout
    steps = list(steps)
    try:
        while time.monotonic() < deadline:
            if steps and (found := seen.find(steps[0][0], at)) >= 0:
                at = found + len(steps[0][0])
                time.sleep(0.05)
                os.write(leader, steps.pop(0)[1])
            if select.select([leader], [], [], 0.05)[0]:
                try:
                    seen += os.read(leader, 65536)
                except OSError:
                    break
            elif process.poll() is not None:
                break
        assert not steps, f"never saw {steps[0][0]!r} in {seen!r}"
        return process.wait(10), seen
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def _take_terminal() -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
