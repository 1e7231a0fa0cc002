"""--bind, --mount and --overlay: what they say, as plain values. Pure.

--bind SRC[:DEST[:OPTION[,OPTION…]]]                    several by commas; `\\:` and `\\,` belong to a path
--mount type=bind,source=SRC,destination=DEST[,OPTION…] one; a row of CSV, so that "source=/a,b" may be quoted
--overlay DIR[:ro]                                      several by commas

Options are ro, rw, and image-src=PATH and id=N, with which SRC is a file that has a filesystem: PATH in it is bound.
"""

from __future__ import annotations

import posixpath

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Bind(NamedTuple):
    """A host path in the container. `optional` ones are left out where the host has no such path.

    device: a device node, which stays usable. image: `source` is a path in the filesystem in this file, and in its
    object `id`, 0 for none in particular; kind: of that filesystem, where it is known.
    """

    source: str
    target: str
    readonly: bool = False
    optional: bool = False
    device: bool = False
    image: str = ""
    id: int = 0
    kind: str = ""


class Overlay(NamedTuple):
    """A layer over the image's root: a directory with an upper/, or a filesystem in the file `path`.

    kind: "directory", or the filesystem's: "squashfs" or "ext". id: of the object of a SIF that has it, 0 for none.
    """

    path: str
    readonly: bool
    kind: str = "directory"
    id: int = 0


def split_binds(text: str) -> list[str]:
    """`a:b:ro,id=1,c` as its parts; a comma or colon behind a backslash belongs to a path."""
    parts: list[str] = []
    for part in _split(text, ","):
        if parts and _is_option(part) and len(_split(parts[-1], ":")) > 2:
            parts[-1] += f",{part}"
        elif part:
            parts.append(part)
    return parts


def parse_bind(text: str, cwd: str) -> Bind:
    """SRC[:DEST[:OPTIONS]], with `\\:` for a colon in a path, SRC relative to `cwd`. UsageError says what is wrong."""
    what, parts = f"--bind {text!r}", _split(text, ":")
    if len(parts) > 3 or not parts[0]:
        raise UsageError(f"{what} does not parse", hint=_BIND)
    options: dict[str, str] = {}
    for part in _split(parts[2], ",") if len(parts) > 2 else ():
        name, _, value = part.partition("=")
        if not _is_option(part) or name in options or {name, *options} >= {"ro", "rw"}:
            raise UsageError(f"{what} does not parse: {part!r} is not understood", hint=_BIND)
        options[name] = _unescaped(value)
    target = _unescaped(parts[1]) if len(parts) > 1 else ""
    return _bind(what, cwd, _unescaped(parts[0]), target, options, readonly="ro" in options)


def parse_mount(text: str, cwd: str) -> Bind:
    """type=bind,source=…,destination=…[,ro] with Docker's short names as well. UsageError says what is wrong."""
    import csv

    what = f"--mount {text!r}"
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError(f"{what} does not parse", hint=_MOUNT) from None
    values: dict[str, str] = {}
    for item in row:
        name, equals, value = item.partition("=")
        name = _NAMES.get(name.strip(), "")
        if not name or name in values or (not equals and name != "ro"):
            raise UsageError(f"{what}: {item!r} is not understood", hint=_MOUNT)
        values[name] = value
    if values.get("type", "bind") != "bind":
        raise UsageError(f"{what}: hpcc knows type=bind only", hint=_MOUNT)
    if not values.get("source") or not values.get("destination"):
        raise UsageError(f"{what} needs a source and a destination", hint=_MOUNT)
    if values.get("ro", "") not in ("", "true", "1", "false", "0"):
        raise UsageError(f"{what}: ro is true or false", hint=_MOUNT)
    readonly = "ro" in values and values["ro"] not in ("false", "0")
    return _bind(what, cwd, values["source"], values["destination"], values, readonly=readonly)


def _bind(what: str, cwd: str, source: str, target: str, options: Mapping[str, str], *, readonly: bool) -> Bind:
    source = posixpath.normpath(posixpath.join(cwd, source))
    if "image-src" not in options and "id" not in options:
        return Bind(source, absolute(target or source, what), readonly)
    if not target:
        raise UsageError(f"{what}: what lies in an image needs a destination", hint=_BIND)
    number = options.get("id", "0")
    if not (number.isascii() and number.isdigit() and int(number[:12]) < 1 << 32):
        raise UsageError(f"{what}: {number!r} is no id of an object", hint=f"`hpcc sif list {source}` shows them.")
    inside = posixpath.normpath(posixpath.join("/", options.get("image-src", "")))
    return Bind(inside, absolute(target, what), readonly, image=source, id=int(number))


def parse_overlay(text: str, cwd: str) -> Overlay:
    """PATH[:ro|rw], PATH relative to `cwd`; of a kind that is still to be found out."""
    path, colon, option = text.rpartition(":")
    if colon and option not in ("ro", "rw"):
        path, colon = text, ""
    return Overlay(posixpath.normpath(posixpath.join(cwd, path if colon else text)), colon == ":" and option == "ro")


_NAMES = {
    "type": "type", "source": "source", "src": "source", "destination": "destination", "dst": "destination",
    "target": "destination", "ro": "ro", "readonly": "ro", "image-src": "image-src", "id": "id",
}  # fmt: skip
_BIND = "Write SRC[:DEST[:ro|rw]], or IMAGE:DEST:image-src=PATH[,id=N][,ro]; several by commas."
_MOUNT = "Write type=bind,source=SRC,destination=DEST[,ro][,image-src=PATH][,id=N]."


def _is_option(text: str) -> bool:
    return text in ("ro", "rw") or text.startswith(("image-src=", "id="))


def _unescaped(text: str) -> str:
    return text.replace("\\:", ":").replace("\\,", ",")


def absolute(path: str, what: str) -> str:
    """`path`, normalised. UsageError, which begins with `what`, where it is not absolute."""
    if not path.startswith("/"):
        raise UsageError(
            f"{what}: the destination {path!r} is not an absolute path", hint="A path in the container begins with /."
        )
    return posixpath.normpath(path)


def _split(text: str, separator: str) -> list[str]:
    parts, current, escaped = [], "", False
    for character in text:
        if escaped:
            current, escaped = current + "\\" + character, False
        elif character == "\\":
            escaped = True
        elif character == separator:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current + ("\\" if escaped else "")]
