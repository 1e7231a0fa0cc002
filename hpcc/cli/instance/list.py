"""hpcc instance list: the instances that run on this node; with --all also the holders of mounted images."""

import glob
import json
import os
import time

from hpcc.cli.arguments import Command, Option, parse, usage_error
from hpcc.cli.cache.items import user_name
from hpcc.cli.instance.naming import USER, chosen_register, table
from hpcc.runtime.hold import Holder, holders
from hpcc.runtime.instance import Instance
from hpcc.runtime.register import Register
from hpcc.settings import Settings

COMMAND = Command(
    "instance list [OPTIONS] [GLOB]",
    "Show the instances that run on this node.",
    (
        Option(("-j", "--json"), "as JSON"),
        Option(("-l", "--logs"), "where their output goes"),
        Option(("-a", "--all"), "also the processes that hold an image mounted for the next run; for root, all users'"),
        USER,
    ),
    "hpcc instance list 'web*'",
)


def main(argv: list[str]) -> int:
    arguments = parse(COMMAND, argv)
    if len(arguments.positional) > 1:
        raise usage_error(COMMAND, "one name or glob is taken")
    register = chosen_register(arguments)
    found = register.running(*arguments.positional)
    held = _held(arguments.user) if arguments.all else []
    if arguments.json:
        document: dict[str, object] = {"instances": [_entry(register, instance) for instance in found]}
        if arguments.all:
            document["holders"] = [{"user": user, **holder._asdict()} for user, holder in held]
        print(json.dumps(document, indent="\t"))
        return 0
    print(table(_logs(register, found) if arguments.logs else _instances(found)))
    if arguments.all:
        rows: list[tuple[str, ...]] = [("HELD FOR", "PID", "IDLE", "IMAGE")]
        rows += [
            (user, str(holder.pid), f"{max(0.0, time.time() - holder.used):.0f} of {holder.idle:.0f} s", holder.image)
            for user, holder in held
        ]
        print("\n" + table(rows))
    return 0


def _entry(register: Register, instance: Instance) -> dict[str, object]:
    """Apptainer's keys."""
    return {
        "instance": instance.name,
        "pid": instance.pid,
        "img": instance.image,
        "ip": "",
        "logErrPath": register.log(instance.name, "err"),
        "logOutPath": register.log(instance.name, "out"),
    }


def _instances(found: list[Instance]) -> list[tuple[str, ...]]:
    rows = [(instance.name, str(instance.pid), "", instance.image) for instance in found]
    return [("INSTANCE NAME", "PID", "IP", "IMAGE"), *rows]


def _logs(register: Register, found: list[Instance]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("INSTANCE NAME", "PID", "LOGS")]
    for instance in found:
        rows.append((instance.name, str(instance.pid), register.log(instance.name, "err")))
        rows.append(("", "", register.log(instance.name, "out")))
    return rows


def _held(user: str | None) -> list[tuple[str, Holder]]:
    """(user, holder) of the caller, or of whom --user names; of everybody, for root who names nobody.

    Those of others are looked for where a node directory is by default.
    """
    settings = Settings.from_environ()
    places = {settings.node_dir}
    if os.geteuid() == 0:
        places |= set(glob.glob("/var/tmp/hpcc-[0-9]*"))
    found = []
    for place in sorted(places):
        try:
            uid = os.lstat(place).st_uid
        except OSError:
            continue
        name = user_name(uid)
        if user is None or name == user:
            found += [(name, holder) for holder in holders(os.path.join(place, "held"))]
    return found
