"""A user's instances on this node, by name.

<state>/hpcc/instances/<host name>/     0700; <state> is $XDG_STATE_HOME, or ~/.local/state
  NAME.json                               0600, as long as it runs: an Instance
  NAME.out  NAME.err                      0600, what it has said; they stay when it is gone, unless they are empty

A home directory is seen by many nodes, so each has a directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress

from hpcc.errors import CacheError, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.hold import open_process, stat_fields
from hpcc.runtime.instance import Instance, boot, check_name, namespace, read_instance

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RUNNING, GONE, ELSEWHERE = "running", "gone", "elsewhere"
"""ELSEWHERE: in another PID namespace of this host, as a container with the same home and host name has. Not ours."""


class Register(NamedTuple):
    """A user's instances on this node. Where `uid` is somebody else, nothing is changed."""

    directory: str
    uid: int

    @classmethod
    def of_caller(cls, environ: Mapping[str, str]) -> Register:
        """The caller's own. Nothing is made yet."""
        state = environ.get("XDG_STATE_HOME", "")
        if not state.startswith("/"):
            state = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/state")
        return cls(os.path.join(state, "hpcc/instances", os.uname().nodename), os.getuid())

    @classmethod
    def of_user(cls, name: str) -> Register:
        """Somebody's, below their home directory. For root: UsageError for others, and for a name that nobody has."""
        import pwd

        if os.geteuid() != 0:
            raise UsageError("only root can look at another user's instances")
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise UsageError(f"there is no user {name}") from None
        place = os.path.join(entry.pw_dir, ".local/state/hpcc/instances", os.uname().nodename)
        return cls(place, entry.pw_uid)

    def log(self, name: str, kind: str) -> str:
        """The path of what the instance says; `kind` is out or err."""
        return os.path.join(self.directory, f"{name}.{kind}")

    def make(self) -> None:
        """Make the directory. CacheError where that is not possible."""
        try:
            os.makedirs(self.directory, 0o700, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"cannot make {self.directory}: {error.strerror}", hint="Name a directory of yours in XDG_STATE_HOME."
            ) from None

    def read(self, name: str) -> Instance | None:
        """The record of that name, whatever it is worth; None where there is none that parses."""
        instance = read_instance(self._record(name))
        return instance if instance is not None and instance.name == name else None

    def find(self, name: str) -> Instance:
        """The running instance of that name. UsageError where there is none."""
        check_name(name)
        instance = self.read(name)
        if instance is None or not instance.pid or self.state(instance) != RUNNING:
            raise no_instance(name, self)
        return instance

    def running(self, pattern: str = "*") -> list[Instance]:
        """Those that run, by name; records of others are cleaned away."""
        from fnmatch import fnmatchcase

        found = []
        for name in self._names(self.directory):
            instance = self.read(name)
            state = self.state(instance) if instance is not None else GONE
            if state == GONE:
                self._clean(name)
            elif instance is not None and instance.pid and state == RUNNING and fnmatchcase(name, pattern):
                found.append(instance)
        return found

    def state(self, instance: Instance) -> str:
        """RUNNING (or about to), GONE or ELSEWHERE."""
        if instance.boot != boot():
            return GONE
        if instance.namespace != namespace():
            return ELSEWHERE
        process = self.process(instance)
        if process is None:
            return GONE
        os.close(process)
        return RUNNING

    def process(self, instance: Instance, pid: int = 0) -> int | None:
        """A descriptor of /proc/<pid> of its keeper, or of `pid`, its child; None where it is no such process now."""
        keeper = open_process(instance.keeper, instance.started)
        if keeper is None or not self._belongs(keeper):
            return None
        if not pid:
            return keeper
        os.close(keeper)
        try:
            found = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        fields = stat_fields(found)
        if fields and int(fields[1]) == instance.keeper and self._belongs(found):
            return found
        os.close(found)
        return None

    def _belongs(self, process: int) -> bool:
        """Whether the process is the user's: root must not signal what a user's file names."""
        try:
            with open(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), encoding="ascii") as file:
                return any(line.split()[1:2] == [str(self.uid)] for line in file if line.startswith("Uid:"))
        except (OSError, ValueError):
            return False

    def claim(self, instance: Instance) -> None:
        """Take its name, for a process that lives. UsageError where another one has it. Of several at once one wins."""
        record = self._record(instance.name)
        with self._locked():
            temporary = self._write(instance)
            try:
                self._put_aside(instance.name)
                os.link(temporary, record)
            except FileExistsError:
                raise self.taken(instance.name) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                    raise
                os.rename(temporary, record)  # a filesystem without hard links
                return
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def _put_aside(self, name: str) -> None:
        """Remove a record whose instance is gone. FileExistsError where it is there.

        Under a name of our own it is looked at again: without locks somebody may have replaced it meanwhile.
        """
        record, aside = self._record(name), os.path.join(self.directory, f".{name}.{os.getpid()}.old")
        if self._is_taken(name):
            raise FileExistsError
        try:
            os.rename(record, aside)
        except FileNotFoundError:
            return
        found = read_instance(aside)
        if found is not None and self.state(found) != GONE:
            os.rename(aside, record)
            raise FileExistsError
        os.unlink(aside)

    def _is_taken(self, name: str) -> bool:
        found = self.read(name)
        return found is not None and self.state(found) != GONE

    def taken(self, name: str) -> UsageError:
        """The error for a name that is in use."""
        hint = f"`hpcc instance stop {name}` ends it; or choose another name."
        return UsageError(f"instance {name} already exists", hint=hint)

    def refuse_taken(self, name: str) -> None:
        """UsageError where the name is in use, or is none; to say so before an image is pulled."""
        check_name(name)
        if self._is_taken(name):
            raise self.taken(name)

    def publish(self, instance: Instance) -> None:
        """Replace the record of a name that was claimed."""
        os.rename(self._write(instance), self._record(instance.name))

    def withdraw(self, instance: Instance) -> None:
        """Give the name back, if it is still this one's, and remove logs that say nothing. Never fails."""
        with suppress(OSError), self._locked():
            found = self.read(instance.name)
            if found is not None and (found.keeper, found.started) == (instance.keeper, instance.started):
                os.unlink(self._record(instance.name))
                self._remove_empty_logs(instance.name)

    def other_hosts(self, name: str) -> list[str]:
        """Names of other nodes on which there was, when last heard of, an instance of that name."""
        above, here = os.path.split(self.directory)
        try:
            hosts = sorted(os.listdir(above))
        except OSError:
            return []
        return [host for host in hosts if host != here and os.path.exists(os.path.join(above, host, f"{name}.json"))]

    def _record(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.json")

    @staticmethod
    def _names(directory: str) -> list[str]:
        try:
            names = os.listdir(directory)
        except OSError:
            return []
        return sorted(name[:-5] for name in names if name.endswith(".json") and not name.startswith("."))

    def _clean(self, name: str) -> None:
        """Remove a record whose instance is gone, unless somebody has taken the name by now."""
        if self.uid != os.getuid():
            return
        with suppress(OSError), self._locked():
            if not self._is_taken(name):
                os.unlink(self._record(name))
                self._remove_empty_logs(name)

    def _remove_empty_logs(self, name: str) -> None:
        for path in (self.log(name, "out"), self.log(name, "err")):
            if os.stat(path).st_size == 0:
                os.unlink(path)

    def _write(self, instance: Instance) -> str:
        import json

        temporary = os.path.join(self.directory, f".{instance.name}.{os.getpid()}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(json.dumps(instance._asdict()).encode())
        return temporary

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Without others of this node. Where the filesystem has no locks: with them, and `link` decides."""
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except OSError:  # NFS locks no directories
                pass
            yield
        finally:
            os.close(fd)


def no_instance(name: str, register: Register) -> UsageError:
    """The error for a name that nothing runs by; it tells where else there is one."""
    if name == "*":
        return UsageError("no instance is running on this node")
    hosts = ", ".join(register.other_hosts(name))
    hint = f"It is known on {hosts}; an instance is reached on its own node." if hosts else ""
    return UsageError(
        f"no instance found with name {name}", hint=hint or "`hpcc instance list` shows those that run on this node."
    )
