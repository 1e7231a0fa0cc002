"""hpcc kernel: one module for each subcommand. Only `check` needs Jupyter: a kernel is a JSON file."""

from __future__ import annotations

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "install": Subcommand("make an image a kernel of Jupyter's", "hpcc_jupyter.install"),
    "list": Subcommand("the kernels that run in images", "hpcc_jupyter.listing", "list_kernels"),
    "remove": Subcommand("take such kernels away", "hpcc_jupyter.listing", "remove"),
    "check": Subcommand("start a kernel and run a cell in it", "hpcc_jupyter.check"),
    "run": Subcommand("what kernel.json names: the kernel itself", "hpcc_jupyter.run"),
}


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "Notebooks in images.", SUBCOMMANDS, "hpcc kernel install docker://python:3.12")
