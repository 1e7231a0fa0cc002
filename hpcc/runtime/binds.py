"""--bind and --mount: what they say, as plain values. Pure.

--bind SRC[:DEST[:OPTION]]                            several by commas; `\\:` and `\\,` belong to a path
--mount type=bind,source=SRC,destination=DEST[,ro]    one; a row of CSV, so that "source=/a,b" may be quoted
"""

from __future__ import annotations

import posixpath

from hpcc.errors import UsageError
from hpcc.records import NamedTuple


class Bind(NamedTuple):
    """A host path in the container. `optional` ones are left out where the host has no such path.

    device: a device node, which stays usable.
    """

    source: str
    target: str
    readonly: bool = False
    optional: bool = False
    device: bool = False


def split_binds(text: str) -> list[str]:
    """`a:b,c` as its parts; a comma or colon behind a backslash belongs to a path."""
    return [part for part in _split(text, ",") if part]


def parse_bind(text: str, cwd: str) -> Bind:
    """SRC[:DEST[:ro|rw]], with `\\:` for a colon in a path, SRC relative to `cwd`. UsageError says what is wrong."""
    parts = [part.replace("\\:", ":").replace("\\,", ",") for part in _split(text, ":")]
    if len(parts) > 2 and parts[2].startswith(("image-src=", "id=")):
        raise _no_images(f"--bind {text}")
    if len(parts) > 3 or not parts[0] or (len(parts) > 2 and parts[2] not in ("ro", "rw")):
        raise UsageError(f"--bind {text!r} does not parse", hint="Write SRC[:DEST[:ro|rw]], several by commas.")
    source = posixpath.normpath(posixpath.join(cwd, parts[0]))
    target = parts[1] if len(parts) > 1 and parts[1] else source
    return Bind(source, absolute(target, f"--bind {text!r}"), len(parts) > 2 and parts[2] == "ro")


def parse_mount(text: str, cwd: str) -> Bind:
    """type=bind,source=…,destination=…[,ro] with Docker's short names as well. UsageError says what is wrong."""
    import csv

    form = "Write type=bind,source=SRC,destination=DEST[,ro]."
    try:
        (row,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise UsageError(f"--mount {text!r} does not parse", hint=form) from None
    values: dict[str, str] = {}
    for item in row:
        name, equals, value = item.partition("=")
        name = _NAMES.get(name.strip(), "")
        if not name or name in values or (not equals and name != "ro"):
            raise UsageError(f"--mount {text!r}: {item!r} is not understood", hint=form)
        values[name] = value
    if values.get("type", "bind") != "bind":
        raise UsageError(f"--mount {text!r}: hpcc knows type=bind only", hint=form)
    if "image" in values:
        raise _no_images(f"--mount {text}")
    if not values.get("source") or not values.get("destination"):
        raise UsageError(f"--mount {text!r} needs a source and a destination", hint=form)
    if values.get("ro", "") not in ("", "true", "1", "false", "0"):
        raise UsageError(f"--mount {text!r}: ro is true or false", hint=form)
    source = posixpath.normpath(posixpath.join(cwd, values["source"]))
    readonly = "ro" in values and values["ro"] not in ("false", "0")
    return Bind(source, absolute(values["destination"], f"--mount {text!r}"), readonly)


_NAMES = {
    "type": "type", "source": "source", "src": "source", "destination": "destination", "dst": "destination",
    "target": "destination", "ro": "ro", "readonly": "ro", "image-src": "image", "id": "image",
}  # fmt: skip


def absolute(path: str, what: str) -> str:
    """`path`, normalised. UsageError, which begins with `what`, where it is not absolute."""
    if not path.startswith("/"):
        raise UsageError(
            f"{what}: the destination {path!r} is not an absolute path", hint="A path in the container begins with /."
        )
    return posixpath.normpath(path)


def _no_images(what: str) -> UsageError:
    return UsageError(
        f"{what}: hpcc cannot bind what lies inside an image yet",
        hint="`hpcc exec IMAGE cp -r …` copies it out first.",
    )


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
