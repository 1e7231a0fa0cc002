"""GPUs of this host in a container: what --nv, --rocm and --device add.

    --device V/C=N   what a CDI specification says (cdi.py); an error where there is none
    --nv             the CDI devices of nvidia.com/gpu; else what nvidia-container-cli lists; else what the loader's
                     cache has of NVIDIA's libraries
    --rocm           what the loader's cache has of ROCm's libraries
    each             its device nodes, which only a minimal /dev (--contain) lacks

Libraries are bound to /.singularity.d/libs, programs to /usr/bin, as under Apptainer; which ones is its nvliblist.conf
and rocmliblist.conf, as prefixes, so that a new driver's new libraries are among them. A host without a GPU is no
error: the same job script runs on a node that has none.
"""

from __future__ import annotations

import os

from hpcc.errors import HpccError, SettingsError, UsageError
from hpcc.records import TYPE_CHECKING, NamedTuple
from hpcc.runtime.binds import Bind
from hpcc.runtime.cdi import LIBRARIES, Edits, Spec, edits_as_binds, read_specs, resolve
from hpcc.runtime.host import find_program
from hpcc.runtime.libraries import choose, loader_cache, names_of
from hpcc.runtime.nodes import gpu_minors, gpu_number, keep_visible, nvidia_nodes, rocm_nodes, visible_devices
from hpcc.runtime.spec import Devices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from hpcc.settings import Settings

NVIDIA = "nvidia.com/gpu"
_SBIN = ("/usr/sbin", "/sbin")  # not on every user's PATH, but ldconfig is there


class Vendor(NamedTuple):
    """What a driver has on its host: how its libraries' names begin, programs, other files.

    The first library is the one without which there is no driver; those that begin as in `without` are others'.
    """

    libraries: tuple[str, ...]
    without: tuple[str, ...]
    programs: tuple[str, ...]
    files: tuple[str, ...]


_NV = Vendor(
    (
        "libcuda.so", "libcudadebugger.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libvdpau_nvidia.so",
        "libEGL_nvidia.so", "libGLESv1_CM_nvidia.so", "libGLESv2_nvidia.so", "libGLX_nvidia.so",
        "libEGL.so", "libGLESv1_CM.so", "libGLESv2.so", "libGL.so", "libGLX.so", "libGLdispatch.so", "libOpenGL.so",
        "libOpenCL.so",
    ),
    ("libnvidia-container",),
    ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"),
    (
        "/var/run/nvidia-persistenced/socket",
        "/etc/OpenCL/vendors/nvidia.icd",  # by these, loaders of OpenCL, EGL and Vulkan find the driver
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "/usr/share/vulkan/icd.d/nvidia_icd.json",
        "/etc/vulkan/icd.d/nvidia_icd.json",
    ),
)  # fmt: skip
_ROCM = Vendor(
    (
        "libhsa", "libamd_comgr", "libamdcomgr64", "libamdhip64", "libamdocl64", "libamd_smi", "libcomgr", "libhip",
        "librocblas", "librocfft", "librocrand", "librocsolver", "librocsparse", "librocm", "librocprofiler",
        "librocr_debug_agent64", "libroctx64", "libroctracer64", "librccl", "libMIOpen", "libmiopen",
        "libdrm.so", "libdrm_amdgpu.so", "libelf.so", "libnuma.so", "libpci.so", "libOpenCL.so",
    ),
    (),
    ("rocm-smi", "rocminfo", "amd-smi"),
    (),
)  # fmt: skip


class Found(NamedTuple):
    """What goes into the container, what the user should know, and what one who asks for more should."""

    devices: Devices = Devices()
    warnings: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def find_devices(settings: Settings, *, nv: bool, rocm: bool, wanted: Sequence[str], contained: bool) -> Found:
    """All that these options add. `contained`: /dev is not the host's, so that NVIDIA_VISIBLE_DEVICES can choose.

    UsageError for a device in `wanted` that no CDI specification has, or that needs what this host has not.
    """
    parts = [_by_name(settings, wanted, contained)] if wanted else []
    if nv:
        parts.append(_nvidia(settings, contained))
    if rocm:
        parts.append(_rocm(settings))
    return Found(
        Devices(
            tuple(dict.fromkeys(bind for part in parts for bind in part.devices.binds)),
            tuple(pair for part in parts for pair in part.devices.env),
        ),
        tuple(text for part in parts for text in part.warnings),
        tuple(text for part in parts for text in part.details),
    )


def survey(settings: Settings) -> dict[str, Any]:
    """For `hpcc doctor`: nodes, CDI devices by kind, CDI files that cannot be read, and what --nv would go by."""
    specs, wrong = read_specs(settings.cdi_dirs)
    kinds: dict[str, list[str]] = {}
    for spec in specs:
        kinds.setdefault(spec.kind, []).extend(name for name, _ in spec.devices if name not in kinds[spec.kind])
    way = "cdi" if _cdi(specs, ("all",), True).devices.binds else ""
    way = way or ("nvidia-container-cli" if _from_container_cli(settings) else "")
    way = way or ("ldcache" if from_loader_cache(settings, _NV) else "")
    nodes = [*nvidia_nodes(), *rocm_nodes()]
    return {"nv": way, "nodes": nodes, "cdi": kinds, "unreadable": [error.message for error in wrong]}


def _by_name(settings: Settings, wanted: Sequence[str], contained: bool) -> Found:
    specs, wrong = read_specs(settings.cdi_dirs)
    try:
        edits = resolve(specs, wanted)
    except UsageError as error:
        if wrong:
            raise SettingsError(f"{error.message}; {wrong[0].message}", hint=wrong[0].hint or error.hint) from None
        raise
    if obstacle := _obstacle(edits, contained):
        raise UsageError(
            f"--device {','.join(wanted)}: {obstacle}",
            hint="Its CDI specification may be of another driver: `nvidia-ctk cdi generate` writes NVIDIA's anew.",
        )
    return _as_found(edits, [error.message for error in wrong])


def _nvidia(settings: Settings, contained: bool) -> Found:
    visible = visible_devices(settings.environ.get("NVIDIA_VISIBLE_DEVICES")) if contained else None
    specs, wrong = read_specs(settings.cdi_dirs)
    found = _cdi(specs, ("all",) if visible is None else visible, contained)
    if found.devices.binds:
        return found._replace(details=("--nv goes by CDI", *found.details))
    details = (*found.details, *(error.message for error in wrong))
    nodes = nvidia_nodes()
    way, libraries = "nvidia-container-cli", _from_container_cli(settings)
    if not libraries:
        way, libraries = "the loader's cache", from_loader_cache(settings, _NV)
    warnings = list(found.warnings)
    if not libraries:
        way = "nothing"
        warnings.append(_nothing("nv"))
    elif not any(map(gpu_number, nodes)):
        warnings.append("the NVIDIA driver is installed on this host, but there is no GPU (/dev/nvidia0)")
    if visible is not None and nodes:  # a variable that has come along to a node without GPUs is no mistake
        nodes, unknown = keep_visible(nodes, visible, gpu_minors())
        warnings += [f"NVIDIA_VISIBLE_DEVICES names {name}, which this host does not have" for name in unknown]
    binds = (*(Bind(path, path, device=True) for path in nodes), *libraries)
    return Found(Devices(binds), tuple(warnings), (f"--nv goes by {way}", *details))


def _rocm(settings: Settings) -> Found:
    libraries, nodes = from_loader_cache(settings, _ROCM), rocm_nodes()
    warnings = [] if libraries else [_nothing("rocm")]
    if libraries and not nodes:
        warnings.append("ROCm is installed on this host, but there is no GPU (/dev/kfd)")
    return Found(Devices((*(Bind(path, path, device=True) for path in nodes), *libraries)), tuple(warnings))


def _cdi(specs: Sequence[Spec], names: Sequence[str], contained: bool) -> Found:
    """By NVIDIA's CDI specification; without binds where there is none that fits this host."""
    common = [spec.edits for spec in specs if spec.kind == NVIDIA]
    if not common:
        return Found()
    try:
        edits = resolve(specs, [f"{NVIDIA}={name}" for name in names]) if names else common[-1]
    except HpccError as error:
        return Found(warnings=(f"{error.message.removeprefix('--device ')}. {error.hint}",))
    if obstacle := _obstacle(edits, contained):
        text = f"the CDI specification of {NVIDIA} is passed over: {obstacle}. `nvidia-ctk cdi generate` writes it anew"
        return Found(warnings=(text,))
    return _as_found(edits)


def _as_found(edits: Edits, details: Iterable[str] = ()) -> Found:
    binds, left_out = edits_as_binds(edits, names_of(mount.source for mount in edits.mounts))
    return Found(Devices(binds, edits.env), (), (*details, *(f"CDI hook not run: {hook}" for hook in left_out)))


def _obstacle(edits: Edits, contained: bool) -> str:
    """Why the edits cannot be made on this host; "" where they can."""
    for bind in (*edits.nodes, *edits.mounts):
        if not os.path.exists(bind.source):
            return f"this host does not have {bind.source}"
    for node in edits.nodes:
        if os.path.isfile(node.source) or os.path.isdir(node.source):
            return f"{node.source} is not a device"
        if not contained and node.source != node.target and not os.path.exists(node.target):
            return f"this host's /dev, which is the container's but with --contain, does not have {node.target}"
    return ""


def _nothing(what: str) -> str:
    return f"Could not find any {what} files on this host!"  # in Apptainer's words, for those who look them up


# -- what the host has -------------------------------------------------------------------------------------------


def _from_container_cli(settings: Settings) -> tuple[Bind, ...]:
    program = find_program("nvidia-container-cli", settings)
    return listed_binds(_output(program, "list", "--libraries", "--binaries", "--ipcs").splitlines()) if program else ()


def from_loader_cache(settings: Settings, vendor: Vendor) -> tuple[Bind, ...]:
    """Binds for what the host has of a vendor; none where its driver is not installed."""
    program = find_program("ldconfig", settings, _SBIN)
    cache = loader_cache(_output(program, "-p")) if program else []
    libraries = choose(cache, vendor.libraries, vendor.without)
    if not any(name.startswith(vendor.libraries[0]) for name in libraries):
        return ()  # what is left are generic ones, such as libGL, which are of no use alone
    programs = [path for name in vendor.programs if (path := find_program(name, settings))]
    binds = [Bind(path, f"{LIBRARIES}/{name}", readonly=True) for name, path in sorted(libraries.items())]
    files = [Bind(path, path, readonly=True, optional=True) for path in vendor.files if os.path.exists(path)]
    return (*binds, *map(_program, programs), *files)


def _program(path: str) -> Bind:
    return Bind(path, f"/usr/bin/{os.path.basename(path)}", readonly=True)


def _output(*argv: str) -> str:
    """What a program prints; "" where it fails, or takes too long, as NVIDIA's do without a driver."""
    import subprocess

    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="surrogateescape")


def listed_binds(paths: Iterable[str]) -> tuple[Bind, ...]:
    """Binds for the paths that `nvidia-container-cli list` prints: libraries, programs, sockets."""
    there = [path for path in paths if path.startswith("/") and os.path.exists(path)]
    names = names_of(path for path in there if ".so" in os.path.basename(path))
    libraries = {name: path for path in names for name in names[path]}
    others = []
    for path in there:
        if ".so" in os.path.basename(path):
            continue
        if os.path.isfile(path) and os.access(path, os.X_OK):
            others.append(_program(path))
        else:
            others.append(Bind(path, path, optional=True))
    binds = [Bind(path, f"{LIBRARIES}/{name}", readonly=True) for name, path in sorted(libraries.items())]
    return (*binds, *others) if binds else ()
