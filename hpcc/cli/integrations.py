"""Commands that other import packages bring, such as `hpcc snakemake`: the entry-point group `hpcc.commands`.
Those of `hpcc.interpreters` stand in the first lines of scripts; nobody types them, so no list has them.

They are looked for only where the core has no command of that name, since to look costs more than a warm run.
"""

from __future__ import annotations

from hpcc.errors import HpccError
from hpcc.records import TYPE_CHECKING
from hpcc.sitepath import load_site_packages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint

GROUP = "hpcc.commands"
INTERPRETERS = "hpcc.interpreters"


def integrations(*groups: str) -> dict[str, EntryPoint]:
    """Those of the groups that are installed, by the name of their command, sorted. Nothing of them is imported."""
    load_site_packages()
    from importlib.metadata import entry_points

    found = [each for group in groups for each in entry_points(group=group)]
    return {each.name: each for each in sorted(found, key=lambda each: each.name)}


def run_integration(found: EntryPoint, argv: Sequence[str]) -> int:
    """Its exit status. HpccError where a package that it needs is not installed, and says how to install that."""
    try:
        main = found.load()
        return int(main(found.name, list(argv)))
    except ModuleNotFoundError as error:
        dist = found.dist
        if dist is None or not error.name:
            raise
        extra = found.name if found.name in (dist.metadata.get_all("Provides-Extra") or ()) else ""
        wanted = f"'{dist.name}[{extra}]'" if extra else dist.name
        raise HpccError(
            f"hpcc {found.name} needs the Python package {error.name.partition('.')[0]}, which is not installed",
            hint=f"pip install {wanted}, into the same environment as hpcc.",
        ) from error
