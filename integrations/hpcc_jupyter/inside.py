"""What an image has for notebooks: kernelspecs and IRkernel, by reading its files; Python, by asking it.

<prefix>/share/jupyter/kernels/<name>/kernel.json     <prefix>/lib/R/{library,site-library}/IRkernel/DESCRIPTION

<prefix>: /usr/local, /usr, /opt/conda, what Python says, and what the directories of the image's PATH lie in.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hpcc.cli.inspect import text_reader
from hpcc.cli.inspect_apps import directories_in
from hpcc.errors import HpccError, InvalidImage
from hpcc.invoke import program
from hpcc.local import Image
from hpcc_jupyter.kernelspec import PATH, Inside, from_kernelspec, with_irkernel

_PREFIXES = ("/usr/local", "/usr", "/opt/conda")
_PATIENCE = 300.0  # seconds for an answer of the image's Python, whose image may come from a slow filesystem
_NOT_FOUND = (126, 127, 255)
_ASK = """
import json, sys, sysconfig
try:
    import importlib.metadata as metadata
    version = metadata.version("ipykernel")
except Exception:
    version = ""
print("\\n" + json.dumps(["hpcc", "%d.%d" % sys.version_info[:2], sysconfig.get_config_var("EXT_SUFFIX") or "",
                          sys.prefix, version]))
"""


class Python(NamedTuple):
    """An interpreter of the image. suffix: of its compiled modules, .cpython-312-x86_64-linux-gnu.so."""

    command: str
    version: str
    suffix: str
    prefix: str
    ipykernel: str  # its version, "" where there is none

    @property
    def major(self) -> int:
        """Of its ipykernel."""
        number = self.ipykernel.partition(".")[0]
        return int(number) if number.isascii() and number.isdecimal() and len(number) < 4 else 0


def ask_python(image: Image, command: str) -> Python | None:
    """What `command` in the image says of itself; None where it has none. HpccError where it gives no answer."""
    words = [*program(), "--quiet", "exec", "--containall", "--no-eval", "--", image.path, command, "-c", _ASK]
    try:
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise HpccError(f"{command} in {image.name} has not answered within {_PATIENCE:.0f} s") from None
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode in _NOT_FOUND and "FATAL" in said:
        if "not found" in said or "No such file" in said or "is not in" in said:
            return None
        raise HpccError(f"cannot run {command} in {image.name}: {said.removeprefix('FATAL:').strip()}")
    try:
        mark, version, suffix, prefix, ipykernel = json.loads(done.stdout[-4096:].decode().strip().splitlines()[-1])
    except (ValueError, IndexError, TypeError, RecursionError):
        mark = ""
    if mark != "hpcc" or not all(isinstance(text, str) for text in (version, suffix, prefix, ipykernel)):
        last = said.splitlines()[-1] if said else f"it ended with {done.returncode}"
        raise HpccError(f"{command} in {image.name} is no Python that hpcc can ask: {last}")
    return Python(command, version, suffix, prefix, ipykernel)


def check_brought(image: Image, python: Python, bind: str) -> None:
    """HpccError where an ipykernel that is bound by `bind` lacks something in the image, and what that is."""
    words = [*program(), "--quiet", "exec", "--containall", "--bind", bind, "--", image.path, python.command]
    try:
        done = subprocess.run(
            [*words, "-c", PATH + "import ipykernel.kernelapp"], capture_output=True, stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HpccError(f"{python.command} in {image.name} has not ended within {_PATIENCE:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise HpccError(
            f"ipykernel does not start with {python.command} {python.version} of {image.name}: "
            f"{said[-1] if said else f'it ended with {done.returncode}'}",
            hint="An image that has what is missing there, or its own ipykernel, is a kernel; or another --python.",
        )


def prefixes(image: Image, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Where software lies in the image."""
    path = next((text[5:] for text in image.config.env if text.startswith("PATH=")), "")
    from_path = (os.path.dirname(part) for part in path.split(":") if os.path.basename(part) == "bin")
    return tuple(dict.fromkeys((*(each for each in more if each.startswith("/")), *from_path, *_PREFIXES)))


def kernelspecs(image: Image, where: Sequence[str], ipykernel: int) -> dict[str, Inside]:
    """The kernels that the image has, by name. ipykernel: the major version of its own. InvalidImage."""
    read = text_reader(image)
    found: dict[str, Inside] = {}
    for prefix in where:
        top = f"{prefix.rstrip('/')}/share/jupyter/kernels"
        for name in sorted(directories_in(image, top)):
            text = read(f"{top}/{name}/kernel.json")
            if text is None or name in found:
                continue
            try:
                spec = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InvalidImage(f"{image.name}: {top}/{name}/kernel.json: {error}") from None
            argv = spec.get("argv") if isinstance(spec, dict) else None
            is_ipykernel = isinstance(argv, list) and any("ipykernel" in str(word) for word in argv)
            kernel = (
                from_kernelspec(spec, f"{top}/{name}", ipykernel=ipykernel if is_ipykernel else 0)
                if isinstance(spec, dict)
                else None
            )
            if kernel is not None:
                found[name] = kernel
    return found


def irkernel(image: Image, where: Sequence[str]) -> Inside | None:
    """R's kernel, where the package is there and no kernelspec tells how it is started."""
    read = text_reader(image)
    for prefix in where:
        for library in ("site-library", "library"):
            if read(f"{prefix.rstrip('/')}/lib/R/{library}/IRkernel/DESCRIPTION") is not None:
                return with_irkernel("R")
    return None
