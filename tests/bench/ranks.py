"""Ranks of Slurm's steps in containers: how soon they start, how quickly they talk, and where their image lies.

    ranks.py [--json PATH] [--svg PATH] [IMAGE]

Three nodes that are one machine. With IMAGE, which must have Python with numpy, also TASKS tasks that read it from
MooseFS, each of which says when it has imported that; nothing is in the kernel's memory before. Needs root.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.starts import forget
from tests.support import daemons, installation, people
from tests.support.images import IMAGE_PATH, build_sif, marked
from tests.support.mpi import ring_layers
from tests.support.people import Person
from tests.support.sharedfs import SharedFs
from tests.support.slurm import NODES, SlurmCluster

RANKS, ROUNDS, TASKS = 8, 10, 64
MODES = {"default": (), "compat": ("--compat", "--job-env")}
SIZES = {8: 20_000, 65_536: 2000, 4_194_304: 100}  # bytes of a message: how often it goes round
START_TARGET, RING_TARGET = "at most 1.3", "at most 1.1"
READS = "import time, numpy; print('at', time.time())"


class Start(NamedTuple):
    """Medians of seconds; and what was counted while all ranks ran."""

    mode: str
    ranks: float  # of hpcc
    pythons: float  # as many `python -I -S -c pass`, by the same srun
    one: float  # `hpcc exec` with a mount of its own
    servers: int
    user_namespaces: int

    @property
    def ratio(self) -> float:
        return self.ranks / (self.pythons + self.one)


class Ring(NamedTuple):
    """Microseconds of a round of two ranks, medians."""

    mode: str
    size: int
    host: float
    image: float


class Reading(NamedTuple):
    """`preparing`: seconds before the step, of a prestage; `begun`: seconds from srun to each task, in order."""

    way: str
    preparing: float
    begun: list[float]


class Steps:
    """Steps of one user on a cluster whose nodes have node directories of their own."""

    def __init__(self, slurm: SlurmCluster, user: Person, top: Path) -> None:
        self.slurm, self.user, self.top = slurm, user, top
        installed = installation.install(("compress",))
        self.hpcc, self.python = str(installed.hpcc), os.path.realpath(installed.python)
        self.ring = top / "ring"
        layers = ring_layers(top)
        self.image = str(build_sif(top / "ring.sif", layers, {"Env": [f"PATH={IMAGE_PATH}"]}))
        prolog = top / "task-prolog"
        prolog.write_text(f'#!/bin/sh\necho "export HPCC_NODE_DIR={user.home}/node-$SLURMD_NODENAME"\n')
        prolog.chmod(0o755)
        config = slurm.directory / "slurm.conf"
        config.write_text(f"{config.read_text()}TaskProlog={prolog}\n")
        slurm.run(["scontrol", "reconfigure"])

    def run(self, *argv: object) -> tuple[float, str]:
        """(seconds, standard output) of a command."""
        begun = time.perf_counter()
        done = self.slurm.run([str(word) for word in argv], self.user, timeout=300)
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, argv))} failed:\n{done.stderr[-2000:]}")
        return seconds, done.stdout

    def ranks(self, count: int, *argv: object) -> tuple[float, str]:
        return self.run("srun", "--mpi=pmi2", "-N1", f"-n{count}", *argv)

    def start(self, mode: str) -> Start:
        inside = [self.hpcc, "exec", *MODES[mode]]
        ways = {
            "ranks": lambda: self.ranks(RANKS, *inside, self.image, "/bin/true")[0],
            "pythons": lambda: self.ranks(RANKS, self.python, "-I", "-S", "-c", "pass")[0],
            "one": lambda: self.run(*inside, "--no-hold", self.image, "/bin/true")[0],
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):
            for name, way in ways.items():
                seconds[name].append(way())
        medians = [statistics.median(each[1:]) for each in seconds.values()]
        return Start(mode, *medians, *self._count(inside))

    def _count(self, inside: Sequence[str]) -> tuple[int, int]:
        mark = f"HPCC_BENCH_MARK={time.monotonic_ns()}"
        script = "readlink /proc/self/ns/user; sleep 2"
        argv = ["srun", "--mpi=pmi2", "-N1", f"-n{RANKS}", *inside, self.image, "bash", "-c", script]
        env = {**self.slurm.env, mark.partition("=")[0]: mark.partition("=")[2]}
        step = self.user.popen(argv, env=env, text=True, stdout=subprocess.PIPE)
        assert step.stdout is not None
        said = {step.stdout.readline() for _ in range(RANKS)}
        servers = sum(command.startswith("hpcc-squashfs") for command in marked(mark).values())
        step.communicate()
        return servers, len(said)

    def rings(self, mode: str) -> list[Ring]:
        found = []
        for size, rounds in SIZES.items():
            ways = {"host": [self.ring], "image": [self.hpcc, "exec", *MODES[mode], self.image, "ring"]}
            took: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, argv in ways.items():
                    _, said = self.ranks(2, *argv, rounds, size)
                    took[name].append(float(re.findall(r"rounds, ([\d.]+) us", said)[0]))
            found.append(Ring(mode, size, *(statistics.median(each) for each in took.values())))
        return found

    def readings(self, image: Path) -> list[Reading]:
        """From the shared filesystem; copied to a node by the first task there; copied before by sbcast."""
        return [
            self._read(image, "shared", []),
            self._read(image, "node", ["--stage", "node"]),
            self._read(image, "sbcast", ["--stage", "node"], prestage=True),
        ]

    def _read(self, image: Path, way: str, stage: Sequence[str], *, prestage: bool = False) -> Reading:
        for node in NODES:
            shutil.rmtree(self.user.home / f"node-{node}", ignore_errors=True)
        forget()
        preparing = 0.0
        if prestage:  # of one node at a time, since all have one /var/tmp
            argv = [self.hpcc, "slurm", "prestage", "--broadcast", "--nodes"]
            preparing = sum(self.run(*argv, node, image)[0] for node in NODES)
        inside = [self.hpcc, "exec", "--compat", "--job-env", *stage, image, "python3", "-c", READS]
        begun = time.time()
        _, said = self.run("srun", f"-N{len(NODES)}", f"-n{TASKS}", "--overcommit", "--mem-per-cpu=10", *inside)
        return Reading(way, preparing, sorted(float(each) - begun for each in re.findall(r"at ([\d.]+)", said)))


def measure(top: Path, user: Person, image: Path | None) -> tuple[list[Start], list[Ring], list[Reading]]:
    """In `top`, which all users can pass through."""
    with SlurmCluster() as slurm:
        steps = Steps(slurm, user, top)
        if not daemons.wait_until(slurm._all_idle, 20):
            raise SystemExit(slurm.logs())
        starts = [steps.start(mode) for mode in MODES]
        rings = [each for mode in MODES for each in steps.rings(mode)]
        if image is None:
            return starts, rings, []
        with SharedFs() as fs:
            shared = fs.nodes[0].mount / "image.sif"
            shutil.copy(image, shared)
            shared.chmod(0o644)
            return starts, rings, steps.readings(shared)


def show(starts: Sequence[Start], rings: Sequence[Ring], readings: Sequence[Reading]) -> None:
    for each in starts:
        print(
            f"\n{RANKS} ranks of a step on one node, {each.mode}: {each.ranks * 1e3:.0f} ms; as many Pythons "
            f"{each.pythons * 1e3:.0f} ms, one exec {each.one * 1e3:.0f} ms\n  ratio {each.ratio:.2f}   target: "
            f"{START_TARGET}; {each.servers} server, {each.user_namespaces} user namespace"
        )
    print("\na ring of two ranks, µs a round")
    for ring in rings:
        print(
            f"  {ring.mode:<8}{ring.size:>9} bytes: host's {ring.host:>8.1f}, image's {ring.image:>8.1f}, ratio "
            f"{ring.image / ring.host:.2f}   target: {RING_TARGET}"
        )
    if readings:
        print(f"\n{TASKS} tasks from MooseFS, seconds until half of them and all of them have read what they need")
    for reading in readings:
        half, last = statistics.median(reading.begun), reading.begun[-1]
        print(f"  {reading.way:<8}{half:>6.2f}{last:>6.2f}, after {reading.preparing:.2f} of copying")


# -- the picture -------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP = 560, 346, 60, 46  # pixels
PLOT = (470, 225)
WAYS = {"shared": ("", "from MooseFS"), "node": ("6 4", "--stage node"), "sbcast": ("2 3", "copied before by sbcast")}


def draw(readings: Sequence[Reading]) -> str:
    """An SVG: how many tasks have begun, by the seconds since srun."""
    longest = max(each.begun[-1] for each in readings)
    step = next(each for each in (0.5, 1, 2, 5, 10, 20, 60) if longest / each <= 10)
    bottom = TOP + PLOT[1]
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
        " font-family='DejaVu Sans, Arial, sans-serif' font-size='12'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
        f"<text x='{LEFT}' y='22' font-size='14'>{TASKS} tasks on {len(NODES)} nodes: who has imported numpy</text>",
        f"<path d='M{LEFT} {TOP}V{bottom}H{LEFT + PLOT[0]}' fill='none' stroke='#000'/>",
        f"<text x='{LEFT + PLOT[0] / 2}' y='{bottom + 34}' text-anchor='middle'>seconds since srun</text>",
    ]

    def at(seconds: float, tasks: float) -> tuple[float, float]:
        return LEFT + PLOT[0] * seconds / longest, bottom - PLOT[1] * tasks / TASKS

    for tasks in range(0, TASKS + 1, 16):
        y = at(0, tasks)[1]
        out.append(f"<path d='M{LEFT} {y:.1f}h{PLOT[0]}' stroke='#ddd'/>")
        out.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{tasks}</text>")
    for number in range(int(longest / step) + 1):
        x = at(number * step, 0)[0]
        out.append(f"<text x='{x:.1f}' y='{bottom + 16}' text-anchor='middle'>{number * step:g}</text>")
    for number, reading in enumerate(readings):
        dashes, name = WAYS[reading.way]
        points = " ".join("{:.1f},{:.1f}".format(*at(each, count)) for count, each in enumerate(reading.begun, 1))
        out.append(f"<polyline points='{points}' fill='none' stroke='#000' stroke-dasharray='{dashes}'/>")
        x, y = LEFT + 155 * number, bottom + 62
        out.append(f"<path d='M{x} {y - 4}h30' stroke='#000' stroke-dasharray='{dashes}'/>")
        out.append(f"<text x='{x + 36}' y='{y}'>{name}</text>")
    return "\n".join([*out, "</svg>", ""])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path, metavar="IMAGE")
    parser.add_argument("--json", metavar="PATH", help="write all figures there")
    parser.add_argument("--svg", metavar="PATH", help="draw the last ones there")
    options = parser.parse_args(argv)
    top = Path(tempfile.mkdtemp(prefix="hpcc-ranks-", dir="/var/tmp"))
    top.chmod(0o755)
    try:
        (top / "home").mkdir(mode=0o700)
        user = people.unprivileged(top / "home")
        if user is None:
            raise SystemExit("no unprivileged user: run tests/support/install.sh")
        found = measure(top, user.at(top / "home"), options.image)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    show(*found)
    if options.json:
        Path(options.json).write_text(json.dumps(as_json(*found), indent=1) + "\n")
    if options.svg and found[2]:
        Path(options.svg).write_text(draw(found[2]))
    return 0


def as_json(starts: Sequence[Start], rings: Sequence[Ring], readings: Sequence[Reading]) -> dict[str, object]:
    return {
        "starts": [{**each._asdict(), "ratio": each.ratio} for each in starts],
        "rings": [{**each._asdict(), "ratio": each.image / each.host} for each in rings],
        "readings": [each._asdict() for each in readings],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
