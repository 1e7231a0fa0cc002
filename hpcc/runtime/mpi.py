"""--mpi PROFILE: the host's MPI and fabric libraries in a container, in front of the image's own.

Libraries are bound to /.singularity.d/mpi, which comes first in LD_LIBRARY_PATH. So a program that was built against a
library with the same soname, as all of MPICH's ABI have it (libmpi.so.12), is run with the host's. Not to
/.singularity.d/libs: that comes last, so that an image's own libraries win over a driver's.
"""

from __future__ import annotations

import os
from glob import glob, has_magic

from hpcc.errors import UsageError
from hpcc.records import TYPE_CHECKING
from hpcc.runtime.binds import Bind, parse_bind, split_binds
from hpcc.runtime.environment import PREPEND_LIBRARIES
from hpcc.runtime.libraries import is_for_this_machine, names_of
from hpcc.runtime.spec import Devices
from hpcc.siterules import matches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpcc.settings import Settings
    from hpcc.siteprofiles import Profile

PLACE = "/.singularity.d/mpi"


def find_mpi(name: str, settings: Settings) -> Devices:
    """What the profile adds to a container on this host. UsageError where there is no such one, or what it names is
    not there: with the image's own library each rank would run for itself.
    """
    known = {profile.name: profile for profile in settings.mpi_profiles}
    if name not in known:
        raise UsageError(
            f"--mpi {name}: there is no such profile",
            hint=f"Those there are: {', '.join(sorted(known))}."
            if known
            else "The setting mpi_profiles has none; `hpcc doctor --mpi` shows what this host has.",
        )
    return of_profile(known[name], settings)


def of_profile(profile: Profile, settings: Settings) -> Devices:
    binds = [Bind(path, f"{PLACE}/{name}", readonly=True) for name, path in sorted(libraries_of(profile).items())]
    first = ":".join([*((PLACE,) if binds else ()), *profile.prepend])
    binds += [parse_bind(text, "/") for item in profile.bind for text in split_binds(item)]
    for pattern in profile.devices:
        binds += [Bind(path, path, optional=True, device=True) for path in sorted(glob(pattern))]
    passed = [pair for pair in settings.environ.items() if any(matches(pattern, pair[0]) for pattern in profile.env)]
    return Devices(tuple(binds), (*passed, *profile.set, *(((PREPEND_LIBRARIES, first),) if first else ())))


def libraries_of(profile: Profile) -> dict[str, str]:
    """{name in the container: path on the host}; of two with one name the first. UsageError for what is none."""
    found: dict[str, str] = {}
    paths = list(_paths(profile))
    for path, names in names_of(paths).items():
        for name in names:
            found.setdefault(name, path)
    return found


def _paths(profile: Profile) -> Iterator[str]:
    for text in profile.libraries:
        if os.path.isdir(text):
            yield from (path for path in sorted(glob(f"{text}/lib*.so*")) if os.path.isfile(path))
        elif has_magic(text) and not os.path.exists(text):
            yield from (path for path in sorted(glob(text)) if os.path.isfile(path))
        elif not os.path.exists(text):
            raise UsageError(f"--mpi {profile.name}: this host does not have {text}", hint=_HINT)
        elif not is_for_this_machine(text):
            raise UsageError(f"--mpi {profile.name}: {text} is no library for this machine", hint=_HINT)
        else:
            yield text


_HINT = (
    "The profile stands in the setting mpi_profiles; `hpcc config mpi_profiles` says where. Patterns may match none."
)
