"""hpcc cache import: what `hpcc cache export`, skopeo or docker save wrote into a file."""

import os

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import size_text
from hpcc.cli.terminal import terminal
from hpcc.errors import UsageError

COMMAND = Command(
    "cache import [OPTIONS] FILE.tar",
    "Take the images of an OCI archive, - for stdin, into the cache. They are converted when they first run. Tags "
    "mean what the archive says until a registry that can be reached says otherwise.",
    (
        Option(("--private",), "into your private cache, instead of the shared one"),
        Option(("--name",), "what tags without a name belong to: docker://lab/tools", "NAME"),
        Option(("--convert",), "when to convert the images: now, or later (default)", "WHEN"),
    ),
    "hpcc cache import images.tar\nhpcc cache import --name docker://quay.io/lab/tools --convert now tools.tar",
)


def main(argv: list[str]) -> int:
    from hpcc.importing import import_archive
    from hpcc.oci.reference import Reference
    from hpcc.settings import Settings

    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "import needs one file")
    if arguments.convert not in (None, "now", "later"):
        raise UsageError(f"--convert {arguments.convert!r}: there is no such time", hint="One of now, later.")
    base = Reference.parse(arguments.name).name if arguments.name else ""
    settings, progress = Settings.from_environ(), terminal(arguments)
    path = "/dev/stdin" if arguments.positional[0] == "-" else arguments.positional[0]
    done = import_archive(path, settings, progress, private=arguments.private, base=base)
    for entry in done.unnamed:
        progress.warning(f"{entry.digest} has no name in the archive; give one: --name docker://REGISTRY/NAME")
    if arguments.convert == "now":
        from hpcc.lookup import Wanted, find_cached
        from hpcc.oci.platform import Platform
        from hpcc.pulling import pull_image

        for reference, entry in done.images:
            # By digest, so that a tag that has moved meanwhile fetches nothing else.
            exact = reference._replace(tag=None, digest=entry.digest)
            wanted = Wanted(str(reference), exact, Platform.host())
            image = find_cached(wanted, settings) or pull_image(wanted, settings, progress)
            os.close(image.rootfs.fd)
    for reference, _ in done.images:
        inform(arguments, f"Imported {reference}")
    inform(arguments, f"{done.new_blobs} new blob(s), {size_text(done.new_bytes)}, in {done.tier.root}")
    return 0
