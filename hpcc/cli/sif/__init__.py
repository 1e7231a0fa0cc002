"""hpcc sif: what is in a SIF file, and changes to it. Names and arguments are Apptainer's."""

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "list": Subcommand("the objects in a SIF", "hpcc.cli.sif.show", "list_objects"),
    "header": Subcommand("its global header", "hpcc.cli.sif.show", "show_header"),
    "info": Subcommand("what there is to know about one object", "hpcc.cli.sif.show", "show_object"),
    "dump": Subcommand("write an object's bytes to stdout", "hpcc.cli.sif.dump"),
    "add": Subcommand("add a file as an object", "hpcc.cli.sif.add"),
    "del": Subcommand("delete an object", "hpcc.cli.sif.change", "delete"),
    "setprim": Subcommand("choose the partition that containers run from", "hpcc.cli.sif.change", "set_primary"),
    "new": Subcommand("make a SIF without objects", "hpcc.cli.sif.change", "new"),
}


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "What is in a SIF file, and changes to it.", SUBCOMMANDS, "hpcc sif list image.sif")
