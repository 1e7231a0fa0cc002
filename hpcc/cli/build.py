"""hpcc build: a definition file, a Dockerfile or an image to a SIF or a sandbox."""

import os
import sys

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, parsed, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import HpccError, Unknown, UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from hpcc.build.stages import Options
    from hpcc.settings import Settings

COMMAND = Command(
    "build [OPTIONS] TARGET SPEC",
    "Build an image, a SIF or with --sandbox a directory, from a definition file, a Dockerfile, a URI, a SIF or a "
    "directory. It needs no root: who builds is root inside.",
    (
        Option(("-s", "--sandbox"), "build a directory"),
        Option(("-F", "--force"), "replace the target if it is there"),
        Option(("-u", "--update"), "run the definition over a sandbox that is there"),
        Option(("-T", "--notest"), "do not run %test"),
        Option(
            ("--section",), "only these sections: setup, post, files, environment, test, labels, none", "NAMES", True
        ),
        Option(("-f", "--fakeroot"), "also unpack images with their owners (a definition file always is)"),
        Option(("--build-arg",), "the value of {{ NAME }}", "NAME=VALUE", True),
        Option(("--build-arg-file",), "a file of such lines", "FILE"),
        Option(("--warn-unused-build-args",), "go on where nothing uses one"),
        Option(("-B", "--bind"), "bind SRC[:DEST[:OPTS]] in %post and %test", "SPEC", True),
        Option(("--mount",), "the same in Docker's words", "SPEC", True),
        Option(("--nv",), "NVIDIA's GPUs in %post and %test"),
        Option(("--rocm",), "AMD's GPUs in %post and %test"),
        Option(("--no-cleanup",), "keep the root where the build fails, and say where it is"),
        Option(("--no-cache",), "run each %post, also where nothing has changed"),
        Option(("--compression",), "of the SIF: gzip (default), gzip:1-12, zstd[:1-22], lz4 or xz", "NAME[:LEVEL]"),
        Option(("-r", "--remote"), "build on a server: there is none that hpcc knows"),
        Option(("-e", "--encrypt"), "encrypt the root filesystem: hpcc cannot"),
        Option(("--passphrase",), "of --encrypt"),
        Option(("--pem-path",), "of --encrypt", "PATH"),
        *SOURCE_OPTIONS,
    ),
    "hpcc build tools.sif tools.def\n"
    "hpcc build --sandbox debian docker://debian:12\n"
    "hpcc build tools.sif debian    # of that directory\n"
    "hpcc build --build-arg VERSION=3.12 tools.sif tools.def\n"
    "hpcc build tools.sif Dockerfile",
)
_SECTIONS = ("all", "none", "setup", "post", "files", "environment", "test", "labels", "runscript", "startscript",
             "help", "pre")  # fmt: skip
_LOCAL = ("localimage", "scratch", "docker-daemon", "docker-archive", "oci", "oci-archive")


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 2:
        raise usage_error(COMMAND, "build needs a target and what to build it from")
    target, spec = arguments.positional
    _refuse(arguments, spec)
    # Of a definition file --docker-login asks for the account at Docker Hub.
    settings = source_settings(arguments, spec if "://" in spec else "docker://docker.io/library/x")
    if arguments.compression is not None:
        settings = settings.replace(compression=parsed("compression", "--compression", arguments.compression))
    load_site_packages()
    progress = terminal(arguments)
    from hpcc.build.doing import build, kind_of, read_definition, refuse_target
    from hpcc.build.inside import Inside
    from hpcc.definition.templates import parse_arguments
    from hpcc.throwaway import cache_for

    options = _options(arguments, settings)
    kind = kind_of(spec)
    if arguments.remote:
        raise _remote(spec, kind)
    definition = None
    if kind in ("definition", "dockerfile"):
        text = ""
        if arguments.build_arg_file:
            from hpcc.build.doing import read_text

            text = read_text(arguments.build_arg_file)
        values = parse_arguments(arguments.build_arg, text)
        strict = not arguments.warn_unused_build_args
        definition = read_definition(spec, kind, values, progress, strict=strict)
    if _may_ask(target, options, arguments) and not _ask():
        raise UsageError(f"build target {target} already exists, and stays", hint="Replace it with --force.")
    if os.path.lexists(target) and not options.update and _may_ask(target, options, arguments):
        options = options._replace(force=True)
    refuse_target(target, options)
    inside = Inside(settings, progress)
    _end_by_exception()
    try:
        inform(arguments, "Starting build...")
        with cache_for(settings) as effective:
            build(target, spec, options, effective, inside, progress, definition)
    finally:
        inside.close()
        progress.close()
    inform(arguments, f"Build complete: {target}")
    return 0


def _options(arguments: Arguments, settings: "Settings") -> "Options":
    from hpcc.build.stages import Options

    sections = tuple(name for item in arguments.section for name in item.split(",") if name)
    for each in sections:
        if each not in _SECTIONS:
            raise UsageError(f"--section {each}: there is no such section", hint=f"One of {', '.join(_SECTIONS)}.")
    if arguments.update and not arguments.sandbox:
        raise UsageError("--update needs --sandbox: what is in a SIF does not change", hint="--force replaces it.")
    container = [word for item in arguments.bind for word in ("--bind", item)]
    container += [word for item in arguments.mount for word in ("--mount", item)]
    container += [word for word in ("nv", "rocm") if arguments.options[word] for word in (f"--{word}",)]
    epoch = settings.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not (epoch.isascii() and epoch.isdecimal() and int(epoch[:11]) < 1 << 32):
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch[:99]!r} is no number of seconds that a squashfs can hold")
    return Options(
        sandbox=arguments.sandbox,
        force=arguments.force,
        update=arguments.update,
        notest=arguments.notest,
        fakeroot=arguments.fakeroot,
        sections=() if "all" in sections else sections,
        container=tuple(container),
        cleanup=not arguments.no_cleanup,
        cache=not (arguments.no_cache or settings.disable_cache),
        quiet=bool(arguments.quiet or arguments.silent),
        arch=chosen_platform(arguments),
        epoch=int(epoch) if epoch else -1,
    )


def _refuse(arguments: Arguments, spec: str) -> None:
    if arguments.encrypt or arguments.passphrase or arguments.pem_path:
        raise Unknown(
            "hpcc does not encrypt images, nor can it run encrypted ones",
            hint="Keep the file where only you can read it; `apptainer build --encrypt` encrypts.",
        )


def _remote(spec: str, kind: str) -> HpccError:
    agent = spec.partition(":")[0] if kind == "image" else ""
    if kind == "directory" or (kind == "image" and os.path.exists(spec)) or agent in _LOCAL:
        return UsageError(
            f"--remote: {spec} is on this host, and a server elsewhere could not read it",
            hint="Build it here: hpcc build needs no root.",
        )
    return Unknown("--remote: no builder is configured", hint="Build it here: hpcc build needs no root.")


def _may_ask(target: str, options: "Options", arguments: Arguments) -> bool:
    return bool(
        os.path.lexists(target)
        and os.path.isdir(target) == bool(options.sandbox)
        and not (options.force or options.update)
        and sys.stdin is not None
        and sys.stdin.isatty()
    )


def _ask() -> bool:
    sys.stderr.write("Build target already exists. Do you want to overwrite? [N/y] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _end_by_exception() -> None:
    """Have SIGTERM and SIGHUP end the build in order."""
    import signal

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
