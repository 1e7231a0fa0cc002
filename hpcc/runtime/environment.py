"""The environment of a payload. Pure.

    default         the host's variables, the caller's value before the image's, PATH excepted
    --cleanenv      the image's, and of the host only TERM and the proxies
    --job-env       and what tells a process its place in a Slurm, MPI, Dask or GPU job
    the site        and what its bind paths name (siterules.py)
    both            then what devices need, HPCCENV_X, APPTAINERENV_X, SINGULARITYENV_X as X, then --env

HPCC_, APPTAINER_ and SINGULARITY_ variables of the host steer the runtime and stay outside. Apptainer's names
for what runs (APPTAINER_CONTAINER, …) are set, since scripts ask for them.
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PREFIXES = ("SINGULARITYENV_", "APPTAINERENV_", "HPCCENV_")  # the last wins
_STEERING = ("HPCC_", "APPTAINER_", "SINGULARITY_", *_PREFIXES)
_ALWAYS = frozenset(
    ("TERM", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
     "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
)  # fmt: skip
_JOB_PREFIXES = (
    "SLURM_", "SLURMD_", "PMI_", "PMIX_", "PALS_", "OMPI_", "MPICH_", "UCX_", "FI_", "NCCL_", "OMP_", "DASK_"
)  # fmt: skip
_JOB = frozenset(
    ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
     "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK", "TMPDIR")
)  # fmt: skip
_NEVER = frozenset(("HOME", "PATH", "LD_LIBRARY_PATH", "PS1", "PROMPT_COMMAND", "OLDPWD"))
_LIBRARIES = "/.singularity.d/libs"
PREPEND_LIBRARIES = "PREPEND_LD_LIBRARY_PATH"
_EXTENSIONS = {
    "PREPEND_PATH": "PATH='{}':\"$PATH\"",
    "APPEND_PATH": "PATH=\"$PATH\":'{}'",
    PREPEND_LIBRARIES: "LD_LIBRARY_PATH='{}'\"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"",
}
"""Of what an image's scripts set, as sh has it."""


class RunConfig(NamedTuple):
    """What an image says about running it.

    `scripts`: its environment is what /.singularity.d/env/*.sh say (SIFs of Apptainer, sandboxes), else `env`,
    exactly. `runscript`: what `run` executes, where ENTRYPOINT and CMD are not known. `directory`: its WORKDIR;
    `user`: its USER, as it says it.
    """

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    scripts: bool = False
    runscript: str = ""
    directory: str = ""
    user: str = ""


def container_environment(
    image_name: str,
    image_path: str,
    config: RunConfig,
    host: Mapping[str, str],
    options: tuple[tuple[str, str], ...],
    command: str,
    *,
    clean: bool,
    compat: bool,
    home: str,
    job: bool = False,
    binds: tuple[str, ...] = (),
    devices: tuple[tuple[str, str], ...] = (),
    app: str = "",
    passed: tuple[str, ...] = (),
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """(environment, overrides), each sorted. The overrides are part of the environment too.

    job: a clean one has what tells a process its place in a job, all the same. passed: and what these patterns match.
    """
    by_pattern: frozenset[str] = frozenset()
    if clean and passed:
        from hpcc.siterules import matches

        by_pattern = frozenset(name for name in host if any(matches(pattern, name) for pattern in passed)) - _NEVER

    def passes(name: str) -> bool:
        if name.startswith(_STEERING):
            return False
        if not clean:
            return name not in _NEVER
        return name in _ALWAYS or name in by_pattern or (job and is_of_job(name))

    of_host = {name: value for name, value in host.items() if passes(name)}
    image = dict(_pairs(config.env))
    env = {"LANG": "C"} if clean and not config.scripts else {}
    env |= image | of_host
    env["PATH"] = image.get("PATH", DEFAULT_PATH)
    if clean and config.scripts:
        env.setdefault("LANG", "C")
    if not config.scripts:  # of an image with scripts, `script` sees to it once they have spoken
        libraries = image.get("LD_LIBRARY_PATH", "")
        env["LD_LIBRARY_PATH"] = f"{libraries}:{_LIBRARIES}" if libraries else _LIBRARIES
    name = image_name.rpartition("/")[2]
    env["PS1"] = f"{name}> "
    for prefix in ("APPTAINER", "SINGULARITY"):
        env[f"{prefix}_CONTAINER"] = image_path
        env[f"{prefix}_NAME"] = name
        env[f"{prefix}_BIND"] = ",".join(binds)
        if compat:
            env[f"{prefix}_NO_EVAL"] = "1"
    env["APPTAINER_COMMAND"] = command
    if app:
        from hpcc.runtime.apps import app_variables

        env |= app_variables(app)
    env["HPCC_CONTAINER"] = image_path
    override = {**dict(devices), "HOME": home}
    for prefix in _PREFIXES:
        override |= {
            key[len(prefix) :]: value for key, value in host.items() if key.startswith(prefix) and key != prefix
        }
    override |= dict(options)
    if not (config.scripts or app) or "PATH" in override:
        _extend_path(override, env["PATH"])
    if not config.scripts or "LD_LIBRARY_PATH" in override:
        _extend_libraries(override, env.get("LD_LIBRARY_PATH", ""))
    env |= {name: value for name, value in override.items() if name not in _EXTENSIONS}
    return tuple(sorted(env.items())), tuple(sorted(override.items()))


def is_of_job(name: str) -> bool:
    """Whether a variable tells a process its place in a Slurm, MPI, Dask or GPU job."""
    return name in _JOB or name.startswith(_JOB_PREFIXES)


def _extend_path(override: dict[str, str], path: str) -> None:
    """APPTAINERENV_PREPEND_PATH and _APPEND_PATH, which Apptainer's users know."""
    before, after = override.pop("PREPEND_PATH", ""), override.pop("APPEND_PATH", "")
    if before or after:
        path = override.get("PATH", path)
        override["PATH"] = ":".join(part for part in (before, path, after) if part)


def _extend_libraries(override: dict[str, str], path: str) -> None:
    """What is to be searched before the image's own libraries, and before those that a user names."""
    if before := override.pop(PREPEND_LIBRARIES, ""):
        path = override.get("LD_LIBRARY_PATH", path)
        override["LD_LIBRARY_PATH"] = f"{before}:{path}" if path else before


def _pairs(env: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for item in env:
        name, equals, value = item.partition("=")
        if name and equals:
            found.append((name, value))
    return found


def script(override: tuple[tuple[str, str], ...], *, scripts: bool = True, app: str = "") -> str:
    """A shell script that reads the image's own env scripts, and the app's, sets what wins over them, and becomes its
    arguments. scripts: the image's environment stands in them."""
    lines = ['for f in /.singularity.d/env/*.sh; do [ ! -f "$f" ] || . "$f"; done', "unset f"] if scripts else []
    if app:
        from hpcc.runtime.apps import app_script

        lines += app_script(app)
    lines += [
        f'case ":$LD_LIBRARY_PATH:" in *:{_LIBRARIES}:*) ;;',
        f'*) export LD_LIBRARY_PATH="${{LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}}{_LIBRARIES}" ;; esac',
    ]
    for name, value in override:
        if name in _EXTENSIONS:
            lines.append("export " + _EXTENSIONS[name].format(value.replace("'", "'\\''")))
        elif name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit():
            quoted = value.replace("'", "'\\''")
            lines.append(f"export {name}='{quoted}'")
    return "\n".join([*lines, 'exec "$@"'])
