"""hpcc snakemake: run a workflow whose rules say `container:`, and fetch its images before that."""

from __future__ import annotations

from hpcc.errors import UsageError

_USAGE = """\
Usage: hpcc snakemake SUBCOMMAND …

For workflows whose rules say `container:`. Subcommands:
  run        run Snakemake, with hpcc in Apptainer's place
  prefetch   fetch the images of a workflow, several at a time, or list them

`hpcc snakemake SUBCOMMAND --help` tells more. Example:
  hpcc snakemake prefetch --snakefile workflow/Snakefile
  hpcc snakemake run -- --cores 4"""


def main(name: str, argv: list[str]) -> int:
    words = [word for word in argv if not word.startswith("-")]
    if not words:
        if {"-h", "--help"} & set(argv):
            print(_USAGE)
            return 0
        raise UsageError("snakemake needs a subcommand", hint="One of: run, prefetch.")
    if words[0] not in ("run", "prefetch"):
        raise UsageError(
            f"snakemake has no subcommand {words[0]!r}",
            hint="One of: run, prefetch. `hpcc snakemake run -- …` takes all that snakemake does.",
        )
    at = argv.index(words[0])
    rest = [*argv[:at], *argv[at + 1 :]]
    if words[0] == "run":
        from hpcc_snakemake.run import main as run

        return run(rest)
    from hpcc_snakemake.prefetch import main as prefetch

    return prefetch(rest)
