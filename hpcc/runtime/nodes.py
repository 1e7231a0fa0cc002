"""Device nodes of this host's GPUs, and which of them NVIDIA_VISIBLE_DEVICES leaves visible."""

from __future__ import annotations

import glob
import os
import stat

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def nvidia_nodes(dev: str = "/dev") -> list[str]:
    """GPUs, their control nodes, and the capabilities of MIG and of NVLink domains."""
    patterns = ("nvidia*", "nvidia-caps/*", "nvidia-caps-imex-channels/*")
    return _nodes(f"{dev}/{pattern}" for pattern in patterns)


def rocm_nodes(dev: str = "/dev") -> list[str]:
    """The compute node and, only where that is, all that draw."""
    kfd = _nodes([f"{dev}/kfd"])
    return [*kfd, *_nodes([f"{dev}/dri/card*", f"{dev}/dri/render*"])] if kfd else []


def _nodes(patterns: Iterable[str]) -> list[str]:
    found = sorted(path for pattern in patterns for path in glob.glob(pattern))
    return [path for path in found if os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)]


def gpu_minors(directory: str = "/proc/driver/nvidia/gpus") -> list[tuple[str, str]]:
    """(UUID, minor number) of each GPU in the order of their indices, that of the PCI bus."""
    found = []
    for path in sorted(glob.glob(f"{glob.escape(directory)}/*/information")):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in file)}
        except OSError:
            continue
        found.append((fields.get("GPU UUID", ""), fields.get("Device Minor", "")))
    return found


def visible_devices(value: str | None) -> tuple[str, ...] | None:
    """What NVIDIA_VISIBLE_DEVICES names, by index or UUID; None: all GPUs, as where it is not set.

    `void` is as good as not set, to NVIDIA's own runtime too; CDI sets it in containers, and one may be around us.
    """
    names = tuple(name for name in (part.strip() for part in (value or "all").split(",")) if name)
    if not names or "all" in names or names == ("void",):
        return None
    return tuple(name for name in names if name not in ("none", "void"))


def keep_visible(
    nodes: Sequence[str], visible: Sequence[str], gpus: Sequence[tuple[str, str]]
) -> tuple[list[str], list[str]]:
    """(the nodes less those of GPUs that are not visible, names of GPUs that there are not)."""
    gpus = gpus or [("", number) for number in sorted(filter(None, map(gpu_number, nodes)), key=int)]
    by_name = {str(index): minor for index, (_, minor) in enumerate(gpus)} | dict(gpus)
    minors, unknown = set(), []
    for name in visible:
        if minor := by_name.get(name) or by_name.get(name.partition(":")[0]):  # 0:1 is a part of GPU 0
            minors.add(minor)
        else:
            unknown.append(name)
    return [node for node in nodes if not gpu_number(node) or gpu_number(node) in minors], unknown


def gpu_number(node: str) -> str:
    """That of a GPU's node, /dev/nvidia0; "" of the others."""
    number = os.path.basename(node).removeprefix("nvidia")
    return number if number.isdecimal() else ""
