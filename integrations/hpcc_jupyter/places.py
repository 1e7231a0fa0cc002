"""Where Jupyter looks for kernels, and those of them that hpcc has made. No Jupyter is needed for that.

    <data>/kernels/<name>/kernel.json       and beside it perhaps logo-32x32.png, logo-64x64.png

<data>, the first that has the name wins: each of $JUPYTER_PATH; the user's, $JUPYTER_DATA_DIR or $XDG_DATA_HOME/jupyter
or ~/.local/share/jupyter; <sys.prefix>/share/jupyter; /usr/local/share/jupyter, /usr/share/jupyter.
Source: https://jupyter-client.readthedocs.io/en/stable/kernels.html
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hpcc.errors import HpccError, UsageError, place_hint

OURS = "hpcc"  # in the metadata of kernels that hpcc has made
_NAME = re.compile(r"[a-z0-9._-]+", re.IGNORECASE)
_SYSTEM = ("/usr/local/share/jupyter", "/usr/share/jupyter")
_MOST = 1 << 20  # bytes of a kernel.json


class Kernel(NamedTuple):
    """One that is installed."""

    name: str
    directory: str
    spec: Mapping[str, Any]

    @property
    def ours(self) -> Mapping[str, Any] | None:
        """What hpcc has noted of it; None of a kernel that is not hpcc's."""
        metadata = self.spec.get("metadata")
        found = metadata.get(OURS) if isinstance(metadata, dict) else None
        return found if isinstance(found, dict) else None


def user_data(environ: Mapping[str, str]) -> str:
    if environ.get("JUPYTER_DATA_DIR"):
        return environ["JUPYTER_DATA_DIR"]
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share"), "jupyter")


def data_directories(environ: Mapping[str, str]) -> tuple[str, ...]:
    """In the order in which Jupyter looks at them."""
    added = [path for path in environ.get("JUPYTER_PATH", "").split(":") if path]
    own = (user_data(environ), os.path.join(sys.prefix, "share/jupyter"))
    return tuple(dict.fromkeys((*added, *own, *_SYSTEM)))


def find_kernels(places: Iterable[str]) -> list[Kernel]:
    """All that Jupyter would find there, by name; what cannot be read is none."""
    found: dict[str, Kernel] = {}
    for place in places:
        top = os.path.join(place, "kernels")
        try:
            names = sorted(os.listdir(top))
        except OSError:
            continue
        for name in names:
            kernel = read_kernel(os.path.join(top, name)) if _NAME.fullmatch(name) else None
            if kernel is not None:
                found.setdefault(kernel.name, kernel)
    return [found[name] for name in sorted(found)]


def read_kernel(directory: str) -> Kernel | None:
    """Jupyter takes names for the same whatever their case."""
    try:
        with open(os.path.join(directory, "kernel.json"), encoding="utf-8") as file:
            spec = json.loads(file.read(_MOST))
    except (OSError, ValueError):
        return None
    return Kernel(os.path.basename(directory).lower(), directory, spec) if isinstance(spec, dict) else None


def check_name(name: str) -> str:
    """The name, in small letters. UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name {name!r}: Jupyter wants letters, digits, and any of . _ -", hint="--display-name takes any text."
        )
    return name.lower()


def write_kernel(data: str, name: str, spec: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Its directory. A kernel of hpcc's by that name is replaced; UsageError for another one's.

    kernel.json is replaced as a whole, and written last. HpccError where the directory cannot be written.
    """
    directory = os.path.join(data, "kernels", name)
    before = read_kernel(directory)
    if os.path.lexists(directory) and (before is None or before.ours is None):
        raise UsageError(
            f"{directory} is there already, and is no kernel of hpcc's", hint="Choose another name with --name."
        )
    temporary = os.path.join(directory, f".kernel.json.{secrets.token_hex(6)}")
    try:
        os.makedirs(directory, exist_ok=True)
        for file_name, content in files.items():
            with open(os.path.join(directory, file_name), "wb") as file:
                file.write(content)
        with open(temporary, "x", encoding="utf-8") as text:
            json.dump(spec, text, indent=1)
            text.write("\n")
        os.replace(temporary, os.path.join(directory, "kernel.json"))
    except OSError as error:
        raise HpccError(f"cannot write {directory}: {error.strerror}", hint=place_hint(error)) from None
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    return directory


def remove_kernel(kernel: Kernel) -> None:
    """Of a link, the link alone. HpccError."""
    try:
        if os.path.islink(kernel.directory):
            os.unlink(kernel.directory)
        else:
            shutil.rmtree(kernel.directory)
    except OSError as error:
        raise HpccError(f"cannot remove {kernel.directory}: {error.strerror}") from None
