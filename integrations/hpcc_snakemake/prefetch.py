"""hpcc snakemake prefetch: the images of a workflow, fetched before it runs, listed, packed or unpacked."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from hpcc.cli import inform, say
from hpcc.cli.arguments import GLOBAL, Arguments, Command, Option, parse, usage_error
from hpcc.errors import EX_TEMPFAIL, HpccError, UsageError
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages
from hpcc_snakemake.board import Board
from hpcc_snakemake.fetch import State, fetch_all, state_of
from hpcc_snakemake.resolve import Containers, find_containers

COMMAND = Command(
    "snakemake prefetch [OPTIONS] [SNAKEMAKE-ARGUMENTS]",
    "Fetch all images that a workflow needs, as Snakemake finds them, into its prefix: links to the cache. All other "
    "options, and all of one letter, are Snakemake's (--snakefile, --directory, --config, --apptainer-prefix, targets, "
    "…); what follows -- is, too.",
    (
        Option(("--list",), "only show the images, which rules want them, and how it stands with each"),
        Option(("--check",), "only say what is missing in the prefix; exit status 1 where something is"),
        Option(("--json",), "as JSON"),
        Option(("--update",), "look tags up again, and replace what the prefix has by what they mean now"),
        Option(("--lock",), "write the digests to hpcc.lock, beside the workflow; with --update move them"),
        Option(("--bundle",), "write all images into an OCI archive, for a cluster without a network", "FILE"),
        Option(("--force",), "with --bundle: replace the file"),
        Option(("--from-bundle",), "take the images out of such an archive, and ask no registry", "FILE"),
        Option(("--offline",), "ask no registry: link what the cache has"),
        Option(("--patience",), "how long to ask a registry again that refuses or is away; default: 900", "SECONDS"),
    ),
    "hpcc snakemake prefetch --snakefile workflow/Snakefile\n"
    "hpcc snakemake prefetch --list\n"
    "hpcc snakemake prefetch --bundle images.tar          # here\n"
    "hpcc snakemake prefetch --from-bundle images.tar     # and there",
)
_TOLD = 5  # names in a warning


def main(argv: list[str]) -> int:
    own, theirs = split_arguments(argv)
    arguments = parse(COMMAND, own)
    chosen = [name for name in ("list", "check", "bundle", "from_bundle") if getattr(arguments, name)]
    if len(chosen) > 1:
        raise usage_error(COMMAND, f"--{chosen[0]} and --{chosen[1].replace('_', '-')} exclude each other")
    patience = _seconds(arguments.patience)
    load_site_packages()
    found = find_containers(theirs)
    _warn(found)
    settings = _settings(arguments, found)
    if arguments.lock:
        _lock(arguments, found)
    if arguments.list or arguments.check:
        return _show(found, settings, arguments)
    if arguments.bundle:
        return _pack(found, settings, arguments)
    if arguments.from_bundle:
        settings = _unpack(settings, arguments)
    return _fetch(found, settings, arguments, patience)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(our own options, by their long names; all that is Snakemake's)."""
    table = {name: option for option in (*GLOBAL, *COMMAND.options) for name in option.names if name.startswith("--")}
    own: list[str] = []
    theirs: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return own, [*theirs, "--", *words]
        option = table.get(word.partition("=")[0])
        if option is None and word != "-h":
            theirs.append(word)
            continue
        own.append(word)
        if option is not None and option.value and "=" not in word and words:
            own.append(words.pop(0))
    return own, theirs


def _seconds(text: str | None) -> float:
    try:
        return 900.0 if text is None else max(0.0, float(text))
    except ValueError:
        raise UsageError(f"--patience {text!r} is no number of seconds") from None


def _settings(arguments: Arguments, found: Containers) -> Settings:
    """Those of the workflow's directory: its hpcc.lock counts, wherever this was started."""
    settings = Settings.from_environ({"HPCC_PROJECT": found.directory, **os.environ})
    if settings.disable_cache:
        raise UsageError(
            "the images of a prefix are in the cache, and the settings disable that",
            hint=f"The setting disable_cache comes from: {settings.origins['disable_cache']}.",
        )
    if arguments.offline:
        return settings.replace(offline=True)
    return settings.replace(pull="always") if arguments.update else settings


def _warn(found: Containers) -> None:
    if found.problem:
        say("WARNING", f"Snakemake cannot tell which jobs there are, so all rules count: {found.problem}")
    if found.later:
        say("WARNING", f"a checkpoint may bring these rules in, so their images count: {_names(found.later)}")
    if found.unknown:
        say("WARNING", f"which images these rules need is known only when they have jobs: {_names(found.unknown)}")


def _names(names: Sequence[str]) -> str:
    more = len(names) - _TOLD
    return ", ".join(names[:_TOLD]) + (f" and {more} more" if more > 0 else "")


# -- what is shown -----------------------------------------------------------------------------------------------


def _show(found: Containers, settings: Settings, arguments: Arguments) -> int:
    states = [state_of(each, settings) for each in found.images]
    missing = [each for each, state in zip(found.images, states, strict=True) if state.state != "ready"]
    if arguments.json:
        _print_json(found, states)
    elif arguments.list:
        _print_table(found, states)
    else:
        for each, state in zip(found.images, states, strict=True):
            if state.state != "ready":
                print(f"{state.state}: {each.uri}")
        inform(arguments, f"{len(found.images) - len(missing)} of {len(found.images)} image(s) are in {found.prefix}")
    return 1 if arguments.check and missing else 0


def _print_table(found: Containers, states: Sequence[State]) -> None:
    if not found.images:
        print("No rule of the workflow has a container.")
        return
    rows = [("STATE", "IMAGE", "DIGEST", "RULES")]
    for each, state in zip(found.images, states, strict=True):
        rows.append((state.state, each.uri, state.digest[:19] or "-", ", ".join(each.rules)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())


def _print_json(found: Containers, states: Sequence[State]) -> None:
    images = [
        {
            "image": each.uri,
            "rules": list(each.rules),
            "options": list(each.options or ()),
            "path": each.path,
            "state": state.state,
            "digest": state.digest or None,
        }
        for each, state in zip(found.images, states, strict=True)
    ]
    document = {
        "prefix": found.prefix,
        "images": images,
        "behind_checkpoints": list(found.later),
        "unknown": list(found.unknown),
        "problem": found.problem or None,
    }
    print(json.dumps(document, indent=1))


# -- what is done ------------------------------------------------------------------------------------------------


def _fetch(found: Containers, settings: Settings, arguments: Arguments, patience: float) -> int:
    wanted = [each for each in found.images if arguments.update or state_of(each, settings).state != "ready"]
    wanted = [each for each in wanted if not (each.is_file and os.path.exists(each.path))]
    board = Board(quiet=arguments.quiet or arguments.silent)
    try:
        failed = fetch_all(wanted, settings, board.row, replace=arguments.update, patience=patience)
    except KeyboardInterrupt:
        board.close()
        say("FATAL", "interrupted; what is fetched so far stays, and is gone on with the next time")
        os._exit(130)  # threads that are fetching would be waited for
    finally:
        board.close()
    if arguments.json:
        _print_json(found, [state_of(each, settings) for each in found.images])
    for each, error in failed:
        say("ERROR", error.message if each.uri in error.message else f"{each.uri}: {error.message}")
        if error.hint:
            say("HINT", error.hint)
    if failed:
        raise _Failed(len(failed), len(wanted), all(error.exit_code == EX_TEMPFAIL for _, error in failed))
    inform(arguments, f"All {len(found.images)} image(s) are in {found.prefix}; {len(wanted)} of them new or replaced")
    return 0


class _Failed(HpccError):
    def __init__(self, number: int, all_of: int, later: bool) -> None:
        super().__init__(f"{number} of {all_of} image(s) could not be fetched")
        self.exit_code = EX_TEMPFAIL if later else self.exit_code


def _uris(found: Containers) -> list[str]:
    """Each once. Files, and what is not from a registry, are left out, and that is said."""
    others = [each.uri for each in found.images if not each.uri.startswith("docker://")]
    if others:
        say("WARNING", f"these are not from a registry, so they are left out: {_names(others)}")
    return list(dict.fromkeys(each.uri for each in found.images if each.uri.startswith("docker://")))


def _lock(arguments: Arguments, found: Containers) -> None:
    from hpcc.cli import lock
    from hpcc.lockfile import NAME, find_lock
    from hpcc.oci.reference import Reference

    uris = [uri for uri in _uris(found) if Reference.parse(uri).digest is None]
    if not uris:
        return
    there = find_lock(found.directory)
    path = there.path if there is not None else os.path.join(found.directory, NAME)
    options = ["--quiet"] if arguments.json or arguments.quiet else []
    lock.main("lock", [*options, *(["--update"] if arguments.update else []), "--lock-file", path, *uris])


def _pack(found: Containers, settings: Settings, arguments: Arguments) -> int:
    from hpcc.archive import export_images
    from hpcc.cli.cache.items import size_text
    from hpcc.cli.terminal import terminal
    from hpcc.lookup import Wanted

    uris, progress = _uris(found), terminal(arguments)
    if not uris:
        raise UsageError("no rule of the workflow has an image of a registry", hint="There is nothing to pack.")
    images = [Wanted.parse(uri, settings, progress=progress) for uri in uris]
    fetch = not settings.offline
    done = export_images(images, settings, arguments.bundle, progress, fetch=fetch, replace=arguments.force)
    inform(arguments, f"Wrote {arguments.bundle}: {len(uris)} image(s), {size_text(done.size)}")
    return 0


def _unpack(settings: Settings, arguments: Arguments) -> Settings:
    """Into the cache; the settings with which what is in it counts."""
    from hpcc.cli.terminal import terminal
    from hpcc.importing import import_archive

    done = import_archive(arguments.from_bundle, settings, terminal(arguments))
    inform(arguments, f"{len(done.images)} image(s) are in the archive")
    return settings.replace(offline=True, pull="newer")
