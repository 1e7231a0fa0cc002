"""Modulefiles and the scripts that they put on PATH. Pure.

    NAME/VERSION.lua         for Lmod
    NAME/VERSION             for Environment Modules, whose modules are Tcl
    NAME/.VERSION/bin/CMD    sh: exec hpcc exec IMAGE CMD "$@"

What an image says about itself is somebody else's text: it stands in strings of Lua, Tcl and sh, never as code.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import join, quote
from typing import NamedTuple


class Module(NamedTuple):
    """What a modulefile says. `image` is what runs: docker://…@digest, or a path; `about` are lines for whatis."""

    name: str
    version: str
    image: str
    bin: str
    commands: tuple[str, ...]
    about: tuple[tuple[str, str], ...] = ()

    @property
    def help(self) -> str:
        return f"Commands of {self.image}, by hpcc:\n  {' '.join(self.commands)}\n"

    @property
    def whatis(self) -> list[str]:
        rows = (("Name", self.name), ("Version", self.version), *self.about, ("Image", self.image))
        return [f"{title}: {text}" for title, text in rows]


def lua(module: Module) -> str:
    """For Lmod."""
    lines = ["-- made by `hpcc module`", f"help({lua_string(module.help)})"]
    lines += [f"whatis({lua_string(text)})" for text in module.whatis]
    return "\n".join([*lines, f'prepend_path("PATH", {lua_string(module.bin)})', ""])


def tcl(module: Module) -> str:
    """For Environment Modules; Lmod reads it as well."""
    lines = ["#%Module1.0", "## made by `hpcc module`"]
    lines += ["proc ModulesHelp { } {", f"    puts stderr {tcl_string(module.help)}", "}"]
    lines += [f"module-whatis {tcl_string(text)}" for text in module.whatis]
    return "\n".join([*lines, f"prepend-path PATH {tcl_string(module.bin)}", ""])


def wrapper(program: Sequence[str], options: Sequence[str], image: str, command: str) -> str:
    """The script of one command."""
    return f'#!/bin/sh\nexec {join([*program, "exec", *options, "--", image])} {quote(command)} "$@"\n'


def lua_string(text: str) -> str:
    """A literal of Lua; all but printable ASCII, and what could end it, as decimal escapes of its bytes."""
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
    data = text.encode("utf-8", "surrogateescape")
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03d}" for byte in data) + '"'


def tcl_string(text: str) -> str:
    """A word of Tcl in quotes, in which nothing is substituted; valid within braces, too."""
    special = {"\n": "\\n", "\t": "\\t", **{each: f"\\{each}" for each in '\\"$[]{};'}}
    return '"' + "".join(special.get(each, each if each.isprintable() else "?") for each in text) + '"'
