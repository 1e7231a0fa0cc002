"""hpcc cache init: a directory becomes the cache of a group."""

from hpcc.cli import say
from hpcc.cli.arguments import Command, Option, parse, usage_error

COMMAND = Command(
    "cache init --group GROUP DIR",
    "Make a directory the cache of a group: what one member pulls, all run. So every member can give the others "
    "programs to run; name a group whose members trust each other.",
    (Option(("-g", "--group"), "the group, as `id` shows it", "GROUP"),),
    "hpcc cache init --group lab /scratch/lab/hpcc",
)


def main(argv: list[str]) -> int:
    from hpcc.cache.init import init_group_cache

    arguments = parse(COMMAND, argv)
    if len(arguments.positional) != 1:
        raise usage_error(COMMAND, "init needs one directory")
    if not arguments.group:
        raise usage_error(COMMAND, "init needs --group; a cache of your own needs no init")
    made = init_group_cache(arguments.positional[0], arguments.group)
    for path in made.closed:
        say("WARNING", f"{path} lets the members of {made.group} not pass: chmod g+x, or o+x")
    print(f"{made.path} is the cache of the group {made.group}.\n")
    print("Its members run each other's images: each of them can now give the others")
    print(f"programs to run. `getent group {made.group}` tells who they are.\n")
    print("Each member sets, in ~/.bashrc or in the jobs:\n")
    print(f"  export HPCC_CACHE_DIR={made.path}\n")
    print("or, in ~/.config/hpcc/config.toml:\n")
    print(f'  cache_dir = "{made.path}"\n')
    print("You are its owner: have `hpcc cache gc` run by cron, once a day.")
    return 0
