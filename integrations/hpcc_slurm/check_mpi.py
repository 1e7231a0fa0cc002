"""hpcc doctor --mpi: MPI and fabric libraries of this host, its devices, and what each profile of --mpi would bring."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from glob import glob

from hpcc.cli.checks import FAILS, GAP, INFO, OK, Finding
from hpcc.errors import HpccError
from hpcc.runtime.host import find_program
from hpcc.runtime.libraries import is_for_this_machine, loader_cache
from hpcc.runtime.mpi import PLACE, of_profile
from hpcc.settings import Settings
from hpcc.siteprofiles import Profile

MPI = {"libmpi.so.12": "MPICH's ABI: MPICH, Cray MPICH, Intel MPI, MVAPICH2", "libmpi.so.40": "Open MPI 4 and 5"}
FABRIC = {
    "libfabric.so.1": "libfabric", "libcxi.so.1": "Slingshot (cxi)", "libibverbs.so.1": "InfiniBand (verbs)",
    "librdmacm.so.1": "RDMA connections", "libucp.so.0": "UCX", "libpsm2.so.2": "Omni-Path (psm2)",
    "libefa.so.1": "AWS EFA",
}  # fmt: skip
LAUNCH = {
    "libpmix.so.2": "PMIx", "libpmi2.so.0": "PMI-2", "libpmi.so.0": "PMI-1", "libpals.so.0": "PALS (Cray)"
}  # fmt: skip
DEVICES = {
    "/dev/cxi*": "Slingshot", "/dev/infiniband/uverbs*": "InfiniBand or RoCE", "/dev/hfi1_*": "Omni-Path",
    "/dev/xpmem": "XPMEM", "/dev/knem": "KNEM",
}  # fmt: skip
_PLACES = (
    "/opt/cray/pe/lib64", "/opt/cray/pe/mpich/default/ofi/*/*/lib-abi-mpich", "/opt/cray/libfabric/*/lib64",
    "/usr/lib64/mpich/lib", "/usr/lib64/openmpi/lib", "/usr/lib/*-linux-gnu/openmpi/lib", "/usr/mpi/gcc/*/lib64",
    "/opt/mpich/lib", "/opt/openmpi/lib", "/opt/intel/oneapi/mpi/latest/lib", "/opt/intel/oneapi/mpi/latest/lib/*",
)  # fmt: skip
_SBIN = ("/usr/sbin", "/sbin")


def check(place: str) -> list[Finding]:
    """All findings of this host. `place` is of no meaning here."""
    settings = Settings.from_environ()
    libraries = find_libraries((*MPI, *FABRIC, *LAUNCH), settings)
    devices = {what: sorted(glob(pattern)) for pattern, what in DEVICES.items()}
    profiles = {profile: _tried(profile, settings) for profile in settings.mpi_profiles}
    return list(findings(libraries, devices, profiles))


def find_libraries(names: Sequence[str], settings: Settings) -> dict[str, str]:
    """{soname: path} of what the loader knows, else of where LD_LIBRARY_PATH and the usual places have it."""
    program = find_program("ldconfig", settings, _SBIN)
    known = loader_cache(_output(program)) if program else []
    directories = [each for each in settings.environ.get("LD_LIBRARY_PATH", "").split(":") if each.startswith("/")]
    directories += [each for place in _PLACES for each in sorted(glob(place))]
    known = [(name, f"{each}/{name}") for each in directories for name in names] + known
    found: dict[str, str] = {}
    for name, path in known:
        if name in names and name not in found and is_for_this_machine(path):
            found[name] = path
    return found


def _output(program: str) -> str:
    try:
        done = subprocess.run([program, "-p"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="surrogateescape")


def _tried(profile: Profile, settings: Settings) -> tuple[list[str], str]:
    """(what it would bring, why it cannot)."""
    try:
        devices = of_profile(profile, settings)
    except HpccError as error:
        return [], f"{error.message}"
    said = []
    libraries = [bind for bind in devices.binds if bind.target.startswith(f"{PLACE}/")]
    if libraries:
        said.append(f"libraries: {' '.join(os.path.basename(bind.target) for bind in libraries)}")
    others = [bind for bind in devices.binds if bind not in libraries]
    if others:
        said.append(f"binds: {' '.join(bind.source for bind in others)}")
    missing = [bind.source for bind in others if not os.path.exists(bind.source)]
    said += [f"variables: {' '.join(sorted({name for name, _ in devices.env}))}"] if devices.env else []
    return said, f"this host does not have {missing[0]}" if missing else ""


def findings(
    libraries: Mapping[str, str], devices: Mapping[str, list[str]], profiles: Mapping[Profile, tuple[list[str], str]]
) -> Iterator[Finding]:
    """What there is, and what is missing between it and the profiles. Pure."""
    for title, names in (("MPI", MPI), ("fabric", FABRIC), ("launcher", LAUNCH)):
        there = [(name, what) for name, what in names.items() if name in libraries]
        for name, what in there:
            yield Finding(title, OK if title == "MPI" else INFO, f"{what}: {libraries[name]}")
        if not there:
            yield Finding(title, INFO, "no library that the loader or the usual places have")
    for what, paths in devices.items():
        if paths:
            yield Finding("device", INFO, f"{what}: {' '.join(paths)}")
    for profile, (said, problem) in profiles.items():
        what = f"--mpi {profile.name}"
        if problem:
            yield Finding(
                what, FAILS, problem, "Runs with this profile end with an error on this host.",
                "Mend the profile in the setting mpi_profiles (`hpcc config mpi_profiles`).",
            )  # fmt: skip
        else:
            yield Finding(what, OK, "; ".join(said))
    fast = [what for what in ("Slingshot", "InfiniBand or RoCE", "Omni-Path") if devices.get(what)]
    if not profiles and fast and any(name in libraries for name in MPI):
        yield Finding(
            "profiles", GAP, "mpi_profiles has none",
            f"An image's MPI uses {fast[0]} only if it was built for that; else ranks talk over TCP.",
            f"In /etc/hpcc/config.toml: {suggestion(libraries, devices)}",
        )  # fmt: skip
    elif not profiles:
        yield Finding("profiles", INFO, "mpi_profiles has none; images use their own MPI")


def suggestion(libraries: Mapping[str, str], devices: Mapping[str, list[str]]) -> str:
    """A profile of what was found, as TOML in one line."""
    paths = [path for name, path in libraries.items() if name not in LAUNCH]
    nodes = [pattern for pattern, what in DEVICES.items() if devices.get(what)]
    said = ", ".join(f'"{path}"' for path in paths)
    more = ", ".join(f'"{pattern}"' for pattern in nodes)
    return f"[mpi_profiles.host] libraries = [{said}] devices = [{more}]"
