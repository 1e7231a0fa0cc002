"""Commands of `hpcc slurm` for administrators: each is a function of argv that returns the status."""

from __future__ import annotations

from importlib import import_module

COMMANDS = (
    ("oci-conf", "oci_conf", "print an oci.conf, by which `srun --container` runs images"),
    ("oci-run", "oci_run", "what that file calls"),
    ("prestage", "prestage", "copy an image to nodes before the jobs come"),
    ("stage-here", "stage_here", "what that runs on each node"),
    ("node-facts", "node_facts", "what a job finds on a node, for `hpcc doctor --slurm`"),
    ("prolog", "scripts:prolog", "print a Prolog for slurm.conf"),
    ("task-prolog", "scripts:task_prolog", "print a TaskProlog"),
    ("epilog", "scripts:epilog", "print an Epilog"),
    ("clean-node", "clean_node", "what that runs: remove what users without jobs left"),
    ("bundle", "oci_bundle", "make an image a bundle, for `srun --container` before Slurm 23.02"),
)
"""(name, module in hpcc_slurm and perhaps its function, what it does)."""

SUBCOMMANDS = {name: ("administration", summary) for name, _, summary in COMMANDS}
"""As cli.py has them."""


def main(name: str, before: list[str], argv: list[str]) -> int:
    place, _, function = next(each for word, each, _ in COMMANDS if word == name).partition(":")
    status: int = getattr(import_module(f"hpcc_slurm.{place}"), function or "main")([*before, *argv])
    return status
