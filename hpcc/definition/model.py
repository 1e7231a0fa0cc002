"""What a definition file says, as plain values: docs/reference/definition-files.md."""

from hpcc.errors import UsageError
from hpcc.records import NamedTuple

HEADERS = frozenset(
    (
        "bootstrap", "from", "registry", "namespace", "includecmd", "stage", "fingerprints", "include", "osversion",
        "mirrorurl", "updateurl", "confurl", "setopt", "library", "product", "user", "regcode", "productpgp",
        "registerurl", "modules", "otherurl",
    )
)  # fmt: skip
"""In lower case; otherurl has a number behind it."""
SECTIONS = (
    "arguments", "environment", "files", "help", "labels", "post", "pre", "runscript", "setup", "startscript", "test"
)  # fmt: skip
APP_SECTIONS = ("appenv", "appfiles", "apphelp", "appinstall", "applabels", "apprun", "appstart", "apptest")


class Script(NamedTuple):
    """A section: its lines, and what stands behind its name."""

    text: str = ""
    arguments: str = ""

    def __bool__(self) -> bool:
        return bool(self.text.strip())

    def command(self, path: str) -> tuple[str, ...]:
        """The argv that runs the section, whose text is the file `path`, as %post and %setup are run: by -c or by sh.

        UsageError for a -c with nothing behind it.
        """
        words = self.arguments.partition("#")[0].split()
        if "-c" in words:
            interpreter = words[words.index("-c") + 1 :]
            if not interpreter:
                raise UsageError("-c needs an interpreter", hint="%post -c /bin/bash")
            return (*interpreter, path)
        return ("/bin/sh", "-ex", path, *words)

    def executable(self) -> str:
        """The text of a file that runs it, as %runscript, %startscript and %test are run: by its own #! line or sh."""
        first, text = "#!/bin/sh", self.text
        if text.strip().startswith("#!"):
            first, _, text = text.lstrip().partition("\n")
        words = self.arguments.partition("#")[0].strip()
        return f"{first.strip()}{' ' + words if words else ''}\n\n{text.rstrip()}\n"


class Transfer(NamedTuple):
    """A line of %files: a pattern of paths, and where they go, "" for the same path."""

    source: str
    target: str


class Files(NamedTuple):
    """A %files section, of the host ("") or of a stage."""

    stage: str
    transfers: tuple[Transfer, ...]


class Stage(NamedTuple):
    """A part of a definition file that begins with Bootstrap. apps: name -> section -> Script, in their order."""

    header: dict[str, str]
    sections: dict[str, Script]
    files: tuple[Files, ...] = ()
    apps: dict[str, dict[str, Script]] = {}  # noqa: RUF012  # nobody changes it

    def section(self, name: str) -> Script:
        return self.sections.get(name, Script())

    @property
    def name(self) -> str:
        return self.header.get("stage", "")

    @property
    def labels(self) -> dict[str, str]:
        return parse_labels(self.section("labels").text)


class Definition(NamedTuple):
    """A whole file; `text` has its templates filled in. The last stage is the image."""

    text: str
    stages: tuple[Stage, ...]


def parse_labels(text: str) -> dict[str, str]:
    """NAME VALUE of each line, as in %labels; lines that begin with # are comments."""
    found = {}
    for line in map(str.strip, text.splitlines()):
        if line and not line.startswith("#"):
            name, _, value = line.partition(" ")
            found[name] = value.strip()
    return found


def base_uri(header: dict[str, str]) -> str:
    """What the header's Bootstrap, Registry, Namespace and From name together, as a URI or the path of an image.

    UsageError for a header without From.
    """
    agent, source = header.get("bootstrap", "").lower(), header.get("from", "")
    if not source:
        raise UsageError(f"Bootstrap: {agent} needs a line From:", hint=_FROM.get(agent, "From: PLACE"))
    if agent == "localimage":
        return source
    if agent == "docker":
        before = (header.get("registry", "").rstrip("/"), header.get("namespace", "").strip("/"))
        return "docker://" + "/".join(part for part in (*before, source.removeprefix("//")) if part)
    if source.startswith(("http://", "https://")) and agent in ("http", "https"):
        return source
    slashes = "//" if agent in ("http", "https", "library", "oras", "shub") and not source.startswith("//") else ""
    return f"{agent}:{slashes}{source}"


_FROM = {"docker": "From: debian:12", "localimage": "From: /path/to/image.sif"}
