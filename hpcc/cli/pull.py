"""hpcc pull: an image from the cache, or once from its registry, as a SIF file of one's own."""

import os

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, UsageError
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "pull [OPTIONS] [OUT.sif] URI",
    "Fetch an image into a SIF file. It comes from the cache where that has it.",
    (
        Option(("-F", "--force"), "replace the file if it is there"),
        Option(("--name",), "the file's name, in the working directory", "NAME"),
        Option(("--dir",), "the directory for the file", "DIR"),
        Option(("--no-https", "--nohttps"), "talk plain http to the registry"),
        Option(("--arch",), "the image for this architecture, such as arm64", "ARCH"),
    ),
    "hpcc pull docker://debian:12            # writes debian_12.sif\nhpcc pull --force tools.sif docker://quay.io/lab/tools:1.4",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if not 1 <= len(arguments.positional) <= 2:
        raise usage_error(COMMAND, "pull needs a URI, and before it perhaps a file name")
    *out, uri = arguments.positional
    if out and arguments.name:
        raise usage_error(COMMAND, "the file is named twice, by --name and as an argument")
    if not uri.startswith("docker://"):
        if "://" in uri:
            raise UsageError(f"{uri}: hpcc pull does not know this source", hint="It pulls docker://NAME.")
        raise UsageError(f"{uri} is no URI", hint=f"Did you mean docker://{uri}?")
    load_site_packages()
    from hpcc.copy import copy_image
    from hpcc.image import open_image
    from hpcc.oci.reference import Reference
    from hpcc.settings import Settings

    target = out[0] if out else arguments.name or Reference.parse(uri).file_name
    target = os.path.join(arguments.dir or ".", target)
    if not arguments.force and os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.")
    if not os.path.isdir(os.path.dirname(target)):
        raise CacheError(f"{os.path.dirname(target)} is no directory", hint="Make it first.")
    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    progress = terminal(arguments)
    from hpcc.lookup import find_cached

    image = find_cached(uri, settings, arch=arguments.arch)
    if image is not None:
        progress.info("Using cached SIF image")
    else:
        image = open_image(uri, settings, arch=arguments.arch, progress=progress)
    copy_image(image, target, replace=arguments.force)
    return 0
