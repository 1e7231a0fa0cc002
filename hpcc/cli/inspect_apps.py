"""What hpcc inspect shows of SCIF apps: --list-apps, --app."""

import json
import os
from typing import Any

from hpcc.errors import InvalidImage
from hpcc.local import Image
from hpcc.runtime.apps import ROOT, file_of

_TEXTS = {"runscript": "runscript", "test": "test", "helpfile": "runscript.help"}


def apps_of(image: Image, attributes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> attributes of an app, with Apptainer's keys. Those that the SIF's metadata has, else the files'."""
    known = attributes.get("apps")
    if isinstance(known, dict) and all(isinstance(each, dict) for each in known.values()):
        return known
    from hpcc.cli.inspect import text_reader

    read = text_reader(image)
    found: dict[str, dict[str, Any]] = {}
    for name in directories_in(image, ROOT):
        texts = {key: read(file_of(name, file)) for key, file in _TEXTS.items()}
        script = file_of(name, "env/90-environment.sh")
        labels = read(file_of(name, "labels.json"))
        try:
            parts = {"labels": json.loads(labels or "{}"), "environment": {script: read(script)}, **texts}
        except ValueError as error:
            raise InvalidImage(f"{image.path}: {file_of(name, 'labels.json')}: {error}") from None
        found[name] = {key: value for key, value in parts.items() if value not in (None, {}, {script: None})}
    return found


def directories_in(image: Image, path: str) -> list[str]:
    """The names of the directories in a directory of the image, without mounting anything; none where it is none."""
    if image.rootfs.kind == "directory":
        from hpcc.runtime.stage import names_in_root

        return names_in_root(image.path, path)
    from hpcc.fstree import DIRECTORY
    from hpcc.squashfs.reader import open_squashfs

    rootfs = image.rootfs
    squashfs = open_squashfs(lambda at, size: os.pread(rootfs.fd, size, rootfs.offset + at), rootfs.size)
    top = squashfs.lookup(path.encode())
    if top is None or top.kind != DIRECTORY:
        return []
    return [
        os.fsdecode(name) for name, reference in squashfs.children(top) if squashfs.inode(reference).kind == DIRECTORY
    ]
