"""Do a plan: one loop over its operations, the last of which becomes the payload.

    <stage>/rootfs/    the image, read-only (rootfs.py), perhaps a holder's
    <stage>/session/   tmpfs of this run: points/ upper/ work/ under/ files/ images/ (attach.py)
    <stage>/final/     the container's root, until Pivot

After Pivot the host's files are gone, so nothing may be imported any more from there on.
"""

from __future__ import annotations

import errno
import os
import stat

from hpcc.errors import RuntimeUnavailable, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime import _kernel as kernel
from hpcc.runtime import plan
from hpcc.runtime.accounts import with_rows
from hpcc.runtime.host import Host, enter_user_namespace
from hpcc.runtime.layer import Place, lay
from hpcc.runtime.payload import become, require_app, restore_signals, some_shell
from hpcc.runtime.rootfs import Rootfs, Rung, bind, remount
from hpcc.runtime.stage import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpcc.runtime.attach import Attached
    from hpcc.runtime.cgroups import Group
    from hpcc.runtime.images import Opened


class Launcher:
    """Carries out operations in namespaces that rootfs.py or hold.py has entered. For one run, then gone."""

    def __init__(
        self,
        image: Rootfs,
        rung: Rung,
        host: Host,
        stage: str,
        uid: int,
        gid: int,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """tell: hears what the user should know of a run that has ended."""
        self._image, self._rung, self._host, self._tell = image, rung, host, tell
        self._stage, self._uid, self._gid = stage, uid, gid
        self._session = f"{stage}/session"
        self._final = -1
        self._release_signals: Callable[[], None] | None = None  # of a process that holds them back until it execs
        self._group: Group | None = None  # the payload's cgroup, where it has limits
        self._filter = b""
        self._dies_with_parent = False
        self._own: set[int] = set()  # devices of tmpfs's that this run made: there it may make mount points
        self._first = -1  # process 1 of namespaces that are shared
        self._bare = True  # a payload without an init beside it is process 1
        self._opened: tuple[Opened, ...] = ()
        self._images: Attached | None = None
        self._home = ""  # the caller's mount namespace
        self._spared: set[int] = set()  # children that this process had before

    def take(self, opened: tuple[Opened, ...]) -> None:
        """Have what MountImage mounts. In the caller's namespaces."""
        self._opened = opened
        self._home = os.readlink("/proc/self/ns/mnt") if opened else ""

    def run(self, ops: tuple[plan.Op, ...]) -> int:
        """Do `ops`. Returns only in a process that stayed beside the payload: the payload's status."""
        steps: dict[type, Callable[..., int | None]] = {
            plan.KeptDirectory: self._kept_directory,
            plan.MountImage: self._mount_image,
            plan.Layer: self._layer,
            plan.Limit: self._limit,
            plan.StayBeside: self._stay,
            plan.Unshare: self._unshare,
            plan.Mount: self._mount,
            plan.BindMount: self._bind,
            plan.Link: self._link,
            plan.MakeDirectory: self._make_directory,
            plan.Accounts: self._accounts,
            plan.Confine: self._confine,
            plan.Pivot: self._pivot,
            plan.App: self._app,
            plan.ChangeDirectory: self._change_directory,
            plan.DropPrivileges: self._drop_privileges,
            plan.Filter: self._set_filter,
            plan.Execute: self._execute,
            plan.Startscript: self._startscript,
        }
        try:
            for op in ops:
                try:
                    status = steps[type(op)](op)
                except OSError as error:
                    # Nobody reads the points of a layer.
                    what = "Layer" if isinstance(op, plan.Layer) else plan.describe(op)
                    raise RuntimeUnavailable(
                        f"{what}: {error.strerror}", hint="`hpcc doctor` tells what this host can do."
                    ) from None
                if status is not None:
                    return status
            raise AssertionError("a plan ends with Execute")
        except BaseException:
            if self._images is not None:
                self._images.close(self._stage, self._final)
            raise

    def _kept_directory(self, op: plan.KeptDirectory) -> None:
        try:
            os.makedirs(op.path, 0o750, exist_ok=True)
            if os.stat(op.path).st_uid == os.geteuid():
                os.chmod(op.path, op.mode)
        except OSError as error:
            raise UsageError(
                f"--workdir: cannot make {op.path}: {error.strerror}", hint="Name a directory that you can write to."
            ) from None

    def share(self, first: int) -> None:
        """Have the namespaces of the process whose directory in /proc is open as `first`, instead of one's own."""
        self._first = first

    def _unshare(self, op: plan.Unshare) -> int | None:
        shared: tuple[str, ...] = ()
        if self._first >= 0:
            from hpcc.runtime.hold import enter_namespaces

            kinds = tuple(kind for kind in op.kinds if kind in ("pid", "ipc"))
            shared = kinds if enter_namespaces(self._first, kinds) else ()
            if "pid" in shared:
                op = op._replace(init=False)  # there is one
                self._bare = False
        kernel.unshare(sum(_NAMESPACES[kind] for kind in op.kinds if kind not in shared))
        if "net" in op.kinds:
            from hpcc.runtime.network import raise_loopback

            raise_loopback()
        if op.hostname:
            kernel.set_hostname(op.hostname)
        return self._new_processes(op) if "pid" in op.kinds else None

    def _limit(self, op: plan.Limit) -> None:
        from hpcc.runtime.cgroups import Group

        self._group = Group(op.settings, op.option)

    def _stay(self, op: plan.StayBeside) -> int | None:
        if self._images is not None:
            from hpcc.runtime.supervise import children

            self._spared = children()
            kernel.adopt_orphans()
        return self._new_processes(None)

    def _new_processes(self, op: plan.Unshare | None) -> int | None:
        import signal

        from hpcc.runtime.supervise import block_signals, release_signals

        mask = block_signals()
        alive, parent = os.pipe()
        child = os.fork()
        if child:
            try:
                if self._images is None:
                    return self._stay_beside(child, op)
                self._images.leave(self._stage, self._final)
                status = self._stay_beside(child, op)
                self._images.close(self._stage, self._final)
                return status
            finally:
                if self._group is not None:
                    self._group.end(self._tell)
        if self._images is not None:
            self._images.forget()
        die_with_parent(alive, parent, signal.SIGKILL)
        self._dies_with_parent = True
        if self._group is not None:
            self._group.enter()
        kernel.unshare(kernel.CLONE_NEWNS)  # so that Pivot does not move our parent as well
        os.close(self._final)  # in the parent's mount namespace
        self._open_final()
        if op is not None and op.init:
            payload = os.fork()
            if payload:
                os._exit(self._be_init(payload))
        self._release_signals = lambda: release_signals(mask)
        return None

    def _stay_beside(self, child: int, op: plan.Unshare | None) -> int:
        """Outside of the PID namespace, if there is one, whose process 1 is `child`; the status to end with."""
        from hpcc.runtime.supervise import end_others, supervise

        if op is not None:
            return supervise(child, bare=self._bare and not op.init)
        if self._images is None:
            return supervise(child, bare=False)
        status = supervise(child, bare=False, adopts=True)
        end_others(self._spared, self._home)  # their root, which is to be closed, is gone for them anyway
        return status

    def _be_init(self, payload: int) -> int:
        """Process 1, beside the payload; the status to end with. Its root changes at any moment: nothing to import."""
        from hpcc.runtime.supervise import supervise

        return supervise(payload, is_init=True, bare=False)

    def _mount_image(self, op: plan.MountImage) -> None:
        from hpcc.runtime.attach import Attached

        if self._images is None:
            self._make_session()
            owned = self._host.root or self._rung.owners
            owner = None if owned else (self._uid, self._gid)
            self._images = Attached(self._host, f"{self._session}/images", owner)
        (opened,) = [each for each in self._opened if each.number == op.number]
        self._images.mount(opened)

    def _layer(self, op: plan.Layer) -> None:
        if self._images is None:
            self._make_session()
        owner = (self._uid, self._gid)
        lay(op, Place(self._image, self._rung, self._host, self._stage, self._session, owner, self._images))
        self._open_final()

    def _open_final(self) -> None:
        # A recursive bind of a directory above the stage would take it along. Set in each namespace, since a copy of a
        # mount forgets it.
        kernel.mount("", self._stage, "", kernel.MS_UNBINDABLE)
        self._final = os.open(f"{self._stage}/final", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _make_session(self) -> None:
        kernel.mount("tmpfs", self._session, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755")
        self._own.add(os.stat(self._session).st_dev)
        for name in ("points", "upper", "work", "under", "files", "images"):
            os.mkdir(f"{self._session}/{name}")
        os.chmod(f"{self._session}/upper", 0o755)  # noqa: S103 - it becomes the container's /

    def _open_target(self, target: str, *, directory: bool) -> int:
        """A descriptor of the place to mount on; made where it is missing on a tmpfs of ours."""
        try:
            fd, _, missing = resolve(self._final, target)
        except OSError as error:
            raise UsageError(f"{target} in the container: {error.strerror}", hint="Bind to another path.") from None
        if not missing:
            return fd
        if os.fstat(fd).st_dev not in self._own:
            os.close(fd)
            raise UsageError(
                f"{target} does not exist in the container, and what is mounted above it cannot get it",
                hint="Make the directory on the host first, or bind to another path.",
            )
        for name in missing[:-1] if not directory else missing:
            os.mkdir(name, 0o755, dir_fd=fd)
            below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        if not directory:
            os.close(os.open(missing[-1], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=fd))
            below = os.open(missing[-1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        return fd

    def _mount(self, op: plan.Mount) -> None:
        fd = self._open_target(op.target, directory=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        if op.kind in ("proc", "devpts", "mqueue"):
            flags = kernel.MS_NOSUID | kernel.MS_NOEXEC | (0 if op.kind == "devpts" else kernel.MS_NODEV)
        try:
            kernel.mount(op.kind, f"/proc/self/fd/{fd}", op.kind, flags, op.options)
        except OSError as error:
            if op.kind == "proc" and error.errno == errno.EPERM:
                raise RuntimeUnavailable(
                    "a PID namespace cannot have its /proc here: parts of this host's are hidden, as in containers",
                    hint="Docker hides nothing with --security-opt systempaths=unconfined, Kubernetes with procMount: "
                    "Unmasked. --contain needs no PID namespace.",
                ) from None
            if op.kind != "devpts":
                raise
            bind("/dev/pts", f"/proc/self/fd/{fd}")  # kernels without instances for users
        os.close(fd)
        if op.kind == "tmpfs":
            fd = self._open_target(op.target, directory=True)
            self._own.add(os.fstat(fd).st_dev)
            os.close(fd)

    def _bind(self, op: plan.BindMount) -> None:
        if op.image and self._images is not None:
            with self._images.path(op.image, op.source) as (source, directory):
                self._bind_on(source, op.target, directory=directory, readonly=op.readonly)
            return
        try:
            status = os.stat(op.source)
        except OSError as error:
            if op.optional:
                return
            raise UsageError(
                f"--bind {op.source}: {error.strerror}", hint="The path must exist on this host."
            ) from None
        directory = status.st_mode & 0o170000 == 0o040000
        try:
            self._bind_on(op.source, op.target, directory=directory, readonly=op.readonly, device=op.device)
        except UsageError:  # the image has something else there, such as a loop of links
            if not op.optional:
                raise

    def _bind_on(
        self, source: str, target: str, *, directory: bool, readonly: bool = False, device: bool = False
    ) -> None:
        fd = self._open_target(target, directory=directory)
        try:
            bind(source, f"/proc/self/fd/{fd}")
        except OSError as error:
            if error.errno != errno.ENOTDIR:
                raise
            kinds = "a directory and the other a file" if directory else "a file and the other a directory"
            raise UsageError(f"cannot bind {source} to {target}: one is {kinds}") from None
        finally:
            os.close(fd)
        fd = self._open_target(target, directory=directory)
        remount(f"/proc/self/fd/{fd}", readonly=readonly, device=device)
        os.close(fd)

    def _link(self, op: plan.Link) -> None:
        directory, _, name = op.path.rpartition("/")
        fd = self._open_target(directory, directory=True)
        os.symlink(op.target, f"/proc/self/fd/{fd}/{name}")
        os.close(fd)

    def _make_directory(self, op: plan.MakeDirectory) -> None:
        os.close(self._open_target(op.path, directory=True))

    def _accounts(self, op: plan.Accounts) -> None:
        user = f"{op.user}:x:{op.uid}:{op.gid}:{op.gecos}:{op.home}:{op.shell}"
        groups = [(gid, f"{name}:x:{gid}:{op.user}") for name, gid in op.groups]
        for name, rows in (("passwd", [(op.uid, user)]), ("group", groups)):
            try:
                fd, _, missing = resolve(self._final, f"/etc/{name}")
            except OSError:
                continue
            try:
                if missing or not stat.S_ISREG(os.fstat(fd).st_mode):
                    continue  # a hostile image has a fifo there
                with open(f"/proc/self/fd/{fd}", "rb") as file:
                    content = with_rows(file.read(1 << 20), rows)
            except OSError:
                continue
            finally:
                os.close(fd)
            if content is None:
                continue
            path = f"{self._session}/files/{name}"
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, 0o644)
            self._bind_on(path, f"/etc/{name}", directory=False)

    def _confine(self, op: plan.Confine) -> None:
        from hpcc.runtime.confine import confine_exec

        confine_exec(op.selinux, op.apparmor)

    def _pivot(self, op: plan.Pivot) -> None:
        os.close(self._final)
        os.chdir(f"{self._stage}/final")
        kernel.pivot_root(".", ".")
        kernel.unmount(".")
        os.chdir("/")

    def _app(self, op: plan.App) -> None:
        require_app(op.name, op.runs)

    def _change_directory(self, op: plan.ChangeDirectory) -> None:
        for path in op.candidates:
            try:
                os.chdir(path)
            except OSError as error:
                if len(op.candidates) == 1:
                    raise UsageError(
                        f"--pwd {path}: {error.strerror}", hint="The directory must exist in the container."
                    ) from None
                continue
            return

    def _drop_privileges(self, op: plan.DropPrivileges) -> None:
        uid, gids = op.identity or (self._uid, (self._gid,))
        if self._rung.as_root or (op.identity and not self._host.root):
            if len(gids) > 1:
                raise UsageError(
                    f"--security gid:{':'.join(map(str, gids))}: in a user namespace one group is possible",
                    hint=f"--security gid:{gids[0]}",
                )
            enter_user_namespace(uid, gids[0])
            if self._dies_with_parent:  # the kernel has forgotten that
                kernel.set_parent_death_signal(9)
        elif op.identity:
            kernel.set_ids(uid, gids)
            if self._dies_with_parent:  # another user's process forgets that
                kernel.set_parent_death_signal(9)
        os.umask(op.umask)
        if self._first >= 0:  # other ranks' payloads, which may be hostile, see this process
            kernel.forbid_tracing()
        kernel.limit_capabilities(op.kept)
        if not op.fakeroot:
            kernel.set_no_new_privs()

    def _set_filter(self, op: plan.Filter) -> None:
        self._filter = op.program  # until right before the payload: it may forbid what we still have to do

    def _execute(self, op: plan.Execute) -> None:
        environment = dict(op.environment)
        argv = op.argv
        if not argv or not argv[0]:
            argv = some_shell(argv[1:])
            environment["SHELL"] = argv[0]
        environment["PWD"] = os.getcwd()
        restore_signals()
        if op.script:
            argv = ("/bin/sh", "-c", op.script, "hpcc", *argv)
        if self._release_signals is not None:
            self._release_signals()
        if self._filter:
            self._apply_filter()
        become(argv, environment)

    def _apply_filter(self) -> None:
        try:
            try:
                kernel.set_seccomp(self._filter)
            except PermissionError:  # --fakeroot without the capability for it
                kernel.set_no_new_privs()
                kernel.set_seccomp(self._filter)
        except OSError as error:
            raise RuntimeUnavailable(
                f"--security seccomp: the kernel does not take the filter: {error.strerror}", hint="Leave it out here."
            ) from None

    def _startscript(self, op: plan.Startscript) -> None:
        try:
            # A hostile image has a fifo there, on which an ordinary open would wait for ever.
            with open(os.open(op.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                lines = [line.strip() for line in file.read(1 << 20).split(b"\n")]
        except OSError:
            lines = []
        if any(line and not line.startswith(b"#") for line in lines):
            self._execute(plan.Execute((op.path, *op.arguments), op.environment, op.script))
        else:
            self._idle()

    def _idle(self) -> None:
        """Leave process 1 alone."""
        os._exit(0)


def die_with_parent(alive: int, parent: int, number: int) -> None:
    """Have this process get signal `number` when its parent is gone. `alive`, `parent`: a pipe that both of them have.

    The request comes too late where the parent has died before it; getppid does not tell across PID namespaces.
    """
    kernel.set_parent_death_signal(number)
    os.close(parent)
    if _is_closed(alive):
        os._exit(255)


_NAMESPACES = {
    "pid": kernel.CLONE_NEWPID, "ipc": kernel.CLONE_NEWIPC, "net": kernel.CLONE_NEWNET, "uts": kernel.CLONE_NEWUTS,
}  # fmt: skip


def _is_closed(pipe: int) -> bool:
    """Whether nobody can write to the pipe any more. Closes it."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False
    finally:
        os.close(pipe)
