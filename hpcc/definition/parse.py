"""A definition file's text to its model. Pure; what a line means is what it means to Apptainer 1.4.

    Bootstrap: docker          a stage begins with each line that begins so, in capitals or not
    From: debian:12  # words   KEY: VALUE; a # begins a comment; a \\ at the end goes on in the next line
    %post -c /bin/bash         a section begins with each line whose first word begins with %
        its lines, as they are

A section that comes twice goes on; two %files of the same stage likewise.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import partial

from hpcc.definition.model import APP_SECTIONS, HEADERS, SECTIONS, Definition, Files, Script, Stage, Transfer
from hpcc.definition.templates import fill
from hpcc.errors import InvalidDefinition
from hpcc.records import NamedTuple

_STAGE = re.compile(r"(?mi)^bootstrap:")
_WORD = re.compile(
    r"""([^\s"']*{{\s*\w+\s*}}*[^\s{}"']*)+ | "[^"]*" | '[^']*' | [^\s"']+""", re.VERBOSE
)  # of a line of %files
_APP = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class _Line(NamedTuple):
    number: int
    text: str


def parse(
    text: str, name: str = "definition file", arguments: Mapping[str, str] | None = None
) -> tuple[Definition, set[str]]:
    """(the definition, those of `arguments` that no template uses). InvalidDefinition tells line and column in `name`.

    arguments: the values of --build-arg.
    """
    given, used = arguments or {}, set[str]()
    starts = [match.start() for match in _STAGE.finditer(text)]
    pieces, stages = [], []
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        number = text.count("\n", 0, start) + 1
        piece, names = fill(text[start:end], given, partial(_where, name, number))
        used |= names
        pieces.append(piece)
        stage = _stage([_Line(number + at, line) for at, line in enumerate(_lines(piece))], name)
        if stage is not None:
            stages.append(stage)
    if not stages:
        raise InvalidDefinition(
            f"{name} is empty", hint="The least that it can say is\n  Bootstrap: docker\n  From: debian:12"
        )
    _check_stages(stages, name)
    return Definition("".join(pieces), tuple(stages)), set(given) - used


class _Where(NamedTuple):
    name: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}"


def _where(name: str, first: int, line: int, column: int) -> _Where:
    return _Where(name, first + line - 1, column)


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _stage(lines: list[_Line], name: str) -> Stage | None:
    """None for lines that say nothing."""
    first = next((at for at, line in enumerate(lines) if line.text.lstrip().startswith("%")), len(lines))
    header = _header(lines[:first], name)
    if "bootstrap" not in header:
        said = next((line for line in lines if line.text.strip() and not line.text.lstrip().startswith("#")), None)
        if said is None:
            return None
        raise InvalidDefinition(
            f"{_Where(name, said.number, 1)}: {said.text.strip()[:60]!r} comes before the line Bootstrap:",
            hint="A definition file begins with Bootstrap:, at the first column; move that line to the top.",
        )
    sections: dict[str, Script] = {}
    files: dict[str, Files] = {}
    apps: dict[str, dict[str, Script]] = {}
    while first < len(lines):
        head = lines[first]
        end = first + 1
        while end < len(lines) and not lines[end].text.lstrip().startswith("%"):
            end += 1
        body = lines[first + 1 : end]
        first = end
        key, arguments = _section_name(head, name)
        if key == "files":
            found = _files(head, arguments, body, name)
            known = files.get(found.stage, Files(found.stage, ()))
            files[found.stage] = known._replace(transfers=known.transfers + found.transfers)
            continue
        into, at = sections, key
        if key in APP_SECTIONS:
            app, arguments = _app_name(head, key, arguments, name)
            into = apps.setdefault(app, {})
        text = "".join(f"{line.text}\n" for line in body)
        before = into.get(at, Script())
        into[at] = Script(before.text + text, arguments or before.arguments)
    return Stage(header, sections, tuple(files.values()), apps)


def _header(lines: list[_Line], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = iter(lines)
    for line in rest:
        text = line.text.strip()
        if not text or text.startswith("#"):
            continue
        key, colon, value = text.partition("#")[0].partition(":")
        column = len(line.text) - len(line.text.lstrip()) + 1
        if not colon:
            raise InvalidDefinition(
                f"{_Where(name, line.number, column)}: {text[:60]!r} is neither KEY: VALUE nor a section",
                hint="Before the first section stand lines such as From: debian:12.",
            )
        key, value = key.strip().lower(), value.strip()
        while value.endswith("\\"):
            more = next(rest, None)
            if more is None or not more.text.strip() or more.text.strip().startswith("#"):
                raise InvalidDefinition(
                    f"{_Where(name, line.number, len(line.text.rstrip()))}: a \\ at the end, and nothing to go on with",
                    hint="Remove it, or continue in the next line.",
                )
            value = value[:-1].removesuffix("\\n") + ("\n" if value[:-1].endswith("\\n") else "")
            value += more.text.strip().partition("#")[0].strip()
        if key.rstrip("0123456789") not in HEADERS or (key[-1:].isdigit() and not key.startswith("otherurl")):
            raise InvalidDefinition(
                f"{_Where(name, line.number, column)}: there is no header {key!r}", hint=_meant(key, sorted(HEADERS))
            )
        found[key] = value
    return found


def _section_name(head: _Line, name: str) -> tuple[str, str]:
    """(name in lower case, the rest of the line)."""
    column = len(head.text) - len(head.text.lstrip()) + 1
    word, *rest = head.text.split(None, 1)
    key = word.lstrip("%").lower()
    if column > 1 and key not in SECTIONS and key not in APP_SECTIONS:
        raise InvalidDefinition(
            f"{_Where(name, head.number, column)}: {word} is no section, and no line of a script can begin with %",
            hint="Write the line so that another word comes first.",
        )
    if key not in SECTIONS and key not in APP_SECTIONS:
        raise InvalidDefinition(
            f"{_Where(name, head.number, column)}: there is no section %{key}",
            hint=_meant(key, (*SECTIONS, *APP_SECTIONS), "%"),
        )
    if column > 1:
        raise InvalidDefinition(
            f"{_Where(name, head.number, column)}: %{key} is indented", hint="A section begins at the first column."
        )
    return key, rest[0].strip() if rest else ""


def _app_name(head: _Line, key: str, arguments: str, name: str) -> tuple[str, str]:
    app, _, rest = arguments.partition(" ")
    if not _APP.fullmatch(app):
        raise InvalidDefinition(
            f"{_Where(name, head.number, len(key) + 3)}: %{key} needs the name of an app"
            + (f", which {app!r} cannot be" if app else ""),
            hint=f"%{key} myapp",
        )
    return app, rest.strip()


def _files(head: _Line, arguments: str, body: list[_Line], name: str) -> Files:
    words = arguments.partition("#")[0].split()
    if words and (len(words) != 2 or words[0] != "from"):
        raise InvalidDefinition(
            f"{_Where(name, head.number, 8)}: %files takes no {' '.join(words)!r}", hint="%files, or %files from STAGE."
        )
    transfers = []
    for line in body:
        text = line.text.strip()
        if not text or text.startswith("#"):
            continue
        found = [match.group() for match in _WORD.finditer(text)]
        if not found:
            raise InvalidDefinition(
                f"{_Where(name, line.number, 1)}: {text[:60]!r} names no path", hint="SOURCE [TARGET], a line each."
            )
        source, target = (*(word.strip("\"'") for word in found), "")[:2]
        if source:
            transfers.append(Transfer(source, target))
    return Files(words[1] if words else "", tuple(transfers))


def _check_stages(stages: list[Stage], name: str) -> None:
    """Stages are named once, and what a %files takes from one stands before it."""
    known: list[str] = []
    for number, stage in enumerate(stages):
        for each in stage.files:
            if each.stage and each.stage not in known and not (each.stage.isdecimal() and int(each.stage) < number):
                raise InvalidDefinition(
                    f"{name}: %files from {each.stage}: no stage before it is called so",
                    hint=f"Stages before it: {', '.join(filter(None, known)) or 'none with a name'}. "
                    f"A stage gets its name by a line Stage: {each.stage} in its header.",
                )
        if stage.name and stage.name in known:
            raise InvalidDefinition(f"{name}: two stages are called {stage.name}", hint="Give one another name.")
        known.append(stage.name)


def _meant(word: str, known: tuple[str, ...] | list[str], mark: str = "") -> str:
    close = get_close_matches(word, known, 1)
    return f"Did you mean {mark}{close[0]}?" if close else "There are " + ", ".join(mark + each for each in known) + "."
