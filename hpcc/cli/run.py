"""hpcc run, exec, shell: one spec, one plan, one launch."""

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import UsageError
from hpcc.image import note_use, open_image
from hpcc.runtime.enter import caller, start
from hpcc.runtime.plan import describe, plan_container
from hpcc.runtime.spec import Options, container_spec
from hpcc.throwaway import cache_for

_OPTIONS = (
    Option(("-B", "--bind"), "bind a host path into the container; several by commas", "SRC[:DEST[:ro]]", many=True),
    Option(("--env",), "set a variable in the container", "NAME=VALUE", many=True),
    Option(("--pwd", "--cwd"), "working directory in the container", "DIR"),
    Option(("-H", "--home"), "the home directory in the container", "SRC[:DEST]"),
    Option(("-e", "--cleanenv"), "leave the host's variables out"),
    Option(("-c", "--contain"), "empty home and /tmp, minimal /dev"),
    Option(("-C", "--containall"), "--contain, a clean environment, own PID and IPC namespaces"),
    Option(("--compat",), "as Docker does: --containall, a writable root that is discarded, umask 0022"),
    Option(("--writable-tmpfs",), "a writable root that is discarded"),
    Option(("--no-home",), "do not mount the home directory"),
    Option(("--no-umask",), "umask 0022 instead of the caller's"),
    Option(("--no-init",), "with --containall: no process 1 of our own beside the payload"),
    Option(("--no-eval",), "accepted for Apptainer's sake: hpcc never evaluates arguments in a shell"),
    Option(("--no-hold",), "do not keep the image mounted for the next run"),
    Option(("--dry-run",), "print what would be done"),
    *SOURCE_OPTIONS,
)

COMMANDS = {
    "exec": Command(
        "exec [OPTIONS] IMAGE COMMAND [ARG…]",
        "Run a command in an image: docker://NAME, a SIF, a squashfs file or a directory.",
        _OPTIONS,
        "hpcc exec --compat docker://debian:12 cat /etc/os-release\nhpcc exec --bind /data:/mnt:ro image.sif ls /mnt",
        stops=True,
    ),
    "run": Command(
        "run [OPTIONS] IMAGE [ARG…]",
        "Run what the image is made to run: its ENTRYPOINT with the arguments, or its CMD.",
        _OPTIONS,
        "hpcc run docker://python:3.12 -c 'print(1)'",
        stops=True,
    ),
    "shell": Command(
        "shell [OPTIONS] IMAGE",
        "Open a shell in an image.",
        (*_OPTIONS, Option(("--shell",), "this shell instead of bash or sh", "PATH")),
        "hpcc shell docker://debian:12",
        stops=True,
    ),
}


def main(name: str, argv: list[str]) -> int:
    command = COMMANDS[name]
    arguments = parse(command, argv)
    if not arguments.positional:
        raise usage_error(command, "no image is given")
    uri, *rest = arguments.positional
    if name == "exec" and not rest:
        raise usage_error(command, f"no command is given to execute in {uri}")
    if uri.startswith("instance://"):
        from hpcc.cli.instance.inside import run_inside

        return run_inside(name, arguments, runtime_options(arguments))
    settings = source_settings(arguments, uri)
    with cache_for(settings) as effective:
        image = open_image(uri, effective, arch=chosen_platform(arguments), progress=terminal(arguments))
    user = caller(settings)
    container = container_spec(
        image.name, image.path, image.config, runtime_options(arguments), name, tuple(rest), user, settings.bind_paths
    )
    ops = plan_container(container)
    if arguments.dry_run:
        print(f"Image {image.path}")
        for op in ops:
            print(describe(op))
        return 0
    if not settings.disable_cache:
        note_use(image)
    return start(ops, image.rootfs, settings, keep_mounted=not arguments.no_hold)


def runtime_options(arguments: Arguments) -> Options:
    """What the options of run, exec and shell say, as the runtime takes it."""
    return Options(
        binds=tuple(arguments.bind),
        env=tuple(pair for item in arguments.env for pair in _variables(item)),
        pwd=arguments.pwd,
        home=arguments.home,
        cleanenv=arguments.cleanenv,
        contain=arguments.contain,
        containall=arguments.containall,
        compat=arguments.compat,
        writable_tmpfs=arguments.writable_tmpfs,
        no_home=arguments.no_home,
        no_umask=arguments.no_umask,
        no_init=arguments.no_init,
        shell=arguments.options.get("shell"),
    )


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
