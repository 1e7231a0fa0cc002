"""hpcc run-help: what an image says of its use, %help of a definition file."""

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, source_settings, wanted_image
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "run-help [OPTIONS] IMAGE",
    "Show what an image says of its use: %help of its definition file.",
    (
        Option(("--app",), "what an app of it says", "NAME"),
        Option(("--stage",), "accepted: nothing is run", "WHEN"),
        *SOURCE_OPTIONS,
    ),
    "hpcc run-help tools.sif",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "run-help needs one image")
    (uri,) = arguments.positional
    image = wanted_image(uri, source_settings(arguments, uri), arguments)
    load_site_packages()
    from hpcc.cli.inspect import text_reader
    from hpcc.runtime.apps import check_app, file_of

    app = arguments.app
    path = file_of(check_app(app), "runscript.help") if app is not None else "/.singularity.d/runscript.help"
    text = text_reader(image)(path)
    print((text or "No help sections were defined for this image").rstrip("\n"))
    return 0
