"""hpcc instance start, hpcc instance run: the options of exec, and what stays behind."""

import os

from hpcc.cli import inform, say
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.run import COMMANDS, note_start, prepare_limits, show_plan, wanted_container, with_variables
from hpcc.cli.source import source_settings, wanted_image
from hpcc.errors import CacheError, place_hint
from hpcc.image import note_use
from hpcc.runtime.detach import start_instance
from hpcc.runtime.instance import Instance
from hpcc.runtime.plan import plan_instance
from hpcc.runtime.register import Register

_OPTIONS = (
    *COMMANDS["exec"].options,
    Option(("--pid-file",), "write the pid of the instance's process 1 into this file", "FILE"),
)
START = Command(
    "instance start [OPTIONS] IMAGE NAME [ARG…]",
    "Start an instance: a container that stays in the background until it is stopped. It runs the image's startscript "
    "with the arguments, if it has one. PID namespace and process 1 are its own.",
    _OPTIONS,
    "hpcc instance start --bind /data image.sif web\nhpcc exec instance://web sh -c 'echo $PPID'",
    stops=True,
)
RUN = Command(
    "instance run [OPTIONS] IMAGE NAME [ARG…]",
    "Start an instance that runs what the image is made to run: its ENTRYPOINT with the arguments, or its CMD.",
    _OPTIONS,
    "hpcc instance run docker://postgres:17 db",
    stops=True,
)


def main(argv: list[str]) -> int:
    return _start(START, "start", argv)


def run(argv: list[str]) -> int:
    return _start(RUN, "run", argv)


def _start(command: Command, verb: str, argv: list[str]) -> int:
    arguments = with_variables(parse(command, argv), os.environ)
    if len(arguments.positional) < 2:
        raise usage_error(command, "an image and a name for the instance are needed")
    uri, name, *rest = arguments.positional
    settings = source_settings(arguments, uri)
    register = Register.of_caller(settings.environ)
    register.refuse_taken(name)
    prepare_limits(arguments, settings)
    image = wanted_image(uri, settings, arguments)
    words = tuple(rest)
    container = wanted_container(verb, arguments, image, words, settings)
    ops = plan_instance(container, name, words if verb == "start" else None)
    if arguments.dry_run:
        print(f"Image {image.path}")
        show_plan(ops)
        return 0
    if not settings.disable_cache:
        note_use(image)
    if settings.audit:
        note_start(f"instance {verb}", image, words, settings, instance=name)
    record = Instance(name, image.name, image.path, image.config, container.home)
    started = start_instance(
        record,
        register,
        ops,
        image.rootfs,
        settings,
        as_user=arguments.userns,
        tell=lambda text: say("WARNING", text),
    )
    if arguments.pid_file is not None:
        try:
            with open(arguments.pid_file, "w", encoding="ascii") as file:
                file.write(f"{started.pid}\n")
        except OSError as error:
            raise CacheError(f"{arguments.pid_file}: {error.strerror}", hint=place_hint(error)) from None
    inform(arguments, "instance started successfully")
    return 0
