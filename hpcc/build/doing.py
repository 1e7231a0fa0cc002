"""`hpcc build`: what SPEC is, and each way from there to a SIF or a sandbox. Atomic: the target is whole, or as it was.

docker://…, SIF     a SIF is a copy, the same bytes as of a pull; a sandbox is unpacked
sandbox, squashfs   a SIF is packed from it
definition file     stages.py, then metadata and %test, then either
Dockerfile          the definition file that it is translated to
"""

import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from hpcc.build.inside import Inside
from hpcc.build.metadata import About, inspect_directory
from hpcc.build.pack import pack_sif
from hpcc.build.stages import Builder, Options, complete, run_test, unpack_image
from hpcc.build.unpack import remove_tree
from hpcc.build.work import Work, work_directory
from hpcc.copy import copy_image, new_file
from hpcc.definition.model import Definition
from hpcc.definition.parse import parse
from hpcc.errors import CacheError, InvalidDefinition, UsageError, place_hint
from hpcc.image import open_image
from hpcc.oci.platform import Platform
from hpcc.progress import SILENT, Progress
from hpcc.runtime.enter import node_directory
from hpcc.settings import Settings
from hpcc.sif import descriptor

_URI = re.compile(r"[a-z][a-z0-9-]*:(?!$)")
_MAGIC = (b"hsqs", b"#!/usr/bin/env run-singularity")
MAX_TEXT = 16 << 20
PREFIX = "hpcc-build-"


def kind_of(spec: str) -> str:
    """ "image", "directory", "definition" or "dockerfile". UsageError for what is not there or none of these."""
    if os.path.isdir(spec):
        return "directory"
    if not os.path.lexists(spec):
        if _URI.match(spec):
            return "image"
        raise UsageError(
            f"{spec} is not there", hint="SPEC is a definition file, an image, a directory, or a URI such as docker://…"
        )
    try:
        with open(os.open(spec, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"{spec} is no file", hint="What comes from a pipe, write to a file first.")
            head = file.read(1 << 16)
    except OSError as error:
        raise UsageError(f"{spec}: {error.strerror}") from None
    if head.startswith(_MAGIC) or head[32:41] == b"SIF_MAGIC":
        return "image"
    if b"\0" in head:
        raise UsageError(
            f"{spec} is neither an image nor a definition file",
            hint="An archive of an image is named docker-archive:FILE or oci-archive:FILE.",
        )
    first = next(
        (line for line in head.decode("utf-8", "replace").splitlines() if line.strip() and line.strip()[0] != "#"), ""
    )
    if re.match(r"\s*(FROM|ARG)\s", first, re.IGNORECASE) and ":" not in first.split()[0]:
        return "dockerfile"
    return "definition"


def read_text(path: str) -> str:
    """UsageError, InvalidDefinition."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_TEXT:
        raise InvalidDefinition(f"{path} has more than {MAX_TEXT >> 20} MiB", hint="Is it a definition file?")
    return data.decode("utf-8", "surrogateescape")


def refuse_target(target: str, options: Options) -> None:
    """UsageError where the target is there, and neither --force nor --update says that this is fine."""
    if not os.path.isdir(os.path.dirname(os.path.abspath(target))):
        raise CacheError(f"{os.path.dirname(os.path.abspath(target))} is no directory", hint="Make it first.")
    if not os.access(os.path.dirname(os.path.abspath(target)), os.W_OK | os.X_OK):
        raise CacheError(
            f"cannot write {target}: its directory is not yours to write", hint="Choose a place where you may write."
        )
    if not os.path.lexists(target):
        return
    if os.path.isdir(target) and not os.path.islink(target) and not options.sandbox:
        raise UsageError(f"{target} is a directory", hint="With --sandbox a directory is built; or name a file.")
    if options.sandbox and not os.path.isdir(target):
        raise UsageError(f"{target} is a file", hint="Without --sandbox a file is built; or name a directory.")
    if not options.force and not (options.update and options.sandbox):
        raise UsageError(f"build target {target} already exists", hint="Replace it with --force, or name another.")


def build(
    target: str,
    spec: str,
    options: Options,
    settings: Settings,
    inside: Inside,
    progress: Progress,
    definition: Definition | None = None,
) -> None:
    """Build `target`. definition: what `spec` says, where it is a file that says something. HpccError."""
    if definition is not None:
        _build_definition(target, definition, options, settings, inside, progress)
        return
    image = open_image(spec, settings, arch=options.arch, progress=progress)
    owners = options.fakeroot or inside.owners == "all"
    if options.sandbox:
        with _new_directory(target, options, inside, progress) as path:
            unpack_image(image, path, inside, owners=owners, progress=progress)
        return
    if image.sif is not None:
        copy_image(image, target, replace=options.force)
        return
    with work_directory(node_directory(settings, "build"), PREFIX, inside, progress) as work:
        root = image.rootfs.path
        if image.rootfs.kind != "directory":
            root = f"{work.path}/0"
            unpack_image(image, root, inside, owners=True, progress=progress)
        text, attributes = inside.call(inspect_directory, root)
        how = Builder(settings, options, inside, work, progress).how
        with new_file(target, replace=options.force) as file:
            inside.call(
                pack_sif, root, os.readlink(f"/proc/self/fd/{file.fileno()}"), _objects(text, attributes),
                Platform.host().architecture, how, progress=SILENT,
            )  # fmt: skip


def _build_definition(
    target: str, definition: Definition, options: Options, settings: Settings, inside: Inside, progress: Progress
) -> None:
    update = options.update and options.sandbox and os.path.isdir(target)
    with _work(target, options, settings, inside, progress) as work:
        builder = Builder(settings, options, inside, work, progress)
        built = builder.build(definition.stages, os.path.abspath(target) if update else "")
        about = About(
            definition.text,
            Platform.host().architecture,
            options.epoch if options.epoch >= 0 else int(time.time()),
            built.commands,
            options.force,
            options.sections,
            not update or options.force,
        )
        attributes = complete(built, about, inside, progress)
        if built.stage.section("test") and not options.notest and options.wants("test"):
            progress.info("Running testscript")
            run_test(built, options, work)
        if update:
            return
        if options.sandbox:
            _put_directory(built.root, target, inside, replace=options.force)
            return
        progress.info("Creating SIF file...")
        text = definition.text.encode("utf-8", "surrogateescape")
        with new_file(target, replace=options.force) as file:
            inside.call(
                pack_sif, built.root, os.readlink(f"/proc/self/fd/{file.fileno()}"), _objects(text, attributes),
                about.architecture, builder.how, built.known, progress=SILENT,
            )  # fmt: skip


def _objects(text: bytes, attributes: bytes) -> list[tuple[int, str, bytes]]:
    return [
        (descriptor.DEFFILE, "definition-file", text),
        (descriptor.GENERIC_JSON, "inspect-metadata.json", attributes),
    ]


# -- where it is made --------------------------------------------------------------------------------------------------


def _work(
    target: str, options: Options, settings: Settings, inside: Inside, progress: Progress
) -> AbstractContextManager[Work]:
    """A work directory: of a sandbox beside it, so that it can be renamed; of a SIF on this node's own disk."""
    if options.sandbox:
        directory, name = os.path.split(os.path.abspath(target))
        return work_directory(directory, f".{name}.build-", inside, progress, keep=not options.cleanup)
    parent = temporary_directory(settings.environ) or node_directory(settings, "build")
    return work_directory(parent, PREFIX, inside, progress, keep=not options.cleanup)


def temporary_directory(environ: Mapping[str, str]) -> str:
    """Where Apptainer's variables want builds to be made; "" where they say nothing."""
    names = (f"{prefix}_TMPDIR" for prefix in ("HPCC", "APPTAINER", "SINGULARITY"))
    return next((value for name in names if (value := environ.get(name))), "")


@contextmanager
def _new_directory(target: str, options: Options, inside: Inside, progress: Progress) -> Iterator[str]:
    """A path beside `target` that becomes it once the block has ended well."""
    directory, name = os.path.split(os.path.abspath(target))
    with work_directory(directory, f".{name}.build-", inside, progress, keep=not options.cleanup) as work:
        yield f"{work.path}/0"
        _put_directory(f"{work.path}/0", target, inside, replace=options.force)


def _put_directory(path: str, target: str, inside: Inside, *, replace: bool) -> None:
    """Rename `path` to `target`, in place of what is there."""
    try:
        if replace and os.path.lexists(target):
            old = f"{path}.old"
            inside.call(os.rename, target, old)
            try:
                inside.call(os.rename, path, target)
            except BaseException:
                inside.call(os.rename, old, target)
                raise
            inside.call(remove_tree, old)
        elif os.path.lexists(target):
            raise UsageError(f"build target {target} already exists", hint="Replace it with --force.")
        else:
            inside.call(os.rename, path, target)
    except OSError as error:
        raise CacheError(f"cannot write {target}: {error.strerror}", hint=place_hint(error)) from None


def read_definition(
    spec: str, kind: str, arguments: Mapping[str, str], progress: Progress, *, strict: bool = True
) -> Definition:
    """The definition file, or the Dockerfile as one. InvalidDefinition; UsageError for arguments that nothing uses."""
    text = read_text(spec)
    if kind == "dockerfile":
        from hpcc.definition.recipe import translate

        context = os.path.dirname(os.path.abspath(spec))
        recipe = translate(text, spec, lambda path: os.path.isdir(os.path.join(context, path)), context)
        for warning in recipe.warnings:
            progress.warning(warning)
        text = recipe.text
    found, unused = parse(text, spec, arguments)
    if unused and strict:
        raise UsageError(
            f"--build-arg {', '.join(sorted(unused))}: nothing in {spec} uses it",
            hint="Write {{ NAME }} where the value belongs, or --warn-unused-build-args to go on.",
        )
    if unused:
        progress.warning(f"--build-arg {', '.join(sorted(unused))}: nothing in {spec} uses it")
    return found
