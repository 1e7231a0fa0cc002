"""hpcc sif dump: the bytes of an object."""

from hpcc.cli.arguments import Command, parse
from hpcc.cli.sif.opening import id_and_file, opened, pread
from hpcc.cli.sif.stdout import write
from hpcc.errors import InvalidImage
from hpcc.sif.load import load

COMMAND = Command(
    "sif dump ID FILE",
    "Write an object's bytes to stdout, as they are.",
    (),
    "hpcc sif dump 1 image.sif > image.def",
)
_CHUNK = 1 << 20


def main(argv: list[str]) -> int:
    id, path = id_and_file(COMMAND, parse(COMMAND, argv).positional)
    with opened(path, load) as (fd, sif):
        each = sif.by_id(id)
        at, end = each.offset, each.offset + each.size
        while at < end:
            data = pread(fd, min(_CHUNK, end - at), at)
            if not data:
                raise InvalidImage("it was cut short while it was read")
            at += len(data)
            write(data)
    return 0
