"""hpcc cache export: images into one file, to be carried to a cluster without a network."""

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import size_text
from hpcc.cli.source import chosen_platform
from hpcc.cli.terminal import terminal
from hpcc.errors import UsageError

COMMAND = Command(
    "cache export [OPTIONS] FILE.tar IMAGE…",
    "Write images into one OCI archive, as the cache has them. `hpcc cache import` and skopeo read it.",
    (
        Option(("--pull",), "fetch what the cache does not have; else nothing is asked for"),
        Option(("-F", "--force"), "replace the file if it is there"),
        Option(("--arch",), "the images for this architecture, such as arm64", "ARCH"),
        Option(("--platform",), "the images for this platform", "OS/ARCH[/VARIANT]"),
        Option(("--no-https", "--nohttps"), "with --pull: talk plain http to the registry"),
    ),
    "hpcc cache export --pull images.tar docker://python:3.12 docker://debian:12",
)


def main(argv: list[str]) -> int:
    from hpcc.archive import export_images
    from hpcc.lookup import Wanted
    from hpcc.settings import Settings

    arguments = parse(COMMAND, argv)
    target, *uris = arguments.positional or [""]
    if not uris:
        raise usage_error(COMMAND, "export needs a file name, and after it the images")
    if target == "-":
        raise usage_error(COMMAND, "export writes a file, which is there at once and whole; it does not write to -")
    if "://" in target:
        raise usage_error(COMMAND, f"{target} is no file name; it comes first")
    wrong = [uri for uri in uris if not uri.startswith("docker://")]
    if wrong:
        raise UsageError(f"{wrong[0]} is no image of a registry", hint=f"Did you mean docker://{wrong[0]}?")
    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    progress, arch = terminal(arguments), chosen_platform(arguments)
    images = [Wanted.parse(uri, settings, arch=arch, progress=progress) for uri in uris]
    done = export_images(images, settings, target, progress, fetch=arguments.pull, replace=arguments.force)
    said = f"{len(done.images)} image(s), {done.blobs} blobs, {size_text(done.size)}"
    inform(arguments, f"Wrote {target}: {said}")
    return 0
