"""hpcc instance: containers that stay in the background. Names and arguments are Apptainer's."""

from hpcc.cli.group import Subcommand, dispatch

SUBCOMMANDS = {
    "start": Subcommand("start one, with the image's startscript if it has one", "hpcc.cli.instance.start"),
    "run": Subcommand("start one that runs what the image is made to run", "hpcc.cli.instance.start", "run"),
    "list": Subcommand("those that run, and hpcc's processes beside them", "hpcc.cli.instance.list"),
    "stats": Subcommand("what one of them uses", "hpcc.cli.instance.stats"),
    "stop": Subcommand("end them", "hpcc.cli.instance.stop"),
}
EXAMPLE = "hpcc instance start image.sif web\n  hpcc exec instance://web ps\n  hpcc instance stop web"


def main(name: str, argv: list[str]) -> int:
    return dispatch(name, argv, "Containers that stay in the background, by name.", SUBCOMMANDS, EXAMPLE)
