"""hpcc instance stats: what an instance uses, once or again and again."""

import json
import time

from hpcc.cli import inform
from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import size_text
from hpcc.cli.instance.naming import USER, chosen_register, plain, table, the_one
from hpcc.runtime.register import no_instance
from hpcc.runtime.usage import Usage, usage

COMMAND = Command(
    "instance stats [OPTIONS] NAME",
    "Show what an instance uses, each second until it ends or you press Ctrl-C.",
    (
        Option(("-j", "--json"), "as JSON, once"),
        Option(("--no-stream",), "once"),
        USER,
    ),
    "hpcc instance stats --no-stream web",
)
_HEADER = ("INSTANCE NAME", "CPU USAGE", "MEM USAGE / LIMIT", "MEM %", "BLOCK I/O", "PIDS", "FROM")
_PAUSE = 1.0  # seconds between two looks, from which the share of the processors comes


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    register = chosen_register(arguments)
    instance = the_one(register, arguments.positional, usage_error(COMMAND, "the name of one instance is needed"))
    try:
        before, at = usage(instance), time.monotonic()
    except OSError:
        raise no_instance(instance.name, register) from None
    if arguments.json:
        print(json.dumps(_document(before), indent="\t"))
        return 0
    inform(arguments, f"Stats for {instance.name} instance of {plain(instance.image)} (PID={instance.pid})")
    shown = False
    try:
        while True:
            time.sleep(_PAUSE)
            try:
                now, then = usage(instance), time.monotonic()
            except OSError:
                return 0
            row = _row(instance.name, now, (now.cpu - before.cpu) / (then - at) / 1e9)
            lines = table([_HEADER, row])
            print(lines.splitlines()[1] if shown else lines, flush=True)
            if arguments.no_stream:
                return 0
            before, at, shown = now, then, True
    except KeyboardInterrupt:
        return 0


def _row(name: str, now: Usage, processors: float) -> tuple[str, ...]:
    most = f" / {now.most}" if now.most else ""
    return (
        name,
        f"{max(0.0, processors):.2%}",
        f"{size_text(now.memory)} / {size_text(now.limit)}",
        f"{now.memory / now.limit:.2%}",
        f"{size_text(now.read)} / {size_text(now.written)}",
        f"{now.processes}{most}",
        now.source,
    )


def _document(now: Usage) -> dict[str, object]:
    """Apptainer's keys, as far as they are known, and where it was read."""
    return {
        "source": now.source,
        "cpu_stats": {"cpu_usage": {"total_usage": now.cpu}},
        "memory_stats": {"usage": {"usage": now.memory, "limit": now.limit}},
        "pids_stats": {"current": now.processes, "limit": now.most},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"op": "Read", "value": now.read}, {"op": "Write", "value": now.written}]
        },
    }
