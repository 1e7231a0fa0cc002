"""What a SIF says about its image, and the /.singularity.d that lets Apptainer run it. Pure.

    /.singularity.d/
      Singularity         the definition file
      actions/            exec run shell start test: what Apptainer executes in the container
      env/10-docker.sh    the image's ENV; a caller's own value wins, PATH excepted, as under Apptainer
      env/90-environment.sh, env/99-base.sh
      labels.json  libs/  runscript  startscript
    /.run /.exec /.shell /.test /environment /singularity    symbolic links into it

hpcc itself reads none of the scripts: it takes oci-config.json, where each value stands exactly as the image has it.
No clock and no tag is written: the same digest gives the same bytes.
"""

from __future__ import annotations

import json
from datetime import datetime

from hpcc import fstree
from hpcc.fstree import Node
from hpcc.oci.config import ImageConfig
from hpcc.origin import AGENTS, MARK, Origin
from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


EPOCH = "1970-01-01T00:00:00Z"


def created(config: ImageConfig) -> tuple[str, int]:
    """(text, seconds) of the image's creation; the epoch where it names none or one that SquashFS cannot hold."""
    seconds = _rfc3339(config.created)
    return (config.created, seconds) if 0 < seconds < 1 << 32 else (EPOCH, 0)


def _rfc3339(text: str) -> int:
    """Seconds since the epoch, rounded down; 0 where the text is no RFC 3339 date. What it takes must never change."""
    shape = "".join("0" if "0" <= character <= "9" else character for character in text)
    moment, rest = text[:19], text[19:]
    if shape[:19] != "0000-00-00T00:00:00":
        return 0
    if rest.startswith("."):
        rest = rest[1:].lstrip("0123456789")
    if rest != "Z" and (len(rest) != 6 or shape[-6:] not in ("+00:00", "-00:00")):
        return 0
    try:
        return int(datetime.fromisoformat(moment + ("+00:00" if rest == "Z" else rest)).timestamp())
    except (ValueError, OverflowError):
        return 0


def labels(origin: Origin, config: ImageConfig) -> dict[str, str]:
    """The image's labels and those that Apptainer adds."""
    bootstrap, source = _source(origin)
    name = {"org.opencontainers.image.base.name": origin.name} if bootstrap == "docker" else {}
    return {
        **name,
        "org.opencontainers.image.base.digest": origin.digest,
        **dict(config.labels),
        "org.label-schema.build-arch": config.architecture,
        "org.label-schema.build-date": created(config)[0],
        "org.label-schema.schema-version": "1.0",
        "org.label-schema.usage.hpcc.converter": origin.converter,
        "org.label-schema.usage.singularity.deffile.bootstrap": bootstrap,
        "org.label-schema.usage.singularity.deffile.from": source,
    }


def _source(origin: Origin) -> tuple[str, str]:
    """(agent, what it was told): a path of somebody's is not said, so that the same image has the same bytes."""
    return (origin.name, origin.digest) if origin.name in AGENTS else ("docker", origin.reference)


def definition_file(origin: Origin) -> bytes:
    bootstrap, source = _source(origin)
    return f"bootstrap: {bootstrap}\nfrom: {source}\n".encode()


def objects(origin: Origin, config: ImageConfig, owners: tuple[int, ...]) -> tuple[tuple[str, bytes], ...]:
    """(name, bytes) of the JSON objects that stand before the root filesystem in the SIF.

    `owners` are the user and group ids in the image: the runtime must know whether all are 0.
    """
    attributes = {
        "deffile": definition_file(origin).decode(),
        "environment": {"/.singularity.d/env/10-docker.sh": environment_script(config)},
        "labels": labels(origin, config),
        "runscript": runscript(config),
    }
    inspect = {"data": {"attributes": attributes}, "type": "container"}
    mark = {
        "converter": origin.converter,
        "key": origin.key,
        "owners": owners,
        "platform": origin.platform,
        "reference": origin.reference,
    }
    oci = {
        "Cmd": config.cmd,
        "Entrypoint": config.entrypoint,
        "Env": config.env,
        "Labels": dict(config.labels),
        "User": config.user,
        "WorkingDir": config.working_dir,
    }
    return (
        ("inspect-metadata.json", _json(inspect)),
        ("oci-config.json", _json({k: v for k, v in oci.items() if v})),
        (MARK, _json(mark)),
    )


def add_directory(root: Node, origin: Origin, config: ImageConfig, place: Callable[[bytes], object]) -> None:
    """Put /.singularity.d into the tree, in place of what the image has there, and links to it where nothing is.

    `place` stores the content of a file and returns what its node's `data` is.
    """
    assert root.children is not None
    mtime = created(config)[1]

    def file(data: bytes, mode: int) -> Node:
        return Node(fstree.REGULAR, mode, mtime=mtime, data=place(data))

    def directory(**children: Node) -> Node:
        node = Node(fstree.DIRECTORY, 0o755, mtime=mtime)
        assert node.children is not None
        node.children.update((name.encode(), child) for name, child in children.items())
        return node

    def scripts(texts: dict[str, str]) -> Node:
        return directory(**{name: file(text.encode("utf-8", "surrogateescape"), 0o755) for name, text in texts.items()})

    root.children[b".singularity.d"] = directory(
        **{
            "Singularity": file(definition_file(origin), 0o644),
            "actions": scripts(_ACTIONS),
            "env": scripts(
                {"10-docker.sh": environment_script(config), "90-environment.sh": "#!/bin/sh\n", "99-base.sh": _BASE}
            ),
            "labels.json": file(_json(labels(origin, config)), 0o644),
            "libs": directory(),
            "runscript": file(runscript(config).encode("utf-8", "surrogateescape"), 0o755),
            "startscript": file(b"#!/bin/sh\n", 0o755),
        }
    )
    for name, target in _LINKS:
        if name in root.children:
            continue  # the image's own stays, as under Apptainer
        root.children[name] = Node(fstree.SYMLINK, 0o777, mtime=mtime, target=b".singularity.d/" + target)


def environment_script(config: ImageConfig) -> str:
    return "".join(_environment_lines(config))


def _environment_lines(config: ImageConfig) -> Iterator[str]:
    yield "#!/bin/sh\n"
    for item in config.env:
        name, _, value = item.partition("=")
        if not (name.isascii() and name.replace("_", "a").isalnum()) or name[0].isdigit():
            continue  # no shell can export it; hpcc, which needs no shell, does
        if name == "PATH":
            yield f"PATH={_quote(value)}\nexport PATH\n"
        else:
            yield f'[ -n "${{{name}:-}}" ] || {name}={_quote(value)}\nexport {name}\n'


def runscript(config: ImageConfig) -> str:
    """ENTRYPOINT and CMD as Docker runs them: arguments replace CMD. Without both: the arguments, or a shell."""
    lines = ["#!/bin/sh"]
    if config.cmd:
        lines.append(f"[ $# -gt 0 ] || set -- {' '.join(map(_quote, config.cmd))}")
    if config.entrypoint:
        lines.append(f'set -- {" ".join(map(_quote, config.entrypoint))} "$@"')
    lines += ['[ $# -eq 0 ] || exec "$@"', "[ ! -x /bin/bash ] || exec /bin/bash", "exec /bin/sh"]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


_LINKS = (
    (b".exec", b"actions/exec"),
    (b".run", b"actions/run"),
    (b".shell", b"actions/shell"),
    (b".test", b"actions/test"),
    (b"environment", b"env/90-environment.sh"),
    (b"singularity", b"runscript"),
)

_ENVIRONMENT = """#!/bin/sh
for file in /.singularity.d/env/*.sh; do
    [ ! -f "$file" ] || . "$file"
done
"""

_ACTIONS = {
    "exec": _ENVIRONMENT + 'exec "$@"\n',
    "run": _ENVIRONMENT + 'exec /.singularity.d/runscript "$@"\n',
    "shell": _ENVIRONMENT
    + """if [ -n "${SINGULARITY_SHELL:-}" ] && [ -x "$SINGULARITY_SHELL" ]; then
    exec "$SINGULARITY_SHELL" "$@"
fi
if [ -x /bin/bash ]; then
    SHELL=/bin/bash
    export SHELL
    exec /bin/bash --norc "$@"
fi
SHELL=/bin/sh
export SHELL
exec /bin/sh "$@"
""",
    "start": _ENVIRONMENT + "exec /.singularity.d/startscript\n",
    "test": _ENVIRONMENT + "[ ! -x /.singularity.d/test ] || exec /.singularity.d/test\n",
}

_BASE = """#!/bin/sh
LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs"
PS1="${PS1:-Apptainer> }"
export LD_LIBRARY_PATH PS1
"""
