"""hpcc slurm bundle: an image as Slurm before 23.02 takes it for --container.

DIR/config.json    Slurm adds to it what to run
DIR/rootfs         a link to the SIF, which `hpcc slurm oci-run` runs; no runtime but hpcc can
"""

from __future__ import annotations

import json
import os

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, UsageError, place_hint
from hpcc.image import open_image
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "slurm bundle [OPTIONS] IMAGE DIR",
    "Make DIR what `srun --container DIR` takes before Slurm 23.02; the image stays in the cache. Later ones take a "
    "SIF.",
    (Option(("-F", "--force"), "replace the image of a bundle that is there"), *SOURCE_OPTIONS),
    "hpcc slurm bundle docker://python:3.12 python\nsrun --container python python3 -V",
)


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 2:
        raise usage_error(COMMAND, "an image and a directory are needed")
    uri, directory = arguments.positional
    if os.path.lexists(directory) and not arguments.force:
        raise UsageError(f"{directory} is there already", hint="Replace it with --force, or give another name.")
    load_site_packages()
    settings = source_settings(arguments, uri)
    if settings.disable_cache and "://" in uri:
        raise UsageError("a bundle's image is in the cache, and the settings disable that")
    image = open_image(uri, settings, arch=chosen_platform(arguments), progress=terminal(arguments))
    config = {"ociVersion": "1.0.2", "process": {"args": ["/bin/sh"], "cwd": "/"}, "root": {"path": "rootfs"}}
    link, new = os.path.join(directory, "rootfs"), os.path.join(directory, f".rootfs-{os.getpid()}")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
            file.write(json.dumps(config, indent=1) + "\n")
        os.symlink(image.path, new)
        os.replace(new, link)
    except OSError as error:
        raise CacheError(f"cannot write to {directory}: {error.strerror}", hint=place_hint(error)) from None
    inform(arguments, f"{directory}: {image.reference or image.path}")
    return 0
