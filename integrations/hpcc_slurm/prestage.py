"""hpcc slurm prestage: copies of an image on nodes, before the jobs come.

A job of one task on each node, several at a time, so that a node that is busy or down keeps no other one waiting. With
--broadcast one job on all of them: sbcast reads the image once, and nodes send it on.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from hpcc.cli import inform
from hpcc.cli.arguments import Arguments, Command, Option, parse, usage_error
from hpcc.cli.source import SOURCE_OPTIONS, chosen_platform, source_settings
from hpcc.cli.terminal import terminal
from hpcc.errors import HpccError, UsageError
from hpcc.image import note_use, open_image
from hpcc.invoke import program
from hpcc.local import Image
from hpcc.sitepath import load_site_packages
from hpcc_slurm.executor import ALLOCATION
from hpcc_slurm.images import no_slurm

COMMAND = Command(
    "slurm prestage [OPTIONS] IMAGE",
    "Copy an image to the node directory of nodes, for jobs that run with --stage node or auto, and say what happened "
    "on each. Exit status 1 where a node has none.",
    (
        Option(("--nodes",), "which, as Slurm names them: n[1-8,12]", "LIST"),
        Option(("--partition",), "all nodes of this one that can run jobs; or where --nodes run them", "NAME"),
        Option(("--broadcast",), "by sbcast, in one job on all of the nodes"),
        Option(("--parallel",), "how many nodes copy at a time; default: 8", "NUMBER"),
        Option(("--wait",), "how long to wait for a node that is busy; default: 60", "SECONDS"),
        Option(("--time",), "how long a copy may take; default: 10", "MINUTES"),
        Option(("-j", "--json"), "as JSON"),
        *SOURCE_OPTIONS,
    ),
    "hpcc slurm prestage docker://python:3.12 --partition gpu\n"
    "hpcc slurm prestage tools.sif --nodes 'n[1-64]' --broadcast",
)
_USABLE = ("idle", "mix", "alloc", "comp")  # of sinfo's states, before what follows them (*, ~, …)
_BROADCAST = """\
image=$1 target=$2
shift 2
each="srun --ntasks-per-node=1 --quiet --input=none"
sbcast --force --preserve "$image" "$target" && $each "$@" && exit
status=$?
$each rm -f -- "$target"
exit $status
"""


class Limits(NamedTuple):
    parallel: int
    wait: int
    time: int


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "prestage needs one image")
    if not (arguments.nodes or arguments.partition):
        raise usage_error(COMMAND, "--nodes or --partition says where")
    (uri,) = arguments.positional
    limits = Limits(*(_number(arguments, name, default) for name, default in _DEFAULTS.items()))
    load_site_packages()
    settings = source_settings(arguments, uri)
    if settings.disable_cache:
        raise UsageError("a cache that is disabled has nothing to copy", hint="`hpcc pull` makes a file of its own.")
    nodes, left_out = wanted_nodes(arguments.nodes or "", arguments.partition or "")
    image = open_image(uri, settings, arch=chosen_platform(arguments), progress=terminal(arguments))
    note_use(image)
    if image.rootfs.kind != "squashfs":
        raise UsageError(f"{uri} is a directory, which stays where it is")
    done = {node: {"node": node, "state": "failed", "why": f"it is {state}"} for node, state in left_out.items()}
    steps = _broadcast if arguments.broadcast else _one_by_one
    for each in steps(image, nodes, arguments.partition or "", limits):
        done[each["node"]] = each
        if not arguments.json:
            inform(arguments, _line(each))
    for node in left_out if not arguments.json else ():
        inform(arguments, _line(done[node]))
    if arguments.json:
        print(json.dumps([done[node] for node in sorted(done)], indent=1))
    return 0 if all(each["state"] != "failed" for each in done.values()) else 1


_DEFAULTS = {"parallel": 8, "wait": 60, "time": 10}


def _number(arguments: Arguments, name: str, default: int) -> int:
    text = arguments.options[name]
    if text is None:
        return default
    if not text.isdecimal() or not 0 < int(text) < 100_000:
        raise UsageError(f"--{name} {text!r}: a number from 1 on is wanted")
    return int(text)


def _line(said: Mapping[str, Any]) -> str:
    if said["state"] == "failed":
        return f"{said['node']}: failed: {said['why']}"
    if said["state"] == "there":
        return f"{said['node']}: was there already"
    return f"{said['node']}: copied, {said['bytes'] / 1e6:.1f} MB in {said['seconds']:.1f} s"


def wanted_nodes(nodes: str, partition: str) -> tuple[list[str], dict[str, str]]:
    """(those to ask, {those that run no jobs: why}). HpccError where Slurm does not answer, or knows none."""
    argv = ["sinfo", "--noheader", "--Node", "--format=%N %t"]
    argv += [f"--nodes={nodes}"] if nodes else []
    argv += [f"--partition={partition}"] if partition else []
    found = dict(line.split()[:2] for line in _output(argv).splitlines() if len(line.split()) > 1)
    if not found:
        raise UsageError(
            f"Slurm knows no node of {nodes or f'the partition {partition}'}", hint="`sinfo --Node` lists them."
        )
    usable = [node for node, state in found.items() if state.startswith(_USABLE) and not state.endswith("*")]
    return usable, {node: state for node, state in found.items() if node not in usable}


def _output(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise no_slurm(argv[0]) from None
    except subprocess.TimeoutExpired:
        raise HpccError(f"{argv[0]} does not answer", hint="The controller may be down: `scontrol ping`.") from None
    if done.returncode:
        raise HpccError(f"{argv[0]}: {_last(done.stderr)}")
    return done.stdout


def _options(nodes: Sequence[str], partition: str, limits: Limits) -> list[str]:
    words = [f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1"]
    words += [f"--immediate={limits.wait}", f"--time={limits.time}", "--job-name=hpcc-prestage", "--quiet"]
    return words + ([f"--partition={partition}"] if partition else [])


def _one_by_one(image: Image, nodes: Sequence[str], partition: str, limits: Limits) -> Iterator[dict[str, Any]]:
    def on(node: str) -> dict[str, Any]:
        argv = ["srun", *_options([node], partition, limits), "--input=none", *_here(image)]
        said, why = _run(argv, limits)
        return said.get(node) or {"node": node, "state": "failed", "why": why}

    with ThreadPoolExecutor(limits.parallel) as pool:
        yield from pool.map(on, nodes)


def _broadcast(image: Image, nodes: Sequence[str], partition: str, limits: Limits) -> Iterator[dict[str, Any]]:
    if not nodes:
        return
    target = f"/var/tmp/hpcc-prestage-{secrets.token_hex(8)}"
    here = [*_here(image), "--adopt", target, "--sha256", _sha256(image)]
    argv = [
        "salloc",
        *_options(nodes, partition, limits),
        "--",
        "sh",
        "-c",
        _BROADCAST,
        "sh",
        image.path,
        target,
        *here,
    ]
    said, why = _run(argv, limits)
    for node in nodes:
        yield said.get(node) or {"node": node, "state": "failed", "why": why}


def _here(image: Image) -> list[str]:
    return [*program(), "slurm", "stage-here", image.path]


def _sha256(image: Image) -> str:
    from hashlib import file_digest

    with open(os.dup(image.rootfs.fd), "rb") as file:
        file.seek(0)
        return file_digest(file, "sha256").hexdigest()


def _run(argv: Sequence[str], limits: Limits) -> tuple[dict[str, dict[str, Any]], str]:
    """(what each node said, why others did not). Bounded; srun's and salloc's own limits come first."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={name: value for name, value in os.environ.items() if name not in ALLOCATION},
        )  # fmt: skip
    except FileNotFoundError:
        raise no_slurm(argv[0]) from None
    try:
        out, said = process.communicate(timeout=limits.wait + 60 * limits.time + 60)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            out, said = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            out, said = process.communicate()
    found = {}
    for line in out.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("node"), str):
            found[value["node"]] = value
    return found, _last(said)


def _last(text: str) -> str:
    """What says most: what hpcc ended with, else the first of Slurm's complaints."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    fatal = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    errors = [line for line in lines if "error:" in line]
    return (fatal or errors or lines or ["nothing was said"])[0]
