"""hpcc as `pip install` leaves it: a wheel of this tree, not editable, in a virtual environment that all users can run.

/var/tmp/hpcc-test-<hash>/          one for each state of the tree, made once, used again
    venv/                           bin/hpcc, bin/hpcc-full, bin/run-singularity, lib/…
    complete                        last of all, so that a directory without it is somebody's half work
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_WHERE = Path(os.environ.get("HPCC_TEST_DIR", "/var/tmp"))
_KEPT_FOR = 6 * 3600  # seconds after the last use


class Installation:
    """An installed hpcc: `.bin` is its directory of programs, `.hpcc` the command, `.python` the interpreter."""

    def __init__(self, venv: Path) -> None:
        self.venv, self.bin = venv, venv / "bin"
        self.hpcc, self.python = self.bin / "hpcc", self.bin / "python"


def install(extras: tuple[str, ...] = (), packages: tuple[str, ...] = ()) -> Installation:
    """Build a wheel of the tree and install it, with the versions of constraints.txt; the one that is there, if any.
    `packages`: others beside it.

    Concurrent calls wait for each other. RuntimeError with pip's words where pip fails.
    """
    home = _WHERE / f"hpcc-test-{os.geteuid()}-{_tree_hash(extras, packages)}"
    with open(_WHERE / f"hpcc-test-{os.geteuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _build(home, extras, packages)
        os.utime(home)
        _remove_old(home)
    return Installation(home / "venv")


def _tree_hash(extras: tuple[str, ...], packages: tuple[str, ...]) -> str:
    seen = hashlib.sha256(repr((extras, packages, sys.version, sys.base_prefix)).encode())
    for path in _sources():
        data = path.read_bytes()
        seen.update(f"{path.relative_to(ROOT)} {path.stat().st_mode & 0o111} {len(data)}\n".encode())
        seen.update(data)
    return seen.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield from (ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / "README.md")
    for name in ("bin", "hpcc", "integrations"):
        yield from sorted(p for p in (ROOT / name).rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _build(home: Path, extras: tuple[str, ...], packages: tuple[str, ...]) -> None:
    venv, wheels = home / "venv", home / "wheels"
    constraints = ROOT / "constraints.txt"
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    _call(python, "-I", "-m", "venv", "--without-pip", str(venv))
    pip = (sys.executable, "-I", "-m", "pip", "--disable-pip-version-check")
    pins = ("-c", str(constraints), "--build-constraint", str(constraints))
    _call(*pip, "wheel", "--quiet", "--no-deps", *pins, "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("hpcc-*.whl")
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    _call(*pip, "--python", str(venv / "bin/python"), "install", "--quiet", *pins, wanted, *packages)
    shutil.rmtree(wheels)
    (home / "complete").touch()


def _call(*argv: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
    umask = os.umask(0o022)
    try:
        done = subprocess.run(argv, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    finally:
        os.umask(umask)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _remove_old(used: Path) -> None:
    for path in _WHERE.glob(f"hpcc-test-{os.geteuid()}-*"):
        try:
            if path != used and path.stat().st_mtime < time.time() - _KEPT_FOR:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            pass
