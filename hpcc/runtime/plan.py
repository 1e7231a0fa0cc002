"""From what the user asked for to a tuple of operations. Pure; `--dry-run` prints it, launch.py does it.

Paths that operations name are paths in the container. The root filesystem of the image is already mounted, outside
of it, when the first operation runs (rootfs.py).
"""

from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.environment import script
from hpcc.runtime.spec import Container

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpcc.runtime.limits import Setting


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


class MountImage(NamedTuple):
    """A filesystem in a file of the host, mounted beside the container's root; others name it by its number, from 1.

    kind: "squashfs" or "ext". id: of the object of a SIF that has it, 0 where the file itself is one.
    """

    number: int
    path: str
    kind: str
    readonly: bool
    id: int = 0


class Upper(NamedTuple):
    """A layer over the image's root, in a directory with upper/ and work/, or in a mounted image.

    image: its number, 0 for a directory of the host. whole: the image's own root is the layer.
    """

    path: str
    readonly: bool
    image: int = 0
    whole: bool = False


class Point(NamedTuple):
    """Where the image must have something to mount on: a directory, a file, or (None) what the source is.

    image: the number of the mounted image in which the source is a path, 0 for the host.
    """

    path: str
    directory: bool | None
    source: str = ""
    image: int = 0


class Limit(NamedTuple):
    """A cgroup of its own, with these settings, for the child of StayBeside or Unshare; hpcc stays outside.

    `option`: who asks for it.
    """

    settings: "tuple[Setting, ...]"
    option: str


class Layer(NamedTuple):
    """The root of the container: the image, with the mount points that it lacks; writable or not.

    writable: "", "tmpfs" (discarded), "overlay" (the one of `overlays` that is), or "image" (the directory that it is)
    overlays: lowest first; the one that is written to goes on top all the same
    """

    writable: str
    overlays: tuple[Upper, ...]
    points: tuple[Point, ...]


class StayBeside(NamedTuple):
    """What follows happens in a child; this process waits for it, and then for its images and its cgroup to be done."""


class Mount(NamedTuple):
    """A filesystem of a kind: tmpfs, proc, devpts, mqueue."""

    kind: str
    target: str
    options: str = ""


class BindMount(NamedTuple):
    """image: the number of the mounted image in which the source is a path, 0 for the host."""

    source: str
    target: str
    readonly: bool = False
    optional: bool = False
    device: bool = False  # device files stay usable
    image: int = 0


class Link(NamedTuple):
    target: str
    path: str


class MakeDirectory(NamedTuple):
    path: str


class Accounts(NamedTuple):
    """/etc/passwd and /etc/group of the image, with the caller's line and those of his groups, (name, gid), added."""

    user: str
    uid: int
    gid: int
    gecos: str
    shell: str
    groups: tuple[tuple[str, int], ...]
    home: str


class Confine(NamedTuple):
    """What SELinux (a label) or AppArmor (a profile) makes of the payload, from its execution on."""

    selinux: str
    apparmor: str


class Pivot(NamedTuple):
    """The container's root becomes the process's root; the host's filesystem is gone."""


class ChangeDirectory(NamedTuple):
    """The first of these that exists; an error where there is but one and it does not."""

    candidates: tuple[str, ...]


class App(NamedTuple):
    """The image must have this SCIF app, and of it the file `runs`, if that is not empty."""

    name: str
    runs: str = ""


class DropPrivileges(NamedTuple):
    """No new privileges, and no capability in any set but those in the mask `kept`.

    fakeroot: they are those of a user namespace in which the payload is root; set-user-id programs may regain them.
    identity: (uid, gids) of the payload, where they are not the caller's.
    """

    umask: int
    kept: int = 0
    fakeroot: bool = False
    identity: tuple[int, tuple[int, ...]] | None = None


class Filter(NamedTuple):
    """The system calls of the payload are filtered: a seccomp profile, as a program for the kernel."""

    profile: str
    program: bytes


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
    | MountImage
    | Limit
    | Layer
    | StayBeside
    | Unshare
    | Mount
    | BindMount
    | Link
    | MakeDirectory
    | Accounts
    | Confine
    | Pivot
    | App
    | ChangeDirectory
    | DropPrivileges
    | Filter
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
    images = _images(container)
    mounts = [*_system(container), *_user(container, images)]
    # The layer first: a daemon that serves it is then no child of the payload's, and not in its PID namespace.
    ops: list[Op] = [KeptDirectory(*each) for each in container.kept]
    ops += images.values()
    ops.append(Layer(container.writable, tuple(_uppers(container, images)), tuple(_points(mounts))))
    if container.limits:
        ops.append(Limit(container.limits, container.limits_by))
    if "pid" not in container.namespaces and _wants_somebody_beside(ops):
        ops.append(StayBeside())
    if container.namespaces:
        ops.append(Unshare(container.namespaces, container.hostname, container.init, container.implied))
    ops += mounts
    ops.append(Accounts(*container.account, container.home))
    return (*ops, *_confinement(container), Pivot(), *_payload(container))


def _confinement(container: Container) -> list[Op]:
    security = container.security
    return (
        [Confine(security.selinux, security.apparmor)] if security and (security.selinux or security.apparmor) else []
    )


def _payload(container: Container) -> list[Op]:
    """What happens in the container's root."""
    ops: list[Op] = []
    by_script = container.scripts or bool(container.app)
    text = script(container.override, scripts=container.scripts, app=container.app) if by_script else ""
    if container.app:
        runs = container.argv[0] if container.argv[0].startswith(f"/scif/apps/{container.app}/scif/") else ""
        ops.append(App(container.app, runs))
    drop = DropPrivileges(container.umask, container.capabilities, container.fakeroot, container.identity)
    # Root finds its way to any directory; somebody else should not be left in one of root's.
    there = ChangeDirectory(container.cwd)
    ops += [drop, there] if container.identity else [there, drop]
    if container.security and container.security.seccomp:
        ops.append(Filter(container.security.seccomp, container.security.program))
    ops.append(Execute(container.argv, container.environment, text))
    return ops


def plan_instance(container: Container, name: str, arguments: tuple[str, ...] | None) -> tuple[Op, ...]:
    """The same for an instance, with process 1 of ours. `arguments`: of its startscript; None: it runs the payload."""
    namespaces = tuple(dict.fromkeys(("pid", "ipc", *container.namespaces)))
    ops = plan_container(_named(container._replace(namespaces=namespaces, init=True, implied=()), name))
    last = ops[-1]
    if arguments is None or not isinstance(last, Execute):
        return ops
    path = f"/scif/apps/{container.app}/scif/startscript" if container.app else STARTSCRIPT
    return (*ops[:-1], Startscript(path, arguments, last.environment, last.script))


def _wants_somebody_beside(ops: "Sequence[Op]") -> bool:
    """Whether something is to be done once the payload has ended."""
    return any(isinstance(op, Limit) or (isinstance(op, MountImage) and not op.readonly) for op in ops)


def without_processes(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """The same plan with the host's processes, for a host where a PID namespace can have no /proc."""
    fitted: list[Op] = []
    for op in ops:
        if isinstance(op, Unshare):
            kinds = tuple(kind for kind in op.kinds if kind != "pid")
            fitted += [StayBeside()] if kinds != op.kinds and _wants_somebody_beside(ops) else []
            fitted += [op._replace(kinds=kinds, init=False)] if kinds else []
        elif isinstance(op, Mount) and op.kind == "proc":
            fitted.append(BindMount("/proc", "/proc", device=True))
        else:
            fitted.append(op)
    return tuple(fitted)


def plan_join(container: Container, name: str, pid: int) -> tuple[Op, ...]:
    """What is left of a plan where the root is there already: join, and what a plan does after Pivot."""
    container = _named(container, name)
    return (Join(name, pid), *_confinement(container), *_payload(container))


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


def _images(container: Container) -> dict[tuple[str, int], MountImage]:
    """By file and object. One that is used several times is mounted once, to be written to if any of them does."""
    used = [(each.path, each.kind, each.readonly, each.id) for each in container.overlays if each.kind != "directory"]
    used += [(each.image, each.kind, each.readonly, each.id) for each in container.binds if each.image]
    found: dict[tuple[str, int], MountImage] = {}
    for path, kind, readonly, id in used:
        known = found.get((path, id)) or MountImage(len(found) + 1, path, kind, True, id)
        found[path, id] = known._replace(readonly=known.readonly and readonly)
    return found


def _uppers(container: Container, images: dict[tuple[str, int], MountImage]) -> list[Upper]:
    return [
        Upper(each.path, each.readonly)
        if each.kind == "directory"
        else Upper(each.path, each.readonly, images[each.path, each.id].number, each.kind == "squashfs")
        for each in container.overlays
    ]


def _user(container: Container, images: dict[tuple[str, int], MountImage]) -> list[Op]:
    ops: list[Op] = [
        Mount("tmpfs", path, "mode=1777" if path in ("/tmp", "/var/tmp") else "mode=0755")
        for path in container.temporary
    ]
    for bind in (*container.devices, *container.binds):
        number = images[bind.image, bind.id].number if bind.image else 0
        ops.append(BindMount(bind.source, bind.target, bind.readonly, bind.optional, bind.device, number))
    return ops


def _points(mounts: list[Op]) -> list[Point]:
    """What lies below an earlier target is that one's business."""
    points: list[Point] = []
    for op in mounts:
        if isinstance(op, Mount | BindMount) and not any(op.target.startswith(each.path + "/") for each in points):
            points.append(
                Point(op.target, None, op.source, op.image) if isinstance(op, BindMount) else Point(op.target, True)
            )
    return points


def describe(op: Op) -> str:
    """One line for --dry-run."""
    if isinstance(op, Execute):
        return f"Execute {' '.join(op.argv) or 'a shell'}, {len(op.environment)} variables" + (
            ", by /bin/sh" * bool(op.script)
        )
    if isinstance(op, Startscript):
        return f"Startscript {' '.join((op.path, *op.arguments))}, {len(op.environment)} variables"
    if isinstance(op, Filter):
        return f"Filter profile={op.profile!r}, {len(op.program) // 8} instructions"
    if isinstance(op, Limit):
        return f"Limit {', '.join(f'{each.file}={each.text!r}' for each in op.settings)}"
    fields = ", ".join(
        f"{name}={value!r}" for name, value in op._asdict().items() if value not in ("", False, None, ())
    )
    return f"{type(op).__name__} {fields}".rstrip()
