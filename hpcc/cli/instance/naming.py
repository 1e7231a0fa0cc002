"""What the subcommands share: --user, instances by name or glob, a table."""

from hpcc.cli.arguments import Arguments, Option
from hpcc.errors import UsageError
from hpcc.runtime.instance import Instance
from hpcc.runtime.register import Register, no_instance
from hpcc.settings import Settings

USER = Option(("-u", "--user"), "those of this user; for root", "NAME")


def chosen_register(arguments: Arguments) -> Register:
    """The caller's instances, or those of whom --user names."""
    if arguments.user is not None:
        return Register.of_user(arguments.user)
    return Register.of_caller(Settings.from_environ().environ)


def matching(register: Register, patterns: list[str]) -> list[Instance]:
    """Those that run and match, each once. UsageError for a name or glob that none matches."""
    found: dict[str, Instance] = {}
    for pattern in patterns:
        some = register.running(pattern)
        if not some:
            raise no_instance(pattern, register)
        found.update((instance.name, instance) for instance in some)
    return list(found.values())


def the_one(register: Register, names: list[str], usage: UsageError) -> Instance:
    """The running instance that the command line names; `usage` is raised where that is not one."""
    if len(names) != 1:
        raise usage
    return register.find(names[0])


def plain(text: str) -> str:
    """Without what would steer a terminal: root lists what users have written."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as what is in them, four blanks between."""
    rows = [tuple(map(plain, row)) for row in rows]
    widths = [max(len(row[at]) for row in rows) + 4 for at in range(len(rows[0]))]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
