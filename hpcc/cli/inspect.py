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
        Option(("-s", "--startscript"), "what an instance starts"),
        Option(("-t", "--test"), "what tests it"),
        Option(("-H", "--helpfile"), "its help, as `run-help` shows it"),
        Option(("-e", "-E", "--environment"), "the scripts that set the environment"),
        Option(("--list-apps",), "its SCIF applications"),
        Option(("--app",), "the same of an application", "NAME"),
        Option(("--sbom",), "its packages, as SPDX in JSON"),
        Option(("--all",), "all that is known, as JSON"),
        Option(("--oci", "--oci-config"), "entrypoint, command and environment, exactly"),
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
    parts = [part for part in _SHOW if getattr(arguments, part)]
    if arguments.oci_config:
        print(json.dumps(_oci_config(image), indent=1 if not arguments.json else None))
        return 0
    if arguments.sbom:
        from hpcc.cli.inspect_sbom import show_sbom

        return show_sbom(image)
    attributes, wanted = _attributes(image), parts or ["labels"]
    if arguments.all:
        print(_document({key: value for key, value in attributes.items() if key in _ORDER and value}))
        return 0
    if arguments.list_apps or arguments.app is not None:
        from hpcc.cli.inspect_apps import apps_of

        apps = apps_of(image, attributes)
        if arguments.list_apps:
            for line in [_document({"apps": apps} if apps else {})] if arguments.json else sorted(apps):
                print(line)
            return 0
        if arguments.app not in apps:
            raise UsageError(f"{image.name} has no app {arguments.app!r}", hint=f"It has: {', '.join(apps) or 'none'}.")
        whole, attributes = attributes, apps[arguments.app]
        if "deffile" in wanted:  # an app has none of its own
            attributes = {**attributes, "deffile": whole.get("deffile")}
    shown = {part: attributes[part] for part in wanted if attributes.get(part)}
    if arguments.json:
        shown = shown or ({} if parts else {"labels": {}})
        if arguments.app is not None:
            outer = {"deffile": shown.pop("deffile")} if "deffile" in shown else {}
            shown = outer if outer and not shown else {"apps": {arguments.app: shown}, **outer}
        print(_document(shown))
        return 0
    for part, value in shown.items():
        for line in _SHOW[part](value):
            print(line)
    return 0


_ORDER = ("apps", "environment", "labels", "runscript", "test", "helpfile", "deffile", "startscript")
"""In Apptainer's documents."""


def _document(attributes: dict[str, Any]) -> str:
    """As Apptainer writes it: by tabs, in its order of attributes, names sorted within them, and Go's escapes."""
    document = {"data": {"attributes": _ordered(attributes)}, "type": "container"}
    text = json.dumps(document, indent="\t", ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _ordered(attributes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in sorted(attributes, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER)):
        value = attributes[key]
        if isinstance(value, dict):
            value = {name: value[name] for name in sorted(value)}
        if key == "apps" and isinstance(value, dict):
            value = {name: _ordered(app) for name, app in value.items()}
        found[key] = value
    return found


def _lines(text: Any) -> list[str]:
    return [str(text)]


_SHOW: dict[str, Callable[[Any], list[str]]] = {
    "deffile": _lines,
    "runscript": _lines,
    "startscript": _lines,
    "test": _lines,
    "helpfile": _lines,
    "environment": lambda scripts: [
        line for path in sorted(scripts) for line in (f"=== {path} ===", scripts[path], "")
    ],
    "labels": lambda labels: [f"{key}: {labels[key]}" for key in sorted(labels)],
}
"""In the order in which Apptainer prints them."""


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
        "startscript": read("/.singularity.d/startscript"),
        "test": read("/.singularity.d/test"),
        "helpfile": read("/.singularity.d/runscript.help"),
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
