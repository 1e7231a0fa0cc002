"""Dask's workers in an image against its own on this machine: how soon four are up, and what a shuffle costs."""

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import dask, installation
from tests.support.images import build_sif
from tests.support.people import SYSTEM_PATH

UP_TARGET = "at most 1.5 times of LocalCluster and 4 warm `hpcc exec`"
SHUFFLE_TARGET = "at most 1.1"


class Workers(NamedTuple):
    """Medians, in seconds."""

    up: float
    up_local: float
    executions: float
    shuffle: float
    shuffle_local: float

    @property
    def ratios(self) -> tuple[float, float]:
        return self.up / (self.up_local + self.executions), self.shuffle / self.shuffle_local


def workers(bench: Any) -> Workers:
    """Both in one process of the bench's user, by turns. SystemExit where that fails."""
    installed = installation.install(("dask",), "frames")
    layers, config = dask.dask_image(dask.FRAMES, str(installed.python))
    image = build_sif(bench.top / "dask.sif", layers, config["config"])
    program = bench.top / "dask_program.py"
    shutil.copy(Path(__file__).with_name("dask_program.py"), program)
    scratch = bench.user.home / "dask"
    argv = [installed.python, program, installed.hpcc, image, scratch]
    scratch.mkdir()
    if os.geteuid() == 0:
        os.chown(scratch, bench.user.uid, bench.user.gid)
    done = bench.user.run(argv, env={"PATH": f"{installed.bin}:{SYSTEM_PATH}"}, timeout=900, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"Dask failed:\n{done.stderr[-2000:]}")
    found: Mapping[str, list[float]] = json.loads(done.stdout.strip().rpartition("\n")[2])
    names = ("ours", "local", "exec", "shuffle ours", "shuffle local")
    return Workers(*(statistics.median(found[name]) for name in names))


def show(found: Workers) -> None:
    up, shuffle = found.ratios
    print(f"\nDask, 4 workers up: {found.up:.2f} s in an image, {found.up_local:.2f} s by LocalCluster, and "
          f"{found.executions:.2f} s four warm executions")  # fmt: skip
    print(f"  ratio {up:.2f}   target: {UP_TARGET}")
    print(f"Dask, a shuffle of 500 MB: {found.shuffle:.2f} s in an image, {found.shuffle_local:.2f} s by LocalCluster")
    print(f"  ratio {shuffle:.2f}   target: {SHUFFLE_TARGET}")
