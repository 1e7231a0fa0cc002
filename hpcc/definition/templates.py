"""{{ NAME }} in a definition file: the values of --build-arg, else the defaults of its %arguments. Pure."""

import re
from collections.abc import Callable, Mapping

from hpcc.errors import InvalidDefinition, UsageError

_TEMPLATE = re.compile(r"{{\s*(\w+)\s*}}")
_ARGUMENTS = re.compile(r"(?mi)^%arguments\b[^\n]*\n((?:(?![ \t]*%)[^\n]*(?:\n|\Z))*)")


def fill(text: str, given: Mapping[str, str], where: Callable[[int, int], object]) -> tuple[str, set[str]]:
    """(a stage's text with its templates filled in, the names that it uses). InvalidDefinition where one has no value.

    where(line, column), from 1: what an error says of a place in the text.
    """
    values = {**_defaults(text, where), **given}
    used: set[str] = set()

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        used.add(name)
        if name not in values:
            line = text.count("\n", 0, match.start()) + 1
            column = match.start() - text.rfind("\n", 0, match.start())
            raise InvalidDefinition(
                f"{where(line, column)}: {name} has no value",
                hint=f"Give it one: --build-arg {name}=VALUE, or a line {name}=VALUE in %arguments.",
            )
        return values[name]

    return _TEMPLATE.sub(value, text), used


def _defaults(text: str, where: Callable[[int, int], object]) -> dict[str, str]:
    found: dict[str, str] = {}
    for section in _ARGUMENTS.finditer(text):
        first = text.count("\n", 0, section.start(1)) + 1
        for number, line in enumerate(section.group(1).splitlines()):
            if line.strip() and not line.strip().startswith("#"):
                name, value = _pair(line.strip())
                if not name:
                    raise InvalidDefinition(
                        f"{where(first + number, 1)}: {line.strip()[:60]!r} is not NAME=VALUE",
                        hint="%arguments has a line NAME=VALUE for each default.",
                    )
                found[name] = value
    return found


def parse_arguments(words: list[str], text: str = "") -> dict[str, str]:
    """Values of --build-arg NAME=VALUE, over those of the text of a --build-arg-file. UsageError."""
    found: dict[str, str] = {}
    lines = [line.strip() for line in text.splitlines()]
    for option, each in [
        *(("--build-arg-file", line) for line in lines if line and not line.startswith("#")),
        *(("--build-arg", word) for word in words),
    ]:
        name, value = _pair(each)
        if not name:
            raise UsageError(f"{option} {each!r} is not NAME=VALUE")
        found[name] = value
    return found


def _pair(text: str) -> tuple[str, str]:
    """("", "") for what is no NAME=VALUE."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not re.fullmatch(r"\w+", name):
        return "", ""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return name, value
