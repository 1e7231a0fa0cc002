"""hpcc inspect: what an image says about itself."""

import json
import os
from collections.abc import Callable
from typing import Any

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.terminal import terminal
from hpcc.errors import InvalidImage, UsageError
from hpcc.image import open_image
from hpcc.local import Image, read_json
from hpcc.settings import Settings
from hpcc.sitepath import load_site_packages

COMMAND = Command(
    "inspect [OPTIONS] IMAGE",
    "Show what an image says about itself: its labels, or what the options name.",
    (
        Option(("-l", "--labels"), "the labels"),
        Option(("-d", "-D", "--deffile"), "the definition file"),
        Option(("-r", "--runscript"), "what `apptainer run` executes"),
        Option(("-e", "-E", "--environment"), "the scripts that set the environment"),
        Option(("--list-apps",), "its SCIF applications"),
        Option(("--app",), "the same of an application", "NAME"),
        Option(("--oci-config",), "entrypoint, command and environment, exactly"),
        Option(("-j", "--json"), "as JSON, in Apptainer's form"),
    ),
    "hpcc inspect docker://python:3.12\nhpcc inspect --json --environment image.sif",
)


def main(name: str, argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "inspect needs one image")
    load_site_packages()
    image = open_image(arguments.positional[0], Settings.from_environ(), progress=terminal(arguments))
    parts = [part for part in ("labels", "deffile", "runscript", "environment") if getattr(arguments, part)]
    if arguments.oci_config:
        print(json.dumps(_oci_config(image), indent=1 if not arguments.json else None))
        return 0
    attributes, wanted = _attributes(image), parts or ["labels"]
    if arguments.list_apps or arguments.app is not None:
        from hpcc.cli.inspect_apps import apps_of

        apps = apps_of(image, attributes)
        if arguments.list_apps:
            for line in [_document({"apps": apps} if apps else {})] if arguments.json else sorted(apps):
                print(line)
            return 0
        if arguments.app not in apps:
            raise UsageError(f"{image.name} has no app {arguments.app!r}", hint=f"It has: {', '.join(apps) or 'none'}.")
        attributes = apps[arguments.app]
        wanted = [part for part in wanted if part in attributes]
    shown = {part: attributes.get(part) or _EMPTY[part] for part in wanted}
    if arguments.json:
        print(_document({"apps": {arguments.app: shown}} if arguments.app is not None else shown))
        return 0
    for part, value in shown.items():
        for line in _SHOW[part](value):
            print(line)
    return 0


def _document(attributes: dict[str, Any]) -> str:
    return json.dumps({"data": {"attributes": attributes}, "type": "container"}, indent=1, sort_keys=True)


_EMPTY: dict[str, Any] = {"labels": {}, "deffile": "", "runscript": "", "environment": {}}
_SHOW: dict[str, Callable[[Any], list[str]]] = {
    "labels": lambda labels: [f"{key}: {labels[key]}" for key in sorted(labels)],
    "deffile": lambda text: [text.rstrip("\n")],
    "runscript": lambda text: [text.rstrip("\n")],
    "environment": lambda scripts: [
        line for path in sorted(scripts) for line in (f"=== {path} ===", scripts[path], "")
    ],
}


def _attributes(image: Image) -> dict[str, Any]:
    """From inspect-metadata.json of a SIF; from the files of /.singularity.d where there is none."""
    if image.sif is not None:
        found = read_json(image.sif, image.rootfs.fd, "inspect-metadata.json")
        attributes = found.get("data", {}).get("attributes") if found else None
        if isinstance(attributes, dict):
            return attributes
    read = text_reader(image)
    scripts = {}
    for path in ("/.singularity.d/env/10-docker2singularity.sh", "/.singularity.d/env/90-environment.sh"):
        if (text := read(path)) is not None:
            scripts[path] = text
    try:
        labels = json.loads(read("/.singularity.d/labels.json") or "{}")
    except ValueError as error:
        raise InvalidImage(f"{image.path}: /.singularity.d/labels.json: {error}") from None
    return {
        "labels": labels,
        "deffile": read("/.singularity.d/Singularity"),
        "runscript": read("/.singularity.d/runscript"),
        "environment": scripts,
    }


def text_reader(image: Image) -> Callable[[str], str | None]:
    """A function that reads a text file of the image, without mounting anything."""
    if image.rootfs.kind == "directory":
        from hpcc.runtime.stage import read_in_root

        return lambda path: _text(read_in_root(image.path, path))
    from hpcc.squashfs.reader import open_squashfs

    rootfs = image.rootfs
    squashfs = open_squashfs(lambda at, size: os.pread(rootfs.fd, size, rootfs.offset + at), rootfs.size)

    def read(path: str) -> str | None:
        inode = squashfs.lookup(path.encode())
        return _text(b"".join(squashfs.read(inode))) if inode is not None and inode.size < 1 << 20 else None

    return read


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _oci_config(image: Image) -> dict[str, Any]:
    found = read_json(image.sif, image.rootfs.fd, "oci-config.json") if image.sif else None
    if found is None:
        raise InvalidImage(f"{image.path} has no OCI config", hint="Only images from registries have one.")
    return found
