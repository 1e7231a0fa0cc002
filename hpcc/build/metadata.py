"""/.singularity.d of what is built: before anything runs, and once all has run. In the process of inside.py."""

import json
import os
import time

from hpcc.build import scripts
from hpcc.build.root import Root
from hpcc.definition.model import Script, Stage, parse_labels
from hpcc.metadata import runscript
from hpcc.oci.config import ImageConfig
from hpcc.records import NamedTuple
from hpcc.version import __version__

TOP = "/.singularity.d"
BUILD_LABELS = "/.build.labels"
"""Where %post writes labels to, as $APPTAINER_LABELS."""


class About(NamedTuple):
    """What is built.

    text: of the definition file. commands: (entrypoint, cmd) of a base from a registry. when: seconds. force: labels of
    the base may be replaced. sections: only these, empty for all. header: labels tell it.
    """

    text: str
    architecture: str
    when: int
    commands: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    force: bool = False
    sections: tuple[str, ...] = ()
    header: bool = True

    def wants(self, section: str) -> bool:
        return not self.sections or section in self.sections


def prepare(path: str, stage: Stage) -> None:
    """What must be there before %setup and %post: mount points, actions, the apps' directories."""
    root = Root(path)
    for name in scripts.DIRECTORIES:
        with root.directory(f"/{name}", 0o1777 if name.endswith("tmp") else 0o755):
            pass
    for name in ("hosts", "resolv.conf"):
        with root.found(f"/etc/{name}") as fd:
            missing = fd < 0
        if missing:
            root.write(f"/etc/{name}", b"")
    for name, text in scripts.ACTIONS.items():
        root.write(f"{TOP}/actions/{name}", text.encode(), 0o755)
    for name, text in scripts.ENVIRONMENT.items():
        if name in ("95-apps.sh", "99-base.sh") or root.read(f"{TOP}/env/{name}") is None:
            root.write(f"{TOP}/env/{name}", text.encode(), 0o755)
    for name, target in scripts.LINKS.items():
        root.link(f"/{name}", target)
    for name in (f"{TOP}/runscript", f"{TOP}/startscript"):
        if root.read(name) is None:
            root.write(name, scripts.SHELL_RUNSCRIPT.encode() if name.endswith("/runscript") else b"#!/bin/sh\n", 0o755)
    _prepare_apps(root, stage)


def _prepare_apps(root: Root, stage: Stage) -> None:
    for name, sections in stage.apps.items():
        top = f"/scif/apps/{name}"
        for directory in (f"{top}/bin", f"{top}/lib", f"/scif/data/{name}/input", f"/scif/data/{name}/output"):
            with root.directory(directory):
                pass
        root.write(f"{top}/scif/env/01-base.sh", os.fsencode(scripts.app_base(name)), 0o755)
        labels = {"SCIF_APP_NAME": name} | parse_labels(sections.get("applabels", Script()).text)
        root.write(f"{top}/scif/labels.json", scripts.labels_json(labels))
        if script := sections.get("appenv"):
            root.write(f"{top}/scif/env/90-environment.sh", os.fsencode(scripts.environment(script.text)), 0o755)
        for section, file in (("apprun", "runscript"), ("appstart", "startscript"), ("apptest", "test")):
            if script := sections.get(section):
                root.write(f"{top}/scif/{file}", os.fsencode(script.executable()), 0o755)
        if script := sections.get("apphelp"):
            root.write(f"{top}/scif/runscript.help", f"{script.text}\n".encode("utf-8", "surrogateescape"))
    if stage.apps:
        apps = root.directories("/scif/apps")
        root.write(f"{TOP}/env/94-appsbase.sh", os.fsencode(scripts.apps_base(apps)), 0o755)


def complete(path: str, stage: Stage, about: About) -> tuple[bytes, list[str]]:
    """Write the scripts and labels; (inspect-metadata.json, warnings)."""
    root = Root(path)
    written = root.read(BUILD_LABELS) or b""
    for name in (BUILD_LABELS, "/.post.script"):
        root.unlink(name)
    for section, file in (("runscript", "runscript"), ("startscript", "startscript"), ("test", "test")):
        if (script := stage.section(section)) and about.wants(section):
            root.write(f"{TOP}/{file}", script.executable().encode("utf-8", "surrogateescape"), 0o755)
    if not stage.section("runscript") and stage.header.get("includecmd"):
        root.write(f"{TOP}/runscript", _command(about.commands[1]), 0o755)
    if (script := stage.section("help")) and about.wants("help"):
        root.write(f"{TOP}/runscript.help", f"{script.text}\n".encode("utf-8", "surrogateescape"))
    if (script := stage.section("environment")) and about.wants("environment"):
        # Behind what the base says, as Apptainer has it.
        file = f"{TOP}/env/90-environment.sh"
        base = root.read(file) or b"#!/bin/sh\n"
        text = f"\n{script.text.rstrip()}\n".encode("utf-8", "surrogateescape")
        root.write(file, base if base.endswith(text) else base.rstrip(b"\n") + b"\n" + text, 0o755)
    before = root.read(f"{TOP}/Singularity")
    if before is not None and before != about.text.encode("utf-8", "surrogateescape"):
        number = len(root.names(f"{TOP}/bootstrap_history"))
        root.write(f"{TOP}/bootstrap_history/Singularity{number}", before)
    root.write(f"{TOP}/Singularity", about.text.encode("utf-8", "surrogateescape"))
    labels, warnings = _labels(root, stage, about, written.decode("utf-8", "replace"))
    root.write(f"{TOP}/labels.json", scripts.labels_json(labels))
    return inspect_metadata(root, about.text, labels), warnings


def _command(cmd: tuple[str, ...]) -> bytes:
    """What IncludeCmd makes of an image from a registry: its CMD alone."""
    return runscript(ImageConfig("", "", "", "", (), (), cmd, "", "", (), (), b"")).encode("utf-8", "surrogateescape")


def _labels(root: Root, stage: Stage, about: About, written: str) -> tuple[dict[str, str], list[str]]:
    labels = _json_labels(root.read(f"{TOP}/labels.json"))
    warnings = []
    added = stage.labels if about.wants("labels") else {}
    for name, value in {**added, **parse_labels(written)}.items():
        if labels.get(name, value) != value and not about.force:
            warnings.append(f"label {name} is the base's, and stays; --force replaces it")
        else:
            labels[name] = value
    labels |= {
        "org.label-schema.schema-version": "1.0",
        "org.label-schema.build-arch": about.architecture,
        "org.label-schema.build-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(about.when)),
        "org.label-schema.usage.hpcc.version": __version__,
    }
    if root.read(f"{TOP}/runscript.help") is not None:
        labels["org.label-schema.usage"] = labels["org.label-schema.usage.hpcc.runscript.help"] = (
            f"{TOP}/runscript.help"
        )
    if about.header:
        labels |= {f"org.label-schema.usage.singularity.deffile.{key}": value for key, value in stage.header.items()}
    return labels, warnings


def _json_labels(data: bytes | None) -> dict[str, str]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def inspect_metadata(root: Root, text: str, labels: dict[str, str] | None = None) -> bytes:
    """inspect-metadata.json, with Apptainer's keys, of what stands in the image."""

    def read(path: str) -> str | None:
        data = root.read(path)
        return None if data is None else data.decode("utf-8", "replace").rstrip("\n")

    def environment(top: str) -> dict[str, str]:
        names = [name for name in root.names(f"{top}/env") if name.startswith(("10-", "90-", "91-"))]
        return {f"{top}/env/{name}": read(f"{top}/env/{name}") or "" for name in names}

    def attributes(top: str) -> dict[str, object]:
        return {
            "environment": environment(top),
            "labels": _json_labels(root.read(f"{top}/labels.json")),
            "runscript": read(f"{top}/runscript"),
            "startscript": read(f"{top}/startscript"),
            "test": read(f"{top}/test"),
            "helpfile": read(f"{top}/runscript.help"),
        }

    apps = {name: _said(attributes(f"/scif/apps/{name}/scif")) for name in root.directories("/scif/apps")}
    found = {**attributes(TOP), "labels": labels or _json_labels(root.read(f"{TOP}/labels.json"))}
    said = _said({**found, "deffile": text, "apps": apps})
    return json.dumps({"data": {"attributes": said}, "type": "container"}, sort_keys=True).encode()


def _said(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value}


def inspect_directory(path: str) -> tuple[bytes, bytes]:
    """(definition file, inspect-metadata.json) of a sandbox as it is."""
    root = Root(path)
    text = root.read(f"{TOP}/Singularity") or f"bootstrap: localimage\nfrom: {os.path.basename(path)}\n".encode()
    return text, inspect_metadata(root, text.decode("utf-8", "replace"))
