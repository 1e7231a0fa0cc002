"""What the user asked for: options and image config in, a container in plain values out. Pure.

The modes and their meaning are Apptainer's:

    default         home, cwd, /tmp, /var/tmp, /dev, /proc, /sys and the site's bind paths are the host's
    --contain       a minimal /dev; home, /tmp and /var/tmp are empty and discarded, or in --workdir
    --containall    that, a clean environment, PID and IPC namespaces
    --compat        that, a writable root that is discarded, no init, umask 0022; it starts in the image's WORKDIR,
                    but where --home brings the working directory along, there, as Apptainer does

--job-env brings along in each of them what the job's variables lead to: job.py.
"""

from __future__ import annotations

import posixpath

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.binds import Bind, Overlay, absolute, parse_bind, parse_mount, split_binds
from hpcc.runtime.environment import RunConfig, container_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpcc.runtime.limits import Setting
    from hpcc.runtime.security import Security


_SYSTEM_DIRECTORIES = frozenset(
    (
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/lib",
        "/lib64",
        "/mnt",
        "/opt",
        "/proc",
        "/run",
        "/sbin",
        "/sys",
        "/usr",
        "/var",
    )
)
_HOST_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/localtime")
MOST_HOSTNAME = 64  # as Linux, HOST_NAME_MAX
NO_MOUNT = ("proc", "sys", "dev", "devpts", "home", "tmp", "hostfs", "cwd", "bind-paths")
"""What --no-mount leaves out by name; it takes destinations of the site's bind paths and of host files as well."""


class Devices(NamedTuple):
    """What GPUs and other devices need in a container: gpu.py finds it out."""

    binds: tuple[Bind, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class Options(NamedTuple):
    """The options of run, exec and shell, as parsed."""

    binds: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pwd: str | None = None
    home: str | None = None
    cleanenv: bool = False
    contain: bool = False
    containall: bool = False
    compat: bool = False
    writable_tmpfs: bool = False
    writable: bool = False
    fakeroot: bool = False
    add_caps: str = ""
    drop_caps: str = ""
    keep_privs: bool = False
    overlays: tuple[Overlay, ...] = ()  # of all kinds, as images.py has found them
    scratch: tuple[str, ...] = ()
    workdir: str | None = None
    no_mount: tuple[str, ...] = ()
    pid: bool = False
    ipc: bool = False
    net: bool = False
    uts: bool = False
    hostname: str | None = None
    job_env: bool = False
    no_home: bool = False
    no_umask: bool = False
    no_init: bool = False
    shell: str | None = None
    devices: Devices = Devices()
    limits: tuple[Setting, ...] = ()
    limits_by: str = ""
    security: Security | None = None
    app: str | None = None
    passed: tuple[str, ...] = ()  # patterns of variables that reach a clean environment too


class Caller(NamedTuple):
    """Who runs it, from where; `login_gid`, `gecos`, `shell` and `groups` (name, gid) by the user database."""

    uid: int
    gid: int
    user: str
    home: str
    cwd: str
    umask: int
    environ: Mapping[str, str]
    login_gid: int = 0
    gecos: str = ""
    shell: str = "/bin/sh"
    groups: tuple[tuple[str, int], ...] = ()


class Account(NamedTuple):
    """The payload's line in /etc/passwd, and those of its groups, (name, gid), in /etc/group."""

    user: str
    uid: int
    gid: int
    gecos: str = ""
    shell: str = "/bin/sh"
    groups: tuple[tuple[str, int], ...] = ()


class Container(NamedTuple):
    """Everything that the plan needs to know, decided."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]  # sorted
    override: tuple[tuple[str, str], ...]  # what wins over the image's own env scripts, where it has some
    scripts: bool  # the image's environment stands in /.singularity.d/env, which needs a shell to read
    cwd: tuple[str, ...]  # the first that exists; the only one must
    home: str
    account: Account
    binds: tuple[Bind, ...]
    temporary: tuple[str, ...]  # directories that are empty and discarded
    kept: tuple[tuple[str, int], ...]  # directories on the host, made where missing, and their modes
    left_out: frozenset[str]  # of proc, sys, dev, devpts
    minimal_dev: bool
    namespaces: tuple[str, ...]  # of pid, ipc, net, uts
    hostname: str
    init: bool
    writable: str  # "", "tmpfs", "image", or "overlay"
    overlays: tuple[Overlay, ...]  # lowest first
    umask: int
    fakeroot: bool = False
    capabilities: int = 0  # a mask of those that the payload keeps
    devices: tuple[Bind, ...] = ()  # before the binds, so that a user's own are on top
    implied: tuple[str, ...] = ()  # namespaces that a mode has and nobody asked for by name
    owns_kernel: bool = False  # root calls, to whom the kernel's knobs in /proc and /sys belong
    limits: tuple[Setting, ...] = ()
    limits_by: str = ""  # the options that ask for them
    security: Security | None = None
    identity: tuple[int, tuple[int, ...]] | None = None  # of the payload: its uid and gids, where not the caller's
    app: str = ""  # a SCIF app of the image


def container_spec(
    image_name: str,
    image_path: str,
    config: RunConfig,
    options: Options,
    command: str,
    arguments: tuple[str, ...],
    caller: Caller,
    site_binds: tuple[str, ...] = (),
) -> Container:
    """Decide all of a container. `command` is run, exec or shell. UsageError for options that do not parse."""
    compat = options.compat
    containall = options.containall or compat
    contain = options.contain or containall
    clean = options.cleanenv or containall
    home_source, home = _home(options, caller)
    left_out = frozenset(options.no_mount)
    workdir = posixpath.normpath(posixpath.join(caller.cwd, options.workdir)) if options.workdir else ""

    binds: list[Bind] = []
    empty: list[tuple[str, str, int]] = []  # in the container, in the work directory, mode there
    wanted = [parse_bind(text, caller.cwd) for item in site_binds for text in split_binds(item)]
    for path in _HOST_FILES:
        binds.append(Bind(path, path, readonly=True, optional=True))  # real root could write to the host's
    if "bind-paths" in left_out:
        binds, wanted = binds[:1], []
    binds, wanted = ([bind for bind in each if bind.target not in left_out] for each in (binds, wanted))
    if "tmp" not in left_out:
        if contain:
            empty += [("/tmp", "tmp", 0o1777), ("/var/tmp", "var_tmp", 0o1777)]
        else:
            binds += [Bind("/tmp", "/tmp", optional=True), Bind("/var/tmp", "/var/tmp", optional=True)]
    if not options.no_home and "home" not in left_out and home != "/":
        if contain and options.home is None:
            empty.append((home, "home", 0o700))
        else:
            binds.append(Bind(home_source, home, optional=options.home is None))
    for path in (text for item in options.scratch for text in split_binds(item)):
        target = absolute(path, f"--scratch {path!r}")
        empty.append((target, f"scratch{target}", 0o750))
    wanted += [parse_bind(text, caller.cwd) for item in options.binds for text in split_binds(item)]
    wanted += [parse_mount(text, caller.cwd) for text in options.mounts]
    here = caller.cwd
    brought = options.home is not None and _is_covered(here, binds)
    if not (contain or "cwd" in left_out or here in _SYSTEM_DIRECTORIES or _is_covered(here, [*binds, *wanted])):
        binds.append(Bind(here, here, optional=True))
    if workdir:
        binds += [Bind(f"{workdir}/{name}", target) for target, name, _ in empty]
    if options.job_env or not contain:
        binds += _of_job(options, caller, home, [*binds, *wanted], contain=contain)
    binds += wanted

    app, identity = _app(options), _identity(options, caller)
    environment, override = container_environment(
        image_name,
        image_path,
        config,
        caller.environ,
        options.env,
        command,
        clean=clean,
        compat=compat,
        home=home,
        job=options.job_env,
        binds=options.binds,
        devices=options.devices.env,
        app=app,
        passed=options.passed,
    )
    if len((options.hostname or "").encode()) > MOST_HOSTNAME:
        raise UsageError(f"--hostname {options.hostname!r}: at most {MOST_HOSTNAME} bytes are possible")
    asked = {"pid": options.pid, "ipc": options.ipc, "net": options.net}
    namespaces = [name for name, given in asked.items() if given or (containall and name != "net")]
    if options.uts or options.hostname:
        namespaces.append("uts")
    return Container(
        _argv(config, command, arguments, options.shell, app),
        environment,
        override,
        config.scripts,
        _cwd(options, caller.cwd, home, binds if contain else None, config.directory if compat and not brought else ""),
        home,
        _account(options, caller, identity),
        tuple(binds),
        () if workdir else tuple(target for target, _, _ in empty),
        tuple((f"{workdir}/{name}", mode) for _, name, mode in empty) if workdir else (),
        left_out & {"proc", "sys", "dev", "devpts"},
        contain,
        tuple(namespaces),
        options.hostname or "",
        "pid" in namespaces and not (options.no_init or compat),
        _writable(options),
        options.overlays,
        0o022 if options.no_umask or compat else caller.umask,
        options.fakeroot,
        kept_capabilities(options),
        _devices(options.devices.binds, contain),
        tuple(name for name in namespaces if not asked.get(name, True)),
        caller.uid == 0,
        options.limits,
        options.limits_by,
        options.security,
        identity,
        app,
    )


def _app(options: Options) -> str:
    if options.app is None:
        return ""
    from hpcc.runtime.apps import check_app

    return check_app(options.app)


def _identity(options: Options, caller: Caller) -> tuple[int, tuple[int, ...]] | None:
    if options.security is None:
        return None
    from hpcc.runtime.security import identity

    found = identity(options.security, caller.uid, caller.gid)
    if found and options.fakeroot:
        raise UsageError("--fakeroot and --security uid or gid exclude each other", hint="Each says who one is inside.")
    return found


def _account(options: Options, caller: Caller, identity: tuple[int, tuple[int, ...]] | None) -> Account:
    if options.fakeroot:
        return Account("root", 0, 0, groups=(("root", 0),))
    if identity is not None:
        name = options.security.user if options.security and options.security.user else caller.user
        return Account(name, identity[0], identity[1][0])
    return Account(caller.user, caller.uid, caller.login_gid, caller.gecos, caller.shell, caller.groups)


def kept_capabilities(options: Options) -> int:
    """Those of its own user namespace, for real root of the host, that the payload keeps. UsageError."""
    if not (options.fakeroot or options.keep_privs or options.add_caps or options.drop_caps):
        return 0
    from hpcc.runtime.capabilities import ALL, parse_capabilities

    kept = ALL if options.fakeroot or options.keep_privs else parse_capabilities(options.add_caps, "--add-caps")
    return kept & ~parse_capabilities(options.drop_caps, "--drop-caps")


def _writable(options: Options) -> str:
    """What writes to the root go to. UsageError for options that exclude each other."""
    overlay = any(not each.readonly for each in options.overlays)  # with --writable it is the image's own
    chosen = {
        "--writable": options.writable,
        "--overlay": overlay and not options.writable,
        "--writable-tmpfs": options.writable_tmpfs,
    }
    given = [name for name, is_given in chosen.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="Each says where what is written goes.")
    if overlay or not given:
        return "overlay" if overlay else "tmpfs" if options.compat else ""
    return "image" if options.writable else "tmpfs"


def _home(options: Options, caller: Caller) -> tuple[str, str]:
    """(path on the host, path in the container) of the home directory."""
    if options.home is None:
        return caller.home, "/root" if options.fakeroot else caller.home
    source, _, target = options.home.partition(":")
    source = posixpath.normpath(posixpath.join(caller.cwd, source))
    target = posixpath.normpath(target or source)
    if not target.startswith("/"):
        raise UsageError(f"--home {options.home!r}: {target!r} is not an absolute path", hint="Write SRC or SRC:DEST.")
    return source, target


def _cwd(options: Options, cwd: str, home: str, binds: list[Bind] | None, directory: str) -> tuple[str, ...]:
    """Where to start: the image's `directory`; the caller's where the container has the host's one; else home."""
    if options.pwd is not None:
        return (options.pwd,)
    if directory.startswith("/") and "\0" not in directory:
        return (directory, home, "/")
    if binds is None or _is_covered(cwd, binds):
        return (cwd, home, "/")
    return (home, "/")


def _of_job(options: Options, caller: Caller, home: str, binds: list[Bind], *, contain: bool) -> list[Bind]:
    """What a job needs, but for what is there. The home directory stays empty where it is to be."""
    environ, left_out = caller.environ, options.no_mount
    if not (options.job_env or "SLURM_JOB_ID" in environ or "PMIX_SERVER_TMPDIR" in environ):
        return []
    from hpcc.runtime.job import job_devices, job_directories

    found: list[Bind] = []
    for path in job_directories(environ, caller.cwd, contain=contain):
        if path in ("/tmp", "/var/tmp", home, *_SYSTEM_DIRECTORIES, *left_out):
            continue
        if not _is_covered(path, [*binds, *found]):
            found.append(Bind(path, path, optional=True))
    if contain:
        found += (bind for bind in job_devices() if bind.target not in left_out and "dev" not in left_out)
    return found


def _devices(binds: tuple[Bind, ...], contain: bool) -> tuple[Bind, ...]:
    """Without the nodes that the container has anyway, where its /dev is the host's."""
    return tuple(bind for bind in binds if contain or not bind.device or bind.source != bind.target)


def _is_covered(path: str, binds: list[Bind]) -> bool:
    return any(
        bind.source == bind.target and (path == bind.source or path.startswith(bind.source + "/"))
        for bind in binds
        if not bind.image
    )


def _argv(config: RunConfig, command: str, arguments: tuple[str, ...], shell: str | None, app: str) -> tuple[str, ...]:
    """The payload. Empty: a shell, whichever the image has."""
    if command == "exec":
        return arguments
    if command == "shell":
        return (shell, *arguments) if shell else ("", *arguments)
    if command == "test":
        from hpcc.runtime.apps import test_command

        return (*test_command(app), *arguments)
    if app and command == "run":
        from hpcc.runtime.apps import file_of

        return (file_of(app, "runscript"), *arguments)
    if config.runscript:
        return (config.runscript, *arguments)
    return (*config.entrypoint, *(arguments or config.cmd)) or ("",)
