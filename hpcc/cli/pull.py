"""hpcc pull: an image from the cache, or once from its registry, as a SIF file or an OCI layout of one's own."""

import os
from collections.abc import Mapping

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, parsed, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import CacheError, Unknown, UsageError
from hpcc.origin import AGENTS
from hpcc.records import TYPE_CHECKING
from hpcc.sitepath import load_site_packages
from hpcc.sources.agents import file_name as source_file_name
from hpcc.sources.agents import parse_named

if TYPE_CHECKING:
    from hpcc.settings import Settings
    from hpcc.sources.agents import Named

COMMAND = Command(
    "pull [OPTIONS] [OUT] URI",
    "Fetch an image into a SIF file, or into an OCI layout. It comes from the cache where that has it.",
    (
        Option(("-F", "--force"), "replace the file if it is there"),
        Option(
            ("--format",), "sif (default); oci: a directory with what the registry has; raw: what http gives", "FORMAT"
        ),
        Option(("--compression",), "of the SIF: gzip (default), gzip:1-12, zstd[:1-22], lz4 or xz", "NAME[:LEVEL]"),
        Option(("--name",), "as workflow engines call it: NAME is a link to the image in the cache", "NAME"),
        Option(("--on",), "pull and convert elsewhere: slurm:PARTITION, dask:ADDRESS", "NAME:PLACE"),
        Option(("--dir",), "the directory for the file; default: $APPTAINER_PULLDIR, else this one", "DIR"),
        *SOURCE_OPTIONS,
    ),
    "hpcc pull docker://debian:12            # writes debian_12.sif\n"
    "hpcc pull --force tools.sif docker://quay.io/lab/tools:1.4\n"
    "hpcc pull --name tools.sif docker://quay.io/lab/tools:1.4    # takes no room\n"
    "hpcc pull --on slurm:short tools.sif docker://quay.io/lab/tools:1.4\n"
    "hpcc pull --compression zstd:9 docker://debian:12   # for slow storage\n"
    "hpcc pull docker-archive:save.tar   # also docker-daemon:NAME:TAG, oci:DIR,\n"
    "                                    # oci-archive:FILE, oras://, library://,\n"
    "                                    # https://\n"
    "hpcc pull --format oci debian docker://debian:12",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if not 1 <= len(arguments.positional) <= 2:
        raise usage_error(COMMAND, "pull needs a URI, and before it perhaps a file name")
    *out, uri = arguments.positional
    if out and arguments.name:
        raise usage_error(COMMAND, "the file is named twice, by --name and as an argument")
    named = parse_named(uri)
    if not uri.startswith("docker://") and named is None:
        if "://" in uri:
            known = f"It pulls docker://NAME, and from {', '.join(sorted(AGENTS))}."
            raise Unknown(f"{uri}: hpcc pull does not know this source", hint=known)
        if out and (out[0].startswith("docker://") or parse_named(out[0]) is not None):
            raise usage_error(COMMAND, f"the file's name comes before the URI: {uri} {out[0]}")
        raise UsageError(f"{uri} is no URI", hint=f"Did you mean docker://{uri}?")
    as_layout = arguments.format == "oci"
    if arguments.format not in (None, "sif", "oci", "raw"):
        raise UsageError(f"--format {arguments.format!r}: there is no such format", hint="One of sif, oci, raw.")
    if as_layout and named is not None:
        raise UsageError(f"--format oci is for docker://, not for {uri}", hint="`skopeo copy` makes one of an archive.")
    if arguments.format == "raw" and (named is None or named.agent not in ("http", "https")):
        raise UsageError(f"--format raw keeps what http:// and https:// give, not {uri}")
    if arguments.on:
        return _elsewhere(arguments, argv)
    load_site_packages()
    from hpcc.copy import copy_image
    from hpcc.lookup import Wanted, find_cached
    from hpcc.oci.reference import Reference
    from hpcc.placing import place_image, refuse_taken
    from hpcc.pulling import pull_image
    from hpcc.throwaway import cache_for

    file_name = source_file_name(named, raw=arguments.format == "raw") if named else Reference.parse(uri).file_name
    target = out[0] if out else arguments.name or (file_name.removesuffix(".sif") if as_layout else file_name)
    target = os.path.join(arguments.dir or _directory(os.environ), target)
    by_name = bool(arguments.name) and not as_layout
    if not arguments.force and not by_name and os.path.lexists(target):
        raise UsageError(f"{target} is there already", hint="Replace it with --force, or give another name.")
    if not os.path.isdir(os.path.dirname(target)):
        raise CacheError(f"{os.path.dirname(target)} is no directory", hint="Make it first.")
    settings = source_settings(arguments, uri)
    if arguments.compression is not None:
        settings = settings.replace(compression=parsed("compression", "--compression", arguments.compression))
    progress = terminal(arguments)
    if named is not None:
        _pull_named(uri, named, target, settings, arguments)
        return 0
    with cache_for(settings) as effective:
        wanted = Wanted.parse(uri, effective, arch=chosen_platform(arguments), progress=progress)
        if as_layout:
            from hpcc.layout import write_layout

            write_layout(wanted, effective, target, progress, replace=arguments.force)
            return 0
        if by_name and not arguments.force:
            refuse_taken(target, wanted.reference.name)
        image = find_cached(wanted, effective)
        if image is not None:
            progress.info("Using cached SIF image")
        else:
            image = pull_image(wanted, effective, progress)
        if by_name:
            link = not settings.disable_cache
            place_image(image, target, effective, progress, replace=arguments.force, link=link)
        else:
            copy_image(image, target, replace=arguments.force)
    return 0


def _pull_named(uri: str, named: "Named", target: str, settings: "Settings", arguments: Arguments) -> None:
    """Have at `target` what no registry has under a reference, as a file or by --name."""
    from hpcc.copy import copy_image
    from hpcc.obtaining import obtain
    from hpcc.placing import place_image
    from hpcc.throwaway import cache_for

    progress = terminal(arguments)
    if arguments.format == "raw":
        from hpcc.copy import copy_open, new_file
        from hpcc.obtaining import fetched_file
        from hpcc.oci.platform import Platform

        with cache_for(settings) as effective:
            found = fetched_file(uri, named, Platform.host(), effective, progress)
            progress.close()
            with open(found.fd, "rb"), new_file(target, replace=arguments.force, mode=0o644) as file:
                copy_open(found.fd, file.fileno())
        return
    with cache_for(settings) as effective:
        image = obtain(
            uri,
            named,
            effective,
            arch=chosen_platform(arguments),
            progress=progress,
            on_cached=lambda: progress.info("Using cached SIF image"),
        )
        if arguments.name and image.key:
            place_image(image, target, effective, progress, replace=arguments.force, link=not settings.disable_cache)
        else:
            copy_image(image, target, replace=arguments.force)


def _elsewhere(arguments: Arguments, argv: list[str]) -> int:
    """The same command in a job; UsageError for what a job cannot do."""
    if arguments.docker_login:
        raise UsageError(
            "--docker-login asks at a terminal, which a job has not", hint="`hpcc registry login` before that."
        )
    from hpcc.cli.executors import run_on

    words = list(argv)
    while (at := next((i for i, word in enumerate(words) if word.partition("=")[0] == "--on"), -1)) >= 0:
        del words[at : at + (1 if "=" in words[at] else 2)]
    return run_on(arguments.on, ["pull", *words])


def _directory(environ: Mapping[str, str]) -> str:
    """Where Apptainer's variables want files to go, else here."""
    names = (prefix + name for prefix in ("HPCC_", "APPTAINER_", "SINGULARITY_") for name in ("PULLDIR", "PULLFOLDER"))
    return next((value for name in names if (value := environ.get(name))), ".")
