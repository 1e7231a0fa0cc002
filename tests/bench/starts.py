"""How soon a container runs, warm and for the first time, and how quickly it reads its own files.

A first start has its own mount, whose page cache is cold; the image's pages are warm, but where "cold" is said.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BATCHES, BATCH = 5, 5
IMPORTS = 10  # in one container, so that its start counts little
NUMPY = f"for i in $(seq {IMPORTS}); do python3 -c 'import numpy'; done"


def executions(bench: Any, what: str, flags: Sequence[str], *, first: Sequence[str] = ()) -> None:
    """Runs of /bin/true in debian by both, in batches that alternate. first: what makes each of ours a first start."""
    ours, theirs = bench.user.home / "debian-12.sif", bench.user.home / "debian-12-apptainer.sif"
    bench.here("warm-up", [bench.hpcc, "exec", *flags, ours, "/bin/true"], 3)
    bench.in_sid("warm-up", ["apptainer", "--silent", "exec", *flags, theirs, "/bin/true"])
    for _ in range(BATCHES):
        bench.here(f"hpcc {what}", [bench.hpcc, "exec", *flags, *first, ours, "/bin/true"], BATCH)
        bench.in_sid(f"apptainer {what}", ["apptainer", "--silent", "exec", *flags, theirs, "/bin/true"], BATCH)


def unpacked_first(bench: Any) -> None:
    """A first start on a host without FUSE, which unpacks the image: printed, since there is nobody to compare with."""
    sif = bench.user.home / "debian-12.sif"
    for number in range(3):
        node = str(bench.user.home / f"node-{number}")
        argv = [bench.hpcc, "exec", sif, "/bin/true"]
        bench.here("floor: hpcc exec, first start, unpacked", argv, HPCC_ROOTFS="unpacked", HPCC_NODE_DIR=node)


def charliecloud(bench: Any, image: Path) -> None:
    """ch-run of a squashfs file, where somebody has installed it with that feature."""
    bench.here("floor: ch-run of squashfs", ["ch-run", image, "--", "/bin/true"], BATCHES * BATCH, USER="bench")


def numpy(bench: Any) -> None:
    """`import numpy` in scipy's image: from a held mount and from an unpacked copy; then with nothing in memory."""
    ours, theirs = bench.user.home / "scipy-1.sif", bench.user.home / "scipy-1-apptainer.sif"
    ways = (("held", {}), ("unpacked", {"HPCC_ROOTFS": "unpacked"}))
    for times in (1, BATCHES):  # the first to warm up
        for _ in range(times):
            for way, env in ways:
                label = f"hpcc numpy {way}" if times > 1 else "warm-up"
                bench.here(label, [bench.hpcc, "exec", "--compat", ours, "sh", "-c", NUMPY], **env)
    command = ["python3", "-c", "import numpy"]
    for _ in range(3):
        for who, run, argv in (
            ("hpcc", bench.here, [bench.hpcc, "exec", "--no-hold", ours, *command]),
            ("apptainer", bench.in_sid, ["apptainer", "--silent", "exec", theirs, *command]),
        ):
            forget()
            run(f"{who} numpy cold", argv)


def forget() -> None:
    """Have the kernel drop its page cache, as far as it lets us."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass
