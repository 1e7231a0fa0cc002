"""hpcc slurm: sbatch, srun and salloc with an image."""

from __future__ import annotations

from importlib import import_module

from hpcc.errors import UsageError
from hpcc_slurm import administration

SUBCOMMANDS = {
    "sbatch": ("sbatch", "submit a batch script that runs in an image"),
    "srun": ("steps", "run a job's step in an image, a container for each task"),
    "salloc": ("steps", "get nodes, and have an image ready for `hpcc slurm srun` there"),
    **administration.SUBCOMMANDS,
}
"""Name -> (module in hpcc_slurm, what it does)."""


def main(name: str, argv: list[str]) -> int:
    at = next((index for index, word in enumerate(argv) if not word.startswith("-")), len(argv))
    if at == len(argv):
        if {"-h", "--help"} & set(argv):
            print(_usage())
            return 0
        raise UsageError("slurm needs a subcommand", hint=f"One of: {', '.join(SUBCOMMANDS)}.")
    subcommand = argv[at]
    if subcommand not in SUBCOMMANDS:
        raise UsageError(f"slurm has no subcommand {subcommand!r}", hint=f"One of: {', '.join(SUBCOMMANDS)}.")
    module = import_module(f"hpcc_slurm.{SUBCOMMANDS[subcommand][0]}")
    status: int = module.main(subcommand, argv[:at], argv[at + 1 :])
    return status


def _usage() -> str:
    lines = ["Usage: hpcc slurm SUBCOMMAND …", "", "Docker images in Slurm jobs. Subcommands:"]
    lines += [f"  {name:<10} {summary}" for name, (_, summary) in SUBCOMMANDS.items()]
    lines += ["", "`hpcc slurm SUBCOMMAND --help` tells more. Example:"]
    lines += ["  hpcc slurm sbatch --image docker://python:3.12 --compat --wrap 'python3 -V'"]
    return "\n".join(lines)
