"""hpcc lock: tags and their digests in hpcc.lock, written, compared with the registries, and kept current."""

import json
import os
from collections.abc import Sequence
from typing import Any

from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.terminal import terminal
from hpcc.cli.uris import read_references
from hpcc.errors import ImageNotFound, InvalidReference, UsageError
from hpcc.lockfile import NAME, Lock, find_lock, read_lock, write_lock
from hpcc.oci.digest import Digest
from hpcc.oci.reference import Reference
from hpcc.progress import Progress
from hpcc.records import NamedTuple
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "lock [OPTIONS] [URI…]",
    "Pin tags to the digests that they name now, in hpcc.lock: every command then takes these. "
    "What is locked stays; without URIs: show what the lock holds.",
    (
        Option(("-f", "--file"), "each docker:// URI in this file, or names, one a line; -: stdin", "FILE", True),
        Option(("--update",), "move the digests to what the tags name now: of all images, or of those given"),
        Option(("--outdated",), "only show which tags have moved; exit status 1 where one has"),
        Option(("--remove",), "take the given images out"),
        Option(("-j", "--json"), "as JSON"),
        Option(("--lock-file",), "this file; default: hpcc.lock, here or in a directory above", "PATH"),
        Option(("--no-https", "--nohttps"), "talk plain http to the registries"),
    ),
    "hpcc lock docker://python:3.12 docker://quay.io/lab/tools:1.4\n"
    "hpcc lock -f workflow/Snakefile\n"
    "hpcc lock --outdated || hpcc lock --update",
)


class Change(NamedTuple):
    """What became of one image: added, moved, unchanged, removed; `was` and `now` are its digests."""

    what: str
    image: str
    was: Digest | None
    now: Digest | None


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if arguments.update + arguments.outdated + arguments.remove > 1:
        raise usage_error(COMMAND, "only one of --update, --outdated and --remove can be done")
    given = bool(arguments.positional or arguments.file)
    if arguments.remove and not given:
        raise usage_error(COMMAND, "no image is given to remove")
    load_site_packages()
    settings = Settings.from_environ()
    if arguments.no_https:
        settings = settings.replace(nohttps=True)
    progress = terminal(arguments)
    lock = _choose_lock(arguments.lock_file, progress)
    wanted = _wanted(arguments, lock, progress) if given else [Reference.parse(image) for image, _ in lock.images]
    if arguments.outdated:
        return _show_outdated(wanted, lock, settings, arguments)
    if arguments.remove:
        changes = _remove(wanted, lock)
    elif given or arguments.update:
        changes = _pin(wanted, lock, settings, arguments.update)
    else:
        _show(lock, arguments)
        return 0
    _apply(changes, lock)
    _report(changes, lock, arguments)
    return 0


# -- which file, which images ------------------------------------------------------------------------------------


def _choose_lock(path: str | None, progress: Progress) -> Lock:
    """The lock that is named, else the one that commands in this directory take, else an empty one here."""
    if path is not None:
        return read_lock(path)
    skipped: dict[str, str] = {}
    lock = find_lock(".", skipped.__setitem__)
    if lock is not None:
        for other, why in skipped.items():
            progress.warning(f"{other} is not believed: {why}")
        return lock
    here = os.path.abspath(NAME)
    if here in skipped:
        raise UsageError(
            f"{here} is not believed: {skipped[here]}", hint="Remove it, or name another file by --lock-file."
        )
    return Lock(NAME)


def _wanted(arguments: Arguments, lock: Lock, progress: Progress) -> list[Reference]:
    """The references of the command line and its files, sorted, without those that name a digest themselves."""
    found = [_parse_uri(text, lock) for text in arguments.positional]
    for path in arguments.file:
        found += read_references(path, progress)
    for reference in found:
        if reference.digest is not None:
            progress.info(f"{reference} names its digest itself")
    wanted = {reference.canonical: reference for reference in found if reference.digest is None}
    if arguments.outdated or arguments.remove:
        for reference in wanted.values():
            if lock.digest_of(reference) is None:
                raise UsageError(f"{reference} is not in {lock.path}", hint="`hpcc lock` shows what is.")
    return [wanted[name] for name in sorted(wanted)]


def _parse_uri(text: str, lock: Lock) -> Reference:
    """A docker:// URI; or the bare name of an image that the lock holds, as it shows it."""
    if text.startswith("docker://"):
        return Reference.parse(text)
    if "://" in text:
        raise UsageError(f"{text}: hpcc lock does not know this source", hint="It locks docker://NAME.")
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        reference = None
    if reference is None or lock.digest_of(reference) is None:
        meant = f"Did you mean docker://{text}? " if reference else "An image is docker://NAME:TAG. "
        raise UsageError(f"{text} is no URI", hint=f"{meant}A file that names images goes behind -f.")
    return reference


# -- what becomes of them ----------------------------------------------------------------------------------------


def _pin(wanted: Sequence[Reference], lock: Lock, settings: Settings, update: bool) -> list[Change]:
    """Look up what is not locked; with update, all. Raises HpccError for the first that cannot be resolved."""
    asked = [reference for reference in wanted if update or lock.digest_of(reference) is None]
    found = dict(zip(asked, _resolve(asked, settings, absent=False), strict=True))
    changes = []
    for reference in wanted:
        was = lock.digest_of(reference)
        now = found.get(reference, was)
        what = "added" if was is None else "unchanged" if was == now else "moved"
        changes.append(Change(what, reference.canonical, was, now))
    return changes


def _remove(wanted: Sequence[Reference], lock: Lock) -> list[Change]:
    return [Change("removed", reference.canonical, lock.digest_of(reference), None) for reference in wanted]


def _resolve(references: Sequence[Reference], settings: Settings, *, absent: bool) -> list[Digest | None]:
    """What each names now, by HEAD, some at a time. With absent, None for what its registry does not have."""
    if not references:
        return []
    if settings.offline:
        raise UsageError(
            f"what {references[0]} names now only its registry knows, and hpcc is offline",
            hint=f"The setting offline comes from: {settings.origins['offline']}.",
        )
    from concurrent.futures import ThreadPoolExecutor

    from hpcc.sources.docker import resolve_digest

    def resolve(reference: Reference) -> Digest | None:
        try:
            return resolve_digest(reference, settings)
        except ImageNotFound:
            if not absent:
                raise
            return None

    with ThreadPoolExecutor(settings.downloads) as pool:
        futures = [pool.submit(resolve, reference) for reference in references]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _apply(changes: Sequence[Change], lock: Lock) -> None:
    """Write what changes into the file as it is by now, since looking up takes a while; else leave it alone."""
    if all(change.what == "unchanged" for change in changes):
        return
    lock = read_lock(lock.path)
    for change in changes:
        reference = Reference.parse(change.image)
        lock = lock.with_(reference, change.now) if change.now else lock.without(reference)
    write_lock(lock.path, lock)


# -- what is said ------------------------------------------------------------------------------------------------


def _report(changes: Sequence[Change], lock: Lock, arguments: Arguments) -> None:
    if arguments.json:
        _print_json(lock, [{"image": c.image, "change": c.what, "was": _text(c.was), "now": _text(c.now)}
                           for c in changes])  # fmt: skip
        return
    if arguments.quiet or arguments.silent:
        return
    rows = [
        (change.what, change.image, " -> ".join(dict.fromkeys(_short(d) for d in (change.was, change.now) if d)))
        for change in changes
    ]
    _print_table(rows)
    kinds = [change.what for change in changes]
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(sorted(kinds))]
    print(f"{lock.path}: {', '.join(counts) or 'nothing to lock'}")


def _show(lock: Lock, arguments: Arguments) -> None:
    if arguments.json:
        _print_json(lock, [{"image": image, "digest": str(digest)} for image, digest in lock.images])
    elif not lock.images:
        print(f"{lock.path} holds no image. `hpcc lock docker://NAME` locks one.")
    else:
        _print_table([("IMAGE", "DIGEST"), *((image, _short(digest)) for image, digest in lock.images)])


def _show_outdated(wanted: Sequence[Reference], lock: Lock, settings: Settings, arguments: Arguments) -> int:
    """1 where a tag has moved, or is gone."""
    found = [
        (reference.canonical, lock.digest_of(reference), now)
        for reference, now in zip(wanted, _resolve(wanted, settings, absent=True), strict=True)
    ]
    moved = [row for row in found if row[1] != row[2]]
    if arguments.json:
        _print_json(lock, [{"image": image, "locked": _text(was), "now": _text(now), "outdated": was != now}
                           for image, was, now in found])  # fmt: skip
    elif moved:
        rows = [(image, _short(was), _short(now)) for image, was, now in moved]
        _print_table([("IMAGE", "LOCKED", "NOW"), *rows])
    elif not (arguments.quiet or arguments.silent):
        print(f"{lock.path}: no tag of {len(found)} has moved")
    return 1 if moved else 0


def _print_json(lock: Lock, images: list[dict[str, Any]]) -> None:
    print(json.dumps({"file": lock.path, "images": images}, indent=1))


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _short(digest: Digest | None) -> str:
    return "not found" if digest is None else digest.hex[:12]
