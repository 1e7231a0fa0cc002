"""hpcc run, exec, shell: one spec, one plan, one launch."""

import os

from hpcc.cli import say
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, parsed, source_settings, wanted_image
from hpcc.errors import InvalidImage, RuntimeUnavailable, UsageError
from hpcc.image import note_use
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.binds import split_binds
from hpcc.runtime.enter import caller, can_mount, fit, is_served, start
from hpcc.runtime.plan import Op, describe, plan_container
from hpcc.runtime.spec import NO_MOUNT, Container, Devices, Options, container_spec, kept_capabilities
from hpcc.settings import KEYS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpcc.local import Image
    from hpcc.runtime.binds import Overlay
    from hpcc.runtime.limits import Setting

_OPTIONS = (
    Option(
        ("-B", "--bind"),
        "bind a host path into the container; several by commas. With :image-src=PATH[,id=N] for :ro, SRC is a "
        "squashfs, ext3 or SIF file and PATH lies in it",
        "SRC[:DEST[:ro]]",
        many=True,
    ),
    Option(
        ("--mount",),
        "the same: type=bind,source=SRC,destination=DEST, then any of ,ro ,image-src=PATH ,id=N",
        "SPEC",
        many=True,
    ),
    Option(("--env",), "set a variable in the container", "NAME=VALUE", many=True),
    Option(("--env-file",), "set the variables that this shell script sets", "FILE", many=True),
    Option(("--job-env",), "with a clean environment: pass Slurm's, MPI's, Dask's and GPU variables all the same"),
    Option(("--pwd", "--cwd"), "working directory in the container", "DIR"),
    Option(("-H", "--home"), "the home directory in the container", "SRC[:DEST]"),
    Option(("-e", "--cleanenv"), "leave the host's variables out"),
    Option(("-c", "--contain"), "empty home and /tmp, minimal /dev"),
    Option(("-C", "--containall"), "--contain, a clean environment, own PID and IPC namespaces"),
    Option(("--compat",), "as Docker does: --containall, a writable root that is discarded, umask 0022"),
    Option(("--writable-tmpfs",), "a writable root that is discarded"),
    Option(("-w", "--writable"), "write to the image itself: a directory, or a SIF with an overlay partition"),
    Option(
        ("--overlay", "-o"),
        "a writable root that stays in a directory or ext3 image (hpcc overlay create); with :ro, and from a "
        "squashfs, only read; several, the later on top",
        "PATH[:ro]",
        many=True,
    ),
    Option(("-S", "--scratch"), "an empty directory in the container, discarded or in --workdir", "DIR", many=True),
    Option(("-W", "--workdir"), "where --contain's home, /tmp and /var/tmp, and --scratch stay", "DIR"),
    Option(("--no-home",), "do not mount the home directory"),
    Option(("--no-mount",), f"leave out, by commas: {', '.join(NO_MOUNT)}, or a bound path", "NAME", many=True),
    Option(("-f", "--fakeroot"), "be root in the container, with other users too where /etc/subuid gives ids"),
    Option(("--add-caps",), "keep capabilities, by commas: a user's hold in the container alone", "CAP_X"),
    Option(("--drop-caps",), "with --fakeroot, --keep-privs or --add-caps: all the same not these", "CAP_X"),
    Option(("--keep-privs",), "keep all of them"),
    Option(("--no-privs",), "keep none, which is so anyway"),
    Option(
        ("--security",),
        "seccomp:FILE, an OCI profile; uid:N, gid:N, who one is; selinux:LABEL, apparmor:PROFILE",
        "WORD",
        many=True,
    ),
    Option(("--cpus",), "at most so many processors, 1.5 say; limits need cgroups v2 that may be divided", "N"),
    Option(("--memory",), "at most so much memory: 512M, 1.5g, bytes", "SIZE"),
    Option(("--memory-swap",), "that and swap together, -1: any", "SIZE"),
    Option(("--memory-reservation",), "memory that others do not take away", "SIZE"),
    Option(("--pids-limit",), "at most so many processes and threads", "N"),
    Option(("--cpu-shares",), "share of processors that others want too, 1024 is usual", "N"),
    Option(("--cpuset-cpus",), "these processors: 0-3,7", "LIST"),
    Option(("--cpuset-mems",), "these memory nodes", "LIST"),
    Option(("--blkio-weight",), "share of disks that others want too: 10 to 1000", "N"),
    Option(("--blkio-weight-device",), "the same of one disk", "DEVICE:N", many=True),
    Option(("--apply-cgroups",), "all limits from a TOML file of Apptainer's form", "FILE"),
    Option(("--app",), "an application of the image: its environment; `run` runs it", "NAME"),
    Option(("-p", "--pid"), "a PID namespace of its own"),
    Option(("-i", "--ipc"), "an IPC namespace of its own"),
    Option(("-n", "--net"), "a network of its own: the loopback alone"),
    Option(("--network",), "with --net: none, the only one there is without root", "NAME"),
    Option(("--uts",), "a UTS namespace of its own"),
    Option(("--hostname",), "that, and this name for the host", "NAME"),
    Option(("-u", "--userns"), "go the way of users, also as root: a user namespace"),
    Option(("--no-umask",), "umask 0022 instead of the caller's"),
    Option(("--no-init",), "with --pid or --containall: no process 1 of our own beside the payload"),
    Option(("--nv",), "NVIDIA's GPUs, libraries and programs of this host"),
    Option(("--rocm",), "the same of AMD's ROCm"),
    Option(("--device",), "a device of a CDI specification; several by commas", "VENDOR/CLASS=NAME", many=True),
    Option(("--mpi",), "the host's MPI and fabric libraries in front of the image's: a profile of the site", "PROFILE"),
    Option(("--nvccli",), "the same as --nv, which uses nvidia-container-cli where no CDI is"),
    Option(("--no-eval",), "accepted for Apptainer's sake: hpcc never evaluates arguments in a shell"),
    Option(("--stage",), "run from a copy on this node: node, auto (of what nodes share), shared (default)", "WHEN"),
    Option(("--share",), "namespaces of the other ranks of a step on this node: auto (default) or never", "WHEN"),
    Option(("--no-hold",), "do not keep the image mounted for the next run"),
    Option(("--backend",), "who runs it: auto (default), native, or apptainer, the site's own", "NAME"),
    Option(("--dry-run",), "print what would be done"),
    *SOURCE_OPTIONS,
)

COMMANDS = {
    "exec": Command(
        "exec [OPTIONS] IMAGE COMMAND [ARG…]",
        "Run a command in an image: docker://NAME, a SIF, a squashfs file or a directory; also "
        "docker-daemon:NAME:TAG, docker-archive:FILE, oci:DIR, oci-archive:FILE, oras://NAME, "
        "library://NAME, https://HOST/FILE.",
        _OPTIONS,
        "hpcc exec --compat docker://debian:12 cat /etc/os-release\nhpcc exec --bind /data:/mnt:ro image.sif ls /mnt",
        stops=True,
    ),
    "run": Command(
        "run [OPTIONS] IMAGE [ARG…]",
        "Run what the image is made to run: its ENTRYPOINT with the arguments, or its CMD.",
        _OPTIONS,
        "hpcc run docker://python:3.12 python3 -c 'print(1)'",
        stops=True,
    ),
    "shell": Command(
        "shell [OPTIONS] IMAGE",
        "Open a shell in an image.",
        (*_OPTIONS, Option(("--shell",), "this shell instead of bash or sh", "PATH")),
        "hpcc shell docker://debian:12",
        stops=True,
    ),
    "test": Command(
        "test [OPTIONS] IMAGE [ARG…]",
        "Run the test that an image brings along, as %test of a definition file.",
        _OPTIONS,
        "hpcc test tools.sif",
        stops=True,
    ),
}


_PREFIXES = ("HPCC_", "APPTAINER_", "SINGULARITY_")
_VARIABLES = {
    **{name.upper(): name for name in (
        "add_caps", "app", "apply_cgroups", "blkio_weight", "blkio_weight_device", "cleanenv", "compat", "contain",
        "containall", "cpu_shares", "cpus", "cpuset_cpus", "cpuset_mems", "drop_caps", "env_file", "fakeroot", "home",
        "hostname", "job_env", "keep_privs", "memory", "memory_reservation", "memory_swap", "mount", "mpi", "network",
        "no_home", "no_init", "no_mount", "no_privs", "no_umask", "overlay", "pids_limit", "scratch", "security",
        "userns", "workdir", "writable", "writable_tmpfs",
    )},
    "APPNAME": "app", "CWD": "pwd", "OVERLAYIMAGE": "overlay", "SCRATCHDIR": "scratch", "TARGET_PWD": "pwd",
    "UNSHARE_IPC": "ipc", "UNSHARE_NET": "net", "UNSHARE_PID": "pid", "UNSHARE_UTS": "uts",
}  # fmt: skip
"""Apptainer's variables -> keys of options."""
_LIMITS = (
    "apply_cgroups", "blkio_weight", "blkio_weight_device", "cpu_shares", "cpus", "cpuset_cpus", "cpuset_mems",
    "memory", "memory_reservation", "memory_swap", "pids_limit",
)  # fmt: skip


def main(name: str, argv: list[str]) -> int:
    command = COMMANDS[name]
    arguments = with_variables(_with_options_beside(command, parse(command, argv), argv), os.environ)
    if not arguments.positional:
        raise usage_error(command, "no image is given")
    uri, *rest = arguments.positional
    if name == "exec" and not rest:
        raise usage_error(command, f"no command is given to execute in {uri}")
    if uri.startswith("instance://"):
        from hpcc.cli.instance.inside import run_inside

        return run_inside(name, arguments, runtime_options(arguments))
    settings = source_settings(arguments, uri)
    if arguments.backend is not None:
        settings = settings.replace(backend=parsed("backend", "--backend", arguments.backend))
    prepare_limits(arguments, settings)
    image = wanted_image(uri, settings, arguments)
    if image.config.user and (arguments.verbose or arguments.debug):
        user = caller(settings).user
        say("INFO", f"The image says USER {image.config.user!r}; the container runs as its caller, {user}.")
    ops = plan_container(wanted_container(name, arguments, image, tuple(rest), settings))
    if arguments.dry_run:
        print(f"Image {image.path}")
        show_plan(ops)
        return 0
    if not settings.disable_cache:
        note_use(image)
    if settings.audit:
        note_start(name, image, tuple(rest), settings)
    try:
        if settings.backend != "apptainer":
            ops, warning = fit(ops, settings, as_user=arguments.userns or arguments.fakeroot)
            if warning and not arguments.silent:
                say("WARNING", warning)
            status = start(
                ops,
                image.rootfs,
                settings,
                keep_mounted=not arguments.no_hold,
                as_user=arguments.userns,
                share=_shares(arguments),
                tell=lambda text: say("WARNING", text),
            )
            if not is_served(settings):
                say("WARNING", "The process that serves the image's files was killed, perhaps for want of memory")
            return status
    except RuntimeUnavailable:
        if settings.backend == "native" or can_mount(settings) or not _has_apptainer(settings):
            raise
    from hpcc.cli.backend import hand_over

    return hand_over(name, command, arguments, image.path, rest, settings)


def note_start(verb: str, image: "Image", words: tuple[str, ...], settings: Settings, *, instance: str = "") -> None:
    """Tell the system's log that a container starts, with `words` behind the image."""
    from hpcc.audit import audit

    if verb == "instance start":
        words = ()  # arguments of the startscript
    elif verb.endswith("run"):
        words = image.config.entrypoint or words or image.config.cmd
    audit(verb, image.reference or image.path, next(iter(words), ""), settings.environ, instance=instance)


def _with_options_beside(command: Command, arguments: Arguments, argv: list[str]) -> Arguments:
    """Where the image has options of its own beside it, with these, as if typed before the others."""
    image = next(iter(arguments.positional), "")
    if not image.endswith(".hpcc.sif") or "://" in image:
        return arguments
    from hpcc.beside import path_beside, read_options

    settings = Settings.from_environ()
    words = read_options(image, settings.trusted_users, settings.trusted_groups)
    if parse(command, words).positional:
        raise InvalidImage(f"{path_beside(image)} has words that are no options: {' '.join(words)}")
    return parse(command, [*words, *argv])


def with_variables(arguments: Arguments, environ: "Mapping[str, str]") -> Arguments:
    """With what HPCC_, APPTAINER_ or SINGULARITY_ variables, in this order, say of options that are not given."""
    options = dict(arguments.options)
    for variable, key in _VARIABLES.items():
        if options.get(key):
            continue
        # HPCC_WRITABLE and its like are settings.
        prefixes = _PREFIXES[1:] if variable.lower() in KEYS else _PREFIXES
        value = next((environ[name] for each in prefixes if environ.get(name := each + variable)), "")
        if not value or key not in options:
            continue
        if isinstance(options[key], list):
            options[key] = [value]
        elif isinstance(options[key], bool):
            options[key] = value.lower() not in ("0", "false", "no")
        else:
            options[key] = value
    return arguments._replace(options=options)


def prepare_limits(arguments: Arguments, settings: Settings) -> None:
    """See to it that there can be a cgroup for what the options limit; nothing must have been done before."""
    if arguments.dry_run or settings.backend == "apptainer":
        return
    limits, option = _limits(arguments)
    if limits:
        from hpcc.runtime.cgroups import prepare

        prepare(limits, option)


def _shares(arguments: Arguments) -> bool:
    if arguments.share not in (None, "auto", "never"):
        raise UsageError(f"--share {arguments.share!r}: there is no such way", hint="One of auto, never.")
    return bool(arguments.share != "never")


def _limits(arguments: Arguments) -> "tuple[tuple[Setting, ...], str]":
    if not any(arguments.options[key] for key in _LIMITS):
        return (), ""
    from hpcc.cli.resources import wanted_limits

    return wanted_limits(arguments)


def _has_apptainer(settings: Settings) -> bool:
    from hpcc.cli.behind import real_apptainer

    return bool(real_apptainer(settings.environ))


def wanted_container(
    command: str, arguments: Arguments, image: "Image", words: tuple[str, ...], settings: Settings
) -> Container:
    """What the options, the image and the caller make together; `words` follow the image. Warns of missing devices."""
    user = caller(settings)
    options = runtime_options(arguments)._replace(
        devices=_devices(arguments, settings), overlays=_overlays(arguments, image, user.cwd)
    )
    binds: tuple[str, ...] = ()
    if settings.bind_paths:
        from hpcc.runtime.sitebinds import site_binds

        site = site_binds(settings)
        binds, options = site.binds, options._replace(passed=site.env)
    path = image.name if image.name.startswith("/") else image.path  # of a link to the cache, as the user knows it
    container = container_spec(image.name, path, image.config, options, command, words, user, binds)
    if any(bind.image for bind in container.binds):
        from hpcc.runtime.images import find_bound

        container = container._replace(binds=find_bound(container.binds))
    return container


def _overlays(arguments: Arguments, image: "Image", cwd: str) -> "tuple[Overlay, ...]":
    """What --overlay names, and the partitions of the image that go over its root. Warns of what is only read."""
    own = image.sif if image.sif is not None and image.sif.overlays() else None
    if arguments.writable and arguments.overlay:
        raise UsageError("--writable and --overlay exclude each other", hint="Each says where what is written goes.")
    if not arguments.overlay and own is None:
        return ()
    from hpcc.runtime.images import find_overlays

    texts = [text for item in arguments.overlay for text in split_binds(item)]
    found, warnings = find_overlays(texts, cwd, image=image.path, own=own, writable=arguments.writable)
    for text in warnings if not (arguments.quiet or arguments.silent) else ():
        say("WARNING", text)
    return found


def show_plan(ops: tuple[Op, ...]) -> None:
    """What --dry-run prints: an operation a line."""
    for op in ops:
        print(describe(op))


def _devices(arguments: Arguments, settings: Settings) -> Devices:
    """What --nv, --rocm, --device and --mpi mean on this host. Warns."""
    gpus = _gpus(arguments, settings)
    if not arguments.mpi:
        return gpus
    from hpcc.runtime.mpi import find_mpi

    mpi = find_mpi(arguments.mpi, settings)
    return Devices((*gpus.binds, *mpi.binds), (*gpus.env, *mpi.env))


def _gpus(arguments: Arguments, settings: Settings) -> Devices:
    nv = bool(arguments.nv or arguments.nvccli) or _by_setting("nv", settings)
    rocm = bool(arguments.rocm) or _by_setting("rocm", settings)
    wanted = [name for item in arguments.device for name in item.split(",") if name]
    if not (nv or rocm or wanted):
        return Devices()
    from hpcc.runtime.gpu import find_devices

    contained = arguments.contain or arguments.containall or arguments.compat
    found = find_devices(settings, nv=nv, rocm=rocm, wanted=wanted, contained=contained)
    for text in found.warnings if not arguments.silent else ():
        say("WARNING", text)
    for text in found.details if arguments.verbose or arguments.debug else ():
        say("INFO", text)
    return found.devices


def _by_setting(kind: str, settings: Settings) -> bool:
    value: bool | str = getattr(settings, kind)
    if value != "auto":
        return bool(value)
    from hpcc.runtime.allotted import is_allotted

    return is_allotted(kind, settings.environ)


def runtime_options(arguments: Arguments) -> Options:
    """What the options of run, exec and shell say, as the runtime takes it."""
    limits, limits_by = _limits(arguments)
    options = Options(
        binds=tuple(arguments.bind),
        mounts=tuple(arguments.mount),
        env=(*_from_files(arguments), *(pair for item in arguments.env for pair in _variables(item))),
        pwd=arguments.pwd,
        home=arguments.home,
        cleanenv=arguments.cleanenv,
        contain=arguments.contain,
        containall=arguments.containall,
        compat=arguments.compat,
        writable_tmpfs=arguments.writable_tmpfs,
        writable=arguments.writable,
        fakeroot=arguments.fakeroot,
        add_caps=arguments.add_caps or "",
        drop_caps="all" if arguments.no_privs else arguments.drop_caps or "",
        keep_privs=arguments.keep_privs,
        scratch=tuple(arguments.scratch),
        workdir=arguments.workdir,
        no_mount=_left_out(arguments),
        pid=arguments.pid,
        ipc=arguments.ipc,
        net=_network(arguments) or arguments.net,
        uts=arguments.uts,
        hostname=arguments.hostname,
        job_env=arguments.job_env,
        no_home=arguments.no_home,
        no_umask=arguments.no_umask,
        no_init=arguments.no_init,
        shell=arguments.options.get("shell"),
        limits=limits,
        limits_by=limits_by,
        app=arguments.app,
    )
    if not arguments.security:
        return options
    from hpcc.cli.resources import read_security

    return options._replace(security=read_security(arguments.security, kept_capabilities(options)))


def _left_out(arguments: Arguments) -> tuple[str, ...]:
    names = tuple(name.strip() for item in arguments.no_mount for name in item.split(",") if name.strip())
    for name in names:
        if name not in NO_MOUNT and not name.startswith("/") and not (arguments.quiet or arguments.silent):
            say("WARNING", f"--no-mount {name}: there is no such mount; it knows {', '.join(NO_MOUNT)}, and paths")
    return names


def _network(arguments: Arguments) -> bool:
    if arguments.network not in (None, "none"):
        raise UsageError(
            f"--network {arguments.network}: only root could set that up",
            hint="Without --net the container has the host's network; --net alone, or --network none, the loopback.",
        )
    return arguments.network is not None


def _from_files(arguments: Arguments) -> tuple[tuple[str, str], ...]:
    if not arguments.env_file:
        return ()
    from hpcc.cli.env_file import read_env_file

    return tuple(pair for path in arguments.env_file for pair in read_env_file(path))


def _variables(item: str) -> list[tuple[str, str]]:
    """`A=1,B=2` as Apptainer reads it; a comma with no name and = behind it belongs to the value."""
    found: list[tuple[str, str]] = []
    for part in item.split(","):
        name, equals, value = part.partition("=")
        if equals and name.isidentifier():
            found.append((name, value))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]},{part}")
        else:
            raise UsageError(f"--env {item!r} is not NAME=VALUE")
    return found
