"""From what the user asked for to a tuple of operations. Pure; `--dry-run` prints it, launch.py does it.

Paths that operations name are paths in the container. The root filesystem of the image is already mounted, outside
of it, when the first operation runs (rootfs.py).
"""

from hpcc.records import NamedTuple
from hpcc.runtime.environment import script
from hpcc.runtime.spec import Container


class KeptDirectory(NamedTuple):
    """A directory on the host, made with this mode where it is missing: the container's writes stay there."""

    path: str
    mode: int


class Unshare(NamedTuple):
    """Namespaces of its own, of pid, ipc, net and uts. With pid, what follows happens in a child.

    `hostname`: in uts. `init`: with pid, a process 1 that reaps. `implied`: kinds that nobody asked for by name.
    """

    kinds: tuple[str, ...]
    hostname: str
    init: bool
    implied: tuple[str, ...] = ()


class Layer(NamedTuple):
    """The root of the container: the image, with the mount points that it lacks; writable or not.

    writable: "", "tmpfs" (discarded), "overlay" (the last of `overlays`), or "image" (the directory that it is)
    overlays: directories with an upper/ each, lowest first, and whether they are only read
    points: (path, whether it is a directory; None: what the source on the host is, path of the source)
    """

    writable: str
    overlays: tuple[tuple[str, bool], ...]
    points: tuple[tuple[str, bool | None, str], ...]


class Mount(NamedTuple):
    """A filesystem of a kind: tmpfs, proc, devpts, mqueue."""

    kind: str
    target: str
    options: str = ""


class BindMount(NamedTuple):
    source: str
    target: str
    readonly: bool = False
    optional: bool = False
    device: bool = False  # device files stay usable


class Link(NamedTuple):
    target: str
    path: str


class MakeDirectory(NamedTuple):
    path: str


class Accounts(NamedTuple):
    """/etc/passwd and /etc/group of the image, with the caller's entries added."""

    user: str
    uid: int
    gid: int
    home: str


class Pivot(NamedTuple):
    """The container's root becomes the process's root; the host's filesystem is gone."""


class ChangeDirectory(NamedTuple):
    """The first of these that exists; an error where there is but one and it does not."""

    candidates: tuple[str, ...]


class DropPrivileges(NamedTuple):
    """No new privileges, and no capability in any set but those in the mask `kept`.

    fakeroot: they are those of a user namespace in which the payload is root; set-user-id programs may regain them.
    """

    umask: int
    kept: int = 0
    fakeroot: bool = False


class Execute(NamedTuple):
    """Become the payload. An empty name is a shell, whichever the image has. `script` runs it where not empty."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    script: str


class Startscript(NamedTuple):
    """Become the image's startscript; where it has none that says anything, nothing more runs than process 1."""

    path: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    script: str


class Join(NamedTuple):
    """The namespaces of a running instance, whose process 1 is `pid`; what follows happens in a child."""

    instance: str
    pid: int


Op = (
    KeptDirectory
    | Unshare
    | Layer
    | Mount
    | BindMount
    | Link
    | MakeDirectory
    | Accounts
    | Pivot
    | ChangeDirectory
    | DropPrivileges
    | Execute
    | Startscript
    | Join
)

STARTSCRIPT = "/.singularity.d/startscript"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_KNOBS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
_DEV_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)


def plan_container(container: Container) -> tuple[Op, ...]:
    """The operations, in their order."""
    mounts = [*_system(container), *_user(container)]
    # The layer first: a daemon that serves it is then no child of the payload's, and not in its PID namespace.
    ops: list[Op] = [KeptDirectory(*each) for each in container.kept]
    ops.append(Layer(container.writable, container.overlays, tuple(_points(mounts))))
    if container.namespaces:
        ops.append(Unshare(container.namespaces, container.hostname, container.init, container.implied))
    ops += mounts
    ops.append(Accounts(*container.account, container.home))
    ops.append(Pivot())
    ops.append(ChangeDirectory(container.cwd))
    ops.append(DropPrivileges(container.umask, container.capabilities, container.fakeroot))
    ops.append(Execute(container.argv, container.environment, script(container.override) if container.scripts else ""))
    return tuple(ops)


def plan_instance(container: Container, name: str, arguments: tuple[str, ...] | None) -> tuple[Op, ...]:
    """The same for an instance, with process 1 of ours. `arguments`: of its startscript; None: it runs the payload."""
    namespaces = tuple(dict.fromkeys(("pid", "ipc", *container.namespaces)))
    ops = plan_container(_named(container._replace(namespaces=namespaces, init=True, implied=()), name))
    last = ops[-1]
    if arguments is None or not isinstance(last, Execute):
        return ops
    return (*ops[:-1], Startscript(STARTSCRIPT, arguments, last.environment, last.script))


def without_processes(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The same plan with the host's processes, for a host where a PID namespace can have no /proc."""
    fitted: list[Op] = []
    for op in ops:
        if isinstance(op, Unshare):
            kinds = tuple(kind for kind in op.kinds if kind != "pid")
            fitted += [op._replace(kinds=kinds, init=False)] if kinds else []
        elif isinstance(op, Mount) and op.kind == "proc":
            fitted.append(BindMount("/proc", "/proc", device=True))
        else:
            fitted.append(op)
    return tuple(fitted)


def plan_join(container: Container, name: str, pid: int) -> tuple[Op, ...]:
    """What is left of a plan where the root is there already: join, and what a plan does after Pivot."""
    ops = plan_container(_named(container, name))
    return (Join(name, pid), *ops[ops.index(Pivot()) + 1 :])


def _named(container: Container, name: str) -> Container:
    """With the instance's name in the environment, where Apptainer's scripts look for it."""
    names = {f"{prefix}_INSTANCE": name for prefix in ("APPTAINER", "SINGULARITY", "HPCC")}
    return container._replace(environment=tuple(sorted((dict(container.environment) | names).items())))


def _system(container: Container) -> list[Op]:
    left_out = container.left_out
    ops: list[Op] = [] if "dev" in left_out else _devices(container)
    root = container.owns_kernel  # and some of its knobs, core_pattern first, run programs outside of any container
    if "proc" not in left_out:
        own = "pid" in container.namespaces
        ops.append(Mount("proc", "/proc") if own else BindMount("/proc", "/proc", device=True))
    if "sys" not in left_out:
        ops.append(BindMount("/sys", "/sys", readonly=root, optional=True))
    if root and "proc" not in left_out:
        ops += [BindMount(path, path, readonly=True, optional=True) for path in _KNOBS]
    return ops


def _devices(container: Container) -> list[Op]:
    if not container.minimal_dev:
        return [BindMount("/dev", "/dev", device=True)]
    ops: list[Op] = [Mount("tmpfs", "/dev", "mode=755,size=64m"), MakeDirectory("/dev/shm"), MakeDirectory("/dev/pts")]
    ops += [BindMount(f"/dev/{name}", f"/dev/{name}", optional=True, device=True) for name in _DEVICES]
    ops.append(Mount("tmpfs", "/dev/shm", "mode=1777"))
    if "devpts" not in container.left_out:
        ops.append(Mount("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620"))
    if "ipc" in container.namespaces:
        ops += [MakeDirectory("/dev/mqueue"), Mount("mqueue", "/dev/mqueue")]
    return [*ops, *(Link(target, path) for target, path in _DEV_LINKS)]


def _user(container: Container) -> list[Op]:
    ops: list[Op] = [
        Mount("tmpfs", path, "mode=1777" if path in ("/tmp", "/var/tmp") else "mode=0755")
        for path in container.temporary
    ]
    ops += [BindMount(*bind) for bind in (*container.devices, *container.binds)]
    return ops


def _points(mounts: list[Op]) -> list[tuple[str, bool | None, str]]:
    """Where the image must have something to mount on. What lies below an earlier target is that one's business."""
    points: list[tuple[str, bool | None, str]] = []
    for op in mounts:
        if isinstance(op, Mount | BindMount) and not any(op.target.startswith(path + "/") for path, _, _ in points):
            points.append((op.target, None, op.source) if isinstance(op, BindMount) else (op.target, True, ""))
    return points


def describe(op: Op) -> str:
    """One line for --dry-run."""
    if isinstance(op, Execute):
        return f"Execute {' '.join(op.argv) or 'a shell'}, {len(op.environment)} variables" + (
            ", by /bin/sh" * bool(op.script)
        )
    if isinstance(op, Startscript):
        return f"Startscript {' '.join((op.path, *op.arguments))}, {len(op.environment)} variables"
    fields = ", ".join(
        f"{name}={value!r}" for name, value in op._asdict().items() if value not in ("", False, None, ())
    )
    return f"{type(op).__name__} {fields}".rstrip()
