"""hpcc cache adopt: what Apptainer and Snakemake have fetched already."""

import os

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.cache.items import size_text
from hpcc.cli.terminal import terminal
from hpcc.errors import UsageError
from hpcc.settings import Settings

COMMAND = Command(
    "cache adopt [OPTIONS]",
    "Copy the layers that Apptainer has fetched into the cache; or have the images in a directory of Snakemake's be "
    "links to those in the cache. Without options: Apptainer's cache, where it usually is.",
    (
        Option(("--apptainer-cache",), "its directory; default: $APPTAINER_CACHEDIR, or ~/.apptainer/cache", "DIR"),
        Option(("--share",), "into the shared cache, though others can look into that and some may be private"),
        Option(("--private",), "into your private cache"),
        Option(("--snakemake-prefix",), "what --apptainer-prefix was; or .snakemake/singularity", "DIR"),
        Option(
            ("-f", "--file"), "a Snakefile, or a file with URIs; default: ./Snakefile or ./workflow", "FILE", many=True
        ),
        Option(("-y", "--yes"), "replace the images in Snakemake's directory; else only say which"),
        Option(("--no-backup",), "do not keep them beside as .bak"),
    ),
    "hpcc cache adopt\nhpcc cache adopt --yes -f Snakefile --snakemake-prefix .snakemake/singularity",
)
_SNAKEFILES = ("Snakefile", "workflow/Snakefile")
_ADVICE = {
    "unknown": "no URI that was given has this name: give the Snakefile with -f",
    "missing": "the cache does not have it: hpcc exec {uri} true, and then this again",
}


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.positional:
        raise usage_error(COMMAND, f"adopt takes no argument: {arguments.positional[0]}")
    settings = Settings.from_environ()
    if arguments.apptainer_cache is not None or arguments.snakemake_prefix is None:
        _adopt_blobs(arguments, settings)
    if arguments.snakemake_prefix is not None:
        _adopt_prefix(arguments, settings)
    return 0


def _adopt_blobs(arguments: Arguments, settings: Settings) -> None:
    from hpcc.adopting import adopt_layout, adopts_for_all
    from hpcc.lookup import tiers

    home = settings.environ.get("HOME", "")
    usual = settings.environ.get("APPTAINER_CACHEDIR") or settings.environ.get("SINGULARITY_CACHEDIR")
    top = arguments.apptainer_cache or usual or os.path.join(home, ".apptainer/cache")
    candidates = [os.path.join(top, "blob"), os.path.join(top, "cache/blob"), top]
    directory = next((each for each in candidates if os.path.isdir(os.path.join(each, "blobs"))), candidates[0])
    shared, private = tiers(settings)[-2:]
    for_all = adopts_for_all(settings, share=arguments.share, private=arguments.private)
    progress = terminal(arguments)
    if not for_all and not arguments.private:
        progress.info(f"Others can look into {shared.root}, so the layers go into {private.root}; or give --share")
    tier = shared if for_all else private
    done = adopt_layout(directory, tier, settings, progress)
    for path in done.damaged:
        progress.warning(f"{path} is damaged, and left out")
    for name in done.images:
        inform(arguments, f"Adopted {name}")
    said = f"{done.blobs} blob(s), {size_text(done.size)}, in {tier.root}; {done.had} were there before"
    inform(arguments, f"Adopted {said}")


def _adopt_prefix(arguments: Arguments, settings: Settings) -> None:
    from hpcc.adopting import link_images, read_prefix

    files = arguments.file or [name for name in _SNAKEFILES if os.path.exists(name)]
    if not files:
        raise UsageError("there is no Snakefile here", hint="-f FILE names it, or a file with its URIs.")
    found = read_prefix(arguments.snakemake_prefix, _uris(files), settings)
    if not found:
        print(f"{arguments.snakemake_prefix} has no image.")
    done = link_images(found, settings, keep=not arguments.no_backup) if arguments.yes else []
    for each in found:
        state = "linked" if each.path in done else each.state
        print(f"{state:<8}{each.path}  {each.uri}".rstrip())
        if state in _ADVICE:
            print(f"        {_ADVICE[state].format(uri=each.uri)}")
    ready = [each for each in found if each.state == "ready"]
    size = size_text(sum(each.size for each in ready))
    if ready and not arguments.yes:
        print(f"{len(ready)} can be links to the cache, which frees {size}: add --yes.")
    elif done:
        print(f"{len(done)} are links now. " + (f"{size} freed." if arguments.no_backup else f"Remove *.bak: {size}."))


def _uris(files: list[str]) -> set[str]:
    """Letter by letter as they stand there, since their md5 is what counts."""
    from hpcc.cli.uris import find_uris

    found: set[str] = set()
    for path in files:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}", hint="-f FILE") from None
        for line in lines:
            found.update(uri for uri, whole in find_uris(line) if whole)
    return found
