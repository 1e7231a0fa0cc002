"""An image with an MPI program, from this machine's own MPICH: what workflows/slurm/mpi/Dockerfile makes, offline.

bash and coreutils of the demo's base layer
/usr/local/bin/ring, the shared libraries that it needs, and those that they open by name
"""

import re
import subprocess
from pathlib import Path

from tests.support.images import IMAGE_PATH, Member, _directory, _file, layer
from tests.support.real import need

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "workflows/slurm/mpi/ring.c"


CONFIG = {"architecture": "amd64", "os": "linux", "config": {"Env": [f"PATH={IMAGE_PATH}"]}}


def ring_layers(directory: Path) -> list[bytes]:
    """The layers of the image; the program itself stands in the directory, for the host."""
    from hpcc.cli.demo_image import build_demo_layers

    compiler = need("mpicc.mpich")
    program = directory / "ring"
    subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True, timeout=60)
    program.chmod(0o755)
    members: dict[str, Member] = {}
    wanted = [program, *(path for path in _plugins() if path.is_file())]
    for path in sorted({library for file in wanted for library in _libraries(file)} | set(wanted[1:])):
        _add(members, str(path), path.read_bytes())
    _add(members, "/usr/local/bin/ring", program.read_bytes())
    return [build_demo_layers().layers[0], layer(members)]


def _add(members: dict[str, Member], path: str, data: bytes) -> None:
    parts = path.strip("/").split("/")
    for at in range(1, len(parts)):
        members.setdefault("/".join(parts[:at]), _directory())
    members["/".join(parts)] = _file(data, 0o755)


def _libraries(file: Path) -> set[Path]:
    said = subprocess.run(["ldd", file], capture_output=True, text=True, timeout=60).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", said)}


def _plugins() -> list[Path]:
    machine = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, timeout=60).stdout.strip()
    top = Path("/usr/lib") / machine / "ucx"
    return sorted(path for path in top.glob("*.so*") if path.is_file()) if top.is_dir() else []
