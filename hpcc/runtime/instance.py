"""What is known of an instance, a container that stays, in a file that outlives it when it is killed.

So it names the boot, and hpcc's process that stays beside the instance by pid and start time.
"""

import os

from hpcc.errors import UsageError
from hpcc.records import NamedTuple
from hpcc.runtime.environment import RunConfig

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_LARGEST = 1 << 20
_TYPES = (str, str, str, RunConfig, str, int, str, str, str, int, bool)


class Instance(NamedTuple):
    """A record. `image` is what the user called it, `path` what it runs from; `home` is that in the container.

    keeper, started: hpcc's process beside it. pid: its process 1, as seen from here; 0 while it starts.
    nested: the payload is in a user namespace below that of process 1.
    """

    name: str
    image: str
    path: str
    config: RunConfig
    home: str
    keeper: int = 0
    started: str = ""
    boot: str = ""
    namespace: str = ""
    pid: int = 0
    nested: bool = False


def check_name(name: str) -> None:
    """UsageError unless an instance may be called so: it names files."""
    if not name or len(name) > 200 or name[0] in ".-" or not _LETTERS.issuperset(name):
        raise UsageError(f"{name!r} is not a valid instance name", hint="Use letters, digits, and . _ - inside.")


def read_instance(path: str) -> Instance | None:
    """The record in a file; None where there is none that parses."""
    from hpcc.quickjson import loads

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = loads(file.read(_LARGEST))
        env, entrypoint, cmd, *rest = found["config"]
        found["config"] = RunConfig(tuple(env), tuple(entrypoint), tuple(cmd), *rest)
        instance = Instance(**found)
        return instance if tuple(map(type, instance)) == _TYPES else None  # root reads what a user may have written
    except (OSError, ValueError, TypeError, KeyError):
        return None


def boot() -> str:
    """The id of this boot of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def namespace() -> str:
    """The PID namespace in which our pids are pids."""
    return os.readlink("/proc/self/ns/pid")
