"""What a process of a batch job needs of its node: directories and devices that the job's variables lead to. Pure.

    $TMPDIR               the job's own temporary directory, which many sites make outside of /tmp
    $PMIX_SERVER_TMPDIR   under slurmd's spool: where PMIx has its sockets and what ranks share
    $SLURM_SUBMIT_DIR     with --contain alone, where the working directory, too, would be missing
    /dev/shm, fabrics     the same: ranks meet in /dev/shm; infiniband, xpmem and cxi are what MPI's messages go through

By default, inside of a job, the first two; with --contain nothing, unless --job-env asks for all of it.
"""

from __future__ import annotations

import posixpath

from hpcc.records import TYPE_CHECKING
from hpcc.runtime.binds import Bind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FABRICS = ("/dev/infiniband", "/dev/xpmem", *(f"/dev/cxi{number}" for number in range(8)))


def job_directories(environ: Mapping[str, str], cwd: str, *, contain: bool) -> Iterator[str]:
    """Those that the job needs, absolute and normal; they may be missing, or be the system's."""
    names = ["TMPDIR", "PMIX_SERVER_TMPDIR"]
    if contain and environ.get("SLURM_JOB_ID"):
        names.append("SLURM_SUBMIT_DIR")
        yield cwd
    for name in names:
        path = environ.get(name, "")
        if path.startswith("/"):
            yield posixpath.normpath(path)


def job_devices() -> tuple[Bind, ...]:
    """For a container whose /dev is not the host's."""
    shared = Bind("/dev/shm", "/dev/shm", optional=True)
    return (shared, *(Bind(path, path, optional=True, device=True) for path in FABRICS))
