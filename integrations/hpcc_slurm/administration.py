"""Commands of `hpcc slurm` for administrators: each is a module with main(argv) -> status."""

from __future__ import annotations

from importlib import import_module

COMMANDS = (
    ("oci-conf", "oci_conf", "print an oci.conf, by which `srun --container` runs images"),
    ("oci-run", "oci_run", "what that file calls"),
    ("bundle", "oci_bundle", "make an image a bundle, for `srun --container` before Slurm 23.02"),
)
"""(name, module in hpcc_slurm, what it does)."""

SUBCOMMANDS = {name: ("administration", summary) for name, _, summary in COMMANDS}
"""As cli.py has them."""


def main(name: str, before: list[str], argv: list[str]) -> int:
    module = import_module(f"hpcc_slurm.{next(each for word, each, _ in COMMANDS if word == name)}")
    status: int = module.main([*before, *argv])
    return status
