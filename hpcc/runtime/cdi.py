"""Container Device Interface: what a device needs in a container, as its vendor wrote it down.

Pure but for `read_specs`.

    /etc/cdi/*.json, /var/run/cdi/*.json    also *.yaml, where PyYAML is installed; a later directory's device wins
      kind              nvidia.com/gpu
      devices[]         name, and containerEdits: what this one needs
      containerEdits    what any of them needs: env, deviceNodes, mounts, hooks

Source: SPEC.md of cncf-tags/container-device-interface, 0.3.0 to 1.0.0. Hooks are programs that would change the
container's root before the payload starts. None is run: of NVIDIA's, create-symlinks and update-ldcache become mounts
(`edits_as_binds`), the others only matter to runtimes that change cgroups or modes.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat

from hpcc.errors import SettingsError, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.binds import Bind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, TypeVar

    _Item = TypeVar("_Item")

LIBRARIES = "/.singularity.d/libs"  # on LD_LIBRARY_PATH in each container
_KIND = re.compile(
    r"(?=.{3,253}/)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"v?(0\.([3-9]|[1-9]\d+)|1\.\d+)\.\d+\S*")
_MOST = 8 << 20  # bytes of a specification; those of eight GPUs have 100 KB


class Edits(NamedTuple):
    """The containerEdits of a device, or of all that are wanted together. hooks: the arguments of each."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Bind, ...] = ()
    mounts: tuple[Bind, ...] = ()
    hooks: tuple[tuple[str, ...], ...] = ()


class Spec(NamedTuple):
    """One file."""

    path: str
    kind: str
    edits: Edits
    devices: tuple[tuple[str, Edits], ...]


def parse_spec(document: object, path: str) -> Spec:
    """A specification from its JSON value. SettingsError names the file `path` and what is wrong in it."""
    try:
        top = _object(document, "the document")
        if not _VERSION.fullmatch(_text(top.get("cdiVersion"), "cdiVersion")):
            raise ValueError(f"cdiVersion {top['cdiVersion']!r} is not one from 0.3.0 to 1.x")
        kind = _text(top.get("kind"), "kind")
        if not _KIND.fullmatch(kind):
            raise ValueError(f"kind {kind!r} is not vendor/class")
        devices: dict[str, Edits] = {}
        for device in _objects(top, "devices"):
            name = _text(device.get("name"), "a device's name")
            if not _NAME.fullmatch(name) or name in devices:
                raise ValueError(f"the device name {name!r} is there twice, or is none")
            devices[name] = _edits(device.get("containerEdits"))
        if not devices:
            raise ValueError("no devices")
        return Spec(path, kind, _edits(top.get("containerEdits")), tuple(devices.items()))
    except ValueError as error:
        raise SettingsError(
            f"{path} is not a CDI specification: {error}",
            hint="`nvidia-ctk cdi generate` writes NVIDIA's anew; HPCC_CDI_DIRS names other directories.",
        ) from None


def _edits(value: object) -> Edits:
    edits = _object(value or {}, "containerEdits")
    env = [_text(item, "env").partition("=") for item in _list(edits, "env")]
    if not all(name and equals for name, equals, _ in env):
        raise ValueError("env is not NAME=VALUE")
    nodes, mounts = [], []
    for node in _objects(edits, "deviceNodes"):
        target = _path(node.get("path"), "deviceNodes.path")
        source = _path(node.get("hostPath") or target, "deviceNodes.hostPath")
        nodes.append(Bind(source, target, device=True))
    for mount in _objects(edits, "mounts"):
        options = [_text(item, "mounts.options") for item in _list(mount, "options")]
        if mount.get("type") not in (None, "", "none", "bind"):
            raise ValueError(f"a mount of type {str(mount['type'])[:40]!r}, where only binds are possible")
        target = _path(mount.get("containerPath"), "mounts.containerPath")
        mounts.append(Bind(_path(mount.get("hostPath"), "mounts.hostPath"), target, readonly="ro" in options))
    hooks = [tuple(_text(arg, "hooks.args") for arg in _list(hook, "args")) for hook in _objects(edits, "hooks")]
    return Edits(tuple((name, text) for name, _, text in env), tuple(nodes), tuple(mounts), tuple(hooks))


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    return value


def _list(holder: dict[str, Any], key: str) -> list[Any]:
    value = holder.get(key)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{key} is not a list")
    return value or []


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [_object(item, f"an entry of {key}") for item in _list(holder, key)]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{what} is not a string with something in it")
    value.encode()  # a lone surrogate, which JSON can write, cannot be part of a path
    return value


def _path(value: object, what: str) -> str:
    path = _text(value, what)
    if not path.startswith("/"):
        raise ValueError(f"{what} {path!r} is not absolute")
    return "/" + posixpath.normpath(path).lstrip("/")


def resolve(specs: Sequence[Spec], wanted: Iterable[str]) -> Edits:
    """What the devices `wanted`, each vendor/class=name, need together; `all` stands for all of a class.

    UsageError for one that is none, that no file has (it lists those that there are), or that two files of the same
    directory have, of which neither is the right one (SPEC.md, Error Handling).
    """
    parts: list[Edits] = []
    used: list[str] = []
    for device in wanted:
        kind, equals, name = device.partition("=")
        if not (equals and _KIND.fullmatch(kind) and _NAME.fullmatch(name)):
            raise UsageError(f"--device {device!r} is not vendor/class=name", hint=_known(specs))
        found = [(spec, edits) for spec in specs if spec.kind == kind for known, edits in spec.devices if known == name]
        if not found and name == "all":
            found = [
                *{name: (spec, edits) for spec in specs if spec.kind == kind for name, edits in spec.devices}.values()
            ]
        elif len(found) > 1 and len({posixpath.dirname(spec.path) for spec, _ in found[-2:]}) == 1:
            raise UsageError(
                f"--device {device}: both {found[-2][0].path} and {found[-1][0].path} have it",
                hint="Remove one of them.",
            )
        else:
            found = found[-1:]
        if not found:
            raise UsageError(f"--device {device}: this host has no such device", hint=_known(specs))
        for spec, edits in found:
            if spec.path not in used:
                used.append(spec.path)
                parts.append(spec.edits)
            parts.append(edits)
    return Edits(
        _joined(part.env for part in parts),
        _joined(part.nodes for part in parts),
        _joined(part.mounts for part in parts),
        _joined(part.hooks for part in parts),
    )


def _joined(parts: Iterable[tuple[_Item, ...]]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(item for part in parts for item in part))


def _known(specs: Sequence[Spec]) -> str:
    names = dict.fromkeys(f"{spec.kind}={name}" for spec in specs for name, _ in spec.devices)
    return f"There are: {', '.join(names)}." if names else "No CDI specification was found; `hpcc doctor` tells more."


def edits_as_binds(edits: Edits, names: Mapping[str, Iterable[str]]) -> tuple[tuple[Bind, ...], tuple[str, ...]]:
    """(all that is to be mounted, the hooks whose effect is left out).

    names: for each library on the host those under which the loader may look for it; none where it is for another
    machine. What create-symlinks would link becomes another mount of the same file, since the root cannot be written;
    for update-ldcache, which would have the loader find what is mounted, each library is also in LIBRARIES.
    """
    files = {mount.target: mount for mount in edits.mounts}
    libraries: dict[str, Bind] = {}
    known = dict(files)
    for target, mount in files.items():
        if ".so" in posixpath.basename(target):
            for name in names.get(mount.source, ()):
                known.setdefault(posixpath.join(posixpath.dirname(target), name), mount)
                libraries.setdefault(name, mount)
    links, left_out = _links(edits.hooks)
    more: list[Bind] = []
    while ready := [link for link, target in links.items() if target in known]:  # a link may lead to another link
        for link in ready:
            mount = known[links.pop(link)]
            if link not in files:
                more.append(mount._replace(target=link))
            known[link] = mount
            name = posixpath.basename(link)
            if mount in libraries.values():
                libraries.setdefault(name, mount)
    found = [mount._replace(target=f"{LIBRARIES}/{name}", readonly=True) for name, mount in sorted(libraries.items())]
    left_out += [f"create-symlinks {link}" for link in links]
    return (*edits.nodes, *edits.mounts, *more, *found), tuple(left_out)


def _links(hooks: Iterable[tuple[str, ...]]) -> tuple[dict[str, str], list[str]]:
    """({link: path that it leads to}, other hooks). `--link TARGET::LINK`, TARGET relative to the link's directory."""
    links: dict[str, str] = {}
    others = []
    for args in hooks:
        if "create-symlinks" in args:
            for word in args:
                target, colons, link = word.removeprefix("--link=").partition("::")
                if colons and link.startswith("/"):
                    links[link] = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
        elif "update-ldcache" not in args:
            others.append(" ".join(args[:3]) or "a hook")
    return links, others


def read_specs(directories: Iterable[str]) -> tuple[tuple[Spec, ...], tuple[SettingsError, ...]]:
    """(all specifications, what is wrong with the other files). One that is broken does not spoil the others."""
    specs, wrong = [], []
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            if name.endswith((".json", ".yaml")):
                path = os.path.join(directory, name)
                try:
                    specs.append(parse_spec(_load(path), path))
                except SettingsError as error:
                    wrong.append(error)
    return tuple(specs), tuple(wrong)


def _load(path: str) -> object:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SettingsError(f"{path} is not a regular file")
            data = file.read(_MOST + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    if len(data) > _MOST:
        raise SettingsError(f"{path} is larger than any CDI specification")
    try:
        if path.endswith(".json") or data.lstrip().startswith(b"{"):  # JSON is YAML, too
            import json

            return json.loads(data)
        return _load_yaml(data, path)
    except SettingsError:
        raise
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not JSON: {error}" if path.endswith(".json") else f"{path}: {error}") from None


def _load_yaml(data: bytes, path: str) -> object:
    from hpcc.sitepath import load_site_packages

    load_site_packages()
    try:
        import yaml
    except ImportError:
        way_out = f"nvidia-ctk cdi generate --format=json --output={path.removesuffix('.yaml')}.json"
        raise SettingsError(
            f"{path} is YAML, which hpcc reads only where PyYAML is installed",
            hint=f"Write it as JSON (`{way_out}`), or install PyYAML where hpcc is.",
        ) from None
    try:
        return yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, LookupError, AttributeError, TypeError) as error:  # the latter for tags with wrong values
        raise ValueError(f"not YAML: {error}".replace("\n", " ")) from None
