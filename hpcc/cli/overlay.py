"""hpcc overlay create: an ext3 image that a container writes to. Names and arguments are Apptainer's."""

import os
import time

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.group import Subcommand, dispatch
from hpcc.cli.sif.opening import opened
from hpcc.errors import UsageError
from hpcc.overlay import LEAST, Wanted, add_partition, create_image
from hpcc.settings import Settings
from hpcc.sif import table

SUBCOMMANDS = {"create": Subcommand("make one, as a file or in a SIF", "hpcc.cli.overlay", "create")}
CREATE = Command(
    "overlay create [OPTIONS] IMAGE",
    "Make an ext3 image for --overlay, or where IMAGE is a SIF, add one to it as a partition, for --writable.",
    (
        Option(("-s", "--size"), f"MiB; {LEAST}, the least, unless given", "N"),
        Option(("-S", "--sparse"), "of a new file: let only what is used take room"),
        Option(("-f", "--fakeroot"), "for use with --fakeroot: it belongs to root there"),
        Option(("--create-dir",), "make this directory in the container's root; several by commas", "DIR", many=True),
    ),
    "hpcc overlay create --size 1024 work.img\nhpcc exec --overlay work.img docker://debian:12 touch /opt/new",
)


def main(name: str, argv: list[str]) -> int:
    return dispatch(
        name, argv, "Images that a container writes to.", SUBCOMMANDS, "hpcc overlay create --size 1024 work.img"
    )


def create(argv: list[str]) -> int:
    arguments = parse(CREATE, argv)
    if len(arguments.positional) != 1:
        raise usage_error(CREATE, "create needs the name of one image")
    (path,) = arguments.positional
    text = arguments.size or str(LEAST)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"--size {text}: this is no number of MiB", hint="--size 1024 is a GiB.")
    directories = [part for item in arguments.create_dir for part in item.split(",") if part]
    wanted = Wanted(int(text), sparse=arguments.sparse, directories=directories, root=arguments.fakeroot)
    settings = Settings.from_environ()
    if _is_sif(path):
        with opened(path, table.read) as (_, before):
            sif = before.sif
        add_partition(path, sif, wanted, settings, now=int(time.time()))
        inform(arguments, f"{path} has an overlay now; --writable writes to it")
    else:
        create_image(path, wanted, settings)
    return 0


def _is_sif(path: str) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read(41)[32:] == b"SIF_MAGIC"
    except OSError:
        return False
