"""What the user asked for: options and image config in, a container in plain values out. Pure.

The modes and their meaning are Apptainer's:

    default         home, cwd, /tmp, /var/tmp, /dev, /proc, /sys and the site's bind paths are the host's
    --contain       a minimal /dev; home, /tmp and /var/tmp are empty and discarded
    --containall    that, a clean environment, PID and IPC namespaces
    --compat        that, a writable root that is discarded, no init, umask 0022
"""

from __future__ import annotations

import posixpath

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.environment import RunConfig, container_environment

if TYPE_CHECKING:
    from collections.abc import Mapping


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


class Bind(NamedTuple):
    """A host path in the container. `optional` ones are left out where the host has no such path.

    device: a device node, which stays usable.
    """

    source: str
    target: str
    readonly: bool = False
    optional: bool = False
    device: bool = False


class Devices(NamedTuple):
    """What GPUs and other devices need in a container: gpu.py finds it out."""

    binds: tuple[Bind, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class Options(NamedTuple):
    """The options of run, exec and shell, as parsed."""

    binds: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pwd: str | None = None
    home: str | None = None
    cleanenv: bool = False
    contain: bool = False
    containall: bool = False
    compat: bool = False
    writable_tmpfs: bool = False
    no_home: bool = False
    no_umask: bool = False
    no_init: bool = False
    shell: str | None = None
    devices: Devices = Devices()


class Caller(NamedTuple):
    """Who runs it, from where."""

    uid: int
    gid: int
    user: str
    home: str
    cwd: str
    umask: int
    environ: Mapping[str, str]


class Container(NamedTuple):
    """Everything that the plan needs to know, decided."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]  # sorted
    override: tuple[tuple[str, str], ...]  # what wins over the image's own env scripts, where it has some
    scripts: bool  # the image's environment stands in /.singularity.d/env, which needs a shell to read
    cwd: tuple[str, ...]  # the first that exists; the only one must
    home: str
    account: tuple[str, int, int]
    binds: tuple[Bind, ...]
    temporary: tuple[str, ...]  # directories that are empty and discarded
    minimal_dev: bool
    new_pid: bool
    new_ipc: bool
    init: bool
    writable: bool
    umask: int
    devices: tuple[Bind, ...] = ()  # before the binds, so that a user's own are on top


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

    binds: list[Bind] = []
    temporary: list[str] = []
    for path in _HOST_FILES:
        binds.append(Bind(path, path, readonly=True, optional=True))  # real root could write to the host's
    if contain:
        temporary += ["/tmp", "/var/tmp"]
    else:
        binds += [Bind("/tmp", "/tmp", optional=True), Bind("/var/tmp", "/var/tmp", optional=True)]
    if not options.no_home and home != "/":
        if contain and options.home is None:
            temporary.append(home)
        else:
            binds.append(Bind(home_source, home, optional=options.home is None))
    wanted = [parse_bind(text, caller.cwd) for item in (*site_binds, *options.binds) for text in split_binds(item)]
    if not contain and not _is_covered(caller.cwd, [*binds, *wanted]) and caller.cwd not in _SYSTEM_DIRECTORIES:
        binds.append(Bind(caller.cwd, caller.cwd, optional=True))
    binds += wanted

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
        binds=options.binds,
        devices=options.devices.env,
    )
    return Container(
        _argv(config, command, arguments, options.shell),
        environment,
        override,
        config.scripts,
        _cwd(options, caller.cwd, home, binds if contain else None),
        home,
        (caller.user, caller.uid, caller.gid),
        tuple(binds),
        tuple(temporary),
        contain,
        containall,
        containall,
        containall and not (options.no_init or compat),
        options.writable_tmpfs or compat,
        0o022 if options.no_umask or compat else caller.umask,
        _devices(options.devices.binds, contain),
    )


def split_binds(text: str) -> list[str]:
    """`a:b,c` as its parts; a comma or colon behind a backslash belongs to a path."""
    return [part for part in _split(text, ",") if part]


def parse_bind(text: str, cwd: str) -> Bind:
    """SRC[:DEST[:ro|rw]], with `\\:` for a colon in a path, SRC relative to `cwd`. UsageError says what is wrong."""
    parts = [part.replace("\\:", ":").replace("\\,", ",") for part in _split(text, ":")]
    if len(parts) > 3 or not parts[0] or (len(parts) > 2 and parts[2] not in ("ro", "rw")):
        raise UsageError(f"--bind {text!r} does not parse", hint="Write SRC[:DEST[:ro|rw]], several by commas.")
    source = posixpath.normpath(posixpath.join(cwd, parts[0]))
    target = parts[1] if len(parts) > 1 and parts[1] else source
    if not target.startswith("/"):
        raise UsageError(f"--bind {text!r}: the destination {target!r} is not an absolute path")
    return Bind(source, posixpath.normpath(target), len(parts) > 2 and parts[2] == "ro")


def _split(text: str, separator: str) -> list[str]:
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current, escaped = current + "\\" + character, False
        elif character == "\\":
            escaped = True
        elif character == separator:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current + ("\\" if escaped else "")]


def _home(options: Options, caller: Caller) -> tuple[str, str]:
    """(path on the host, path in the container) of the home directory."""
    if options.home is None:
        return caller.home, caller.home
    source, _, target = options.home.partition(":")
    source = posixpath.normpath(posixpath.join(caller.cwd, source))
    target = posixpath.normpath(target or source)
    if not target.startswith("/"):
        raise UsageError(f"--home {options.home!r}: {target!r} is not an absolute path", hint="Write SRC or SRC:DEST.")
    return source, target


def _cwd(options: Options, cwd: str, home: str, binds: list[Bind] | None) -> tuple[str, ...]:
    """Where to start: the caller's directory where the container has the host's one, else home."""
    if options.pwd is not None:
        return (options.pwd,)
    if binds is None or _is_covered(cwd, binds):
        return (cwd, home, "/")
    return (home, "/")


def _devices(binds: tuple[Bind, ...], contain: bool) -> tuple[Bind, ...]:
    """Without the nodes that the container has anyway, where its /dev is the host's."""
    return tuple(bind for bind in binds if contain or not bind.device or bind.source != bind.target)


def _is_covered(path: str, binds: list[Bind]) -> bool:
    return any(
        bind.source == bind.target and (path == bind.source or path.startswith(bind.source + "/")) for bind in binds
    )


def _argv(config: RunConfig, command: str, arguments: tuple[str, ...], shell: str | None) -> tuple[str, ...]:
    """The payload. Empty: a shell, whichever the image has."""
    if command == "exec":
        return arguments
    if command == "shell":
        return (shell, *arguments) if shell else ("", *arguments)
    if config.runscript:
        return (config.runscript, *arguments)
    return (*config.entrypoint, *(arguments or config.cmd)) or ("",)
