"""A Dockerfile to a definition file. Pure.

    FROM [AS]       Bootstrap: docker, From:, Stage:         ENV          %environment, and %post from there on
    COPY, ADD       %files, %files from STAGE                ARG          %arguments
    RUN             %post                                    WORKDIR      %post, %runscript
    ENTRYPOINT, CMD %runscript                               LABEL        %labels
    HEALTHCHECK     %test                                    MAINTAINER   %labels

Without a counterpart, and said so: EXPOSE, VOLUME, USER, ONBUILD, STOPSIGNAL, SHELL.
"""

import json
import posixpath
import re
import shlex
from collections.abc import Callable

from hpcc.errors import InvalidDefinition
from hpcc.records import NamedTuple

_NONE = {
    "EXPOSE": "a container has the host's network, so every port is open that the program opens",
    "VOLUME": "directories of the host come by --bind",
    "USER": "a container runs as its caller",
    "ONBUILD": "no image is built on this one by Docker",
    "STOPSIGNAL": "`hpcc instance stop --signal` names it",
    "SHELL": "write %post -c SHELL instead",
}
_KNOWN = frozenset(
    ("FROM", "RUN", "CMD", "LABEL", "MAINTAINER", "ENV", "ADD", "COPY", "ENTRYPOINT", "WORKDIR", "ARG", "HEALTHCHECK",
     *_NONE)
)  # fmt: skip
_HEREDOC = re.compile(r"<<-?\s*([\"']?)(\w+)\1")
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


class Recipe(NamedTuple):
    """The text of the definition file, and what it could not say."""

    text: str
    warnings: tuple[str, ...]


class Instruction(NamedTuple):
    """name in capitals; `lines`: of its heredoc."""

    number: int
    name: str
    text: str
    lines: tuple[str, ...] = ()


class _Stage:
    """What a stage has gathered."""

    def __init__(self, source: str, name: str) -> None:
        self.source, self.name = source, name
        self.arguments: dict[str, str] = {}
        self.files: dict[str, list[str]] = {}
        self.environment: list[str] = []
        self.post: list[str] = []
        self.labels: list[str] = []
        self.test: list[str] = []
        self.directory = ""
        self.entrypoint: list[str] | str | None = None
        self.command: list[str] | str | None = None


def translate(
    text: str, name: str = "Dockerfile", is_directory: Callable[[str], bool] = lambda path: False, context: str = ""
) -> Recipe:
    """The definition file of a Dockerfile. InvalidDefinition.

    is_directory: of a source of COPY, whose contents Docker copies then. context: what sources are relative to, "" for
    where hpcc will be called.
    """
    translator = _Translator(name, is_directory, context)
    for instruction in instructions(text, name):
        translator.take(instruction)
    return translator.result()


def instructions(text: str, name: str = "Dockerfile") -> list[Instruction]:
    """Lines that end with the escape character go on; comments and empty lines between them do not count."""
    escape = "`" if re.match(r"\s*#\s*escape\s*=\s*`", text) else "\\"
    found: list[Instruction] = []
    rest = list(enumerate(text.splitlines(), 1))[::-1]
    while rest:
        number, line = rest.pop()
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = []
        while line.rstrip().endswith(escape):
            parts.append(line.rstrip()[:-1])
            line = ""
            while rest:
                _, line = rest.pop()
                if line.strip() and not line.lstrip().startswith("#"):
                    break
                line = ""
        parts.append(line)
        whole = "\n".join(parts).strip()
        word, _, words = whole.partition(" ") if " " in whole.split("\n")[0] else whole.partition("\n")
        if word.upper() not in _KNOWN:
            raise InvalidDefinition(
                f"{name}:{number}:1: there is no instruction {word[:40]!r}",
                hint="A Dockerfile has lines such as FROM debian:12.",
            )
        lines: list[str] = []
        if word.upper() in ("RUN", "COPY", "ADD") and (mark := _HEREDOC.search(words)):
            while rest:
                _, line = rest.pop()
                if line.strip() == mark.group(2):
                    break
                lines.append(line)
            else:
                raise InvalidDefinition(f"{name}:{number}:1: <<{mark.group(2)} is never ended")
        found.append(Instruction(number, word.upper(), words.strip(), tuple(lines)))
    return found


class _Translator:
    def __init__(self, name: str, is_directory: Callable[[str], bool], context: str) -> None:
        self._name, self._is_directory, self._context = name, is_directory, context
        self._stages: list[_Stage] = []
        self._arguments: dict[str, str] = {}  # before the first FROM
        self._warnings: list[str] = []

    def take(self, each: Instruction) -> None:
        if each.name == "ARG":
            self._arg(each)
        elif each.name == "FROM":
            self._from(each)
        elif not self._stages:
            raise self._error(each, f"{each.name} stands before the first FROM", "A Dockerfile begins with FROM IMAGE.")
        elif each.name in _NONE:
            self._warn(each, f"{each.name} has no counterpart: {_NONE[each.name]}")
        else:
            getattr(self, f"_{each.name.lower()}")(each, self._stages[-1])

    def _error(self, each: Instruction, what: str, hint: str) -> InvalidDefinition:
        return InvalidDefinition(f"{self._name}:{each.number}:1: {what}", hint=hint)

    def _warn(self, each: Instruction, what: str) -> None:
        self._warnings.append(f"{self._name}:{each.number}: {what}")

    def _arg(self, each: Instruction) -> None:
        for word in _words(each.text):
            name, _, value = word.partition("=")
            if not self._stages:
                self._arguments[name] = value
                continue
            stage = self._stages[-1]
            stage.arguments[name] = value or self._arguments.get(name, "")
            stage.post.append(f'{name}="{{{{ {name} }}}}"; export {name}')

    def _from(self, each: Instruction) -> None:
        words = [word for word in each.text.split() if not word.startswith("--")]
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise self._error(each, f"FROM {each.text[:60]!r} does not parse", "FROM IMAGE [AS NAME]")
        if "--platform" in each.text:
            self._warn(each, "FROM --platform has no counterpart: `hpcc build --platform` says it for all stages")
        used: dict[str, str] = {}

        def fill(match: re.Match[str]) -> str:
            name = match.group(1) or match.group(3)
            used[name] = self._arguments.get(name) or match.group(2) or ""
            return f"{{{{ {name} }}}}"

        source = _VARIABLE.sub(fill, words[0])
        stage = _Stage(source, words[2] if len(words) == 3 else "")
        stage.arguments |= used
        earlier = next((old for old in self._stages if old.name and old.name == words[0]), None)
        if earlier is not None:
            self._warn(each, f"FROM {words[0]} goes on with a stage: its definition is repeated")
            for attribute, value in vars(earlier).items():
                if attribute != "name":
                    copied = value.copy() if isinstance(value, list | dict) else value
                    setattr(stage, attribute, copied)
        self._stages.append(stage)

    def _run(self, each: Instruction, stage: _Stage) -> None:
        text = each.text
        while text.startswith("--"):
            option, _, text = text.partition(" ")
            self._warn(each, f"RUN {option} has no counterpart")
            text = text.strip()
        if each.lines and _HEREDOC.match(text):
            text = "\n".join(each.lines)
        elif each.lines:
            text = "\n".join([text, *each.lines, _heredoc_mark(text)])
        elif (words := _exec_form(text)) is not None:
            text = shlex.join(words)
        else:
            text = text.replace("\n", "\\\n")
        stage.post.append(f"(\n{text}\n)")

    def _copy(self, each: Instruction, stage: _Stage) -> None:
        options, words = [], _exec_form(each.text) or each.text.split()
        while words and words[0].startswith("--"):
            options.append(words.pop(0))
        if len(words) < 2:
            raise self._error(each, f"{each.name} needs a source and a target", f"{each.name} SOURCE… TARGET")
        source_stage = next((each.partition("=")[2] for each in options if each.startswith("--from=")), "")
        for option in options:
            if not option.startswith("--from="):
                self._warn(each, f"{each.name} {option} has no counterpart")
        if each.lines:
            self._warn(each, f"{each.name} of a heredoc has no counterpart: write the file in %post")
            return
        *sources, target = words
        if source_stage and not (
            source_stage.isdecimal() or any(old.name == source_stage for old in self._stages[:-1])
        ):
            self._stages.insert(len(self._stages) - 1, _Stage(source_stage, source_stage))
        if not target.startswith("/"):
            target = posixpath.join(stage.directory or "/", target)
        into = len(sources) > 1 or target.endswith(("/", "/."))
        target = posixpath.normpath(target).rstrip("/") + "/" * into
        for path in sources:
            if path.startswith(("http://", "https://", "git@")):
                self._warn(each, f"{each.name} {path}: %files copies no URL; fetch it in %post")
                continue
            if each.name == "ADD" and re.search(r"\.(tar|tgz|tar\.\w+)$", path):
                self._warn(each, f"ADD {path}: the archive is copied as it is; unpack it in %post")
            stage.files.setdefault(source_stage, []).append(f"{self._source(path, source_stage)} {target}")

    _add = _copy

    def _source(self, path: str, stage: str) -> str:
        if stage:
            return posixpath.join("/", path)
        path = path.lstrip("/") or "."
        whole = posixpath.join(self._context, path)
        if self._is_directory(path) or path.endswith("/"):
            whole = whole.rstrip("/") + "/."
        return f'"{whole}"' if " " in whole else whole

    def _env(self, each: Instruction, stage: _Stage) -> None:
        words = _words(each.text)
        if "=" not in words[0]:
            name, _, value = each.text.partition(" ")
            pairs = [(name, value.strip())]
        else:
            pairs = [(word.partition("=")[0], word.partition("=")[2]) for word in words]
        for name, value in pairs:
            line = f"export {name}={_double_quoted(value)}"
            stage.environment.append(line)
            stage.post.append(line)

    def _workdir(self, each: Instruction, stage: _Stage) -> None:
        stage.directory = posixpath.normpath(posixpath.join(stage.directory or "/", each.text.strip("\"'")))
        where = shlex.quote(stage.directory)
        stage.post.append(f"mkdir -p {where}\ncd {where}")

    def _label(self, each: Instruction, stage: _Stage) -> None:
        for word in _words(each.text):
            name, _, value = word.partition("=")
            stage.labels.append(f"{name} {value}".replace("\n", " "))

    def _maintainer(self, each: Instruction, stage: _Stage) -> None:
        stage.labels.append(f"maintainer {each.text}")

    def _entrypoint(self, each: Instruction, stage: _Stage) -> None:
        stage.entrypoint, stage.command = _command(each.text), None

    def _cmd(self, each: Instruction, stage: _Stage) -> None:
        stage.command = _command(each.text)

    def _healthcheck(self, each: Instruction, stage: _Stage) -> None:
        text = re.sub(r"^(--\S+\s+)*", "", each.text)
        word, _, rest = text.partition(" ")
        stage.test = []
        if word.upper() == "CMD":
            command = _command(rest.strip())
            stage.test = [command if isinstance(command, str) else shlex.join(command)]

    def result(self) -> Recipe:
        if not self._stages:
            raise InvalidDefinition(f"{self._name} has no FROM", hint="A Dockerfile begins with FROM IMAGE.")
        names = {old.name for old in self._stages}
        for number, stage in enumerate(self._stages[:-1]):
            stage.name = stage.name or next(
                name for name in (f"stage{number}", f"hpcc-stage{number}") if name not in names
            )
        return Recipe("\n".join(_written(stage, self._stages) for stage in self._stages), tuple(self._warnings))


def _written(stage: _Stage, stages: list[_Stage]) -> str:
    agent = "scratch" if stage.source == "scratch" else "docker"
    lines = [f"Bootstrap: {agent}"]
    lines += [f"From: {stage.source}"] if agent == "docker" else []
    lines += [f"Stage: {stage.name}"] if stage.name else []

    def section(title: str, body: list[str]) -> None:
        if body:
            lines.extend(["", f"%{title}"])
            lines.extend(
                f"    {row}" if row and not _touchy(body) else row for text in body for row in text.split("\n")
            )

    section("arguments", [f"{name}={value}" for name, value in stage.arguments.items()])
    for name, rows in stage.files.items():
        if name.isdecimal() and int(name) < len(stages):
            name = stages[int(name)].name
        section(f"files from {name}" if name else "files", rows)
    section("environment", stage.environment)
    section("post", stage.post)
    section("runscript", _runscript(stage))
    section("test", stage.test)
    section("labels", stage.labels)
    return "\n".join([*lines, ""])


def _touchy(body: list[str]) -> bool:
    """Whether an indentation would change what the lines mean."""
    return any("<<" in text for text in body)


def _runscript(stage: _Stage) -> list[str]:
    """ENTRYPOINT and CMD as Docker joins them; a shell form ignores what follows it."""
    entry, command = stage.entrypoint, stage.command
    if entry is None and command is None:
        return []
    lines = [f"cd {shlex.quote(stage.directory)}"] if stage.directory else []
    if isinstance(entry, str):
        return [*lines, f"exec /bin/sh -c {shlex.quote(entry)}"]
    default = ["/bin/sh", "-c", command] if isinstance(command, str) else command or []
    if default:
        lines.append(f"[ $# -gt 0 ] || set -- {shlex.join(default)}")
    return [*lines, f'exec {shlex.join(entry)} "$@"' if entry else 'exec "$@"']


def _command(text: str) -> list[str] | str:
    words = _exec_form(text)
    return text if words is None else words


def _exec_form(text: str) -> list[str] | None:
    """A JSON array of strings; None for anything else."""
    at = text.find("[")
    if at < 0 or any(not word.startswith("--") for word in text[:at].split()):
        return None
    try:
        value = json.loads(text[at:])
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return [*text[:at].split(), *value]
    return None


def _heredoc_mark(text: str) -> str:
    mark = _HEREDOC.search(text)
    return mark.group(2) if mark else ""


def _words(text: str) -> list[str]:
    """Words as Docker splits them: quotes and backslashes as in a shell, variables as they are."""
    try:
        return shlex.split(text.replace("\n", " ")) or [""]
    except ValueError:
        return text.split() or [""]


def _double_quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`") + '"'
